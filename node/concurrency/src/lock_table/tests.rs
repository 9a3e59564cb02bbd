//! The lock table by scripts.

use std::{collections::BTreeMap, error::Error, fmt::Write as _, path::Path};

use bytes::Bytes;
use crdb_keys::{Key, Span, Timestamp};
use crdb_proto::kv::{LockStrength, TxnMeta};
use goldenscript::{ArgumentConsumer as Args, Command};
use proptest::prelude::*;
use test_each_file::test_each_path;

use super::{LockRequest, LockTable, LockTicket, LockUse, LockWait};
use crate::Limits;

test_each_path! { in "node/concurrency/src/testscripts/lock_table" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut Script::default(), path).expect("script failed");
}

fn table_of(locks_max: usize) -> LockTable {
    LockTable::new(&Limits { locks_max, ..Limits::default() })
}

fn txn(name: &str, wall_nanos: u64) -> TxnMeta {
    TxnMeta {
        id: Bytes::copy_from_slice(name.as_bytes()),
        anchor: Bytes::copy_from_slice(name.as_bytes()),
        write_timestamp: Some(Timestamp::new(wall_nanos, 0).into()),
        ..TxnMeta::default()
    }
}

fn name_of(txn: &TxnMeta) -> &str {
    match std::str::from_utf8(&txn.id) {
        Ok("") | Err(_) => "nobody",
        Ok(name) => name,
    }
}

fn span(text: &str) -> Span {
    match text.split_once('-') {
        Some((start, end)) => Span::new(start.to_owned(), end.to_owned()),
        None => Span::point(text.to_owned()),
    }
}

/// * `request NAME [txn] r=SPAN@TS s=SPAN x=SPAN...` looks for what is in the way, and queues up;
/// * `retry NAME` does so again, `done NAME` leaves;
/// * `lock TXN KEY [shared]`, `intent TXN KEY TS`, `release TXN [SPAN]`, `clear [SPAN]`;
/// * `limit N` starts a table of N locks, `list`, `export [SPAN] [bytes=N]`, `import` show and move it.
///
/// Each says who may go because of it.
#[derive(Default)]
struct Script {
    table: LockTable,
    requests: BTreeMap<String, (LockRequest, Option<LockTicket>)>,
    exported: Vec<crdb_proto::kv::LockInfo>,
}

impl Script {
    fn try_request(&mut self, name: &str, out: &mut String) -> Result<(), Box<dyn Error>> {
        let (request, ticket) = self.requests.get_mut(name).ok_or("no such request")?;
        let Some((wait, wanted)) = self.table.check(request, *ticket) else {
            writeln!(out, "{name} passes")?;
            return Ok(());
        };
        let (new, free) = self.table.wait(*ticket, request.txn.as_ref(), &wait.key, wanted, 0);
        *ticket = Some(new);
        write!(out, "{name} waits: ")?;
        show_wait(&wait, out)?;
        self.show_free(&free, out)
    }

    fn show_free(&self, free: &[LockTicket], out: &mut String) -> Result<(), Box<dyn Error>> {
        for ticket in free {
            let found = self.requests.iter().find(|(_, known)| known.1 == Some(*ticket));
            writeln!(out, "  {} may go", found.ok_or("an unknown ticket")?.0)?;
        }
        Ok(())
    }

    fn change(
        &mut self,
        name: &str,
        args: &mut Args<'_>,
    ) -> Result<Vec<LockTicket>, Box<dyn Error>> {
        let mut next = || args.next_pos().map(str::to_owned);
        Ok(match name {
            "lock" => {
                let holder = txn(&next().ok_or("who?")?, 0);
                let key = Key::from(next().ok_or("what?")?);
                let strength = match next().as_deref() {
                    Some("shared") => LockStrength::LockShared,
                    _ => LockStrength::LockExclusive,
                };
                match self.table.acquire(&holder, &key, strength, 0) {
                    Ok(free) => free,
                    Err(wait) => {
                        let mut text = String::new();
                        show_wait(&wait, &mut text)?;
                        return Err(text.into());
                    }
                }
            }
            "intent" => {
                let name = next().ok_or("who?")?;
                let key = Key::from(next().ok_or("what?")?);
                let holder = txn(&name, next().ok_or("at?")?.parse()?);
                self.table.add_intent(&key, &holder, 0)
            }
            "release" => {
                let id = Bytes::from(next().ok_or("who?")?);
                let within = next().as_deref().map(span);
                self.table.release(&id, within.as_ref())
            }
            "clear" => {
                let within = next().as_deref().map(span);
                self.table.clear(within.as_ref())
            }
            "import" => self.table.import(&self.exported, 0),
            "done" => {
                let name = next().ok_or("who?")?;
                let (_, ticket) = self.requests.remove(&name).ok_or("no such request")?;
                ticket.map(|ticket| self.table.leave(ticket)).unwrap_or_default()
            }
            other => return Err(format!("no such command: {other}").into()),
        })
    }

