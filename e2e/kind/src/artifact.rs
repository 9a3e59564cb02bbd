//! The slow outside things a cluster is made of, by name: what each is keyed by and how it is made.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::cache::{Cache, Key};
use crate::command::Cmd;
use crate::golang::{self, GoModule};
use crate::progress::Progress;
use crate::{node_image, tools, versions};

/// The source of the process that holds a pod's namespaces.
const PAUSE_SOURCE: &str = include_str!("../assets/pause.c");
/// What kind's source keeps for its node image, relative to the module: see [`build_kind`].
const KIND_BASE_FILES: &str = "images/base/files";
const KIND_STORAGE_SOURCE: &str = "pkg/build/nodeimage/const_storage.go";

/// Something made once and cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Artifact {
    /// kubectl and helm.
    Cli,
    /// kind, and the files of its node image that are taken over.
    Kind,
    /// The Kubernetes binaries.
    Kubernetes,
    /// The network agent and crictl.
    NodeTools,
    /// etcd.
    Etcd,
    /// CoreDNS.
    CoreDns,
    /// The volume provisioner.
    LocalPathProvisioner,
    /// The pause program.
    Pause,
    /// The Debian user land of a node.
    NodeRoot,
    /// The node image as a docker archive.
    NodeImage,
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Artifact {
    /// What the node image is made of.
    pub const PARTS_OF_NODE_IMAGE: [Artifact; 8] = [
        Artifact::Kubernetes,
        Artifact::NodeTools,
        Artifact::LocalPathProvisioner,
        Artifact::CoreDns,
        Artifact::Etcd,
        Artifact::Kind,
        Artifact::Pause,
        Artifact::NodeRoot,
    ];

    /// The name in the cache and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Artifact::Cli => "kubectl-and-helm",
            Artifact::Pause => "pause",
            Artifact::NodeRoot => "node-root",
            Artifact::NodeImage => "node-image",
            Artifact::Kind
            | Artifact::Kubernetes
            | Artifact::NodeTools
            | Artifact::Etcd
            | Artifact::CoreDns
            | Artifact::LocalPathProvisioner => self.go_module().map_or("", |module| module.name),
        }
    }

    fn go_module(self) -> Option<&'static GoModule> {
        match self {
            Artifact::Kind => Some(&golang::KIND),
            Artifact::Kubernetes => Some(&golang::KUBERNETES),
            Artifact::NodeTools => Some(&golang::NODE_TOOLS),
            Artifact::Etcd => Some(&golang::ETCD),
            Artifact::CoreDns => Some(&golang::COREDNS),
            Artifact::LocalPathProvisioner => Some(&golang::LOCAL_PATH_PROVISIONER),
            Artifact::Cli | Artifact::Pause | Artifact::NodeRoot | Artifact::NodeImage => None,
        }
    }

    /// The digest of what it is made from.
    pub fn key(self) -> Key {
        match self {
            Artifact::Cli => tools::key(),
            Artifact::Pause => Key::of([PAUSE_SOURCE.as_bytes()]),
            Artifact::NodeRoot => {
                let packages = versions::NODE_PACKAGES.iter().map(|name| name.as_bytes());
                Key::of(packages.chain([versions::DEBIAN.as_bytes()]))
            }
            Artifact::NodeImage => {
                let parts: Vec<String> = Artifact::PARTS_OF_NODE_IMAGE
                    .iter()
                    .map(|part| part.key().to_string())
                    .collect();
                let parts = parts.iter().map(String::as_str);
                Key::of(parts.chain(node_image::inputs()).map(str::as_bytes))
            }
            Artifact::Kind
            | Artifact::Kubernetes
            | Artifact::NodeTools
            | Artifact::Etcd
            | Artifact::CoreDns
            | Artifact::LocalPathProvisioner => {
                self.go_module().map_or_else(|| Key::of([]), GoModule::key)
            }
        }
    }

    /// Where it is in the cache, built or not.
    pub fn path(self, cache: &Cache) -> PathBuf {
        cache.path(self.name(), &self.key())
    }

    /// Makes it when it is not there. What it is made of must be there.
    pub fn make(self, cache: &Cache, progress: &Progress) -> Result<PathBuf> {
        cache.get(self.name(), &self.key(), progress, |site| match self {
            Artifact::Cli => tools::build(site),
            Artifact::Kind => build_kind(site),
            Artifact::Pause => build_pause(site),
            Artifact::NodeRoot => node_image::bootstrap(site),
            Artifact::NodeImage => node_image::build(cache, site, progress),
            Artifact::Kubernetes
            | Artifact::NodeTools
            | Artifact::Etcd
            | Artifact::CoreDns
            | Artifact::LocalPathProvisioner => {
                self.go_module().context("not a Go module")?.build(site)
            }
        })
    }
}

