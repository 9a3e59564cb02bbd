//! The answers of a connection, gathered in one buffer.

use bytes::{BufMut, BytesMut};
use crdb_sql::{Column, Datum, FormatSettings};
use pgwire::messages::data::{FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{
    BindComplete, CloseComplete, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery,
    TransactionStatus,
};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey,
};

/// Text or binary, per column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Formats {
    /// All columns as text.
    #[default]
    Text,
    /// All columns binary.
    Binary,
    /// One each; true is binary.
    Each(Vec<bool>),
}

impl Formats {
    /// Whether a column is sent in binary.
    pub(crate) fn is_binary(&self, column: usize) -> bool {
        match self {
            Formats::Text => false,
            Formats::Binary => true,
            Formats::Each(each) => each.get(column).copied().unwrap_or(false),
        }
    }
}

/// An answer that cannot be put on the wire.
#[derive(Debug, thiserror::Error)]
#[error("an answer does not fit the protocol: {0}")]
pub(crate) struct TooLarge(String);

/// Gathers answers.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) buffer: BytesMut,
    /// The first answer that did not fit.
    failed: Option<TooLarge>,
    text: String,
    binary: Vec<u8>,
}

impl Output {
    /// Fails if an answer did not fit.
    pub(crate) fn check(&mut self) -> Result<(), TooLarge> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn put(&mut self, message: &impl pgwire::messages::Message) {
        let before = self.buffer.len();
        if let Err(error) = message.encode(&mut self.buffer) {
            self.buffer.truncate(before);
            self.failed.get_or_insert(TooLarge(error.to_string()));
        }
    }

    pub(crate) fn negotiate(&mut self, minor: u16, refused: Vec<String>) {
        let version = 3 << 16 | i32::from(minor);
        self.put(&NegotiateProtocolVersion::new(version, refused));
    }

    pub(crate) fn authentication_ok(&mut self) {
        self.put(&Authentication::Ok);
    }

    pub(crate) fn parameter(&mut self, name: &str, value: &str) {
        self.put(&ParameterStatus::new(name.to_owned(), value.to_owned()));
    }

    pub(crate) fn key(&mut self, pid: i32, key: SecretKey) {
        self.put(&BackendKeyData::new(pid, key));
    }

    pub(crate) fn ready(&mut self, status: crdb_sql::TransactionStatus) {
        self.put(&ReadyForQuery::new(match status {
            crdb_sql::TransactionStatus::Idle => TransactionStatus::Idle,
            crdb_sql::TransactionStatus::Open => TransactionStatus::Transaction,
            crdb_sql::TransactionStatus::Failed => TransactionStatus::Error,
        }));
    }

    pub(crate) fn error(&mut self, fields: Vec<(u8, String)>) {
        self.put(&ErrorResponse::new(fields));
    }

    pub(crate) fn notice(&mut self, fields: Vec<(u8, String)>) {
        self.put(&NoticeResponse::new(fields));
    }

    pub(crate) fn complete(&mut self, tag: &str) {
        self.put(&CommandComplete::new(tag.to_owned()));
    }

    /// COPY data may come, as text in so many columns.
    pub(crate) fn copy_in(&mut self, columns: usize) {
        self.copy_response(b'G', columns);
    }

    /// COPY data follows, as text in so many columns.
    pub(crate) fn copy_out(&mut self, columns: usize) {
        self.copy_response(b'H', columns);
    }

    fn copy_response(&mut self, kind: u8, columns: usize) {
        let Ok(count) = i16::try_from(columns) else {
            self.failed.get_or_insert(TooLarge(format!("{columns} columns")));
            return;
        };
        self.buffer.put_u8(kind);
        self.buffer.put_i32(4 + 1 + 2 + 2 * i32::from(count));
        self.buffer.put_u8(0);
        self.buffer.put_i16(count);
        self.buffer.put_bytes(0, 2 * columns);
    }

    pub(crate) fn copy_data(&mut self, line: &[u8]) {
        match i32::try_from(line.len() + 4) {
            Ok(length) => {
                self.buffer.put_u8(b'd');
                self.buffer.put_i32(length);
                self.buffer.put_slice(line);
            }
            Err(_) => drop(self.failed.get_or_insert(TooLarge("a line of COPY".to_owned()))),
        }
    }

    pub(crate) fn copy_done(&mut self) {
        self.buffer.put_u8(b'c');
        self.buffer.put_i32(4);
    }

    pub(crate) fn empty_query(&mut self) {
        self.put(&EmptyQueryResponse::new());
    }

    pub(crate) fn parse_complete(&mut self) {
        self.put(&ParseComplete::new());
    }

    pub(crate) fn bind_complete(&mut self) {
        self.put(&BindComplete::new());
    }

    pub(crate) fn close_complete(&mut self) {
        self.put(&CloseComplete::new());
    }

    pub(crate) fn portal_suspended(&mut self) {
        self.put(&PortalSuspended::new());
    }

    pub(crate) fn no_data(&mut self) {
        self.put(&NoData::new());
    }

    pub(crate) fn parameter_types(&mut self, oids: Vec<u32>) {
        self.put(&ParameterDescription::new(oids));
    }

    pub(crate) fn row_description(&mut self, columns: &[Column], formats: &Formats) {
        let fields = columns.iter().enumerate().map(|(at, column)| {
            FieldDescription::new(
                column.name.clone(),
                column.table_oid.cast_signed(),
                column.attribute,
                column.ty.oid(),
                column.ty.typlen(),
                column.typmod,
                i16::from(formats.is_binary(at)),
            )
        });
        self.put(&RowDescription::new(fields.collect()));
    }

    /// One row, encoded straight into the buffer.
    pub(crate) fn row(
        &mut self,
        columns: &[Column],
        row: &[Datum],
        formats: &Formats,
        settings: &FormatSettings,
    ) {
        let start = self.buffer.len();
        self.buffer.put_u8(b'D');
        self.buffer.put_u32(0);
        self.buffer.put_u16(u16::try_from(row.len()).unwrap_or(u16::MAX));
        let mut fits = u16::try_from(row.len()).is_ok() && row.len() == columns.len();
        for (at, (datum, column)) in row.iter().zip(columns).enumerate() {
            if datum.is_null() {
                self.buffer.put_i32(-1);
                continue;
            }
            let bytes: &[u8] = if formats.is_binary(at) {
                self.binary.clear();
                datum.encode_binary(column.ty, &mut self.binary);
                &self.binary
            } else {
                self.text.clear();
                datum.encode_text(column.ty, settings, &mut self.text);
                self.text.as_bytes()
            };
            match i32::try_from(bytes.len()) {
                Ok(length) => self.buffer.put_i32(length),
                Err(_) => fits = false,
            }
            self.buffer.put_slice(bytes);
        }
        match i32::try_from(self.buffer.len() - start - 1) {
            Ok(length) if fits => {
                if let Some(place) = self.buffer.get_mut(start + 1..start + 5) {
                    place.copy_from_slice(&length.to_be_bytes());
                }
            }
            _ => {
                self.buffer.truncate(start);
                self.failed.get_or_insert(TooLarge("a row".to_owned()));
            }
        }
    }
}
