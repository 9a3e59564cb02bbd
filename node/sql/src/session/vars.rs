//! Session variables: what exists, what values they take.

use std::collections::BTreeMap;

use crate::datum::datetime::parse_zone;
use crate::error::{Result, SqlError, SqlState};

/// What a variable accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Int(i64, i64),
    /// A duration; a bare number means milliseconds.
    Duration,
    Zone,
    OneOf(&'static [&'static str]),
    /// Can be read only.
    Fixed,
}

struct Variable {
    name: &'static str,
    /// The name clients are told, where it differs in case.
    reported: Option<&'static str>,
    default: &'static str,
    kind: Kind,
}

const fn var(name: &'static str, default: &'static str, kind: Kind) -> Variable {
    Variable { name, reported: None, default, kind }
}

const fn reported(
    name: &'static str,
    as_name: &'static str,
    default: &'static str,
    kind: Kind,
) -> Variable {
    Variable { name, reported: Some(as_name), default, kind }
}

const ON_OFF: Kind = Kind::Bool;

/// Sorted by name.
const VARIABLES: &[Variable] = &[
    reported("application_name", "application_name", "", Kind::Text),
    var("autocommit_before_ddl", "on", Kind::OneOf(&["on", "off"])),
    var("bytea_output", "hex", Kind::OneOf(&["hex"])),
    reported("client_encoding", "client_encoding", "UTF8", Kind::OneOf(&["UTF8"])),
    var(
        "client_min_messages",
        "notice",
        Kind::OneOf(&[
            "debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error",
        ]),
    ),
    reported("crdb_version", "crdb_version", "", Kind::Fixed),
    var("database", "", Kind::Text),
    reported("datestyle", "DateStyle", "ISO, MDY", Kind::OneOf(&["ISO, MDY"])),
    var("default_int_size", "8", Kind::Int(8, 8)),
    var("default_transaction_deferrable", "off", ON_OFF),
    var(
        "default_transaction_isolation",
        "serializable",
        Kind::OneOf(&["serializable", "read committed"]),
    ),
    var("default_transaction_priority", "normal", Kind::OneOf(&["low", "normal", "high"])),
    var("default_transaction_read_only", "off", Kind::OneOf(&["on", "off"])),
    var("default_transaction_use_follower_reads", "off", ON_OFF),
    var("extra_float_digits", "1", Kind::Int(-15, 3)),
    var("idle_in_transaction_session_timeout", "0", Kind::Duration),
    var("idle_session_timeout", "0", Kind::Duration),
    reported("integer_datetimes", "integer_datetimes", "on", Kind::Fixed),
    reported("intervalstyle", "IntervalStyle", "postgres", Kind::OneOf(&["postgres"])),
    reported("is_superuser", "is_superuser", "on", Kind::Fixed),
    var("jit", "off", ON_OFF),
    var("lock_timeout", "0", Kind::Duration),
    var("max_identifier_length", "128", Kind::Fixed),
    var("max_index_keys", "32", Kind::Fixed),
    var("null_ordered_last", "off", Kind::OneOf(&["off"])),
    var("search_path", "\"$user\", public", Kind::Text),
    var("serial_normalization", "rowid", Kind::OneOf(&["rowid"])),
    reported("server_encoding", "server_encoding", "UTF8", Kind::Fixed),
    reported("server_version", "server_version", "13.0.0", Kind::Fixed),
    var("server_version_num", "130000", Kind::Fixed),
    reported("session_authorization", "session_authorization", "", Kind::Fixed),
    var("session_id", "", Kind::Fixed),
    var("session_user", "", Kind::Fixed),
    var("sql_safe_updates", "off", Kind::OneOf(&["off"])),
    reported(
        "standard_conforming_strings",
        "standard_conforming_strings",
        "on",
        Kind::OneOf(&["on"]),
    ),
    var("statement_timeout", "0", Kind::Duration),
    var("synchronize_seqscans", "on", ON_OFF),
    var("synchronous_commit", "on", Kind::OneOf(&["on"])),
    reported("timezone", "TimeZone", "UTC", Kind::Zone),
    var("transaction_isolation", "serializable", Kind::Fixed),
    var("transaction_priority", "normal", Kind::Fixed),
    var("transaction_read_only", "off", Kind::Fixed),
    var("transaction_status", "NoTxn", Kind::Fixed),
    var("transaction_timeout", "0", Kind::Duration),
];

