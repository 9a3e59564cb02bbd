//! Nodes in one process, over real sockets and real stores.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use crdb_server::address::{Address, JoinList};
use crdb_server::{HttpAddress, Node, NodeConfig, NodeError, StartMode, StartStatus, StoreDir};

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
