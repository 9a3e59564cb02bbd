//! `kubectl crdb version`: which versions are at work.

use std::collections::BTreeMap;

use crdb_api::CrdbCluster;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use crate::cli::{Common, VersionArgs};
use crate::cluster;
use crate::failure::{Failure, told};

/// Label selector of the operator's Deployment, as its chart writes it.
const OPERATOR: &str = "app.kubernetes.io/name=crdb-operator";

/// The text of `version`.
pub(crate) async fn text(common: &Common, args: &VersionArgs) -> Result<String, Failure> {
    let mut text = format!("Plugin:    v{}\n", env!("CARGO_PKG_VERSION"));
    if args.client {
        return Ok(text);
    }
    let (client, namespace) = cluster::connect(common).await?;
    let params = ListParams::default().labels(OPERATOR);
    let operator = Api::<Deployment>::all(client.clone()).list(&params).await;
    text.push_str(&match operator {
        Ok(list) => operators(&list.items),
        Err(error) => format!("Operator:  unknown: {}\n", told(&error)),
    });
    let clusters = Api::<CrdbCluster>::namespaced(client, &namespace);
    text.push_str(&match clusters.list(&ListParams::default()).await {
        Ok(list) => versions(&list.items),
        Err(error) => format!("Clusters:  unknown: {}\n", told(&error)),
    });
    Ok(text)
}

fn operators(deployments: &[Deployment]) -> String {
    if deployments.is_empty() {
        return "Operator:  not installed\n".to_owned();
    }
    let line = |deployment: &Deployment| {
        let pod = deployment.spec.template.spec.as_ref();
        let image = pod.and_then(|pod| pod.containers.first()?.image.clone());
        let image = image.unwrap_or_else(|| "unknown image".to_owned());
        let namespace = deployment.namespace().unwrap_or_default();
        format!("Operator:  {image} ({namespace}/{})\n", deployment.name_any())
    };
    deployments.iter().map(line).collect()
}

fn versions(clusters: &[CrdbCluster]) -> String {
    let sorted: BTreeMap<String, &CrdbCluster> =
        clusters.iter().map(|cluster| (cluster.name_any(), cluster)).collect();
    let line = |(name, cluster): (String, &CrdbCluster)| {
        let version = cluster.status.as_ref().and_then(|status| status.version.clone());
        let running = version.and_then(|version| version.running);
        let running = running.unwrap_or_else(|| "unknown".to_owned());
        format!("Cluster:   {running} ({name}, wanted {})\n", cluster.spec.version)
    };
    sorted.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::{from_yaml, named};

    #[test]
    fn every_cluster_and_operator_has_a_line() {
        let clusters = [named("test"), from_yaml(crate::status::tests::HEALTHY)];
        assert_eq!(
            versions(&clusters),
            "Cluster:   v0.1.0 (prod, wanted v0.1.0)\nCluster:   unknown (test, wanted v0.1.0)\n"
        );
        let deployment: Deployment = serde_yaml::from_str(
            "{metadata: {name: o, namespace: s}, spec: {selector: {}, template: {spec: {containers: [{name: o, image: 'op:v1'}]}}}}",
        )
        .unwrap();
        assert_eq!(operators(&[deployment]), "Operator:  op:v1 (s/o)\n");
        assert_eq!(operators(&[]), "Operator:  not installed\n");
    }
}
