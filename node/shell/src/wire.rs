//! The client side of the PostgreSQL wire protocol, as far as a shell needs it.
//!
//! Only the simple query protocol: the server sends every value as text. The shell speaks it
//! itself, over the message types of `postgres-protocol`, because a shell shows what drivers
//! hide: command tags, column types, notices and the state of the transaction.
//!
//! It is not a driver: one statement at a time, no prepared statements, no TLS yet.
//!
//! Invariants:
//! 1. [`Connection::next`] may be dropped at any await point; no byte is lost.
//! 2. After an I/O error or a malformed message the connection answers only errors, never a late
//!    answer to an earlier statement.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use postgres_protocol::message::backend::{self, DataRowBody, ErrorFields, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::render::{Cell, Column};
use crate::target::Target;

/// Longest message accepted from a server; a longer one is taken for a broken stream.
const MESSAGE_BYTES_MAX: i32 = 1 << 30;

/// SQLSTATE `cannot_connect_now`: the server runs but serves no SQL yet.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// An error or notice as the server sent it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServerMessage {
    /// `ERROR`, `NOTICE` and so on.
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// What happened.
    pub message: String,
    /// Further facts.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ServerMessage {
    fn read(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        use fallible_iterator::FallibleIterator as _;
        let mut result = Self::default();
        while let Some(field) = fields.next()? {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                // The unlocalised severity comes after the localised one and replaces it.
                b'S' | b'V' => result.severity = text,
                b'C' => result.code = text,
                b'M' => result.message = text,
                b'D' => result.detail = Some(text),
                b'H' => result.hint = Some(text),
                _ => {}
            }
        }
        Ok(result)
    }
}

impl std::fmt::Display for ServerMessage {
    /// Prints one line per field; errors carry their SQLSTATE, notices do not.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)?;
        if matches!(self.severity.as_str(), "ERROR" | "FATAL" | "PANIC") && !self.code.is_empty() {
            write!(f, "\nSQLSTATE: {}", self.code)?;
        }
        if let Some(detail) = &self.detail {
            write!(f, "\nDETAIL: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nHINT: {hint}")?;
        }
        Ok(())
    }
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nothing answers at the address.
    #[error("cannot connect to {address}: {}", reason(error))]
    Unreachable {
        /// Address tried.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// The server refused the login.
    #[error("{0}")]
    Refused(ServerMessage),
    /// The server asks for credentials.
    #[error(
        "the server at {address} asks for {method}; this version logs in only to clusters started with --insecure"
    )]
    Authentication {
        /// Address of the server.
        address: String,
        /// What it asks for.
        method: &'static str,
    },
    /// What answers does not speak the protocol.
    #[error("the server at {address} does not speak the PostgreSQL protocol: {error}")]
    Protocol {
        /// Address of the server.
        address: String,
        /// What was wrong with its answer.
        error: io::Error,
    },
}

impl ConnectError {
    /// Whether the server said that it serves no SQL yet, such as before initialisation.
    #[must_use]
    pub(crate) fn is_not_ready(&self) -> bool {
        matches!(self, Self::Refused(message) if message.code == CANNOT_CONNECT_NOW)
    }
}

/// Text of an I/O error without the system's number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "the server closed the connection".to_owned()
        }
        _ => error.to_string(),
    }
}

/// State of the session's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TransactionState {
    /// No transaction block.
    #[default]
    Idle,
    /// Inside a transaction block.
    Open,
    /// Inside a transaction block that only ROLLBACK can end.
    Failed,
}

/// What a server says about the statement it runs.
#[derive(Debug)]
pub(crate) enum Event {
    /// A result set begins.
    Columns(Vec<Column>),
    /// A row of the current result set.
    Row(Vec<Cell>),
    /// A statement ended, with its command tag.
    Complete(String),
    /// The statement was empty.
    Empty,
    /// The statement failed.
    Error(ServerMessage),
    /// A notice, at any time.
    Notice(ServerMessage),
    /// Data of `COPY ... TO STDOUT`.
    CopyData(bytes::Bytes),
    /// The server waits for the next statement.
    Ready,
}

/// What cancels the statement running on a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CancelKey {
    address: SocketAddr,
    process_id: i32,
    secret_key: i32,
}

