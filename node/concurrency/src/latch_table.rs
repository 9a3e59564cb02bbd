//! Who may evaluate now and who waits for whom: the pure part of the latches.
//!
//! A request declares all its spans at once and gets a ticket. It is granted when no earlier
//! ticket that conflicts with it is left, held or waiting: first come, first served, so nobody
//! starves and no two requests wait for each other. Conflicts of the past are counted on arrival;
//! a release looks only at those who wait for it.
//!
//! Invariants:
//! 1. No two granted tickets conflict.
//! 2. Of two conflicting tickets the earlier is granted first.
//! 3. A ticket without conflicting predecessors is granted.
//! 4. A ticket that was asked for with a bound waits for no more others than that.

use std::collections::BTreeMap;

use crdb_keys::{Access, Key, Span};

/// A request's place in the queue; rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

#[derive(Debug)]
struct Entry {
    spans: Vec<(Span, Access)>,
    /// Conflicting earlier tickets that are not released yet.
    waits_for: usize,
    /// Later tickets that wait for this one.
    blocks: Vec<Ticket>,
}

/// The latches of one range.
#[derive(Debug, Default)]
pub struct LatchTable {
    next: u64,
    entries: BTreeMap<Ticket, Entry>,
    /// Single keys, the usual case, found by key.
    points: BTreeMap<Key, Vec<(Ticket, Access)>>,
    /// Spans of more than one key: few at a time.
    ranges: Vec<(Ticket, Span, Access)>,
}

impl LatchTable {
    /// Queues up for `spans`; whether they are granted at once tells [`Self::is_granted`].
    pub fn acquire(&mut self, spans: Vec<(Span, Access)>) -> Ticket {
        let blockers = self.conflicts(&spans);
        self.enqueue(spans, &blockers)
    }

    /// Like [`Self::acquire`], but gives up if more than `max` others stand before it.
    pub fn acquire_within(&mut self, spans: Vec<(Span, Access)>, max: usize) -> Option<Ticket> {
        let blockers = self.conflicts(&spans);
        (blockers.len() <= max).then(|| self.enqueue(spans, &blockers))
    }

    /// Who stands before a request for `spans`.
    fn conflicts(&self, spans: &[(Span, Access)]) -> Vec<Ticket> {
        let mut blockers = Vec::new();
        for (span, access) in spans {
            self.collect_conflicts(span, *access, &mut blockers);
        }
        // A pair that conflicts in more than one span still waits once.
        blockers.sort_unstable();
        blockers.dedup();
        blockers
    }

