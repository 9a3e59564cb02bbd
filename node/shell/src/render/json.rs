//! The `json` and `ndjson` formats.
//!
//! Numbers, booleans and JSON documents keep their kind when their text is valid JSON (`NaN` and
//! `Infinity` are not and become strings); everything else is a string.

use serde_json::Value;

use super::{Cell, Column, ValueKind};

pub(super) fn object(columns: &[Column], cells: &[Cell]) -> String {
    let fields: Vec<String> = columns
        .iter()
        .zip(cells)
        .map(|(column, cell)| format!("{}: {}", string(&column.name), value(column.kind, cell)))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

fn value(kind: ValueKind, cell: &Cell) -> String {
    let Some(text) = cell else { return "null".to_owned() };
    match kind {
        ValueKind::Bool if text == "t" || text == "true" => "true".to_owned(),
        ValueKind::Bool if text == "f" || text == "false" => "false".to_owned(),
        // The text itself is kept: parsing a number and printing it again would lose digits.
        ValueKind::Number if matches!(serde_json::from_str(text), Ok(Value::Number(_))) => {
            text.clone()
        }
        ValueKind::Json if !text.contains('\n') && is_json(text) => text.clone(),
        ValueKind::Bool | ValueKind::Number | ValueKind::Json | ValueKind::Text => string(text),
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok()
}

fn string(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
