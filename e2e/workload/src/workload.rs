//! What a workload is: tables, calls drawn at random, and a checker of their history.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Isolation, Session, Value};
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

    /// Whether what is promised holds at an isolation level.
    fn holds_at(isolation: Isolation) -> bool {
        isolation == Isolation::Serializable
    }

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

/// Bytes of all padding of a run; then it is short.
const PADDING_BYTES: i64 = 256 << 20;

/// Values that take room and say nothing, so that transactions of a few rows reach the bounds of the
/// database: most of a few bytes, some of kB, one of hundreds of several MiB.
#[derive(Debug)]
pub struct Padding {
    left: AtomicI64,
}

impl Default for Padding {
    fn default() -> Self {
        Padding { left: AtomicI64::new(PADDING_BYTES) }
    }
}

impl Padding {
    /// The value of a column; its size follows from a number that comes once in a run.
    pub fn of(&self, number: i64) -> Value {
        let mut rng = StdRng::seed_from_u64(number.unsigned_abs());
        let mut length = match rng.random_range(0..1000) {
            0..3 => rng.random_range(200_000..6 << 20),
            3..20 => rng.random_range(20_000..200_000),
            20..80 => rng.random_range(100..20_000),
            _ => rng.random_range(1..100),
        };
        let bytes = i64::try_from(length).unwrap_or(i64::MAX);
        if self.left.fetch_sub(bytes, Ordering::Relaxed) < bytes {
            length = length.min(100);
        }
        Value::Text("p".repeat(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(padding: &Padding, number: i64) -> usize {
        match padding.of(number) {
            Value::Text(text) => text.len(),
            Value::Int(_) => 0,
        }
    }

    #[test]
    fn padding_is_of_all_sizes_and_not_without_end() {
        let padding = Padding::default();
        let sizes: Vec<usize> = (0..2000).map(|number| bytes(&padding, number)).collect();
        for range in [1..100, 100..20_000, 20_000..200_000, 4 << 20..6 << 20] {
            let count = sizes.iter().filter(|size| range.contains(*size)).count();
            assert!(count > 0, "none of {range:?}");
        }
        assert_eq!(bytes(&Padding::default(), 7), sizes[7]);
        padding.left.store(0, Ordering::Relaxed);
        assert!((0..2000).all(|number| (1..=100).contains(&bytes(&padding, number))));
    }
}
