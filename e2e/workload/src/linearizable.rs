//! Whether the history of one register is linearizable: Wing and Gong's search in Lowe's form.
//!
//! The search takes effect after effect, each of a call that no other call has to precede, goes back
//! where it cannot go on, and remembers every pair of (calls taken, value) that led nowhere. Calls of
//! unknown outcome may take effect at any later time or never. Values are unique for each write, so a
//! write of unknown outcome whose value nobody saw is left out: it can always be placed last.

use std::collections::{BTreeSet, HashSet};

/// What a call did to the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It read this value.
    Read(i64),
    /// It wrote this value.
    Write(i64),
    /// It found the first value and wrote the second.
    Swap(i64, i64),
}

impl Action {
    fn apply(self, value: i64) -> Option<i64> {
        match self {
            Action::Read(seen) => (seen == value).then_some(value),
            Action::Write(new) => Some(new),
            Action::Swap(old, new) => (old == value).then_some(new),
        }
    }

    fn needs(self) -> Option<i64> {
        match self {
            Action::Read(value) | Action::Swap(value, _) => Some(value),
            Action::Write(_) => None,
        }
    }

    fn makes(self) -> Option<i64> {
        match self {
            Action::Write(value) | Action::Swap(_, value) => Some(value),
            Action::Read(_) => None,
        }
    }
}

/// A call that took effect, or may have.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What it did.
    pub action: Action,
    /// The number of its invocation.
    pub invoked: u64,
    /// The number of its completion; `None` if its outcome is unknown.
    pub completed: Option<u64>,
}

/// What the search says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is an order.
    Linearizable,
    /// There is none; the longest order that was found has so many of the calls.
    Not(usize),
    /// The search was given up after this many steps.
    GivenUp(u64),
}

/// Searches for an order, with at most `budget` steps.
#[must_use]
pub fn check(initial: i64, steps: &[Step], budget: u64) -> Answer {
    let mut steps = without_unseen(steps);
    steps.sort_by_key(|step| step.invoked);
    Search::new(&steps).run(initial, budget)
}

/// Drops the calls of unknown outcome that changed nothing anybody saw, until none is left.
fn without_unseen(steps: &[Step]) -> Vec<Step> {
    let mut kept = steps.to_vec();
    loop {
        let seen: BTreeSet<i64> = kept.iter().filter_map(|step| step.action.needs()).collect();
        let before = kept.len();
        kept.retain(|step| {
            let unseen = step.action.makes().is_none_or(|value| !seen.contains(&value));
            step.completed.is_some() || !unseen
        });
        if kept.len() == before {
            return kept;
        }
    }
}

/// A set of calls.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Taken(Vec<u64>);

impl Taken {
    fn new(size: usize) -> Self {
        Taken(vec![0; size.div_ceil(64)])
    }

    fn set(&mut self, n: usize, on: bool) {
        if let Some(word) = self.0.get_mut(n / 64) {
            let bit = 1 << (n % 64);
            *word = if on { *word | bit } else { *word & !bit };
        }
    }

    fn has(&self, n: usize) -> bool {
        self.0.get(n / 64).is_some_and(|word| word & (1 << (n % 64)) != 0)
    }
}

struct Search<'a> {
    /// By invocation.
    steps: &'a [Step],
    /// How many of them have to take effect.
    certain: usize,
    taken: Taken,
    /// Every call before it is taken.
    first: usize,
    seen: HashSet<(Taken, i64)>,
}

/// A choice that can be taken back.
struct Choice {
    step: usize,
    value_before: i64,
    first_before: usize,
    /// The next candidate to try in its place.
    next: usize,
}

impl<'a> Search<'a> {
    fn new(steps: &'a [Step]) -> Self {
        Search {
            steps,
            certain: steps.iter().filter(|step| step.completed.is_some()).count(),
            taken: Taken::new(steps.len()),
            first: 0,
            seen: HashSet::new(),
        }
    }

    fn run(mut self, initial: i64, budget: u64) -> Answer {
        let (mut value, mut from, mut longest, mut done) = (initial, 0, 0, 0);
        let mut choices: Vec<Choice> = Vec::new();
        for tried in 0.. {
            if done == self.certain {
                return Answer::Linearizable;
            }
            if tried == budget {
                return Answer::GivenUp(budget);
            }
            if let Some((n, new)) = self.candidate(from, value) {
                let first_before = self.first;
                self.take(n);
                done += usize::from(self.is_certain(n));
                choices.push(Choice { step: n, value_before: value, first_before, next: n + 1 });
                longest = longest.max(done);
                (value, from) = (new, self.first);
            } else {
                let Some(choice) = choices.pop() else { return Answer::Not(longest) };
                self.taken.set(choice.step, false);
                self.first = choice.first_before;
                done -= usize::from(self.is_certain(choice.step));
                (value, from) = (choice.value_before, choice.next);
            }
        }
        Answer::GivenUp(budget)
    }