    fn list(&self, out: &mut String) -> Result<(), Box<dyn Error>> {
        for (key, state) in &self.table.keys {
            write!(out, "{}:", String::from_utf8_lossy(key))?;
            if let Some(intent) = &state.intent {
                let at = super::key::timestamp(&intent.txn).wall_nanos;
                write!(out, " intent {}@{at}", name_of(&intent.txn))?;
            }
            for lock in &state.locks {
                write!(out, " {} {}", name_of(&lock.txn), strength(lock.strength))?;
            }
            for ticket in state.queue.keys() {
                let found = self.requests.iter().find(|(_, known)| known.1 == Some(*ticket));
                let way = if self.table.blocker(*ticket).is_some() { "waits" } else { "next" };
                write!(out, ", {} {way}", found.ok_or("an unknown ticket")?.0)?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

fn show_wait(wait: &LockWait, out: &mut String) -> Result<(), std::fmt::Error> {
    let what = if wait.replicated { "intent" } else { strength(wait.strength) };
    writeln!(out, "{} {what} on {}", name_of(&wait.holder), String::from_utf8_lossy(&wait.key))
}

fn strength(strength: LockStrength) -> &'static str {
    match strength {
        LockStrength::LockNone => "reads",
        LockStrength::LockShared => "shared",
        LockStrength::LockExclusive => "exclusive",
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let mut args = command.consume_args();
        match command.name.as_str() {
            "request" => {
                let name = args.next_pos().ok_or("which request?")?.to_owned();
                let txn = args.next_pos().map(|name| txn(name, 0));
                let mut request = LockRequest { txn, spans: Vec::new() };
                while let Some((wanted, what)) = args.next_key() {
                    let (what, at) = what.split_once('@').unwrap_or((what, "0"));
                    let wanted = match wanted {
                        "r" => LockUse::Read { upto: Timestamp::new(at.parse()?, 0) },
                        "s" => LockUse::Shared,
                        _ => LockUse::Exclusive,
                    };
                    request.spans.push((span(what), wanted));
                }
                self.requests.insert(name.clone(), (request, None));
                self.try_request(&name, &mut out)?;
            }
            "retry" => {
                let name = args.next_pos().ok_or("which request?")?.to_owned();
                self.try_request(&name, &mut out)?;
            }
            "limit" => {
                let limit = args.next_pos().ok_or("how many?")?.parse()?;
                self.table = table_of(limit);
            }
            "list" => self.list(&mut out)?,
            "export" => {
                let bytes = args.take_key("bytes").map_or(Ok(usize::MAX), str::parse)?;
                let within = args.next_pos().map(span);
                self.exported = self.table.export(within.as_ref(), 10, bytes, 0);
                for lock in &self.exported {
                    let holder = lock.holder.as_ref().map(name_of).ok_or("no holder")?;
                    let (key, kind) = (String::from_utf8_lossy(&lock.key), lock.strength());
                    writeln!(out, "{key} {holder} {}", strength(kind))?;
                }
            }
            name => match self.change(name, &mut args) {
                Ok(free) => self.show_free(&free, &mut out)?,
                Err(error) => writeln!(out, "refused: {}", error.to_string().trim_end())?,
            },
        }
        args.reject_next()?;
        Ok(out)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Request { txn: Option<u8>, spans: Vec<(Span, LockUse)> },
    Retry(prop::sample::Index),
    Done(prop::sample::Index),
    Lock { txn: u8, key: u8, shared: bool },
    Intent { txn: u8, key: u8, at: u64 },
    Release { txn: u8, span: Option<Span> },
}

fn any_span() -> impl Strategy<Value = Span> {
    (0..4_u8, 0..3_u8).prop_map(|(start, len)| match len {
        0 => Span::point(vec![start]),
        len => Span::new(vec![start], vec![start + len]),
    })
}

fn any_use() -> impl Strategy<Value = LockUse> {
    prop_oneof![
        (0..4_u64).prop_map(|at| LockUse::Read { upto: Timestamp::new(at, 0) }),
        Just(LockUse::Shared),
        Just(LockUse::Exclusive),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let spans = || prop::collection::vec((any_span(), any_use()), 1..3);
    prop_oneof![
        4 => (prop::option::of(0..4_u8), spans())
            .prop_map(|(txn, spans)| Step::Request { txn, spans }),
        2 => any::<prop::sample::Index>().prop_map(Step::Retry),
        2 => any::<prop::sample::Index>().prop_map(Step::Done),
        3 => (0..4_u8, 0..4_u8, any::<bool>())
            .prop_map(|(txn, key, shared)| Step::Lock { txn, key, shared }),
        1 => (0..4_u8, 0..4_u8, 0..4_u64)
            .prop_map(|(txn, key, at)| Step::Intent { txn, key, at }),
        3 => (0..4_u8, prop::option::of(any_span()))
            .prop_map(|(txn, span)| Step::Release { txn, span }),
    ]
}

fn meta(number: u8, at: u64) -> TxnMeta {
    txn(&format!("t{number}"), at)
}

/// The tickets that wait with something in their way.
fn blocked(table: &LockTable) -> Vec<LockTicket> {
    table.waiting.keys().copied().filter(|ticket| table.blocker(*ticket).is_some()).collect()
}

fn check_invariants(table: &LockTable) -> Result<(), TestCaseError> {
    let mut locks = 0;
    for (key, state) in &table.keys {
        prop_assert!(!state.is_empty(), "an empty key is dropped");
        let exclusive = state.locks.iter().any(|l| l.strength == LockStrength::LockExclusive);
        prop_assert!(!exclusive || state.locks.len() == 1, "an exclusive lock is alone");
        if let Some(intent) = &state.intent {
            prop_assert!(state.locks.iter().all(|lock| lock.txn.id == intent.txn.id));
        }
        for lock in state.intent.iter().chain(&state.locks) {
            locks += 1;
            prop_assert_eq!(&table.by_age[&lock.order], &(key.clone(), lock.txn.id.clone()));
            prop_assert!(table.by_txn[&lock.txn.id].contains(key));
        }
        for ticket in state.queue.keys() {
            prop_assert_eq!(&table.waiting[ticket], key);
        }
    }
    prop_assert_eq!(locks, table.len());
    let indexed: usize = table.by_txn.values().map(std::collections::BTreeSet::len).sum();
    prop_assert!(indexed <= locks && table.by_txn.values().all(|keys| !keys.is_empty()));
    let queued: usize = table.keys.values().map(|state| state.queue.len()).sum();
    prop_assert_eq!(queued, table.waiting.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, nobody is left waiting for nothing without being told, no two
    /// transactions hold one key, and the indexes agree with the keys.
    #[test]
    fn who_can_go_is_told(
        steps in prop::collection::vec(any_step(), 1..40),
        seed in any::<u64>(),
    ) {
        let limits = Limits::of_seed(seed);
        let mut table = LockTable::new(&limits);
        let mut requests: Vec<(LockRequest, Option<LockTicket>)> = Vec::new();
        for step in steps {
            let before = blocked(&table);
            let mut attempt = None;
            let told = match step {
                Step::Request { txn, spans } => {
                    let txn = txn.map(|txn| meta(txn, 0));
                    requests.push((LockRequest { txn, spans }, None));
                    attempt = Some(requests.len() - 1);
                    Vec::new()
                }
                Step::Retry(index) if !requests.is_empty() => {
                    attempt = Some(index.index(requests.len()));
                    Vec::new()
                }
                Step::Done(index) if !requests.is_empty() => {
                    let (_, ticket) = requests.remove(index.index(requests.len()));
                    ticket.map(|ticket| table.leave(ticket)).unwrap_or_default()
                }
                Step::Retry(_) | Step::Done(_) => Vec::new(),
                Step::Lock { txn, key, shared } => {
                    let strength =
                        if shared { LockStrength::LockShared } else { LockStrength::LockExclusive };
                    table.acquire(&meta(txn, 0), &Key::from(vec![key]), strength, 0)
                        .unwrap_or_default()
                }
                Step::Intent { txn, key, at } => {
                    table.add_intent(&Key::from(vec![key]), &meta(txn, at), 0)
                }
                Step::Release { txn, span } => {
                    let told = table.release(&meta(txn, 0).id, span.as_ref());
                    if span.is_none() {
                        prop_assert!(!table.by_txn.contains_key(&meta(txn, 0).id));
                    }
                    told
                }
            };
            let mut told = told;
            if let Some((request, ticket)) = attempt.and_then(|index| requests.get_mut(index))
                && let Some((wait, wanted)) = table.check(request, *ticket)
            {
                let txn = request.txn.as_ref();
                let (new, free) = table.wait(*ticket, txn, &wait.key, wanted, 0);
                prop_assert_eq!(table.blocker(new), Some(wait), "a wait is for somebody");
                *ticket = Some(new);
                told = free;
            }
            let after = blocked(&table);
            for ticket in before.iter().filter(|ticket| !after.contains(ticket)) {
                // A request that moved to the front by itself needs not be told.
                let own = attempt.and_then(|index| requests[index].1) == Some(*ticket);
                let left = !table.waiting.contains_key(ticket);
                prop_assert!(own || left || told.contains(ticket), "{ticket:?} was not told");
            }
            check_invariants(&table)?;
        }
        for (_, ticket) in requests {
            ticket.map(|ticket| table.leave(ticket));
        }
        table.clear(None);
        prop_assert!(table.is_empty() && table.by_age.is_empty() && table.by_txn.is_empty());
    }
}
