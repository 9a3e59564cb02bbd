//! CANCEL QUERY and CANCEL SESSION.

use std::sync::Arc;

use crdb_sqlfront::ast::{self, CancelIds, CancelWhat};

use super::{CancelFlag, ExecResult, Session};
use crate::activity::{Target, node_of};
use crate::analyze::constant;
use crate::datum::Datum;
use crate::error::{Result, SqlError, SqlState};
use crate::node::SqlNode;
use crate::types::{SqlType as S, TypeSpec};

fn noun(what: CancelWhat) -> &'static str {
    match what {
        CancelWhat::Query => "query",
        CancelWhat::Session => "session",
    }
}

impl Session {
    /// Cancels statements or sessions, wherever in the cluster they are. Stops at the first that
    /// cannot be cancelled. What belongs to this session comes last.
    pub(super) async fn cancel(
        &mut self,
        statement: &ast::Cancel,
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        let what = statement.what;
        let ids = self.ids(statement, cancel).await?;
        let mut targets = Vec::with_capacity(ids.len());
        for text in ids {
            let id = parse(&text).ok_or_else(|| {
                SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("invalid {} ID {text:?}", noun(what)),
                )
                .with_hint("An ID has 32 hexadecimal digits, as SHOW CLUSTER QUERIES and SHOW CLUSTER SESSIONS list it.")
                .with_position(statement.pos.0)
            })?;
            targets.push(match what {
                CancelWhat::Query => Target::Query(id),
                CancelWhat::Session => Target::Session(id),
            });
        }
        targets.sort_by_key(|target| self.seat.is(*target));
        let node = Arc::clone(&self.info.node);
        let mut count = 0_u64;
        for target in targets {
            match cancel_one(&node, what, target).await? {
                Ok(()) => count += 1,
                Err(_) if statement.if_exists => {}
                Err(missing) => return Err(missing),
            }
        }
        let tag = match what {
            CancelWhat::Query => format!("CANCEL QUERIES {count}"),
            CancelWhat::Session => format!("CANCEL SESSIONS {count}"),
        };
        Ok(ExecResult { tag, ..ExecResult::default() })
    }

    /// The ids as text; NULL names nothing.
    async fn ids(&mut self, statement: &ast::Cancel, cancel: &CancelFlag) -> Result<Vec<Arc<str>>> {
        let values = match &statement.ids {
            CancelIds::One(id) => {
                let snapshot = self.begin_statement().await?;
                vec![constant(&self.info, &snapshot, id, TypeSpec::plain(S::Text))?]
            }
            CancelIds::Query(query) => {
                let (columns, rows) = self.rows_of(query, cancel).await?;
                match &*columns {
                    [one] if one.ty == S::Text => {}
                    _ => {
                        return Err(SqlError::new(
                            SqlState::DATATYPE_MISMATCH,
                            "CANCEL takes a query with one column of type STRING",
                        )
                        .with_position(statement.pos.0));
                    }
                }
                rows.into_iter().flatten().collect()
            }
        };
        let text = |value| match value {
            Datum::Text(text) => Some(text),
            _ => None,
        };
        Ok(values.into_iter().filter_map(text).collect())
    }
}

fn parse(id: &str) -> Option<u128> {
    let digits = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(id, 16).ok().filter(|_| digits)
}

/// Cancels one; the inner error says that nothing of its id is there.
async fn cancel_one(
    node: &SqlNode,
    what: CancelWhat,
    target: Target,
) -> Result<std::result::Result<(), SqlError>> {
    let (Target::Query(id) | Target::Session(id)) = target;
    let (owner, shown, noun) = (node_of(id), crate::activity::shown_id(id), noun(what));
    let found = if owner == node.node_id {
        node.cancel(target)
    } else {
        match node.peers().filter(|peers| peers.nodes().contains(&owner)) {
            None => false,
            Some(peers) => peers.cancel(owner, target).await.map_err(|reason| {
                SqlError::new(
                    SqlState::SYSTEM_ERROR,
                    format!("could not cancel {noun} {shown}: {owner} does not answer: {reason}"),
                )
            })?,
        }
    };
    if found {
        return Ok(Ok(()));
    }
    Ok(Err(SqlError::new(
        SqlState::UNDEFINED_OBJECT,
        format!("could not cancel {noun} {shown}: {noun} ID {shown} not found"),
    )))
}
