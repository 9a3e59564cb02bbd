//! What the scripts print of answers and state.

use crdb_keys::{Span, Timestamp, pretty::Escaped};
use crdb_proto::kv::{self, error, response::Kind as Answer};

use super::requests::Txns;
use crate::evaluate::{Evaluated, ServedRead};

pub(super) fn bytes(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
}

pub(super) fn value(value: Option<&[u8]>) -> String {
    value.map_or("none".to_owned(), bytes)
}

pub(super) fn at(at: Option<kv::Timestamp>) -> String {
    at.map_or("never".to_owned(), |at| short(at.into()))
}

/// As scripts write a timestamp.
pub(super) fn short(at: Timestamp) -> String {
    const SECOND: u64 = 1_000_000_000;
    let wall = if at.wall_nanos >= SECOND && at.wall_nanos.is_multiple_of(SECOND) {
        format!("{}s", at.wall_nanos / SECOND)
    } else {
        at.wall_nanos.to_string()
    };
    if at.logical == 0 { wall } else { format!("{wall}.{}", at.logical) }
}

pub(super) fn span(span: &Span) -> String {
    if span.is_point() {
        bytes(&span.start)
    } else {
        format!("{}-{}", bytes(&span.start), bytes(&span.end))
    }
}

fn spans(all: &[kv::Span]) -> String {
    let all: Vec<String> = all.iter().map(|one| span(&one.clone().into())).collect();
    all.join(",")
}

pub(super) fn name(txns: &Txns, id: &[u8]) -> String {
    let found = txns.iter().find(|(_, txn)| txn.id == id);
    found.map_or_else(|| bytes(id), |(name, _)| name.clone())
}

pub(super) fn intent(txns: &Txns, intent: &kv::Intent) -> String {
    let txn = intent.txn.clone().unwrap_or_default();
    let mut out = format!(
        "{} by {} @{} #{}",
        intent.value.as_deref().map_or("deleted".to_owned(), bytes),
        name(txns, &txn.id),
        at(txn.write_timestamp),
        txn.sequence,
    );
    for write in &intent.history {
        let value = write.value.as_deref().map_or("deleted".to_owned(), bytes);
        out += &format!(", was {value} #{}", write.sequence);
    }
    out
}

pub(super) fn record(txns: &Txns, record: &kv::TxnRecord) -> String {
    let meta = record.meta.clone().unwrap_or_default();
    let mut out = format!(
        "{} of {} @{}, heard of {}",
        record.status().as_str_name(),
        name(txns, &meta.id),
        at(meta.write_timestamp),
        at(record.last_heartbeat),
    );
    if !record.in_flight.is_empty() {
        let writes: Vec<String> = record
            .in_flight
            .iter()
            .map(|write| format!("{}:{}", bytes(&write.key), write.sequence))
            .collect();
        out += &format!(", in flight {}", writes.join(","));
    }
    if !record.intents.is_empty() {
        out += &format!(", intents {}", spans(&record.intents));
    }
    out
}

pub(super) fn response(txns: &Txns, answer: &Answer) -> String {
    let resume = |rest: &Option<kv::Span>| {
        rest.as_ref()
            .map_or(String::new(), |rest| format!(", resume {}", spans(std::slice::from_ref(rest))))
    };
    match answer {
        Answer::Get(get) => format!("get: {}", value(get.value.as_deref())),
        Answer::Scan(scan) => {
            let rows: Vec<String> = scan
                .rows
                .iter()
                .map(|row| format!("{}={}", bytes(&row.key), bytes(&row.value)))
                .collect();
            format!("scan: {} [{}]{}", scan.count, rows.join(" "), resume(&scan.resume))
        }
        Answer::HeartbeatTxn(beat) => match &beat.record {
            Some(found) => format!("heartbeat: {}", record(txns, found)),
            None => "heartbeat: none".to_owned(),
        },
        Answer::EndTxn(end) => format!("ended @{}", at(end.write_timestamp)),
        Answer::PushTxn(push) => {
            let recover = if push.recover { " (recover)" } else { "" };
            let found = push.record.as_ref().map_or("none".to_owned(), |found| record(txns, found));
            format!("push: {found}{recover}")
        }
        Answer::QueryTxn(query) => match &query.record {
            Some(found) => format!("record: {}", record(txns, found)),
            None => "record: none".to_owned(),
        },
        Answer::RecoverTxn(recover) => match &recover.record {
            Some(found) => format!("recovered: {}", record(txns, found)),
            None => "recovered: none".to_owned(),
        },
        Answer::ResolveIntent(done) => {
            let rest = resume(&done.resume);
            format!("resolved {}{rest}, done [{}]", done.resolved, spans(&done.done))
        }
        Answer::RevertIntent(done) => format!("reverted{}", resume(&done.resume)),
        Answer::RemoveTxnRecord(done) => match done.left.as_slice() {
            [] => "no record".to_owned(),
            left => format!("the record stays, left {}", spans(left)),
        },
        Answer::Gc(done) => {
            let mut out = format!("removed {}{}", done.removed, resume(&done.resume));
            if done.records_left {
                out += ", records left";
            }
            for record in &done.abandoned {
                out += &format!("\nabandoned: {}", self::record(txns, record));
            }
            out
        }
        other => format!("{other:?}"),
    }
}

pub(super) fn error(error: &error::Kind) -> String {
    use error::Kind;
    match error {
        Kind::ReadUncertain(met) => {
            format!("ReadUncertain {} @{}", bytes(&met.key), at(met.existing))
        }
        Kind::WriteTooOld(met) => format!("WriteTooOld {} @{}", bytes(&met.key), at(met.existing)),
        Kind::TxnRetry(retry) => format!("TxnRetry @{}", at(retry.needed)),
        other => format!("{other:?}"),
    }
}

/// What else the leaseholder hears of a batch.
pub(super) fn effects(txns: &Txns, evaluated: &Evaluated, read: Timestamp, all: bool) -> String {
    let mut out = Vec::new();
    if evaluated.read_timestamp != read {
        out.push(format!("read raised to {}", short(evaluated.read_timestamp)));
    }
    if all {
        out.extend(evaluated.write_timestamp.map(|at| format!("wrote at {}", short(at))));
        let reads: Vec<String> = evaluated.reads.iter().map(served).collect();
        if !reads.is_empty() {
            out.push(format!("served {}", reads.join(" ")));
        }
    }
    let locks: Vec<String> = evaluated
        .locks
        .iter()
        .map(|(key, strength)| format!("{} {}", strength.as_str_name(), bytes(key)))
        .collect();
    if !locks.is_empty() {
        out.push(locks.join(", "));
    }
    out.extend(evaluated.moved.map(|at| format!("moved to {}", short(at))));
    for (txn, keys) in &evaluated.resolved {
        out.push(format!("no intents of {} in {}", name(txns, txn), span(keys)));
    }
    out.extend(evaluated.released.iter().map(|txn| format!("released {}", name(txns, txn))));
    out.join("; ")
}

fn served(read: &ServedRead) -> String {
    let by = if read.by_txn { "" } else { " by nobody" };
    format!("{}@{}{by}", span(&read.span), short(read.timestamp))
}
