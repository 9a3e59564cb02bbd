//! What has to be on the machine: tool chains, which are only checked, and system packages, which
//! are installed when this runs as root.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use crdb_kind::tools::in_path;
use crdb_kind::{Cmd, Progress};
use rustix::process::geteuid;

/// Packages that are missing and that this user cannot install.
#[derive(Debug)]
pub(crate) struct PackagesMissing(Vec<&'static str>);

impl fmt::Display for PackagesMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "these system packages are missing and only root can install them; run\n    \
             apt-get install --no-install-recommends {}",
            self.0.join(" ")
        )
    }
}

impl std::error::Error for PackagesMissing {}

/// A tool that has to be there, with the lowest version that will do.
struct Tool {
    command: &'static [&'static str],
    lowest: (u32, u32),
    why: &'static str,
}

const RUST: Tool =
    Tool { command: &["rustc", "--version"], lowest: (1, 89), why: "to compile the product" };
const CPP: Tool =
    Tool { command: &["g++", "-dumpfullversion"], lowest: (11, 0), why: "to compile RocksDB" };
const PYTHON: Tool = Tool {
    command: &["python3", "--version"],
    lowest: (3, 8),
    why: "to fetch kubectl and helm, and to wrap runc",
};
const GO: Tool =
    Tool { command: &["go", "version"], lowest: (1, 24), why: "to compile kind and Kubernetes" };
const DOCKER: Tool = Tool {
    command: &["docker", "--version"],
    lowest: (20, 10),
    why: "the nodes of the local Kubernetes are containers",
};

/// A system package, and how one sees that what it brings is there.
struct Package {
    name: &'static str,
    sign: Sign,
}

enum Sign {
    /// A program in the path, or in the directories of the administrator's programs.
    Program(&'static str),
    /// A library whose file name begins so.
    Library(&'static str),
}

const TO_BUILD: &[Package] = &[
    Package { name: "libclang-dev", sign: Sign::Library("libclang") },
    Package { name: "ccache", sign: Sign::Program("ccache") },
];
const FOR_KUBERNETES: &[Package] = &[
    Package { name: "docker.io", sign: Sign::Program("dockerd") },
    Package { name: "containerd", sign: Sign::Program("ctr") },
    Package { name: "iptables", sign: Sign::Program("iptables") },
    Package { name: "debootstrap", sign: Sign::Program("debootstrap") },
];
/// Where libraries are on Debian, besides the directories of LLVM's versions.
const LIBRARY_DIRS: &[&str] = &["/usr/lib", "/usr/lib/x86_64-linux-gnu"];

/// Checks and installs what compiling needs.
pub(crate) fn ready_to_build(progress: &Progress) -> Result<()> {
    check_tools(&[RUST, CPP])?;
    install(TO_BUILD.iter(), progress)
}

/// Checks and installs what a local Kubernetes needs besides.
pub(crate) fn ready_for_kubernetes(progress: &Progress) -> Result<()> {
    check_tools(&[RUST, CPP, PYTHON, GO])?;
    install(TO_BUILD.iter().chain(FOR_KUBERNETES), progress)?;
    check_tools(&[DOCKER])
}

fn check_tools(tools: &[Tool]) -> Result<()> {
    for tool in tools {
        let (program, args) = tool.command.split_first().context("a tool has a name")?;
        let text = Cmd::new(program).args_of(args).output().with_context(|| {
            format!("{program} {} or newer is needed {}", version_text(tool.lowest), tool.why)
        })?;
        let Some(found) = version_in(&text) else {
            bail!("`{}` says {:?}, which has no version", tool.command.join(" "), text.trim());
        };
        if found < tool.lowest {
            bail!(
                "{program} is {}, but {} or newer is needed {}",
                version_text(found),
                version_text(tool.lowest),
                tool.why
            );
        }
    }
    Ok(())
}

fn version_text((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// The first word that has a major and a minor number.
fn version_in(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches(|c: char| !c.is_ascii_digit());
        let mut numbers = word.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

fn install<'a>(packages: impl Iterator<Item = &'a Package>, progress: &Progress) -> Result<()> {
    let missing: Vec<&str> =
        packages.filter(|package| !package.sign.is_there()).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !geteuid().is_root() || in_path("apt-get").is_none() {
        return Err(PackagesMissing(missing).into());
    }
    let apt = || Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").seconds(900);
    progress.step(&format!("install {}", missing.join(", ")), || {
        apt().words("update -qq").run()?;
        apt().words("install -qq -y --no-install-recommends").args_of(&missing).run()
    })
}

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Sign::Program(name) => {
                in_path(name).is_some()
                    || ["/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(name).is_file())
            }
            Sign::Library(prefix) => {
                std::env::var_os("LIBCLANG_PATH").is_some() || library_is_there(prefix)
            }
        }
    }
}

fn library_is_there(prefix: &str) -> bool {
    let has = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).any(|name| {
            // libclang.so and libclang-14.so.1, but not libclang-cpp.so
            let rest = name.strip_prefix(prefix).map(|rest| rest.trim_start_matches(['-', '.']));
            rest.is_some_and(|rest| rest.starts_with("so") || rest.starts_with(char::is_numeric))
        })
    };
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let llvm = llvm.map(|entry| entry.path()).filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("llvm-"))
    });
    LIBRARY_DIRS.iter().any(|dir| has(Path::new(dir)))
        || llvm.into_iter().any(|dir| has(&dir.join("lib")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_tools_say() {
        for (text, version) in [
            ("rustc 1.95.0 (59807616e 2026-04-14)", Some((1, 95))),
            ("go version go1.26.8 linux/amd64", Some((1, 26))),
            ("12.2.0\n", Some((12, 2))),
            ("Docker version 28.2.2, build e6534b4", Some((28, 2))),
            ("no number", None),
        ] {
            assert_eq!(version_in(text), version, "{text}");
        }
    }

    #[test]
    fn missing_packages_are_listed_as_a_command() {
        let text = PackagesMissing(vec!["docker.io", "debootstrap"]).to_string();
        assert!(text.ends_with("apt-get install --no-install-recommends docker.io debootstrap"));
    }
}
