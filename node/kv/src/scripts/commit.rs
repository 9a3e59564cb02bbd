//! `start [intents] [held=T] write=T [present=T] [deadline=T]`, `present T`, then events: `committed T`, `staged T highest=T`,
//! `refreshed yes|no|failed`, `failed cross-range|retry=T|ambiguous|unavailable|aborted|conflict|duplicate`,
//! `learned committed=T|aborted|nothing`. Each prints the next step.

use std::path::Path;

use bytes::Bytes;
use crdb_keys::Timestamp;
use goldenscript::Command;
use test_each_file::test_each_path;

use super::Outcome;
use crate::SendError;
use crate::txn::committer::{Committer, Event, Step};

test_each_path! { in "node/kv/src/testscripts/commit" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut Script(None, None), path).expect("script failed");
}

/// The commit, and its deadline.
struct Script(Option<Committer>, Option<Timestamp>);

fn at(text: &str) -> Timestamp {
    Timestamp::new(text.parse().expect("a number"), 0)
}

fn show(step: &Step) -> String {
    match step {
        Step::OnePhase { exact: false } => "one-phase, with validations".to_owned(),
        Step::OnePhase { exact: true } => "one-phase, at the write timestamp".to_owned(),
        Step::Refresh(to) => format!("refresh to {}", to.wall_nanos),
        Step::Stage => "stage".to_owned(),
        Step::Commit => "commit".to_owned(),
        Step::Learn => "learn".to_owned(),
        Step::Done(kind, at) => format!("done: {kind:?} at {}", at.wall_nanos),
        Step::Fail(error) => format!("fail: {error}"),
    }
}

fn failure(what: &str, value: Option<&str>) -> SendError {
    let message = String::new();
    match (what, value) {
        ("cross-range", _) => SendError::CrossRange { message },
        ("retry", Some(needed)) => SendError::TxnRetry { needed: at(needed) },
        ("ambiguous", _) => SendError::Ambiguous { message: "lost".to_owned() },
        ("unavailable", _) => SendError::Unavailable { message: "no quorum".to_owned() },
        ("aborted", _) => SendError::TxnAborted { reason: "ABORT_REASON_PUSHER_ABORTED".into() },
        ("conflict", _) => SendError::ReadConflict { key: Vec::new(), newer: Timestamp::ZERO },
        ("duplicate", _) => {
            SendError::ConditionFailed { index: 0, key: Bytes::new().into(), actual: None }
        }
        other => panic!("no such failure: {other:?}"),
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Outcome {
        let mut args = command.consume_args();
        let mut words = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word.to_owned());
        }
        let mut named = std::collections::BTreeMap::new();
        while let Some((name, value)) = args.next_key() {
            named.insert(name.to_owned(), value.to_owned());
        }
        let first = words.first().map(String::as_str).unwrap_or_default();
        let time = |name: &str| named.get(name).map(|text| at(text));
        let event = match command.name.as_str() {
            "start" => {
                let write = time("write").unwrap_or_default();
                let (held, deadline) = (time("held"), time("deadline"));
                let (committer, step) = Committer::start(
                    first == "intents",
                    held,
                    write,
                    time("present").unwrap_or_default(),
                    deadline,
                    8,
                );
                self.1 = deadline;
                self.0 = Some(committer);
                return Ok(show(&step));
            }
            "present" => {
                let committer = self.0.as_mut().ok_or("nothing was started")?;
                committer.tell(at(first), self.1);
                return Ok(String::new());
            }
            "committed" => Event::Committed(at(first)),
            "flushed" => Event::Flushed(at(first)),
            "staged" => Event::Staged {
                staged: at(first),
                highest: time("highest").unwrap_or_else(|| at(first)),
            },
            "refreshed" if first == "failed" => {
                Event::NotRefreshed(failure("unavailable", None).into())
            }
            "refreshed" => Event::Refreshed(first == "yes"),
            "failed" => {
                let named = named.iter().next().map(|(name, value)| (&**name, Some(&**value)));
                let (what, value) = named.unwrap_or((first, None));
                Event::Failed(failure(what, value))
            }
            "learned" => Event::Learned(match (time("committed"), first) {
                (Some(at), _) => Some(Some(at)),
                (None, "aborted") => Some(None),
                (None, _) => None,
            }),
            other => return Err(format!("no such command: {other}").into()),
        };
        let committer = self.0.as_mut().ok_or("nothing was started")?;
        Ok(show(&committer.next(event)))
    }
}
