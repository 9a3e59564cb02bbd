//! The shell against a server that follows a script.
//!
//! The server speaks the wire protocol on a free port of loopback; what it answers to a statement
//! is written in the test.

use std::io::{Cursor, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use expect_test::{Expect, expect};
use tokio::sync::Notify;

use crate::render::Format;
use crate::run::{Input, ShellArgs, ShellExit, run_with};
use crate::session::{Interrupt, Stop, Streams};
use crate::settings::Settings;
use crate::target::Target;

/// One message: its tag, its length, its body.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

fn ready(state: u8) -> Vec<u8> {
    message(b'Z', &[state])
}

fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn problem(kind: u8, severity: &str, code: &str, text: &str, hint: &str) -> Vec<u8> {
    let body = format!("S{severity}\0V{severity}\0C{code}\0M{text}\0H{hint}\0\0");
    message(kind, body.as_bytes())
}

fn columns(list: &[(&str, u32)]) -> Vec<u8> {
    let mut body = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    for (name, oid) in list {
        body.extend(name.as_bytes());
        body.extend([0, 0, 0, 0, 0, 0, 0]);
        body.extend(oid.to_be_bytes());
        body.extend([0, 8, 255, 255, 255, 255, 0, 0]);
    }
    message(b'T', &body)
}

fn row(cells: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
    for cell in cells {
        let length = cell.map_or(-1, |text| i32::try_from(text.len()).unwrap());
        body.extend(length.to_be_bytes());
        body.extend(cell.unwrap_or_default().as_bytes());
    }
    message(b'D', &body)
}

fn greeting() -> Vec<u8> {
    let key = [0_u32.to_be_bytes(), 0_u32.to_be_bytes(), 7_u32.to_be_bytes()].concat();
    [message(b'R', &key[..4]), message(b'K', &key[4..]), ready(b'I')].concat()
}

/// What the server does with a statement.
enum Answer {
    /// Sends these bytes.
    Bytes(Vec<u8>),
    /// Closes the connection.
    Close,
    /// Waits for a cancel request, then fails the statement.
    AwaitCancel,
}

fn answer(statement: &str) -> Answer {
    Answer::Bytes(match statement {
        "two rows" => [
            columns(&[("id", 20), ("name", 25)]),
            row(&[Some("1"), Some("x")]),
            row(&[Some("22"), None]),
            complete("SELECT 2"),
            ready(b'I'),
        ]
        .concat(),
        "no rows" => [columns(&[("id", 20)]), complete("SELECT 0"), ready(b'I')].concat(),
        "create" => [complete("CREATE TABLE"), ready(b'I')].concat(),
        "notice" => [
            problem(b'N', "NOTICE", "00000", "mind the gap", "step over"),
            complete("DO"),
            ready(b'I'),
        ]
        .concat(),
        "fail" => [
            problem(b'E', "ERROR", "42P01", "relation \"x\" does not exist", "make it"),
            ready(b'I'),
        ]
        .concat(),
        "SHOW LAST QUERY STATISTICS RETURNING service_latency" => [
            columns(&[("service_latency", 25)]),
            row(&[Some("00:00:00")]),
            complete("SHOW"),
            ready(b'I'),
        ]
        .concat(),
        "copy in" => message(b'G', &[0, 0, 0]),
        "garbage" => vec![b'T', 0, 0, 0, 1],
        "huge" => vec![b'D', 0x7f, 255, 255, 255],
        "close" => return Answer::Close,
        "wait" => return Answer::AwaitCancel,
        other => panic!("the script does not know {other:?}"),
    })
}

/// A server for one session.
struct Server {
    port: u16,
    thread: JoinHandle<Vec<String>>,
}

impl Server {
    /// Starts a server that greets with these bytes, one connection after the other.
    fn start(greetings: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for greeting in greetings {
                let (mut stream, _) = listener.accept().unwrap();
                read_startup(&mut stream);
                stream.write_all(&greeting).unwrap();
                serve(&mut stream, &listener, &mut seen);
            }
            seen
        });
        Self { port, thread }
    }
}

fn read_startup(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() - 4];
    stream.read_exact(&mut body).unwrap();
    body
}

fn serve(stream: &mut TcpStream, listener: &TcpListener, seen: &mut Vec<String>) {
    loop {
        let mut tag = [0];
        // A shell that was refused leaves without a word.
        if stream.read_exact(&mut tag).is_err() || tag == *b"X" {
            return;
        }
        let body = read_startup(stream);
        let text = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
        if tag == *b"f" {
            seen.push(format!("copy refused: {text}"));
            let failed = problem(b'E', "ERROR", "57014", "COPY failed", "no");
            stream.write_all(&[failed, ready(b'I')].concat()).unwrap();
            continue;
        }
        seen.push(text.clone());
        match answer(&text) {
            Answer::Bytes(bytes) => stream.write_all(&bytes).unwrap(),
            Answer::Close => return,
            Answer::AwaitCancel => {
                let (mut cancel, _) = listener.accept().unwrap();
                let body = read_startup(&mut cancel);
                seen.push(format!("cancel with key {}", body[11]));
                drop(cancel);
                let failed = problem(b'E', "ERROR", "57014", "canceled", "-");
                stream.write_all(&[failed, ready(b'I')].concat()).unwrap();
            }
        }
    }
}

