//! The types of SQL values: their PostgreSQL OIDs, names, categories and modifiers.

use std::fmt;

/// PostgreSQL's grouping of types, used to choose operators and functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Literals whose type is not known yet.
    Unknown,
    /// Booleans.
    Boolean,
    /// Numbers.
    Numeric,
    /// Character strings.
    String,
    /// Dates and times.
    DateTime,
    /// Intervals.
    Timespan,
    /// Arrays.
    Array,
    /// Everything else.
    User,
}

/// The type of an expression or column, without its modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SqlType {
    /// A literal or parameter whose type is not known yet; travels as text.
    Unknown,
    /// `bool`.
    Bool,
    /// `int2`.
    Int2,
    /// `int4`.
    Int4,
    /// `int8`, which INT means.
    Int8,
    /// `float4`.
    Float4,
    /// `float8`.
    Float8,
    /// `numeric` of any size.
    Numeric,
    /// `text`, which STRING means.
    Text,
    /// `varchar`.
    Varchar,
    /// `char(n)`.
    Bpchar,
    /// `name`.
    Name,
    /// `"char"`, one byte.
    QChar,
    /// `bytea`.
    Bytea,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`.
    Timestamp,
    /// `timestamptz`.
    TimestampTz,
    /// `interval`.
    Interval,
    /// `uuid`.
    Uuid,
    /// `jsonb`, which JSON means.
    Jsonb,
    /// `oid`.
    Oid,
    /// `regclass`.
    Regclass,
    /// `regtype`.
    Regtype,
    /// `regnamespace`.
    Regnamespace,
    /// No value.
    Void,
    /// A one-dimensional array.
    Array(&'static SqlType),
}

macro_rules! type_table {
    ($(($variant:ident, $oid:literal, $array_oid:literal, $len:literal, $name:literal, $crdb:literal, $cat:ident, $fmt:literal);)*) => {
        const SCALARS: &[SqlType] = &[$(SqlType::$variant),*];

        impl SqlType {
            /// PostgreSQL's object id of the type.
            #[must_use]
            pub fn oid(self) -> u32 {
                match self {
                    $(Self::$variant => $oid,)*
                    Self::Array(elem) => elem.array_oid(),
                }
            }

            /// Object id of the array over this type; 0 for none.
            #[must_use]
            pub fn array_oid(self) -> u32 {
                match self {
                    $(Self::$variant => $array_oid,)*
                    Self::Array(_) => 0,
                }
            }

            /// Width in bytes as `pg_type.typlen` has it; -1 for variable.
            #[must_use]
            pub fn typlen(self) -> i16 {
                match self {
                    $(Self::$variant => $len,)*
                    Self::Array(_) => -1,
                }
            }

            /// `pg_type.typname`.
            #[must_use]
            pub fn pg_name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Array(elem) => elem.pg_array_name(),
                }
            }

            /// `pg_type.typname` of the array over this type.
            #[must_use]
            pub fn pg_array_name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("_", $name),)*
                    Self::Array(elem) => elem.pg_array_name(),
                }
            }

            /// The name SHOW CREATE TABLE prints.
            #[must_use]
            pub fn crdb_name(self) -> String {
                match self {
                    $(Self::$variant => $crdb.to_owned(),)*
                    Self::Array(elem) => format!("{}[]", elem.crdb_name()),
                }
            }

            /// The category that operator resolution uses.
            #[must_use]
            pub fn category(self) -> Category {
                match self {
                    $(Self::$variant => Category::$cat,)*
                    Self::Array(_) => Category::Array,
                }
            }

            /// The name `format_type` and error messages use.
            #[must_use]
            pub fn format_name(self) -> String {
                match self {
                    $(Self::$variant => $fmt.to_owned(),)*
                    Self::Array(elem) => format!("{}[]", elem.format_name()),
                }
            }

            /// The array type over this one; none for arrays and pseudo-types.
            #[must_use]
            pub fn array_of(self) -> Option<Self> {
                match self {
                    $(Self::$variant if $array_oid != 0 => {
                        const ELEM: &SqlType = &SqlType::$variant;
                        Some(Self::Array(ELEM))
                    })*
                    _ => None,
                }
            }
        }
    };
}

type_table! {
    (Unknown, 705, 0, -2, "unknown", "UNKNOWN", Unknown, "unknown");
    (Bool, 16, 1000, 1, "bool", "BOOL", Boolean, "boolean");
    (Int2, 21, 1005, 2, "int2", "INT2", Numeric, "smallint");
    (Int4, 23, 1007, 4, "int4", "INT4", Numeric, "integer");
    (Int8, 20, 1016, 8, "int8", "INT8", Numeric, "bigint");
    (Float4, 700, 1021, 4, "float4", "FLOAT4", Numeric, "real");
    (Float8, 701, 1022, 8, "float8", "FLOAT8", Numeric, "double precision");
    (Numeric, 1700, 1231, -1, "numeric", "DECIMAL", Numeric, "numeric");
    (Text, 25, 1009, -1, "text", "STRING", String, "text");
    (Varchar, 1043, 1015, -1, "varchar", "VARCHAR", String, "character varying");
    (Bpchar, 1042, 1014, -1, "bpchar", "CHAR", String, "character");
    (Name, 19, 1003, 64, "name", "NAME", String, "name");
    (QChar, 18, 1002, 1, "char", "\"char\"", String, "\"char\"");
    (Bytea, 17, 1001, -1, "bytea", "BYTES", User, "bytea");
    (Date, 1082, 1182, 4, "date", "DATE", DateTime, "date");
    (Time, 1083, 1183, 8, "time", "TIME", DateTime, "time without time zone");
    (Timestamp, 1114, 1115, 8, "timestamp", "TIMESTAMP", DateTime, "timestamp without time zone");
    (TimestampTz, 1184, 1185, 8, "timestamptz", "TIMESTAMPTZ", DateTime, "timestamp with time zone");
    (Interval, 1186, 1187, 16, "interval", "INTERVAL", Timespan, "interval");
    (Uuid, 2950, 2951, 16, "uuid", "UUID", User, "uuid");
    (Jsonb, 3802, 3807, -1, "jsonb", "JSONB", User, "jsonb");
    (Oid, 26, 1028, 4, "oid", "OID", Numeric, "oid");
    (Regclass, 2205, 2210, 4, "regclass", "REGCLASS", Numeric, "regclass");
    (Regtype, 2206, 2211, 4, "regtype", "REGTYPE", Numeric, "regtype");
    (Regnamespace, 4089, 4090, 4, "regnamespace", "REGNAMESPACE", Numeric, "regnamespace");
    (Void, 2278, 0, 4, "void", "VOID", User, "void");
}

impl SqlType {
    /// The type with an object id; none for one this database does not have.
    #[must_use]
    pub fn from_oid(oid: u32) -> Option<Self> {
        match oid {
            0 => return None,
            114 => return Some(Self::Jsonb),
            199 => return Self::Jsonb.array_of(),
            _ => {}
        }
        SCALARS.iter().find_map(|ty| {
            if ty.oid() == oid {
                Some(*ty)
            } else if ty.array_oid() == oid {
                ty.array_of()
            } else {
                None
            }
        })
    }

    /// Every scalar type.
    pub(crate) fn scalars() -> &'static [Self] {
        SCALARS
    }

    /// The type a name of SQL or of `pg_type` means, lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some(elem) = name.strip_suffix("[]") {
            return Self::from_name(elem)?.array_of();
        }
        Some(match name {
            "bool" | "boolean" => Self::Bool,
            "int2" | "smallint" | "smallserial" | "serial2" => Self::Int2,
            "int4" | "serial4" => Self::Int4,
            "int" | "integer" | "int8" | "int64" | "bigint" | "serial" | "serial8"
            | "bigserial" => Self::Int8,
            "float4" | "real" => Self::Float4,
            "float" | "float8" | "double precision" | "double" => Self::Float8,
            "numeric" | "decimal" | "dec" => Self::Numeric,
            "text" | "string" => Self::Text,
            "varchar" | "character varying" => Self::Varchar,
            "bpchar" | "char" | "character" => Self::Bpchar,
            "name" => Self::Name,
            "\"char\"" => Self::QChar,
            "bytea" | "bytes" | "blob" => Self::Bytea,
            "date" => Self::Date,
            "time" | "time without time zone" => Self::Time,
            "timestamp" | "timestamp without time zone" => Self::Timestamp,
            "timestamptz" | "timestamp with time zone" => Self::TimestampTz,
            "interval" => Self::Interval,
            "uuid" => Self::Uuid,
            "jsonb" | "json" => Self::Jsonb,
            "oid" => Self::Oid,
            "regclass" => Self::Regclass,
            "regtype" => Self::Regtype,
            "regnamespace" => Self::Regnamespace,
            "unknown" => Self::Unknown,
            "void" => Self::Void,
            other => return other.strip_prefix('_').and_then(Self::from_name)?.array_of(),
        })
    }

    /// Whether values are integers held in 64 bits.
    #[must_use]
    pub fn is_int(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8)
    }

    /// Whether values are binary floating point numbers.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::Float4 | Self::Float8)
    }

    /// Whether values are integers, floats or numerics.
    #[must_use]
    pub fn is_number(self) -> bool {
        self.is_int() || self.is_float() || self == Self::Numeric
    }

    /// Whether values are character strings.
    #[must_use]
    pub fn is_string(self) -> bool {
        self.category() == Category::String
    }

    /// Whether values are object ids, shown plain or by name.
    #[must_use]
    pub fn is_oid(self) -> bool {
        matches!(self, Self::Oid | Self::Regclass | Self::Regtype | Self::Regnamespace)
    }

    /// Whether the category prefers this type when a choice is open.
    #[must_use]
    pub fn is_preferred(self) -> bool {
        matches!(
            self,
            Self::Bool | Self::Float8 | Self::Oid | Self::Text | Self::TimestampTz | Self::Interval
        )
    }
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format_name())
    }
}

/// A type with its modifier, as a column or a cast has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeSpec {
    /// The type.
    pub ty: SqlType,
    /// PostgreSQL's modifier: length + 4, or precision and scale of a numeric; -1 for none.
    pub typmod: i32,
}

impl TypeSpec {
    /// A type without a modifier.
    #[must_use]
    pub const fn plain(ty: SqlType) -> Self {
        Self { ty, typmod: -1 }
    }

    /// `varchar(n)` or `char(n)`.
    #[must_use]
    pub const fn with_length(ty: SqlType, length: i32) -> Self {
        Self { ty, typmod: length + 4 }
    }

    /// `numeric(precision, scale)`.
    #[must_use]
    pub const fn numeric(precision: i32, scale: i32) -> Self {
        Self { ty: SqlType::Numeric, typmod: ((precision << 16) | scale) + 4 }
    }

    /// The most characters a string of this type has.
    #[must_use]
    pub fn max_chars(self) -> Option<usize> {
        (self.ty.is_string() && self.typmod >= 4).then(|| usize::try_from(self.typmod - 4).ok())?
    }

    /// Precision and scale of a numeric.
    #[must_use]
    pub fn precision_scale(self) -> Option<(i32, i32)> {
        (self.ty == SqlType::Numeric && self.typmod >= 4)
            .then(|| (((self.typmod - 4) >> 16) & 0xffff, (self.typmod - 4) & 0xffff))
    }

    fn with_modifier(self, base: String) -> String {
        if let Some(chars) = self.max_chars() {
            format!("{base}({chars})")
        } else if let Some((precision, scale)) = self.precision_scale() {
            if scale == 0 {
                format!("{base}({precision})")
            } else {
                format!("{base}({precision},{scale})")
            }
        } else {
            base
        }
    }

    /// The name SHOW CREATE TABLE prints.
    #[must_use]
    pub fn crdb_name(self) -> String {
        // A text type with a length is printed as STRING(n).
        self.with_modifier(self.ty.crdb_name())
    }

    /// The name `format_type` prints.
    #[must_use]
    pub fn format_name(self) -> String {
        if let Some((precision, scale)) = self.precision_scale() {
            return format!("numeric({precision},{scale})");
        }
        self.with_modifier(self.ty.format_name())
    }
}
