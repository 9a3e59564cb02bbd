//! Golden scripts of the protocol, byte for byte, over an in-process stream.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a failed step fails the test; the commands of a script are one match"
)]

mod support;

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crdb_pgwire::Config;
use support::{V3, message, startup};
use test_each_file::test_each_path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Runtime;

test_each_path! { in "node/pgwire/testscripts" as scripts => run_script }

fn run_script(path: &Path) {
    for config in [Config::default(), support::drawn()] {
        run_under(Config { message_bytes_max: 1 << 20, ..config }, path);
    }
}

fn run_under(config: Config, path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = runtime.block_on(support::node(config));
    let mut wire = Wire { runtime, node, stream: None, buffer: Vec::new() };
    goldenscript::run(&mut wire, path).expect("script failed");
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

struct Wire {
    runtime: Runtime,
    node: support::Node,
    stream: Option<DuplexStream>,
    buffer: Vec<u8>,
}

impl Wire {
    fn open(&mut self) {
        let (client, server) = tokio::io::duplex(64 << 10);
        self.stream = Some(client);
        self.buffer.clear();
        let pg = Arc::clone(&self.node.server);
        let tasks = tokio_util::task::TaskTracker::new();
        let handle = self.runtime.handle();
        tasks.spawn_on(async move { pg.serve(server, "client:1").await }, handle);
    }

    fn send(&mut self, bytes: &[u8]) {
        let stream = self.stream.as_mut().expect("open first");
        self.runtime.block_on(async {
            // The server may have closed its side already; what it said is still to be read.
            drop(stream.write_all(bytes).await);
        });
    }

    /// Prints answers until one satisfies `last`, or the server closes.
    fn receive(&mut self, mut last: impl FnMut(u8) -> bool) -> String {
        let mut out = String::new();
        let stream = self.stream.as_mut().expect("open first");
        self.runtime.block_on(async {
            loop {
                while let Some((kind, body, length)) = whole(&self.buffer) {
                    let text = describe(kind, body);
                    self.buffer.drain(..length);
                    writeln!(out, "{text}").unwrap();
                    if last(kind) {
                        return;
                    }
                }
                let mut chunk = vec![0; 4096];
                let read = tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await;
                match read.expect("the server answers or closes") {
                    Ok(0) | Err(_) => {
                        writeln!(out, "closed").unwrap();
                        return;
                    }
                    Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                }
                if self.buffer == b"N" {
                    writeln!(out, "N").unwrap();
                    self.buffer.clear();
                    return;
                }
            }
        });
        out
    }
}

fn whole(buffer: &[u8]) -> Option<(u8, &[u8], usize)> {
    let length = usize::try_from(u32::from_be_bytes(*buffer.get(1..)?.first_chunk()?)).ok()?;
    Some((buffer[0], buffer.get(5..=length)?, length + 1))
}

fn texts(body: &[u8]) -> Vec<String> {
    let parts = body.split(|byte| *byte == 0);
    parts.filter(|part| !part.is_empty()).map(|part| String::from_utf8_lossy(part).into()).collect()
}

fn describe(kind: u8, body: &[u8]) -> String {
    let number = |at: usize| i32::from_be_bytes(*body[at..].first_chunk().unwrap());
    let short = |at: usize| i16::from_be_bytes(*body[at..].first_chunk().unwrap());
    match kind {
        b'R' => format!("Authentication {}", number(0)),
        b'S' => format!("ParameterStatus {}", texts(body).join("=")),
        b'K' => format!("BackendKeyData node {} key of {} bytes", number(0) >> 20, body.len() - 4),
        b'v' => format!("NegotiateProtocolVersion {} {:?}", number(0), texts(&body[8..])),
        b'Z' => format!("ReadyForQuery {}", char::from(body[0])),
        b'E' | b'N' => {
            let fields = texts(body).into_iter().filter(|field| !field.starts_with('V'));
            let name = if kind == b'E' { "Error" } else { "Notice" };
            format!("{name} {}", fields.collect::<Vec<_>>().join(" | "))
        }
        b'C' => format!("CommandComplete {}", texts(body).join("")),
        b'T' => {
            let mut out = format!("RowDescription {}", short(0));
            let mut at = 2;
            while at < body.len() {
                let end = at + body[at..].iter().position(|byte| *byte == 0).unwrap();
                let name = String::from_utf8_lossy(&body[at..end]);
                let (oid, format) = (number(end + 7), short(end + 17));
                write!(out, " {name}:{oid}:{}", if format == 1 { "binary" } else { "text" })
                    .unwrap();
                at = end + 19;
            }
            out
        }
        b't' => {
            let oids: Vec<_> =
                (0..usize::try_from(short(0)).unwrap()).map(|n| number(2 + 4 * n)).collect();
            format!("ParameterDescription {oids:?}")
        }
        b'D' => {
            let mut out = "DataRow".to_owned();
            let mut at = 2;
            while at < body.len() {
                let Ok(length) = usize::try_from(number(at)) else {
                    out.push_str(" NULL");
                    at += 4;
                    continue;
                };
                let value = &body[at + 4..at + 4 + length];
                match std::str::from_utf8(value) {
                    Ok(text) if !text.chars().any(char::is_control) => {
                        write!(out, " {text}").unwrap()
                    }
                    _ => write!(out, " {value:02x?}").unwrap(),
                }
                at += 4 + length;
            }
            out
        }
        b'1' => "ParseComplete".to_owned(),
        b'2' => "BindComplete".to_owned(),
        b'3' => "CloseComplete".to_owned(),
        b's' => "PortalSuspended".to_owned(),
        b'n' => "NoData".to_owned(),
        b'I' => "EmptyQueryResponse".to_owned(),
        b'G' => format!("CopyInResponse {} columns", short(1)),
        b'H' => format!("CopyOutResponse {} columns", short(1)),
        b'd' => format!("CopyData {:?}", String::from_utf8_lossy(body)),
        b'c' => "CopyDone".to_owned(),
        other => format!("{} {body:?}", char::from(other)),
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn list<T>(out: &mut Vec<u8>, items: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    out.extend_from_slice(&u16::try_from(items.len()).unwrap().to_be_bytes());
    for item in items {
        put(out, item);
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

impl goldenscript::Runner for Wire {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &Self::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut body = Vec::new();
        match command.name.as_str() {
            // startup [version=3.0] [user=root] [name=value]...: opens a stream and greets.
            "startup" => {
                self.open();
                let version = args.take_key("version").map_or(Ok(V3), str::parse)?;
                let params: Vec<_> = std::iter::from_fn(|| args.next_key()).collect();
                self.send(&startup(version, &params));
                return Ok(self.receive(|kind| kind == b'Z'));
            }
            "open" => self.open(),
            "hex" => {
                let bytes = unhex(args.next_pos().ok_or("which bytes?")?);
                self.send(&bytes);
            }
            // skipped KIND BYTES: a message with a body of so many bytes.
            "skipped" => {
                let kind = args.next_pos().ok_or("which kind?")?.as_bytes();
                let bytes: usize = args.next_pos().ok_or("how many bytes?")?.parse()?;
                self.send(&message(*kind.first().ok_or("which kind?")?, &vec![b'x'; bytes]));
            }
            "hangup" => self.stream = None,
            "receive" => return Ok(self.receive(|_| false)),
            "ready" => return Ok(self.receive(|kind| kind == b'Z')),
            "query" | "post" => {
                text(&mut body, args.next_pos().ok_or("which query?")?);
                self.send(&message(b'Q', &body));
                if command.name == "post" {
                    return Ok(String::new());
                }
                return Ok(self.receive(|kind| kind == b'Z'));
            }
            "parse" => {
                text(&mut body, args.take_key("name").unwrap_or(""));
                text(&mut body, args.next_pos().ok_or("which query?")?);
                let oids = std::iter::from_fn(|| args.next_pos()).map(str::parse::<u32>);
                let oids = oids.collect::<Result<Vec<_>, _>>()?;
                list(&mut body, &oids, |out, oid| out.extend_from_slice(&oid.to_be_bytes()));
                self.send(&message(b'P', &body));
            }
            // bind [portal=p] [name=s] [in=0|1] [out=0|1] values...: x'..' is hex, NULL is null.
            "bind" => {
                text(&mut body, args.take_key("portal").unwrap_or(""));
                text(&mut body, args.take_key("name").unwrap_or(""));
                let input: Option<i16> = args.take_key("in").map(str::parse).transpose()?;
                let output: Option<i16> = args.take_key("out").map(str::parse).transpose()?;
                list(&mut body, input.as_slice(), |out, f| out.extend_from_slice(&f.to_be_bytes()));
                let values: Vec<_> = std::iter::from_fn(|| args.next_pos()).collect();
                list(&mut body, &values, |out, value| {
                    let bytes = match value.strip_prefix("0x") {
                        Some(hex) => unhex(hex),
                        None => value.as_bytes().to_vec(),
                    };
                    if *value == "NULL" {
                        out.extend_from_slice(&(-1_i32).to_be_bytes());
                    } else {
                        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
                        out.extend_from_slice(&bytes);
                    }
                });
                list(&mut body, output.as_slice(), |out, f| {
                    out.extend_from_slice(&f.to_be_bytes())
                });
                self.send(&message(b'B', &body));
            }
            kind @ ("describe" | "close") => {
                let target = args.next_pos().ok_or("statement or portal?")?;
                body.push(if target == "portal" { b'P' } else { b'S' });
                text(&mut body, args.next_pos().unwrap_or(""));
                self.send(&message(if kind == "close" { b'C' } else { b'D' }, &body));
            }
            "execute" => {
                text(&mut body, args.take_key("portal").unwrap_or(""));
                let rows: u32 = args.take_key("rows").map_or(Ok(0), str::parse)?;
                body.extend_from_slice(&rows.to_be_bytes());
                self.send(&message(b'E', &body));
            }
            "sync" => {
                self.send(&message(b'S', &[]));
                return Ok(self.receive(|kind| kind == b'Z'));
            }
            "flush" => {
                self.send(&message(b'H', &[]));
                let mut left: u32 = args.next_pos().ok_or("how many answers?")?.parse()?;
                return Ok(self.receive(|_| {
                    left -= 1;
                    left == 0
                }));
            }
            // copying: waits for a COPY to begin.
            "copying" => return Ok(self.receive(|kind| kind == b'G' || kind == b'Z')),
            "copydata" => {
                let data = args.next_pos().ok_or("which data?")?;
                self.send(&message(b'd', data.as_bytes()));
            }
            "copydone" => {
                self.send(&message(b'c', &[]));
            }
            "copyfail" => {
                text(&mut body, args.next_pos().ok_or("why?")?);
                self.send(&message(b'f', &body));
            }
            "terminate" => {
                self.send(&message(b'X', &[]));
                return Ok(self.receive(|_| false));
            }
            "drain" => {
                let server = Arc::clone(&self.node.server);
                let tasks = tokio_util::task::TaskTracker::new();
                tasks.spawn_on(async move { server.drain().await }, self.runtime.handle());
                return Ok(self.receive(|_| false));
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()?;
        Ok(String::new())
    }
}
