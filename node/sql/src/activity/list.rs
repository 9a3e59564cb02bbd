//! The lists of sessions, statements and transactions, as SHOW and `crdb_internal` have them.
//!
//! A node that cannot be asked has a row with its number, and the reason where the statement would
//! stand, behind `-- `.

use crdb_keys::NodeId;
use crdb_proto::peer::{SqlSession, SqlStatement, SqlTransaction};
use crdb_sqlfront::ast::Activity;
use futures::future::join_all;

use super::shown_id;
use crate::datum::{Datum, Row};
use crate::node::SqlNode;
use crate::session::{Column, SessionInfo};
use crate::types::SqlType as S;

/// What the names of applications begin with that the database is itself.
const INTERNAL: &str = "$ internal";

type Columns = &'static [(&'static str, S)];

/// The columns of `node_sessions` and `cluster_sessions`.
pub(crate) const SESSIONS: Columns = &[
    ("node_id", S::Int8),
    ("session_id", S::Text),
    ("user_name", S::Text),
    ("client_address", S::Text),
    ("application_name", S::Text),
    ("active_queries", S::Text),
    ("last_active_query", S::Text),
    ("num_txns_executed", S::Int8),
    ("session_start", S::TimestampTz),
    ("active_query_start", S::TimestampTz),
    ("kv_txn", S::Text),
    ("alloc_bytes", S::Int8),
    ("max_alloc_bytes", S::Int8),
    ("status", S::Text),
    ("session_end", S::TimestampTz),
    ("pg_backend_pid", S::Int8),
];

/// The columns of `node_queries` and `cluster_queries`.
pub(crate) const QUERIES: Columns = &[
    ("query_id", S::Text),
    ("txn_id", S::Uuid),
    ("node_id", S::Int8),
    ("session_id", S::Text),
    ("user_name", S::Text),
    ("start", S::TimestampTz),
    ("query", S::Text),
    ("client_address", S::Text),
    ("application_name", S::Text),
    ("distributed", S::Bool),
    ("phase", S::Text),
    ("full_scan", S::Bool),
    ("plan_gist", S::Text),
    ("database", S::Text),
];

/// The columns of `node_transactions` and `cluster_transactions`.
pub(crate) const TRANSACTIONS: Columns = &[
    ("id", S::Uuid),
    ("node_id", S::Int8),
    ("session_id", S::Text),
    ("start", S::TimestampTz),
    ("txn_string", S::Text),
    ("application_name", S::Text),
    ("num_stmts", S::Int8),
    ("num_retries", S::Int8),
    ("num_auto_retries", S::Int8),
    ("last_auto_retry_reason", S::Text),
    ("isolation_level", S::Text),
    ("priority", S::Text),
];

/// The columns that SHOW has, as the table names them.
fn shown(what: Activity) -> &'static [&'static str] {
    match what {
        Activity::Sessions => &[
            "node_id",
            "session_id",
            "user_name",
            "client_address",
            "application_name",
            "active_queries",
            "last_active_query",
            "session_start",
            "active_query_start",
            "num_txns_executed",
        ],
        Activity::Queries => &[
            "query_id",
            "node_id",
            "session_id",
            "user_name",
            "start",
            "query",
            "client_address",
            "application_name",
            "distributed",
            "full_scan",
            "phase",
        ],
        Activity::Transactions => {
            &["node_id", "id", "application_name", "num_stmts", "num_retries", "num_auto_retries"]
        }
    }
}

fn table(what: Activity) -> Columns {
    match what {
        Activity::Sessions => SESSIONS,
        Activity::Queries => QUERIES,
        Activity::Transactions => TRANSACTIONS,
    }
}

/// Where the columns of SHOW stand in the table.
fn places(what: Activity) -> impl Iterator<Item = usize> {
    shown(what)
        .iter()
        .filter_map(move |name| table(what).iter().position(|(column, _)| column == name))
}

/// The columns of SHOW SESSIONS, QUERIES or TRANSACTIONS.
pub(crate) fn columns(what: Activity) -> Vec<Column> {
    let column = |(name, ty): &(&'static str, S)| {
        // It stands beside ids of other kinds.
        let name = if *name == "id" { "txn_id" } else { name };
        Column::new(name, *ty)
    };
    places(what).filter_map(|at| table(what).get(at).map(column)).collect()
}

/// The rows of SHOW; without `all` those of clients only.
pub(crate) async fn rows(info: &SessionInfo, what: Activity, local: bool, all: bool) -> Vec<Row> {
    let listed = sessions(&info.node, local).await;
    let theirs = |session: &SqlSession| all || !session.application_name.starts_with(INTERNAL);
    let rows = make(what, &listed, theirs);
    let places: Vec<usize> = places(what).collect();
    let pick = |row: Row| places.iter().filter_map(|at| row.get(*at).cloned()).collect();
    rows.into_iter().map(pick).collect()
}

