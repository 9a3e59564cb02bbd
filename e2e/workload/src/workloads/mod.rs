//! The workloads, each with its checker: what CockroachDB and its peers were tested with.
//!
//! | name | promise |
//! |---|---|
//! | bank | transfers keep the sum, and each account holds what its transfers say |
//! | sets | what was acknowledged is there, at once and for good; what failed is not |
//! | register | each key is linearizable |
//! | monotonic | `max + 1` under concurrency counts without gap or repetition, in real time |
//! | sequential | who sees a later write of a process sees its earlier ones |
//! | comments | information: how often a later write is seen without an earlier one of another process |
//! | long-fork | no two readers see two writes in opposite orders |
//! | g2 | of two transactions that each look for the other's row, one commits at most |
//! | as-of | reads as of a time agree, at leaseholders and followers |
//! | list-append | the dependencies of random transactions have no cycle (crate `adya`) |

pub mod as_of;
pub mod bank;
pub mod comments;
pub mod g2;
pub mod list_append;
pub mod long_fork;
pub mod monotonic;
pub mod register;
pub mod sequential;
pub mod sets;
