//! The rules of this repository that no compiler checks, as tests. Each failure names every offender
//! with its file and line.

#![expect(clippy::indexing_slicing, reason = "metadata of another shape shall fail the test")]

mod dependencies;
mod text;