/// The variables of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vars {
    /// Values that differ from the defaults.
    values: BTreeMap<&'static str, String>,
    /// What RESET goes back to: values of the startup packet.
    initial: BTreeMap<&'static str, String>,
    /// Variables with a dot in their name, which may hold anything.
    custom: BTreeMap<String, String>,
}

fn find(name: &str) -> Result<&'static Variable> {
    let name = match name {
        "time zone" | "time_zone" => "timezone",
        "names" => "client_encoding",
        other => other,
    };
    VARIABLES.iter().find(|v| v.name == name).ok_or_else(|| {
        SqlError::new(
            SqlState::UNDEFINED_OBJECT,
            format!("unrecognized configuration parameter \"{name}\""),
        )
    })
}

fn invalid(name: &str, value: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("invalid value for parameter \"{name}\": \"{value}\""),
    )
}

/// Milliseconds of a duration setting.
fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(at)?;
    let factor = match unit.trim() {
        "" | "ms" => 1.0,
        "us" => 0.001,
        "s" => 1e3,
        "min" | "m" => 6e4,
        "h" => 3.6e6,
        "d" => 8.64e7,
        _ => return None,
    };
    let value = number.parse::<f64>().ok()? * factor;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked")]
    (0.0..=2_147_483_647.0).contains(&value).then(|| value.round() as u64)
}

/// The value in the form SHOW prints.
fn normalize(variable: &Variable, value: &str) -> Result<String> {
    let name = variable.name;
    let bad = || invalid(name, value);
    let unsupported = |choices: &[&str]| {
        SqlError::unsupported(format!("setting \"{name}\" to \"{value}\""))
            .with_hint(format!("Available: {}.", choices.join(", ")))
    };
    Ok(match variable.kind {
        Kind::Text => value.to_owned(),
        Kind::Bool => {
            let on = crate::datum::parse_bool(value).ok_or_else(bad)?;
            if on { "on" } else { "off" }.to_owned()
        }
        Kind::Int(low, high) => {
            let number: i64 = value.trim().parse().map_err(|_| bad())?;
            if !(low..=high).contains(&number) {
                return Err(SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!(
                        "{number} is outside the valid range for parameter \"{name}\" ({low} .. {high})"
                    ),
                ));
            }
            number.to_string()
        }
        Kind::Duration => milliseconds(value).ok_or_else(bad)?.to_string(),
        Kind::Zone => {
            // A bare number is hours east of UTC.
            let text = value.trim().trim_matches('\'');
            let text = match text.parse::<i32>() {
                Ok(hours) => format!("{hours:+03}"),
                Err(_) => text.to_owned(),
            };
            parse_zone(&text).ok_or_else(bad)?;
            if text.eq_ignore_ascii_case("default") || text.eq_ignore_ascii_case("local") {
                "UTC".to_owned()
            } else {
                text
            }
        }
        Kind::OneOf(choices) => {
            choose(variable, value, choices).ok_or_else(|| unsupported(choices))?
        }
        Kind::Fixed => {
            return Err(SqlError::new(
                SqlState("55P02"),
                format!("parameter \"{name}\" cannot be changed"),
            ));
        }
    })
}

