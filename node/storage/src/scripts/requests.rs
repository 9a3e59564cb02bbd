//! Requests of the scripts, as text.
//!
//! | request | options |
//! |---|---|
//! | `get K` | `lock=exclusive`, `lock=shared`, `absent` |
//! | `scan K END` | `rows=N`, `bytes=N`, `reverse`, `count`, `lock=` |
//! | `put K V`, `cput K V [EXPECTED]`, `delete K`, `delete_range K END [N]`, `increment K N` | |
//! | `validate SINCE K [END]` | |
//! | `end commit`, `end stage`, `end abort` | `raise`, `inflight=K:SEQ`, `intents=K` or `K-END` |
//! | `heartbeat TS`, `push TXN`, `query_txn TXN` | `by=TXN`, `force` |
//! | `recover TXN yes` or `no` | |
//! | `query_intent K TXN` | `seq=N`, `ts=TS`, `prevent` |
//! | `resolve K[-END] TXN committed@TS` or `aborted` | `max=N` |
//! | `revert K[-END] SEQ`, `remove ANCHOR TXN`, `gc K END TS` | `max=N` |

use std::{collections::BTreeMap, error::Error as StdError};

use bytes::Bytes;
use crdb_keys::Timestamp;
use crdb_proto::kv::{self, request::Kind};

type Parsed<T> = Result<T, Box<dyn StdError>>;

/// The transactions of a script, by name.
pub(super) type Txns = BTreeMap<String, kv::TxnMeta>;

/// Words of a request: those that name something, and the options.
struct Words<'a> {
    names: Vec<&'a str>,
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        let mut words = Self { names: Vec::new(), options: Vec::new() };
        for word in text.split(' ') {
            match word.split_once('=') {
                Some(option) => words.options.push(option),
                None => words.names.push(word),
            }
        }
        words
    }

    fn option(&mut self, name: &str) -> Option<&'a str> {
        let at = self.options.iter().position(|(option, _)| *option == name)?;
        Some(self.options.remove(at).1)
    }

    fn number<T: std::str::FromStr<Err: StdError + 'static>>(&mut self, name: &str) -> Parsed<T> {
        Ok(self.option(name).unwrap_or("0").parse()?)
    }

    fn flag(&mut self, name: &str) -> bool {
        let at = self.names.iter().skip(1).position(|word| *word == name);
        at.map(|at| self.names.remove(at + 1)).is_some()
    }

    fn lock(&mut self) -> Parsed<i32> {
        Ok(match self.option("lock") {
            None => 0,
            Some("shared") => kv::LockStrength::LockShared.into(),
            Some("exclusive") => kv::LockStrength::LockExclusive.into(),
            Some(other) => other.parse()?,
        })
    }
}

pub(super) fn parse(text: &str, txns: &Txns) -> Parsed<Kind> {
    let mut words = Words::of(text);
    let lock = words.lock()?;
    let max: u64 = words.number("max")?;
    let kind = match words.names.first() {
        Some(&"get") => {
            let (lock_absent, lock_only) = (words.flag("absent"), words.flag("lockonly"));
            let [_, key] = words.names[..] else { return Err("get KEY".into()) };
            Kind::Get(kv::GetRequest { key: bytes(key), lock, lock_absent, lock_only })
        }
        Some(&"scan") => {
            let (reverse, count_only) = (words.flag("reverse"), words.flag("count"));
            let (max_rows, max_bytes) = (words.number("rows")?, words.number("bytes")?);
            let [_, start, end] = words.names[..] else { return Err("scan START END".into()) };
            let (start, end) = (bytes(start), bytes(end));
            Kind::Scan(kv::ScanRequest {
                start,
                end,
                max_rows,
                max_bytes,
                reverse,
                count_only,
                lock,
            })
        }
        _ => parse_write(&words.names)
            .or_else(|| parse_txn(&mut words, txns, max).transpose())
            .ok_or_else(|| format!("no such request: {text}"))??,
    };
    match words.options.first() {
        Some((option, _)) => Err(format!("no such option: {option}").into()),
        None => Ok(kind),
    }
}

fn parse_write(names: &[&str]) -> Option<Parsed<Kind>> {
    Some(Ok(match names {
        ["put", key, value] => Kind::Put(kv::PutRequest { key: bytes(key), value: bytes(value) }),
        ["cput", key, value, expected @ ..] => Kind::ConditionalPut(kv::ConditionalPutRequest {
            key: bytes(key),
            value: bytes(value),
            expected: expected.first().map(|expected| bytes(expected)),
        }),
        ["delete", key] => Kind::Delete(kv::DeleteRequest { key: bytes(key) }),
        ["delete_range", start, end, max @ ..] => Kind::DeleteRange(kv::DeleteRangeRequest {
            start: bytes(start),
            end: bytes(end),
            max_keys: max.first().and_then(|max| max.parse().ok()).unwrap_or(0),
        }),
        ["increment", key, delta] => match delta.parse() {
            Ok(delta) => Kind::Increment(kv::IncrementRequest { key: bytes(key), delta }),
            Err(error) => return Some(Err(Box::new(error))),
        },
        ["validate", since, start, end @ ..] => match timestamp(since) {
            Ok(since) => Kind::Validate(kv::ValidateRequest {
                spans: vec![kv::Span {
                    start: bytes(start),
                    end: end.first().map(|end| bytes(end)).unwrap_or_default(),
                }],
                since: Some(since.into()),
            }),
            Err(error) => return Some(Err(error)),
        },
        _ => return None,
    }))
}

