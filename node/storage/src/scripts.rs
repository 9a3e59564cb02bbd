//! Golden scripts: the same for the engine in memory and the one on disk.
//!
//! | command | does |
//! |---|---|
//! | `write [sync=no] OP...` | writes one batch of `put FAMILY KEY VALUE`, `delete FAMILY KEY`, `delete_range FAMILY START END` |
//! | `get`, `scan`, `scan_reverse` `[snap=NAME] FAMILY KEY [END]` | reads |
//! | `version at=TS KEY [VALUE]` | writes one version, without a value a tombstone |
//! | `mvget`, `mvscan`, `mvscan_reverse` `[snap=NAME] at=TS KEY [END]` | reads versions |
//! | `batch [snap=NAME] read=TS write=TS [deadline=TS] REQUEST...` | evaluates and writes |
//! | `snapshot NAME`, `flush`, `crash [keep=N]`, `fail_next_write` | what they say |

use std::{error::Error as StdError, fmt::Write as _, ops::ControlFlow, path::Path};

use crdb_keys::{Span, Timestamp, pretty::Escaped};
use crdb_proto::kv::{self, request::Kind, response::Kind as Answer};
use goldenscript::{ArgumentConsumer, Command};
use test_each_file::test_each_path;

use crate::{
    Engine, Error, Family, MemoryEngine, Reader, RocksEngine, RocksOptions, Sync, WriteBatch,
    evaluate::{self, At, EvalArgs},
    mvcc::{self, Direction},
};

test_each_path! { in "node/storage/src/testscripts/shared" as in_memory => in_memory }
test_each_path! { in "node/storage/src/testscripts/shared" as on_disk => on_disk }
test_each_path! { in "node/storage/src/testscripts/memory" as memory => in_memory }

type Outcome = Result<String, Box<dyn StdError>>;

fn in_memory(path: &Path) {
    let engine = MemoryEngine::new();
    let memory = Some(engine.clone());
    let mut runner = Runner { engine, memory, snapshots: Vec::new() };
    goldenscript::run(&mut runner, path).expect("script failed");
}

fn on_disk(path: &Path) {
    let directory = tempfile::TempDir::new().unwrap();
    let engine = RocksEngine::open(directory.path(), &RocksOptions::default()).unwrap();
    let mut runner = Runner { engine, memory: None, snapshots: Vec::new() };
    goldenscript::run(&mut runner, path).expect("script failed");
}

struct Runner<E: Engine> {
    engine: E,
    memory: Option<MemoryEngine>,
    snapshots: Vec<(String, E::Snapshot)>,
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

    fn batch(&self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let at = At { read: timestamp(args, "read")?, write: timestamp(args, "write")? };
        let deadline = args.take_key("deadline").map(parse_timestamp).transpose()?;
        let header =
            kv::BatchHeader { deadline: deadline.map(Into::into), ..kv::BatchHeader::default() };
        let mut requests = Vec::new();
        while let Some(text) = args.next_pos() {
            requests.push(kv::Request { kind: Some(parse_request(text)?) });
        }
        let batch = kv::BatchRequest { header: Some(header), requests };
        let mut out = String::new();
        for (span, access) in evaluate::latch_spans(&batch) {
            let end = if span.is_point() { String::new() } else { format!("-{}", show(&span.end)) };
            write!(out, "{access:?} {}{end}  ", show(&span.start))?;
        }
        out.truncate(out.trim_end().len());
        writeln!(out, "{}", if evaluate::is_read_only(&batch) { " (read only)" } else { "" })?;
        let evaluated = match evaluate::evaluate(
            &self.engine.snapshot(),
            &batch,
            &EvalArgs::alone(at, at.write),
        ) {
            Ok(evaluated) => evaluated,
            Err(error) => {
                writeln!(out, "error: {error}")?;
                if let evaluate::EvalError::Kv(error) = error {
                    writeln!(out, "{:?}", error.kind.ok_or("no kind")?)?;
                }
                return Ok(out);
            }
        };
        for response in &evaluated.responses {
            writeln!(out, "{}", show_response(response.kind.as_ref().ok_or("no kind")?))?;
        }
        if !evaluated.batch.is_empty() {
            writeln!(out, "wrote {} versions", evaluated.batch.len())?;
            self.engine.write(&evaluated.batch, Sync::Yes)?;
        }
        Ok(out)
    }
}

