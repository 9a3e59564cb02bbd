//! `crdb_internal`: what ranges and nodes say of themselves.

use crdb_sqlfront::ast::Activity;
use futures::FutureExt as _;

use super::{Rows, VirtualTable};
use crate::activity::{QUERIES, SESSIONS, TRANSACTIONS, table_rows};
use crate::func::system_names::CRDB_INTERNAL;
use crate::ranges::list::{INTERNAL, internal_rows};
use crate::ranges::locks;
use crate::session::settings;
use crate::types::SqlType as S;

/// How many of the columns of `ranges` its sibling without leases has.
const WITHOUT_LEASES: usize = 11;

const fn table(
    oid: u32,
    name: &'static str,
    columns: &'static [(&'static str, S)],
    rows: Rows,
) -> VirtualTable {
    VirtualTable { schema: CRDB_INTERNAL, name, oid, columns, rows }
}

/// The columns of `ranges_no_leases`.
const RANGES: [(&str, S); WITHOUT_LEASES] = [
    ("range_id", S::Int8),
    ("start_key", S::Bytea),
    ("start_pretty", S::Text),
    ("end_key", S::Bytea),
    ("end_pretty", S::Text),
    ("replicas", S::Array(&S::Int8)),
    ("replica_localities", S::Array(&S::Text)),
    ("voting_replicas", S::Array(&S::Int8)),
    ("non_voting_replicas", S::Array(&S::Int8)),
    ("learner_replicas", S::Array(&S::Int8)),
    ("split_enforced_until", S::Timestamp),
];

const RANGES_WITH_LEASES: [(&str, S); WITHOUT_LEASES + 2] = {
    let mut columns = [("", S::Int8); WITHOUT_LEASES + 2];
    let (front, _) = columns.split_at_mut(WITHOUT_LEASES);
    front.copy_from_slice(&RANGES);
    columns[WITHOUT_LEASES] = ("lease_holder", S::Int8);
    columns[WITHOUT_LEASES + 1] = ("range_size", S::Int8);
    columns
};

const SETTINGS: [(&str, S); settings::COLUMNS.len()] = {
    let mut columns = settings::COLUMNS;
    columns[2] = ("type", S::Text);
    columns
};

/// The rows of a list of what sessions do.
macro_rules! activity {
    ($what:ident, $local:literal) => {
        Rows::Fetched(|info| table_rows(info, Activity::$what, $local).map(Ok).boxed())
    };
}

pub(super) const TABLES: &[VirtualTable] = &[
    table(14_005, "cluster_queries", QUERIES, activity!(Queries, false)),
    table(14_006, "cluster_sessions", SESSIONS, activity!(Sessions, false)),
    table(14_007, "cluster_transactions", TRANSACTIONS, activity!(Transactions, false)),
    table(14_008, "node_queries", QUERIES, activity!(Queries, true)),
    table(14_009, "node_sessions", SESSIONS, activity!(Sessions, true)),
    table(14_010, "node_transactions", TRANSACTIONS, activity!(Transactions, true)),
    table(
        14_004,
        "cluster_locks",
        &locks::COLUMNS,
        Rows::Fetched(|info| locks::rows(info).boxed()),
    ),
    table(
        14_003,
        "cluster_settings",
        &SETTINGS,
        Rows::Computed(|info| Ok(settings::rows(info, true))),
    ),
    table(
        14_001,
        "ranges",
        &RANGES_WITH_LEASES,
        Rows::Fetched(|info| internal_rows(info, &INTERNAL).boxed()),
    ),
    table(
        14_002,
        "ranges_no_leases",
        &RANGES,
        Rows::Fetched(|info| {
            internal_rows(info, INTERNAL.get(..WITHOUT_LEASES).unwrap_or(&INTERNAL)).boxed()
        }),
    ),
];
