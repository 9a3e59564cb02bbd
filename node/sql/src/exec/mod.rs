//! Execution: operators that pull batches of rows from each other, and the statements that write.
//!
//! Only scans wait for anything; all else computes. What an operator holds (hash tables, sorted
//! rows) is accounted against the statement's memory.

mod aggregate;
mod join;
mod lateral;
mod op;
mod scan;
mod setop;
mod srf;
mod txn;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use crdb_keys::Span;

pub(crate) use op::Op;
pub(crate) use txn::{StatementTxn, commit};
pub(crate) use write::{WriteOutcome, commit_alone, run_delete, run_insert, run_update};

use crate::activity::CancelFlag;
use crate::datum::{Datum, Row};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{EvalCtx, SlotRows, SlotValue};
use crate::limits::Limits;
use crate::plan::{Plan, QueryPlan, SlotKind};
use crate::session::{SessionInfo, WriteFlag};

/// What all operators of a statement share.
pub(crate) struct ExecCtx<'a> {
    pub(crate) info: &'a SessionInfo,
    pub(crate) params: &'a [Datum],
    pub(crate) limits: Limits,
    pub(crate) cancel: &'a CancelFlag,
    pub(crate) write_flag: &'a WriteFlag,
    pub(crate) txn: StatementTxn<'a>,
    outer: Vec<Row>,
    slots: Vec<SlotValue>,
    memory: usize,
    /// Rows of correlated subqueries that may be asked for again, and their bytes.
    scans: HashMap<(usize, Vec<Span>), Arc<Vec<Row>>>,
    scan_bytes: usize,
    /// Of the table that the statement writes to.
    lookups: Lookups,
}

impl<'a> ExecCtx<'a> {
    pub(crate) fn new(
        info: &'a SessionInfo,
        params: &'a [Datum],
        cancel: &'a CancelFlag,
        write_flag: &'a WriteFlag,
        txn: StatementTxn<'a>,
    ) -> Self {
        Self {
            limits: info.node.limits,
            info,
            params,
            cancel,
            write_flag,
            txn,
            outer: Vec::new(),
            slots: Vec::new(),
            memory: 0,
            scans: HashMap::new(),
            scan_bytes: 0,
            lookups: Lookups::default(),
        }
    }

    /// What expressions read.
    pub(crate) fn eval(&self) -> EvalCtx<'_> {
        EvalCtx { info: self.info, params: self.params, outer: &self.outer, slots: &self.slots }
    }

    /// Accounts for memory that is held.
    fn hold(&mut self, bytes: usize) -> Result<()> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.limits.memory_bytes {
            return Err(out_of_memory(self.limits.memory_bytes));
        }
        Ok(())
    }

    /// How many keys of the table that the statement writes to are looked up next.
    fn next_lookup(&mut self) -> usize {
        self.lookups.next(&self.limits)
    }

    fn hold_row(&mut self, row: &[Datum]) -> Result<()> {
        self.hold(row_memory(row))
    }

    /// Keeps the rows of a scan, forgetting others when they would become too many.
    fn keep_scan(&mut self, key: (usize, Vec<Span>), bytes: usize, rows: &Arc<Vec<Row>>) {
        let most = self.limits.memory_bytes / 4;
        if self.scan_bytes.saturating_add(bytes) > most {
            self.scans.clear();
            self.scan_bytes = 0;
        }
        if bytes <= most {
            self.scan_bytes += bytes;
            self.scans.insert(key, Arc::clone(rows));
        }
    }

    /// Runs the subqueries that are computed once.
    pub(crate) async fn run_slots(&mut self, query: &QueryPlan) -> Result<()> {
        for slot in &query.slots {
            let rows = Op::new(&slot.plan).drain(self).await?;
            let value = match slot.kind {
                SlotKind::Scalar => SlotValue::Value(scalar(rows)?),
                SlotKind::Exists => SlotValue::Value(Datum::Bool(!rows.is_empty())),
                SlotKind::Array(elem) => SlotValue::Value(column_array(elem, rows)),
                SlotKind::Rows => SlotValue::Rows(Arc::new(SlotRows::new(rows))),
            };
            self.slots.push(value);
        }
        Ok(())
    }

    /// Runs a query to its end.
    pub(crate) async fn run_query(&mut self, query: &QueryPlan) -> Result<Vec<Row>> {
        self.run_slots(query).await?;
        // What most statements are needs no operators.
        if let Some(rows) = self.values(&query.root)? {
            return Ok(rows);
        }
        let (scan, exprs) = match &query.root {
            Plan::Scan(scan) => (Some(scan), None),
            Plan::Project { input, exprs } => match input.as_ref() {
                Plan::Scan(scan) => (Some(scan), Some(exprs)),
                _ => (None, None),
            },
            _ => (None, None),
        };
        if let Some(scan) = scan
            && let Some(point) = scan.point(&self.eval())?
        {
            let Some(row) = scan::read_point(self, scan, point).await? else {
                return Ok(Vec::new());
            };
            let rows = match exprs {
                Some(exprs) => op::project(self, &mut vec![row].into_iter(), exprs)?,
                None => vec![row],
            };
            return Ok(rows);
        }
        Op::new(&query.root).drain(self).await
    }

    /// The rows of a short list of values; none for any other plan.
    fn values(&mut self, plan: &Plan) -> Result<Option<Vec<Row>>> {
        let Plan::Values(exprs) = plan else { return Ok(None) };
        if exprs.len() > self.limits.batch_rows {
            return Ok(None);
        }
        let mut rows = Vec::with_capacity(exprs.len());
        for exprs in exprs {
            let eval = self.eval();
            let row: Row = exprs.iter().map(|e| e.eval(&eval, &[])).collect::<Result<_>>()?;
            self.hold_row(&row)?;
            rows.push(row);
        }
        Ok(Some(rows))
    }
}

/// How many keys are looked up at once: so many that, going by the rows found before, the answer is
/// no larger than it should be.
#[derive(Debug, Default)]
struct Lookups {
    asked: bool,
    /// Bytes of the largest row that was found.
    largest: usize,
}

impl Lookups {
    /// For the next request.
    fn next(&mut self, limits: &Limits) -> usize {
        let known = std::mem::replace(&mut self.asked, true);
        let fits = limits.lookup_bytes / self.largest.max(1);
        let most = if known { limits.lookup_keys } else { limits.lookup_first };
        most.min(limits.lookup_keys).min(fits).max(1)
    }

    /// Takes note of a row that was found.
    fn found(&mut self, bytes: usize) {
        self.asked = true;
        self.largest = self.largest.max(bytes);
    }
}

/// The error of a statement that would hold more than it may.
fn out_of_memory(limit: usize) -> SqlError {
    SqlError::new(
        SqlState::OUT_OF_MEMORY,
        format!("statement needs more than its memory of {limit} bytes"),
    )
    .with_hint("Select fewer rows or columns, or add a LIMIT.")
}

fn row_memory(row: &[Datum]) -> usize {
    24 + row.iter().map(Datum::memory).sum::<usize>()
}

/// The value of a scalar subquery.
fn scalar(rows: Vec<Row>) -> Result<Datum> {
    if rows.len() > 1 {
        return Err(SqlError::new(
            SqlState::CARDINALITY,
            "more than one row returned by a subquery used as an expression",
        ));
    }
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).unwrap_or_default())
}

fn column_array(elem: crate::types::SqlType, rows: Vec<Row>) -> Datum {
    let items = rows.into_iter().map(|row| row.into_iter().next().unwrap_or_default());
    Datum::array(elem, items.collect())
}