/// The rows of a table of `crdb_internal`.
pub(crate) async fn table_rows(info: &SessionInfo, what: Activity, local: bool) -> Vec<Row> {
    make(what, &sessions(&info.node, local).await, |_| true)
}

/// What a node said, or why it said nothing.
type Listed = (NodeId, Result<Vec<SqlSession>, String>);

/// The sessions of this node, and of all others unless they are left out, by node.
async fn sessions(node: &SqlNode, local: bool) -> Vec<Listed> {
    let mut listed: Vec<Listed> = Vec::new();
    if let Some(peers) = node.peers().filter(|_| !local) {
        let asked =
            peers.nodes().into_iter().map(|id| async move { (id, peers.sessions(id).await) });
        listed = join_all(asked).await;
    }
    listed.push((node.node_id, Ok(node.sessions())));
    listed.sort_by_key(|(id, _)| *id);
    listed
}

fn make(what: Activity, listed: &[Listed], wanted: impl Fn(&SqlSession) -> bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (node, said) in listed {
        match said {
            Err(reason) => rows.push(silent(what, *node, reason)),
            Ok(sessions) => {
                let wanted = sessions.iter().filter(|session| wanted(session));
                rows.extend(wanted.filter_map(|session| row(what, *node, session)));
            }
        }
    }
    rows
}

/// The row of a node that cannot be asked.
fn silent(what: Activity, node: NodeId, reason: &str) -> Row {
    let cell = |(name, _): &(&str, S)| match *name {
        "node_id" => number(node.get()),
        "active_queries" | "query" | "txn_string" => Datum::text(format!("-- {reason}")),
        _ => Datum::Null,
    };
    table(what).iter().map(cell).collect()
}

fn row(what: Activity, node: NodeId, session: &SqlSession) -> Option<Row> {
    Some(match what {
        Activity::Sessions => session_row(node, session),
        Activity::Queries => query_row(node, session, session.statement.as_ref()?),
        Activity::Transactions => transaction_row(node, session, session.transaction.as_ref()?),
    })
}

fn session_row(node: NodeId, session: &SqlSession) -> Row {
    let statement = session.statement.as_ref();
    let kv_txn = session.transaction.as_ref().and_then(|txn| uuid::Uuid::from_slice(&txn.id).ok());
    vec![
        number(node.get()),
        id(&session.id),
        text(&session.user),
        text(&session.client_address),
        text(&session.application_name),
        text(statement.map_or("", |statement| &statement.text)),
        text(&session.last_statement),
        number(session.txns_executed),
        Datum::TimestampTz(session.started_micros),
        statement.map_or(Datum::Null, |running| Datum::TimestampTz(running.started_micros)),
        kv_txn.map_or(Datum::Null, |txn| Datum::text(txn.to_string())),
        Datum::Null,
        Datum::Null,
        text(if statement.is_some() { "ACTIVE" } else { "IDLE" }),
        Datum::Null,
        number(session.backend_pid),
    ]
}

fn query_row(node: NodeId, session: &SqlSession, statement: &SqlStatement) -> Row {
    let txn = session.transaction.as_ref().map_or(Datum::Null, |txn| uuid(&txn.id));
    vec![
        id(&statement.id),
        txn,
        number(node.get()),
        id(&session.id),
        text(&session.user),
        Datum::TimestampTz(statement.started_micros),
        text(&statement.text),
        text(&session.client_address),
        text(&session.application_name),
        // A statement runs on its gateway alone.
        if statement.preparing { Datum::Null } else { Datum::Bool(false) },
        text(if statement.preparing { "preparing" } else { "executing" }),
        Datum::Null,
        Datum::Null,
        text(&session.database),
    ]
}

fn transaction_row(node: NodeId, session: &SqlSession, txn: &SqlTransaction) -> Row {
    vec![
        uuid(&txn.id),
        number(node.get()),
        id(&session.id),
        Datum::TimestampTz(txn.started_micros),
        Datum::Null,
        text(&session.application_name),
        number(txn.statements),
        number(txn.retries),
        number(txn.auto_retries),
        text(&txn.last_retry_reason),
        text(&txn.isolation),
        text(&txn.priority),
    ]
}

fn number(value: impl TryInto<i64>) -> Datum {
    Datum::Int(value.try_into().unwrap_or(i64::MAX))
}

fn text(value: &str) -> Datum {
    Datum::text(value)
}

fn uuid(bytes: &[u8]) -> Datum {
    <[u8; 16]>::try_from(bytes).map_or(Datum::Null, Datum::Uuid)
}

fn id(bytes: &[u8]) -> Datum {
    let id = <[u8; 16]>::try_from(bytes).map(u128::from_be_bytes);
    id.map_or(Datum::Null, |id| Datum::text(shown_id(id)))
}
