//! Functions about the session, the catalog and the database itself; arrays; identifiers.

use md5::{Digest, Md5};

use super::system_names::PUBLIC;
use super::t::{BOOL, INT, OID, TEXT};
use super::{Arg, Builtin, Ret, array_at, bool_at, int_at, length, str_at};
use crate::catalog::CatalogData;
use crate::datum::Datum;
use crate::error::{Result, SqlError, SqlState};
use crate::expr::EvalCtx;
use crate::types::{SqlType as S, TypeSpec};

/// MD5 as lower-case hex.
pub(super) fn md5_hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    crate::datum::push_hex(&mut out, &Md5::digest(bytes));
    out
}

/// What `version()` says; drivers look for `PostgreSQL` and for `CockroachDB`.
pub(crate) fn version_text(build_tag: &str) -> String {
    format!("PostgreSQL 13.0.0 compatible CockroachDB-like crdb {build_tag}")
}

/// The id of a relation by name, in the current database.
pub(super) fn relation_oid(ctx: &EvalCtx<'_>, name: &str) -> Option<u32> {
    let catalog = ctx.info.format.catalog.as_ref()?;
    let parts: Vec<String> = name
        .split('.')
        .map(|p| match p.strip_prefix('"').and_then(|p| p.strip_suffix('"')) {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None => p.trim().to_lowercase(),
        })
        .collect();
    let (schema, relation) = match parts.as_slice() {
        [relation] => (None, relation),
        [schema, relation] | [_, schema, relation] => (Some(schema.as_str()), relation),
        _ => return None,
    };
    if schema.is_none_or(|s| s == PUBLIC) {
        let database = catalog.database(&ctx.info.database)?;
        if let Some(table) = catalog.table(database.id, relation) {
            return Some(table.oid());
        }
    }
    crate::vtable::oid_of(schema, relation)
}

/// The name of a relation by id.
pub(crate) fn relation_name(catalog: Option<&CatalogData>, oid: u32) -> Option<String> {
    let user = catalog.and_then(|c| c.table_by_id(u64::from(oid)));
    user.map(|t| crate::names::quote_ident(&t.name))
        .or_else(|| crate::vtable::name_of(oid).map(ToOwned::to_owned))
}

fn text(value: impl Into<std::sync::Arc<str>>) -> Result<Datum> {
    Ok(Datum::text(value))
}

fn format_type(args: &[Datum]) -> Result<Datum> {
    let Some(oid) = args.first().filter(|d| !d.is_null()) else { return Ok(Datum::Null) };
    let oid = u32::try_from(int_at(std::slice::from_ref(oid), 0)).unwrap_or(0);
    let typmod = match args.get(1) {
        Some(Datum::Int(v)) => i32::try_from(*v).unwrap_or(-1),
        _ => -1,
    };
    text(match S::from_oid(oid) {
        Some(ty) => TypeSpec { ty, typmod }.format_name(),
        None => "???".to_owned(),
    })
}

fn array_position(args: &[Datum]) -> Result<Datum> {
    let (Some(array), Some(wanted)) = (array_at(args, 0), args.get(1)) else {
        return Ok(Datum::Null);
    };
    Ok(array.items.iter().position(|i| i == wanted).map_or(Datum::Null, |p| length(p + 1)))
}

fn array_cat(args: &[Datum]) -> Result<Datum> {
    Ok(match (array_at(args, 0), array_at(args, 1)) {
        (Some(a), Some(b)) => {
            Datum::array(a.elem, a.items.iter().chain(&b.items).cloned().collect())
        }
        (Some(a), None) | (None, Some(a)) => Datum::Array(std::sync::Arc::clone(a)),
        (None, None) => Datum::Null,
    })
}

fn elem_of(value: &Datum) -> S {
    // An array that is built from one value; the resolver has made the types agree.
    match value {
        Datum::Bool(_) => S::Bool,
        Datum::Int(_) => S::Int8,
        Datum::Float(_) => S::Float8,
        Datum::Decimal(_) => S::Numeric,
        Datum::Bytes(_) => S::Bytea,
        Datum::Date(_) => S::Date,
        Datum::Time(_) => S::Time,
        Datum::Timestamp(_) => S::Timestamp,
        Datum::TimestampTz(_) => S::TimestampTz,
        Datum::Interval(_) => S::Interval,
        Datum::Uuid(_) => S::Uuid,
        Datum::Json(_) => S::Jsonb,
        Datum::Oid(_) => S::Oid,
        Datum::Null | Datum::Text(_) | Datum::Array(_) => S::Text,
    }
}

fn array_append(array: Option<&Datum>, item: Option<&Datum>, front: bool) -> Datum {
    let item = item.cloned().unwrap_or_default();
    match array {
        Some(Datum::Array(a)) => {
            let mut items = a.items.clone();
            if front {
                items.insert(0, item)
            } else {
                items.push(item)
            }
            Datum::array(a.elem, items)
        }
        _ => Datum::array(elem_of(&item), vec![item]),
    }
}

