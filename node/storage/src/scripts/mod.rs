//! Golden scripts: the same for the engine in memory and the one on disk.
//!
//! | command | does |
//! |---|---|
//! | `write [sync=no] OP...` | writes one batch of `put FAMILY KEY VALUE`, `delete FAMILY KEY`, `delete_range FAMILY START END` |
//! | `get`, `scan`, `scan_reverse` `[snap=NAME] FAMILY KEY [END]` | reads |
//! | `version at=TS KEY [VALUE]` | writes one version, without a value a tombstone |
//! | `mvget`, `mvscan`, `mvscan_reverse` `[snap=NAME] at=TS KEY [END]` | reads versions |
//! | `txn NAME [anchor=KEY] [min=TS] [ts=TS] [seq=N] [priority=low]` | names a transaction |
//! | `batch [read=TS] [write=TS] [now=TS] [threshold=TS] [certain=TS] HEADER REQUEST...` | evaluates and writes; `HEADER` is `deadline=TS`, `limit=TS`, `txn=NAME [ts=TS] [seq=N]`, `savepoints=N,...`, `with=OPTION,...` |
//! | `limit NAME N` | a bound of later batches |
//! | `floor KEY TS`, `locked KEY...` | what later batches hear of the key from the leaseholder |
//! | `locks START END`, `versions START END`, `stats START END` | all there is |
//! | `snapshot NAME`, `flush`, `crash [keep=N]`, `fail_next_write` | what they say |

mod requests;
mod show;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as StdError,
    fmt::Write as _,
    ops::ControlFlow,
    path::Path,
};

use crdb_keys::{Span, Timestamp};
use crdb_proto::kv;
use goldenscript::{ArgumentConsumer, Command};
use test_each_file::test_each_path;

use self::requests::{Txns, timestamp as parse_timestamp};
use crate::{
    Engine, Error, Family, Limits, MemoryEngine, Reader, RocksEngine, RocksOptions, Sync,
    WriteBatch,
    evaluate::{self, At, EvalArgs, EvalError, Evaluated},
    lock::{self, Lock},
    mvcc::{self, Direction},
};

test_each_path! { in "node/storage/src/testscripts/shared" as in_memory => in_memory }
test_each_path! { in "node/storage/src/testscripts/shared" as on_disk => on_disk }
test_each_path! { in "node/storage/src/testscripts/memory" as memory => in_memory }

type Outcome = Result<String, Box<dyn StdError>>;

fn in_memory(path: &Path) {
    let engine = MemoryEngine::new();
    let mut runner = Runner::new(engine.clone(), Some(engine));
    goldenscript::run(&mut runner, path).expect("script failed");
}

fn on_disk(path: &Path) {
    let directory = tempfile::TempDir::new().unwrap();
    let engine = RocksEngine::open(directory.path(), &RocksOptions::default()).unwrap();
    let mut runner = Runner::new(engine, None);
    goldenscript::run(&mut runner, path).expect("script failed");
}

struct Runner<E: Engine> {
    engine: E,
    memory: Option<MemoryEngine>,
    snapshots: Vec<(String, E::Snapshot)>,
    txns: Txns,
    /// What writes to keys must be above.
    floors: BTreeMap<Vec<u8>, Timestamp>,
    /// Keys that somebody else has an unreplicated lock on.
    locked: BTreeSet<Vec<u8>>,
    limits: Limits,
}

impl<E: Engine> Runner<E> {
    fn new(engine: E, memory: Option<MemoryEngine>) -> Self {
        Self {
            engine,
            memory,
            snapshots: Vec::new(),
            txns: Txns::new(),
            floors: BTreeMap::new(),
            locked: BTreeSet::new(),
            limits: Limits::default(),
        }
    }
}

