//! The `sql` and `html` formats.

use super::{Cell, Column, NULL, plural};

pub(super) fn sql_header(columns: &[Column]) -> String {
    let definitions: Vec<String> = columns
        .iter()
        .map(|column| format!("  \"{}\" STRING", column.name.replace('"', "\"\"")))
        .collect();
    format!("CREATE TABLE results (\n{}\n);\n\n", definitions.join(",\n"))
}

pub(super) fn sql_row(cells: &[Cell]) -> String {
    let values: Vec<String> = cells
        .iter()
        .map(|cell| match cell {
            Some(value) => format!("'{}'", value.replace('\'', "''")),
            None => NULL.to_owned(),
        })
        .collect();
    format!("INSERT INTO results VALUES ({});\n", values.join(", "))
}

pub(super) fn html_header(columns: &[Column]) -> String {
    let cells: String =
        columns.iter().map(|column| format!("<th>{}</th>", escape(&column.name))).collect();
    format!("<table>\n<thead><tr><th>row</th>{cells}</tr></thead>\n<tbody>\n")
}

pub(super) fn html_row(cells: &[Cell], number: u64) -> String {
    let cells: String = cells
        .iter()
        .map(|cell| {
            let value = escape(cell.as_deref().unwrap_or(NULL)).replace('\n', "<br/>");
            format!("<td>{value}</td>")
        })
        .collect();
    format!("<tr><td>{number}</td>{cells}</tr>\n")
}

pub(super) fn html_footer(columns: &[Column], count: u64) -> String {
    let span = columns.len() + 1;
    format!(
        "</tbody>\n<tfoot><tr><td colspan={span}>{count} row{}</td></tr></tfoot></table>\n",
        plural(count)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
