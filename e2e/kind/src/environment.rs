//! How tests learn where the cluster, the tools and the programs are: environment variables that
//! xtask sets and tests read, by one table.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::artifact::Artifact;
use crate::cache::Cache;
use crate::command::Cmd;

const KUBECONFIG: &str = "KUBECONFIG";
const NODE_IMAGE: &str = "CRDB_E2E_NODE_IMAGE";
const OPERATOR_IMAGE: &str = "CRDB_E2E_OPERATOR_IMAGE";
const BUSYBOX_IMAGE: &str = "CRDB_E2E_BUSYBOX_IMAGE";
const KUBECTL: &str = "CRDB_E2E_KUBECTL";
const HELM: &str = "CRDB_E2E_HELM";
const BIN_DIR: &str = "CRDB_E2E_BIN_DIR";
const ETCD: &str = "CRDB_E2E_ETCD";
const KUBE_APISERVER: &str = "CRDB_E2E_KUBE_APISERVER";
const KUBE_CONTROLLER_MANAGER: &str = "CRDB_E2E_KUBE_CONTROLLER_MANAGER";

/// What a test on Kubernetes works with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestEnvironment {
    /// Administrator's access to the cluster.
    pub kubeconfig: PathBuf,
    /// The kubectl program.
    pub kubectl: PathBuf,
    /// The helm program.
    pub helm: PathBuf,
    /// The directory with `crdb`, `crdb-operator` and `kubectl-crdb`.
    pub bin_dir: PathBuf,
    /// The database's image, which every node has.
    pub node_image: String,
    /// The operator's image, which every node has.
    pub operator_image: String,
    /// An image with a shell.
    pub busybox_image: String,
}

impl TestEnvironment {
    /// Reads the variables; one that is missing is an error that says who sets it.
    pub fn from_env() -> Result<TestEnvironment> {
        let path = |name| set_by(name, "e2e").map(PathBuf::from);
        Ok(TestEnvironment {
            kubeconfig: path(KUBECONFIG)?,
            kubectl: path(KUBECTL)?,
            helm: path(HELM)?,
            bin_dir: path(BIN_DIR)?,
            node_image: set_by(NODE_IMAGE, "e2e")?,
            operator_image: set_by(OPERATOR_IMAGE, "e2e")?,
            busybox_image: set_by(BUSYBOX_IMAGE, "e2e")?,
        })
    }

    /// The variables, for the program that runs tests.
    pub fn to_env(&self) -> Vec<(String, String)> {
        let path = |path: &PathBuf| path.display().to_string();
        named(&[
            (KUBECONFIG, path(&self.kubeconfig)),
            (KUBECTL, path(&self.kubectl)),
            (HELM, path(&self.helm)),
            (BIN_DIR, path(&self.bin_dir)),
            (NODE_IMAGE, self.node_image.clone()),
            (OPERATOR_IMAGE, self.operator_image.clone()),
            (BUSYBOX_IMAGE, self.busybox_image.clone()),
        ])
    }

    /// A kubectl command for the cluster of the tests, whatever the user's own configuration.
    pub fn kubectl(&self) -> Cmd {
        Cmd::new(&self.kubectl).env(KUBECONFIG, self.kubeconfig.display())
    }

    /// A helm command for the cluster of the tests.
    pub fn helm(&self) -> Cmd {
        Cmd::new(&self.helm).env(KUBECONFIG, self.kubeconfig.display())
    }
}

/// The programs of a Kubernetes control plane, for tests that run them as plain processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// The etcd program.
    pub etcd: PathBuf,
    /// The kube-apiserver program.
    pub kube_apiserver: PathBuf,
    /// The kube-controller-manager program.
    pub kube_controller_manager: PathBuf,
}

impl ControlPlane {
    /// What a local node image is made of has them.
    pub const ARTIFACTS: [Artifact; 2] = [Artifact::Kubernetes, Artifact::Etcd];

    /// The programs in the cache; [`ControlPlane::ARTIFACTS`] have to be made before they are used.
    pub fn in_cache(cache: &Cache) -> ControlPlane {
        let kubernetes = Artifact::Kubernetes.path(cache);
        ControlPlane {
            etcd: Artifact::Etcd.path(cache).join("etcd"),
            kube_apiserver: kubernetes.join("kube-apiserver"),
            kube_controller_manager: kubernetes.join("kube-controller-manager"),
        }
    }

    /// Reads the variables; one that is missing is an error that says who sets it.
    pub fn from_env() -> Result<ControlPlane> {
        let path = |name| set_by(name, "operator").map(PathBuf::from);
        Ok(ControlPlane {
            etcd: path(ETCD)?,
            kube_apiserver: path(KUBE_APISERVER)?,
            kube_controller_manager: path(KUBE_CONTROLLER_MANAGER)?,
        })
    }

    /// The variables, for the program that runs tests.
    pub fn to_env(&self) -> Vec<(String, String)> {
        named(&[
            (ETCD, self.etcd.display().to_string()),
            (KUBE_APISERVER, self.kube_apiserver.display().to_string()),
            (KUBE_CONTROLLER_MANAGER, self.kube_controller_manager.display().to_string()),
        ])
    }
}

fn set_by(name: &str, tier: &str) -> Result<String> {
    std::env::var(name)
        .with_context(|| format!("{name} is not set: run the test by `cargo xtask test {tier}`"))
}

fn named(values: &[(&str, String)]) -> Vec<(String, String)> {
    values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_value_has_a_variable_of_its_own() {
        let tests = TestEnvironment {
            kubeconfig: "1".into(),
            kubectl: "2".into(),
            helm: "3".into(),
            bin_dir: "4".into(),
            node_image: "5".into(),
            operator_image: "6".into(),
            busybox_image: "7".into(),
        };
        let plane = ControlPlane {
            etcd: "8".into(),
            kube_apiserver: "9".into(),
            kube_controller_manager: "10".into(),
        };
        let all = [tests.to_env(), plane.to_env()].concat();
        let names: BTreeSet<&String> = all.iter().map(|(name, _)| name).collect();
        let values: BTreeSet<&String> = all.iter().map(|(_, value)| value).collect();
        assert_eq!((names.len(), values.len()), (10, 10));
    }
}
