//! A local multi-node Kubernetes for the end-to-end tests and for `cargo xtask up`.
//!
//! It is: the stock `kind` command line, driven; and, for machines that have no docker daemon or
//! reach no registry, everything that `kind` needs, built from Go modules and Debian packages.
//! It is not: a Kubernetes client (tests bring their own, they get a kubeconfig from here) and not
//! an installer of system packages (xtask does that before it calls).
//!
//! ```text
//! Host::find ──> facts ──> plan::create (pure) ──> steps ──> Cluster::up runs them
//!    │                                               ├─ Make(artifact): built once, cached by content
//!    └─ docker: a daemon that answers, or our own    └─ Run(command): kind, docker, kubectl
//! ```
//!
//! Invariants:
//! 1. What a cluster is made of is decided by [`plan`] alone, from a [`ClusterConfig`] and
//!    [`HostFacts`], without looking at the machine.
//! 2. A cached artifact is complete or absent: it is built beside its place and renamed.
//! 3. Only a docker daemon that this crate started is ever stopped, by its recorded process id, and
//!    only when no cluster is left on it.
//! 4. Every command has a deadline; its whole process group ends with it.

pub mod archive;
pub mod artifact;
pub mod cache;
pub mod cluster;
pub mod command;
pub mod config;
pub mod docker;
pub mod environment;
pub mod golang;
pub mod node_image;
pub mod plan;
pub mod progress;
pub mod tools;
pub mod versions;

pub use cluster::{Cluster, Host};
pub use command::Cmd;
pub use config::{ClusterConfig, HostPort};
pub use environment::{ControlPlane, TestEnvironment};
pub use plan::{HostFacts, ImageSource};
pub use progress::Progress;