fn parse_txn(words: &mut Words<'_>, txns: &Txns, max: u64) -> Parsed<Option<Kind>> {
    let (force, prevent, raise) = (words.flag("force"), words.flag("prevent"), words.flag("raise"));
    let meta = |name: &str| txns.get(name).cloned().ok_or(format!("no transaction {name}"));
    let by = words.option("by").map(meta).transpose()?;
    Ok(Some(match words.names[..] {
        ["end", how] => Kind::EndTxn(parse_end(words, how, raise)?),
        ["heartbeat", now] => {
            Kind::HeartbeatTxn(kv::HeartbeatTxnRequest { now: Some(timestamp(now)?.into()) })
        }
        ["push", name] => {
            let pushee = Some(meta(name)?);
            Kind::PushTxn(kv::PushTxnRequest { pushee, pusher: by, force, dependents: Vec::new() })
        }
        ["query_txn", name] => Kind::QueryTxn(kv::QueryTxnRequest { txn: Some(meta(name)?) }),
        ["recover", name, committed] => {
            let mut txn = meta(name)?;
            if let Some(ts) = words.option("ts") {
                txn.write_timestamp = Some(timestamp(ts)?.into());
            }
            let implicitly_committed = committed == "yes";
            Kind::RecoverTxn(kv::RecoverTxnRequest { txn: Some(txn), implicitly_committed })
        }
        ["query_intent", key, name] => {
            let mut txn = meta(name)?;
            if let Some(ts) = words.option("ts") {
                txn.write_timestamp = Some(timestamp(ts)?.into());
            }
            if let Some(sequence) = words.option("seq") {
                txn.sequence = sequence.parse()?;
            }
            let key = bytes(key);
            Kind::QueryIntent(kv::QueryIntentRequest { key, txn: Some(txn), prevent })
        }
        ["resolve", keys, name, how] => {
            let kv::Span { start, end } = span(keys);
            let (status, commit_timestamp) = match how.split_once('@') {
                Some(("committed", at)) => (kv::TxnStatus::Committed, Some(timestamp(at)?.into())),
                _ if how == "committed" => (kv::TxnStatus::Committed, None),
                _ if how == "aborted" => (kv::TxnStatus::Aborted, None),
                _ => (kv::TxnStatus::Staging, None),
            };
            Kind::ResolveIntent(kv::ResolveIntentRequest {
                start,
                end,
                txn_id: meta(name)?.id,
                status: status.into(),
                commit_timestamp,
                max_keys: max,
            })
        }
        ["revert", keys, to_sequence] => {
            let kv::Span { start, end } = span(keys);
            let to_sequence = to_sequence.parse()?;
            Kind::RevertIntent(kv::RevertIntentRequest { start, end, to_sequence })
        }
        ["remove", anchor, name] => {
            let txn_id = meta(name)?.id;
            let anchor = bytes(anchor);
            let resolved = words.option("resolved").unwrap_or_default();
            let resolved = resolved.split_terminator(',').map(span).collect();
            Kind::RemoveTxnRecord(kv::RemoveTxnRecordRequest { anchor, txn_id, resolved })
        }
        ["gc", start, end, at] => {
            let threshold = Some(timestamp(at)?.into());
            let (start, end) = (bytes(start), bytes(end));
            Kind::Gc(kv::GcRequest { start, end, threshold, max_versions: max })
        }
        ["split", key] => {
            Kind::Split(kv::SplitRequest { key: bytes(key), ..kv::SplitRequest::default() })
        }
        _ => return Ok(None),
    }))
}

fn parse_end(words: &mut Words<'_>, how: &str, raise: bool) -> Parsed<kv::EndTxnRequest> {
    let action = match how {
        "commit" => kv::EndTxnAction::EndCommit,
        "stage" => kv::EndTxnAction::EndStage,
        "abort" => kv::EndTxnAction::EndAbort,
        _ => return Err(format!("no such end: {how}").into()),
    };
    let mut end = kv::EndTxnRequest {
        action: action.into(),
        can_raise_timestamp: raise,
        ..kv::EndTxnRequest::default()
    };
    for write in words.option("inflight").unwrap_or_default().split_terminator(',') {
        let (key, sequence) = write.split_once(':').ok_or("inflight=KEY:SEQUENCE")?;
        let sequence = sequence.parse()?;
        end.in_flight.push(kv::SequencedWrite { key: bytes(key), sequence });
    }
    let intents = words.option("intents").unwrap_or_default();
    end.intents = intents.split_terminator(',').map(span).collect();
    Ok(end)
}

/// `KEY` or `KEY-END`.
fn span(text: &str) -> kv::Span {
    let (start, end) = text.split_once('-').unwrap_or((text, ""));
    kv::Span { start: bytes(start), end: bytes(end) }
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// `WALL` or `WALL.LOGICAL`; wall in nanoseconds, or seconds with an `s` behind it.
pub(super) fn timestamp(text: &str) -> Parsed<Timestamp> {
    let (wall, logical) = text.split_once('.').unwrap_or((text, "0"));
    let wall = match wall.strip_suffix('s') {
        Some(seconds) => seconds.parse::<u64>()? * 1_000_000_000,
        None => wall.parse()?,
    };
    Ok(Timestamp::new(wall, logical.parse()?))
}
