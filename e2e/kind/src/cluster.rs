//! A cluster on this machine: up, down, and images into it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::artifact::{self, Artifact};
use crate::cache::Cache;
use crate::command::Cmd;
use crate::config::ClusterConfig;
use crate::docker::{Docker, can_raise_limits};
use crate::node_image;
use crate::plan::{self, ArtifactPaths, HostFacts, ImageSource, Step};
use crate::progress::Progress;
use crate::tools::in_path;
use crate::versions::STOCK_NODE_IMAGE;

/// Chooses where the node image comes from: `registry` or `local`. Unset: a registry if it answers.
pub const SOURCE_VARIABLE: &str = "CRDB_KIND_IMAGE_SOURCE";

/// The system's limit of inotify instances for each user.
const INOTIFY_LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";
/// Enough for several clusters; the usual 128 is not enough for a second one of seven nodes.
const INOTIFY_INSTANCES: u64 = 1024;

/// This machine with its docker daemon: what clusters run on.
#[derive(Clone, Debug)]
pub struct Host {
    cache: Cache,
    docker: Docker,
    facts: HostFacts,
    progress: Progress,
}

impl Host {
    /// Finds the docker daemon, or starts our own, and collects the facts.
    pub fn find(cache: &Cache, progress: &Progress) -> Result<Host> {
        let docker = Docker::find_or_start(cache, progress)?;
        let source = image_source(&docker, progress)?;
        Host::with(cache, docker, source, progress)
    }

    /// The machine as it is: None when no docker daemon runs, so that there is no cluster either.
    pub fn find_running(cache: &Cache, progress: &Progress) -> Result<Option<Host>> {
        let Some(docker) = Docker::find(cache)? else { return Ok(None) };
        // To list and to delete clusters any kind will do.
        let built = Artifact::Kind.path(cache).is_dir();
        let source = if built { ImageSource::Local } else { ImageSource::Registry };
        Host::with(cache, docker, source, progress).map(Some)
    }

    fn with(
        cache: &Cache,
        docker: Docker,
        source: ImageSource,
        progress: &Progress,
    ) -> Result<Host> {
        let cli = Artifact::Cli.path(cache);
        let state_dir = cache.root().join("clusters");
        fs::create_dir_all(&state_dir)?;
        let image = node_image::image_name();
        let loaded = docker.cmd().words("image inspect").arg(image).succeeds()?;
        let facts = HostFacts {
            source,
            kind_in_path: in_path("kind"),
            artifacts: ArtifactPaths {
                kind: Artifact::Kind.path(cache).join("kind"),
                kubectl: cli.join("kubectl"),
                helm: cli.join("helm"),
                node_image: Artifact::NodeImage.path(cache).join(node_image::ARCHIVE),
            },
            state_dir,
            node_image_loaded: loaded,
            negative_oom_scores: can_raise_limits()?,
            docker_env: docker.env(),
        };
        Ok(Host { cache: cache.clone(), docker, facts, progress: progress.clone() })
    }

    /// The docker daemon.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// What clusters here are made from.
    pub fn facts(&self) -> &HostFacts {
        &self.facts
    }

    /// Makes everything that does not need a cluster, for a program that wants to build early.
    pub fn prepare(&self) -> Result<()> {
        plan::prepare(&self.facts).iter().try_for_each(|step| self.perform(step))
    }

