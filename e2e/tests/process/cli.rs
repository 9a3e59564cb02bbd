//! The commands as a person types them: the three of the lab, the shell, the demo.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crdb_workload::ports::reserve_port;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::time::Instant;

use crate::cluster::{Node, PATIENCE, binary};

/// What a command that ended left behind.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the binary in `dir` to its end.
async fn run<A: AsRef<OsStr>>(dir: &Path, args: &[A]) -> Result<Ended> {
    let output = Command::new(binary()?)
        .args(args)
        .current_dir(dir)
        .env("TMPDIR", dir)
        .env("HOME", dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.context("it did not end")??;
    Ok(Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// A node that `--background` left running.
struct Detached {
    pid_file: PathBuf,
}

impl Detached {
    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(&self.pid_file).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            // It may have ended by itself.
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
    }
}

async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const STATUS_HEADER: &str =
    "id\taddress\tsql_address\tbuild\tstarted_at\tupdated_at\tlocality\tis_available\tis_live";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_three_commands_of_the_lab_form_a_cluster() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    // Somebody has the default HTTP port: this test, or whoever it was before.
    let _taken = std::net::TcpListener::bind("127.0.0.1:8080");
    let ports = [reserve_port()?, reserve_port()?, reserve_port()?];
    let nodes = start_three(dir, ports).await?;
    status_of_three(dir, ports).await?;
    client_commands(dir, ports).await?;

    let url = until("the URL file", async || {
        Ok(fs::read_to_string(dir.join("node3.url")).ok().filter(|text| text.ends_with('\n')))
    });
    let url = url.await?;
    let port = ports.last().context("three ports")?;
    ensure!(url == format!("postgresql://root@localhost:{port}/defaultdb?sslmode=disable\n"));
    shell(dir, url.trim()).await?;
    let log = fs::read_to_string(dir.join("node1/logs/crdb.log"))?;
    let port = ports.first().context("three ports")?;
    let sql = format!("sql:                 postgresql://root@localhost:{port}/");
    let status = "status:              initialized new cluster\n";
    for line in [&sql, status, "nodeID:              1\n"] {
        ensure!(log.contains(line), "{line}: {log}");
    }
    stop(nodes).await
}

/// Types the three commands, and the first of them once more.
async fn start_three(dir: &Path, ports: [u16; 3]) -> Result<Vec<Detached>> {
    let join = ports.map(|port| format!("localhost:{port}")).join(",");
    let mut nodes = Vec::new();
    let mut commands = Vec::new();
    for (n, port) in (1..).zip(ports) {
        let command = [
            "start".to_owned(),
            "--insecure".to_owned(),
            format!("--store=node{n}"),
            format!("--listen-addr=localhost:{port}"),
            format!("--join={join}"),
            "--background".to_owned(),
            format!("--pid-file=node{n}.pid"),
            format!("--listening-url-file=node{n}.url"),
        ];
        let started = run(dir, &command).await?;
        nodes.push(Detached { pid_file: dir.join(format!("node{n}.pid")) });
        commands.push(command);
        ensure!(started.code == Some(0) && started.stdout.is_empty(), "{}", started.stderr);
        for line in [
            "* WARNING: ALL SECURITY CONTROLS HAVE BEEN DISABLED!\n",
            "* - Your cluster is open to any client that can access localhost.\n",
            "* WARNING: HTTP port 8080 is in use; listening for HTTP on localhost:",
            "* INFO: initial startup completed.\n",
        ] {
            ensure!(started.stderr.contains(line), "{line}: {}", started.stderr);
        }
    }
    // The last command returned when all three served: nothing has to be waited for.
    let host = format!("--host=localhost:{}", ports.first().context("three ports")?);
    let all = run(dir, &["node", "ls", "--insecure", &host]).await?;
    ensure!(all.stdout == "id\n1\n2\n3\n", "{} {}", all.stdout, all.stderr);
    let again = run(dir, commands.first().context("three commands")?).await?;
    let pid = nodes.first().and_then(Detached::pid).context("no pid file")?;
    let known = format!("node already running (pid {})", pid.as_raw_nonzero());
    ensure!(again.code == Some(0) && again.stderr.contains(&known), "{}", again.stderr);
    Ok(nodes)
}

/// Each node has the address it was given, and ids follow the list.
async fn status_of_three(dir: &Path, ports: [u16; 3]) -> Result<()> {
    let host = format!("--host=localhost:{}", ports.last().context("three ports")?);
    until("three live nodes", async || {
        let status = run(dir, &["node", "status", "--insecure", &host]).await?;
        ensure!(status.code == Some(0), "{}", status.stderr);
        let mut lines = status.stdout.lines();
        ensure!(lines.next() == Some(STATUS_HEADER), "{}", status.stdout);
        let rows: Vec<Vec<&str>> = lines.map(|line| line.split('\t').collect()).collect();
        let expected = (1..).zip(ports).all(|(n, port)| {
            let (id, address) = (n.to_string(), format!("localhost:{port}"));
            rows.iter().any(|row| {
                row.starts_with(&[&id, &address, &address]) && row.ends_with(&["true", "true"])
            })
        });
        Ok((rows.len() == 3 && expected).then_some(()))
    })
    .await
}

async fn client_commands(dir: &Path, ports: [u16; 3]) -> Result<()> {
    let host = format!("--host=localhost:{}", ports.first().context("three ports")?);
    let ls = run(dir, &["node", "ls", "--insecure", &host]).await?;
    ensure!(ls.stdout == "id\n1\n2\n3\n", "{} {}", ls.stdout, ls.stderr);
    let missing = run(dir, &["node", "status", "9", "--insecure", &host]).await?;
    let expected = "ERROR: node 9 doesn't exist\nFailed running \"node status\"\n";
    ensure!(missing.code == Some(1) && missing.stderr == expected, "{}", missing.stderr);
    let init = run(dir, &["init", "--insecure", &host]).await?;
    let known = init.stderr.contains("cluster has already been initialized");
    ensure!(init.code == Some(1) && known, "{}", init.stderr);
    Ok(())
}

/// Ends detached nodes; each takes its pid file with it.
async fn stop(nodes: Vec<Detached>) -> Result<()> {
    for node in &nodes {
        kill_process(node.pid().context("no pid file")?, Signal::TERM)?;
    }
    for node in &nodes {
        until("the end of a node", async || Ok((!node.pid_file.exists()).then_some(()))).await?;
    }
    Ok(())
}

/// The shell as scripts use it.
async fn shell(dir: &Path, url: &str) -> Result<()> {
    let connect = format!("--url={url}");
    fs::write(dir.join("inner.sql"), "SELECT 'from a file';\n")?;
    let session = run(
        dir,
        &[
            "sql",
            &connect,
            "-e",
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v STRING)",
            "-e",
            "INSERT INTO shop.t VALUES (1, 'one'), (2, NULL)",
            "-e",
            "SELECT * FROM shop.t ORDER BY id",
            "-e",
            r"\set display_format=csv",
            "-e",
            r"\i inner.sql",
        ],
    )
    .await?;
    ensure!(session.code == Some(0), "{}", session.stderr);
    let expected = "CREATE DATABASE\nCREATE TABLE\nINSERT 0 2\nid\tv\n1\tone\n2\tNULL\n?column?\nfrom a file\n";
    ensure!(session.stdout == expected, "{}", session.stdout);
    let failed =
        run(dir, &["sql", &connect, "-e", "SELECT * FROM shop.u", "-e", "SELECT 1"]).await?;
    ensure!(failed.code == Some(1) && failed.stdout.is_empty(), "{}", failed.stdout);
    let expected = "ERROR: relation \"shop.u\" does not exist\nSQLSTATE: 42P01\n";
    ensure!(failed.stderr.starts_with(expected), "{}", failed.stderr);
    ensure!(failed.stderr.ends_with("Failed running \"sql\"\n"), "{}", failed.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_cluster_says_what_is_missing_and_stops_gracefully() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let join = format!("--join=127.0.0.1:{}", reserve_port()?);
    let pid_file = dir.path().join("pid");
    let pid_arg = format!("--pid-file={}", pid_file.display());
    let mut node = Node::new(dir.path(), "alone", "start", &[&join, &pid_arg])?;
    node.start()?;
    let (code, body) =
        until("HTTP", async || Ok(node.http_get("/health?ready=1").await.ok())).await?;
    ensure!(code == 503, "{code} {body}");
    for field in [r#""error":"node is not healthy""#, r#""code":14"#, r#""details":[]"#] {
        ensure!(body.contains(field), "{body}");
    }
    ensure!(node.http_get("/health").await? == (200, "{}".to_owned()));
    let error = node.try_connect().await.err().context("nobody initialized it")?;
    let error = error.downcast::<tokio_postgres::Error>()?;
    let code = error.code().map(tokio_postgres::error::SqlState::code);
    ensure!(code == Some("57P03"), "{error:?}");
    let told = |node: &Node| node.output().contains("the node has found no cluster to join yet");
    until("a word on what is missing", async || Ok(told(&node).then_some(()))).await?;
    ensure!(node.output().contains("which is not in its --join list"), "{}", node.output());
    ensure!(pid_file.exists());
    node.terminate()?;
    let status = node.exit(Duration::from_secs(20)).await?;
    ensure!(status.success(), "{status}: {}", node.output());
    ensure!(!pid_file.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_of_three_nodes_leaves_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sql = "SELECT sum(i) FROM generate_series(1, 4) AS g (i)";
    let demo = run(dir.path(), &["demo", "--nodes=3", "--format=tsv", "-e", sql]).await?;
    ensure!(demo.code == Some(0), "{}", demo.stderr);
    ensure!(demo.stdout == "sum\n10\n", "{}", demo.stdout);
    for n in 1..=3 {
        ensure!(demo.stderr.contains(&format!("n{n}: postgresql://root@")), "{}", demo.stderr);
    }
    ensure!(fs::read_dir(dir.path())?.next().is_none(), "something is left");

    // Ended from outside while its shell waits for input.
    let mut demo = Command::new(binary()?)
        .arg("demo")
        .env("TMPDIR", dir.path())
        .env("HOME", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.path().join("err"))?)
        .kill_on_drop(true)
        .spawn()?;
    until("the demo", async || {
        let text = fs::read_to_string(dir.path().join("err"))?;
        Ok(text.contains("Welcome to the crdb demo").then_some(()))
    })
    .await?;
    let pid = demo.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    kill_process(pid.context("it runs")?, Signal::TERM)?;
    // Waiting for the process would close its input, which ends the shell as well.
    let input = demo.stdin.take();
    let status = tokio::time::timeout(PATIENCE, demo.wait()).await??;
    drop(input);
    ensure!(status.code() == Some(128 + 15), "{status}");
    let left: Vec<_> =
        fs::read_dir(dir.path())?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    ensure!(left == ["err"], "{left:?}");
    Ok(())
}
