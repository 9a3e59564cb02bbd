//! Nodes in one process, over real sockets and real stores.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crdb_server::address::{Address, JoinList};
use crdb_server::{
    AllLimits, HttpAddress, Node, NodeConfig, NodeError, StartMode, StartStatus, StoreDir,
};
use tokio_util::task::TaskTracker;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Copies the data directory of a node that was stopped: parts of it live on in this process, and
/// with them its lock.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn any_port() -> Address {
    Address { host: "127.0.0.1".to_owned(), port: 0 }
}

/// Bounds drawn at random, the same for all nodes of a run; not those of what is shown of a
/// statement, which these tests look at.
fn limits() -> AllLimits {
    static DRAWN: OnceLock<AllLimits> = OnceLock::new();
    let limits = *DRAWN.get_or_init(|| {
        let usual = AllLimits::default();
        AllLimits { sql: usual.sql, ..AllLimits::of_seed(rand::random()) }
    });
    #[expect(clippy::print_stderr, reason = "shown if the test fails")]
    {
        eprintln!("CRDB_LIMITS={}", limits.changed());
    }
    limits
}

fn start(store: &Path, mode: StartMode) -> Node {
    let config = NodeConfig {
        store: store.to_owned(),
        listen: any_port(),
        advertise: None,
        sql: None,
        advertise_sql: None,
        http: HttpAddress::Exact(any_port()),
        advertise_http: None,
        mode,
        locality: Vec::new(),
        cache_bytes: 8 << 20,
        max_offset: Duration::from_millis(500),
        build_tag: "v0.1.0".to_owned(),
        limits: limits(),
    };
    let dir = StoreDir::open(store).unwrap();
    Node::start(config, dir).unwrap()
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.unwrap()
}

fn join(addresses: &[&Address]) -> StartMode {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    StartMode::Join { list: JoinList::parse(&texts).unwrap(), auto_init: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_cluster_never_serves() {
    let dir = tempfile::tempdir().unwrap();
    let home = start(&dir.path().join("home"), StartMode::SingleNode);
    let home_serves = in_time(home.serving()).await.unwrap();
    let [first, second, third] = ["first", "second", "third"].map(|name| dir.path().join(name));
    let stranger = start(&first, StartMode::SingleNode);
    let before = in_time(stranger.serving()).await.unwrap();
    stranger.stop_now().await;
    copy(&first, &second);

    // It has a quorum of its own, and would serve at once.
    let stranger = start(&second, join(&[home.rpc_address()]));
    let error = in_time(stranger.serving()).await.unwrap_err();
    let NodeError::OtherCluster { own, theirs, .. } = &*error else { panic!("{error}") };
    assert_eq!((own, theirs), (&before.cluster_id, &home_serves.cluster_id));
    stranger.stop_now().await;
    copy(&second, &third);

    let stranger = start(&third, StartMode::SingleNode);
    let after = in_time(stranger.serving()).await.unwrap();
    assert_eq!((after.cluster_id, after.status), (before.cluster_id, StartStatus::Restarted));
    stranger.stop_now().await;
    home.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_serves_although_nobody_of_its_join_list_answers() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let node = start(&first, StartMode::SingleNode);
    in_time(node.serving()).await.unwrap();
    node.stop_now().await;
    copy(&first, &second);
    // Nobody listens there any more.
    let left = node.rpc_address().clone();
    let node = start(&second, join(&[&left]));
    assert_eq!(in_time(node.serving()).await.unwrap().status, StartStatus::Restarted);
    node.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_for_its_cluster_drains_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = Address { host: "127.0.0.1".to_owned(), port: 1 };
    let node = start(dir.path(), join(&[&nobody]));
    assert!(!node.is_member());
    tokio::time::timeout(Duration::from_secs(10), node.drain()).await.unwrap();
}

/// Connects as a SQL client.
async fn client(node: &Node) -> (tokio_postgres::Client, tokio::task::JoinHandle<()>) {
    let url = node.sql_url();
    let connecting = tokio_postgres::connect(&url, tokio_postgres::NoTls);
    let (client, connection) = in_time(connecting).await.unwrap();
    (client, TaskTracker::new().spawn(async move { drop(connection.await) }))
}

/// The first column of the rows of a query.
async fn column(client: &tokio_postgres::Client, query: &str) -> Vec<String> {
    let messages = in_time(client.simple_query(query)).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    rows.collect()
}

/// Asks until there is one answer, and it is as wished.
async fn until(
    client: &tokio_postgres::Client,
    query: &str,
    wished: impl Fn(&str) -> bool,
) -> String {
    in_time(async {
        loop {
            if let [one] = &*column(client, query).await
                && wished(one)
            {
                return one.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_waits_on_one_node_is_cancelled_from_another() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let first = start(&first, StartMode::SingleNode);
    in_time(first.serving()).await.unwrap();
    let second = start(&second, join(&[first.rpc_address()]));
    in_time(second.serving()).await.unwrap();

    let (owner, _owner) = client(&first).await;
    let (waiter, waiting) = client(&first).await;
    let (operator, _operator) = client(&second).await;
    owner.batch_execute("CREATE TABLE t (k INT PRIMARY KEY, v INT)").await.unwrap();
    owner.batch_execute("INSERT INTO t VALUES (1, 1); BEGIN; UPDATE t SET v = 2").await.unwrap();
    waiter.batch_execute("SET application_name = 'waiter'").await.unwrap();
    let theirs = "FROM [SHOW CLUSTER QUERIES] WHERE application_name = 'waiter' AND node_id = 1";
    let cancelled = async {
        let id = until(&operator, &format!("SELECT query_id {theirs}"), |_| true).await;
        let found = column(&operator, &format!("SELECT query {theirs}")).await;
        assert_eq!(found, ["UPDATE t SET v = 3"]);
        assert!(column(&operator, "SELECT query FROM [SHOW LOCAL QUERIES]").await.len() == 1);
        operator.simple_query(&format!("CANCEL QUERY '{id}'")).await.unwrap();
        id
    };
    let (error, id) = tokio::join!(in_time(waiter.simple_query("UPDATE t SET v = 3")), cancelled);
    let error = error.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message()), ("57014", "query execution canceled"));
    let error = operator.simple_query(&format!("CANCEL QUERY '{id}'")).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42704");

    let session = "SELECT session_id FROM [SHOW SESSIONS] WHERE application_name = 'waiter'";
    operator.simple_query(&format!("CANCEL SESSIONS {session}")).await.unwrap();
    in_time(waiting).await.unwrap();
    owner.batch_execute("COMMIT").await.unwrap();
    assert_eq!(column(&owner, "SELECT v FROM t").await, ["2"]);

    // A node that is gone has a row that says so.
    second.stop_now().await;
    let silent = "SELECT active_queries FROM [SHOW SESSIONS] WHERE node_id = 2";
    until(&owner, silent, |said| said.starts_with("-- ")).await;
    let error = owner.simple_query(&format!("CANCEL QUERY '{:032x}'", 2)).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "58000");
    first.stop_now().await;
}
