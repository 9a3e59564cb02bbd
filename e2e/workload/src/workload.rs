//! What a workload is: tables, calls drawn at random, and a checker of their history.

use std::time::Duration;

use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Session};
use crate::verdict::Verdict;

/// A table of a workload. Its primary key begins with an INT8 column.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns and its primary key, as in CREATE TABLE.
    pub columns: &'static str,
    /// Values of the first key column: where ranges can be split.
    pub keys: std::ops::Range<i64>,
}

/// A kind of load with a promise that its history shows.
pub trait Workload: Send + Sync + 'static {
    /// What is asked and, once it is answered, the answer.
    type Op: Clone + std::fmt::Debug + Serialize + Send + Sync + 'static;

    /// What people call it.
    const NAME: &'static str;

    /// After so long a call is given up.
    const CALL_TIMEOUT: Duration = Duration::from_secs(10);

    /// A new one, whose tables bear names that begin with `prefix`.
    fn new(prefix: &str) -> Self;

    /// The tables, which the driver makes.
    fn tables(&self) -> Vec<Table>;

    /// The rows that have to be there first, as statements.
    fn preload(&self) -> Vec<String> {
        Vec::new()
    }

    /// The next call of a client.
    fn next(&self, rng: &mut StdRng) -> Self::Op;

    /// Whether the call changes nothing, so that its outcome is never open.
    fn is_read(op: &Self::Op) -> bool;

    /// Makes a call and returns it with its answers.
    fn perform(
        &self,
        session: &mut Session,
        op: Self::Op,
    ) -> impl Future<Output = Result<Self::Op, Failure>> + Send;

    /// The reads that every node answers in the end, when all faults are healed.
    fn last(&self) -> Vec<Self::Op>;

    /// What the history shows. Calls come in the order of their completion at each client.
    fn check(&self, calls: &[Call<Self::Op>]) -> Verdict;
}
