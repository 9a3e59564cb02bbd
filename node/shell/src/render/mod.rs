//! Turns results into text.
//!
//! Pure: columns and cells in, text out. [`ResultText`] takes one result set; formats that need
//! no look-ahead give each row's text at once, `table` keeps the rows until the end because the
//! widths of its columns depend on all of them.
//!
//! | format  | rows                        | NULL   | result without rows      |
//! |---------|-----------------------------|--------|--------------------------|
//! | table   | aligned columns, row count  | `NULL` | command tag              |
//! | tsv csv | header, quoted where needed | `NULL` | command tag              |
//! | records | one block per row           | `NULL` | command tag              |
//! | raw     | length-prefixed cells       | `NULL` | command tag              |
//! | sql     | INSERT statements           | `NULL` | command tag in a comment |
//! | json    | one array of objects        | `null` | nothing                  |
//! | ndjson  | one object per line         | `null` | nothing                  |
//! | html    | one table element           | `NULL` | nothing                  |

mod delimited;
mod json;
mod markup;
mod table;
mod vertical;

pub use table::Border;

/// Value of a cell as the server sent it; `None` is NULL.
pub type Cell = Option<String>;

/// Text of NULL in every format but the JSON ones.
pub(crate) const NULL: &str = "NULL";

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns with a header and a row count.
    Table,
    /// Tab-separated values with a header.
    Tsv,
    /// Comma-separated values with a header.
    Csv,
    /// One array of JSON objects.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// One block of `column | value` lines per row.
    Records,
    /// Cells preceded by their length.
    Raw,
    /// INSERT statements.
    Sql,
    /// An HTML table.
    Html,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Tsv => "tsv",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Records => "records",
            Self::Raw => "raw",
            Self::Sql => "sql",
            Self::Html => "html",
        })
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        clap::ValueEnum::from_str(text, false).map_err(|_| {
            format!(
                "unknown format {text:?}; known are table, tsv, csv, json, ndjson, records, raw, sql, html"
            )
        })
    }
}

/// Side of a column to which a table moves its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Align {
    /// Text.
    #[default]
    Left,
    /// Numbers.
    Right,
    /// Short words such as booleans in administrative tables.
    Center,
}

/// What a cell's text stands for, as far as rendering cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ValueKind {
    /// Integers and decimals.
    Number,
    /// `t` and `f`.
    Bool,
    /// JSON documents.
    Json,
    /// All else.
    #[default]
    Text,
}

/// One column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name in the header.
    pub name: String,
    /// Alignment of the cells in a table.
    pub align: Align,
    /// What the cells hold.
    pub kind: ValueKind,
}

impl Column {
    /// A column of text.
    #[must_use]
    pub fn text(name: &str) -> Self {
        Self { name: name.to_owned(), align: Align::Left, kind: ValueKind::Text }
    }

    /// A column of numbers.
    #[must_use]
    pub fn number(name: &str) -> Self {
        Self { name: name.to_owned(), align: Align::Right, kind: ValueKind::Number }
    }

    /// The same column with another alignment.
    #[must_use]
    pub fn aligned(self, align: Align) -> Self {
        Self { align, ..self }
    }

    /// A column of the type with this object id.
    #[must_use]
    pub fn of_type(name: &str, oid: u32) -> Self {
        let kind = match oid {
            20 | 21 | 23 | 26 | 700 | 701 | 1700 => ValueKind::Number,
            16 => ValueKind::Bool,
            114 | 3802 => ValueKind::Json,
            _ => ValueKind::Text,
        };
        let align = if kind == ValueKind::Number { Align::Right } else { Align::Left };
        Self { name: name.to_owned(), align, kind }
    }
}

/// Text of one result set, produced as its rows arrive.
#[derive(Debug)]
pub struct ResultText {
    format: Format,
    border: Border,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    count: u64,
}

impl ResultText {
    /// Starts a result; the text goes before that of the rows.
    #[must_use]
    pub fn begin(format: Format, border: Border, columns: Vec<Column>) -> (Self, String) {
        let head = match format {
            Format::Tsv => delimited::header(&columns, '\t'),
            Format::Csv => delimited::header(&columns, ','),
            Format::Json => "[".to_owned(),
            Format::Raw => format!("# {} column{}\n", columns.len(), plural(columns.len() as u64)),
            Format::Sql => markup::sql_header(&columns),
            Format::Html => markup::html_header(&columns),
            Format::Table | Format::Ndjson | Format::Records => String::new(),
        };
        (Self { format, border, columns, rows: Vec::new(), count: 0 }, head)
    }

