//! `put KEY=VALUE`, `insert KEY=VALUE`, `delete KEY`, `savepoint`, `rollback N`, `get KEY`,
//! `scan SPAN [rows=N] [bytes=N] [reverse] [count] [read=KEY=VALUE,...] [resume=SPAN]`, `send`,
//! `flush [bytes=N] [keys=N]`, `release N`, `sent N`.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::path::Path;

use crdb_proto::kv::{KeyValue, Request, ScanRequest, ScanResponse, Span, request::Kind};
use goldenscript::Command;
use test_each_file::test_each_path;

use super::{Outcome, bytes, span, span_text, text};
use crate::Limits;
use crate::txn::buffer::{Batch, WriteBuffer};

test_each_path! { in "node/kv/src/testscripts/buffer" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut Script::default(), path).expect("script failed");
}

#[derive(Default)]
struct Script {
    buffer: WriteBuffer,
    sequence: u32,
}

fn pairs(text: &str) -> Vec<KeyValue> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once(':').unwrap();
        KeyValue { key: bytes(key), value: bytes(value) }
    };
    text.split(',').filter(|text| !text.is_empty()).map(pair).collect()
}

fn requests(requests: &[Request]) -> String {
    let mut out = String::new();
    for request in requests {
        match request.kind.as_ref().unwrap() {
            Kind::Put(r) => write!(out, " put:{}={}", text(&r.key), text(&r.value)),
            Kind::ConditionalPut(r) => {
                write!(out, " if-absent:{}={}", text(&r.key), text(&r.value))
            }
            Kind::Delete(r) => write!(out, " delete:{}", text(&r.key)),
            other => panic!("not printed: {other:?}"),
        }
        .unwrap();
    }
    out
}

impl Script {
    fn scan(&self, word: &str, words: &[String], named: &[(String, String)]) -> Outcome {
        let (start, end) = span(word);
        let mut scan = ScanRequest { start, end, ..ScanRequest::default() };
        let mut read = ScanResponse::default();
        scan.reverse = words.iter().any(|word| word == "reverse");
        scan.count_only = words.iter().any(|word| word == "count");
        for (name, value) in named {
            match name.as_str() {
                "rows" => scan.max_rows = value.parse()?,
                "bytes" => scan.max_bytes = value.parse()?,
                "read" => read.rows = pairs(value),
                "resume" => {
                    let (start, end) = span(value);
                    read.resume = Some(Span { start, end });
                }
                other => return Err(format!("no such option: {other}").into()),
            }
        }
        read.count = read.rows.len() as u64;
        let merged = self.buffer.overlay(&scan, read);
        let mut out = format!("{}:", merged.count);
        for row in merged.rows {
            write!(out, " {}={}", text(&row.key), text(&row.value))?;
        }
        if let Some(left) = merged.resume {
            write!(out, " resume {}", span_text(&left.start, &left.end))?;
        }
        Ok(out)
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Outcome {
        let mut args = command.consume_args();
        let words: Vec<String> =
            std::iter::from_fn(|| args.next_pos().map(str::to_owned)).collect();
        let named: Vec<(String, String)> = std::iter::from_fn(|| {
            args.next_key().map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect();
        let word = words.first().cloned().unwrap_or_default();
        match command.name.as_str() {
            "put" | "insert" => {
                for (key, value) in named {
                    self.sequence += 1;
                    let (key, value, at) = (bytes(&key), bytes(&value), self.sequence);
                    if command.name == "put" {
                        self.buffer.write(key, Some(value), at);
                    } else if let Err(exists) = self.buffer.insert(key, value, at) {
                        return Ok(format!("exists: {}", text(&exists)));
                    }
                }
                Ok(format!("{} keys, {} bytes", self.buffer.len(), self.buffer.bytes()))
            }
            "delete" => {
                self.sequence += 1;
                self.buffer.write(bytes(&word), None, self.sequence);
                Ok(format!("{} keys, {} bytes", self.buffer.len(), self.buffer.bytes()))
            }
            "savepoint" => {
                self.buffer.keep(self.sequence);
                Ok(self.sequence.to_string())
            }
            "release" => {
                self.buffer.release(word.parse()?);
                Ok(format!("{:?}", self.buffer.savepoints()))
            }
            "sent" => {
                self.buffer.sent(word.parse()?);
                Ok(format!("{} keys, {} bytes", self.buffer.len(), self.buffer.bytes()))
            }
            "rollback" => {
                self.buffer.rollback_to(word.parse()?);
                Ok(format!("{} keys, {} bytes", self.buffer.len(), self.buffer.bytes()))
            }
            "get" => Ok(match self.buffer.get(word.as_bytes()) {
                None => "not written".to_owned(),
                Some(None) => "deleted".to_owned(),
                Some(Some(value)) => text(value),
            }),
            "scan" => self.scan(&word, &words, &named),
            "send" => Ok(format!("{}:{}", self.sequence, requests(&self.buffer.requests()))),
            "flush" => {
                let mut out = String::new();
                let number = |name: &str, else_: usize| -> Result<usize, Box<dyn StdError>> {
                    let found = named.iter().find(|(known, _)| known == name);
                    found.map_or(Ok(else_), |(_, text)| Ok(text.parse()?))
                };
                let limits = Limits {
                    flush_bytes: number("bytes", usize::MAX)?,
                    flush_keys: number("keys", usize::MAX)?,
                    ..Limits::default()
                };
                for Batch { sequence, last, requests: batch } in self.buffer.batches(&limits) {
                    let more = if last { "" } else { " and more" };
                    writeln!(out, "{sequence}:{}{more}", requests(&batch))?;
                }
                self.buffer.clear();
                Ok(out)
            }
            other => Err(format!("no such command: {other}").into()),
        }
    }
}
