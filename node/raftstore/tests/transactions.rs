//! Runs golden scripts about transactions at one range: locks, intents, timestamps, pushes.
//!
//! Nothing waits for locks here but the evaluation itself: pushes are commands of the scripts.

mod cluster;

use std::{collections::BTreeMap, error::Error, fmt::Write as _, path::Path, time::Duration};

use bytes::Bytes;
use cluster::{Cluster, batch, key, outcome};
use crdb_keys::{StoreId, Timestamp};
use crdb_proto::kv::{
    self, BatchRequest, BatchResponse, EndTxnAction, LockStrength, TxnMeta, TxnPriority, TxnStatus,
    WaitPolicy, error::Kind as ErrorKind, request::Kind, response::Kind as Answer,
};
use crdb_raftstore::Input;
use goldenscript::ArgumentConsumer as Args;
use test_each_file::test_each_path;

test_each_path! { in "node/raftstore/tests/txnscripts" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut World::default(), path).expect("script failed");
}

/// * `bootstrap`, `three`, `run 50ms`, `transfer n2`, `split KEY` drive the cluster;
/// * `txn NAME [priority=high]` begins a transaction, `nobody` stands for none;
/// * `get TXN KEY`, `scan TXN FROM-TO`, with `lock=x|s`, `wait=error|skip`, `at=TXN` (its read
///   timestamp), `timeout=MS`, `range=N` for another than the one there was before a split, 9;
/// * `put TXN KEY=VALUE...` writes intents, or versions for `nobody`; `one_phase` does so at once, after
///   `validate=KEY` since the begin, or that of `since=TXN`, with `exact` at the transaction's
///   timestamp;
/// * `end TXN commit|stage|abort`, `resolve TXN KEY commit|abort`, `heartbeat TXN`;
/// * `push TXN by=TXN [force] [dependents=TXN]`, `query TXN`, `prevent TXN KEY`;
/// * `release TXN FROM-TO [ended]`, `locks FROM-TO` ask the lock table.
///
/// A command with `call=NAME` goes on in the background; `look` tells what became of all of those,
/// `drop NAME` gives one up. Timestamps are shown in milliseconds since the start.
#[derive(Default)]
struct World {
    cluster: Cluster,
    epoch: u64,
    txns: BTreeMap<String, TxnMeta>,
    calls: BTreeMap<String, u64>,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

impl World {
    fn holder(&mut self) -> u32 {
        self.cluster.wait("a leaseholder", |cluster| cluster.leaseholder(4).is_some());
        self.cluster.leaseholder(4).expect("just waited for it")
    }

    fn begin(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let name = args.next_pos().ok_or("who?")?.to_owned();
        let node = self.holder();
        let now = self.cluster.handle(node).clock().now();
        let mut id = name.clone().into_bytes();
        id.resize(16, b'.');
        let priority = match args.take_key("priority") {
            Some("high") => TxnPriority::PriorityHigh,
            Some("low") => TxnPriority::PriorityLow,
            _ => TxnPriority::PriorityNormal,
        };
        let txn = TxnMeta {
            id: id.into(),
            min_timestamp: Some(now.into()),
            write_timestamp: Some(now.into()),
            priority: priority.into(),
            ..TxnMeta::default()
        };
        self.txns.insert(name, txn);
        Ok(())
    }

    fn txn(&self, name: &str) -> Outcome<TxnMeta> {
        self.txns.get(name).cloned().ok_or_else(|| format!("no transaction {name}").into())
    }

    /// The transaction, with its anchor at `at` if it has none yet.
    fn anchored(&mut self, name: &str, at: &Bytes) -> Option<TxnMeta> {
        let txn = self.txns.get_mut(name)?;
        if txn.anchor.is_empty() {
            txn.anchor = at.clone();
        }
        txn.sequence += 1;
        Some(txn.clone())
    }

    fn name_of(&self, id: &[u8]) -> String {
        let found = self.txns.iter().find(|(_, txn)| txn.id == id);
        found.map_or("nobody".into(), |(name, _)| name.clone())
    }

