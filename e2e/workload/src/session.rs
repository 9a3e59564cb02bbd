//! One SQL connection of one client, which knows how certain the outcome of each request is.
//!
//! ```text
//! Single ── begin ──> Open ── commit sent ──> Ending ── answered ──> Single
//! ```
//!
//! Invariants:
//! 1. Nothing is sent twice.
//! 2. A transaction whose COMMIT was never sent has failed, whatever became of the connection. After
//!    the COMMIT was sent, and for a statement on its own, only an error by which the server says that
//!    nothing happened is a failure; a broken connection, a time-out and every other error leave the
//!    outcome open.

use std::collections::HashMap;
use std::io::Cursor;
use std::time::Duration;

use futures::SinkExt as _;
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, Statement};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// Bytes of COPY that are sent at a time.
const COPY_FRAME: usize = 100_000;

/// Why a request did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It has no effect.
    #[error("{0}")]
    Fail(String),
    /// It may have an effect.
    #[error("{0}")]
    Info(String),
}

impl Failure {
    /// The SQLSTATE that the server gave, if it gave one.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        let (Failure::Fail(why) | Failure::Info(why)) = self;
        let (state, _) = why.split_once(": ")?;
        let is_state =
            state.len() == 5 && state.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        is_state.then_some(state)
    }
}

/// A parameter or a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// INT8.
    Int(i64),
    /// TEXT.
    Text(String),
}

impl Value {
    fn literal(&self) -> String {
        match self {
            Value::Int(n) => n.to_string(),
            Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        }
    }

    fn parameter(&self) -> &(dyn ToSql + Sync) {
        match self {
            Value::Int(n) => n,
            Value::Text(text) => text,
        }
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Value::Int(n)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

/// A row of an answer, its columns as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Vec<Option<String>>);

impl Row {
    /// A column as a number; it has to be one.
    ///
    /// # Errors
    ///
    /// The server sent something else.
    pub fn int(&self, column: usize) -> Result<i64, Failure> {
        self.text(column)
            .parse()
            .map_err(|_| Failure::Info(format!("column {column} of {:?} is not a number", self.0)))
    }

    /// A column as text; NULL is empty.
    #[must_use]
    pub fn text(&self, column: usize) -> &str {
        self.0.get(column).and_then(Option::as_deref).unwrap_or_default()
    }
}

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As text, in the simple protocol.
    Simple,
    /// Prepared once for each connection, in the extended protocol.
    Prepared,
}

/// The isolation level that transactions ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// What the checkers judge by.
    Serializable,
    /// Too weak on purpose: a control of the checkers.
    ReadCommitted,
}

impl Isolation {
    /// As SQL spells it.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            Isolation::Serializable => "SERIALIZABLE",
            Isolation::ReadCommitted => "READ COMMITTED",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Single,
    Open,
    Ending,
}

/// A connection.
#[derive(Debug)]
pub struct Session {
    client: Client,
    /// Drives the connection; ends with this.
    _connection: JoinSet<()>,
    style: Style,
    isolation: Isolation,
    statements: HashMap<String, Statement>,
    stage: Stage,
}

impl Session {
    /// Connects to a port of this machine.
    ///
    /// # Errors
    ///
    /// The node does not answer.
    pub async fn connect(
        login: &str,
        port: u16,
        style: Style,
        isolation: Isolation,
    ) -> Result<Session, Failure> {
        let target = format!("host=127.0.0.1 port={port} {login} application_name=workload");
        let connect = tokio_postgres::connect(&target, NoTls);
        let connected = tokio::time::timeout(CONNECT, connect).await;
        let (client, connection) = match connected {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => return Err(Failure::Fail(describe(&error))),
            Err(_) => return Err(Failure::Fail(format!("no connection in {CONNECT:?}"))),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Ok(Session {
            client,
            _connection: tasks,
            style,
            isolation,
            statements: HashMap::new(),
            stage: Stage::Single,
        })
    }

    /// What an interruption at this moment leaves.
    #[must_use]
    pub fn interrupted(&self, why: &str) -> Failure {
        match self.stage {
            Stage::Open => Failure::Fail(why.to_owned()),
            Stage::Single | Stage::Ending => Failure::Info(why.to_owned()),
        }
    }

    /// Whether a transaction is open, or the connection is of no more use.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.stage == Stage::Single && !self.client.is_closed()
    }

