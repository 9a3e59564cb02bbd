//! `cargo xtask <verb>`: every chore of this repository by one program.
//!
//! It is the only thing that a fresh machine and the continuous integration call; `make` forwards to
//! it. It installs what is missing, builds the slow outside things once into a cache, runs the other
//! programs with one environment and gives each stage a deadline. It holds no product code.
//!
//! Exit status: 0 done, 1 something failed, 2 wrong usage, 4 system packages are missing and cannot
//! be installed by this user.

mod images;
mod machine;
mod results;
mod rocksdb;
mod soak;
mod tiers;
mod up;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use crdb_kind::{Cmd, Progress};

use crate::machine::PackagesMissing;
use crate::workspace::{Profile, Workspace};

/// The exit status for missing packages.
const EXIT_PACKAGES: u8 = 4;
/// What a person runs by hand may take a day.
const BY_HAND_S: u64 = 24 * 3600;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of this repository")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring up a local Kubernetes with the operator and a three-zone cluster
    Up {
        /// Worker nodes in each of the three zones
        #[arg(long, env = "CRDB_KIND_WORKERS_PER_ZONE", default_value_t = 2,
              value_parser = clap::value_parser!(u8).range(1..=8))]
        workers_per_zone: u8,
        /// Only the Kubernetes cluster, with neither operator nor database
        #[arg(long)]
        kubernetes_only: bool,
    },
    /// Remove what `up` made
    Down,
    /// Run a cluster of the database in one process, without Kubernetes
    Demo {
        /// Arguments for `crdb demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check formatting, lints, tidiness and documentation
    Check,
    /// Run the tests: all tiers, or one
    Test {
        /// One tier: check, unit, sim, process, operator or e2e
        tier: Option<String>,
        /// Only tests whose name contains this
        name: Option<String>,
    },
    /// Run the simulation under seeds
    Sim {
        /// How many seeds
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Run workloads under faults and check what clients saw, optimised; not part of any test run
    Soak(soak::Soak),
    /// Measure three nodes on this machine, optimised; not part of any test run
    Bench {
        /// Run pgbench beside PostgreSQL instead, with these arguments: see `--pgbench -- --help`
        #[arg(long)]
        pgbench: bool,
        /// Arguments of that benchmark
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Rewrite the expected output of golden tests
    Golden,
    /// Rewrite `crds/` from the types
    Crds,
    /// Rewrite the rendered manifests in `deploy/`
    Manifests,
    /// Build the container images crdb-node:dev and crdb-operator:dev
    Image {
        /// Optimised programs instead of those of the tests
        #[arg(long)]
        release: bool,
    },
}

fn main() -> ExitCode {
    let progress = Progress::new();
    match run(&Args::parse().verb, &progress) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress.note(format_args!("error: {error:#}"));
            let packages = error.is::<PackagesMissing>();
            ExitCode::from(if packages { EXIT_PACKAGES } else { 1 })
        }
    }
}

fn run(verb: &Verb, progress: &Progress) -> Result<()> {
    let workspace = Workspace::find(progress)?;
    match verb {
        Verb::Up { workers_per_zone, kubernetes_only } => {
            machine::ready_for_kubernetes(progress)?;
            if *kubernetes_only {
                return up::kubernetes(&workspace, *workers_per_zone);
            }
            up::up(&workspace.with_rocksdb()?, *workers_per_zone)
        }
        Verb::Down => up::down(&workspace),
        Verb::Demo { args } => {
            machine::ready_to_build(progress)?;
            let demo = workspace.with_rocksdb()?.cargo("run --release --package crdb -- demo");
            passed(args.iter().fold(demo, |demo, arg| demo.arg(arg)))
        }
        Verb::Check => tiers::test(&workspace, Some("check"), None),
        Verb::Test { tier, name } => tiers::test(&workspace, tier.as_deref(), name.as_deref()),
        Verb::Sim { seeds, from } => sim(&workspace, Profile::Dev, *seeds, *from),
        Verb::Soak(soak) => soak::run(&workspace, soak),
        Verb::Bench { pgbench, args } => {
            let (package, name) =
                if *pgbench { ("crdb-workload", "pgbench") } else { ("crdb-e2e", "node") };
            bench(&workspace, package, name, args)
        }
        Verb::Golden => {
            machine::ready_to_build(progress)?;
            let workspace = workspace.with_rocksdb()?;
            passed(rewriting(workspace.cargo("test --workspace --lib --bins --no-fail-fast")))?;
            crds(&workspace)?;
            manifests(&workspace)
        }
        Verb::Crds => crds(&workspace),
        Verb::Manifests => manifests(&workspace),
        Verb::Image { release } => {
            machine::ready_for_kubernetes(progress)?;
            let profile = if *release { Profile::Release } else { Profile::Dev };
            images::build(&workspace.with_rocksdb()?, profile).map(drop)
        }
    }
}

fn sim(workspace: &Workspace, profile: Profile, seeds: u64, from: u64) -> Result<()> {
    machine::ready_to_build(workspace.progress())?;
    let cargo = workspace.with_rocksdb()?.cargo("run --package crdb-sim");
    let cargo = if profile == Profile::Release { cargo.arg("--release") } else { cargo };
    passed(cargo.words(&format!("-- --seeds {seeds} --from {from}")))
}

fn bench(workspace: &Workspace, package: &str, name: &str, args: &[String]) -> Result<()> {
    machine::ready_to_build(workspace.progress())?;
    let workspace = workspace.with_rocksdb()?;
    // On its own, so that the node is built without the features of the tests.
    passed(workspace.cargo("build --release --package crdb"))?;
    let node = workspace.programs(Profile::Release).join("crdb");
    let bench = workspace.cargo("bench").args_of(&["--package", package, "--bench", name]);
    let bench = bench.env("CRDB_BIN", node.display()).arg("--");
    passed(args.iter().fold(bench, |bench, arg| bench.arg(arg)))
}

fn crds(workspace: &Workspace) -> Result<()> {
    passed(rewriting(workspace.cargo("test --package crdb-api --test crd_files")))
}

fn manifests(workspace: &Workspace) -> Result<()> {
    let tools = crdb_kind::artifact::Artifact::Cli.make(workspace.cache(), workspace.progress())?;
    let cargo = workspace.cargo("test --package crdb-operator --test manifests");
    passed(rewriting(cargo.env("CRDB_E2E_HELM", tools.join("helm").display())))
}

/// The two test libraries that keep expected output rewrite it when these are set.
fn rewriting(cargo: Cmd) -> Cmd {
    cargo.env("UPDATE_EXPECT", 1).env("UPDATE_GOLDENFILES", 1)
}

/// Runs a command on the terminal; an exit status other than 0 is an error.
fn passed(command: Cmd) -> Result<()> {
    let command = command.seconds(BY_HAND_S);
    let status = command.status()?;
    ensure!(status.is_some_and(|status| status.success()), "`{command}` failed");
    Ok(())
}
