//! Tables of lines and what they are read as, and the round trip of any row through any cut.

use crdb_sqlfront::ast::Statement;
use expect_test::expect_file;
use proptest::prelude::*;

use super::*;

/// The format of a COPY statement.
fn format(options: &str) -> Result<Format> {
    let parsed = crdb_sqlfront::parse(&format!("COPY t FROM STDIN {options}")).unwrap();
    match &parsed[0].statement {
        Statement::Copy(copy) => Format::new(&copy.options),
        other => panic!("not a COPY: {other:?}"),
    }
}

const COLUMNS: [(&str, SqlType); 3] =
    [("a", SqlType::Int8), ("b", SqlType::Text), ("c", SqlType::Bool)];

fn reader(format: Format) -> Reader {
    let columns = COLUMNS.map(|(name, ty)| (name.to_owned(), ty)).to_vec();
    Reader::new(format, "t", columns, 16 << 20)
}

/// The rows of a stream cut into pieces of one size.
fn read(format: Format, data: &[u8], piece: usize) -> (Vec<Vec<Datum>>, Option<SqlError>) {
    let settings = FormatSettings::default();
    let mut reader = reader(format);
    let mut rows = Vec::new();
    let mut take = |reader: &mut Reader| {
        loop {
            let mut row = Vec::new();
            match reader.next(&mut row, &settings) {
                Ok(true) => rows.push(row),
                Ok(false) => return None,
                Err(error) => return Some(error),
            }
        }
    };
    for piece in data.chunks(piece.max(1)) {
        if let Err(error) = reader.push(piece) {
            return (rows, Some(error));
        }
        if let Some(error) = take(&mut reader) {
            return (rows, Some(error));
        }
    }
    reader.end();
    let error = take(&mut reader);
    (rows, error)
}

fn show(out: &mut String, options: &str, data: &str) {
    out.push_str(&format!("COPY {options} <- {data:?}\n"));
    let format = match format(options) {
        Ok(format) => format,
        Err(error) => {
            out.push_str(&format!("  {} {}\n", error.code, error.message));
            return;
        }
    };
    let (rows, error) = read(format.clone(), data.as_bytes(), data.len());
    for cut in [1, 2, 3, 7] {
        let (same, _) = read(format.clone(), data.as_bytes(), cut);
        assert_eq!(format!("{same:?}"), format!("{rows:?}"), "{data:?} cut into {cut}");
    }
    for row in rows {
        out.push_str(&format!("  {row:?}\n"));
    }
    if let Some(error) = error {
        let context = error.fields().context.unwrap_or_default();
        out.push_str(&format!("  {} {} [{context}]\n", error.code, error.message));
    }
}

#[test]
fn lines_become_rows() {
    let cases: &[(&str, &[&str])] = &[
        (
            "",
            &[
                "1\tx\tt\n2\t\\N\tf\n",
                "1\tx\tt\r\n2\ty\tf",
                "",
                "\n",
                "1\ta\\tb\\nc\\\\d\\101\\x41\\q\\\n\tt\n",
                "1\t\tt\n\\.\nanything\tat all",
                "1\tx\n",
                "1\tx\tt\t9\n",
                "x\tx\tt\n",
                "1\tx\tt\n2\ty\tmaybe\n3\tz\tt\n",
                "1\t\\xff\tt\n",
                "1\t\\0\tt\n",
                "\\N\t\\\\N\tt\n",
            ],
        ),
        ("DELIMITER '|' NULL 'none' HEADER", &["a|b|c\n1|x\\|y|t\n2|none|none\n"]),
        (
            "CSV",
            &[
                "1,x,t\n2,,f\n3,\"\",t\n",
                "1,\"a,b\"\"c\nd\",t\r\n2,pre\"fi,x\"post,f\n",
                "1,x,t\n\\.\nrest",
                "1,\"open,t\n",
                "1,\" x \",t\n",
            ],
        ),
        (
            "CSV HEADER DELIMITER ';' NULL '-' QUOTE '''' ESCAPE '\\'",
            &["h\n1;'it\\'s; \\\\';t\n2;-;f\n"],
        ),
        ("(FORMAT binary)", &[""]),
        ("DELIMITER 'ab'", &[""]),
        ("DELIMITER 'n'", &[""]),
        ("QUOTE '\"'", &[""]),
        ("CSV QUOTE ','", &[""]),
        ("NULL 'a\tb'", &[""]),
    ];
    let mut out = String::new();
    for (options, data) in cases {
        for data in *data {
            show(&mut out, options, data);
        }
    }
    expect_file!["lines.expected"].assert_eq(&out);
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        rows in prop::collection::vec((any::<i64>(), prop::option::of(".{0,12}"), any::<bool>()), 0..6),
        options in prop::sample::select(vec![
            "", "DELIMITER ','", "NULL ''", "CSV", "CSV DELIMITER '|' NULL 'x'", "CSV ESCAPE '\\'",
        ]),
        cut in 1_usize..20,
    ) {
        let format = format(options).unwrap();
        let types = COLUMNS.map(|(_, ty)| ty);
        let settings = FormatSettings::default();
        let mut data = Vec::new();
        let mut expected = Vec::new();
        for (a, b, c) in rows {
            let b = b.map(|b| b.replace('\0', ""));
            // TEXT cannot tell a value from NULL that is spelled the same.
            let b = b.filter(|b| format.csv.is_some() || *b != format.null);
            let text = b.map_or(Datum::Null, Datum::text);
            let row = vec![Datum::Int(a), text, Datum::Bool(c)];
            write_row(&mut data, &format, &row, &types, &settings);
            expected.push(row);
        }
        let (found, error) = read(format, &data, cut);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    }
}