impl<E: Engine> goldenscript::Runner for Runner<E> {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &goldenscript::Context) -> Outcome {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            "write" => self.write(&mut args)?,
            "version" => self.version(&mut args)?,
            "snapshot" => {
                let name = next(&mut args)?.to_owned();
                self.snapshots.push((name, self.engine.snapshot()));
                String::new()
            }
            "flush" => {
                self.engine.flush()?;
                String::new()
            }
            "crash" => {
                let keep = args.take_key("keep").map_or(Ok(0), str::parse)?;
                let memory = self.memory.as_ref().ok_or("this engine cannot crash")?;
                let lost = memory.unsynced().saturating_sub(keep);
                memory.crash(keep);
                format!("lost {lost} batches\n")
            }
            "fail_next_write" => {
                let memory = self.memory.as_ref().ok_or("this engine cannot fail")?;
                memory.fail_next_write("No space left on device");
                String::new()
            }
            "batch" => self.batch(&mut args)?,
            "txn" => self.txn(&mut args)?,
            "locks" => self.locks(&mut args)?,
            "versions" => self.versions(&mut args)?,
            "stats" => self.stats(&mut args)?,
            "floor" => {
                let key = next(&mut args)?.as_bytes().to_vec();
                self.floors.insert(key, parse_timestamp(next(&mut args)?)?);
                String::new()
            }
            "limit" => {
                let name = next(&mut args)?.to_owned();
                self.limits.set(&name, next(&mut args)?.parse()?)?;
                String::new()
            }
            "locked" => {
                self.locked.clear();
                while let Some(key) = args.next_pos() {
                    self.locked.insert(key.as_bytes().to_vec());
                }
                String::new()
            }
            name => match args.take_key("snap") {
                Some(snap) => {
                    let found = self.snapshots.iter().find(|(name, _)| name == snap);
                    read(name, &found.ok_or("no such snapshot")?.1, &mut args)?
                }
                None => read(name, &self.engine, &mut args)?,
            },
        };
        args.reject_next()?;
        Ok(output)
    }
}