    /// The names of the clusters that exist.
    pub fn clusters(&self) -> Result<Vec<String>> {
        if !self.facts.kind().is_file() {
            return Ok(Vec::new()); // without kind no cluster was ever made here
        }
        // With none, kind says so on stderr.
        let list = plan::list(&self.facts).output()?;
        Ok(list.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// Brings a cluster up, or takes the one of that name that is there, once its nodes are ready.
    pub fn up(&self, config: &ClusterConfig) -> Result<Cluster> {
        if self.clusters()?.contains(&config.name) {
            self.progress.note(format_args!("the cluster {} exists", config.name));
            let cluster = self.cluster(&config.name);
            Artifact::Cli.make(&self.cache, &self.progress)?;
            let found =
                cluster.kubectl().words("get nodes --output=name").output()?.lines().count();
            if found != config.nodes() {
                bail!(
                    "the cluster {} has {found} nodes, not {}: delete it first (`make down`)",
                    config.name,
                    config.nodes()
                );
            }
            let ready =
                cluster.kubectl().words("wait --for=condition=Ready node --all --timeout=60s");
            ready.run().with_context(|| format!("the nodes of the cluster {}", config.name))?;
            return Ok(cluster);
        }
        if let Err(error) = raise_inotify_limit(Path::new(INOTIFY_LIMIT)) {
            // With few nodes the limit of the system may do.
            self.progress.note(format_args!("warning: {error:#}"));
        }
        plan::create(config, &self.facts).iter().try_for_each(|step| self.perform(step))?;
        Ok(self.cluster(&config.name))
    }

    /// A cluster that exists.
    pub fn cluster(&self, name: &str) -> Cluster {
        Cluster { host: self.clone(), name: name.to_owned() }
    }

    /// Removes a cluster, and our own docker daemon with the last one.
    pub fn down(&self, name: &str) -> Result<()> {
        self.delete(name)?;
        let left = self.clusters()?;
        if left.is_empty() {
            return self.docker.stop_if_own(&self.progress);
        }
        self.progress.note(format_args!("left are: {}", left.join(", ")));
        Ok(())
    }

    /// Removes a cluster, if it is there, and its files.
    pub fn delete(&self, name: &str) -> Result<()> {
        if self.clusters()?.iter().any(|cluster| cluster == name) {
            self.perform(&plan::delete(name, &self.facts))?;
        } else {
            self.progress.note(format_args!("there is no cluster {name}"));
        }
        for file in [format!("{name}.kubeconfig"), format!("{name}.kind.yaml")] {
            match fs::remove_file(self.facts.state_dir.join(file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn perform(&self, step: &Step) -> Result<()> {
        match step {
            Step::Make(lanes) => artifact::make_all(lanes, &self.cache, &self.progress),
            Step::Write(path, text) => {
                fs::write(path, text).with_context(|| format!("write {}", path.display()))
            }
            Step::Run(title, command) => self.progress.step(title, || command.run()),
        }
    }
}

/// Raises the limit of the system where it is lower than two clusters need: systemd, containerd and
/// kubelet of every node take from the same account, and a node whose systemd gets none ends at
/// once.
fn raise_inotify_limit(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let limit: u64 = text.trim().parse().with_context(|| format!("{text:?} is no limit"))?;
    if limit >= INOTIFY_INSTANCES {
        return Ok(());
    }
    fs::write(file, INOTIFY_INSTANCES.to_string()).with_context(|| {
        format!(
            "fs.inotify.max_user_instances is {limit}, which is too low for many nodes; run as \
             root: sysctl fs.inotify.max_user_instances={INOTIFY_INSTANCES}"
        )
    })
}

/// Asks a registry for the stock image's manifest, unless the environment says what to do.
fn image_source(docker: &Docker, progress: &Progress) -> Result<ImageSource> {
    match std::env::var(SOURCE_VARIABLE).as_deref() {
        Ok("registry") => return Ok(ImageSource::Registry),
        Ok("local") => return Ok(ImageSource::Local),
        Ok(other) => bail!("{SOURCE_VARIABLE} is {other:?}: `registry` and `local` are possible"),
        Err(_) => {}
    }
    let present = docker.cmd().words("image inspect").arg(STOCK_NODE_IMAGE).succeeds()?;
    // The client answers with an error, or not at all, when it reaches no registry.
    let ask = docker.cmd().words("manifest inspect").arg(STOCK_NODE_IMAGE).seconds(20);
    if present || ask.run().is_ok() {
        return Ok(ImageSource::Registry);
    }
    progress.note("no registry answers: the node image is built here");
    Ok(ImageSource::Local)
}

/// A cluster that runs.
#[derive(Clone, Debug)]
pub struct Cluster {
    host: Host,
    name: String,
}

impl Cluster {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that gives an administrator access.
    pub fn kubeconfig(&self) -> PathBuf {
        self.host.facts.kubeconfig(&self.name)
    }

    /// A kubectl command.
    pub fn kubectl(&self) -> Cmd {
        self.host.facts.kubectl_cmd(&self.name)
    }

    /// A helm command.
    pub fn helm(&self) -> Cmd {
        Cmd::new(&self.host.facts.artifacts.helm).env("KUBECONFIG", self.kubeconfig().display())
    }

    /// Puts images that docker has on every node.
    pub fn load_images(&self, images: &[&str]) -> Result<()> {
        let title = format!("load {} into {}", images.join(", "), self.name);
        let load = plan::load_images(&self.name, images, &self.host.facts);
        self.host.progress.step(&title, || load.run())
    }

    /// Puts the images of a docker archive on every node.
    pub fn load_archive(&self, archive: &Path) -> Result<()> {
        let title = format!("load {} into {}", archive.display(), self.name);
        let load = plan::load_archive(&self.name, archive, &self.host.facts);
        self.host.progress.step(&title, || load.run())
    }

    /// An image with a shell that every node has, or can pull.
    pub fn busybox_image(&self) -> &'static str {
        match self.host.facts.source {
            ImageSource::Local => node_image::BUSYBOX_IMAGE,
            ImageSource::Registry => "docker.io/library/busybox:1.36",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inotify_limit_is_raised_and_never_lowered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("max_user_instances");
        for (before, after) in [("128\n", "1024"), ("1024", "1024"), ("8192\n", "8192\n")] {
            fs::write(&file, before).unwrap();
            raise_inotify_limit(&file).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), after);
        }
        fs::write(&file, "many").unwrap();
        let error = raise_inotify_limit(&file).unwrap_err();
        assert!(error.to_string().contains("no limit"), "{error:#}");
    }
}
