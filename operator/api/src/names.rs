//! Names of the objects and addresses that belong to a cluster.
//!
//! Two clusters can ask for the same name (`prod` with pool `east-a` and `prod-east` with pool
//! `a`); nothing here prevents it, the operator refuses to touch an object it does not own.

use std::fmt;

/// Port of RPC and of the admin API; never behind the SQL Service.
pub const RPC_PORT: u16 = 26258;
/// Port of SQL in the pods.
pub const SQL_PORT: u16 = 26257;
/// Port of health, metrics and console.
pub const HTTP_PORT: u16 = 8080;

/// Name of the headless Service whose DNS names the nodes advertise.
pub fn peers_service(cluster: &str) -> String {
    format!("{cluster}-peers")
}

/// Name of the Service for SQL clients.
pub fn sql_service(cluster: &str) -> String {
    format!("{cluster}-sql")
}

/// Name of the Service for HTTP.
pub fn http_service(cluster: &str) -> String {
    format!("{cluster}-http")
}

/// Name of the objects of which a cluster has one of a kind: ServiceAccount, PodDisruptionBudget,
/// NetworkPolicy.
pub fn cluster_object(cluster: &str) -> String {
    format!("{cluster}-crdb")
}

/// One place for a node: a StatefulSet of one replica. Numbers rise within a pool and are never
/// given out twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the pool.
    pub pool: String,
    /// Number within the pool, from 1.
    pub number: u32,
}

impl SlotName {
    /// Names one slot.
    pub fn new(cluster: &str, pool: &str, number: u32) -> SlotName {
        SlotName { cluster: cluster.to_owned(), pool: pool.to_owned(), number }
    }

    /// Name of the slot's StatefulSet.
    pub fn stateful_set(&self) -> String {
        self.to_string()
    }

    /// Name of the slot's only pod.
    pub fn pod(&self) -> String {
        format!("{self}-0")
    }

    /// Name of the slot's volume claim.
    pub fn volume_claim(&self) -> String {
        format!("data-{self}-0")
    }

    /// DNS name of the slot's pod within the Kubernetes cluster.
    pub fn host(&self, namespace: &str) -> String {
        format!("{}.{}.{namespace}.svc", self.pod(), peers_service(&self.cluster))
    }

    /// Reads a slot out of an advertised address of this cluster, for example
    /// `prod-east-a-2-0.prod-peers.db.svc:26258`. `None` for a name of another form.
    pub fn from_address(cluster: &str, pools: &[&str], address: &str) -> Option<SlotName> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let (pod, rest) = host.split_once('.')?;
        let service = rest.split('.').next()?;
        if service != peers_service(cluster) {
            return None;
        }
        let slot = pod.strip_suffix("-0")?.strip_prefix(cluster)?.strip_prefix('-')?;
        let (pool, number) = slot.rsplit_once('-')?;
        let number = number.parse().ok()?;
        pools.contains(&pool).then(|| SlotName::new(cluster, pool, number))
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.cluster, self.pool, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_allowed_names_fit_a_stateful_set() {
        let slot = SlotName::new(&"c".repeat(24), &"p".repeat(20), 99_999);
        assert!(slot.stateful_set().len() <= 52, "{}", slot.stateful_set().len());
        assert!(slot.volume_claim().len() <= 63);
    }

    #[test]
    fn an_advertised_address_names_its_slot() {
        let slot = SlotName::new("prod", "east-a", 2);
        let address = format!("{}:{RPC_PORT}", slot.host("db"));
        assert_eq!(address, "prod-east-a-2-0.prod-peers.db.svc:26258");
        assert_eq!(SlotName::from_address("prod", &["east-a"], &address), Some(slot));
        assert_eq!(SlotName::from_address("prod-east", &["a"], &address), None);
        assert_eq!(SlotName::from_address("prod", &["west"], &address), None);
        assert_eq!(SlotName::from_address("prod", &["east-a"], "10.0.0.1:26258"), None);
    }
}