/// Output that a test can look at.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn target(port: u16) -> Target {
    Target {
        host: "127.0.0.1".to_owned(),
        port,
        user: "root".to_owned(),
        database: "defaultdb".to_owned(),
        application_name: "test".to_owned(),
        options: None,
    }
}

async fn shell(args: ShellArgs, stdin: &str, port: u16, interrupt: Interrupt) -> String {
    let (out, err) = (Captured::default(), Captured::default());
    let streams = Streams { out: Box::new(out.clone()), err: Box::new(err.clone()) };
    let input = Input::Reader(Box::new(Cursor::new(stdin.to_owned())));
    let settings = Settings::new(false, false);
    let exit = run_with(&args, target(port), settings, streams, interrupt, input).await;
    let exit = match exit {
        Ok(exit) => exit,
        Err(Stop::Interrupted) => ShellExit::Interrupted,
        Err(stop) => panic!("{stop}"),
    };
    let text = format!("{}--\n{}-- {exit:?}\n", out.text(), err.text());
    text.replace(&port.to_string(), "PORT")
}

/// Runs a shell against a server of this greeting; gives what it printed and the server saw.
async fn run(args: ShellArgs, stdin: &str, greetings: Vec<Vec<u8>>) -> String {
    let server = Server::start(greetings);
    let interrupt = Interrupt::Notify(Arc::new(Notify::new()));
    let printed = shell(args, stdin, server.port, interrupt).await;
    let seen = server.thread.join().unwrap();
    // Tabs as a word, for people who read the expected text.
    format!("{printed}-- saw [{}]\n", seen.join(" | ")).replace('\t', "<tab>")
}

async fn check(args: ShellArgs, stdin: &str, expected: &Expect) {
    expected.assert_eq(&run(args, stdin, vec![greeting()]).await);
}

fn execute(statements: &[&str]) -> ShellArgs {
    let execute = statements.iter().map(|text| (*text).to_owned()).collect();
    ShellArgs { execute, ..ShellArgs::default() }
}

