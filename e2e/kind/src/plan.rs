//! Which steps make a cluster, decided from facts alone.
//!
//! There are two ways. With docker and a registry, kind is used as it is: it pulls its own node
//! image. Without a registry everything is built here. The rest is the same on both.

use std::fmt;
use std::path::PathBuf;

use crate::artifact::Artifact;
use crate::command::Cmd;
use crate::config::ClusterConfig;
use crate::node_image;

/// Where the node image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// kind pulls its stock node image.
    Registry,
    /// The node image is built from Go modules and Debian packages.
    Local,
}

/// What the steps depend on.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Where the node image comes from.
    pub source: ImageSource,
    /// The kind program that is installed, if any.
    pub kind_in_path: Option<PathBuf>,
    /// Where artifacts are: `kind` and `kubectl` of the cache, and the node image's archive.
    pub artifacts: ArtifactPaths,
    /// The directory for the cluster's own files.
    pub state_dir: PathBuf,
    /// Whether the built node image is loaded in docker.
    pub node_image_loaded: bool,
    /// Whether CAP_SYS_RESOURCE is to be had.
    pub negative_oom_scores: bool,
    /// The environment that leads to the docker daemon.
    pub docker_env: Vec<(String, String)>,
}

/// Paths in the cache, known before anything is built.
#[derive(Clone, Debug)]
pub struct ArtifactPaths {
    /// The kind program.
    pub kind: PathBuf,
    /// The kubectl program.
    pub kubectl: PathBuf,
    /// The helm program.
    pub helm: PathBuf,
    /// The archive of the node image.
    pub node_image: PathBuf,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make artifacts that are not in the cache; the lanes go side by side.
    Make(Vec<Vec<Artifact>>),
    /// Write a file.
    Write(PathBuf, String),
    /// Run a command; the text says to people what it does.
    Run(&'static str, Cmd),
}

impl HostFacts {
    /// The kind program to use.
    pub fn kind(&self) -> PathBuf {
        match (self.source, &self.kind_in_path) {
            (ImageSource::Registry, Some(installed)) => installed.clone(),
            _ => self.artifacts.kind.clone(), // the node image has the files of this version
        }
    }

    /// The access to a cluster.
    pub fn kubeconfig(&self, cluster: &str) -> PathBuf {
        self.state_dir.join(format!("{cluster}.kubeconfig"))
    }

    fn kind_cmd(&self) -> Cmd {
        Cmd::new(self.kind()).envs(&self.docker_env)
    }

    /// A kubectl command for a cluster.
    pub fn kubectl_cmd(&self, cluster: &str) -> Cmd {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig(cluster).display());
        Cmd::new(&self.artifacts.kubectl).arg(kubeconfig)
    }
}

/// What has to be made before docker is asked for anything.
pub fn prepare(facts: &HostFacts) -> Vec<Step> {
    match facts.source {
        ImageSource::Registry if facts.kind_in_path.is_some() => {
            vec![Step::Make(vec![vec![Artifact::Cli]])]
        }
        ImageSource::Registry => vec![Step::Make(vec![vec![Artifact::Cli, Artifact::Kind]])],
        ImageSource::Local => {
            // The longest first; packages are unpacked meanwhile.
            let (system, compiled): (Vec<_>, Vec<_>) = Artifact::PARTS_OF_NODE_IMAGE
                .into_iter()
                .partition(|part| *part == Artifact::NodeRoot);
            vec![
                Step::Make(vec![compiled, [system, vec![Artifact::Cli]].concat()]),
                Step::Make(vec![vec![Artifact::NodeImage]]),
            ]
        }
    }
}

