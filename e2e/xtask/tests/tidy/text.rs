//! Rules about the text of files that git tracks, or would track.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Rust file has at most so many lines; 600 are enough for most.
const MOST_LINES: usize = 800;
/// A Rust file of more lines opens with a description.
const LINES_WITHOUT_DESCRIPTION: usize = 60;
/// Marks of unfinished work, written so that this file does not contain them.
const UNFINISHED: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimple", "mented!(")];
/// What belongs to the machine somebody worked on, not into the product.
const FOREIGN: &[&str] = &[
    concat!("/work", "/"),
    concat!("/ro", "ot/"),
    concat!("/tmp", "/t/"),
    concat!("/tmp", "/brief"),
    concat!("shared", "/design"),
    concat!("proxy", ".golang"),
    concat!("sum", ".golang"),
    concat!("pypi", ".org"),
    concat!("index", ".crates"),
    concat!("static", ".crates"),
];

/// The top directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels below the root")
}

/// A file of the repository that is text.
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn has_extension(&self, extensions: &[&str]) -> bool {
        self.path.extension().is_some_and(|ext| extensions.iter().any(|wanted| ext == *wanted))
    }
}

/// What git tracks, and what it would track, and is there.
fn files() -> Vec<File> {
    let list = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is there");
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    let names = String::from_utf8(list.stdout).expect("names are UTF-8");
    let mut files = Vec::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        // Absent: deleted, or renamed in this moment. Not UTF-8: not text.
        if let Ok(text) = fs::read_to_string(root().join(name)) {
            files.push(File { path: name.into(), text });
        }
    }
    assert!(files.len() > 20, "only {} files found", files.len());
    files
}

/// Fails with the list of offences, if there are any.
pub(crate) fn none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n    {}\n", offences.join("\n    "));
}

/// Every line of the chosen files that offends, as `file:line: text`.
fn lines_that(
    files: &[File],
    chosen: impl Fn(&File) -> bool,
    offends: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut offences = Vec::new();
    for file in files.iter().filter(|file| chosen(file)) {
        for (number, line) in file.text.lines().enumerate() {
            if offends(line) {
                offences.push(format!("{}:{}: {}", file.path.display(), number + 1, line.trim()));
            }
        }
    }
    offences
}

#[test]
fn rust_files_are_not_giants() {
    let offences: Vec<String> = files()
        .iter()
        .filter(|file| file.has_extension(&["rs"]))
        .map(|file| (file.path.display(), file.text.lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    none(&format!("a Rust file has at most {MOST_LINES} lines"), &offences);
}

#[test]
fn modules_of_weight_open_with_a_description() {
    let offences: Vec<String> = files()
        .iter()
        .filter(|file| file.has_extension(&["rs"]))
        .filter(|file| {
            let name = file.path.file_name().unwrap_or_default();
            let entry = ["lib.rs", "main.rs", "mod.rs"].iter().any(|entry| name == *entry);
            entry || file.text.lines().count() > LINES_WITHOUT_DESCRIPTION
        })
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path.display().to_string())
        .collect();
    none("a module of weight opens with `//! `", &offences);
}

#[test]
fn no_tabs_and_no_trailing_spaces() {
    let chosen = |file: &File| file.has_extension(&["rs", "toml", "yaml", "yml", "proto"]);
    let offences = lines_that(&files(), chosen, |line| {
        line.contains('\t') || line.ends_with(' ') || line.ends_with('\r')
    });
    none("no tabs, no spaces at the end of a line", &offences);
}

/// Where the `resume` of an answer may be named: who makes it, who goes on by it, who hands it on as a
/// type that has to be looked at.
const GOES_ON: &[&str] = &[
    "node/storage/src/",
    "node/kv/src/split.rs",
    "node/kv/src/look_up.rs",
    "node/kv/src/scripts/",
    "node/kv/src/txn/buffer.rs",
    "node/kv/src/txn/coordinator.rs",
    "node/kv/src/txn/tests/",
    "node/sql/src/kv.rs",
    "node/server/src/node/gc_loop.rs",
    "node/sim/src/txn/steps.rs",
];

#[test]
fn what_an_answer_leaves_is_looked_at_in_few_places() {
    let chosen = |file: &File| {
        let path = file.path.to_string_lossy();
        path.starts_with("node/")
            && file.has_extension(&["rs"])
            && !GOES_ON.iter().any(|place| path.starts_with(place))
    };
    let offences = lines_that(&files(), chosen, |line| line.contains(".resume"));
    none("a partial answer is taken apart in few places only (kv::Rest)", &offences);
}

#[test]
fn nothing_is_left_for_later() {
    let chosen = |file: &File| file.has_extension(&["rs", "go", "py", "yaml", "sh"]);
    let offences =
        lines_that(&files(), chosen, |line| UNFINISHED.iter().any(|word| line.contains(word)));
    none("unfinished work is in the issues, not in the code", &offences);
}

#[test]
fn the_product_speaks_of_itself_only() {
    let everything = |file: &File| !file.path.ends_with("Cargo.lock");
    let offences =
        lines_that(&files(), everything, |line| FOREIGN.iter().any(|word| line.contains(word)));
    none("no paths and hosts of a machine that somebody worked on", &offences);
}

/// Golden scripts lie in directories named `testdata`, or `testscripts`; what they print, too.
#[test]
fn golden_scripts_say_what_they_are_about() {
    let offences: Vec<String> = files()
        .iter()
        .filter(|file| {
            file.path.components().any(|part| {
                ["testdata", "testscripts"].iter().any(|name| part.as_os_str() == *name)
            })
        })
        .filter(|file| file.path.extension().is_none())
        .filter(|file| !file.text.starts_with("# "))
        .map(|file| file.path.display().to_string())
        .collect();
    none("a golden script opens with a comment that says what it shows", &offences);
}

/// Objects for Kubernetes, not templates: each document has what every object has.
#[test]
fn samples_are_objects() {
    let mut offences = Vec::new();
    for file in files() {
        if !file.path.starts_with("deploy") || !file.has_extension(&["yaml"]) {
            continue;
        }
        for document in serde_yaml::Deserializer::from_str(&file.text) {
            use serde::Deserialize as _;
            match serde_yaml::Value::deserialize(document) {
                Ok(serde_yaml::Value::Null) => {}
                Ok(object) => {
                    let name = object.get("metadata").and_then(|metadata| metadata.get("name"));
                    if object.get("apiVersion").is_none()
                        || object.get("kind").is_none()
                        || name.is_none()
                    {
                        offences.push(format!(
                            "{}: an object without a kind or a name",
                            file.path.display()
                        ));
                    }
                }
                Err(error) => offences.push(format!("{}: {error}", file.path.display())),
            }
        }
    }
    none("samples parse", &offences);
}
