//! Asks database nodes through their admin API.
//!
//! Every call is bounded in time and opens its own connection: passes are seconds apart, and a
//! restarted node has a new address. Nodes are called at the address of their pod, not by name:
//! names are cached for longer than a pod takes to restart. Addresses are used again, so whoever
//! answers must say that it is the node that was meant.

use std::time::Duration;

use crdb_api::names::{RPC_PORT, SlotName};
use crdb_api::v1alpha1::{Liveness, Membership};
use crdb_proto::admin::admin_client::AdminClient;
use crdb_proto::admin::{self, ClusterStatusRequest, ClusterStatusResponse, InitRequest};
use tonic::transport::{Channel, Endpoint};

use crate::cluster::observed::{Answer, ClusterView, MemberView, RangeCounts};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a question may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the first initialization may take; it writes and syncs a store.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where nodes are found unless the command line says otherwise.
pub(crate) fn default_address_template() -> String {
    format!("{{podIP}}:{RPC_PORT}")
}

/// The node in a slot: where it is called, and the address by which it knows itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    address: String,
    advertised: String,
}

/// A client of every node's admin API.
#[derive(Clone, Debug)]
pub(crate) struct NodeAdmin {
    /// Address of a node; `{pod}`, `{cluster}`, `{namespace}` and `{podIP}` are replaced.
    template: String,
}

/// A call that came to nothing.
#[derive(Debug, thiserror::Error)]
#[error("{call} of {address}: {message}")]
pub(crate) struct CallError {
    call: &'static str,
    address: String,
    message: String,
}

impl NodeAdmin {
    pub(crate) fn new(template: String) -> NodeAdmin {
        NodeAdmin { template }
    }

    /// The node in a slot.
    pub(crate) fn target(&self, namespace: &str, slot: &SlotName, ip: &str) -> Target {
        let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let address = self
            .template
            .replace("{podIP}", &ip)
            .replace("{pod}", &slot.pod())
            .replace("{cluster}", &slot.cluster)
            .replace("{namespace}", namespace);
        Target { address, advertised: format!("{}:{RPC_PORT}", slot.host(namespace)) }
    }