/// The steps from nothing to a cluster whose nodes are ready.
pub fn create(config: &ClusterConfig, facts: &HostFacts) -> Vec<Step> {
    let mut steps = prepare(facts);
    let name = &config.name;
    if facts.source == ImageSource::Local && !facts.node_image_loaded {
        let load = Cmd::new("docker").envs(&facts.docker_env).words("load --quiet --input");
        steps.push(Step::Run(
            "load the node image",
            load.path(&facts.artifacts.node_image).seconds(300),
        ));
    }
    let config_file = facts.state_dir.join(format!("{name}.kind.yaml"));
    let yaml = config.to_kind_yaml(facts.negative_oom_scores);
    steps.push(Step::Write(config_file.clone(), yaml));
    let mut kind = facts.kind_cmd().args_of(&["create", "cluster", "--name", name, "--config"]);
    kind = kind.path(&config_file).arg("--kubeconfig").path(&facts.kubeconfig(name));
    if facts.source == ImageSource::Local {
        kind = kind.arg("--image").arg(node_image::image_name());
    }
    // A stock image is pulled first; that takes as long as the network does.
    let seconds = if facts.source == ImageSource::Local { 420 } else { 1200 };
    steps.push(Step::Run("create the cluster", kind.words("--wait 180s").seconds(seconds)));
    let wait =
        |what: &str| facts.kubectl_cmd(name).words(what).words("--timeout=180s").seconds(200);
    steps.push(Step::Run(
        "wait until every node is ready",
        wait("wait --for=condition=Ready node --all"),
    ));
    steps.push(Step::Run(
        "wait for the name server",
        wait("--namespace=kube-system rollout status deployment/coredns"),
    ));
    steps.push(Step::Run(
        "wait for the volume provisioner",
        wait("--namespace=local-path-storage rollout status deployment/local-path-provisioner"),
    ));
    steps
}

/// Removes a cluster. Fine when there is none.
pub fn delete(name: &str, facts: &HostFacts) -> Step {
    let kind = facts.kind_cmd().args_of(&["delete", "cluster", "--name", name, "--kubeconfig"]);
    Step::Run("delete the cluster", kind.path(&facts.kubeconfig(name)))
}

/// Asks for the names of the clusters.
pub fn list(facts: &HostFacts) -> Cmd {
    facts.kind_cmd().words("get clusters")
}

/// Puts images that docker has on every node.
pub fn load_images(name: &str, images: &[&str], facts: &HostFacts) -> Cmd {
    let kind = facts.kind_cmd().words("load docker-image").args_of(images);
    kind.args_of(&["--name", name]).seconds(600)
}

