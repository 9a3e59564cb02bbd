//! The Kubernetes API of the database: custom resources, conditions, label keys and object names.
//!
//! What it is not: a client. It has no I/O, so that the operator, the kubectl plugin and the tests
//! share one definition of what a cluster is called and how it reports its state.
//!
//! Flow: the types in [`v1alpha1`] generate `crds/*.yaml` (a test compares them), the API server
//! stores objects of these types, the operator reads `spec` and writes `status`.
//!
//! Invariants:
//! 1. one served version; a field is only added, optional and with a default, never renamed;
//! 2. every list, map and string that a CEL rule reads is bounded, so that the API server can
//!    bound the cost of the rule;
//! 3. every rule that the schema states of one state of an object is checked again by the operator,
//!    because an object may be older than a rule.

pub mod conditions;
pub mod keys;
pub mod names;
pub mod v1alpha1;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;

pub use v1alpha1::{CrdbCluster, CrdbClusterSpec, CrdbClusterStatus};

/// API group of every custom resource of this product.
pub const GROUP: &str = "crdb.dev";

/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";

/// Every custom resource definition with the name of its file under `crds/`.
pub fn all_crds() -> Vec<(String, CustomResourceDefinition)> {
    let mut crd = CrdbCluster::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            flow(schema);
        }
    }
    vec![(format!("{}.yaml", crd.spec.names.plural), crd)]
}

/// Joins the lines of a description's paragraphs: `kubectl explain` breaks lines by itself, and
/// keeps those of the comments in the source as well.
fn flow(schema: &mut JSONSchemaProps) {
    if let Some(text) = &mut schema.description {
        let paragraphs = text.split("\n\n");
        let paragraphs = paragraphs.map(|text| text.lines().collect::<Vec<_>>().join(" "));
        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(flow);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => flow(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(flow),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        flow(values);
    }
}