impl<E: Engine> Runner<E> {
    fn write(&self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let sync = if args.take_key("sync") == Some("no") { Sync::No } else { Sync::Yes };
        let mut batch = WriteBatch::new();
        while let Some(op) = args.next_pos() {
            let words: Vec<String> = op.split(' ').map(ToOwned::to_owned).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["put", family, key, value] => {
                    batch.put(parse_family(family)?, key.as_bytes().to_vec(), value.to_string());
                }
                ["delete", family, key] => {
                    batch.delete(parse_family(family)?, key.as_bytes().to_vec());
                }
                ["delete_range", family, start, end] => {
                    batch.delete_range(parse_family(family)?, start.to_string(), end.to_string());
                }
                _ => return Err(format!("no such write: {op}").into()),
            }
        }
        // Through the bytes, as a raft command would.
        let batch = WriteBatch::decode(batch.encode())?;
        self.engine.write(&batch, sync)?;
        Ok(String::new())
    }

    fn version(&self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let at = timestamp(args, "at")?;
        let mut batch = WriteBatch::new();
        let key = next(args)?;
        mvcc::put(&mut batch, key.as_bytes(), at, args.next_pos().map(str::as_bytes));
        self.engine.write(&batch, Sync::Yes)?;
        Ok(String::new())
    }

    /// Names a transaction, or changes what is said of it.
    fn txn(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let name = next(args)?.to_owned();
        let txn = self.txns.entry(name.clone()).or_insert_with(|| kv::TxnMeta {
            id: name.bytes().cycle().take(16).collect::<Vec<u8>>().into(),
            sequence: 1,
            ..kv::TxnMeta::default()
        });
        change(txn, args)?;
        if let Some(anchor) = args.take_key("anchor") {
            txn.anchor = requests::bytes(anchor);
        }
        if let Some(min) = args.take_key("min") {
            txn.min_timestamp = Some(parse_timestamp(min)?.into());
        }
        txn.priority = match args.take_key("priority") {
            None => txn.priority,
            Some("low") => kv::TxnPriority::PriorityLow.into(),
            Some("high") => kv::TxnPriority::PriorityHigh.into(),
            Some(other) => return Err(format!("no priority {other}").into()),
        };
        Ok(String::new())
    }

    fn header(
        &self,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<kv::BatchHeader, Box<dyn StdError>> {
        let mut optional = |key: &str| -> Result<Option<kv::Timestamp>, Box<dyn StdError>> {
            Ok(args.take_key(key).map(parse_timestamp).transpose()?.map(Into::into))
        };
        let mut header = kv::BatchHeader {
            deadline: optional("deadline")?,
            uncertainty_limit: optional("limit")?,
            ..kv::BatchHeader::default()
        };
        if let Some(name) = args.take_key("txn") {
            let mut txn = self.txns.get(name).ok_or("no such transaction")?.clone();
            change(&mut txn, args)?;
            header.txn = Some(txn);
        }
        if let Some(sequences) = args.take_key("savepoints") {
            let sequences = sequences.split_terminator(',').map(str::parse);
            header.savepoints =
                Some(kv::Savepoints { sequences: sequences.collect::<Result<_, _>>()? });
        }
        for option in args.take_key("with").unwrap_or_default().split_terminator(',') {
            match option {
                "one_phase" => header.one_phase = true,
                "exact" => header.exact_timestamp = true,
                "forward" => header.can_forward_read_timestamp = true,
                "skip" => header.wait_policy = kv::WaitPolicy::WaitSkip.into(),
                _ => return Err(format!("no such option: {option}").into()),
            }
        }
        Ok(header)
    }

    fn batch(&self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let at = At {
            read: args.take_key("read").map_or(Ok(Timestamp::ZERO), parse_timestamp)?,
            write: args.take_key("write").map_or(Ok(Timestamp::ZERO), parse_timestamp)?,
        };
        let now = args.take_key("now").map_or(Ok(at.read.max(at.write)), parse_timestamp)?;
        let gc_threshold =
            args.take_key("threshold").map_or(Ok(Timestamp::ZERO), parse_timestamp)?;
        let header = self.header(args)?;
        let certain_above = args.take_key("certain").map_or(Ok(Timestamp::MAX), parse_timestamp)?;
        let all = header.txn.is_some() || args.take_key("effects").is_some();
        let mut kinds = Vec::new();
        while let Some(text) = args.next_pos() {
            kinds.push(kv::Request { kind: Some(requests::parse(text, &self.txns)?) });
        }
        let batch = kv::BatchRequest { header: Some(header), requests: kinds };
        let mut out = String::new();
        for (span, access) in evaluate::latch_spans(&batch) {
            write!(out, "{access:?} {}  ", show::span(&span))?;
        }
        out.truncate(out.trim_end().len());
        writeln!(out, "{}", if evaluate::is_read_only(&batch) { " (read only)" } else { "" })?;
        let args = EvalArgs {
            certain_above,
            now,
            gc_threshold,
            floor: &|key| self.floors.get(key).copied().unwrap_or_default(),
            skip: &|key, _| self.locked.contains(key),
            limits: self.limits,
            ..EvalArgs::alone(at, now)
        };
        match evaluate::evaluate(&self.engine.snapshot(), &batch, &args) {
            Ok(evaluated) => self.show_evaluated(&mut out, &evaluated, at.read, all)?,
            Err(EvalError::Intents(intents)) => {
                for (key, txn) in intents {
                    let (name, at) =
                        (show::name(&self.txns, &txn.id), show::at(txn.write_timestamp));
                    writeln!(out, "intent in the way: {} by {name} @{at}", show::bytes(&key))?;
                }
            }
            Err(error) => {
                writeln!(out, "error: {error}")?;
                if let EvalError::Kv(error) = error {
                    writeln!(out, "{}", show::error(&error.kind.ok_or("no kind")?))?;
                }
            }
        }
        Ok(out)
    }

    fn show_evaluated(
        &self,
        out: &mut String,
        evaluated: &Evaluated,
        read: Timestamp,
        all: bool,
    ) -> Result<(), Box<dyn StdError>> {
        for response in &evaluated.responses {
            let kind = response.kind.as_ref().ok_or("no kind")?;
            writeln!(out, "{}", show::response(&self.txns, kind))?;
        }
        if !evaluated.batch.is_empty() {
            if !all {
                writeln!(out, "wrote {} versions", evaluated.batch.len())?;
            }
            // Through the bytes, as a raft command would.
            let batch = WriteBatch::decode(evaluated.batch.encode())?;
            self.engine.write(&batch, Sync::Yes)?;
        }
        let effects = show::effects(&self.txns, evaluated, read, all);
        if !effects.is_empty() {
            writeln!(out, "{effects}")?;
        }
        Ok(())
    }

    /// The intents and records of a span.
    fn locks(&self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let mut out = String::new();
        let span = Span::new(next(args)?.to_owned(), next(args)?.to_owned());
        lock::scan(&self.engine, &span, Direction::Forward, &mut |lock| {
            out += &match lock {
                Lock::Intent(key, intent) => {
                    format!("{}: {}\n", show::bytes(&key), show::intent(&self.txns, &intent))
                }
                Lock::Record { anchor, record, .. } => {
                    format!("{}: {}\n", show::bytes(&anchor), show::record(&self.txns, &record))
                }
            };
            ControlFlow::Continue(())
        })?;
        Ok(out)
    }

    /// All versions of a span.
    fn versions(&self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let mut out = String::new();
        let span = Span::new(next(args)?.to_owned(), next(args)?.to_owned());
        mvcc::scan_versions(&self.engine, &span, &mut |key, at, value| {
            let value = value.map_or("deleted".to_owned(), show::bytes);
            out += &format!("{} = {value} @{}\n", show::bytes(key), show::short(at));
            ControlFlow::Continue(())
        })?;
        Ok(out)
    }

    fn stats(&self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let span = Span::new(next(args)?.to_owned(), next(args)?.to_owned());
        Ok(format!("{:?}\n", evaluate::range_stats(&self.engine, &span)?))
    }
}