    fn reads(&mut self, command: &str, args: &mut Args<'_>) -> Outcome<BatchRequest> {
        let name = args.next_pos().ok_or("who?")?.to_owned();
        let what = args.next_pos().ok_or("what?")?.to_owned();
        let lock = match args.take_key("lock") {
            Some("x") => LockStrength::LockExclusive,
            Some(_) => LockStrength::LockShared,
            None => LockStrength::LockNone,
        };
        let kind = if command == "get" {
            let key = key(&what);
            Kind::Get(kv::GetRequest {
                key,
                lock: lock.into(),
                lock_absent: true,
                ..Default::default()
            })
        } else {
            let (start, end) = what.split_once('-').ok_or("scan a-c")?;
            let (start, end, lock) = (key(start), key(end), lock.into());
            Kind::Scan(kv::ScanRequest { start, end, lock, ..Default::default() })
        };
        let mut request = batch(vec![kind]);
        let first = what.split('-').next().unwrap_or_default();
        let header = request.header.get_or_insert_default();
        header.txn = self.anchored(&name, &key(first));
        header.read_timestamp = header.txn.as_ref().and_then(|txn| txn.write_timestamp);
        if let Some(at) = args.take_key("at") {
            header.read_timestamp = self.txn(at)?.write_timestamp;
        }
        header.wait_policy = match args.take_key("wait") {
            Some("error") => WaitPolicy::WaitError,
            Some("skip") => WaitPolicy::WaitSkip,
            _ => WaitPolicy::WaitBlock,
        }
        .into();
        if let Some(timeout) = args.take_key("timeout") {
            header.lock_timeout_ms = timeout.parse()?;
        }
        if let Some(range) = args.take_key("range") {
            header.range_id = range.parse()?;
        }
        Ok(request)
    }

    fn writes(&mut self, command: &str, args: &mut Args<'_>) -> Outcome<BatchRequest> {
        let name = args.next_pos().ok_or("who?")?.to_owned();
        let mut kinds = Vec::new();
        if let Some(read) = args.take_key("validate") {
            let since = self.txn(args.take_key("since").unwrap_or(&name))?.min_timestamp;
            let spans = vec![kv::Span { start: key(read), end: Bytes::new() }];
            kinds.push(Kind::Validate(kv::ValidateRequest { spans, since }));
        }
        let exact = args.next_pos().is_some_and(|word| word == "exact");
        let mut first = None;
        while let Some((row, value)) = args.next_key() {
            first.get_or_insert_with(|| key(row));
            let value = Bytes::copy_from_slice(value.as_bytes());
            kinds.push(Kind::Put(kv::PutRequest { key: key(row), value }));
        }
        let mut request = batch(kinds);
        let header = request.header.get_or_insert_default();
        header.one_phase = command == "one_phase";
        header.exact_timestamp = exact;
        header.txn = self.anchored(&name, &first.unwrap_or_default());
        Ok(request)
    }

    fn ends(&mut self, command: &str, args: &mut Args<'_>) -> Outcome<BatchRequest> {
        let name = args.next_pos().ok_or("who?")?.to_owned();
        let txn = self.txn(&name)?;
        let mut next = || args.next_pos().map(str::to_owned);
        let kind = match command {
            "heartbeat" => {
                let now = self.cluster.handle(1).clock().now();
                Kind::HeartbeatTxn(kv::HeartbeatTxnRequest { now: Some(now.into()) })
            }
            "end" => {
                let action = match next().as_deref() {
                    Some("commit") => EndTxnAction::EndCommit,
                    Some("stage") => EndTxnAction::EndStage,
                    _ => EndTxnAction::EndAbort,
                };
                let action = action.into();
                let can_raise_timestamp = next().is_some();
                Kind::EndTxn(kv::EndTxnRequest {
                    action,
                    can_raise_timestamp,
                    ..Default::default()
                })
            }
            "resolve" => {
                let start = key(&next().ok_or("which key?")?);
                let committed = next().as_deref() == Some("commit");
                let status = if committed { TxnStatus::Committed } else { TxnStatus::Aborted };
                Kind::ResolveIntent(kv::ResolveIntentRequest {
                    start,
                    end: Bytes::new(),
                    txn_id: txn.id.clone(),
                    status: status.into(),
                    commit_timestamp: txn.write_timestamp,
                    max_keys: 0,
                })
            }
            "query" => Kind::QueryTxn(kv::QueryTxnRequest { txn: Some(txn.clone()) }),
            "prevent" => {
                let key = key(&next().ok_or("which key?")?);
                let txn = Some(txn.clone());
                Kind::QueryIntent(kv::QueryIntentRequest { key, txn, prevent: true })
            }
            "release" => {
                let (start, end) = span(&next().ok_or("which keys?")?);
                let (txn_id, ended) = (txn.id.clone(), args.next_pos().is_some());
                Kind::ReleaseLocks(kv::ReleaseLocksRequest { start, end, txn_id, ended })
            }
            _ => {
                let pusher = args.take_key("by").map(|name| self.txn(name)).transpose()?;
                let dependent =
                    args.take_key("dependents").map(|name| self.txn(name)).transpose()?;
                let force = args.next_pos().is_some();
                let dependents = dependent.map(|txn| txn.id).into_iter().collect();
                Kind::PushTxn(kv::PushTxnRequest {
                    pushee: Some(txn.clone()),
                    pusher,
                    force,
                    dependents,
                })
            }
        };
        let own = matches!(kind, Kind::EndTxn(_) | Kind::HeartbeatTxn(_));
        let mut request = batch(vec![kind]);
        request.header.get_or_insert_default().txn = Some(txn).filter(|_| own);
        Ok(request)
    }

