//! The sample clusters decode and keep every rule of the schema; the chart of definitions holds
//! exactly the generated ones. `UPDATE_EXPECT=1` renews the chart's copy.

use std::path::{Path, PathBuf};

use crdb_api::CrdbCluster;
use kube::core::cel::validate_cel;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(dir: &str) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(root().join(dir)).expect("the directory exists");
    let mut files: Vec<(String, PathBuf)> = entries
        .map(|entry| entry.expect("readable"))
        .map(|entry| (entry.file_name().into_string().expect("utf-8"), entry.path()))
        .collect();
    files.sort();
    files
}

#[test]
fn samples_are_valid() {
    let samples = files("deploy/samples");
    assert!(samples.len() >= 2, "{samples:?}");
    for (name, path) in samples {
        let text = std::fs::read_to_string(path).expect("readable");
        let cluster: CrdbCluster =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        validate_cel(&cluster).unwrap_or_else(|error| panic!("{name}: {error}"));
        // A misspelled field would be dropped without a word.
        let written: serde_json::Value = serde_yaml::from_str(&text).expect("just parsed");
        let known = serde_json::to_value(&cluster).expect("serializes");
        assert_contains(&known, &written, &name);
    }
}

/// Every value of `part` is in `whole`.
fn assert_contains(whole: &serde_json::Value, part: &serde_json::Value, path: &str) {
    match (whole, part) {
        (serde_json::Value::Object(whole), serde_json::Value::Object(part)) => {
            for (key, value) in part {
                let found = whole.get(key).unwrap_or_else(|| panic!("{path}.{key} is no field"));
                assert_contains(found, value, &format!("{path}.{key}"));
            }
        }
        (serde_json::Value::Array(whole), serde_json::Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{path}");
            for (index, (whole, part)) in whole.iter().zip(part).enumerate() {
                assert_contains(whole, part, &format!("{path}[{index}]"));
            }
        }
        (whole, part) => assert_eq!(whole, part, "{path}"),
    }
}

#[test]
fn the_chart_holds_the_generated_definitions() {
    let generated = files("crds");
    let copies = files("charts/crdb-operator-crds/files");
    let names = |files: &[(String, PathBuf)]| -> Vec<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    let renewing = std::env::var_os("UPDATE_EXPECT").is_some();
    assert!(renewing || names(&generated) == names(&copies), "{generated:?} {copies:?}");
    for (name, path) in generated {
        let text = std::fs::read_to_string(path).expect("readable");
        let copy = root().join("charts/crdb-operator-crds/files").join(name);
        expect_test::expect_file![copy].assert_eq(&text);
    }
}

#[test]
fn versions_agree() {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    for chart in ["crdb-operator", "crdb-operator-crds"] {
        let path = root().join("charts").join(chart).join("Chart.yaml");
        let text = std::fs::read_to_string(path).expect("readable");
        let chart: serde_json::Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(chart["appVersion"], version.as_str());
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    }
    for (name, path) in files("deploy/samples") {
        let text = std::fs::read_to_string(path).expect("readable");
        let cluster: CrdbCluster = serde_yaml::from_str(&text).expect("decodes");
        assert_eq!(cluster.spec.version, version, "{name}");
    }
}
