//! Rules about dependencies, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::text::{none, root};

/// Which crates of ours each may depend on directly. Those under `node/` stand in layers: one may use
/// every crate below it, never one above.
const LAYERS: &[&[&str]] = &[
    &["crdb-keys", "crdb-proto", "crdb-settings"],
    &["crdb-storage", "crdb-concurrency", "crdb-liveness", "crdb-allocator"],
    &["crdb-raftstore"],
    &["crdb-kv"],
    &["crdb-sqlfront"],
    &["crdb-sql"],
    &["crdb-pgwire"],
    &["crdb-server"],
    &["crdb"],
];
/// The crates beside the layers, with everything of ours that they may use.
const BESIDE: &[(&str, &[&str])] = &[
    ("crdb-shell", &[]),
    (
        "crdb-sim",
        &[
            "crdb-keys",
            "crdb-proto",
            "crdb-settings",
            "crdb-storage",
            "crdb-concurrency",
            "crdb-liveness",
            "crdb-allocator",
            "crdb-raftstore",
            "crdb-kv",
            "crdb-sqlfront",
            "crdb-sql",
        ],
    ),
    ("crdb-api", &[]),
    ("crdb-operator", &["crdb-api", "crdb-proto"]),
    ("kubectl-crdb", &["crdb-api", "crdb-proto", "crdb-shell"]),
    ("crdb-kind", &[]),
    ("xtask", &["crdb-kind"]),
    ("crdb-workload", &["crdb-proto"]),
    ("crdb-e2e", &["crdb-api", "crdb-proto", "crdb-kind", "crdb-workload"]),
];
/// The binary may use these besides what is below it.
const BINARY_ALSO: &[&str] = &["crdb-shell"];
/// Who may name a dependency of weight.
const ONLY: &[(&str, &[&str])] = &[
    ("rocksdb", &["crdb-storage"]),
    ("raft", &["crdb-raftstore"]),
    ("kube", &["crdb-operator", "crdb-api", "kubectl-crdb", "crdb-e2e"]),
    ("k8s-openapi", &["crdb-operator", "crdb-api", "kubectl-crdb", "crdb-e2e"]),
];
/// Licences that a dependency may be had under.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// The packages of which several versions are tolerated, each with a reason; one on a line.
const DUPLICATES: &str = include_str!("duplicates.txt");

struct Metadata(Value);