    fn enqueue(&mut self, spans: Vec<(Span, Access)>, blockers: &[Ticket]) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        for blocker in blockers {
            if let Some(entry) = self.entries.get_mut(blocker) {
                entry.blocks.push(ticket);
            }
        }
        for (span, access) in &spans {
            if span.is_point() {
                self.points.entry(span.start.clone()).or_default().push((ticket, *access));
            } else {
                self.ranges.push((ticket, span.clone(), *access));
            }
        }
        let entry = Entry { spans, waits_for: blockers.len(), blocks: Vec::new() };
        self.entries.insert(ticket, entry);
        ticket
    }

    /// Whether `ticket` holds its spans.
    #[must_use]
    pub fn is_granted(&self, ticket: Ticket) -> bool {
        self.entries.get(&ticket).is_some_and(|entry| entry.waits_for == 0)
    }

    /// Gives `ticket` up, granted or not, and answers who is granted by that, in their order.
    pub fn release(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let Some(entry) = self.entries.remove(&ticket) else { return Vec::new() };
        for (span, _) in &entry.spans {
            if span.is_point() {
                if let Some(holders) = self.points.get_mut(&span.start) {
                    holders.retain(|(holder, _)| *holder != ticket);
                    if holders.is_empty() {
                        self.points.remove(&span.start);
                    }
                }
            } else {
                self.ranges.retain(|(holder, ..)| *holder != ticket);
            }
        }
        let mut granted = Vec::new();
        for waiting in entry.blocks {
            // Those who gave up meanwhile are not there any more.
            if let Some(waiter) = self.entries.get_mut(&waiting) {
                waiter.waits_for -= 1;
                if waiter.waits_for == 0 {
                    granted.push(waiting);
                }
            }
        }
        granted
    }

    /// How many tickets there are, held or waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no ticket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn collect_conflicts(&self, span: &Span, access: Access, out: &mut Vec<Ticket>) {
        let mut add = |holders: &[(Ticket, Access)]| {
            let conflicting = holders.iter().filter(|(_, held)| held.conflicts(access));
            out.extend(conflicting.map(|(ticket, _)| *ticket));
        };
        if span.is_point() {
            if let Some(holders) = self.points.get(&span.start) {
                add(holders);
            }
        } else if span.start < span.end {
            for holders in self.points.range(span.start.clone()..span.end.clone()) {
                add(holders.1);
            }
        }
        for (ticket, held, with) in &self.ranges {
            if with.conflicts(access) && held.overlaps(span) {
                out.push(*ticket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt::Write as _, path::Path};

    use goldenscript::Command;
    use proptest::prelude::*;
    use test_each_file::test_each_path;

    use super::*;

    test_each_path! { in "node/concurrency/src/testscripts/latches" as scripts => run_script }

    fn run_script(path: &Path) {
        goldenscript::run(&mut Script::default(), path).expect("script failed");
    }

    /// `acquire NAME r=KEY w=KEY r=START-END ...`, `release NAME`, and who holds after each.
    /// `within MAX NAME ...` is an `acquire` that waits for `MAX` others at most.
    #[derive(Default)]
    struct Script {
        table: LatchTable,
        names: BTreeMap<Ticket, String>,
    }

    impl goldenscript::Runner for Script {
        type Command = Command;

        fn run(
            &mut self,
            command: &Command,
            _context: &goldenscript::Context,
        ) -> Result<String, Box<dyn Error>> {
            let mut args = command.consume_args();
            let max = match command.name.as_str() {
                "within" => args.next_pos().ok_or("how many?")?.parse()?,
                _ => usize::MAX,
            };
            let name = args.next_pos().ok_or("which request?")?.to_owned();
            match command.name.as_str() {
                "acquire" | "within" => {
                    let mut spans = Vec::new();
                    while let Some((access, span)) = args.next_key() {
                        spans.push(parse(access, span));
                    }
                    match self.table.acquire_within(spans, max) {
                        Some(ticket) => drop(self.names.insert(ticket, name)),
                        None => return Ok(format!("{name} is turned away\n")),
                    }
                }
                "release" => {
                    let found = self.names.iter().find(|(_, known)| **known == name);
                    let ticket = *found.ok_or("no such request")?.0;
                    self.names.remove(&ticket);
                    self.table.release(ticket);
                }
                other => return Err(format!("no such command: {other}").into()),
            }
            let mut out = String::new();
            for (ticket, name) in &self.names {
                let state = if self.table.is_granted(*ticket) { "holds" } else { "waits" };
                writeln!(out, "{name} {state}")?;
            }
            Ok(out)
        }
    }

    fn parse(access: &str, span: &str) -> (Span, Access) {
        let access = if access == "w" { Access::Write } else { Access::Read };
        match span.split_once('-') {
            Some((start, end)) => (Span::new(start.to_owned(), end.to_owned()), access),
            None => (Span::point(span.to_owned()), access),
        }
    }

    fn any_span() -> impl Strategy<Value = (Span, Access)> {
        let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
        (0..6_u8, 0..3_u8, access).prop_map(|(start, len, access)| {
            let span = match len {
                0 => Span::point(vec![start]),
                len => Span::new(vec![start], vec![start + len]),
            };
            (span, access)
        })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Acquire(Vec<(Span, Access)>),
        Release(prop::sample::Index),
    }

    proptest! {
        /// Against the definition: granted means that no earlier ticket conflicts.
        #[test]
        fn grants_exactly_those_without_conflicting_predecessors(
            steps in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any_span(), 1..4).prop_map(Step::Acquire),
                    any::<prop::sample::Index>().prop_map(Step::Release),
                ],
                1..40,
            ),
        ) {
            let mut table = LatchTable::default();
            let mut model: BTreeMap<Ticket, Vec<(Span, Access)>> = BTreeMap::new();
            for step in steps {
                let before: Vec<Ticket> =
                    model.keys().copied().filter(|ticket| table.is_granted(*ticket)).collect();
                let mut told = Vec::new();
                match step {
                    Step::Acquire(spans) => {
                        let ticket = table.acquire(spans.clone());
                        told.extend(table.is_granted(ticket).then_some(ticket));
                        model.insert(ticket, spans);
                    }
                    Step::Release(index) if !model.is_empty() => {
                        let ticket = *index.get(&model.keys().copied().collect::<Vec<_>>());
                        told = table.release(ticket);
                        model.remove(&ticket);
                    }
                    Step::Release(_) => {}
                }
                for (ticket, spans) in &model {
                    let blocked = model.range(..ticket).any(|(_, earlier)| {
                        earlier.iter().any(|(a, held)| {
                            spans.iter().any(|(b, with)| held.conflicts(*with) && a.overlaps(b))
                        })
                    });
                    prop_assert_eq!(table.is_granted(*ticket), !blocked);
                    let new = !blocked && !before.contains(ticket);
                    prop_assert_eq!(told.contains(ticket), new, "told of each grant");
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for ticket in model.keys() {
                table.release(*ticket);
            }
            prop_assert!(table.is_empty() && table.points.is_empty() && table.ranges.is_empty());
        }
    }
}