fn oid_at(args: &[Datum]) -> u32 {
    u32::try_from(int_at(args, 0)).unwrap_or(0)
}

/// The definition of an index, or of one of its columns.
fn index_text(ctx: &EvalCtx<'_>, args: &[Datum]) -> Datum {
    let Some(table) = crate::vtable::indexed_table(ctx.info, oid_at(args)) else {
        return Datum::Null;
    };
    match usize::try_from(int_at(args, 1)) {
        Ok(number @ 1..) => {
            let column = table.key.get(number - 1).and_then(|k| table.columns.get(k.column));
            column.map_or(Datum::Null, |c| Datum::text(crate::names::quote_ident(&c.name)))
        }
        _ => Datum::text(crate::vtable::index_definition(&ctx.info.database, &table)),
    }
}

/// The definition of a constraint, of which there are only primary keys.
fn constraint_text(ctx: &EvalCtx<'_>, args: &[Datum]) -> Datum {
    match crate::vtable::indexed_table(ctx.info, oid_at(args)) {
        Some(table) => Datum::text(format!("PRIMARY KEY ({})", crate::session::key_list(&table))),
        None => Datum::Null,
    }
}

fn current_setting(ctx: &EvalCtx<'_>, args: &[Datum]) -> Result<Datum> {
    let name = str_at(args, 0).to_ascii_lowercase();
    match ctx.info.variable(&name) {
        Ok(value) => text(value),
        Err(_) if args.len() > 1 && bool_at(args, 1) => Ok(Datum::Null),
        Err(error) => Err(error),
    }
}

fn schemas(ctx: &EvalCtx<'_>, implicit: bool) -> Datum {
    let mut names: Vec<&str> = ctx.info.search_path().filter(|s| *s == PUBLIC).collect();
    if implicit {
        names.insert(0, "pg_catalog");
    }
    Datum::array(S::Name, names.into_iter().map(Datum::text).collect())
}

const ARR: Arg = Arg::Arr;
const ELEM: Arg = Arg::Elem;