    fn at(&self, timestamp: Option<kv::Timestamp>) -> String {
        let timestamp = timestamp.map(Timestamp::from).unwrap_or_default();
        let nanos = timestamp.wall_nanos.saturating_sub(self.epoch);
        let part =
            if timestamp.logical > 0 { format!(".{}", timestamp.logical) } else { String::new() };
        format!("{}ms{part}", nanos / 1_000_000)
    }

    /// A response in one line. Takes over what it says about the timestamp of the transaction.
    fn show(&mut self, name: &str, response: &BatchResponse) -> String {
        if let Some(error) = &response.error {
            return self.show_error(error);
        }
        if let (Some(wrote), Some(txn)) = (response.write_timestamp, self.txns.get_mut(name)) {
            txn.write_timestamp = txn.write_timestamp.max_by_time(wrote);
        }
        match response.responses.first().and_then(|response| response.kind.as_ref()) {
            Some(Answer::Get(get)) => {
                let value = get.value.as_ref();
                let value = value.map_or("none".into(), |value| String::from_utf8_lossy(value));
                format!("{value} as of {}", self.at(response.read_timestamp))
            }
            Some(Answer::Scan(scan)) => {
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                let row = |row: &kv::KeyValue| {
                    format!("{}={}", text(&row.key.slice(PREFIX..)), text(&row.value))
                };
                let rows: Vec<String> = scan.rows.iter().map(row).collect();
                format!("[{}] as of {}", rows.join(" "), self.at(response.read_timestamp))
            }
            Some(Answer::PushTxn(push)) => {
                let record = push.record.clone().unwrap_or_default();
                let recover = if push.recover { ", to be recovered" } else { "" };
                format!("{}{recover}", record.status().as_str_name().to_lowercase())
            }
            Some(Answer::QueryTxn(query)) => {
                let status = query.record.as_ref().map(kv::TxnRecord::status);
                let status = status.map_or("no record".into(), |s| s.as_str_name().to_lowercase());
                let waiting: Vec<_> = query.dependents.iter().map(|id| self.name_of(id)).collect();
                format!("{status}, waiting for it: [{}]", waiting.join(" "))
            }
            Some(Answer::QueryIntent(query)) => format!("found: {}", query.found),
            Some(Answer::HeartbeatTxn(beat)) => {
                let record = beat.record.clone().unwrap_or_default();
                record.status().as_str_name().to_lowercase()
            }
            Some(Answer::QueryLocks(query)) => self.show_locks(&query.locks),
            _ => match response.write_timestamp {
                Some(wrote) => format!("ok at {}", self.at(Some(wrote))),
                None => "ok".into(),
            },
        }
    }

