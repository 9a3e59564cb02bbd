//! One connection: startup, then the read half and the worker side by side in one task.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use crdb_sql::{
    CancelFlag, Column, Effect, ExecResult, Prepared, Row, Session, SessionArgs, SqlError,
    SqlState, TransactionStatus, WriteFlag,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::Config;
use crate::extended::{Portal, Statement};
use crate::frame::{FrameError, Message};
use crate::inbox::{Inbox, Queued, Reading, read};
use crate::latency::Latencies;
use crate::output::{Formats, Output};
use crate::report::{Fatal, error_fields, notice_fields, violation};
use crate::server::PgServer;
use crate::startup::{Opening, Startup, StartupError, open};

/// Why the worker leaves what it does.
#[derive(Debug)]
pub(crate) enum End {
    /// The statement failed; the session goes on.
    Sql(SqlError),
    /// The session ends, and the client is told why.
    Fatal(Fatal),
    /// The client is gone, or took its leave.
    Gone,
    /// The stream broke.
    Io(io::Error),
}

impl From<SqlError> for End {
    fn from(error: SqlError) -> End {
        End::Sql(error)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Io(error)
    }
}

/// Outcome of a step of the worker.
pub(crate) type Step<T = ()> = Result<T, End>;

/// Serves one connection to its end. `admission` is its place among those that have not said who
/// they are: a client that is refused keeps it to its end.
pub(crate) async fn serve<S, A>(server: &PgServer, mut stream: S, peer: &str, admission: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Send,
{
    let config = server.config;
    let mut buffer = BytesMut::with_capacity(config.read_bytes);
    let opening = open(&mut stream, &mut buffer, config.startup_bytes_max);
    let opening = tokio::select! {
        opening = timeout(config.startup_deadline, opening) => opening,
        () = server.stopping.cancelled() => Ok(Err(shutting_down().into())),
    };
    let fatal = match opening {
        Ok(Ok(Opening::Session(_))) if server.is_draining() => shutting_down(),
        Ok(Ok(Opening::Session(startup))) => {
            drop(admission);
            match session(server, stream, buffer, startup, peer).await {
                Ok(()) | Err(End::Gone | End::Sql(_) | End::Fatal(_)) => {}
                Err(End::Io(error)) => debug!(%peer, %error, "SQL connection broke"),
            }
            return;
        }
        Ok(Ok(Opening::Cancel { pid, key })) => {
            let found = server.registry.cancel(pid, &key);
            debug!(%peer, pid, found, "cancel request");
            return;
        }
        Ok(Ok(Opening::Gone)) => return,
        Ok(Err(StartupError::Refused(fatal))) => fatal,
        Ok(Err(StartupError::Io(error))) => {
            debug!(%peer, %error, "SQL connection broke before its startup packet");
            return;
        }
        Err(_) => Fatal::new("08006", "no startup packet arrived in time"),
    };
    debug!(%peer, reason = %fatal.0, "SQL client refused");
    let mut output = Output::default();
    output.error(error_fields(&fatal.0, "FATAL"));
    let farewell = async {
        stream.write_all(&output.buffer).await?;
        stream.shutdown().await
    };
    match timeout(config.farewell, farewell).await {
        Ok(Ok(())) => linger(server, &mut stream).await,
        Ok(Err(error)) => debug!(%peer, %error, "SQL client left before it was told"),
        Err(_) => debug!(%peer, "SQL client does not read why it was refused"),
    }
}

/// Reads what the client has sent already, until it closes its side: closing a socket over unread
/// bytes resets the connection, and the client would not see the last answer.
async fn linger<R: AsyncRead + Unpin>(server: &PgServer, reader: &mut R) {
    let mut bytes = [0; 1024];
    let drained = async {
        for _ in 0..server.config.linger_reads {
            if !matches!(reader.read(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
    };
    tokio::select! {
        () = drained => {}
        () = tokio::time::sleep(server.config.farewell) => {}
        () = server.draining.cancelled() => {}
    }
}

/// What a client hears of a message that cannot be read.
pub(crate) fn unreadable(error: &FrameError) -> SqlError {
    match error {
        FrameError::TooLong(..) | FrameError::Skipped(..) => {
            SqlError::new(SqlState::PROGRAM_LIMIT, error.to_string()).with_hint(
                "Send large values as parameters or by COPY, rows in several statements.",
            )
        }
        FrameError::TooShort(..) | FrameError::UnknownType(_) | FrameError::Malformed(_) => {
            violation(error.to_string())
        }
    }
}

pub(crate) fn shutting_down() -> Fatal {
    Fatal(
        SqlError::new(SqlState::ADMIN_SHUTDOWN, "the node is shutting down")
            .with_hint("Connect to another node."),
    )
}

impl From<Fatal> for StartupError {
    fn from(fatal: Fatal) -> StartupError {
        StartupError::Refused(fatal)
    }
}

/// Runs a session: greets the client, then reads and works until either ends.
async fn session<S>(
    server: &PgServer,
    stream: S,
    buffer: BytesMut,
    startup: Startup,
    peer: &str,
) -> Step
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let closed = CancellationToken::new();
    let args = SessionArgs {
        user: startup.user,
        database: startup.database,
        client_address: peer.to_owned(),
        session_id: server.next_session(),
        settings: startup.settings,
    };
    let mut output = Output::default();
    if let Some(refused) = startup.negotiate {
        output.negotiate(startup.minor, refused);
    }
    let opened = async {
        let session = Session::new(Arc::clone(&server.node), args)?;
        session.check_database().await?;
        Ok::<_, SqlError>(session)
    };
    let session = tokio::select! {
        session = opened => session,
        () = server.stopping.cancelled() => Err(shutting_down().0),
    };
    let mut writer = Writer::new(writer, closed.clone(), server.config);
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            output.error(error_fields(&error, "FATAL"));
            writer.closed.cancel();
            return writer.last(&mut output).await;
        }
    };
    writer.flag = session.cancel_flag();
    let registered = server.registry.register(session.cancel_flag(), startup.minor >= 2);
    output.authentication_ok();
    for (name, value) in session.parameters() {
        output.parameter(&name, &value);
    }
    output.key(registered.pid, registered.key.clone());
    output.ready(session.status());
    let guard = Guard {
        flag: session.cancel_flag(),
        write: session.write_flag(),
        closed: closed.clone(),
        stopping: server.stopping.clone(),
    };
    let mut worker = Worker {
        server,
        session,
        output,
        writer,
        guard,
        statements: HashMap::new(),
        portals: HashMap::new(),
        latencies: Latencies::default(),
        skipping: false,
        in_batch: false,
        answer: None,
    };
    let (send, receive) = mpsc::channel(server.config.queue_messages);
    let outcome = {
        let mut reading = pin!(read(&mut reader, buffer, send, server.config));
        let mut working = pin!(worker.run(receive));
        tokio::select! {
            outcome = &mut working => outcome,
            ended = &mut reading => {
                if ended == Reading::HungUp {
                    closed.cancel();
                }
                working.await
            }
        }
    };
    if outcome.is_ok() {
        linger(server, &mut reader).await;
    }
    outcome
}

/// The write half.
struct Writer<W> {
    half: W,
    closed: CancellationToken,
    /// The session's, once there is one.
    flag: CancelFlag,
    farewell: Duration,
    /// Bytes of the buffer that are kept for the next answers.
    keep_bytes: usize,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    fn new(half: W, closed: CancellationToken, config: Config) -> Self {
        Self {
            half,
            closed,
            flag: CancelFlag::new(),
            farewell: config.farewell,
            keep_bytes: config.output_keep_bytes,
        }
    }

    /// Writes all that is gathered. A client that has hung up gets a little time to read it, and so
    /// does one whose session is to end.
    async fn flush(&mut self, output: &mut Output) -> Step {
        if let Err(error) = output.check() {
            return Err(End::Fatal(Fatal(SqlError::internal(error.to_string()))));
        }
        if output.buffer.is_empty() {
            return Ok(());
        }
        let mut write = pin!(async {
            self.half.write_all(&output.buffer).await?;
            self.half.flush().await
        });
        let ends = tokio::select! {
            // Mostly it is done at once.
            biased;
            written = &mut write => {
                written?;
                false
            }
            () = self.closed.cancelled() => true,
            () = self.flag.closed() => true,
        };
        if ends {
            match timeout(self.farewell, write).await {
                Ok(written) => written?,
                Err(_) => return Err(End::Gone),
            }
        }
        output.buffer.clear();
        if output.buffer.capacity() > self.keep_bytes {
            output.buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Writes the last answers and closes.
    async fn last(&mut self, output: &mut Output) -> Step {
        self.flush(output).await?;
        if let Ok(closed) = timeout(self.farewell, self.half.shutdown()).await {
            closed?;
        }
        Ok(())
    }
}

/// What may interrupt a statement.
#[derive(Clone)]
pub(crate) struct Guard {
    /// Raised by whoever cancels the statement or the session.
    pub(crate) flag: CancelFlag,
    write: WriteFlag,
    closed: CancellationToken,
    stopping: CancellationToken,
}

impl Guard {
    /// Runs a statement until it ends or is interrupted. A write on its way is waited for: it
    /// decides how the statement ended.
    pub(crate) async fn run<T>(
        &self,
        statement: impl Future<Output = Result<T, SqlError>>,
    ) -> Step<T> {
        let mut statement = pin!(statement);
        let end = tokio::select! {
            biased;
            result = &mut statement => return self.ended(result),
            () = self.flag.cancelled() => self.cancelled(),
            () = self.closed.cancelled() => End::Gone,
            () = self.stopping.cancelled() => End::Fatal(shutting_down()),
        };
        self.flag.cancel();
        if !self.write.in_flight() {
            return Err(end);
        }
        match statement.await {
            // It had no effect, and stopped for the same reason.
            Err(error) if error.code == SqlState::QUERY_CANCELED => Err(end),
            result => self.ended(result),
        }
    }

    /// How a statement ended by itself, or because it saw the flag.
    fn ended<T>(&self, result: Result<T, SqlError>) -> Step<T> {
        result.map_err(|error| {
            let closed = self.flag.is_closed() && error.code == SqlState::ADMIN_SHUTDOWN;
            if closed { End::Fatal(Fatal(error)) } else { End::Sql(error) }
        })
    }

    /// Whether an answer goes on. That of what is committed is sent to the end: cancelled, it would
    /// seem to have done nothing.
    pub(crate) fn check(&self, committed: bool) -> Step {
        let stop = self.flag.is_closed() || (self.flag.is_cancelled() && !committed);
        if stop { Err(self.cancelled()) } else { Ok(()) }
    }

    /// What becomes of a statement whose flag is raised.
    pub(crate) fn cancelled(&self) -> End {
        let error = self.flag.error();
        if self.flag.is_closed() { End::Fatal(Fatal(error)) } else { End::Sql(error) }
    }
}

/// Answers the messages of one client.
pub(crate) struct Worker<'a, W> {
    pub(crate) server: &'a PgServer,
    pub(crate) session: Session,
    pub(crate) output: Output,
    writer: Writer<W>,
    pub(crate) guard: Guard,
    pub(crate) statements: HashMap<String, Arc<Statement>>,
    pub(crate) portals: HashMap<String, Portal>,
    /// Times of the last statement of the simple protocol.
    pub(crate) latencies: Latencies,
    /// An error was answered; everything up to the next Sync is ignored.
    skipping: bool,
    /// Messages of the extended protocol came after the last Sync.
    in_batch: bool,
    /// Where the answer of the last statement begins, until it is written.
    pub(crate) answer: Option<usize>,
}

impl<W: AsyncWrite + Unpin> Worker<'_, W> {
    async fn run(&mut self, queue: mpsc::Receiver<Queued>) -> Step {
        let mut inbox = Inbox::new(queue);
        let end = Box::pin(self.serve(&mut inbox)).await;
        let end = match end {
            Err(End::Fatal(fatal)) => {
                self.output.error(error_fields(&fatal.0, "FATAL"));
                // The client may be busy sending: what it sends no longer matters.
                drop(inbox);
                self.writer.closed.cancel();
                self.writer.last(&mut self.output).await
            }
            Err(End::Gone) => {
                self.writer.closed.cancel();
                self.writer.last(&mut self.output).await
            }
            end => end,
        };
        // Nobody waits for the locks of a client that is gone.
        self.session.close().await;
        end
    }

    async fn serve(&mut self, inbox: &mut Inbox) -> Step {
        self.flush().await?;
        loop {
            let queued = self.next(inbox).await?;
            let last = queued.kind == b'E' && inbox.sync_is_next();
            match self.message(queued.kind, queued.message, last, inbox).await {
                Err(End::Sql(error)) => {
                    self.failed(&error).await;
                    self.skipping = true;
                }
                step => step?,
            }
        }
    }

    /// Answers an error; a transaction that is open fails with it.
    pub(crate) async fn failed(&mut self, error: &SqlError) {
        self.session.fail().await;
        let notices = self.session.take_notices();
        self.aside(&notices, &[]);
        self.output.error(error_fields(error, "ERROR"));
    }

    /// Commits what was done in a string of statements or up to a Sync. An error takes the place of
    /// the last answer if that is still here.
    pub(crate) async fn finish(&mut self) -> Step {
        if !self.session.is_unfinished() {
            return Ok(());
        }
        self.guard.flag.reset();
        let flag = self.guard.flag.clone();
        let finished = self.guard.run(self.session.finish(&flag)).await;
        if let (Err(End::Sql(_)), Some(at)) = (&finished, self.answer.take()) {
            self.output.buffer.truncate(at);
        }
        finished
    }

    /// Waits for the next message; between statements also for whatever ends the session.
    async fn next(&mut self, inbox: &mut Inbox) -> Step<Queued> {
        // In the middle of a batch nothing ends the session, and statements watch for the stop
        // themselves: the waits below, on tokens that all sessions share, are saved.
        if self.in_batch
            && let Some(queued) = inbox.try_next()
        {
            return Ok(queued);
        }
        let in_transaction = self.session.status() != TransactionStatus::Idle;
        let idle = if in_transaction {
            self.session.idle_in_transaction_timeout().filter(|_| !self.in_batch)
        } else {
            self.session.idle_timeout()
        };
        let idle_over = async {
            match idle {
                Some(idle) => tokio::time::sleep(idle).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.server.stopping.cancelled() => Err(End::Fatal(shutting_down())),
            () = self.guard.flag.closed() => Err(self.guard.cancelled()),
            () = self.server.draining.cancelled(), if !self.in_batch && !in_transaction => {
                Err(End::Fatal(shutting_down()))
            }
            queued = inbox.next() => queued.ok_or(End::Gone),
            () = idle_over => Err(End::Fatal(if in_transaction {
                Fatal::new("25P03", "terminating connection due to idle-in-transaction timeout")
            } else {
                Fatal::new("57P05", "terminating connection due to idle-session timeout")
            })),
        }
    }

    pub(crate) async fn flush(&mut self) -> Step {
        self.answer = None;
        self.writer.flush(&mut self.output).await
    }

    /// Does what a message asks for; `last` says that a Sync is next.
    async fn message(
        &mut self,
        kind: u8,
        message: Result<Message, FrameError>,
        last: bool,
        inbox: &mut Inbox,
    ) -> Step {
        let message = match message {
            Err(error) if !error.in_step() => {
                return Err(End::Fatal(Fatal(unreadable(&error))));
            }
            Err(_) if self.skipping => return Ok(()),
            Err(error) => {
                let error = unreadable(&error);
                if kind == b'Q' {
                    self.failed(&error).await;
                    return self.ready().await;
                }
                return Err(End::Sql(error));
            }
            Ok(message) => message,
        };
        match message {
            Message::Terminate => return Err(End::Gone),
            Message::Sync => {
                match self.finish().await {
                    Err(End::Sql(error)) => self.failed(&error).await,
                    finished => finished?,
                }
                return self.ready().await;
            }
            _ if self.skipping => return Ok(()),
            Message::Query(text) => return Box::pin(self.simple_query(&text, inbox)).await,
            Message::Password => {
                return Err(End::Fatal(Fatal::new("08P01", "no password was asked for")));
            }
            Message::FunctionCall => {
                let error = SqlError::unsupported("the function call protocol");
                self.failed(&error).await;
                return self.ready().await;
            }
            Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) => return Ok(()),
            _ => {}
        }
        self.in_batch = true;
        match message {
            Message::Parse { name, query, types } => {
                Box::pin(self.parse(name, &query, &types)).await
            }
            Message::Bind(bind) => self.bind(bind),
            Message::Describe { target, name } => self.describe(target, &name),
            Message::Execute { portal, max_rows } => {
                Box::pin(self.execute(&portal, max_rows, last, inbox)).await
            }
            Message::Close { target, name } => {
                self.close(target, &name);
                Ok(())
            }
            _ => self.flush().await,
        }
    }

    pub(crate) async fn ready(&mut self) -> Step {
        self.skipping = false;
        self.in_batch = false;
        let status = self.session.status();
        if status == TransactionStatus::Idle {
            // Portals end with their transaction.
            self.portals.clear();
        }
        self.output.ready(status);
        self.flush().await
    }

    /// Runs a bound statement; `last` says that a Sync is next.
    pub(crate) async fn run_prepared(
        &mut self,
        prepared: &Arc<Prepared>,
        params: &[crdb_sql::Datum],
        last: bool,
    ) -> Step<ExecResult> {
        self.guard.flag.reset();
        let flag = self.guard.flag.clone();
        let result = self.guard.run(self.session.execute(prepared, params, &flag, last)).await?;
        self.answer = Some(self.output.buffer.len());
        self.aside(&result.notices, &result.parameters);
        self.effect(result.effect.clone())?;
        Ok(result)
    }

    /// Messages beside the result.
    pub(crate) fn aside(&mut self, notices: &[crdb_sql::Notice], parameters: &[(String, String)]) {
        for notice in notices {
            self.output.notice(notice_fields(notice));
        }
        for (name, value) in parameters {
            self.output.parameter(name, value);
        }
    }

    /// Does what the statement asks of the connection.
    pub(crate) fn effect(&mut self, effect: Effect) -> Step {
        match effect {
            Effect::None => {}
            Effect::Deallocate(name) => {
                if self.statements.remove(&name).is_none() {
                    let message = format!("prepared statement \"{name}\" does not exist");
                    return Err(SqlError::new(SqlState::INVALID_STATEMENT_NAME, message).into());
                }
            }
            Effect::DeallocateAll => self.statements.clear(),
            Effect::DiscardAll => {
                self.statements.clear();
                self.portals.clear();
            }
        }
        Ok(())
    }

    /// Sends rows, writing whenever enough is gathered; returns how many.
    pub(crate) async fn rows(
        &mut self,
        columns: &[Column],
        rows: impl Iterator<Item = Row>,
        formats: &Formats,
        committed: bool,
    ) -> Step<usize> {
        let mut count = 0;
        for row in rows {
            self.output.row(columns, &row, formats, self.session.format_settings());
            count += 1;
            if self.output.buffer.len() >= self.server.config.output_bytes {
                self.flush().await?;
                self.guard.check(committed)?;
            }
        }
        Ok(count)
    }
}
