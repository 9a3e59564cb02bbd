//! `ranges BORDER...`, `keys KEY...`, then `send REQUEST...` prints each round of parts, answered
//! from the keys, and the answers put together. `bounds [keys=N] [answers=N]` has each range stop a
//! request after so many keys, and a batch after so many answers.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use crdb_proto::kv::{
    BatchRequest, EndTxnRequest, GetRequest, GetResponse, KeyValue, PutRequest, Request,
    ResolveIntentRequest, ResolveIntentResponse, Response, ScanRequest, ScanResponse, Span,
    TxnMeta, ValidateRequest, ValidateResponse, request::Kind, response::Kind as Answer,
};
use goldenscript::Command;
use test_each_file::test_each_path;

use super::{Outcome, bytes, span, span_text, text};
use crate::split::{Borders, Split, Want};

test_each_path! { in "node/kv/src/testscripts/split" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut Script::default(), path).expect("script failed");
}

#[derive(Default)]
struct Script {
    ranges: Vec<Borders>,
    keys: BTreeSet<Bytes>,
    /// Bounds of the ranges; 0 is none.
    own_keys: usize,
    own_answers: usize,
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Outcome {
        let mut args = command.consume_args();
        let mut words: Vec<String> = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word.to_owned());
        }
        let mut named = std::collections::BTreeMap::new();
        while let Some((name, value)) = args.next_key() {
            named.insert(name.to_owned(), value.to_owned());
        }
        match command.name.as_str() {
            "ranges" => {
                self.ranges = words
                    .windows(2)
                    .map(|pair| Borders { start: bytes(&pair[0]), end: bytes(&pair[1]) })
                    .collect();
                Ok(String::new())
            }
            "keys" => {
                self.keys = words.iter().map(|key| bytes(key)).collect();
                Ok(String::new())
            }
            "bounds" => {
                let number = |name: &str| named.get(name).map_or(Ok(0), |text| text.parse());
                (self.own_keys, self.own_answers) = (number("keys")?, number("answers")?);
                Ok(String::new())
            }
            "send" => self.send(words.iter().map(|word| parse(word)).collect()),
            other => Err(format!("no such command: {other}").into()),
        }
    }
}

/// `get:a`, `put:a`, `scan:a-z:rows=2:bytes=9:reverse:count`, `validate:a,b-c`, `resolve:a-z:2`,
/// `end:a`.
fn parse(word: &str) -> Kind {
    let mut parts = word.split(':');
    let name = parts.next().unwrap();
    let what = parts.next().unwrap();
    let (start, end) = span(what);
    match name {
        "get" => Kind::Get(GetRequest { key: start, ..GetRequest::default() }),
        "put" => Kind::Put(PutRequest { key: start, value: Bytes::new() }),
        "end" => Kind::EndTxn(EndTxnRequest::default()),
        "validate" => Kind::Validate(ValidateRequest {
            spans: what.split(',').map(span).map(|(start, end)| Span { start, end }).collect(),
            since: None,
        }),
        "resolve" => Kind::ResolveIntent(ResolveIntentRequest {
            start,
            end,
            max_keys: parts.next().map_or(0, |n| n.parse().unwrap()),
            ..ResolveIntentRequest::default()
        }),
        "scan" => {
            let mut scan = ScanRequest { start, end, ..ScanRequest::default() };
            for option in parts {
                match option.split_once('=').unwrap_or((option, "")) {
                    ("rows", n) => scan.max_rows = n.parse().unwrap(),
                    ("bytes", n) => scan.max_bytes = n.parse().unwrap(),
                    ("reverse", _) => scan.reverse = true,
                    ("count", _) => scan.count_only = true,
                    other => panic!("no such option: {other:?}"),
                }
            }
            Kind::Scan(scan)
        }
        other => panic!("no such request: {other}"),
    }
}

fn show(kind: &Kind) -> String {
    let bound = |name: &str, n: u64| if n == 0 { String::new() } else { format!(":{name}={n}") };
    match kind {
        Kind::Get(r) => format!("get:{}", text(&r.key)),
        Kind::Put(r) => format!("put:{}", text(&r.key)),
        Kind::EndTxn(_) => "end".to_owned(),
        Kind::Validate(r) => {
            let spans: Vec<String> = r.spans.iter().map(|s| span_text(&s.start, &s.end)).collect();
            format!("validate:{}", spans.join(","))
        }
        Kind::ResolveIntent(r) => {
            format!("resolve:{}{}", span_text(&r.start, &r.end), bound("keys", r.max_keys))
        }
        Kind::Scan(r) => format!(
            "scan:{}{}{}",
            span_text(&r.start, &r.end),
            bound("rows", r.max_rows),
            bound("bytes", r.max_bytes)
        ),
        other => panic!("not printed: {other:?}"),
    }
}