impl Metadata {
    fn read() -> Metadata {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            .current_dir(root())
            .output()
            .expect("cargo is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Metadata(serde_json::from_slice(&output.stdout).expect("cargo prints JSON"))
    }

    fn packages(&self) -> Vec<&Value> {
        self.0["packages"].as_array().expect("there are packages").iter().collect()
    }

    /// Ours have no source.
    fn ours(&self) -> Vec<&Value> {
        self.packages().into_iter().filter(|package| package["source"].is_null()).collect()
    }

    /// Packages that end up in a program of ours on Linux, by name. Those that only other systems
    /// need are in the lock file but are never compiled.
    fn resolved(&self) -> BTreeSet<String> {
        let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(root())
            .output()
            .expect("cargo is there");
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
        let nodes = metadata["resolve"]["nodes"].as_array().expect("there is a graph");
        nodes.iter().map(|node| text(node, "id")).collect()
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// The names in a package's manifest; `dev` says whether those of its tests count.
fn dependencies(package: &Value, dev: bool) -> Vec<String> {
    let list = package["dependencies"].as_array().expect("a package has dependencies");
    let counts = |dependency: &&Value| dev || dependency["kind"] != "dev";
    list.iter().filter(counts).map(|dependency| text(dependency, "name")).collect()
}

fn allowed(name: &str) -> Option<BTreeSet<&'static str>> {
    if let Some((_, list)) = BESIDE.iter().find(|(crate_name, _)| *crate_name == name) {
        return Some(list.iter().copied().collect());
    }
    let layer = LAYERS.iter().position(|layer| layer.contains(&name))?;
    let mut below: BTreeSet<&str> =
        LAYERS[..layer].iter().flat_map(|layer| layer.iter()).copied().collect();
    if layer == 0 {
        below.insert("crdb-keys"); // proto carries keys
        below.remove(name);
    }
    if layer + 1 == LAYERS.len() {
        below.extend(BINARY_ALSO);
    }
    Some(below)
}

#[test]
fn our_crates_depend_one_way() {
    let metadata = Metadata::read();
    let names: BTreeSet<String> =
        metadata.ours().iter().map(|package| text(package, "name")).collect();
    let mut offences = Vec::new();
    for package in metadata.ours() {
        let name = text(package, "name");
        let Some(allowed) = allowed(&name) else {
            offences.push(format!("{name} has no place in the table of layers"));
            continue;
        };
        for dependency in dependencies(package, false) {
            if names.contains(&dependency) && !allowed.contains(dependency.as_str()) {
                offences.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    none("dependencies point one way (see ARCHITECTURE.md)", &offences);
}

#[test]
fn dependencies_of_weight_have_one_home() {
    let metadata = Metadata::read();
    let mut offences = Vec::new();
    for package in metadata.ours() {
        let name = text(package, "name");
        for dependency in dependencies(package, true) {
            let rule = ONLY.iter().find(|(guarded, _)| *guarded == dependency);
            if let Some((_, homes)) = rule.filter(|(_, homes)| !homes.contains(&name.as_str())) {
                offences.push(format!("{name} names {dependency}: only {} may", homes.join(", ")));
            }
        }
    }
    none("some dependencies are named by one crate, so that they can be replaced", &offences);
}

#[test]
fn the_database_knows_nothing_of_kubernetes() {
    let mut offences = Vec::new();
    for package in Metadata::read().ours() {
        let manifest = text(package, "manifest_path");
        let inside = Path::new(&manifest).strip_prefix(root()).expect("ours are below the root");
        if !inside.starts_with("node") {
            continue;
        }
        for dependency in dependencies(package, true) {
            if dependency.starts_with("kube") || dependency.starts_with("k8s") {
                offences.push(format!("{} depends on {dependency}", text(package, "name")));
            }
        }
    }
    none("no crate under node/ knows Kubernetes", &offences);
}

#[test]
fn everything_comes_from_crates_io() {
    let offences: Vec<String> = Metadata::read()
        .packages()
        .into_iter()
        .filter(|package| !package["source"].is_null())
        .filter(|package| !text(package, "source").contains("github.com/rust-lang/crates.io-index"))
        .map(|package| format!("{} from {}", text(package, "name"), text(package, "source")))
        .collect();
    none("dependencies come from crates.io", &offences);
}

/// Whether an SPDX expression can be met with the licences above.
fn licence_is_fine(expression: &str) -> bool {
    // `A/B` is an old way to write `A OR B`.
    let expression = expression.replace('/', " OR ");
    let words = expression.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut position = 0;
    either(&words, &mut position) && position == words.len()
}

fn either(words: &[&str], position: &mut usize) -> bool {
    let mut fine = both(words, position);
    while words.get(*position) == Some(&"OR") {
        *position += 1;
        fine |= both(words, position);
    }
    fine
}

fn both(words: &[&str], position: &mut usize) -> bool {
    let mut fine = one(words, position);
    while words.get(*position) == Some(&"AND") {
        *position += 1;
        fine &= one(words, position);
    }
    fine
}

fn one(words: &[&str], position: &mut usize) -> bool {
    let Some(&word) = words.get(*position) else { return false };
    *position += 1;
    if word == "(" {
        let fine = either(words, position);
        *position += 1; // the closing bracket
        return fine;
    }
    let mut name = word.to_owned();
    if words.get(*position) == Some(&"WITH") {
        name = format!("{word} WITH {}", words.get(*position + 1).unwrap_or(&""));
        *position += 2;
    }
    LICENCES.contains(&name.as_str())
}

#[test]
fn licence_expressions_are_understood() {
    for fine in [
        "MIT",
        "MIT OR GPL-3.0",
        "MIT/Apache-2.0",
        "(MIT OR GPL-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(licence_is_fine(fine), "{fine}");
    }
    for not in ["GPL-3.0", "MIT AND GPL-3.0", "", "MIT MIT"] {
        assert!(!licence_is_fine(not), "{not}");
    }
}

#[test]
fn licences_are_permissive() {
    let offences: Vec<String> = Metadata::read()
        .packages()
        .into_iter()
        .filter(|package| !licence_is_fine(&text(package, "license")))
        .map(|package| format!("{}: {:?}", text(package, "name"), text(package, "license")))
        .collect();
    none("every dependency can be had under a licence of the list", &offences);
}

#[test]
fn there_is_one_version_of_each_dependency() {
    let metadata = Metadata::read();
    let resolved = metadata.resolved();
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for package in metadata.packages() {
        if resolved.contains(&text(package, "id")) {
            let major = major_of(&text(package, "version"));
            versions.entry(text(package, "name")).or_default().insert(major);
        }
    }
    versions.retain(|_, majors| majors.len() > 1);
    let tolerated: BTreeMap<&str, &str> = DUPLICATES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(": ").expect("a line is `name: reason`"))
        .collect();
    let mut offences = Vec::new();
    for (name, majors) in &versions {
        if !tolerated.contains_key(name.as_str()) {
            let majors: Vec<&str> = majors.iter().map(String::as_str).collect();
            offences.push(format!("{name} in versions {}", majors.join(" and ")));
        }
    }
    for name in tolerated.keys().filter(|name| !versions.contains_key(**name)) {
        offences.push(format!("{name} has one version by now: strike it from duplicates.txt"));
    }
    none("one major version of each dependency, or a reason in duplicates.txt", &offences);
}

/// The part of a version that a new release must change to be incompatible.
fn major_of(version: &str) -> String {
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    if major == "0" { format!("0.{minor}") } else { major.to_owned() }
}
