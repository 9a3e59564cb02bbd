//! Type names.

use sqlparser::ast as sp;

use super::{Converter, Result};
use crate::ast::{Ident, ObjectName, Pos, TypeModifiers, TypeName};

impl Converter<'_> {
    /// Converts a type name to its canonical spelling.
    pub(crate) fn type_name(&mut self, ty: sp::DataType) -> Result<TypeName> {
        let pos = self.last_pos;
        if let Some(ty) = simple_type(&ty) {
            let (name, modifiers) = ty;
            return Ok(plain(name, modifiers, pos));
        }
        match ty {
            sp::DataType::Custom(name, modifiers) => self.custom_type(name, &modifiers),
            sp::DataType::Array(element) => match element {
                sp::ArrayElemTypeDef::SquareBracket(element, _) => {
                    let mut element = self.deeper(|this| this.type_name(*element))?;
                    element.array_depth = element.array_depth.saturating_add(1);
                    Ok(element)
                }
                _ => self.syntax("ARRAY", Pos::UNKNOWN),
            },
            sp::DataType::GeometricType(kind) => self.unsupported(&format!("type {kind}")),
            other => {
                let name = other.to_string().to_lowercase();
                Ok(plain(&name, TypeModifiers::None, pos))
            }
        }
    }

    fn custom_type(&mut self, name: sp::ObjectName, modifiers: &[String]) -> Result<TypeName> {
        let mut name = self.object_name(name)?;
        let pos = name.pos();
        let builtin = match name.parts.as_slice() {
            [only] => Some(only),
            [schema, last] if schema.value == "pg_catalog" => Some(last),
            _ => None,
        };
        if let Some(ident) = builtin {
            let canonical = if ident.quoted { &ident.value } else { canonical(&ident.value) };
            let value = canonical.to_owned();
            let ident = Ident { value, quoted: ident.quoted, pos };
            name = ObjectName::unqualified(ident);
        }
        let modifiers = match modifiers {
            [] => TypeModifiers::None,
            [one] => match one.parse() {
                Ok(length) => TypeModifiers::Length(length),
                Err(_) => return self.syntax(one, pos),
            },
            [precision, scale] => match (precision.parse(), scale.parse()) {
                (Ok(precision), Ok(scale)) => TypeModifiers::Precision(precision, Some(scale)),
                _ => return self.syntax(precision, pos),
            },
            [_, _, third, ..] => return self.syntax(third, pos),
        };
        let modifiers = match (name.last().value.as_str(), modifiers) {
            ("timestamp" | "timestamptz" | "time" | "timetz", TypeModifiers::Length(digits)) => {
                TypeModifiers::FractionalSeconds(digits)
            }
            ("numeric", TypeModifiers::Length(precision)) => {
                TypeModifiers::Precision(precision, None)
            }
            (_, modifiers) => modifiers,
        };
        Ok(TypeName { name, modifiers, array_depth: 0, pos })
    }
}

fn plain(name: &str, modifiers: TypeModifiers, pos: Pos) -> TypeName {
    let quoted = name == "\"char\"";
    let value = if quoted { "char".to_owned() } else { name.to_owned() };
    TypeName {
        name: ObjectName::unqualified(Ident { value, quoted, pos }),
        modifiers,
        array_depth: 0,
        pos,
    }
}

/// The canonical name of a type that the library leaves to the user.
fn canonical(name: &str) -> &str {
    match name {
        "string" => "text",
        "bytes" | "blob" => "bytea",
        "serial4" => "serial4",
        "bigserial" | "serial8" => "serial8",
        "smallserial" | "serial2" => "serial2",
        "decimal" | "dec" => "numeric",
        "timestamptz" => "timestamptz",
        "int64" => "int8",
        "boolean" => "bool",
        "json" => "json",
        other => other,
    }
}

