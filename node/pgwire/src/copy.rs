//! COPY on the wire: the stream of a client into a table, and the lines of a query to a client.

use crdb_sql::{CopyOut, SqlError, SqlState};
use crdb_sqlfront::ast;
use tokio::io::AsyncWrite;

use crate::connection::{End, Step, Worker, shutting_down, unreadable};
use crate::frame::Message;
use crate::inbox::Inbox;
use crate::report::{Fatal, violation};

impl<W: AsyncWrite + Unpin> Worker<'_, W> {
    /// Carries out a COPY; `last` says that a Sync is next, or that no statement follows.
    pub(crate) async fn copy(&mut self, copy: &ast::Copy, last: bool, inbox: &mut Inbox) -> Step {
        self.guard.flag.reset();
        let tag = if copy.from {
            self.copy_from(copy, inbox).await?
        } else {
            self.copy_to(copy, last).await?
        };
        self.output.complete(&tag);
        Ok(())
    }

    async fn copy_to(&mut self, copy: &ast::Copy, last: bool) -> Step<String> {
        let flag = self.guard.flag.clone();
        let CopyOut { width, lines, tag, committed } =
            self.guard.run(self.session.copy_out(copy, &flag, last)).await?;
        self.answer = Some(self.output.buffer.len());
        self.output.copy_out(width);
        for line in lines {
            self.output.copy_data(&line);
            if self.output.buffer.len() >= self.server.config.output_bytes {
                self.flush().await?;
                self.guard.check(committed)?;
            }
        }
        self.output.copy_done();
        Ok(tag)
    }

    async fn copy_from(&mut self, copy: &ast::Copy, inbox: &mut Inbox) -> Step<String> {
        let mut rows = self.guard.run(self.session.copy_in(copy)).await?;
        self.output.copy_in(rows.width());
        self.flush().await?;
        let flag = self.guard.flag.clone();
        loop {
            let queued = tokio::select! {
                biased;
                () = self.server.stopping.cancelled() => return Err(End::Fatal(shutting_down())),
                () = flag.cancelled() => return Err(self.guard.cancelled()),
                queued = inbox.next() => queued.ok_or(End::Gone)?,
            };
            match queued.message {
                Ok(Message::CopyData(piece)) => {
                    self.guard.run(self.session.copy_data(&mut rows, &piece, &flag)).await?;
                }
                Ok(Message::CopyDone) => break,
                Ok(Message::CopyFail(why)) => {
                    let message = format!("COPY from stdin failed: {why}");
                    return Err(SqlError::new(SqlState::QUERY_CANCELED, message).into());
                }
                // Sent before the client knew that a COPY begins.
                Ok(Message::Flush | Message::Sync) => {}
                Ok(Message::Terminate) => return Err(End::Gone),
                Ok(_) => {
                    let kind = char::from(queued.kind);
                    let message =
                        format!("unexpected message type \"{kind}\" during COPY from stdin");
                    return Err(End::Fatal(Fatal(violation(message))));
                }
                Err(error) if error.in_step() => return Err(End::Sql(unreadable(&error))),
                Err(error) => return Err(End::Fatal(Fatal(unreadable(&error)))),
            }
        }
        let result = self.guard.run(self.session.copy_done(rows, &flag)).await?;
        self.answer = Some(self.output.buffer.len());
        Ok(result.tag)
    }
}