/// Puts the images of a docker archive on every node.
pub fn load_archive(name: &str, archive: &std::path::Path, facts: &HostFacts) -> Cmd {
    let kind = facts.kind_cmd().words("load image-archive").path(archive);
    kind.args_of(&["--name", name]).seconds(300)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Make(lanes) => {
                write!(f, "make")?;
                for (position, lane) in lanes.iter().enumerate() {
                    let names: Vec<&str> = lane.iter().map(|artifact| artifact.name()).collect();
                    write!(f, "{} {}", if position == 0 { "" } else { " |" }, names.join(", "))?;
                }
                Ok(())
            }
            Step::Write(path, _) => write!(f, "write {}", path.display()),
            Step::Run(_, command) => write!(f, "{command}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn facts(source: ImageSource) -> HostFacts {
        HostFacts {
            source,
            kind_in_path: None,
            artifacts: ArtifactPaths {
                kind: "CACHE/kind".into(),
                kubectl: "CACHE/kubectl".into(),
                helm: "CACHE/helm".into(),
                node_image: "CACHE/node-image.tar".into(),
            },
            state_dir: "STATE".into(),
            node_image_loaded: false,
            negative_oom_scores: true,
            docker_env: Vec::new(),
        }
    }

    /// The key in the image's name changes with every input: it is not part of the plan's text.
    fn check(facts: &HostFacts, expected: Expect) {
        let steps = create(&ClusterConfig::three_zones("crdb"), facts);
        let text: String = steps.iter().map(|step| format!("{step}\n")).collect();
        expected.assert_eq(&text.replace(&Artifact::NodeImage.key().to_string(), "KEY"));
    }

    #[test]
    fn with_a_registry_kind_is_used_as_it_is() {
        let mut facts = facts(ImageSource::Registry);
        facts.kind_in_path = Some("/usr/bin/kind".into());
        check(
            &facts,
            expect![[r#"
                make kubectl-and-helm
                write STATE/crdb.kind.yaml
                /usr/bin/kind create cluster --name crdb --config STATE/crdb.kind.yaml --kubeconfig STATE/crdb.kubeconfig --wait 180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig wait --for=condition=Ready node --all --timeout=180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig --namespace=kube-system rollout status deployment/coredns --timeout=180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig --namespace=local-path-storage rollout status deployment/local-path-provisioner --timeout=180s
            "#]],
        );
        facts.kind_in_path = None;
        check(
            &facts,
            expect![[r#"
                make kubectl-and-helm, kind
                write STATE/crdb.kind.yaml
                CACHE/kind create cluster --name crdb --config STATE/crdb.kind.yaml --kubeconfig STATE/crdb.kubeconfig --wait 180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig wait --for=condition=Ready node --all --timeout=180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig --namespace=kube-system rollout status deployment/coredns --timeout=180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig --namespace=local-path-storage rollout status deployment/local-path-provisioner --timeout=180s
            "#]],
        );
    }

    #[test]
    fn without_a_registry_everything_is_built() {
        let mut facts = facts(ImageSource::Local);
        facts.docker_env.push(("DOCKER_HOST".to_owned(), "unix://CACHE/docker.sock".to_owned()));
        facts.kind_in_path = Some("/usr/bin/kind".into());
        check(
            &facts,
            expect![[r#"
                make kubernetes, node-tools, local-path-provisioner, coredns, etcd, kind, pause | node-root, kubectl-and-helm
                make node-image
                DOCKER_HOST=unix://CACHE/docker.sock docker load --quiet --input CACHE/node-image.tar
                write STATE/crdb.kind.yaml
                DOCKER_HOST=unix://CACHE/docker.sock CACHE/kind create cluster --name crdb --config STATE/crdb.kind.yaml --kubeconfig STATE/crdb.kubeconfig --image localhost/crdb-kind-node:v1.34.2-KEY --wait 180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig wait --for=condition=Ready node --all --timeout=180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig --namespace=kube-system rollout status deployment/coredns --timeout=180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig --namespace=local-path-storage rollout status deployment/local-path-provisioner --timeout=180s
            "#]],
        );
        facts.node_image_loaded = true;
        check(
            &facts,
            expect![[r#"
                make kubernetes, node-tools, local-path-provisioner, coredns, etcd, kind, pause | node-root, kubectl-and-helm
                make node-image
                write STATE/crdb.kind.yaml
                DOCKER_HOST=unix://CACHE/docker.sock CACHE/kind create cluster --name crdb --config STATE/crdb.kind.yaml --kubeconfig STATE/crdb.kubeconfig --image localhost/crdb-kind-node:v1.34.2-KEY --wait 180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig wait --for=condition=Ready node --all --timeout=180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig --namespace=kube-system rollout status deployment/coredns --timeout=180s
                CACHE/kubectl --kubeconfig=STATE/crdb.kubeconfig --namespace=local-path-storage rollout status deployment/local-path-provisioner --timeout=180s
            "#]],
        );
    }

    #[test]
    fn deletion_and_loading() {
        let facts = facts(ImageSource::Local);
        let text = format!(
            "{}\n{}\n{}\n{}\n",
            delete("crdb", &facts),
            list(&facts),
            load_images("crdb", &["crdb-node:dev"], &facts),
            load_archive("crdb", "node.tar".as_ref(), &facts)
        );
        expect![[r#"
            CACHE/kind delete cluster --name crdb --kubeconfig STATE/crdb.kubeconfig
            CACHE/kind get clusters
            CACHE/kind load docker-image crdb-node:dev --name crdb
            CACHE/kind load image-archive node.tar --name crdb
        "#]]
        .assert_eq(&text);
    }
}
