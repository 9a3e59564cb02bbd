//! SET, RESET and SHOW CLUSTER SETTING, and how a node comes to know the settings.
//!
//! A setting is one replicated key with its value as text. The node that sets it follows at once,
//! the others with their next poll.

use std::time::Duration;

use crdb_keys::layout;
use crdb_settings::{Definition, Kind, all, find, parse_duration};
use crdb_sqlfront::ast;

use super::{Column, ExecResult, SessionInfo, literal_text};
use crate::datum::{Datum, Interval, Row};
use crate::error::{Result, SqlError, SqlState};
use crate::kv::{Batch, sql};
use crate::node::SqlNode;
use crate::types::SqlType as S;

/// The columns of SHOW CLUSTER SETTINGS and `crdb_internal.cluster_settings`.
pub(crate) const COLUMNS: [(&str, S); 7] = [
    ("variable", S::Text),
    ("value", S::Text),
    ("setting_type", S::Text),
    ("public", S::Bool),
    ("description", S::Text),
    ("default_value", S::Text),
    ("origin", S::Text),
];

fn setting(name: &str) -> Result<&'static Definition> {
    find(name).ok_or_else(|| {
        SqlError::new(SqlState::UNDEFINED_OBJECT, format!("unknown cluster setting '{name}'"))
            .with_hint("SHOW ALL CLUSTER SETTINGS lists those there are.")
    })
}

/// The column of SHOW CLUSTER SETTING.
pub(super) fn column(name: &str) -> Result<Column> {
    let ty = match setting(name)?.kind {
        Kind::Bool => S::Bool,
        Kind::Int { .. } => S::Int8,
        Kind::Float => S::Float8,
        Kind::Duration { .. } => S::Interval,
        Kind::ByteSize { .. } | Kind::Enum(_) => S::Text,
    };
    Ok(Column::new(name, ty))
}

/// The value of a setting, with the type of its column.
pub(super) fn value(info: &SessionInfo, name: &str) -> Result<Datum> {
    let setting = setting(name)?;
    let (text, _) = info.node.settings.shown(setting);
    Ok(match setting.kind {
        Kind::Bool => Datum::Bool(text == "true"),
        Kind::Int { .. } => Datum::Int(text.parse().unwrap_or_default()),
        Kind::Float => Datum::Float(text.parse().unwrap_or_default()),
        Kind::Duration { .. } => {
            let micros = parse_duration(&text).as_ref().map_or(0, Duration::as_micros);
            let micros = i64::try_from(micros).unwrap_or(i64::MAX);
            Datum::Interval(Interval { months: 0, days: 0, micros })
        }
        Kind::ByteSize { .. } | Kind::Enum(_) => Datum::text(text),
    })
}

/// All settings as rows.
pub(crate) fn rows(info: &SessionInfo, also_internal: bool) -> Vec<Row> {
    let listed = all().iter().filter(|setting| also_internal || setting.public);
    let row = |setting: &Definition| {
        let (value, overridden) = info.node.settings.shown(setting);
        vec![
            Datum::text(setting.name),
            Datum::text(value),
            Datum::text(setting.kind.letter()),
            Datum::Bool(setting.public),
            Datum::text(setting.description),
            Datum::text(setting.default),
            Datum::text(if overridden { "override" } else { "default" }),
        ]
    };
    listed.map(row).collect()
}

/// SET CLUSTER SETTING; without a value RESET CLUSTER SETTING.
pub(super) async fn set(
    node: &SqlNode,
    name: &str,
    value: Option<&ast::Expr>,
) -> Result<ExecResult> {
    let setting = setting(name)?;
    let key = layout::setting_key(setting.name);
    let mut batch = Batch::new();
    match value {
        None => batch.delete(key),
        Some(value) => {
            let text = literal_text(value)?;
            let bits = setting.kind.parse(&text).map_err(|error| {
                let message =
                    format!("invalid value for cluster setting {}: {error}", setting.name);
                SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
                    .with_position(value.pos().0)
            })?;
            batch.put(key, setting.kind.format(bits));
        }
    }
    sql(node.kv.send(batch, None, None).await)?;
    node.refresh_settings().await?;
    let tag = if value.is_some() { "SET CLUSTER SETTING" } else { "RESET CLUSTER SETTING" };
    Ok(ExecResult { tag: tag.to_owned(), ..ExecResult::default() })
}

impl SqlNode {
    /// Reads the cluster settings; the server calls it several times a second. Returns what is
    /// stored and cannot be used, for the log.
    pub async fn refresh_settings(&self) -> Result<Vec<String>> {
        let mut batch = Batch::new();
        let span = layout::setting_span();
        batch.scan(&span, 0, 0, false);
        let rows = sql(self.kv.send(batch, None, None).await)?.page(0)?.whole()?;
        let prefix = span.start.len();
        let stored = rows.iter().filter_map(|row| {
            let name = std::str::from_utf8(row.key.get(prefix..)?).ok()?;
            Some((name, std::str::from_utf8(&row.value).ok()?))
        });
        Ok(self.settings.load(stored))
    }
}