/// Changes what a transaction says of itself from batch to batch.
fn change(txn: &mut kv::TxnMeta, args: &mut ArgumentConsumer<'_>) -> Result<(), Box<dyn StdError>> {
    if let Some(ts) = args.take_key("ts") {
        txn.write_timestamp = Some(parse_timestamp(ts)?.into());
    }
    if let Some(sequence) = args.take_key("seq") {
        txn.sequence = sequence.parse()?;
    }
    Ok(())
}

fn read(name: &str, reader: &impl Reader, args: &mut ArgumentConsumer<'_>) -> Outcome {
    let mut out = String::new();
    let mut line = |key: &[u8], value: &[u8]| -> Result<ControlFlow<()>, Error> {
        writeln!(out, "{} = {}", show::bytes(key), show::bytes(value)).expect("a string takes all");
        Ok(ControlFlow::Continue(()))
    };
    match name {
        "get" => {
            let family = parse_family(next(args)?)?;
            let value = reader.get(family, next(args)?.as_bytes())?;
            return Ok(
                value.map_or("none\n".to_owned(), |value| format!("{}\n", show::bytes(&value)))
            );
        }
        "scan" | "scan_reverse" => {
            let family = parse_family(next(args)?)?;
            let (start, end) = (next(args)?.as_bytes(), next(args)?.as_bytes());
            if name == "scan" {
                reader.scan(family, start, end, &mut line)?;
            } else {
                reader.scan_reverse(family, start, end, &mut line)?;
            }
        }
        "mvget" => {
            let at = timestamp(args, "at")?;
            let version = mvcc::get_version(reader, next(args)?.as_bytes(), at)?;
            return Ok(match version {
                None => "none\n".to_owned(),
                Some(version) => match version.value {
                    Some(value) => format!("{} @{}\n", show::bytes(&value), version.timestamp),
                    None => format!("deleted @{}\n", version.timestamp),
                },
            });
        }
        "mvscan" | "mvscan_reverse" => {
            let at = timestamp(args, "at")?;
            let span = Span::new(next(args)?.to_owned(), next(args)?.to_owned());
            let direction = if name == "mvscan" { Direction::Forward } else { Direction::Reverse };
            mvcc::scan(reader, &span, at, direction, &mut |key, version, value| {
                let value = value.map_or("deleted".to_owned(), show::bytes);
                writeln!(out, "{} = {value} @{version}", show::bytes(key))
                    .expect("a string takes all");
                Ok(ControlFlow::Continue(()))
            })?;
        }
        _ => return Err(format!("no such command: {name}").into()),
    }
    Ok(out)
}

fn next<'a>(args: &mut ArgumentConsumer<'a>) -> Result<&'a str, Box<dyn StdError>> {
    Ok(args.next_pos().ok_or("an argument is missing")?)
}

fn parse_family(name: &str) -> Result<Family, Box<dyn StdError>> {
    let found = Family::ALL.into_iter().find(|family| family.name() == name);
    Ok(found.ok_or_else(|| format!("no family {name}"))?)
}

fn timestamp(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<Timestamp, Box<dyn StdError>> {
    parse_timestamp(args.take_key(key).ok_or_else(|| format!("{key}= is missing"))?)
}
