//! The `records` and `raw` formats, which give each cell a line of its own.

use unicode_width::UnicodeWidthStr;

use super::{Cell, Column, NULL};

pub(super) fn record(columns: &[Column], cells: &[Cell], number: u64) -> String {
    let width = columns.iter().map(|column| column.name.width()).max().unwrap_or(0);
    let mut text = format!("-[ RECORD {number} ]\n");
    for (column, cell) in columns.iter().zip(cells) {
        let mut name = column.name.as_str();
        for line in cell.as_deref().unwrap_or(NULL).split('\n') {
            let padding = " ".repeat(width.saturating_sub(name.width()));
            text.push_str(format!("{name}{padding} | {line}").trim_end());
            text.push('\n');
            name = "";
        }
    }
    text
}

pub(super) fn raw_row(cells: &[Cell], number: u64) -> String {
    let mut text = format!("# row {number}\n");
    for cell in cells {
        let value = cell.as_deref().unwrap_or(NULL);
        text.push_str(&format!("## {}\n{value}\n", value.len()));
    }
    text
}