impl CancelKey {
    /// Asks the server to cancel; the answer arrives on the connection itself, if at all.
    ///
    /// # Errors
    ///
    /// When the request cannot be delivered.
    pub(crate) async fn cancel(self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let mut request = BytesMut::new();
        frontend::cancel_request(self.process_id, self.secret_key, &mut request);
        stream.write_all(&request).await?;
        // The server closes the stream once it has taken note.
        let mut rest = [0; 16];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

/// A session with a server.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    received: BytesMut,
    parameters: BTreeMap<String, String>,
    cancel_key: Option<CancelKey>,
    transaction: TransactionState,
    broken: bool,
}

impl Connection {
    /// Connects and logs in; gives also the notices sent meanwhile.
    ///
    /// # Errors
    ///
    /// When nothing answers, or the server refuses.
    pub(crate) async fn open(target: &Target) -> Result<(Self, Vec<ServerMessage>), ConnectError> {
        let address = target.address();
        let unreachable = |error| ConnectError::Unreachable { address: address.clone(), error };
        let stream =
            TcpStream::connect((target.host.as_str(), target.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let peer = stream.peer_addr().map_err(unreachable)?;
        let mut connection = Self {
            stream,
            received: BytesMut::with_capacity(16 * 1024),
            parameters: BTreeMap::new(),
            cancel_key: None,
            transaction: TransactionState::Idle,
            broken: false,
        };
        let notices = connection.log_in(target, peer).await?;
        Ok((connection, notices))
    }

    async fn log_in(
        &mut self,
        target: &Target,
        peer: SocketAddr,
    ) -> Result<Vec<ServerMessage>, ConnectError> {
        let protocol = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                ConnectError::Protocol { address: target.address(), error }
            }
            _ => ConnectError::Unreachable { address: target.address(), error },
        };
        let mut parameters = vec![
            ("user", target.user.as_str()),
            ("database", target.database.as_str()),
            ("application_name", target.application_name.as_str()),
            ("client_encoding", "UTF8"),
        ];
        if let Some(options) = &target.options {
            parameters.push(("options", options));
        }
        let mut startup = BytesMut::new();
        frontend::startup_message(parameters, &mut startup).map_err(protocol)?;
        self.stream.write_all(&startup).await.map_err(protocol)?;

        let mut notices = Vec::new();
        loop {
            let authentication =
                |method| Err(ConnectError::Authentication { address: target.address(), method });
            match self.receive().await.map_err(protocol)? {
                Message::AuthenticationOk => {}
                Message::AuthenticationCleartextPassword
                | Message::AuthenticationMd5Password(_)
                | Message::AuthenticationSasl(_) => return authentication("a password"),
                Message::AuthenticationGss
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationSspi
                | Message::AuthenticationScmCredential => {
                    return authentication("an authentication method the shell does not know");
                }
                Message::BackendKeyData(body) => {
                    self.cancel_key = Some(CancelKey {
                        address: peer,
                        process_id: body.process_id(),
                        secret_key: body.secret_key(),
                    });
                }
                Message::ParameterStatus(body) => self.set_parameter(&body).map_err(protocol)?,
                Message::NoticeResponse(body) => {
                    notices.push(ServerMessage::read(body.fields()).map_err(protocol)?);
                }
                Message::ErrorResponse(body) => {
                    let message = ServerMessage::read(body.fields()).map_err(protocol)?;
                    return Err(ConnectError::Refused(message));
                }
                Message::ReadyForQuery(body) => {
                    self.transaction = transaction_state(body.status());
                    return Ok(notices);
                }
                _ => return Err(protocol(unexpected("login"))),
            }
        }
    }

    /// Sends a statement; its answers come from [`Self::next`] up to [`Event::Ready`].
    ///
    /// # Errors
    ///
    /// When the connection is lost or the text holds a zero byte.
    pub(crate) async fn send(&mut self, statement: &str) -> io::Result<()> {
        self.check()?;
        let mut message = BytesMut::new();
        frontend::query(statement, &mut message)?;
        let sent = self.stream.write_all(&message).await;
        self.broken |= sent.is_err();
        sent
    }

