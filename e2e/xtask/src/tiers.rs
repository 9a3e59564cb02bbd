//! The tiers of `cargo xtask test`, in one table, and how each is run.
//!
//! Invariants:
//! 1. What is in the table is run, whatever the machine lacks: a tier is never left out silently. A
//!    test target enters the table in the commit that adds it.
//! 2. A tier that does not build, crashes or overruns its deadline counts as one failed test.
//! 3. The last line printed is `N passed, N failed`, and the exit status agrees with it.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use crdb_kind::artifact::{Artifact, make_all};
use crdb_kind::{Cluster, ClusterConfig, Cmd, ControlPlane, Host, TestEnvironment};
use serde_json::Value;

use crate::images::{self, Images};
use crate::machine;
use crate::results::Counts;
use crate::workspace::{Profile, Workspace};

/// The cluster of the tests; never that of `cargo xtask up`.
const CLUSTER: &str = "crdb-test";

/// A tier: its name, how long it may take, and its parts.
struct Tier {
    name: &'static str,
    deadline: Duration,
    parts: &'static [Part],
}

/// Something that is run and counted.
enum Part {
    /// A cargo command that passes or fails as a whole.
    Check(&'static str),
    /// A cargo command that runs test programs.
    Tests(&'static str),
    /// The test targets of all crates that need nothing but themselves.
    UnitTests,
    /// A program of ours, built before, with its arguments; it passes or fails as a whole.
    Program(&'static str, &'static str),
    /// Test programs that run the programs of ours, built before, also with a clock to set.
    WithPrograms(&'static str),
    /// Test programs that run a control plane as plain processes.
    WithControlPlane(&'static str),
    /// Test programs, one after the other, that get one Kubernetes cluster, the images in it and the
    /// tools for it.
    OnKubernetes(&'static [&'static str]),
}

impl Part {
    /// Whether the tools to build Kubernetes, and a docker daemon, have to be there.
    fn needs_kubernetes(&self) -> bool {
        matches!(self, Part::OnKubernetes(_) | Part::WithControlPlane(_))
    }
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// Every `--workspace` is there so that all parts share one set of features, and so one build.
const TIERS: &[Tier] = &[
    Tier {
        name: "check",
        deadline: minutes(40),
        parts: &[
            Part::Check("fmt --all --check"),
            Part::Check("clippy --workspace --all-targets -- -D warnings"),
            Part::Check("doc --workspace --no-deps"),
            Part::Tests("test --workspace --test tidy"),
        ],
    },
    Tier { name: "unit", deadline: minutes(40), parts: &[Part::UnitTests] },
    Tier {
        name: "sim",
        deadline: minutes(20),
        parts: &[
            Part::Program("crdb-sim", "--seeds 500 --time-box 120"),
            Part::Program("crdb-sim", "--planted --seeds 500"),
        ],
    },
    Tier {
        name: "process",
        deadline: minutes(20),
        parts: &[Part::WithPrograms("test --workspace --test process")],
    },
    Tier {
        name: "operator",
        deadline: minutes(20),
        parts: &[Part::WithControlPlane("test --workspace --test operator --test manifests")],
    },
    Tier {
        name: "e2e",
        deadline: minutes(40),
        parts: &[Part::OnKubernetes(&[
            "test --workspace --test cluster",
            "test --workspace --test kubernetes",
        ])],
    },
];

/// Test targets that other tiers run.
const NOT_UNIT_TESTS: &[&str] =
    &["cluster", "kind", "kubernetes", "manifests", "operator", "process", "tidy"];

/// Runs all tiers, or one, and prints the sum.
pub(crate) fn test(workspace: &Workspace, tier: Option<&str>, filter: Option<&str>) -> Result<()> {
    let chosen: Vec<&Tier> =
        TIERS.iter().filter(|t| tier.is_none_or(|wanted| t.name == wanted)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TIERS.iter().map(|tier| tier.name).collect();
        bail!("there is no tier {}: there are {}", tier.unwrap_or_default(), names.join(", "));
    }
    if chosen.iter().any(|tier| tier.parts.iter().any(|p| p.needs_kubernetes())) {
        machine::ready_for_kubernetes(workspace.progress())?;
    } else {
        machine::ready_to_build(workspace.progress())?;
    }
    let workspace = workspace.with_rocksdb()?;
    let mut sum = Counts::default();
    let mut lines = Vec::new();
    for tier in chosen {
        let begun = workspace.progress().elapsed();
        workspace.progress().note(format_args!("tier {} ...", tier.name));
        let counts = run_tier(&workspace, tier, filter);
        let took = workspace.progress().elapsed().saturating_sub(begun);
        lines.push(format!("{:<10} {:>7.1} s  {counts}", tier.name, took.as_secs_f64()));
        workspace.progress().note(format_args!("tier {}: {counts}", tier.name));
        sum += counts;
    }
    for line in lines {
        workspace.progress().note(line);
    }
    writeln!(std::io::stdout(), "{sum}").context("print the result")?;
    ensure!(sum.failed == 0 && sum.passed > 0, "not all tests passed");
    Ok(())
}

/// A part that cannot even be started is a failed one: the others still run.
fn run_tier(workspace: &Workspace, tier: &Tier, filter: Option<&str>) -> Counts {
    let begun = workspace.progress().elapsed();
    let mut counts = Counts::default();
    for part in tier.parts {
        let used = workspace.progress().elapsed().saturating_sub(begun);
        let left = tier.deadline.saturating_sub(used);
        counts += run_part(workspace, part, left, filter).unwrap_or_else(|error| {
            workspace.progress().note(format_args!("error: {error:#}"));
            Counts { passed: 0, failed: 1 }
        });
    }
    counts
}

fn run_part(
    workspace: &Workspace,
    part: &Part,
    left: Duration,
    filter: Option<&str>,
) -> Result<Counts> {
    match part {
        Part::Check(line) => {
            let command = workspace.cargo(line).env("RUSTDOCFLAGS", "-D warnings");
            Ok(Counts::of_check(succeeded(workspace, command.deadline(left))?))
        }
        Part::Tests(line) => run_tests(workspace, workspace.cargo(line), left, filter),
        Part::UnitTests => {
            let mut command = workspace.cargo("test --workspace --lib --bins");
            for target in unit_test_targets(workspace)? {
                command = command.arg("--test").arg(target);
            }
            run_tests(workspace, command, left, filter)
        }
        Part::Program(program, args) => {
            build_programs(workspace, left)?;
            let program = workspace.programs(Profile::Dev).join(program);
            let command = Cmd::new(program).words(args).deadline(left);
            Ok(Counts::of_check(succeeded(workspace, command)?))
        }
        Part::WithPrograms(line) => {
            let test_clock = build_test_clock(workspace, left)?;
            build_programs(workspace, left)?;
            let cargo = workspace.cargo(line).envs(&our_programs(workspace));
            let cargo = cargo.env("CRDB_TEST_CLOCK_BIN", test_clock.display());
            run_tests(workspace, cargo, left, filter)
        }
        Part::WithControlPlane(line) => {
            let mut lanes = ControlPlane::ARTIFACTS.map(|artifact| vec![artifact]).to_vec();
            lanes.push(vec![Artifact::Cli]);
            make_all(&lanes, workspace.cache(), workspace.progress())?;
            build_programs(workspace, left)?;
            let mut env = ControlPlane::in_cache(workspace.cache()).to_env();
            let helm = Artifact::Cli.path(workspace.cache()).join("helm");
            env.push(("CRDB_E2E_HELM".to_owned(), helm.display().to_string()));
            env.extend(our_programs(workspace));
            run_tests(workspace, workspace.cargo(line).envs(&env), left, filter)
        }
        Part::OnKubernetes(lines) => on_kubernetes(workspace, |env| {
            let begun = workspace.progress().elapsed();
            let mut counts = Counts::default();
            for line in *lines {
                let used = workspace.progress().elapsed().saturating_sub(begun);
                let cargo = workspace.cargo(line).envs(env);
                counts += run_tests(workspace, cargo, left.saturating_sub(used), filter)?;
            }
            Ok(counts)
        }),
    }
}

/// Where tests find the programs of ours.
fn our_programs(workspace: &Workspace) -> Vec<(String, String)> {
    let dir = workspace.programs(Profile::Dev);
    [("CRDB_BIN", dir.join("crdb")), ("CRDB_E2E_BIN_DIR", dir)]
        .map(|(name, path)| (name.to_owned(), path.display().to_string()))
        .to_vec()
}

/// Builds the node whose clock tests can set off, and keeps it where no other build replaces it.
fn build_test_clock(workspace: &Workspace, left: Duration) -> Result<PathBuf> {
    let build = "build --workspace --bins --features crdb/test-clock";
    let built = succeeded(workspace, workspace.cargo(build).deadline(left))?;
    ensure!(built, "the programs do not build");
    let dir = workspace.programs(Profile::Dev);
    let (program, new) = (dir.join("crdb-test-clock"), dir.join("crdb-test-clock.new"));
    // Not over the old one: somebody may still run it.
    std::fs::copy(dir.join("crdb"), &new).context("copy the node with a test clock")?;
    std::fs::rename(&new, &program).context("rename the node with a test clock")?;
    Ok(program)
}

fn build_programs(workspace: &Workspace, left: Duration) -> Result<()> {
    let build = workspace.cargo("build --workspace --bins").deadline(left);
    ensure!(succeeded(workspace, build)?, "the programs do not build");
    Ok(())
}

fn run_tests(
    workspace: &Workspace,
    cargo: Cmd,
    left: Duration,
    filter: Option<&str>,
) -> Result<Counts> {
    let cargo = cargo.arg("--no-fail-fast").deadline(left);
    let cargo = match filter {
        Some(name) => cargo.arg("--").arg(name),
        None => cargo,
    };
    workspace.progress().note(&cargo);
    let mut counts = Counts::default();
    let status = cargo.status_seeing(|line| counts.see(line))?;
    if status.is_none() {
        workspace.progress().note("the deadline of the tier passed: its processes were ended");
    }
    Ok(counts.and_exit(status.is_some_and(|status| status.success())))
}

fn succeeded(workspace: &Workspace, command: Cmd) -> Result<bool> {
    workspace.progress().note(&command);
    let status = command.status()?;
    if status.is_none() {
        workspace.progress().note("the deadline of the tier passed: its processes were ended");
    }
    Ok(status.is_some_and(|status| status.success()))
}

/// The names of the integration tests of all crates, without those of other tiers.
fn unit_test_targets(workspace: &Workspace) -> Result<Vec<String>> {
    let text = workspace.cargo("metadata --format-version 1 --no-deps --locked").output()?;
    let metadata: Value = serde_json::from_str(&text)?;
    let list = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut names: Vec<String> = list(&metadata, "packages")
        .iter()
        .flat_map(|package| list(package, "targets"))
        .filter(|target| list(target, "kind").iter().any(|kind| kind == "test"))
        .filter_map(|target| Some(target.get("name")?.as_str()?.to_owned()))
        .filter(|name| !NOT_UNIT_TESTS.contains(&name.as_str()))
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Brings a cluster up with our images in it, runs the tests, and deletes it whatever they say.
fn on_kubernetes(
    workspace: &Workspace,
    tests: impl FnOnce(&[(String, String)]) -> Result<Counts>,
) -> Result<Counts> {
    let progress = workspace.progress();
    let images = images::build(workspace, Profile::Dev)?;
    let host = Host::find(workspace.cache(), progress)?;
    // What an interrupted run left would not be a clean start.
    if host.clusters()?.iter().any(|name| name == CLUSTER) {
        host.delete(CLUSTER)?;
    }
    let outcome = up_with_images(&host, &images)
        .and_then(|cluster| tests(&environment(workspace, &cluster, &host, &images)));
    let removed = progress.step("remove the test cluster", || host.down(CLUSTER));
    let mut counts = outcome?;
    if let Err(error) = removed {
        progress.note(format_args!("error: {error:#}"));
        counts += Counts::of_check(false);
    }
    Ok(counts)
}

fn up_with_images(host: &Host, images: &Images) -> Result<Cluster> {
    let cluster = host.up(&ClusterConfig::three_zones(CLUSTER))?;
    cluster.load_images(&images.all())?;
    Ok(cluster)
}

/// How tests on Kubernetes learn where everything is.
fn environment(
    workspace: &Workspace,
    cluster: &Cluster,
    host: &Host,
    images: &Images,
) -> Vec<(String, String)> {
    let tools = &host.facts().artifacts;
    let mut env = TestEnvironment {
        kubeconfig: cluster.kubeconfig(),
        kubectl: tools.kubectl.clone(),
        helm: tools.helm.clone(),
        bin_dir: workspace.programs(Profile::Dev),
        node_image: images.node.clone(),
        operator_image: images.operator.clone(),
        busybox_image: cluster.busybox_image().to_owned(),
    }
    .to_env();
    // Tests that cut or stop nodes reach them through docker.
    env.extend(host.docker().env());
    env
}