    async fn connect(
        call: &'static str,
        address: &str,
        limit: Duration,
    ) -> Result<AdminClient<Channel>, CallError> {
        let failed = |error: &dyn std::error::Error| CallError {
            call,
            address: address.to_owned(),
            message: chain(error),
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| failed(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(limit);
        let connected = tokio::time::timeout(limit, endpoint.connect()).await;
        match connected {
            Ok(channel) => Ok(AdminClient::new(channel.map_err(|error| failed(&error))?)),
            Err(late) => Err(failed(&late)),
        }
    }

    /// Asks a node what it is and how it sees the cluster.
    pub(crate) async fn ask(&self, target: &Target) -> Answer {
        let answer = async {
            let mut client = NodeAdmin::connect(ASK, &target.address, ASK_TIMEOUT).await?;
            status(&mut client, target).await
        };
        match answer.await {
            Ok(response) => interpret(response),
            Err(error) => {
                tracing::debug!(%error, "a node does not answer");
                Answer::Unreachable(error.to_string())
            }
        }
    }

    /// Initializes the cluster on a node, if it still has the store that was chosen. The same id
    /// again succeeds.
    pub(crate) async fn init(
        &self,
        target: &Target,
        store_uuid: &str,
        cluster_id: &str,
    ) -> Result<(), CallError> {
        let call = "Init";
        let address = &target.address;
        let mut client = NodeAdmin::connect(call, address, INIT_TIMEOUT).await?;
        let found = status(&mut client, target).await?.answered_by_store_uuid;
        if found != store_uuid {
            let message = format!("the node has store {found}, not {store_uuid}, which was chosen");
            return Err(CallError { call, address: address.clone(), message });
        }
        let asked = client.init(InitRequest { cluster_id: cluster_id.to_owned() });
        match tokio::time::timeout(INIT_TIMEOUT, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(refused(call, address, &status)),
            Err(late) => {
                Err(CallError { call, address: address.clone(), message: late.to_string() })
            }
        }
    }
}

/// The name of the question that every pass asks.
const ASK: &str = "ClusterStatus";

/// Asks over an open connection, and checks who answers.
async fn status(
    client: &mut AdminClient<Channel>,
    target: &Target,
) -> Result<ClusterStatusResponse, CallError> {
    let address = &target.address;
    let asked = client.cluster_status(ClusterStatusRequest {});
    match tokio::time::timeout(ASK_TIMEOUT, asked).await {
        Ok(Ok(response)) => meant(response.into_inner(), target),
        Ok(Err(status)) => Err(refused(ASK, address, &status)),
        Err(late) => {
            Err(CallError { call: ASK, address: address.clone(), message: late.to_string() })
        }
    }
}

/// The answer, if it comes from the node that was meant.
fn meant(
    response: ClusterStatusResponse,
    target: &Target,
) -> Result<ClusterStatusResponse, CallError> {
    if response.answered_by_address == target.advertised {
        return Ok(response);
    }
    let message =
        format!("{} answers in place of {}", response.answered_by_address, target.advertised);
    Err(CallError { call: ASK, address: target.address.clone(), message })
}

fn refused(call: &'static str, address: &str, status: &tonic::Status) -> CallError {
    let message = format!("{:?}: {}", status.code(), status.message());
    CallError { call, address: address.to_owned(), message }
}

/// An error with its causes, which hold the useful part.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn interpret(response: ClusterStatusResponse) -> Answer {
    if !response.initialized {
        return Answer::Uninitialized { store_uuid: response.answered_by_store_uuid };
    }
    let ranges = response.ranges.map(|ranges| RangeCounts {
        total: ranges.total,
        unavailable: ranges.unavailable,
        under_replicated: ranges.under_replicated,
        constraint_violations: ranges.constraint_violations,
    });
    Answer::Member {
        node_id: response.answered_by,
        store_uuid: response.answered_by_store_uuid,
        view: Box::new(ClusterView {
            cluster_id: response.cluster_id,
            active_version: response.active_version,
            nodes: response.nodes.into_iter().filter_map(member).collect(),
            ranges,
        }),
    }
}

fn member(node: admin::NodeStatus) -> Option<MemberView> {
    let (liveness, membership) = (node.liveness(), node.membership());
    let descriptor = node.descriptor?;
    Some(MemberView {
        node_id: descriptor.node_id,
        address: descriptor.address,
        store_uuid: descriptor.store_uuid,
        version: descriptor.build_tag,
        liveness: match liveness {
            admin::Liveness::Live => Liveness::Live,
            admin::Liveness::Suspect => Liveness::Suspect,
            admin::Liveness::Dead => Liveness::Dead,
            admin::Liveness::Unknown => Liveness::Unknown,
        },
        membership: match membership {
            admin::Membership::Active => Membership::Active,
            admin::Membership::Decommissioning => Membership::Decommissioning,
            admin::Membership::Decommissioned => Membership::Decommissioned,
        },
        draining: node.draining,
        replicas: node.replicas,
        leases: node.leases,
        used_bytes: node.used_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_template() {
        let slot = SlotName::new("prod", "a", 3);
        let called = |template: &str, ip: &str| {
            NodeAdmin::new(template.to_owned()).target("db", &slot, ip).address
        };
        let default = default_address_template();
        assert_eq!(called(&default, "10.0.0.1"), "10.0.0.1:26258");
        assert_eq!(called(&default, "fd00::1"), "[fd00::1]:26258");
        let by_name = "{pod}.{cluster}-peers.{namespace}.svc:4000";
        assert_eq!(called(by_name, "10.0.0.1"), slot.host("db") + ":4000");
    }

    #[test]
    fn an_answer_of_another_node_is_none() {
        let admin = NodeAdmin::new(default_address_template());
        let target = admin.target("db", &SlotName::new("prod", "a", 3), "10.0.0.1");
        let from = |address: &str| ClusterStatusResponse {
            answered_by_address: address.to_owned(),
            ..ClusterStatusResponse::default()
        };
        assert!(meant(from("prod-a-3-0.prod-peers.db.svc:26258"), &target).is_ok());
        let error = meant(from("prod-a-1-0.prod-peers.db.svc:26258"), &target).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ClusterStatus of 10.0.0.1:26258: prod-a-1-0.prod-peers.db.svc:26258 answers in place \
             of prod-a-3-0.prod-peers.db.svc:26258"
        );
        assert!(meant(from(""), &target).is_err());
    }
}