    /// Adds a row; gives the text that may be printed now.
    #[must_use]
    pub fn row(&mut self, cells: Vec<Cell>) -> String {
        self.count += 1;
        match self.format {
            Format::Table => {
                self.rows.push(cells);
                String::new()
            }
            Format::Tsv => delimited::row(&cells, '\t'),
            Format::Csv => delimited::row(&cells, ','),
            Format::Json => {
                let comma = if self.count == 1 { "\n" } else { ",\n" };
                format!("{comma}  {}", json::object(&self.columns, &cells))
            }
            Format::Ndjson => format!("{}\n", json::object(&self.columns, &cells)),
            Format::Records => vertical::record(&self.columns, &cells, self.count),
            Format::Raw => vertical::raw_row(&cells, self.count),
            Format::Sql => markup::sql_row(&cells),
            Format::Html => markup::html_row(&cells, self.count),
        }
    }

    /// Ends a result that an error cut off: closes what is open, and counts no rows where none came.
    #[must_use]
    pub fn end_early(self) -> String {
        match self.format {
            Format::Table | Format::Records if self.count == 0 => String::new(),
            _ => self.end(),
        }
    }

    /// Ends the result; gives the text that remains.
    #[must_use]
    pub fn end(self) -> String {
        let plural = plural(self.count);
        match self.format {
            Format::Table => table::table(&self.columns, &self.rows, self.border),
            Format::Tsv | Format::Csv | Format::Ndjson => String::new(),
            Format::Json if self.count == 0 => "]\n".to_owned(),
            Format::Json => "\n]\n".to_owned(),
            Format::Records if self.count == 0 => "(0 rows)\n".to_owned(),
            Format::Records => String::new(),
            Format::Raw => format!("# {} row{plural}\n", self.count),
            Format::Sql => format!("-- {} row{plural}\n", self.count),
            Format::Html => markup::html_footer(&self.columns, self.count),
        }
    }
}

/// Text of a statement that returns no rows.
#[must_use]
pub fn command_tag(format: Format, tag: &str) -> String {
    match format {
        Format::Table | Format::Tsv | Format::Csv | Format::Records | Format::Raw => {
            format!("{tag}\n")
        }
        Format::Sql => format!("-- {tag}\n"),
        Format::Json | Format::Ndjson | Format::Html => String::new(),
    }
}

/// Text of a result that is known whole.
#[must_use]
pub fn render(format: Format, columns: Vec<Column>, rows: Vec<Vec<Cell>>) -> String {
    let (mut result, mut text) = ResultText::begin(format, Border::default(), columns);
    for row in rows {
        text.push_str(&result.row(row));
    }
    text + &result.end()
}

