//! The product as its users meet it: charts, operator, database and plugin on a real Kubernetes.
//!
//! `cargo xtask test e2e` brings up the cluster, loads the images and says by environment variables
//! where everything is (`crdb_kind::TestEnvironment`); with these set, any other empty Kubernetes
//! with workers in the zones of `deploy/samples/cluster.yaml` will do. What users do is done with
//! kubectl, helm and the plugin; waiting and comparing is done with a client in this process, which
//! costs less than starting a program at every look.
//!
//! The tests share one installation of the operator, made from nothing by the first that asks
//! ([`installation`]), and one three-zone database ([`zones`]); each of them can run alone and in
//! any order. Everything else is in a namespace of the test's own. What fails is explained on
//! stderr: descriptions, events, logs ([`bench::explained`]).
//!
//! Invariants:
//! 1. a test that takes the operator away has the Kubernetes to itself, and brings it back;
//! 2. nothing of somebody else is touched: clusters that these tests did not make end the run.

#![expect(clippy::print_stderr, reason = "what explains a failure is shown with it")]

mod bench;
mod durability;
mod identity;
mod install;
mod installation;
mod refusals;
mod sql;
mod views;
mod zones;
