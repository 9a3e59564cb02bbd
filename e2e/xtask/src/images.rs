//! The container images, from the repository's one Dockerfile and programs that were built here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use crdb_kind::archive::Image;
use crdb_kind::cache::Key;
use crdb_kind::docker::Docker;
use crdb_kind::{Cmd, Host, ImageSource};

use crate::workspace::{Profile, Workspace};

/// The names of the images that were built. Each image has two: with the version, which is what a
/// cluster of that version asks for, and with `dev`, for people.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    /// The image of a database node, with the version.
    pub(crate) node: String,
    /// The image of the operator, with the version.
    pub(crate) operator: String,
}

impl Images {
    fn of_this_version() -> Images {
        let named = |name: &str| format!("{name}:v{}", env!("CARGO_PKG_VERSION"));
        Images { node: named("crdb-node"), operator: named("crdb-operator") }
    }

    /// All names, for loading.
    pub(crate) fn all(&self) -> [&str; 2] {
        [&self.node, &self.operator]
    }
}

/// The name of an image that does not change with the version.
fn dev_name(name: &str) -> String {
    let (repository, _) = name.split_once(':').unwrap_or((name, ""));
    format!("{repository}:dev")
}

/// The programs, in the order of the Dockerfile's stages, which build all that stand above.
const PROGRAMS: &[&str] = &["crdb", "crdb-operator", "kubectl-crdb"];
/// What a program linked with the C and C++ libraries needs at run time.
const BASE_PACKAGES: &[&str] =
    &["base-files", "ca-certificates", "libc6", "libgcc-s1", "libstdc++6", "netbase", "tzdata"];
/// The base made from them; it has the same user as the usual base images without a shell.
const BASE_IMAGE: &str = "localhost/crdb-base:1";
const BASE_ACCOUNTS: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n\
         nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
];

/// Builds the programs and their images.
pub(crate) fn build(workspace: &Workspace, profile: Profile) -> Result<Images> {
    let progress = workspace.progress();
    progress.step("build the programs", || {
        // Tests share one set of features; what people run is built without those of the tests.
        let cargo = workspace.cargo(match profile {
            Profile::Dev => "build --workspace --bins",
            Profile::Release => {
                "build --release --package crdb --package crdb-operator --package kubectl-crdb"
            }
        });
        let status = cargo.status()?;
        ensure!(status.is_some_and(|status| status.success()), "`{cargo}` failed");
        Ok(())
    })?;
    let host = Host::find(workspace.cache(), progress)?;
    let staged = stage(workspace, profile)?;
    let base = match host.facts().source {
        ImageSource::Registry => None, // the Dockerfile names one
        ImageSource::Local => Some(load_base(workspace, host.docker())?),
    };
    let images = Images::of_this_version();
    for (target, name) in [("node-prebuilt", &images.node), ("operator-prebuilt", &images.operator)]
    {
        progress.step(&format!("build the image {name}"), || {
            // The classic builder is in every docker; it needs no plugin and no frontend image.
            let mut docker = host.docker().cmd().env("DOCKER_BUILDKIT", 0).seconds(300);
            docker = docker.args_of(&["build", "--quiet", "--target", target, "--tag", name]);
            docker = docker.arg("--tag").arg(dev_name(name));
            let version = concat!("org.opencontainers.image.version=v", env!("CARGO_PKG_VERSION"));
            docker = docker.args_of(&["--label", version]);
            if let Some(base) = &base {
                docker = docker.arg("--build-arg").arg(format_args!("BASE={base}"));
            }
            docker.path(staged.path()).run()
        })?;
    }
    Ok(images)
}

/// The build's context: the Dockerfile and the programs without what only a debugger reads.
fn stage(workspace: &Workspace, profile: Profile) -> Result<tempfile::TempDir> {
    let staged = tempfile::tempdir()?;
    fs::copy(workspace.root().join("Dockerfile"), staged.path().join("Dockerfile"))
        .context("copy the Dockerfile")?;
    for name in PROGRAMS {
        let built = workspace.programs(profile).join(name);
        let strip = Cmd::new("strip").arg("-o").path(&staged.path().join(name)).path(&built);
        strip.run().with_context(|| format!("stage {name}"))?;
    }
    Ok(staged)
}

/// Makes the base image when docker does not have it.
fn load_base(workspace: &Workspace, docker: &Docker) -> Result<&'static str> {
    if !docker.cmd().args_of(&["image", "inspect", BASE_IMAGE]).succeeds()? {
        let archive = base_archive(workspace)?;
        docker.cmd().words("load --quiet --input").path(&archive).run()?;
    }
    Ok(BASE_IMAGE)
}

fn base_archive(workspace: &Workspace) -> Result<PathBuf> {
    let accounts = BASE_ACCOUNTS.iter().map(|(_, text)| *text);
    let inputs = BASE_PACKAGES.iter().copied().chain(accounts).chain([BASE_IMAGE]);
    let key = Key::of(inputs.map(str::as_bytes));
    let dir = workspace.cache().get("base-image", &key, workspace.progress(), |site| {
        let work = tempfile::tempdir()?;
        let packages = work.path().join("packages");
        let root = work.path().join("root");
        fs::create_dir(&packages)?;
        fs::create_dir_all(root.join("home/nonroot"))?;
        // The name that apt drops its rights to must be able to write here; it is root's otherwise.
        let apt = || Cmd::new("apt-get").words("-qq -o APT::Sandbox::User=root").seconds(300);
        let download = || apt().arg("download").args_of(BASE_PACKAGES).dir(&packages);
        if download().run().is_err() {
            apt().arg("update").run()?; // a machine whose package lists are old or missing
            download().run()?;
        }
        unpack(&packages, &root)?;
        for (path, text) in BASE_ACCOUNTS {
            fs::write(root.join(path), text)?;
        }
        Cmd::new("chown").args_of(&["-R", "65532:65532"]).path(&root.join("home/nonroot")).run()?;
        let image = Image {
            name: BASE_IMAGE,
            root: &root,
            entrypoint: &[],
            env: &["SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
            stop_signal: None,
            compress: false,
        };
        image.write(&site.join("base.tar"))
    })?;
    Ok(dir.join("base.tar"))
}

/// Unpacks the packages without running their scripts; the one result of a script that matters is
/// the bundle of certificates.
fn unpack(packages: &Path, root: &Path) -> Result<()> {
    for entry in fs::read_dir(packages)? {
        Cmd::new("dpkg").arg("-x").path(&entry?.path()).path(root).run()?;
    }
    let mut certificates: Vec<PathBuf> =
        fs::read_dir(root.join("usr/share/ca-certificates/mozilla"))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()?;
    certificates.sort();
    let mut bundle = Vec::new();
    for path in certificates {
        bundle.extend(fs::read(path)?);
    }
    fs::create_dir_all(root.join("etc/ssl/certs"))?;
    fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), bundle)?;
    for junk in ["usr/share/doc", "usr/share/man", "usr/share/locale"] {
        crdb_kind::cache::remove_tree(&root.join(junk))?;
    }
    Ok(())
}
