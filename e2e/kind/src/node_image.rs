//! The node image: Debian user land, kind's files, the Kubernetes binaries, and the images of the
//! control plane in the content store of the node's containerd.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::archive::Image;
use crate::artifact::Artifact;
use crate::cache::{Cache, remove_tree};
use crate::command::{Cmd, wait};
use crate::progress::{Progress, now};
use crate::tools::executable;
use crate::versions;

/// An image with a shell, for the provisioner's helper pods and for workloads of tests.
pub const BUSYBOX_IMAGE: &str = "localhost/crdb-busybox:1";
/// The network agent's image; the manifest names it too.
const KINDNETD_IMAGE: &str = "localhost/crdb-kindnetd:1";
/// The archive inside the artifact.
pub const ARCHIVE: &str = "node-image.tar";

const PRE_ENTRYPOINT: &str = include_str!("../assets/node/pre-entrypoint");
const CONTAINERD_CONFIG: &str = include_str!("../assets/node/containerd.toml");
const PRELOAD_CONFIG: &str = include_str!("../assets/node/preload.toml");
const CNI_MANIFEST: &str = include_str!("../assets/node/default-cni.yaml");
/// A change of the steps below that changes the image needs a new number here.
const RECIPE: &str = "1";
/// The libraries of a Debian machine.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// systemd in a container: no unit that wants hardware, a console or the host's kernel settings.
const SET_UP_SYSTEMD: &str = r"
set -e
rm -f /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service
rm -f /lib/systemd/system/multi-user.target.wants/* /etc/systemd/system/*.wants/* \
  /lib/systemd/system/local-fs.target.wants/* /lib/systemd/system/basic.target.wants/* \
  /lib/systemd/system/sockets.target.wants/*udev* /lib/systemd/system/sockets.target.wants/*initctl*
echo ReadKMsg=no >> /etc/systemd/journald.conf
systemctl enable kubelet.service containerd.service undo-mount-hacks.service
systemctl mask systemd-binfmt.service systemd-timesyncd.service systemd-networkd.service \
  systemd-resolved.service
: > /etc/machine-id
rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/locale/*
";

/// What of this module goes into the image, for its key.
pub fn inputs() -> [&'static str; 10] {
    [
        RECIPE,
        versions::KUBERNETES,
        versions::ETCD_TAG,
        versions::COREDNS_TAG,
        versions::PAUSE_TAG,
        versions::LOCAL_PATH_PROVISIONER,
        PRE_ENTRYPOINT,
        CONTAINERD_CONFIG,
        CNI_MANIFEST,
        SET_UP_SYSTEMD,
    ]
}

/// The volume provisioner's image.
pub fn provisioner_image() -> String {
    format!("localhost/crdb-local-path-provisioner:{}", versions::LOCAL_PATH_PROVISIONER)
}

/// The name of the node image. It holds the key, so that a changed image never goes by an old name.
pub fn image_name() -> String {
    format!("localhost/crdb-kind-node:{}-{}", versions::KUBERNETES, Artifact::NodeImage.key())
}

/// Unpacks the Debian packages of a node into `site/root`.
pub fn bootstrap(site: &Path) -> Result<()> {
    ensure_root("unpack the system of a node")?;
    let root = site.join("root");
    Cmd::new("debootstrap")
        .arg("--variant=minbase")
        .arg(format_args!("--include={}", versions::NODE_PACKAGES.join(",")))
        .arg(versions::DEBIAN)
        .path(&root)
        .seconds(1800)
        .run()?;
    for junk in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        remove_tree(&root.join(junk))?;
        fs::create_dir_all(root.join(junk))?;
    }
    Ok(())
}

fn ensure_root(what: &str) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "only root can {what}: run as root, or on a machine with docker and a registry"
    );
    Ok(())
}

/// Builds the image's archive into `site`.
pub fn build(cache: &Cache, site: &Path, progress: &Progress) -> Result<()> {
    ensure_root("build the node image")?;
    let work = tempfile::tempdir_in(cache.root())?;
    let root = work.path().join("root");
    progress.note("node image: system");
    let system = Artifact::NodeRoot.path(cache).join("root");
    Cmd::new("cp").arg("--archive").path(&system).path(&root).seconds(600).run()?;
    install_kind_files(cache, &root)?;
    Cmd::new("chroot").path(&root).args_of(&["/bin/bash", "-c", SET_UP_SYSTEMD]).run()?;
    progress.note("node image: images of the control plane");
    let images = work.path().join("images");
    fs::create_dir(&images)?;
    let parts = Parts { cache, root: &root, work: work.path(), images: &images };
    parts.write_all()?;
    preload(&root, work.path(), &images)?;
    progress.note("node image: archive");
    let image = Image {
        name: &image_name(),
        root: &root,
        entrypoint: &["/usr/local/bin/pre-entrypoint", "/usr/local/bin/entrypoint", "/sbin/init"],
        env: &["container=docker"],
        stop_signal: Some("SIGRTMIN+3"),
        compress: false,
    };
    image.write(&site.join(ARCHIVE))
}

/// What kind expects in a node.
fn install_kind_files(cache: &Cache, root: &Path) -> Result<()> {
    let kind = Artifact::Kind.path(cache);
    let base = kind.join("base-files");
    let kubernetes = Artifact::Kubernetes.path(cache);
    let program = |from: PathBuf, to: &str| -> Result<()> {
        copy(&from, &root.join(to))?;
        executable(&root.join(to))
    };
    program(base.join("usr/local/bin/entrypoint"), "usr/local/bin/entrypoint")?;
    for name in files_of(&base.join("kind/bin"))? {
        program(base.join("kind/bin").join(&name), &format!("kind/bin/{name}"))?;
    }
    for name in files_of(&base.join("etc/sysctl.d"))? {
        copy(&base.join("etc/sysctl.d").join(&name), &root.join("etc/sysctl.d").join(&name))?;
    }
    let units = "etc/systemd/system";
    for file in [
        "etc/default/kubelet".to_owned(),
        format!("{units}/kubelet.service"),
        format!("{units}/kubelet.slice"),
        format!("{units}/undo-mount-hacks.service"),
        format!("{units}/kubelet.service.d/10-kubeadm.conf"),
        format!("{units}/kubelet.service.d/11-kind.conf"),
    ] {
        copy(&base.join(&file), &root.join(&file))?;
    }
    let unit = fs::read_to_string(base.join(units).join("containerd.service"))?;
    write(&root.join(units).join("containerd.service"), &containerd_unit(&unit))?;
    let config = CONTAINERD_CONFIG.replace("@PAUSE_TAG@", versions::PAUSE_TAG);
    write(&root.join("etc/containerd/config.toml"), &config)?;
    write(&root.join("usr/local/bin/pre-entrypoint"), PRE_ENTRYPOINT)?;
    executable(&root.join("usr/local/bin/pre-entrypoint"))?;
    fs::create_dir_all(root.join("opt/cni"))?;
    symlink("/usr/lib/cni", root.join("opt/cni/bin"))?;
    fs::create_dir_all(root.join("etc/kubernetes/manifests"))?;
    write(&root.join("kind/version"), versions::KUBERNETES)?;
    write(&root.join("kind/manifests/default-cni.yaml"), CNI_MANIFEST)?;
    copy(&kind.join("default-storage.yaml"), &root.join("kind/manifests/default-storage.yaml"))?;
    for name in ["kubeadm", "kubelet", "kubectl"] {
        program(kubernetes.join(name), &format!("usr/bin/{name}"))?;
    }
    program(Artifact::NodeTools.path(cache).join("crictl"), "usr/local/bin/crictl")
}

/// kind's unit for Debian's containerd, without the limits that need CAP_SYS_RESOURCE.
fn containerd_unit(unit: &str) -> String {
    unit.lines()
        .filter(|line| !line.starts_with("OOMScoreAdjust") && !line.starts_with("Limit"))
        .map(|line| line.replace("/usr/local/bin/containerd", "/usr/bin/containerd") + "\n")
        .collect()
}

/// The images that a cluster starts from.
struct Parts<'a> {
    cache: &'a Cache,
    root: &'a Path,
    work: &'a Path,
    images: &'a Path,
}

impl Parts<'_> {
    fn write_all(&self) -> Result<()> {
        let kubernetes = Artifact::Kubernetes.path(self.cache);
        let version = versions::KUBERNETES;
        for name in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
            let image = format!("registry.k8s.io/{name}:{version}");
            self.write_program(&image, &kubernetes.join(name), &format!("/usr/local/bin/{name}"))?;
        }
        for (image, artifact, program, place) in [
            (
                format!("registry.k8s.io/etcd:{}", versions::ETCD_TAG),
                Artifact::Etcd,
                "etcd",
                "/usr/local/bin/etcd",
            ),
            (
                format!("registry.k8s.io/coredns/coredns:{}", versions::COREDNS_TAG),
                Artifact::CoreDns,
                "coredns",
                "/coredns",
            ),
            (
                format!("registry.k8s.io/pause:{}", versions::PAUSE_TAG),
                Artifact::Pause,
                "pause",
                "/pause",
            ),
            (KINDNETD_IMAGE.to_owned(), Artifact::NodeTools, "kindnetd", "/usr/local/bin/kindnetd"),
            (
                provisioner_image(),
                Artifact::LocalPathProvisioner,
                "local-path-provisioner",
                "/usr/local/bin/local-path-provisioner",
            ),
        ] {
            self.write_program(&image, &artifact.path(self.cache).join(program), place)?;
        }
        self.write_busybox()?;
        self.write_kube_proxy(&kubernetes)
    }

    /// An image with one static program, which is also its entry point.
    fn write_program(&self, image: &str, program: &Path, place: &str) -> Result<()> {
        let dir = self.new_root(image)?;
        let inside = dir.join(place.trim_start_matches('/'));
        copy(program, &inside)?;
        executable(&inside)?;
        self.write(image, &dir, &[place])
    }

    fn write_busybox(&self) -> Result<()> {
        let dir = self.new_root(BUSYBOX_IMAGE)?;
        self.copy_with_libraries(&dir, &["bin/busybox"])?;
        let applets = Cmd::new(dir.join("bin/busybox")).arg("--list").output()?;
        for applet in applets.lines().filter(|name| !name.is_empty() && *name != "busybox") {
            symlink("busybox", dir.join("bin").join(applet))?;
        }
        self.write(BUSYBOX_IMAGE, &dir, &[])
    }

    /// kube-proxy runs iptables, whose extensions are libraries with needs of their own.
    fn write_kube_proxy(&self, kubernetes: &Path) -> Result<()> {
        let image = format!("registry.k8s.io/kube-proxy:{}", versions::KUBERNETES);
        let dir = self.new_root(&image)?;
        for name in ["usr/sbin", "run", "var/lib", LIBRARIES] {
            fs::create_dir_all(dir.join(name))?;
        }
        symlink("usr/sbin", dir.join("sbin"))?;
        let mut files =
            vec!["usr/sbin/xtables-nft-multi".to_owned(), "usr/sbin/conntrack".to_owned()];
        let extensions = format!("{LIBRARIES}/xtables");
        for name in files_of(&self.root.join(&extensions))? {
            if name.ends_with(".so") {
                files.push(format!("{extensions}/{name}"));
            }
        }
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        self.copy_with_libraries(&dir, &files)?;
        for v in ["iptables", "ip6tables"] {
            for name in [v.to_owned(), format!("{v}-save"), format!("{v}-restore")] {
                symlink("xtables-nft-multi", dir.join("usr/sbin").join(name))?;
            }
        }
        let ethertypes = self.root.join("etc/ethertypes");
        if ethertypes.exists() {
            copy(&ethertypes, &dir.join("etc/ethertypes"))?;
        }
        copy(&kubernetes.join("kube-proxy"), &dir.join("usr/local/bin/kube-proxy"))?;
        executable(&dir.join("usr/local/bin/kube-proxy"))?;
        // A missing library would show much later, as services that lose packets.
        for extension in ["addrtype", "comment", "conntrack", "mark", "statistic"] {
            Cmd::new("chroot")
                .path(&dir)
                .args_of(&["/usr/sbin/iptables", "-m", extension, "--help"])
                .run()
                .context("try the iptables of the kube-proxy image")?;
        }
        self.write(&image, &dir, &[])
    }

    /// Copies files of the node's system, and every library that the loader wants for them.
    fn copy_with_libraries(&self, dir: &Path, files: &[&str]) -> Result<()> {
        let mut ldd = Cmd::new("chroot").path(self.root).arg("ldd");
        for file in files {
            copy(&self.root.join(file), &dir.join(file))?;
            ldd = ldd.arg(format_args!("/{file}"));
        }
        for library in libraries(&ldd.output()?) {
            copy(&self.root.join(&library), &dir.join(&library))?;
        }
        Ok(())
    }

    fn new_root(&self, image: &str) -> Result<PathBuf> {
        let dir = self.work.join("roots").join(file_name(image));
        for name in ["tmp", "etc"] {
            fs::create_dir_all(dir.join(name))?;
        }
        Cmd::new("chmod").arg("1777").path(&dir.join("tmp")).run()?;
        write(&dir.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        write(&dir.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
        Ok(dir)
    }

    fn write(&self, name: &str, root: &Path, entrypoint: &[&str]) -> Result<()> {
        let image = Image { name, root, entrypoint, env: &[], stop_signal: None, compress: true };
        image.write(&self.images.join(format!("{}.tar", file_name(name))))
    }
}

/// Puts the archives into the content store of the node's containerd. Nothing is unpacked: a node
/// does that when it first uses an image.
fn preload(root: &Path, work: &Path, images: &Path) -> Result<()> {
    let store = root.join("var/lib/containerd");
    remove_tree(&store)?;
    // The path of a socket is limited to a hundred characters.
    let dir = tempfile::Builder::new().prefix("crdb-kind").tempdir()?;
    let socket = dir.path().join("containerd.sock").display().to_string();
    let config = PRELOAD_CONFIG
        .replace("@ROOT@", &store.display().to_string())
        .replace("@STATE@", &work.join("containerd-state").display().to_string())
        .replace("@SOCKET@", &socket);
    let config_file = dir.path().join("config.toml");
    write(&config_file, &config)?;
    let log = dir.path().join("log");
    let mut daemon = Command::new("containerd")
        .arg("--config")
        .arg(&config_file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .context("start containerd")?;
    let imported = import(&socket, images, &log);
    kill_process(Pid::from_child(&daemon), Signal::TERM).context("stop containerd")?;
    wait(&mut daemon, Duration::from_secs(30))?;
    imported
}

fn import(socket: &str, images: &Path, log: &Path) -> Result<()> {
    let ctr = || Cmd::new("ctr").args_of(&["--address", socket, "--namespace", "k8s.io"]);
    let end = now() + Duration::from_secs(30);
    while !ctr().arg("version").succeeds()? {
        if now() > end {
            bail!("containerd does not answer: {}", fs::read_to_string(log)?);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for name in files_of(images)? {
        ctr()
            .words("images import --all-platforms --no-unpack --digests")
            .path(&images.join(name))
            .run()?;
    }
    Ok(())
}

/// The paths, without the leading slash, in the output of ldd.
fn libraries(ldd: &str) -> Vec<String> {
    let mut paths: Vec<String> = ldd
        .split_whitespace()
        .filter(|word| word.starts_with("/lib") && !word.ends_with(':'))
        .map(|word| word.trim_start_matches('/').to_owned())
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

fn file_name(image: &str) -> String {
    image.replace(['/', ':'], "_")
}

fn files_of(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file has a directory")?)?;
    fs::copy(from, to)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
        .map(drop)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file has a directory")?)?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_names_the_image_that_is_preloaded() {
        assert!(CNI_MANIFEST.contains(KINDNETD_IMAGE));
    }

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let text = "/usr/sbin/a:\n\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7e)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7d)\n/lib/x/xtables/b.so:\n\
                    \tlibc.so.6 => /lib/x/libc.so.6 (0x7c)\n";
        assert_eq!(libraries(text), ["lib/x/libc.so.6", "lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn the_unit_of_containerd_fits_debian() {
        let unit = "ExecStart=/usr/local/bin/containerd\nLimitCORE=infinity\nTasksMax=infinity\n\
                    OOMScoreAdjust=-999\n";
        assert_eq!(containerd_unit(unit), "ExecStart=/usr/bin/containerd\nTasksMax=infinity\n");
    }
}
