//! Label, annotation and field manager names.
//!
//! Selector labels are minimal and never carry a version: they can never change once an object
//! exists.

use std::collections::BTreeMap;

/// Name of the cluster an object belongs to.
pub const LABEL_CLUSTER: &str = "crdb.dev/cluster";
/// Pool of a slot.
pub const LABEL_POOL: &str = "crdb.dev/pool";
/// Number of a slot within its pool.
pub const LABEL_SLOT: &str = "crdb.dev/slot";
/// Set to `true`, it lifts the deletion protection of the object.
pub const LABEL_RELEASE: &str = "crdb.dev/release";

/// Standard label: name of the application.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// Standard label: instance of the application, the cluster's name.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// Standard label: part of the application.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Standard label: what manages the object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Standard label: the larger application.
pub const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";

/// Value of [`LABEL_NAME`] on objects of a cluster.
pub const APP_NAME: &str = "crdb";
/// Value of [`LABEL_COMPONENT`] on a database node's objects.
pub const COMPONENT_NODE: &str = "node";
/// Value of [`LABEL_COMPONENT`] on objects that concern the whole cluster.
pub const COMPONENT_CLUSTER: &str = "cluster";
/// Value of [`LABEL_MANAGED_BY`], and the field manager of everything but status.
pub const MANAGER: &str = "crdb-operator";
/// Field manager of the status.
pub const STATUS_MANAGER: &str = "crdb-operator/status";
/// Field manager of the kubectl plugin.
pub const PLUGIN_MANAGER: &str = "kubectl-crdb";

/// Hash of the user-visible inputs of a slot's pod.
pub const ANNOTATION_REVISION: &str = "crdb.dev/revision";
/// Cluster id of the store on a volume.
pub const ANNOTATION_CLUSTER_ID: &str = "crdb.dev/cluster-id";
/// Node id of the store on a volume.
pub const ANNOTATION_NODE_ID: &str = "crdb.dev/node-id";
/// UUID of the store on a volume.
pub const ANNOTATION_STORE_UUID: &str = "crdb.dev/store-uuid";
/// Membership of the node whose store is on a volume.
pub const ANNOTATION_MEMBERSHIP: &str = "crdb.dev/membership";

/// Prefix of every key of ours, reserved in what users add.
pub const RESERVED_PREFIX: &str = "crdb.dev/";

/// Labels that select every object of a cluster.
pub fn cluster_selector(cluster: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_NAME.to_owned(), APP_NAME.to_owned()),
        (LABEL_CLUSTER.to_owned(), cluster.to_owned()),
    ])
}

/// Labels that select the pods of a cluster's nodes.
pub fn node_selector(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = cluster_selector(cluster);
    labels.insert(LABEL_COMPONENT.to_owned(), COMPONENT_NODE.to_owned());
    labels
}

/// Labels that an object of the whole cluster carries.
pub fn cluster_labels(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = cluster_selector(cluster);
    labels.insert(LABEL_COMPONENT.to_owned(), COMPONENT_CLUSTER.to_owned());
    labels.insert(LABEL_INSTANCE.to_owned(), cluster.to_owned());
    labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.insert(LABEL_PART_OF.to_owned(), APP_NAME.to_owned());
    labels
}

/// Labels that the objects of one slot carry.
pub fn slot_labels(cluster: &str, pool: &str, slot: u32) -> BTreeMap<String, String> {
    let mut labels = cluster_labels(cluster);
    labels.insert(LABEL_COMPONENT.to_owned(), COMPONENT_NODE.to_owned());
    labels.insert(LABEL_POOL.to_owned(), pool.to_owned());
    labels.insert(LABEL_SLOT.to_owned(), slot.to_string());
    labels
}

/// Label selector, in the text form of list calls, of what the operator made for any cluster.
pub fn managed_selector() -> String {
    format!("{LABEL_MANAGED_BY}={MANAGER},{LABEL_CLUSTER}")
}
