//! Finds the cluster a command is about.

use crdb_api::CrdbCluster;
use kube::api::ListParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config, ResourceExt as _};

use crate::cli::Common;
use crate::failure::{Failure, causes};

/// A cluster and the way to it.
pub(crate) struct Found {
    /// Client of the Kubernetes cluster.
    pub(crate) client: Client,
    /// Clusters of the namespace.
    pub(crate) api: Api<CrdbCluster>,
    /// Namespace of the cluster.
    pub(crate) namespace: String,
    /// The cluster as it was when it was found.
    pub(crate) cluster: CrdbCluster,
}

/// A client and the namespace to look in.
pub(crate) async fn connect(common: &Common) -> Result<(Client, String), Failure> {
    let config = match &common.context {
        None => Config::infer().await.map_err(|error| causes(&error)),
        Some(context) => {
            let options = KubeConfigOptions {
                context: Some(context.clone()),
                ..KubeConfigOptions::default()
            };
            Config::from_kubeconfig(&options).await.map_err(|error| causes(&error))
        }
    };
    let config = config.map_err(|cause| {
        Failure::new(format!("cannot find a Kubernetes cluster: {cause}"))
            .hint("KUBECONFIG or ~/.kube/config and --context say which one to use")
    })?;
    let namespace = common.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config)
        .map_err(|error| Failure::request("connect to the API server", &error))?;
    Ok((client, namespace))
}

/// Finds the named cluster, or the only one.
pub(crate) async fn find(common: &Common, name: Option<&str>) -> Result<Found, Failure> {
    let (client, namespace) = connect(common).await?;
    let api: Api<CrdbCluster> = Api::namespaced(client.clone(), &namespace);
    let cluster = find_in(&api, name.or(common.cluster.as_deref()), &namespace).await?;
    Ok(Found { client, api, namespace, cluster })
}

async fn find_in(
    api: &Api<CrdbCluster>,
    named: Option<&str>,
    namespace: &str,
) -> Result<CrdbCluster, Failure> {
    let list = match named {
        Some(name) => match api.get(name).await {
            Ok(cluster) => Ok(vec![cluster]),
            Err(kube::Error::Api(status)) if status.reason == "NotFound" => Ok(Vec::new()),
            Err(error) => Err(error),
        },
        None => api.list(&ListParams::default()).await.map(|list| list.items),
    };
    match list {
        Ok(list) => choose(list, named, namespace),
        // The answer to a path that nothing serves is no typed status: only its code tells.
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Err(Failure::new("this Kubernetes cluster does not know CrdbCluster")
                .hint("install the chart crdb-operator-crds first"))
        }
        Err(error) => Err(Failure::request("read the clusters", &error)),
    }
}

fn choose(
    mut list: Vec<CrdbCluster>,
    named: Option<&str>,
    namespace: &str,
) -> Result<CrdbCluster, Failure> {
    match (list.len(), named) {
        (0, Some(name)) => {
            Err(Failure::new(format!("no CrdbCluster {name:?} in namespace {namespace:?}"))
                .hint("'kubectl get crdbclusters --all-namespaces' lists them"))
        }
        (0, None) => Err(Failure::new(format!("no CrdbCluster in namespace {namespace:?}")).hint(
            "-n names another namespace; 'kubectl get crdbclusters --all-namespaces' lists them",
        )),
        (1, _) => Ok(list.remove(0)),
        _ => {
            let names: Vec<String> = list.iter().map(kube::ResourceExt::name_any).collect();
            Err(Failure::usage(format!(
                "namespace {namespace:?} holds several clusters: {}",
                names.join(", ")
            ))
            .hint("-c names one"))
        }
    }
}

/// `crdbcluster.crdb.dev/NAME`, as kubectl names objects.
pub(crate) fn object_name(cluster: &CrdbCluster) -> String {
    format!("crdbcluster.{}/{}", crdb_api::GROUP, cluster.name_any())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A cluster as the API server gives it, from YAML.
    pub(crate) fn from_yaml(text: &str) -> CrdbCluster {
        serde_yaml::from_str(text).unwrap()
    }

    pub(crate) fn named(name: &str) -> CrdbCluster {
        from_yaml(&format!(
            "apiVersion: crdb.dev/v1alpha1\nkind: CrdbCluster\n\
             metadata: {{name: {name}, namespace: db}}\n\
             spec: {{version: v0.1.0, tls: {{mode: Disabled}}, pools: [{{name: a, nodes: 3}}]}}\n"
        ))
    }

    /// An API server that answers everything alike.
    fn answering(code: u16, body: &'static str) -> Api<CrdbCluster> {
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| async move {
            let body = kube::client::Body::from(body.as_bytes().to_vec());
            let response = http::Response::builder().status(code).body(body);
            response.map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        });
        Api::namespaced(Client::new(service, "db"), "db")
    }

    #[tokio::test]
    async fn a_missing_definition_is_told_from_a_missing_cluster() {
        let unknown = answering(404, "404 page not found\n");
        for named in [Some("prod"), None] {
            let failure = find_in(&unknown, named, "db").await.unwrap_err();
            assert!(failure.to_string().contains("does not know CrdbCluster"), "{failure}");
        }
        let absent = answering(
            404,
            r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "crdbclusters.crdb.dev \"prod\" not found", "reason": "NotFound",
                "details": {"name": "prod", "group": "crdb.dev", "kind": "crdbclusters"},
                "code": 404}"#,
        );
        let failure = find_in(&absent, Some("prod"), "db").await.unwrap_err();
        assert!(failure.to_string().contains("no CrdbCluster \"prod\""), "{failure}");
    }

    #[test]
    fn the_only_cluster_need_not_be_named() {
        assert_eq!(choose(vec![named("prod")], None, "db").unwrap().name_any(), "prod");
        let failure = choose(vec![named("prod"), named("test")], None, "db").unwrap_err();
        assert!(failure.to_string().contains("prod, test"), "{failure}");
        let failure = choose(vec![], Some("x"), "db").unwrap_err();
        assert!(failure.to_string().contains("no CrdbCluster \"x\" in namespace \"db\""));
        assert!(choose(vec![], None, "db").is_err());
    }

    #[test]
    fn an_object_is_named_as_kubectl_names_it() {
        assert_eq!(object_name(&named("prod")), "crdbcluster.crdb.dev/prod");
    }
}