    /// Opens a transaction at the level of the connection.
    ///
    /// # Errors
    ///
    /// `Fail`.
    pub async fn begin(&mut self) -> Result<(), Failure> {
        self.begin_at(self.isolation).await
    }

    /// Opens a transaction at a level of its own.
    ///
    /// # Errors
    ///
    /// `Fail`.
    pub async fn begin_at(&mut self, isolation: Isolation) -> Result<(), Failure> {
        self.stage = Stage::Open;
        let sql = format!("BEGIN ISOLATION LEVEL {}", isolation.sql());
        self.client.batch_execute(&sql).await.map_err(|error| Failure::Fail(describe(&error)))
    }

    /// Commits the open transaction.
    ///
    /// # Errors
    ///
    /// As of the invariants.
    pub async fn commit(&mut self) -> Result<(), Failure> {
        self.stage = Stage::Ending;
        // The COMMIT of an aborted transaction would be answered as a success, by the tag ROLLBACK.
        // It is never sent: the failure of a statement goes to the caller, who rolls back.
        self.client.batch_execute("COMMIT").await.map_err(|error| self.judge(&error))?;
        self.stage = Stage::Single;
        Ok(())
    }

    /// Takes back the open transaction.
    ///
    /// # Errors
    ///
    /// The connection is of no more use.
    pub async fn rollback(&mut self) -> Result<(), Failure> {
        let outcome = self.client.batch_execute("ROLLBACK").await;
        outcome.map_err(|error| Failure::Fail(describe(&error)))?;
        self.stage = Stage::Single;
        Ok(())
    }