    fn is_certain(&self, n: usize) -> bool {
        self.steps.get(n).is_some_and(|step| step.completed.is_some())
    }

    fn take(&mut self, n: usize) {
        self.taken.set(n, true);
        while self.first < self.steps.len() && self.taken.has(self.first) {
            self.first += 1;
        }
    }

    /// The first call at `from` or later that may come next, and the value after it.
    fn candidate(&mut self, from: usize, value: i64) -> Option<(usize, i64)> {
        // A call may come next if no call that is still to come ended before it began.
        let mut bound = u64::MAX;
        for (n, step) in self.steps.iter().enumerate().skip(self.first) {
            if step.invoked > bound {
                return None;
            }
            if self.taken.has(n) {
                continue;
            }
            bound = bound.min(step.completed.unwrap_or(u64::MAX));
            if n < from {
                continue;
            }
            let Some(new) = step.action.apply(value) else { continue };
            self.taken.set(n, true);
            let fresh = self.seen.insert((self.taken.clone(), new));
            self.taken.set(n, false);
            if fresh {
                return Some((n, new));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn step(action: Action, invoked: u64, completed: u64) -> Step {
        Step { action, invoked, completed: Some(completed) }
    }

    fn judged(steps: &[Step]) -> Answer {
        check(0, steps, 1_000_000)
    }

    #[test]
    fn overlapping_calls_may_come_in_either_order() {
        let write = step(Action::Write(1), 0, 10);
        assert_eq!(judged(&[write, step(Action::Read(0), 1, 2)]), Answer::Linearizable);
        assert_eq!(judged(&[write, step(Action::Read(1), 1, 2)]), Answer::Linearizable);
    }

    #[test]
    fn a_read_of_what_was_overwritten_before_it_began_is_found() {
        let stale = [
            step(Action::Write(1), 0, 1),
            step(Action::Write(2), 2, 3),
            step(Action::Read(1), 4, 5),
        ];
        assert_eq!(judged(&stale), Answer::Not(2));
        let swap = [step(Action::Swap(0, 1), 0, 1), step(Action::Swap(0, 2), 2, 3)];
        assert_eq!(judged(&swap), Answer::Not(1));
    }

    #[test]
    fn two_readers_may_not_see_a_write_come_and_go() {
        let flicker = [
            step(Action::Write(1), 0, 100),
            step(Action::Read(1), 1, 2),
            step(Action::Read(0), 3, 4),
        ];
        assert_eq!(judged(&flicker), Answer::Not(2));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_take_effect_late_or_never() {
        let info = Step { action: Action::Write(1), invoked: 0, completed: None };
        let late = [info, step(Action::Read(0), 1, 2), step(Action::Read(1), 3, 4)];
        assert_eq!(judged(&late), Answer::Linearizable);
        assert_eq!(judged(&[info, step(Action::Read(0), 1, 2)]), Answer::Linearizable);
        let early = [step(Action::Read(1), 0, 1), Step { invoked: 2, ..info }];
        assert_eq!(judged(&early), Answer::Not(0));
        let twice = [
            info,
            step(Action::Read(1), 1, 2),
            step(Action::Write(2), 3, 4),
            step(Action::Read(1), 5, 6),
        ];
        assert_eq!(judged(&twice), Answer::Not(2));
    }

    #[test]
    fn a_search_that_is_too_long_is_given_up() {
        assert_eq!(check(0, &[step(Action::Read(0), 0, 1)], 0), Answer::GivenUp(0));
    }

    /// A register that takes effect at a random instant within each call.
    fn random_history(seed: u64, stale: bool) -> Vec<Step> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut events: Vec<(u64, usize)> = Vec::new();
        let mut spans = Vec::new();
        for n in 0..120 {
            let begin = n as u64 * 10 + rng.random_range(0..30);
            let effect = begin + rng.random_range(1..40);
            spans.push((begin, effect + rng.random_range(1..40)));
            events.push((effect, n));
        }
        events.sort_unstable();
        let mut steps = vec![step(Action::Read(0), 0, 0); events.len()];
        let (mut value, mut older) = (0, 0);
        for (_, n) in events {
            let new = n as i64 + 1;
            let action = match rng.random_range(0..3) {
                0 => Action::Write(new),
                1 => Action::Swap(value, new),
                _ if stale && n > 60 => Action::Read(older),
                _ => Action::Read(value),
            };
            if let Some(new) = action.makes() {
                (older, value) = (value, new);
            }
            steps[n] = step(action, spans[n].0 * 1000 + n as u64, spans[n].1 * 1000 + n as u64);
        }
        steps
    }

    #[test]
    fn random_registers_are_judged_rightly() {
        let mut found = 0;
        for seed in 0..50 {
            assert_eq!(judged(&random_history(seed, false)), Answer::Linearizable, "seed {seed}");
            found += u32::from(matches!(judged(&random_history(seed, true)), Answer::Not(_)));
        }
        // A stale read of an overlapping write is no violation, so not every history has one.
        assert!(found >= 30, "{found}");
    }
}
