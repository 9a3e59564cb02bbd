//! What helm makes of the charts. `UPDATE_EXPECT=1` rewrites `deploy/install.yaml`.
//!
//! Needs helm: the one that `CRDB_E2E_HELM` names, or the one on the search path.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NAMESPACE: &str = "crdb-operator";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn helm(args: &[&str]) -> Output {
    let program = std::env::var_os("CRDB_E2E_HELM").unwrap_or_else(|| "helm".into());
    Command::new(&program).args(args).current_dir(root()).output().unwrap_or_else(|error| {
        panic!("{}: {error}; run this test by `cargo xtask test operator`", program.display())
    })
}

fn template(chart: &str, args: &[&str]) -> Result<String, String> {
    let path = format!("charts/{chart}");
    let mut all = vec!["template", chart, &path, "--namespace", NAMESPACE];
    all.extend(args);
    let output = helm(&all);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("utf-8");
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn install_yaml_is_the_rendered_charts() {
    let definitions = template("crdb-operator-crds", &[]).expect("renders");
    let operator = template("crdb-operator", &["--no-hooks"]).expect("renders");
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: crdb-operator\n";
    let all = format!(
        "# Everything of both charts with their default values, for kubectl apply --server-side.\n\
         # Made by `cargo xtask manifests`.\n---\n{namespace}{definitions}{operator}"
    );
    // Lines that hold nothing but the indentation of a template say nothing.
    let all: String = all.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    expect_test::expect_file![root().join("deploy/install.yaml")].assert_eq(&all);
}

#[test]
fn the_rendered_definition_is_the_generated_one_and_is_kept() {
    let rendered = template("crdb-operator-crds", &[]).expect("renders");
    let mut rendered: serde_json::Value = serde_yaml::from_str(&rendered).expect("YAML");
    let kept = rendered["metadata"]["annotations"]["helm.sh/resource-policy"].take();
    assert_eq!(kept, "keep");
    rendered["metadata"].as_object_mut().expect("an object").remove("annotations");
    let path = root().join("crds/crdbclusters.yaml");
    let text = std::fs::read_to_string(path).expect("readable");
    let generated: serde_json::Value = serde_yaml::from_str(&text).expect("YAML");
    assert!(same(&rendered, &generated), "the chart changes the definition");
}

/// Equality of values, in which 1 and 1.0 are one number: helm writes limits without a point.
fn same(left: &serde_json::Value, right: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (left, right) {
        (Number(left), Number(right)) => left.as_f64() == right.as_f64(),
        (Array(left), Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(a, b)| same(a, b))
        }
        (Object(left), Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, a)| right.get(key).is_some_and(|b| same(a, b)))
        }
        (left, right) => left == right,
    }
}

#[test]
fn values_are_checked() {
    let refused = template("crdb-operator", &["--set", "replicas=many"]).expect_err("a word");
    assert!(refused.contains("replicas"), "{refused}");
    let refused = template("crdb-operator", &["--set", "imagee.tag=x"]).expect_err("misspelled");
    assert!(refused.contains("imagee"), "{refused}");
}

#[test]
fn watched_namespaces_need_no_rights_elsewhere() {
    let rendered = template("crdb-operator", &["--set", "watchNamespaces={db,other}"]);
    let rendered = rendered.expect("renders");
    assert!(!rendered.contains("kind: ClusterRole"), "{rendered}");
    for namespace in ["db", "other"] {
        assert!(rendered.contains(&format!("--watch-namespace={namespace}")), "{rendered}");
        assert!(rendered.contains(&format!("namespace: {namespace}\n")), "{rendered}");
    }
}

/// The Helm test works where the operator does, with rights there alone, and leaves nothing.
#[test]
fn the_helm_test_runs_in_a_watched_namespace() {
    let shown = ["--show-only", "templates/tests/smoke-test.yaml"];
    let here = template("crdb-operator", &shown).expect("renders");
    assert!(here.contains(&format!("--namespace={NAMESPACE}\n")), "{here}");
    let set = ["--set", "watchNamespaces={db,other}", "--set", "imagePullSecrets[0].name=pull"];
    let elsewhere =
        template("crdb-operator", &[shown, [set[0], set[1]], [set[2], set[3]]].concat());
    let elsewhere = elsewhere.expect("renders");
    for line in ["--namespace=db\n", "--node-pull-secret=pull\n"] {
        assert!(elsewhere.contains(line), "{elsewhere}");
    }
    assert_eq!(elsewhere.matches("  namespace: db\n").count(), 2, "role and binding: {elsewhere}");
    let policy = "helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed\n";
    assert_eq!(here.matches(policy).count(), here.matches("helm.sh/hook: test\n").count());
}

#[test]
fn the_charts_pass_lint() {
    for chart in ["charts/crdb-operator-crds", "charts/crdb-operator"] {
        let output = helm(&["lint", "--strict", chart]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