    fn show_error(&self, error: &kv::Error) -> String {
        match &error.kind {
            Some(ErrorKind::LockConflict(conflict)) => {
                let holder = conflict.holder.clone().unwrap_or_default();
                let why = if conflict.timed_out { "timed out" } else { "conflict" };
                format!("{why}: {} holds {}", self.name_of(&holder.id), row(&conflict.key))
            }
            Some(ErrorKind::TxnRetry(retry)) => format!("retry at {}", self.at(retry.needed)),
            Some(ErrorKind::ReadConflict(conflict)) => {
                format!("read conflict: {} at {}", row(&conflict.key), self.at(conflict.newer))
            }
            Some(ErrorKind::WriteTooOld(old)) => {
                format!("write too old: {} at {}", row(&old.key), self.at(old.existing))
            }
            Some(ErrorKind::TxnAborted(aborted)) => format!("aborted: {}", aborted.reason),
            _ => {
                let error = Some(error.clone());
                outcome(&BatchResponse { error, ..BatchResponse::default() })
            }
        }
    }

    fn show_locks(&self, locks: &[kv::LockInfo]) -> String {
        let mut lines = Vec::new();
        for lock in locks {
            let holder = lock.holder.clone().unwrap_or_default();
            let kind = match (lock.replicated, lock.strength()) {
                (true, _) => "intent",
                (_, LockStrength::LockShared) => "shared",
                _ => "exclusive",
            };
            let mut line = format!("{}: {} {kind}", row(&lock.key), self.name_of(&holder.id));
            for waiter in &lock.waiters {
                let txn = waiter.txn.clone().unwrap_or_default();
                let millis = waiter.waiting_nanos / 1_000_000;
                let _infallible = write!(line, ", {} waits {millis}ms", self.name_of(&txn.id));
            }
            lines.push(line);
        }
        if lines.is_empty() { "none".into() } else { lines.join("\n") }
    }