    /// Waits for what the server says next.
    ///
    /// # Errors
    ///
    /// When the connection is lost or the server breaks the protocol.
    pub(crate) async fn next(&mut self) -> io::Result<Event> {
        self.check()?;
        let event = self.next_event().await;
        self.broken |= event.is_err();
        event
    }

    async fn next_event(&mut self) -> io::Result<Event> {
        loop {
            return Ok(match self.receive().await? {
                Message::RowDescription(body) => Event::Columns(read_columns(&body)?),
                Message::DataRow(body) => Event::Row(read_cells(&body)?),
                Message::CommandComplete(body) => Event::Complete(body.tag()?.to_owned()),
                Message::EmptyQueryResponse => Event::Empty,
                Message::ErrorResponse(body) => Event::Error(ServerMessage::read(body.fields())?),
                Message::NoticeResponse(body) => Event::Notice(ServerMessage::read(body.fields())?),
                Message::CopyData(body) => Event::CopyData(body.into_bytes()),
                Message::CopyInResponse(_) => {
                    self.refuse_copy().await?;
                    continue;
                }
                Message::ParameterStatus(body) => {
                    self.set_parameter(&body)?;
                    continue;
                }
                Message::CopyOutResponse(_)
                | Message::CopyDone
                | Message::NotificationResponse(_) => continue,
                Message::ReadyForQuery(body) => {
                    self.transaction = transaction_state(body.status());
                    Event::Ready
                }
                _ => return Err(unexpected("query")),
            });
        }
    }

    /// What cancels the running statement, if the server gave a key.
    #[must_use]
    pub(crate) fn cancel_key(&self) -> Option<CancelKey> {
        self.cancel_key
    }

    /// State of the transaction after the last statement.
    #[must_use]
    pub(crate) fn transaction(&self) -> TransactionState {
        self.transaction
    }

    /// A parameter the server reported, such as `server_version`.
    #[must_use]
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Whether the connection can still be used.
    #[must_use]
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Makes the connection unusable, for when an answer is still due that nobody waits for.
    pub(crate) fn abandon(&mut self) {
        self.broken = true;
    }

    /// Says goodbye to the server.
    pub(crate) async fn close(mut self) {
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        // The server may be gone already, which is as good as having said goodbye.
        if self.stream.write_all(&message).await.is_ok() {
            self.stream.shutdown().await.unwrap_or_default();
        }
    }

    /// Answers `COPY ... FROM STDIN`, which the shell cannot feed.
    async fn refuse_copy(&mut self) -> io::Result<()> {
        let mut message = BytesMut::new();
        frontend::copy_fail("this shell does not support COPY FROM STDIN", &mut message)?;
        self.stream.write_all(&message).await
    }

    fn check(&self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection is lost"));
        }
        Ok(())
    }

    fn set_parameter(&mut self, body: &backend::ParameterStatusBody) -> io::Result<()> {
        self.parameters.insert(body.name()?.to_owned(), body.value()?.to_owned());
        Ok(())
    }

    async fn receive(&mut self) -> io::Result<Message> {
        loop {
            if let Some(header) = backend::Header::parse(&self.received)?
                && header.len() > MESSAGE_BYTES_MAX
            {
                let text = format!("a message of {} bytes is announced", header.len());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            if let Some(message) = Message::parse(&mut self.received)? {
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                let text = "the server closed the connection";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
    }
}

fn transaction_state(status: u8) -> TransactionState {
    match status {
        b'T' => TransactionState::Open,
        b'E' => TransactionState::Failed,
        _ => TransactionState::Idle,
    }
}

fn unexpected(place: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected message during {place}"))
}

fn read_columns(body: &backend::RowDescriptionBody) -> io::Result<Vec<Column>> {
    use fallible_iterator::FallibleIterator as _;
    body.fields().map(|field| Ok(Column::of_type(field.name(), field.type_oid()))).collect()
}

fn read_cells(body: &DataRowBody) -> io::Result<Vec<Cell>> {
    use fallible_iterator::FallibleIterator as _;
    let buffer = body.buffer();
    body.ranges()
        .map(|range| match range {
            None => Ok(None),
            Some(range) => match buffer.get(range) {
                Some(bytes) => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
                None => Err(io::Error::new(io::ErrorKind::InvalidData, "a cell exceeds its row")),
            },
        })
        .collect()
}
