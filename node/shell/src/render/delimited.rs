//! The `csv` and `tsv` formats.

use super::{Cell, Column, NULL};

pub(super) fn header(columns: &[Column], separator: char) -> String {
    line(columns.iter().map(|column| column.name.as_str()), separator)
}

pub(super) fn row(cells: &[Cell], separator: char) -> String {
    line(cells.iter().map(|cell| cell.as_deref().unwrap_or(NULL)), separator)
}

fn line<'a>(fields: impl Iterator<Item = &'a str>, separator: char) -> String {
    let mut text = String::new();
    for (index, field) in fields.enumerate() {
        if index > 0 {
            text.push(separator);
        }
        if field.contains([separator, '"', '\n', '\r']) {
            text.push('"');
            text.push_str(&field.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(field);
        }
    }
    text.push('\n');
    text
}
