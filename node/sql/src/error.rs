//! Errors as clients see them: SQLSTATE, message and the optional fields of an error response.

use std::fmt;

/// A five-character SQLSTATE.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

impl SqlState {
    /// The five characters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

macro_rules! states {
    ($($name:ident = $code:literal, $doc:literal;)*) => {
        impl SqlState {
            $(#[doc = $doc] pub const $name: Self = Self($code);)*
        }
    };
}

states! {
    CONNECTION_DOES_NOT_EXIST = "08003", "The connection no longer serves statements.";
    FEATURE_NOT_SUPPORTED = "0A000", "The statement is understood but not served.";
    CARDINALITY = "21000", "More rows than the place allows.";
    STRING_TRUNCATION = "22001", "A value is longer than its column.";
    NUMERIC_OUT_OF_RANGE = "22003", "A number does not fit its type.";
    NULL_NOT_ALLOWED = "22004", "NULL where a value is needed.";
    DATETIME_OVERFLOW = "22008", "A date or time is outside its range.";
    DIVISION_BY_ZERO = "22012", "Division by zero.";
    INVALID_ESCAPE = "22025", "An escape sequence is wrong.";
    INVALID_PARAMETER_VALUE = "22023", "An argument or setting has a value that is not allowed.";
    INVALID_REGEX = "2201B", "A regular expression does not parse.";
    INVALID_LIMIT = "2201W", "LIMIT is negative.";
    INVALID_OFFSET = "2201X", "OFFSET is negative.";
    NEGATIVE_SUBSTRING = "22011", "The length of a substring is negative.";
    LOG_ARGUMENT = "2201E", "The argument of a logarithm is not positive.";
    WIDTH_BUCKET_ARGUMENT = "2201G", "The arguments of width_bucket name no buckets.";
    POWER_ARGUMENT = "2201F", "The arguments of a power have no real result.";
    ARRAY_SUBSCRIPT = "2202E", "An array subscript is wrong.";
    INVALID_TEXT = "22P02", "Text is not a literal of its type.";
    INVALID_BINARY = "22P03", "Bytes are not a binary value of their type.";
    INVALID_DATETIME = "22007", "Text is not a date or time.";
    INVALID_BYTE_SEQUENCE = "22021", "Text is not valid UTF-8.";
    NOT_NULL_VIOLATION = "23502", "NULL in a NOT NULL column.";
    UNIQUE_VIOLATION = "23505", "A key exists already.";
    INVALID_TRANSACTION_STATE = "25000", "The statement does not fit the transaction's state.";
    NO_ACTIVE_TRANSACTION = "25P01", "No transaction is open.";
    ACTIVE_TRANSACTION = "25001", "A transaction is open already.";
    READ_ONLY_TRANSACTION = "25006", "The transaction may not write.";
    FAILED_TRANSACTION = "25P02", "The transaction has failed.";
    INVALID_SAVEPOINT = "3B001", "No such savepoint.";
    INVALID_STATEMENT_NAME = "26000", "No such prepared statement.";
    INVALID_CATALOG_NAME = "3D000", "No such database.";
    INVALID_SCHEMA_NAME = "3F000", "No such schema.";
    SERIALIZATION_FAILURE = "40001", "The statement met a concurrent change; repeat it.";
    COMPLETION_UNKNOWN = "40003", "It is unknown whether the statement took effect.";
    SYNTAX_ERROR = "42601", "The statement does not parse.";
    INSUFFICIENT_PRIVILEGE = "42501", "The user may not do this.";
    CANNOT_COERCE = "42846", "No cast between the types.";
    GROUPING_ERROR = "42803", "A column is neither grouped nor aggregated.";
    WINDOWING_ERROR = "42P20", "A window function is misplaced.";
    INVALID_NAME = "42602", "A name is malformed.";
    NAME_TOO_LONG = "42622", "A name is too long.";
    DATATYPE_MISMATCH = "42804", "An expression has the wrong type.";
    UNDEFINED_COLUMN = "42703", "No such column.";
    AMBIGUOUS_COLUMN = "42702", "A column name is ambiguous.";
    UNDEFINED_FUNCTION = "42883", "No such function or operator.";
    AMBIGUOUS_FUNCTION = "42725", "A function call is ambiguous.";
    UNDEFINED_TABLE = "42P01", "No such table.";
    UNDEFINED_PARAMETER = "42P02", "No such parameter.";
    UNDEFINED_OBJECT = "42704", "No such type, setting or other object.";
    DUPLICATE_COLUMN = "42701", "A column is named twice.";
    DUPLICATE_DATABASE = "42P04", "The database exists already.";
    DUPLICATE_TABLE = "42P07", "The table exists already.";
    DUPLICATE_ALIAS = "42712", "A table name is given twice.";
    DUPLICATE_OBJECT = "42710", "The object exists already.";
    INVALID_COLUMN_REFERENCE = "42P10", "A column reference is not possible here.";
    AMBIGUOUS_PARAMETER = "42P08", "A parameter would have two types.";
    INDETERMINATE_DATATYPE = "42P18", "The type of a parameter cannot be told.";
    INVALID_TABLE_DEFINITION = "42P16", "The table definition is wrong.";
    WRONG_OBJECT_TYPE = "42809", "The object is of another kind.";
    OUT_OF_MEMORY = "53200", "The statement needs more memory than it may use.";
    DISK_FULL = "53100", "The store is full.";
    PROGRAM_LIMIT = "54000", "A bound of the program was reached.";
    STATEMENT_TOO_COMPLEX = "54001", "The statement is too deeply nested.";
    TOO_MANY_COLUMNS = "54011", "Too many columns.";
    OBJECT_NOT_IN_STATE = "55000", "The object is not in a state for this.";
    LOCK_NOT_AVAILABLE = "55P03", "Waited too long for another operation.";
    QUERY_CANCELED = "57014", "Canceled by the user or by statement_timeout.";
    ADMIN_SHUTDOWN = "57P01", "The node is shutting down.";
    CANNOT_CONNECT_NOW = "57P03", "The node cannot serve now.";
    SYSTEM_ERROR = "58000", "Another node cannot be asked.";
    INTERNAL = "XX000", "A defect of the program.";
    DATA_CORRUPTED = "XX001", "Stored data does not decode.";
}

/// The optional fields of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields {
    /// More about the cause.
    pub detail: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// Character position in the statement, from 1.
    pub position: Option<u32>,
    /// Table the error is about.
    pub table: Option<String>,
    /// Column the error is about.
    pub column: Option<String>,
    /// Constraint the error is about.
    pub constraint: Option<String>,
    /// Where in what the statement was doing.
    pub context: Option<String>,
}

/// An error of a statement.
#[derive(Clone, PartialEq, Eq)]
pub struct SqlError {
    /// SQLSTATE.
    pub code: SqlState,
    /// What happened.
    pub message: String,
    fields: Option<Box<ErrorFields>>,
}

/// Result of anything a statement does.
pub type Result<T> = std::result::Result<T, SqlError>;

impl SqlError {
    /// An error with a code and a message.
    pub fn new(code: SqlState, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), fields: None }
    }

    /// A defect: something that the program holds to be impossible.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(SqlState::INTERNAL, format!("internal error: {}", message.into()))
            .with_hint("This is a defect of the database; please report the statement.")
    }

    /// A feature that is understood but not served, named.
    #[must_use]
    pub fn unsupported(feature: impl fmt::Display) -> Self {
        Self::new(SqlState::FEATURE_NOT_SUPPORTED, format!("unimplemented: {feature}"))
    }

    /// A statement that does not parse or has a wrong shape.
    pub fn syntax(message: impl Into<String>) -> Self {
        Self::new(SqlState::SYNTAX_ERROR, message)
    }

    /// The fields set so far.
    #[must_use]
    pub fn fields(&self) -> ErrorFields {
        self.fields.as_deref().cloned().unwrap_or_default()
    }

    fn fields_mut(&mut self) -> &mut ErrorFields {
        self.fields.get_or_insert_default()
    }

    /// Adds the detail field.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.fields_mut().detail = Some(detail.into());
        self
    }

    /// Adds the hint field.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.fields_mut().hint = Some(hint.into());
        self
    }

    /// Adds the position field, from 1; 0 means unknown.
    #[must_use]
    pub fn with_position(mut self, position: u32) -> Self {
        if position > 0 {
            self.fields_mut().position = Some(position);
        }
        self
    }

    /// Adds the table field.
    #[must_use]
    pub fn with_table(mut self, table: impl Into<String>) -> Self {
        self.fields_mut().table = Some(table.into());
        self
    }

    /// Adds the column field.
    #[must_use]
    pub fn with_column(mut self, column: impl Into<String>) -> Self {
        self.fields_mut().column = Some(column.into());
        self
    }

    /// Adds the constraint field.
    #[must_use]
    pub fn with_constraint(mut self, constraint: impl Into<String>) -> Self {
        self.fields_mut().constraint = Some(constraint.into());
        self
    }
}

impl SqlError {
    /// Adds the context field.
    #[must_use]
    pub fn with_context(mut self, context: impl Into<String>) -> Self {
        self.fields_mut().context = Some(context.into());
        self
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.message)?;
        match &self.fields {
            Some(fields) => write!(f, " {fields:?}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SqlError {}