fn read(name: &str, reader: &impl Reader, args: &mut ArgumentConsumer<'_>) -> Outcome {
    let mut out = String::new();
    let mut line = |key: &[u8], value: &[u8]| -> Result<ControlFlow<()>, Error> {
        writeln!(out, "{} = {}", show(key), show(value)).expect("a string takes all");
        Ok(ControlFlow::Continue(()))
    };
    match name {
        "get" => {
            let family = parse_family(next(args)?)?;
            let value = reader.get(family, next(args)?.as_bytes())?;
            return Ok(value.map_or("none\n".to_owned(), |value| format!("{}\n", show(&value))));
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
                    Some(value) => format!("{} @{}\n", show(&value), version.timestamp),
                    None => format!("deleted @{}\n", version.timestamp),
                },
            });
        }
        "mvscan" | "mvscan_reverse" => {
            let at = timestamp(args, "at")?;
            let span = Span::new(next(args)?.to_owned(), next(args)?.to_owned());
            let direction = if name == "mvscan" { Direction::Forward } else { Direction::Reverse };
            mvcc::scan(reader, &span, at, direction, &mut |key, version, value| {
                let value = value.map_or("deleted".to_owned(), show);
                writeln!(out, "{} = {value} @{version}", show(key)).expect("a string takes all");
                Ok(ControlFlow::Continue(()))
            })?;
        }
        _ => return Err(format!("no such command: {name}").into()),
    }
    Ok(out)
}

fn parse_request(text: &str) -> Result<Kind, Box<dyn StdError>> {
    let words: Vec<&str> = text.split(' ').collect();
    let bytes = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    Ok(match words.as_slice() {
        ["get", key] => Kind::Get(kv::GetRequest { key: bytes(key), ..Default::default() }),
        ["scan", start, end, options @ ..] => {
            let mut scan = kv::ScanRequest {
                start: bytes(start),
                end: bytes(end),
                ..kv::ScanRequest::default()
            };
            for option in options {
                match option.split_once('=') {
                    Some(("rows", rows)) => scan.max_rows = rows.parse()?,
                    Some(("bytes", bytes)) => scan.max_bytes = bytes.parse()?,
                    None if *option == "reverse" => scan.reverse = true,
                    None if *option == "count" => scan.count_only = true,
                    _ => return Err(format!("no such option: {option}").into()),
                }
            }
            Kind::Scan(scan)
        }
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
            max_keys: max.first().map_or(Ok(0), |max| max.parse())?,
        }),
        ["increment", key, delta] => {
            Kind::Increment(kv::IncrementRequest { key: bytes(key), delta: delta.parse()? })
        }
        ["validate", since, start, end @ ..] => Kind::Validate(kv::ValidateRequest {
            spans: vec![kv::Span {
                start: bytes(start),
                end: end.first().map(|end| bytes(end)).unwrap_or_default(),
            }],
            since: Some(parse_timestamp(since)?.into()),
        }),
        _ => return Err(format!("no such request: {text}").into()),
    })
}

fn show_response(answer: &Answer) -> String {
    match answer {
        Answer::Get(get) => {
            format!("get: {}", get.value.as_deref().map_or("none".to_owned(), show))
        }
        Answer::Scan(scan) => {
            let rows: Vec<String> = scan
                .rows
                .iter()
                .map(|row| format!("{}={}", show(&row.key), show(&row.value)))
                .collect();
            let resume = scan.resume.as_ref().map_or(String::new(), |resume| {
                format!(", resume {}-{}", show(&resume.start), show(&resume.end))
            });
            format!("scan: {} [{}]{resume}", scan.count, rows.join(" "))
        }
        other => format!("{other:?}"),
    }
}

fn show(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
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

/// `WALL` or `WALL.LOGICAL`.
fn parse_timestamp(text: &str) -> Result<Timestamp, Box<dyn StdError>> {
    let (wall, logical) = text.split_once('.').unwrap_or((text, "0"));
    Ok(Timestamp::new(wall.parse()?, logical.parse()?))
}
