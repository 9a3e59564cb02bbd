//! The simple query protocol: strings of statements.

use std::sync::Arc;
use std::time::Duration;

use crdb_sql::{ExecResult, Prepared, SqlError, SqlState};
use crdb_sqlfront::{Parsed, ast};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::connection::{End, Step, Worker};
use crate::inbox::Inbox;
use crate::latency::{self, Latencies};
use crate::output::Formats;
use crate::report::from_parse;

/// A statement of a simple query.
enum Simple<'t> {
    /// The same text was prepared before.
    Prepared(Arc<Prepared>),
    /// Parsed now, with the text if it is all there is in it.
    Parsed(Arc<Parsed>, Option<&'t str>),
}

impl<W: AsyncWrite + Unpin> Worker<'_, W> {
    /// A string of statements, which are one transaction where they say nothing else; the first
    /// error ends it.
    pub(crate) async fn simple_query(&mut self, text: &str, inbox: &mut Inbox) -> Step {
        // A simple query replaces the unnamed statement and portal.
        self.statements.remove("");
        self.portals.remove("");
        let outcome = match latency::asked(text) {
            Some(Ok(wanted)) => self.tell_latencies(wanted).await,
            Some(Err(error)) => Err(End::Sql(error)),
            None => self.simple_text(text, inbox).await,
        };
        let outcome = match outcome {
            Ok(()) => self.finish().await,
            outcome => outcome,
        };
        match outcome {
            Err(End::Sql(error)) => self.failed(&error).await,
            outcome => outcome?,
        }
        self.ready().await
    }

    async fn simple_text(&mut self, text: &str, inbox: &mut Inbox) -> Step {
        let recalled = self.session.recall(text, &[]);
        if let Some(prepared) = recalled.filter(|one| one.param_types.is_empty()) {
            let statement = Simple::Prepared(prepared);
            return self.simple_statement(statement, Duration::ZERO, true).await;
        }
        let began = Instant::now();
        let statements = crdb_sqlfront::parse(text).map_err(from_parse)?;
        let parse = began.elapsed();
        if statements.is_empty() {
            self.output.empty_query();
        }
        let count = statements.len();
        let whole = (count == 1).then_some(text);
        for (at, parsed) in statements.into_iter().enumerate() {
            if parsed.placeholders > 0 {
                let message = format!("there is no parameter ${}", parsed.placeholders);
                return Err(SqlError::new(SqlState::UNDEFINED_PARAMETER, message).into());
            }
            if let ast::Statement::Copy(copy) = &parsed.statement {
                self.copy(copy, at + 1 == count, inbox).await?;
                continue;
            }
            let statement = Simple::Parsed(Arc::new(parsed), whole);
            self.simple_statement(statement, parse, at + 1 == count).await?;
        }
        Ok(())
    }

    /// Runs a statement of a string; `last` says that none follows.
    async fn simple_statement(
        &mut self,
        statement: Simple<'_>,
        parse: Duration,
        last: bool,
    ) -> Step {
        self.guard.flag.reset();
        let flag = self.guard.flag.clone();
        let session = &mut self.session;
        let began = Instant::now();
        let (result, planned) = self
            .guard
            .run(async move {
                let prepared = match statement {
                    Simple::Prepared(prepared) => prepared,
                    Simple::Parsed(parsed, whole) => {
                        let prepared = Arc::new(session.prepare(&parsed, &[]).await?);
                        if let Some(text) = whole {
                            session.keep(text, &[], &prepared);
                        }
                        prepared
                    }
                };
                let planned = Instant::now();
                Ok((session.execute(&prepared, &[], &flag, last).await?, planned))
            })
            .await?;
        self.latencies = Latencies { parse, plan: planned - began, exec: planned.elapsed() };
        let ExecResult { columns, rows, tag, notices, parameters, effect, committed } = result;
        self.answer = Some(self.output.buffer.len());
        self.aside(&notices, &parameters);
        self.effect(effect)?;
        if let Some(columns) = columns {
            self.output.row_description(&columns, &Formats::Text);
            self.rows(&columns, rows.into_iter(), &Formats::Text, committed).await?;
        }
        self.output.complete(&tag);
        Ok(())
    }
}
