//! `new serializable|read-committed`, `read SPAN... at=T [lock]`, `statement`, `held`,
//! `refresh T`, `refreshed T`, `many N at=T`, `known SPAN`.

use std::fmt::Write as _;
use std::path::Path;

use crdb_keys::Timestamp;
use crdb_proto::kv::Isolation;
use goldenscript::Command;
use test_each_file::test_each_path;

use super::{Outcome, bytes, span, span_text};
use crate::txn::refresh::Refresher;

test_each_path! { in "node/kv/src/testscripts/refresh" as scripts => run_script }

fn run_script(path: &Path) {
    let script = &mut Script(Refresher::new(Isolation::Serializable, 1024));
    goldenscript::run(script, path).expect("script failed");
}

struct Script(Refresher);

fn at(text: &str) -> Timestamp {
    Timestamp::new(text.parse().expect("a number"), 0)
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Outcome {
        let mut args = command.consume_args();
        let words: Vec<String> =
            std::iter::from_fn(|| args.next_pos().map(str::to_owned)).collect();
        let time = args.next_key().map(|(_, value)| at(value)).unwrap_or_default();
        let word = words.first().cloned().unwrap_or_default();
        match command.name.as_str() {
            "new" => {
                let isolation = match word.as_str() {
                    "read-committed" => Isolation::ReadCommitted,
                    _ => Isolation::Serializable,
                };
                self.0 = Refresher::new(isolation, 1024);
            }
            "read" => {
                let locked = words.iter().any(|word| word == "lock");
                for word in words.iter().filter(|word| *word != "lock") {
                    let (start, end) = span(word);
                    self.0.add(start, end, time, locked);
                }
            }
            "many" => {
                for n in 0..word.parse::<u32>()? {
                    self.0.add(bytes(&format!("k{n:05}")), bytes(""), time, false);
                }
                let validations = self.0.validations(Timestamp::MAX);
                let spans: usize = validations.iter().map(|v| v.spans.len()).sum();
                let first = validations.first().and_then(|v| v.spans.first()).unwrap();
                let first = span_text(&first.start, &first.end);
                return Ok(format!("{spans} spans, the first {first}"));
            }
            "statement" => self.0.begin_statement(),
            "held" => return Ok(format!("{:?}", self.0.held_at().map(|at| at.wall_nanos))),
            "known" => {
                let (start, end) = span(&word);
                return Ok(self.0.has_read(&start, &end).to_string());
            }
            "refresh" => {
                let mut out = String::new();
                for validate in self.0.validations(at(&word)) {
                    let since = validate.since.map(Timestamp::from).unwrap_or_default();
                    write!(out, "since {}:", since.wall_nanos)?;
                    for span in &validate.spans {
                        write!(out, " {}", span_text(&span.start, &span.end))?;
                    }
                    writeln!(out)?;
                }
                return Ok(if out.is_empty() { "nothing to look at".to_owned() } else { out });
            }
            "refreshed" => self.0.refreshed(at(&word)),
            other => return Err(format!("no such command: {other}").into()),
        }
        Ok(String::new())
    }
}