fn choose(variable: &Variable, value: &str, choices: &[&str]) -> Option<String> {
    let lower = value.trim().to_ascii_lowercase();
    let wanted = match variable.name {
        "client_encoding" if matches!(lower.as_str(), "utf8" | "utf-8" | "unicode") => "utf8",
        "default_transaction_isolation" => match lower.as_str() {
            "read uncommitted" => "read committed",
            "repeatable read" | "snapshot" => "serializable",
            other => other,
        },
        "datestyle" if lower.split(',').all(|p| matches!(p.trim(), "iso" | "mdy")) => "iso, mdy",
        _ => match (
            crate::datum::parse_bool(&lower),
            choices.contains(&"on"),
            choices.contains(&"off"),
        ) {
            (Some(true), true, _) => "on",
            (Some(false), _, true) => "off",
            _ => lower.as_str(),
        },
    };
    choices.iter().find(|c| c.eq_ignore_ascii_case(wanted)).map(|c| (*c).to_owned())
}

impl Vars {
    /// The value of a variable.
    pub(crate) fn get(&self, name: &str) -> Result<&str> {
        if let Some(value) = self.custom.get(name) {
            return Ok(value);
        }
        let variable = find(name)?;
        Ok(self.values.get(variable.name).map_or(variable.default, String::as_str))
    }

    /// Sets a variable; returns name and value where clients are told of it.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<Option<(String, String)>> {
        if name.contains('.') {
            self.custom.insert(name.to_owned(), value.to_owned());
            return Ok(None);
        }
        let variable = find(name)?;
        let value = normalize(variable, value)?;
        Ok(self.store(variable, value))
    }

    /// Sets what a client cannot change.
    pub(crate) fn set_fixed(&mut self, name: &str, value: String) {
        if let Ok(variable) = find(name) {
            self.initial.insert(variable.name, value.clone());
            self.values.insert(variable.name, value);
        }
    }

    fn store(&mut self, variable: &Variable, value: String) -> Option<(String, String)> {
        let before = self.values.insert(variable.name, value.clone());
        let reported = variable.reported?;
        (before.as_deref().unwrap_or(variable.default) != value)
            .then(|| (reported.to_owned(), value))
    }

    /// The variables that clients are told of and that have other values than in `before`.
    pub(crate) fn told_since(&self, before: &Self) -> Vec<(String, String)> {
        let before = before.reported();
        self.reported().into_iter().filter(|now| !before.contains(now)).collect()
    }

    /// Makes the present values those RESET goes back to.
    pub(crate) fn keep_as_initial(&mut self) {
        self.initial = self.values.clone();
    }

    /// Sets a variable back.
    pub(crate) fn reset(&mut self, name: &str) -> Result<Option<(String, String)>> {
        if name.contains('.') {
            self.custom.remove(name);
            return Ok(None);
        }
        let variable = find(name)?;
        if variable.kind == Kind::Fixed {
            return Err(SqlError::new(
                SqlState("55P02"),
                format!("parameter \"{name}\" cannot be changed"),
            ));
        }
        let value = self.initial.get(variable.name).cloned();
        let value = value.unwrap_or_else(|| variable.default.to_owned());
        Ok(self.store(variable, value))
    }

    /// Sets all variables back.
    pub(crate) fn reset_all(&mut self) -> Vec<(String, String)> {
        self.custom.clear();
        let changeable = VARIABLES.iter().filter(|v| v.kind != Kind::Fixed && v.name != "database");
        changeable.filter_map(|v| self.reset(v.name).ok().flatten()).collect()
    }

    /// All variables and their values.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        VARIABLES
            .iter()
            .map(|v| (v.name, self.values.get(v.name).map_or(v.default, String::as_str)))
    }

    /// What clients are told when they connect.
    pub(crate) fn reported(&self) -> Vec<(String, String)> {
        let reported = VARIABLES.iter().filter_map(|v| {
            let name = v.reported?.to_owned();
            Some((name, self.values.get(v.name).map_or(v.default, String::as_str).to_owned()))
        });
        reported.collect()
    }

    /// The milliseconds of a variable that holds a duration.
    pub(crate) fn milliseconds(&self, name: &str) -> Result<u64> {
        let value = self.get(name)?;
        value.parse().map_err(|_| invalid(name, value))
    }
}