    fn run_cluster(&mut self, name: &str, args: &mut Args<'_>) -> Outcome<bool> {
        match name {
            "bootstrap" | "three" => {
                self.cluster =
                    if name == "three" { Cluster::of_three() } else { Cluster::bootstrap() };
                let node = self.holder();
                self.epoch = self.cluster.handle(node).clock().now().wall_nanos;
            }
            "txn" => self.begin(args)?,
            "run" => {
                let millis = args.next_pos().and_then(|text| text.strip_suffix("ms"));
                let millis = millis.ok_or("how many ms?")?.parse()?;
                self.cluster.run(Duration::from_millis(millis));
            }
            "transfer" => {
                let to = args.next_pos().and_then(|text| text.strip_prefix('n'));
                let target = Some(StoreId(to.ok_or("where to?")?.parse()?));
                let node = self.holder();
                let range_id = crdb_keys::RangeId(4);
                self.cluster.input(node, Input::TransferLease { range_id, target });
                self.cluster.run(Duration::from_millis(100));
            }
            "split" => {
                let at = args.next_pos().ok_or("where?")?.to_owned();
                let node = self.holder();
                let response = self.cluster.request(node, cluster::split(&at, 9, None));
                assert_eq!(response.error, None, "the range splits");
            }
            "drop" => {
                let call = self.calls.remove(args.next_pos().ok_or("which?")?);
                self.cluster.calls.remove(&call.ok_or("no such call")?);
                self.cluster.settle();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn look(&mut self, out: &mut String) -> Outcome<()> {
        self.cluster.settle();
        for (name, id) in self.calls.clone() {
            let line = if let Some(response) = self.cluster.responses.get(&id).cloned() {
                self.calls.remove(&name);
                self.show("", &response)
            } else if let Some(wait) = self.cluster.lock_waits.get(&id) {
                let what = match (wait.replicated, wait.strength) {
                    (true, _) => "intent",
                    (_, LockStrength::LockShared) => "shared lock",
                    (_, LockStrength::LockExclusive) => "lock",
                    _ => "turn",
                };
                format!(
                    "waits for {}'s {what} on {}",
                    self.name_of(&wait.holder.id),
                    row(&wait.key)
                )
            } else {
                "under way".into()
            };
            writeln!(out, "{name}: {line}")?;
        }
        Ok(())
    }
}

/// Bytes of a key before the row's name.
const PREFIX: usize = 2;

fn row(key: &Bytes) -> String {
    String::from_utf8_lossy(key.get(PREFIX..).unwrap_or_default()).into_owned()
}

fn span(text: &str) -> (Bytes, Bytes) {
    match text.split_once('-') {
        Some((start, end)) => (key(start), key(end)),
        None => (key(text), Bytes::new()),
    }
}

trait MaxByTime {
    fn max_by_time(self, other: kv::Timestamp) -> Self;
}

impl MaxByTime for Option<kv::Timestamp> {
    fn max_by_time(self, other: kv::Timestamp) -> Self {
        let own = self.map(Timestamp::from).unwrap_or_default();
        Some(own.max(other.into()).into())
    }
}

impl goldenscript::Runner for World {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _context: &goldenscript::Context,
    ) -> Outcome<String> {
        let mut out = String::new();
        let mut args = command.consume_args();
        let name = command.name.as_str();
        if self.run_cluster(name, &mut args)? {
            args.reject_next()?;
            return Ok(out);
        }
        let who = match command.args.first() {
            Some(goldenscript::Argument::Positional(name)) => name.clone(),
            _ => String::new(),
        };
        let background = args.take_key("call").map(str::to_owned);
        let request = match name {
            "look" => {
                self.look(&mut out)?;
                return Ok(out);
            }
            "get" | "scan" => self.reads(name, &mut args)?,
            "put" | "one_phase" => self.writes(name, &mut args)?,
            "end" | "resolve" | "heartbeat" | "query" | "prevent" | "release" | "push" => {
                self.ends(name, &mut args)?
            }
            "locks" => {
                let (start, end) = span(args.next_pos().ok_or("which keys?")?);
                batch(vec![Kind::QueryLocks(kv::QueryLocksRequest { start, end, max_locks: 0 })])
            }
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_next()?;
        let node = self.holder();
        match background {
            None => {
                let response = self.cluster.request(node, request);
                writeln!(out, "{}", self.show(&who, &response))?;
            }
            Some(call) => {
                self.calls.insert(call, self.cluster.call(node, request));
                self.look(&mut out)?;
            }
        }
        Ok(out)
    }
}

/// Many transactions that began at once add to one row. Each fails at most once, because the row was
/// written while it waited; who failed has the lock and is the next.
#[test]
fn a_hot_row_costs_each_transaction_two_reads() {
    const TXNS: usize = 20;
    let mut cluster = Cluster::bootstrap();
    let began = cluster.handle(1).clock().now();
    let txn = |number: usize| TxnMeta {
        id: Bytes::copy_from_slice(&(number as u128).to_be_bytes()),
        anchor: key("hot"),
        min_timestamp: Some(began.into()),
        write_timestamp: Some(began.into()),
        ..TxnMeta::default()
    };
    let request = |txn: &TxnMeta, kind: Kind, one_phase: bool| {
        let mut request = batch(vec![kind]);
        let header = request.header.get_or_insert_default();
        header.txn = Some(txn.clone());
        header.one_phase = one_phase;
        header.read_timestamp = txn.write_timestamp;
        request
    };
    let lock = LockStrength::LockExclusive.into();
    let get = Kind::Get(kv::GetRequest {
        key: key("hot"),
        lock,
        lock_absent: true,
        ..Default::default()
    });
    let mut reads = 0;
    let mut open: BTreeMap<u64, TxnMeta> = BTreeMap::new();
    for number in 1..=TXNS {
        let txn = txn(number);
        open.insert(cluster.call(1, request(&txn, get.clone(), false)), txn);
        reads += 1;
    }
    while !open.is_empty() {
        cluster.wait("an answer", |cluster| !cluster.responses.is_empty());
        let (id, response) = cluster.responses.pop_first().expect("there is one");
        let mut txn = open.remove(&id).expect("it was asked");
        let next = match (&response.error, response.responses.first().map(|it| &it.kind)) {
            (None, Some(Some(Answer::Get(found)))) => {
                let text = found.value.clone().unwrap_or_default();
                let value: u32 = String::from_utf8_lossy(&text).parse().unwrap_or(0);
                let value = Bytes::from((value + 1).to_string());
                let put = Kind::Put(kv::PutRequest { key: key("hot"), value });
                request(&txn, put, true)
            }
            (None, _) => continue,
            (Some(error), _) => {
                let Some(ErrorKind::WriteTooOld(old)) = &error.kind else {
                    panic!("{}", error.message);
                };
                txn.write_timestamp = old.existing;
                reads += 1;
                request(&txn, get.clone(), false)
            }
        };
        open.insert(cluster.call(1, next), txn);
    }
    assert_eq!(cluster.get(1, "hot").expect("it can be read"), Some(TXNS.to_string()));
    assert!(reads < 2 * TXNS + 1, "{reads} reads by {TXNS} transactions");
}