/// The canonical name and modifiers of a type the library knows by itself.
fn simple_type(ty: &sp::DataType) -> Option<(&'static str, TypeModifiers)> {
    use sp::DataType as T;
    let none = TypeModifiers::None;
    Some(match ty {
        T::Bool | T::Boolean => ("bool", none),
        T::Int(None) | T::Integer(None) => ("int", none),
        T::Int2(None) | T::SmallInt(None) => ("int2", none),
        T::Int4(None) => ("int4", none),
        T::Int8(None) | T::BigInt(None) | T::Int64 => ("int8", none),
        T::Real | T::Float4 => ("float4", none),
        T::Float8 | T::Double(sp::ExactNumberInfo::None) | T::DoublePrecision => ("float8", none),
        T::Float(sp::ExactNumberInfo::None) => ("float8", none),
        T::Float(sp::ExactNumberInfo::Precision(digits)) => {
            (if *digits <= 24 { "float4" } else { "float8" }, none)
        }
        T::Numeric(info) | T::Decimal(info) | T::Dec(info) => ("numeric", precision(info)),
        T::Text => ("text", none),
        T::String(length) => ("text", length.map_or(none, TypeModifiers::Length)),
        T::Varchar(length) | T::CharacterVarying(length) | T::CharVarying(length) => {
            ("varchar", char_length(length.as_ref())?)
        }
        T::Char(length) | T::Character(length) => match char_length(length.as_ref())? {
            TypeModifiers::None => ("bpchar", TypeModifiers::Length(1)),
            length => ("bpchar", length),
        },
        T::Bytea => ("bytea", none),
        T::Bytes(None) | T::Blob(None) => ("bytea", none),
        T::Uuid => ("uuid", none),
        T::JSON => ("json", none),
        T::JSONB => ("jsonb", none),
        T::Regclass => ("regclass", none),
        T::Date => ("date", none),
        T::Time(digits, zone) => (zoned(zone, "time", "timetz"), fraction(*digits)),
        T::Timestamp(digits, zone) => (zoned(zone, "timestamp", "timestamptz"), fraction(*digits)),
        T::Interval { fields: None, precision: None } => ("interval", none),
        T::Interval { fields: Some(fields), precision } => {
            let fields = fields.to_string().to_lowercase();
            ("interval", TypeModifiers::IntervalFields(fields, *precision))
        }
        T::Interval { fields: None, precision } => ("interval", fraction(*precision)),
        T::Bit(length) => ("bit", TypeModifiers::Length(length.unwrap_or(1))),
        T::BitVarying(length) | T::VarBit(length) => {
            ("varbit", length.map_or(none, TypeModifiers::Length))
        }
        T::TsVector => ("tsvector", none),
        T::TsQuery => ("tsquery", none),
        _ => return None,
    })
}

fn precision(info: &sp::ExactNumberInfo) -> TypeModifiers {
    match info {
        sp::ExactNumberInfo::None => TypeModifiers::None,
        sp::ExactNumberInfo::Precision(precision) => TypeModifiers::Precision(*precision, None),
        sp::ExactNumberInfo::PrecisionAndScale(precision, scale) => {
            TypeModifiers::Precision(*precision, Some(*scale))
        }
    }
}

fn char_length(length: Option<&sp::CharacterLength>) -> Option<TypeModifiers> {
    match length {
        None => Some(TypeModifiers::None),
        Some(sp::CharacterLength::IntegerLength { length, unit: None }) => {
            Some(TypeModifiers::Length(*length))
        }
        Some(_) => None,
    }
}

fn fraction(digits: Option<u64>) -> TypeModifiers {
    digits.map_or(TypeModifiers::None, TypeModifiers::FractionalSeconds)
}

fn zoned(zone: &sp::TimezoneInfo, without: &'static str, with: &'static str) -> &'static str {
    match zone {
        sp::TimezoneInfo::None | sp::TimezoneInfo::WithoutTimeZone => without,
        sp::TimezoneInfo::WithTimeZone | sp::TimezoneInfo::Tz => with,
    }
}
