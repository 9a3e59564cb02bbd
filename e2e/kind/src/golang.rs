//! The programs that come from Go modules: the Kubernetes binaries, their helpers and kind itself.
//! Each module of `assets/go` pins one version; programs whose dependencies do not fit together are
//! in modules of their own.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cache::Key;
use crate::command::Cmd;
use crate::versions;

/// One Go module with what is built from it.
#[derive(Debug)]
pub struct GoModule {
    /// The module's name, which is also the artifact's.
    pub name: &'static str,
    /// The module's files.
    pub sources: &'static [(&'static str, &'static str)],
    /// The programs: the package and the name of the binary.
    pub programs: &'static [(&'static str, &'static str)],
    /// How long a cold build may take on a slow machine, in seconds.
    pub deadline_s: u64,
}

macro_rules! sources {
    ($($path:literal),+) => {
        &[$(($path, include_str!(concat!("../assets/go/", $path)))),+]
    };
}

/// Kubernetes itself.
pub const KUBERNETES: GoModule = GoModule {
    name: "kubernetes",
    sources: sources!("kubernetes/go.mod"),
    programs: &[
        ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
        ("k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
        ("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
        ("k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
        ("k8s.io/kubernetes/cmd/kubeadm", "kubeadm"),
        ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
        ("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
    ],
    deadline_s: 3600,
};

/// The network agent and crictl.
pub const NODE_TOOLS: GoModule = GoModule {
    name: "node-tools",
    sources: sources!(
        "node-tools/go.mod",
        "node-tools/kindnetd/main.go",
        "node-tools/crictl/main.go"
    ),
    programs: &[("crdb/node-tools/kindnetd", "kindnetd"), ("crdb/node-tools/crictl", "crictl")],
    deadline_s: 1800,
};

/// The store of the apiserver.
pub const ETCD: GoModule = GoModule {
    name: "etcd",
    sources: sources!("etcd/go.mod", "etcd/main.go"),
    programs: &[("crdb/etcd", "etcd")],
    deadline_s: 1200,
};

/// The cluster's name server.
pub const COREDNS: GoModule = GoModule {
    name: "coredns",
    sources: sources!("coredns/go.mod", "coredns/main.go"),
    programs: &[("crdb/coredns", "coredns")],
    deadline_s: 1200,
};

/// The volume provisioner.
pub const LOCAL_PATH_PROVISIONER: GoModule = GoModule {
    name: "local-path-provisioner",
    sources: sources!("local-path-provisioner/go.mod"),
    programs: &[("github.com/rancher/local-path-provisioner", "local-path-provisioner")],
    deadline_s: 1200,
};

/// The kind command line.
pub const KIND: GoModule = GoModule {
    name: "kind",
    sources: sources!("kind/go.mod"),
    programs: &[("sigs.k8s.io/kind", "kind")],
    deadline_s: 600,
};

impl GoModule {
    /// The key over sources, programs and flags. Not over the compiler: any that can build the
    /// module will do.
    pub fn key(&self) -> Key {
        let flags = self.linker_flags();
        let files = self.sources.iter().chain(self.programs);
        let words = files.flat_map(|(a, b)| [a.as_bytes(), b.as_bytes()]);
        Key::of(words.chain([flags.as_bytes()]))
    }

    /// Builds the programs into `site`.
    pub fn build(&self, site: &Path) -> Result<()> {
        let work = tempfile::tempdir()?;
        for (path, text) in self.sources {
            let path = work.path().join(path);
            fs::create_dir_all(path.parent().context("a source has a directory")?)?;
            fs::write(path, text)?;
        }
        let module = work.path().join(self.name);
        let go = |verb: &str| {
            Cmd::new("go")
                .words(verb)
                .dir(&module)
                .env("CGO_ENABLED", 0)
                .env("GOFLAGS", "-mod=mod")
                .env("GOTOOLCHAIN", "local")
                .env("GOWORK", "off")
                .seconds(self.deadline_s)
        };
        // One call for all programs with the linker flags of the module: they share their packages.
        // Each binary gets the name of its package; where that is not the wanted one, it is named.
        let build = go("build -trimpath -pgo=off -ldflags").arg(self.linker_flags()).arg("-o");
        match self.programs {
            [(package, name)] => build.path(&site.join(name)).arg(package).run(),
            programs => {
                let packages: Vec<&str> = programs.iter().map(|(package, _)| *package).collect();
                build.arg(format_args!("{}/", site.display())).args_of(&packages).run()
            }
        }
    }

    /// The directory of a module in Go's own cache, for files that are taken from there.
    pub fn directory_of(&self, module: &str) -> Result<String> {
        let work = tempfile::tempdir()?;
        for (path, text) in self.sources.iter().filter(|(path, _)| path.ends_with("go.mod")) {
            let file = Path::new(path).file_name().context("a source has a name")?;
            fs::write(work.path().join(file), text)?;
        }
        let go = || {
            Cmd::new("go").dir(work.path()).env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local")
        };
        go().words("mod download").arg(module).seconds(300).run()?;
        let dir = go().words("list -m -f {{.Dir}}").arg(module).output()?;
        Ok(dir.trim().to_owned())
    }

    fn linker_flags(&self) -> String {
        let mut flags = "-s -w".to_owned();
        if self.name == KUBERNETES.name {
            // Without a version kubeadm and kubelet take each other for v0.0.0 and refuse.
            let mut parts = versions::KUBERNETES.trim_start_matches('v').split('.');
            let (major, minor) = (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"));
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                for (name, value) in [
                    ("gitVersion", versions::KUBERNETES),
                    ("gitMajor", major),
                    ("gitMinor", minor),
                    ("gitTreeState", "clean"),
                    ("gitCommit", "0000000000000000000000000000000000000000"),
                    ("buildDate", "1970-01-01T00:00:00Z"),
                ] {
                    flags.push_str(&format!(" -X {package}.{name}={value}"));
                }
            }
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_has_one_version() {
        let (_, go_mod) = KUBERNETES.sources[0];
        assert!(go_mod.contains(&format!("require k8s.io/kubernetes {}", versions::KUBERNETES)));
        let staging = versions::KUBERNETES.replace("v1.", "v0.");
        let replaced = go_mod.lines().filter(|line| line.contains("=>"));
        assert!(replaced.clone().count() > 20);
        for line in replaced {
            assert!(line.ends_with(&staging), "{line}");
        }
    }

    #[test]
    fn helpers_have_the_versions_of_their_images() {
        let pinned = |module: &GoModule, version: &str| {
            assert!(module.sources[0].1.contains(version), "{} {version}", module.name);
        };
        pinned(&ETCD, &format!("v{}", versions::ETCD_TAG.trim_end_matches("-0")));
        pinned(&COREDNS, versions::COREDNS_TAG);
        pinned(&LOCAL_PATH_PROVISIONER, versions::LOCAL_PATH_PROVISIONER);
    }
}
