//! What a node is told that makes no sense: it says so, and nothing is lost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::Instant;

use crate::cluster::{Node, PATIENCE, TestCluster, binary, within};

/// Sends bytes and waits until the node closes the connection, which it has to do in time.
async fn send_and_wait(port: u16, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A reset counts as closed.
    let closed = tokio::time::timeout(Duration::from_secs(20), read).await;
    drop(closed.context("the node kept a senseless connection open")?);
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_listener_is_refused_and_the_node_stays_up() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut node = Node::new(dir.path(), "single", "start-single-node", &[])?;
    node.start()?;
    let client = node.connect().await?;
    within(client.batch_execute("CREATE TABLE t (id INT PRIMARY KEY)")).await?;
    within(client.batch_execute("INSERT INTO t VALUES (1)")).await?;

    let gigabyte_startup = [&(1_u32 << 30).to_be_bytes()[..], &[0, 3, 0, 0]].concat();
    let mut gigabyte_query = startup_packet();
    gigabyte_query.push(b'Q');
    gigabyte_query.extend_from_slice(&(1_u32 << 30).to_be_bytes());
    gigabyte_query.extend_from_slice(b"SELECT 1");
    let garbage: Vec<u8> =
        (0..4096_u32).map(|n| n.wrapping_mul(167).to_le_bytes()[0] | 1).collect();
    let inputs: [(&str, Vec<u8>); 8] = [
        ("garbage", garbage),
        ("an HTTP request", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a broken HTTP/2 preface", b"PRI * HTTP/9.9\r\n\r\nXX\r\n\r\n".to_vec()),
        ("a TLS hello", vec![0x16, 3, 1, 2, 0, 1, 0]),
        ("a startup packet of 1 GiB", gigabyte_startup),
        ("a truncated startup packet", vec![0, 0, 0, 40, 0, 3, 0, 0, b'u', b's']),
        ("a startup packet of length 0", vec![0, 0, 0, 0]),
        ("a query of 1 GiB", gigabyte_query),
    ];
    let mut closings = tokio::task::JoinSet::new();
    for (what, bytes) in inputs {
        let port = node.port;
        closings.spawn(async move { send_and_wait(port, &bytes).await.context(what) });
    }
    // Clients are served meanwhile.
    let row = within(client.query_one("SELECT count(*) FROM t", &[])).await?;
    ensure!(row.get::<_, i64>(0) == 1);
    while let Some(closed) = closings.join_next().await {
        closed??;
    }
    ensure!(node.is_running(), "{}", node.output());
    let row = within(client.query_one("SELECT count(*) FROM t", &[])).await?;
    ensure!(row.get::<_, i64>(0) == 1);
    node.connect().await?;
    Ok(())
}

fn startup_packet() -> Vec<u8> {
    let body = b"\x00\x03\x00\x00user\0root\0database\0defaultdb\0\0";
    let length = u32::try_from(body.len() + 4).expect("it is short");
    [&length.to_be_bytes()[..], body].concat()
}

/// Runs the binary to its end: exit code and stderr.
async fn run(args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new(binary()?).args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(30), output).await??;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[tokio::test]
async fn bad_flags_exit_4_and_name_the_flag() -> Result<()> {
    for (args, named) in [
        (&["start", "--insecure", "--join=host:port"][..], "host:port"),
        (&["start", "--insecure", "--join=::1:26257"], "::1:26257"),
        (&["start", "--insecure", "--join=a", "--cache=12q"], "--cache"),
        (&["start", "--insecure", "--join=a", "--max-offset=5"], "--max-offset"),
        (&["start", "--insecure", "--join=a", "--locality=x"], "--locality"),
        (&["start", "--insecure", "--join=a", "--listen-addr=a:b:c"], "--listen-addr"),
        (&["start", "--insecure", "--join=a", "--no-such-flag"], "--no-such-flag"),
        (&["start", "--insecure", "--join=a", "--store=type=mem,size=1GB"], "--store"),
        (&["start", "--insecure", "--join=a", "--max-offset=0"], "--max-offset"),
        (&["start-single-node", "--insecure", "--sql-addr=a:b:c"], "--sql-addr"),
        (&["demo", "--nodes=0"], "--nodes"),
        (&["node", "status", "--insecure", "--host=a:b"], "--host"),
        (&["sql", "--url=mysql://a"], "--url"),
        (&["init", "--insecure", "--cluster-id=x"], "--cluster-id"),
        (&["no-such-command"], "no-such-command"),
    ] {
        let (code, text) = run(args).await?;
        ensure!(code == Some(4), "{args:?}: exit {code:?}: {text}");
        ensure!(text.contains(named), "{args:?}: {text}");
        ensure!(text.contains("Failed running"), "{args:?}: {text}");
    }
    let (code, text) = run(&["start", "--insecure"]).await?;
    ensure!(code == Some(1) && text.contains("no --join flags provided"), "{code:?}: {text}");
    let (code, text) = run(&["start", "--join=a"]).await?;
    ensure!(code == Some(1) && text.contains("secure mode is not supported yet"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_use_a_port_in_use_and_the_same_command_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut node = Node::new(dir.path(), "single", "start-single-node", &[])?;
    node.start()?;
    node.connect().await?;
    let store = format!("--store={}", node.store.display());
    let listen = format!("--listen-addr={}", node.address());
    let base = ["start-single-node", "--insecure", "--http-addr=127.0.0.1:0"];

    let again = [&base[..], &[&store, &listen]].concat();
    let (code, text) = run(&again).await?;
    let known = format!("node already running (pid {})", node.pid()?);
    ensure!(code == Some(0) && text.contains(&known), "{code:?}: {text}");

    let (code, text) = run(&[&base[..], &[&store, "--listen-addr=127.0.0.1:0"]].concat()).await?;
    ensure!(code == Some(1) && text.contains("is in use by another process"), "{code:?}: {text}");

    let other = format!("--store={}", dir.path().join("other").display());
    let (code, text) = run(&[&base[..], &[&other, &listen]].concat()).await?;
    ensure!(code == Some(1) && text.contains("address already in use"), "{code:?}: {text}");
    ensure!(text.contains(&node.address()), "{text}");

    let foreign = TcpListener::bind("127.0.0.1:0").await?;
    let taken = format!("--listen-addr={}", foreign.local_addr()?);
    let (code, text) = run(&[&base[..], &[&other, &taken]].concat()).await?;
    ensure!(code == Some(1) && text.to_lowercase().contains("in use"), "{code:?}: {text}");
    ensure!(node.is_running(), "{}", node.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_cluster_is_refused_and_kept() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    let dir = tempfile::tempdir()?;
    let mut stranger = Node::new(dir.path(), "stranger", "start-single-node", &[])?;
    stranger.start()?;
    stranger.execute_retrying("CREATE TABLE kept (id INT PRIMARY KEY)").await?;
    stranger.kill();

    let join = format!("--join={}", cluster.node(1)?.address());
    let mut joining = Node::new(dir.path(), "stranger", "start", &[&join])?;
    let (status, text) = joining.run_to_end().await?;
    ensure!(!status.success(), "{status}");
    ensure!(text.contains("belongs to cluster"), "{text}");

    stranger.start()?;
    let client = stranger.connect().await?;
    within(client.query("SELECT id FROM kept", &[])).await?;
    let nodes = cluster.node(1)?.status().await?.nodes.len();
    ensure!(nodes == 3, "the stranger was admitted");
    Ok(())
}

/// Forwards every connection to `to`, as a balancer that picked the wrong node would.
async fn balancer(listener: TcpListener, to: u16) {
    let mut pipes = tokio::task::JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        pipes.spawn(async move {
            if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_in_a_peers_place_confuses_nobody() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    cluster.node(1)?.execute_retrying("CREATE TABLE t (id INT PRIMARY KEY)").await?;
    // Node 3 goes, and on its address somebody answers who leads to node 2.
    cluster.node(3)?.kill();
    let port = cluster.node(3)?.port;
    let deadline = Instant::now() + Duration::from_secs(10);
    let listener = loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => break listener,
            Err(error) => ensure!(Instant::now() < deadline, "{error}"),
        }
    };
    let target = cluster.node(2)?.port;
    let mut proxy = tokio::task::JoinSet::new();
    proxy.spawn(balancer(listener, target));
    for id in 0..20 {
        let sql = format!("UPSERT INTO t VALUES ({id})");
        cluster.node(id % 2 + 1)?.execute_retrying(&sql).await?;
    }
    // Node 2 refuses, as soon as somebody looks for node 3 again.
    let log = cluster.node(2)?.store.join("logs/crdb.log");
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&log)?.contains("the stream is meant for n3") {
        ensure!(Instant::now() < deadline, "node 2 did not see the mistake");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.shutdown().await;
    cluster.node(3)?.start()?;
    let client = cluster.node(3)?.connect().await?;
    let row = within(client.query_one("SELECT count(*) FROM t", &[])).await?;
    ensure!(row.get::<_, i64>(0) == 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_by_hand_works_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes = vec![
        Node::new(dir.path(), "node1", "start", &["--no-auto-init"])?,
        Node::new(dir.path(), "node2", "start", &["--no-auto-init"])?,
    ];
    let join: Vec<String> = nodes.iter().map(Node::address).collect();
    let join = format!("--join={}", join.join(","));
    for node in &mut nodes {
        node.push_arg(join.clone());
        node.start()?;
    }
    let host = format!("--host={}", nodes.first().context("a node")?.address());
    let (code, text) = run(&["init", "--insecure", &host]).await?;
    ensure!(code == Some(0), "{code:?}: {text}");
    for node in &nodes {
        node.connect().await?;
    }
    let (code, text) = run(&["init", "--insecure", &host]).await?;
    ensure!(code == Some(1), "{code:?}: {text}");
    ensure!(text.contains("cluster has already been initialized"), "{text}");
    Ok(())
}
