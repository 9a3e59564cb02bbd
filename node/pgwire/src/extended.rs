//! The extended query protocol: prepared statements and portals.

use std::sync::Arc;

use bytes::Bytes;
use crdb_sql::{Column, Datum, FormatSettings, Prepared, Row, SqlError, SqlState, SqlType};
use crdb_sqlfront::ast;
use tokio::io::AsyncWrite;

use crate::connection::{Step, Worker};
use crate::frame::{Bind, Target};
use crate::inbox::Inbox;
use crate::output::Formats;
use crate::report::{from_parse, violation};

/// A prepared statement; none for an empty string.
#[derive(Debug)]
pub(crate) struct Statement {
    prepared: Option<Arc<Prepared>>,
}

/// A statement with its parameters bound.
#[derive(Debug)]
pub(crate) struct Portal {
    prepared: Option<Arc<Prepared>>,
    params: Vec<Datum>,
    formats: Formats,
    state: State,
}

/// How far a portal has run.
#[derive(Debug)]
enum State {
    Bound,
    /// Rows are left to send.
    Suspended(Rows),
    Done,
}

/// A result that is sent in parts.
#[derive(Debug)]
struct Rows {
    columns: Arc<[Column]>,
    rows: std::vec::IntoIter<Row>,
    tag: String,
    committed: bool,
}

fn no_statement(name: &str) -> SqlError {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{name}\" does not exist")
    };
    SqlError::new(SqlState::INVALID_STATEMENT_NAME, message)
}

fn no_portal(name: &str) -> SqlError {
    SqlError::new(SqlState("34000"), format!("portal \"{name}\" does not exist"))
}

