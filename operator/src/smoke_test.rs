//! Proves on a live Kubernetes that the operator works: makes a one-node cluster, runs SQL on it,
//! removes it, and checks that nothing is left. A run that fails or is told to stop removes its
//! cluster too; a cluster that a killed run left is removed by the next one.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use crdb_api::v1alpha1::CrdbCluster;
use crdb_api::{conditions, keys, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_postgres::NoTls;

use crate::args::SmokeTestOptions;

const POLL: Duration = Duration::from_secs(1);

/// Runs the test; the cluster is removed in any case.
pub(crate) async fn run(options: SmokeTestOptions) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let client = Client::try_default().await.context("no access to the Kubernetes API")?;
    let test = SmokeTest { client, options };
    test.remove().await.context("removing what an earlier run left")?;
    let result = tokio::select! {
        result = test.make_and_use() => result,
        _ = terminate.recv() => Err(anyhow::anyhow!("stopped by SIGTERM")),
        _ = interrupt.recv() => Err(anyhow::anyhow!("stopped by SIGINT")),
    };
    let removed = test.remove().await.context("removing the cluster of the test");
    result?;
    removed?;
    tracing::info!("passed: made a cluster, wrote and read a row, removed it, nothing is left");
    Ok(())
}

struct SmokeTest {
    client: Client,
    options: SmokeTestOptions,
}

impl SmokeTest {
    fn clusters(&self) -> Api<CrdbCluster> {
        Api::namespaced(self.client.clone(), &self.options.namespace)
    }

    async fn make_and_use(&self) -> anyhow::Result<()> {
        let options = &self.options;
        let cluster: CrdbCluster = serde_json::from_value(json!({
            "apiVersion": format!("{}/{}", crdb_api::GROUP, crdb_api::VERSION),
            "kind": "CrdbCluster",
            "metadata": {"name": options.name},
            "spec": {
                "version": options.node_version,
                "image": {
                    "repository": options.node_repository,
                    "pullPolicy": options.node_pull_policy,
                    "pullSecrets": options.node_pull_secrets,
                },
                "profile": "Dev",
                "tls": {"mode": "Disabled"},
                "deletionProtection": false,
                "nodeDefaults": {"storage": {"ephemeral": true}},
                "pools": [{"name": "test", "nodes": 1}],
            },
        }))?;
        self.clusters().create(&PostParams::default(), &cluster).await?;
        tracing::info!(name = options.name, "made a cluster, waiting until it is Available");
        self.wait_until_available().await?;
        let limit = options.timeout;
        tokio::time::timeout(limit, self.use_sql())
            .await
            .with_context(|| format!("SQL did not work within {limit:?}"))?
    }

    async fn wait_until_available(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let cluster = self.clusters().get(&self.options.name).await?;
            let list = cluster.status.map(|status| status.conditions).unwrap_or_default();
            if conditions::is_true(&list, conditions::AVAILABLE) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let told: Vec<String> = list
                    .iter()
                    .map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message))
                    .collect();
                bail!("not Available within {:?}: {}", self.options.timeout, told.join("; "));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Writes a row through the Service and reads it back.
    async fn use_sql(&self) -> anyhow::Result<()> {
        let (name, namespace) = (&self.options.name, &self.options.namespace);
        let host = format!("{}.{namespace}.svc", names::sql_service(name));
        let config = format!(
            "host={host} port={} user=root dbname=defaultdb connect_timeout=10",
            names::SQL_PORT
        );
        // The endpoint of the Service can lag behind the readiness of the pod.
        let deadline = Instant::now() + self.options.timeout;
        let (sql, connection) = loop {
            match tokio_postgres::connect(&config, NoTls).await {
                Ok(connected) => break connected,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("connecting to {host}"));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        };
        let work = async {
            sql.batch_execute("CREATE TABLE smoke (id INT PRIMARY KEY, word TEXT)").await?;
            sql.batch_execute("INSERT INTO smoke VALUES (1, 'works')").await?;
            let rows = sql.simple_query("SELECT word FROM smoke WHERE id = 1").await?;
            let words: Vec<String> = rows
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .collect();
            ensure!(words == ["works"], "read {words:?} instead of the row written");
            drop(sql);
            Ok(())
        };
        let (worked, ended) = tokio::join!(work, connection);
        worked?;
        Ok(ended?)
    }

    /// Deletes the cluster and waits until everything of it is gone.
    async fn remove(&self) -> anyhow::Result<()> {
        let name = &self.options.name;
        match self.clusters().delete(name, &DeleteParams::foreground()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let mut left = self.left::<StatefulSet>().await?;
            left.extend(self.left::<Service>().await?);
            left.extend(self.left::<Pod>().await?);
            left.extend(self.left::<PersistentVolumeClaim>().await?);
            left.extend(self.left::<ServiceAccount>().await?);
            left.extend(self.left::<NetworkPolicy>().await?);
            left.extend(self.left::<PodDisruptionBudget>().await?);
            if self.clusters().get_opt(name).await?.is_some() {
                left.push(format!("CrdbCluster {name}"));
            }
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("still there after {:?}: {}", self.options.timeout, left.join(", "));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn left<K>(&self) -> anyhow::Result<Vec<String>>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.options.namespace);
        let selector = format!("{}={}", keys::LABEL_CLUSTER, self.options.name);
        let found = api.list(&ListParams::default().labels(&selector)).await?;
        let kind = K::kind(&());
        let named = found
            .items
            .iter()
            .map(|object| format!("{kind} {}", object.meta().name.as_deref().unwrap_or_default()));
        Ok(named.collect())
    }
}