#[tokio::test]
async fn statements_of_flags_run_in_order_until_one_fails() {
    let args = execute(&["create; two rows", "notice", "fail; create", "create"]);
    check(
        args,
        "",
        &expect![[r#"
        CREATE TABLE
        id<tab>name
        1<tab>x
        22<tab>NULL
        DO
        --
        NOTICE: mind the gap
        HINT: step over
        ERROR: relation "x" does not exist
        SQLSTATE: 42P01
        HINT: make it
        -- Failure
        -- saw [create | two rows | notice | fail]
    "#]],
    )
    .await;
}

#[tokio::test]
async fn times_are_shown_after_what_worked() {
    let set = vec!["show_times=true".to_owned()];
    let args = ShellArgs { set, ..execute(&["create", "fail"]) };
    let text = run(args, "", vec![greeting()]).await;
    assert!(text.starts_with("CREATE TABLE\n\nTime: "), "{text}");
    assert!(text.contains(" total (execution 0µs / network "), "{text}");
    assert_eq!(text.matches("Time: ").count(), 1, "{text}");
    assert!(
        text.ends_with(
            "-- saw [create | SHOW LAST QUERY STATISTICS RETURNING service_latency | fail]\n"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn without_errexit_the_rest_runs_and_the_failure_counts() {
    let set = vec!["errexit=false".to_owned()];
    let args = ShellArgs { set, format: Some(Format::Table), ..execute(&["fail", "no rows"]) };
    check(
        args,
        "",
        &expect![[r#"
          id
        ------
        (0 rows)
        --
        ERROR: relation "x" does not exist
        SQLSTATE: 42P01
        HINT: make it
        -- Failure
        -- saw [fail | no rows]
    "#]],
    )
    .await;
}

#[tokio::test]
async fn standard_input_holds_statements_and_commands() {
    let text = "two rows;\n".to_owned()
        + "\\x on\n-- a remark\ntwo rows;\n\\echo done\n\\set colour red\ncreate";
    let set = vec!["errexit=false".to_owned()];
    check(
        ShellArgs { set, ..ShellArgs::default() },
        &text,
        &expect![[r#"
        id<tab>name
        1<tab>x
        22<tab>NULL
        -[ RECORD 1 ]
        id   | 1
        name | x
        -[ RECORD 2 ]
        id   | 22
        name | NULL
        done
        CREATE TABLE
        --
        ERROR: unknown option "colour"; \set alone lists the options
        -- Failure
        -- saw [two rows | two rows | create]
    "#]],
    )
    .await;
}

#[tokio::test]
async fn input_that_ends_within_a_quote_is_not_run() {
    check(
        ShellArgs::default(),
        "create;\ndelete 'x",
        &expect![[r#"
        CREATE TABLE
        --
        ERROR: the input ends within a quote or a comment
        -- Failure
        -- saw [create]
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_lost_connection_leaves_the_outcome_open_and_is_not_repeated() {
    let set = vec!["errexit=false".to_owned()];
    let args = ShellArgs { set, ..execute(&["close", "create"]) };
    let text = run(args, "", vec![greeting(), greeting()]).await;
    expect![[r#"
        CREATE TABLE
        --
        ERROR: connection to 127.0.0.1:PORT lost: the server closed the connection
        HINT: whether the statement took effect is unknown; check before repeating it.
        warning: connection lost; opening a new one, without the session's settings and transaction
        -- Failure
        -- saw [close | create]
    "#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_left() {
    check(
        execute(&["garbage"]),
        "",
        &expect![[r#"
        --
        ERROR: connection to 127.0.0.1:PORT lost: invalid message length: header length < 4
        HINT: whether the statement took effect is unknown; check before repeating it.
        -- Failure
        -- saw [garbage]
    "#]],
    )
    .await;
    check(
        execute(&["huge"]),
        "",
        &expect![[r#"
        --
        ERROR: connection to 127.0.0.1:PORT lost: a message of 2147483647 bytes is announced
        HINT: whether the statement took effect is unknown; check before repeating it.
        -- Failure
        -- saw [huge]
    "#]],
    )
    .await;
}

#[tokio::test]
async fn copy_from_the_client_is_refused() {
    check(
        execute(&["copy in"]),
        "",
        &expect![[r#"
        --
        ERROR: COPY failed
        SQLSTATE: 57014
        HINT: no
        -- Failure
        -- saw [copy in | copy refused: this shell does not support COPY FROM STDIN]
    "#]],
    )
    .await;
}

#[tokio::test]
async fn an_interrupt_cancels_the_statement() {
    let server = Server::start(vec![greeting()]);
    let notify = Arc::new(Notify::new());
    notify.notify_one();
    let printed =
        shell(execute(&["wait", "create"]), "", server.port, Interrupt::Notify(notify)).await;
    expect![[r#"
        --
        attempting to cancel the statement; Ctrl-C again gives up waiting
        ERROR: canceled
        SQLSTATE: 57014
        HINT: -
        -- Interrupted
        ["wait", "cancel with key 7"]
    "#]]
    .assert_eq(&format!("{printed}{:?}\n", server.thread.join().unwrap()));
}

#[tokio::test]
async fn refusals_say_why() {
    let fatal = |code, text| problem(b'E', "FATAL", code, text, "try another");
    let text = run(execute(&["create"]), "", vec![fatal("28000", "no such user")]).await;
    expect![[r#"
        --
        FATAL: no such user
        SQLSTATE: 28000
        HINT: try another
        -- Failure
        -- saw []
    "#]]
    .assert_eq(&text);
    let text = run(execute(&["create"]), "", vec![message(b'R', &[0, 0, 0, 3])]).await;
    expect![[r#"
        --
        ERROR: the server at 127.0.0.1:PORT asks for a password; this version logs in only to clusters started with --insecure
        -- Failure
        -- saw []
    "#]].assert_eq(&text);
    let text = run(execute(&["create"]), "", vec![b"HTTP/1.1 400 Bad Request\r\n".to_vec()]).await;
    expect![[r#"
        --
        ERROR: the server at 127.0.0.1:PORT does not speak the PostgreSQL protocol: a message of 1414811695 bytes is announced
        HINT: check that --host and --port (or --url) name the SQL address of a node.
        -- Failure
        -- saw []
    "#]].assert_eq(&text);
}

#[tokio::test]
async fn a_node_that_serves_no_sql_yet_is_asked_again() {
    let wait = problem(b'E', "FATAL", "57P03", "node is not initialized", "run crdb init");
    let text = run(execute(&["create"]), "", vec![wait, greeting()]).await;
    expect![[r#"
        CREATE TABLE
        --
        FATAL: node is not initialized
        SQLSTATE: 57P03
        HINT: run crdb init
        trying again for 30 s
        -- Success
        -- saw [create]
    "#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn nobody_at_the_address() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let interrupt = Interrupt::Notify(Arc::new(Notify::new()));
    let text = shell(execute(&["create"]), "", port, interrupt).await;
    expect![[r#"
        --
        ERROR: cannot connect to 127.0.0.1:PORT: connection refused
        HINT: is a node running there? --host and --port (or --url) say where to connect.
        -- Failure
    "#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn files_include_files_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let outer = folder.path().join("outer.sql");
    std::fs::write(&outer, "create;\n\\ir inner.sql\n\\ir missing.sql\n").unwrap();
    std::fs::write(folder.path().join("inner.sql"), "two rows").unwrap();
    let args = ShellArgs { file: Some(outer), ..ShellArgs::default() };
    let text = run(args, "", vec![greeting()]).await;
    let text = text.replace(&folder.path().display().to_string(), "FOLDER");
    expect![[r#"
        CREATE TABLE
        id<tab>name
        1<tab>x
        22<tab>NULL
        --
        ERROR: cannot read FOLDER/missing.sql: No such file or directory (os error 2)
        -- Failure
        -- saw [create | two rows]
    "#]]
    .assert_eq(&text);
}