pub(super) const TABLE: &[Builtin] = &[
    Builtin::new("version", &[], S::Text, |c, _| text(version_text(&c.info.node.build_tag)))
        .stable(),
    Builtin::new("current_database", &[], S::Name, |c, _| text(c.info.database.as_str())).stable(),
    Builtin::new("current_catalog", &[], S::Name, |c, _| text(c.info.database.as_str())).stable(),
    Builtin::new("current_schema", &[], S::Name, |c, _| {
        Ok(c.info.search_path().find(|s| *s == PUBLIC).map_or(Datum::Null, Datum::text))
    })
    .stable(),
    Builtin::new("current_schemas", &[BOOL], S::Name, |c, a| Ok(schemas(c, bool_at(a, 0))))
        .returns(Ret::T(S::Array(&S::Name)))
        .stable(),
    Builtin::new("current_user", &[], S::Name, |c, _| text(c.info.user.as_str())).stable(),
    Builtin::new("session_user", &[], S::Name, |c, _| text(c.info.user.as_str())).stable(),
    Builtin::new("current_role", &[], S::Name, |c, _| text(c.info.user.as_str())).stable(),
    Builtin::new("user", &[], S::Name, |c, _| text(c.info.user.as_str())).stable(),
    Builtin::new("current_setting", &[TEXT], S::Text, current_setting).stable(),
    Builtin::new("current_setting", &[TEXT, BOOL], S::Text, current_setting).stable(),
    Builtin::new("pg_backend_pid", &[], S::Int4, |c, _| {
        Ok(Datum::Int(i64::from(crate::session::backend_pid(c.info.session_id))))
    })
    .stable(),
    Builtin::new("gen_random_uuid", &[], S::Uuid, |c, _| {
        Ok(Datum::Uuid(c.info.node.random_uuid()))
    })
    .volatile(),
    Builtin::new("uuid_generate_v4", &[], S::Uuid, |c, _| {
        Ok(Datum::Uuid(c.info.node.random_uuid()))
    })
    .volatile(),
    Builtin::new("unique_rowid", &[], S::Int8, |c, _| Ok(Datum::Int(c.info.node.unique_row_id())))
        .volatile(),
    Builtin::new("crdb_internal.node_id", &[], S::Int8, |c, _| {
        Ok(Datum::Int(i64::from(c.info.node.node_id.get())))
    })
    .stable(),
    Builtin::new("crdb_internal.cluster_id", &[], S::Uuid, |c, _| {
        Datum::decode_text(S::Uuid, &c.info.node.cluster_id, &c.info.format)
    })
    .stable(),
    Builtin::new("format_type", &[OID, INT], S::Text, |_, a| format_type(a)).lenient(),
    Builtin::new("pg_get_userbyid", &[OID], S::Name, |_, _| text("root")),
    Builtin::new("pg_table_is_visible", &[OID], S::Bool, |_, _| Ok(Datum::Bool(true))),
    Builtin::new("pg_type_is_visible", &[OID], S::Bool, |_, _| Ok(Datum::Bool(true))),
    Builtin::new("pg_encoding_to_char", &[INT], S::Name, |_, a| {
        text(if int_at(a, 0) == 6 { "UTF8" } else { "" })
    }),
    Builtin::new("pg_is_in_recovery", &[], S::Bool, |_, _| Ok(Datum::Bool(false))),
    Builtin::new("obj_description", &[OID, TEXT], S::Text, |_, _| Ok(Datum::Null)),
    Builtin::new("col_description", &[OID, INT], S::Text, |_, _| Ok(Datum::Null)),
    Builtin::new("shobj_description", &[OID, TEXT], S::Text, |_, _| Ok(Datum::Null)),
    Builtin::new("pg_get_expr", &[TEXT, OID], S::Text, |_, a| text(str_at(a, 0))),
    Builtin::new("pg_get_expr", &[TEXT, OID, BOOL], S::Text, |_, a| text(str_at(a, 0))),
    Builtin::new("pg_get_indexdef", &[OID], S::Text, |c, a| Ok(index_text(c, a))).stable(),
    Builtin::new("pg_get_indexdef", &[OID, INT, BOOL], S::Text, |c, a| Ok(index_text(c, a)))
        .stable(),
    Builtin::new("pg_get_constraintdef", &[OID], S::Text, |c, a| Ok(constraint_text(c, a)))
        .stable(),
    Builtin::new("pg_get_constraintdef", &[OID, BOOL], S::Text, |c, a| Ok(constraint_text(c, a)))
        .stable(),
    // Nothing is replicated to subscribers.
    Builtin::new("pg_relation_is_publishable", &[Arg::T(S::Regclass)], S::Bool, |_, _| {
        Ok(Datum::Bool(false))
    })
    .stable(),
    Builtin::new("has_table_privilege", &[Arg::Any, TEXT], S::Bool, |_, _| Ok(Datum::Bool(true))),
    Builtin::new("has_schema_privilege", &[Arg::Any, TEXT], S::Bool, |_, _| Ok(Datum::Bool(true))),
    Builtin::new("has_database_privilege", &[Arg::Any, TEXT], S::Bool, |_, _| {
        Ok(Datum::Bool(true))
    }),
    Builtin::new("array_length", &[ARR, INT], S::Int8, |_, a| {
        Ok(match array_at(a, 0) {
            Some(array) if int_at(a, 1) == 1 && !array.items.is_empty() => {
                length(array.items.len())
            }
            _ => Datum::Null,
        })
    }),
    Builtin::new("cardinality", &[ARR], S::Int8, |_, a| {
        Ok(array_at(a, 0).map_or(Datum::Null, |array| length(array.items.len())))
    }),
    Builtin::new("array_upper", &[ARR, INT], S::Int8, |_, a| {
        Ok(match array_at(a, 0) {
            Some(array) if int_at(a, 1) == 1 && !array.items.is_empty() => {
                length(array.items.len())
            }
            _ => Datum::Null,
        })
    }),
    Builtin::new("array_lower", &[ARR, INT], S::Int8, |_, a| {
        Ok(match array_at(a, 0) {
            Some(array) if int_at(a, 1) == 1 && !array.items.is_empty() => Datum::Int(1),
            _ => Datum::Null,
        })
    }),
    Builtin::new("array_position", &[ARR, ELEM], S::Int8, |_, a| array_position(a)).lenient(),
    Builtin::new("array_append", &[ARR, ELEM], S::Text, |_, a| {
        Ok(array_append(a.first(), a.get(1), false))
    })
    .lenient()
    .returns(Ret::Arr),
    Builtin::new("array_prepend", &[ELEM, ARR], S::Text, |_, a| {
        Ok(array_append(a.get(1), a.first(), true))
    })
    .lenient()
    .returns(Ret::Arr),
    Builtin::new("array_cat", &[ARR, ARR], S::Text, |_, a| array_cat(a))
        .lenient()
        .returns(Ret::Arr),
    Builtin::new("array_remove", &[ARR, ELEM], S::Text, |_, a| {
        let (Some(array), Some(item)) = (array_at(a, 0), a.get(1)) else { return Ok(Datum::Null) };
        let kept = array.items.iter().filter(|i| *i != item).cloned().collect();
        Ok(Datum::array(array.elem, kept))
    })
    .lenient()
    .returns(Ret::Arr),
    Builtin::new("pg_sleep", &[super::t::FLOAT], S::Void, |_, _| {
        Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, "unimplemented: pg_sleep")
            .with_hint("Let the client wait."))
    })
    .volatile(),
];