impl Script {
    fn send(&self, kinds: Vec<Kind>) -> Outcome {
        let requests = kinds.into_iter().map(|kind| Request { kind: Some(kind) }).collect();
        let mut batch = BatchRequest { header: None, requests };
        let header = batch.header.get_or_insert_default();
        header.txn = Some(TxnMeta { anchor: bytes("b"), ..TxnMeta::default() });
        let mut out = String::new();
        let mut split = Split::new(batch);
        for round in 1.. {
            let wants = split.wants();
            if wants.is_empty() {
                break;
            }
            if round > 20 {
                return Err("it does not end".into());
            }
            let pieces = split.cut(self.find(&wants));
            let before = split.progress();
            for piece in &pieces {
                let borders = span_text(&piece.borders.start, &piece.borders.end);
                write!(out, "{round}: {borders}")?;
                let mut responses = Vec::new();
                for (number, request) in piece.requests.iter().enumerate() {
                    let kind = request.kind.as_ref().unwrap();
                    write!(out, " {}", show(kind))?;
                    if self.own_answers != 0 && number >= self.own_answers {
                        write!(out, " (unanswered)")?;
                        continue;
                    }
                    responses.push(Response { kind: Some(self.answer(kind)) });
                }
                writeln!(out)?;
                split.absorb(piece, responses);
            }
            if split.progress() == before {
                return Err("no progress".into());
            }
        }
        for response in split.finish(u64::MAX)? {
            writeln!(out, "{}", show_answer(&response.kind.unwrap()))?;
        }
        Ok(out)
    }

    fn find(&self, wants: &[Want]) -> Vec<Borders> {
        let mut found = Vec::new();
        for want in wants {
            found.extend(
                self.ranges
                    .iter()
                    .filter(|r| match want {
                        Want::At(key) => r.start <= *key && *key < r.end,
                        Want::Before(key) => r.start < *key && *key <= r.end,
                        Want::All(start, end) => r.start < *end && *start < r.end,
                    })
                    .cloned(),
            );
        }
        found
    }

    fn answer(&self, kind: &Kind) -> Answer {
        match kind {
            Kind::Get(r) => {
                let value = self.keys.get(&r.key).cloned();
                Answer::Get(GetResponse { value, own_intent: false })
            }
            Kind::Scan(r) => Answer::Scan(self.scan(r)),
            Kind::ResolveIntent(r) => {
                let here: Vec<&Bytes> = self.keys.range(r.start.clone()..r.end.clone()).collect();
                let unless_zero = |max| if max == 0 { usize::MAX } else { max };
                let max = unless_zero(usize::try_from(r.max_keys).unwrap());
                let max = max.min(unless_zero(self.own_keys));
                let resume =
                    here.get(max).map(|&key| Span { start: key.clone(), end: r.end.clone() });
                let resolved = here.len().min(max) as u64;
                let end = resume.as_ref().map_or(&r.end, |rest: &Span| &rest.start).clone();
                let done = vec![Span { start: r.start.clone(), end }];
                Answer::ResolveIntent(ResolveIntentResponse { resolved, resume, done })
            }
            Kind::Validate(_) => Answer::Validate(ValidateResponse {}),
            Kind::EndTxn(_) => Answer::EndTxn(Default::default()),
            _ => Answer::Put(Default::default()),
        }
    }

    fn scan(&self, scan: &ScanRequest) -> ScanResponse {
        let mut here: Vec<&Bytes> = self.keys.range(scan.start.clone()..scan.end.clone()).collect();
        if scan.reverse {
            here.reverse();
        }
        let mut response = ScanResponse::default();
        let mut bytes = 0;
        for key in here {
            let full = |bound: u64, have: u64| bound != 0 && have >= bound;
            let own = full(self.own_keys as u64, response.count);
            if own || full(scan.max_rows, response.count) || full(scan.max_bytes, bytes) {
                response.resume = Some(if scan.reverse {
                    let end = crdb_keys::encoding::next_key(key).into();
                    Span { start: scan.start.clone(), end }
                } else {
                    Span { start: key.clone(), end: scan.end.clone() }
                });
                break;
            }
            response.count += 1;
            if !scan.count_only {
                bytes += key.len() as u64;
                response.rows.push(KeyValue { key: key.clone(), value: Bytes::new() });
            }
        }
        response
    }
}

fn show_answer(answer: &Answer) -> String {
    let resume = |span: &Option<Span>| match span {
        Some(span) => format!(" resume {}", span_text(&span.start, &span.end)),
        None => String::new(),
    };
    match answer {
        Answer::Get(r) => format!("get {:?}", r.value.as_ref().map(|v| text(v))),
        Answer::Scan(r) => {
            let rows: Vec<String> = r.rows.iter().map(|row| text(&row.key)).collect();
            format!("scan {} [{}]{}", r.count, rows.join(" "), resume(&r.resume))
        }
        Answer::ResolveIntent(r) => {
            let done = r.done.iter().map(|span| span_text(&span.start, &span.end));
            let done: Vec<String> = done.collect();
            format!("resolved {} in [{}]{}", r.resolved, done.join(" "), resume(&r.resume))
        }
        Answer::Validate(_) => "valid".to_owned(),
        Answer::EndTxn(_) => "ended".to_owned(),
        Answer::Put(_) => "written".to_owned(),
        other => panic!("not printed: {other:?}"),
    }
}
