//! Keys as SHOW RANGES prints them: whole, or from a table or an index on.

use crdb_keys::layout;
use crdb_keys::pretty::Pretty;

/// A key as text. The first key of all is called `/Min`.
pub(crate) fn pretty(key: &[u8]) -> String {
    if *key == *layout::KEY_MIN { "/Min".to_owned() } else { Pretty(key).to_string() }
}

/// A key without its first parts behind `/Table`: 1 leaves out the table, 2 the index too.
fn from_part(key: &[u8], parts: usize) -> String {
    let text = pretty(key);
    let Some(rest) = text.strip_prefix("/Table/") else { return text };
    let mut rest = rest;
    for _ in 0..parts {
        match rest.split_once('/') {
            Some((_, after)) => rest = after,
            None => return "…/".to_owned(),
        }
    }
    format!("…/{rest}")
}

/// How the bounds of ranges are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Whole keys.
    Whole,
    /// From a table on.
    Table,
    /// From a table on, with the bounds of its index named.
    TableIndexes,
    /// From an index on.
    Index,
    /// A row's range: from an index on, with the bounds of its table named.
    Row,
}

/// Where the range's bounds may coincide with those of a table and its index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'a> {
    pub(super) table: &'a crdb_keys::Span,
    pub(super) index: &'a crdb_keys::Span,
}

/// The first key of a range.
pub(super) fn start(form: Form, key: &[u8], bounds: Bounds<'_>) -> String {
    let before = || format!("<before:{}>", pretty(key));
    let (table, index) = (&*bounds.table.start, &*bounds.index.start);
    match form {
        Form::Whole => pretty(key),
        Form::TableIndexes | Form::Index if key == index => "…/<IndexMin>".to_owned(),
        Form::Index if key == table => "…/TableMin".to_owned(),
        Form::Index if key < index => before(),
        Form::Table | Form::TableIndexes | Form::Row if key == table => "…/<TableMin>".to_owned(),
        Form::Table | Form::TableIndexes | Form::Row if key < table => before(),
        Form::Table | Form::TableIndexes => from_part(key, 1),
        Form::Index | Form::Row => from_part(key, 2),
    }
}

/// The first key behind a range.
pub(super) fn end(form: Form, key: &[u8], bounds: Bounds<'_>) -> String {
    let after = || format!("<after:{}>", pretty(key));
    let (table, index) = (&*bounds.table.end, &*bounds.index.end);
    match form {
        Form::Whole => pretty(key),
        Form::TableIndexes | Form::Index if key == index => "…/<IndexMax>".to_owned(),
        Form::Table | Form::TableIndexes | Form::Index | Form::Row if key == table => {
            "…/<TableMax>".to_owned()
        }
        Form::Index if key > index => after(),
        Form::Table | Form::TableIndexes | Form::Row if key > table => after(),
        Form::Table | Form::TableIndexes => from_part(key, 1),
        Form::Index | Form::Row => from_part(key, 2),
    }
}

/// A bound of an object beside a range's.
pub(super) fn object(form: Form, key: &[u8]) -> String {
    match form {
        Form::Whole => pretty(key),
        Form::Table | Form::TableIndexes => from_part(key, 1),
        Form::Index | Form::Row => from_part(key, 2),
    }
}

#[cfg(test)]
mod tests {
    use crdb_keys::encoding;
    use expect_test::expect;

    use super::*;

    #[test]
    fn bounds_read_from_where_they_are_looked_at() {
        let (table, index) = (layout::table_span(104), layout::index_span(104, 2));
        let bounds = Bounds { table: &table, index: &index };
        let mut row = layout::index_prefix(104, 2);
        encoding::encode_bytes_asc(&mut row, b"x");
        let keys = [
            layout::KEY_MIN,
            layout::tables_span().start,
            table.start.clone(),
            index.start.clone(),
            row.into(),
            index.end.clone(),
            table.end.clone(),
            layout::KEY_MAX,
        ];
        let mut out = String::new();
        for form in [Form::Whole, Form::Table, Form::TableIndexes, Form::Index, Form::Row] {
            out.push_str(&format!("{form:?}\n"));
            for key in &keys {
                out.push_str(&format!(
                    "  {} | {} | {}\n",
                    start(form, key, bounds),
                    end(form, key, bounds),
                    object(form, key)
                ));
            }
        }
        expect![[r#"
            Whole
              /Min | /Min | /Min
              /Table | /Table | /Table
              /Table/104 | /Table/104 | /Table/104
              /Table/104/2 | /Table/104/2 | /Table/104/2
              /Table/104/2/"x" | /Table/104/2/"x" | /Table/104/2/"x"
              /Table/104/3 | /Table/104/3 | /Table/104/3
              /Table/105 | /Table/105 | /Table/105
              /Max | /Max | /Max
            Table
              <before:/Min> | /Min | /Min
              <before:/Table> | /Table | /Table
              …/<TableMin> | …/ | …/
              …/2 | …/2 | …/2
              …/2/"x" | …/2/"x" | …/2/"x"
              …/3 | …/3 | …/3
              …/ | …/<TableMax> | …/
              /Max | <after:/Max> | /Max
            TableIndexes
              <before:/Min> | /Min | /Min
              <before:/Table> | /Table | /Table
              …/<TableMin> | …/ | …/
              …/<IndexMin> | …/2 | …/2
              …/2/"x" | …/2/"x" | …/2/"x"
              …/3 | …/<IndexMax> | …/3
              …/ | …/<TableMax> | …/
              /Max | <after:/Max> | /Max
            Index
              <before:/Min> | /Min | /Min
              <before:/Table> | /Table | /Table
              …/TableMin | …/ | …/
              …/<IndexMin> | …/ | …/
              …/"x" | …/"x" | …/"x"
              …/ | …/<IndexMax> | …/
              …/ | …/<TableMax> | …/
              /Max | <after:/Max> | /Max
            Row
              <before:/Min> | /Min | /Min
              <before:/Table> | /Table | /Table
              …/<TableMin> | …/ | …/
              …/ | …/ | …/
              …/"x" | …/"x" | …/"x"
              …/ | …/ | …/
              …/ | …/<TableMax> | …/
              /Max | <after:/Max> | /Max
        "#]]
        .assert_eq(&out);
    }
}
