//! The operator against a real API server.
//!
//! etcd, kube-apiserver and kube-controller-manager run as plain processes, shared by all tests;
//! the harness plays scheduler, kubelet and volume provisioner, and the database: a scripted
//! admin server on a loopback address of its own for each pod. Every test has a namespace, an
//! operator process with the rights of the rendered chart, and a block of loopback addresses.

#![expect(clippy::indexing_slicing, reason = "a look-up that fails is a test that fails")]
#![expect(clippy::print_stderr, reason = "what the harness saw is shown with a failed test")]

mod admission;
mod bench;
mod control_plane;
mod crash;
mod database;
mod kubelet;
mod lifecycle;
mod process;