impl<W: AsyncWrite + Unpin> Worker<'_, W> {
    pub(crate) async fn parse(&mut self, name: String, query: &str, types: &[u32]) -> Step {
        if name.is_empty() {
            self.statements.remove("");
        } else if self.statements.contains_key(&name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(SqlError::new(SqlState("42P05"), message).into());
        }
        let most = self.server.config.statements_max;
        if self.statements.len() >= most {
            let message = format!("a session may have {most} prepared statements");
            let error = SqlError::new(SqlState::PROGRAM_LIMIT, message);
            return Err(error.with_hint("Close or DEALLOCATE those no longer needed.").into());
        }
        let prepared = match self.session.recall(query, types) {
            Some(prepared) => Some(prepared),
            None => self.prepare(query, types).await?,
        };
        self.statements.insert(name, Arc::new(Statement { prepared }));
        self.output.parse_complete();
        Ok(())
    }

    /// Prepares the only statement of a text; none for an empty one.
    async fn prepare(&mut self, query: &str, types: &[u32]) -> Step<Option<Arc<Prepared>>> {
        let mut parsed = crdb_sqlfront::parse(query).map_err(from_parse)?;
        if parsed.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(SqlError::syntax(message).into());
        }
        let Some(parsed) = parsed.pop().map(Arc::new) else { return Ok(None) };
        self.guard.flag.reset();
        let prepared = Arc::new(self.guard.run(self.session.prepare(&parsed, types)).await?);
        self.session.keep(query, types, &prepared);
        Ok(Some(prepared))
    }

    pub(crate) fn bind(&mut self, bind: Bind) -> Step {
        if bind.portal.is_empty() {
            self.portals.remove("");
        } else if self.portals.contains_key(&bind.portal) {
            let message = format!("portal \"{}\" already exists", bind.portal);
            return Err(SqlError::new(SqlState("42P03"), message).into());
        }
        let most = self.server.config.portals_max;
        if self.portals.len() >= most {
            let message = format!("a session may have {most} open portals");
            let error = SqlError::new(SqlState::PROGRAM_LIMIT, message);
            return Err(error
                .with_hint("Close those no longer needed, or end the transaction.")
                .into());
        }
        let statement = self.statements.get(&bind.statement);
        let statement = Arc::clone(statement.ok_or_else(|| no_statement(&bind.statement))?);
        let prepared = statement.prepared.clone();
        let types = prepared.as_ref().map_or(&[][..], |prepared| &prepared.param_types);
        let params = parameters(&bind, types, self.session.format_settings())?;
        let columns = prepared.as_ref().and_then(|prepared| prepared.columns.as_deref());
        let formats = result_formats(&bind.result_formats, columns.map_or(0, <[_]>::len))?;
        let portal = Portal { prepared, params, formats, state: State::Bound };
        self.portals.insert(bind.portal, portal);
        self.output.bind_complete();
        Ok(())
    }

    pub(crate) fn describe(&mut self, target: Target, name: &str) -> Step {
        let (prepared, formats) = match target {
            Target::Statement => {
                let statement = self.statements.get(name).ok_or_else(|| no_statement(name))?;
                let types = statement.prepared.iter().flat_map(|one| &one.param_types);
                self.output.parameter_types(types.map(|ty| ty.oid()).collect());
                (&statement.prepared, &Formats::Text)
            }
            Target::Portal => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.prepared, &portal.formats)
            }
        };
        match prepared.as_ref().and_then(|prepared| prepared.columns.as_deref()) {
            Some(columns) => self.output.row_description(columns, formats),
            None => self.output.no_data(),
        }
        Ok(())
    }

    /// Closing what is not there is no error.
    pub(crate) fn close(&mut self, target: Target, name: &str) {
        match target {
            Target::Statement => {
                self.statements.remove(name);
            }
            Target::Portal => {
                self.portals.remove(name);
            }
        }
        self.output.close_complete();
    }

    /// Runs a portal, or goes on with it. It is out of the table meanwhile: one that fails is gone.
    /// `last` says that a Sync is next.
    pub(crate) async fn execute(
        &mut self,
        name: &str,
        max_rows: usize,
        last: bool,
        inbox: &mut Inbox,
    ) -> Step {
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let Some(prepared) = portal.prepared.clone() else {
            self.output.empty_query();
            self.portals.insert(name.to_owned(), portal);
            return Ok(());
        };
        let rows = match std::mem::replace(&mut portal.state, State::Done) {
            State::Suspended(rows) => Some(rows),
            State::Done if prepared.columns.is_none() => {
                let message = format!("portal \"{name}\" cannot be run again");
                return Err(SqlError::new(SqlState::OBJECT_NOT_IN_STATE, message).into());
            }
            State::Done => {
                self.output.complete("SELECT 0");
                self.portals.insert(name.to_owned(), portal);
                return Ok(());
            }
            State::Bound if matches!(prepared.parsed.statement, ast::Statement::Copy(_)) => {
                if let ast::Statement::Copy(copy) = &prepared.parsed.statement {
                    self.copy(copy, last, inbox).await?;
                }
                None
            }
            State::Bound => {
                let result = self.run_prepared(&prepared, &portal.params, last).await?;
                match result.columns {
                    Some(columns) => {
                        let rows = result.rows.into_iter();
                        Some(Rows { columns, rows, tag: result.tag, committed: result.committed })
                    }
                    None => {
                        self.output.complete(&result.tag);
                        None
                    }
                }
            }
        };
        if let Some(rows) = rows {
            portal.state = self.send(rows, max_rows, &portal.formats).await?;
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    /// Sends at most `max_rows` rows, all of them for 0.
    async fn send(&mut self, mut rows: Rows, max_rows: usize, formats: &Formats) -> Step<State> {
        let limit = if max_rows == 0 { usize::MAX } else { max_rows };
        let part = rows.rows.by_ref().take(limit);
        let sent = self.rows(&rows.columns, part, formats, rows.committed).await?;
        if rows.rows.len() > 0 {
            self.output.portal_suspended();
            return Ok(State::Suspended(rows));
        }
        // A SELECT that is fetched in parts counts the rows of the last part, as PostgreSQL does.
        if rows.tag.starts_with("SELECT ") {
            self.output.complete(&format!("SELECT {sent}"));
        } else {
            self.output.complete(&rows.tag);
        }
        Ok(State::Done)
    }
}

/// Decodes the parameters of a Bind.
fn parameters(
    bind: &Bind,
    types: &[SqlType],
    settings: &FormatSettings,
) -> Result<Vec<Datum>, SqlError> {
    let (given, wanted) = (bind.params.len(), types.len());
    if given != wanted {
        return Err(violation(format!(
            "bind message supplies {given} parameters, but prepared statement \"{}\" requires \
             {wanted}",
            bind.statement
        )));
    }
    let formats = &bind.param_formats;
    if formats.len() > 1 && formats.len() != given {
        return Err(violation(format!(
            "bind message has {} parameter formats but {given} parameters",
            formats.len()
        )));
    }
    let mut datums = Vec::with_capacity(given);
    for (at, (param, ty)) in bind.params.iter().zip(types).enumerate() {
        let format = if formats.len() == 1 { formats.first() } else { formats.get(at) };
        let binary = is_binary(format.copied().unwrap_or(0))?;
        datums.push(match param {
            None => Datum::Null,
            Some(bytes) if binary => Datum::decode_binary(*ty, bytes)?,
            Some(bytes) => Datum::decode_text(*ty, text(bytes)?, settings)?,
        });
    }
    Ok(datums)
}

fn text(bytes: &Bytes) -> Result<&str, SqlError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(SqlError::new(
            SqlState::INVALID_BYTE_SEQUENCE,
            "invalid byte sequence for encoding \"UTF8\" in a parameter",
        )),
    }
}

fn is_binary(format: i16) -> Result<bool, SqlError> {
    match format {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("unsupported format code: {other}"),
        )),
    }
}

fn result_formats(formats: &[i16], columns: usize) -> Result<Formats, SqlError> {
    match formats {
        [] => Ok(Formats::Text),
        [one] => Ok(if is_binary(*one)? { Formats::Binary } else { Formats::Text }),
        each if each.len() == columns || columns == 0 => each
            .iter()
            .map(|format| is_binary(*format))
            .collect::<Result<_, _>>()
            .map(Formats::Each),
        each => Err(violation(format!(
            "bind message has {} result formats but query has {columns} columns",
            each.len()
        ))),
    }
}
