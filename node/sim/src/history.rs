//! Histories of single keys, and whether they are linearizable.
//!
//! The search is Wing and Gong's with Lowe's memory of visited states. Every written value is
//! unique, which makes a write with an unknown outcome easy: if nobody saw its value it can be left
//! out, for leaving it out changes nothing that anybody saw; if somebody did, it took effect.

use std::collections::{BTreeSet, HashSet};

/// Most operations of one key in a run.
pub(crate) const MAX_OPS: usize = 120;

/// A value of a key; `None` where there is no key.
pub(crate) type Value = Option<u64>;

/// What an operation did, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Wrote a value.
    Put(u64),
    /// Read a value.
    Get(Value),
    /// Replaced one value by another.
    Cas(Value, u64),
    /// Found another value than the one it would have replaced.
    CasFailed(Value),
}

impl Action {
    fn writes(self) -> Option<u64> {
        match self {
            Self::Put(value) | Self::Cas(_, value) => Some(value),
            Self::Get(_) | Self::CasFailed(_) => None,
        }
    }

    fn sees(self) -> Option<Value> {
        match self {
            Self::Put(_) => None,
            Self::Get(value) | Self::Cas(value, _) | Self::CasFailed(value) => Some(value),
        }
    }

    /// The value after the operation, if it can happen at `value`.
    fn apply(self, value: Value) -> Option<Value> {
        match self.sees() {
            Some(seen) if seen != value => None,
            _ => Some(self.writes().map_or(value, Some)),
        }
    }
}

/// One operation on a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) client: usize,
    pub(crate) invoked: u64,
    /// When its outcome was known; `u64::MAX` while it is not.
    pub(crate) returned: u64,
    pub(crate) action: Action,
    /// The client never learned whether it took effect.
    pub(crate) ambiguous: bool,
}

/// Leaves out writes of unknown outcome that nobody saw; the others are certain.
fn settle(ops: &[Op]) -> Vec<Op> {
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let mut settled: Vec<Op> = ops.iter().filter(|op| !op.ambiguous).copied().collect();
    seen.extend(settled.iter().filter_map(|op| op.action.sees().flatten()));
    loop {
        let found: Vec<Op> = ops
            .iter()
            .filter(|op| op.ambiguous && op.action.writes().is_some_and(|v| seen.contains(&v)))
            .filter(|op| settled.iter().all(|other| other.action != op.action))
            .copied()
            .collect();
        if found.is_empty() {
            return settled;
        }
        seen.extend(found.iter().filter_map(|op| op.action.sees().flatten()));
        settled.extend(found.into_iter().map(|op| Op { returned: u64::MAX, ..op }));
    }
}

/// Checks one key's history; an error describes it.
pub(crate) fn check(ops: &[Op]) -> Result<(), String> {
    let mut ops = settle(ops);
    ops.sort_by_key(|op| (op.invoked, op.returned));
    assert!(ops.len() <= 128, "a history of one key is bounded");
    let all = if ops.len() == 128 { u128::MAX } else { (1 << ops.len()) - 1 };
    // Those of unknown return need not be last: they are done once all others are.
    let mut visited: HashSet<(u128, Value)> = HashSet::new();
    let mut stack: Vec<(u128, Value)> = vec![(0, None)];
    let mut furthest = 0;
    while let Some((done, value)) = stack.pop() {
        if done == all {
            return Ok(());
        }
        if !visited.insert((done, value)) {
            continue;
        }
        furthest = furthest.max(done.count_ones());
        let open = || ops.iter().enumerate().filter(|(at, _)| done & (1 << at) == 0);
        let first_return = open().map(|(_, op)| op.returned).min().unwrap_or(u64::MAX);
        for (at, op) in open().take_while(|(_, op)| op.invoked <= first_return) {
            if let Some(next) = op.action.apply(value) {
                stack.push((done | 1 << at, next));
            }
        }
    }
    let lines: Vec<String> = ops
        .iter()
        .map(|op| {
            let returned = match op.returned {
                u64::MAX => "?".to_owned(),
                at => format!("{:.3}", millis(at)),
            };
            format!("  {:.3}..{returned} c{} {:?}", millis(op.invoked), op.client, op.action)
        })
        .collect();
    Err(format!("not linearizable beyond {furthest} operations:\n{}", lines.join("\n")))
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(invoked: u64, returned: u64, action: Action) -> Op {
        Op { client: 0, invoked, returned, action, ambiguous: false }
    }

    fn unknown(invoked: u64, action: Action) -> Op {
        Op { client: 0, invoked, returned: u64::MAX, action, ambiguous: true }
    }

    #[test]
    fn concurrent_operations_may_take_either_order() {
        let put = [op(0, 10, Action::Put(1)), op(5, 15, Action::Put(2))];
        for seen in [1, 2] {
            let get = op(20, 21, Action::Get(Some(seen)));
            check(&[put[0], put[1], get]).unwrap();
        }
        check(&[put[0], put[1], op(20, 21, Action::Get(None))]).unwrap_err();
    }

    #[test]
    fn a_stale_read_is_found() {
        let ops = [
            op(0, 1, Action::Put(1)),
            op(2, 3, Action::Put(2)),
            op(4, 5, Action::Get(Some(2))),
            op(6, 7, Action::Get(Some(1))),
        ];
        check(&ops[..3]).unwrap();
        check(&ops).unwrap_err();
    }

    #[test]
    fn a_lost_write_is_found() {
        check(&[op(0, 1, Action::Put(1)), op(2, 3, Action::Get(None))]).unwrap_err();
        check(&[op(0, 1, Action::Cas(None, 1)), op(2, 3, Action::Cas(None, 2))]).unwrap_err();
    }

    #[test]
    fn an_unknown_write_happens_or_not_but_not_both() {
        let write = unknown(0, Action::Put(1));
        check(&[write, op(2, 3, Action::Get(None))]).unwrap();
        check(&[write, op(2, 3, Action::Get(None)), op(4, 5, Action::Get(Some(1)))]).unwrap();
        let gone = [write, op(2, 3, Action::Get(Some(1))), op(4, 5, Action::Get(None))];
        check(&gone).unwrap_err();
        // Through a chain of writes whose outcome is unknown as well.
        let chain = [write, unknown(1, Action::Cas(Some(1), 2)), op(4, 5, Action::Get(Some(2)))];
        check(&chain).unwrap();
        check(&[op(2, 3, Action::Get(Some(1))), unknown(4, Action::Put(1))]).unwrap_err();
    }

    #[test]
    fn a_failed_comparison_saw_the_value() {
        let ops = [op(0, 1, Action::Put(1)), op(2, 3, Action::CasFailed(Some(1)))];
        check(&ops).unwrap();
        check(&[ops[0], op(2, 3, Action::CasFailed(None))]).unwrap_err();
    }
}