pub(crate) fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// Tabs as a word, for people who read the expected text.
    fn visible(text: &str) -> String {
        text.replace('\t', "<tab>")
    }

    fn check(format: Format, expected: &Expect) {
        let columns = vec![
            Column::of_type("id", 20),
            Column::of_type("name", 25),
            Column::of_type("ok", 16),
            Column::of_type("doc", 3802),
        ];
        let cell = |text: &str| Some(text.to_owned());
        let rows = vec![
            vec![cell("1"), cell("O'Neil, \"Jo\""), cell("t"), cell("{\"a\": [1]}")],
            vec![cell("22"), cell("two\nlines <&>"), cell("f"), None],
        ];
        expected.assert_eq(&visible(&render(format, columns, rows)));
    }

    #[test]
    fn table() {
        check(
            Format::Table,
            &expect![[r#"
              id |     name     | ok |    doc
            -----+--------------+----+-------------
               1 | O'Neil, "Jo" | t  | {"a": [1]}
              22 | two          | f  | NULL
                 | lines <&>    |    |
            (2 rows)
        "#]],
        );
    }

    #[test]
    fn tsv() {
        check(
            Format::Tsv,
            &expect![[r#"
            id<tab>name<tab>ok<tab>doc
            1<tab>"O'Neil, ""Jo"""<tab>t<tab>"{""a"": [1]}"
            22<tab>"two
            lines <&>"<tab>f<tab>NULL
        "#]],
        );
    }

    #[test]
    fn csv() {
        check(
            Format::Csv,
            &expect![[r#"
            id,name,ok,doc
            1,"O'Neil, ""Jo""",t,"{""a"": [1]}"
            22,"two
            lines <&>",f,NULL
        "#]],
        );
    }

    #[test]
    fn json() {
        check(
            Format::Json,
            &expect![[r#"
            [
              {"id": 1, "name": "O'Neil, \"Jo\"", "ok": true, "doc": {"a": [1]}},
              {"id": 22, "name": "two\nlines <&>", "ok": false, "doc": null}
            ]
        "#]],
        );
    }

    #[test]
    fn ndjson() {
        check(
            Format::Ndjson,
            &expect![[r#"
            {"id": 1, "name": "O'Neil, \"Jo\"", "ok": true, "doc": {"a": [1]}}
            {"id": 22, "name": "two\nlines <&>", "ok": false, "doc": null}
        "#]],
        );
    }

    #[test]
    fn records() {
        check(
            Format::Records,
            &expect![[r#"
            -[ RECORD 1 ]
            id   | 1
            name | O'Neil, "Jo"
            ok   | t
            doc  | {"a": [1]}
            -[ RECORD 2 ]
            id   | 22
            name | two
                 | lines <&>
            ok   | f
            doc  | NULL
        "#]],
        );
    }

    #[test]
    fn raw() {
        check(
            Format::Raw,
            &expect![[r##"
            # 4 columns
            # row 1
            ## 1
            1
            ## 12
            O'Neil, "Jo"
            ## 1
            t
            ## 10
            {"a": [1]}
            # row 2
            ## 2
            22
            ## 13
            two
            lines <&>
            ## 1
            f
            ## 4
            NULL
            # 2 rows
        "##]],
        );
    }

    #[test]
    fn sql() {
        check(
            Format::Sql,
            &expect![[r#"
            CREATE TABLE results (
              "id" STRING,
              "name" STRING,
              "ok" STRING,
              "doc" STRING
            );

            INSERT INTO results VALUES ('1', 'O''Neil, "Jo"', 't', '{"a": [1]}');
            INSERT INTO results VALUES ('22', 'two
            lines <&>', 'f', NULL);
            -- 2 rows
        "#]],
        );
    }

    #[test]
    fn html() {
        check(
            Format::Html,
            &expect![[r#"
            <table>
            <thead><tr><th>row</th><th>id</th><th>name</th><th>ok</th><th>doc</th></tr></thead>
            <tbody>
            <tr><td>1</td><td>1</td><td>O'Neil, &quot;Jo&quot;</td><td>t</td><td>{&quot;a&quot;: [1]}</td></tr>
            <tr><td>2</td><td>22</td><td>two<br/>lines &lt;&amp;&gt;</td><td>f</td><td>NULL</td></tr>
            </tbody>
            <tfoot><tr><td colspan=5>2 rows</td></tr></tfoot></table>
        "#]],
        );
    }

    #[test]
    fn no_rows() {
        let mut text = String::new();
        for format in <Format as clap::ValueEnum>::value_variants() {
            let result = render(*format, vec![Column::number("a"), Column::text("b")], vec![]);
            text.push_str(&format!("[{format}]\n{result}"));
        }
        expect![[r#"
            [table]
              a | b
            ----+----
            (0 rows)
            [tsv]
            a<tab>b
            [csv]
            a,b
            [json]
            []
            [ndjson]
            [records]
            (0 rows)
            [raw]
            # 2 columns
            # 0 rows
            [sql]
            CREATE TABLE results (
              "a" STRING,
              "b" STRING
            );

            -- 0 rows
            [html]
            <table>
            <thead><tr><th>row</th><th>a</th><th>b</th></tr></thead>
            <tbody>
            </tbody>
            <tfoot><tr><td colspan=3>0 rows</td></tr></tfoot></table>
        "#]]
        .assert_eq(&visible(&text));
    }

    #[test]
    fn a_result_cut_off_is_closed_but_not_counted_as_empty() {
        let begin = |format| ResultText::begin(format, Border::default(), vec![Column::text("a")]);
        assert_eq!(begin(Format::Table).0.end_early(), "");
        assert_eq!(begin(Format::Json).0.end_early(), "]\n");
        let (mut table, _) = begin(Format::Table);
        assert_eq!(table.row(vec![Some("x".to_owned())]), "");
        assert!(table.end_early().ends_with("(1 row)\n"));
    }

    #[test]
    fn command_tags() {
        let mut text = String::new();
        for format in <Format as clap::ValueEnum>::value_variants() {
            text.push_str(&format!("[{format}]\n{}", command_tag(*format, "INSERT 0 1")));
        }
        expect![[r#"
            [table]
            INSERT 0 1
            [tsv]
            INSERT 0 1
            [csv]
            INSERT 0 1
            [json]
            [ndjson]
            [records]
            INSERT 0 1
            [raw]
            INSERT 0 1
            [sql]
            -- INSERT 0 1
            [html]
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn a_format_reads_back_what_it_prints() {
        for format in <Format as clap::ValueEnum>::value_variants() {
            assert_eq!(format.to_string().parse(), Ok(*format));
        }
        assert!("yaml".parse::<Format>().unwrap_err().contains("unknown format \"yaml\""));
    }
}