/// Makes several at a time: one lane after the other would leave the processors idle while packages
/// are downloaded and unpacked.
pub fn make_all(lanes: &[Vec<Artifact>], cache: &Cache, progress: &Progress) -> Result<()> {
    let lane = |artifacts: &[Artifact]| -> Result<()> {
        artifacts.iter().try_for_each(|artifact| artifact.make(cache, progress).map(drop))
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = lanes.iter().map(|list| scope.spawn(|| lane(list))).collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn build_pause(site: &Path) -> Result<()> {
    let source = site.join("pause.c");
    fs::write(&source, PAUSE_SOURCE)?;
    Cmd::new("gcc")
        .words("-Os -static -s -Wall -Werror -o")
        .path(&site.join("pause"))
        .path(&source)
        .run()
}

/// Builds kind and takes over, from the same version's source, the files of its node image and the
/// manifest of its default storage class.
fn build_kind(site: &Path) -> Result<()> {
    golang::KIND.build(site)?;
    let module = PathBuf::from(golang::KIND.directory_of("sigs.k8s.io/kind")?);
    Cmd::new("cp")
        .words("--recursive --no-preserve=mode,ownership")
        .path(&module.join(KIND_BASE_FILES))
        .path(&site.join("base-files"))
        .run()?;
    let source = fs::read_to_string(module.join(KIND_STORAGE_SOURCE))
        .with_context(|| format!("read {KIND_STORAGE_SOURCE} of kind"))?;
    fs::write(site.join("default-storage.yaml"), storage_manifest(&source)?)?;
    Ok(())
}

/// The Go constant with the manifest, its two image names replaced by ours.
fn storage_manifest(source: &str) -> Result<String> {
    let (_, body) = source
        .split_once("const defaultStorageManifest = `")
        .context("kind's source has no defaultStorageManifest")?;
    let mut manifest = String::new();
    // Pieces between backquotes are text, in turn with concatenated constants.
    for (position, piece) in body.split('`').enumerate() {
        match (position % 2, piece.trim()) {
            (0, _) => manifest.push_str(piece),
            (_, "+ storageProvisionerImage +") => {
                manifest.push_str(&node_image::provisioner_image())
            }
            (_, "+ storageHelperImage +") => manifest.push_str(node_image::BUSYBOX_IMAGE),
            (_, "") => break,
            (_, other) => ensure!(false, "kind's storage manifest has an unknown part {other:?}"),
        }
    }
    let ours = [node_image::provisioner_image(), node_image::BUSYBOX_IMAGE.to_owned()];
    ensure!(
        ours.iter().all(|image| manifest.contains(image.as_str())),
        "kind's storage manifest names other images than expected"
    );
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_distinct() {
        let all: Vec<Artifact> = Artifact::PARTS_OF_NODE_IMAGE
            .into_iter()
            .chain([Artifact::Cli, Artifact::NodeImage])
            .collect();
        for (i, a) in all.iter().enumerate() {
            assert!(!a.name().is_empty());
            for b in &all[i + 1..] {
                assert_ne!((a.name(), a.key()), (b.name(), b.key()));
                assert_ne!(a.name(), b.name());
            }
        }
    }

    #[test]
    fn the_storage_manifest_gets_our_images() {
        let source = "x\nconst defaultStorageManifest = `\nimage: ` + storageProvisionerImage + `\n\
                      helper: ` + storageHelperImage + `\nend: 1\n`\n";
        let manifest = storage_manifest(source).unwrap();
        assert_eq!(
            manifest,
            format!(
                "\nimage: {}\nhelper: {}\nend: 1\n",
                node_image::provisioner_image(),
                node_image::BUSYBOX_IMAGE
            )
        );
        assert!(storage_manifest("const defaultStorageManifest = `image: other`").is_err());
    }
}