    /// Runs a statement; `$1` and so on stand for the parameters.
    ///
    /// # Errors
    ///
    /// As of the invariants.
    pub async fn rows(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, Failure> {
        Ok(self.run(sql, parameters).await?.0)
    }

    /// Runs a statement whose text is of this moment only: it is not prepared.
    ///
    /// # Errors
    ///
    /// As of the invariants.
    pub async fn rows_of_text(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        let outcome = self.run_simple(sql, &[]).await;
        Ok(outcome.map_err(|error| self.judge(&error))?.0)
    }

    /// Runs a statement whose text is of this moment only, and returns how many rows it changed.
    ///
    /// # Errors
    ///
    /// As of the invariants.
    pub async fn execute_text(&mut self, sql: &str) -> Result<u64, Failure> {
        let outcome = self.run_simple(sql, &[]).await;
        Ok(outcome.map_err(|error| self.judge(&error))?.1)
    }

    /// Runs a COPY FROM STDIN with its data, and returns how many rows it added.
    ///
    /// # Errors
    ///
    /// As of the invariants.
    pub async fn copy(&mut self, sql: &str, data: Vec<u8>) -> Result<u64, Failure> {
        let outcome = self.run_copy(sql, data).await;
        outcome.map_err(|error| self.judge(&error))
    }

    async fn run_copy(&mut self, sql: &str, data: Vec<u8>) -> Result<u64, tokio_postgres::Error> {
        let sink = self.client.copy_in(sql).await?;
        futures::pin_mut!(sink);
        // Frames end where they happen to, within rows and values.
        for frame in data.chunks(COPY_FRAME) {
            sink.send(Cursor::new(frame.to_vec())).await?;
        }
        sink.finish().await
    }

    /// Runs a statement and returns how many rows it changed.
    ///
    /// # Errors
    ///
    /// As of the invariants.
    pub async fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, Failure> {
        Ok(self.run(sql, parameters).await?.1)
    }

    async fn run(&mut self, sql: &str, parameters: &[Value]) -> Result<(Vec<Row>, u64), Failure> {
        let outcome = match self.style {
            Style::Simple => self.run_simple(sql, parameters).await,
            Style::Prepared => self.run_prepared(sql, parameters).await,
        };
        outcome.map_err(|error| self.judge(&error))
    }

    async fn run_simple(
        &mut self,
        sql: &str,
        parameters: &[Value],
    ) -> Result<(Vec<Row>, u64), tokio_postgres::Error> {
        let mut rows = Vec::new();
        let mut changed = 0;
        for message in self.client.simple_query(&interpolate(sql, parameters)).await? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    let columns = 0..row.len();
                    rows.push(Row(columns.map(|n| row.get(n).map(str::to_owned)).collect()));
                }
                SimpleQueryMessage::CommandComplete(count) => changed = count,
                _ => {}
            }
        }
        Ok((rows, changed))
    }

    async fn run_prepared(
        &mut self,
        sql: &str,
        parameters: &[Value],
    ) -> Result<(Vec<Row>, u64), tokio_postgres::Error> {
        let statement = match self.statements.get(sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.client.prepare(sql).await?;
                self.statements.insert(sql.to_owned(), statement.clone());
                statement
            }
        };
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(Value::parameter).collect();
        if statement.columns().is_empty() {
            return Ok((Vec::new(), self.client.execute(&statement, &parameters).await?));
        }
        let mut rows = Vec::new();
        for row in self.client.query(&statement, &parameters).await? {
            let mut columns = Vec::with_capacity(row.len());
            for (n, column) in row.columns().iter().enumerate() {
                columns.push(match column.type_().name() {
                    "int8" => row.try_get::<_, Option<i64>>(n)?.map(|n| n.to_string()),
                    _ => row.try_get::<_, Option<String>>(n)?,
                });
            }
            rows.push(Row(columns));
        }
        let changed = rows.len() as u64;
        Ok((rows, changed))
    }

    fn judge(&self, error: &tokio_postgres::Error) -> Failure {
        let text = describe(error);
        if self.stage == Stage::Open || means_no_effect(error) {
            Failure::Fail(text)
        } else {
            Failure::Info(text)
        }
    }
}

/// The statement with the parameters in it.
fn interpolate(sql: &str, parameters: &[Value]) -> String {
    let mut parts = sql.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = part.split_at(digits);
        let place = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        match place.and_then(|place| parameters.get(place)) {
            Some(value) => text.push_str(&value.literal()),
            None => {
                text.push('$');
                text.push_str(number);
            }
        }
        text.push_str(rest);
    }
    text
}

/// Whether the server says that nothing happened.
fn means_no_effect(error: &tokio_postgres::Error) -> bool {
    let Some(state) = error.code() else { return false };
    match state.code() {
        "40003" => false,
        // Not supported, data, constraint, transaction state, rollback, syntax, limit, lock.
        code => {
            ["0A", "22", "23", "25", "40", "42", "54", "55"].contains(&code.get(..2).unwrap_or(""))
        }
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{}: {}", error.code().code(), error.message()),
        None => {
            let source = std::error::Error::source(error);
            source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_state_that_the_server_gave() {
        let state = |why: &str| Failure::Fail(why.to_owned()).state().map(str::to_owned);
        assert_eq!(state("40001: restart").as_deref(), Some("40001"));
        assert_eq!(state("XX000: internal error: x").as_deref(), Some("XX000"));
        assert_eq!(state("connection closed"), None);
        assert_eq!(state("error: broken pipe"), None);
    }

    #[test]
    fn parameters_are_put_into_the_text() {
        let values: Vec<Value> = (1..=12_i64).map(|n| Value::Int(n * 100)).collect();
        assert_eq!(interpolate("a $1, b $12, c $2", &values), "a 100, b 1200, c 200");
        assert_eq!(interpolate("$1", &["it's".into()]), "'it''s'");
        assert_eq!(interpolate("$1$2 $ $3", &["$2".into(), "b".into()]), "'$2''b' $ $3");
    }
}
