//! The `table` format.
//!
//! Two blanks stand before the first column, ` | ` between columns, headers are centred, and the
//! rule under the headers is one dash wider than the last column, as the shell's users know it.
//! A cell with line breaks continues on the following lines.

use unicode_width::UnicodeWidthStr;

use super::{Align, Cell, Column, NULL, plural};

/// Lines a table draws besides the one under its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Border {
    /// Whether a rule stands between any two rows.
    pub inside: bool,
    /// Whether a frame surrounds the table.
    pub outside: bool,
}

impl Border {
    /// The border with the number that `\set border` takes: 0 none, 1 inside, 2 outside, 3 both.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        (number <= 3).then_some(Self { inside: number & 1 != 0, outside: number & 2 != 0 })
    }

    /// The number that `\set border` takes.
    #[must_use]
    pub fn number(self) -> u8 {
        u8::from(self.inside) + 2 * u8::from(self.outside)
    }
}

/// The whole text of a table and its row count.
pub(super) fn table(columns: &[Column], rows: &[Vec<Cell>], border: Border) -> String {
    let count = rows.len() as u64;
    let footer = format!("({count} row{})\n", plural(count));
    if columns.is_empty() {
        return format!("--\n{footer}");
    }
    let header: Vec<Vec<String>> = columns.iter().map(|column| lines(&column.name)).collect();
    let body: Vec<Vec<Vec<String>>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| lines(cell.as_deref().unwrap_or(NULL))).collect())
        .collect();
    let mut widths: Vec<usize> = header.iter().map(|cell| width_of(cell)).collect();
    for row in &body {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(width_of(cell));
        }
    }

    let rule = rule(&widths, border);
    let mut text = String::new();
    if border.outside {
        text.push_str(&rule);
    }
    let centred = vec![Align::Center; columns.len()];
    push_row(&mut text, &header, &widths, &centred, border);
    text.push_str(&rule);
    let aligns: Vec<Align> = columns.iter().map(|column| column.align).collect();
    for (index, row) in body.iter().enumerate() {
        if border.inside && index > 0 {
            text.push_str(&rule);
        }
        push_row(&mut text, row, &widths, &aligns, border);
    }
    if border.outside {
        text.push_str(&rule);
    }
    text + &footer
}

/// Lines of a cell, tabs widened and control characters made visible.
fn lines(cell: &str) -> Vec<String> {
    let line = |line: &str| {
        let mut text = String::with_capacity(line.len());
        for c in line.chars() {
            match c {
                '\t' => text.push_str("    "),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        text
    };
    cell.split('\n').map(line).collect()
}

fn width_of(lines: &[String]) -> usize {
    lines.iter().map(|line| line.width()).max().unwrap_or(0)
}

fn rule(widths: &[usize], border: Border) -> String {
    let last = widths.len().saturating_sub(1);
    let parts: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(index, width)| {
            let extra = match (border.outside, index) {
                (true, _) => 2,
                (false, 0) if last == 0 => 4,
                (false, 0) => 3,
                (false, index) if index == last => 3,
                (false, _) => 2,
            };
            "-".repeat(width + extra)
        })
        .collect();
    if border.outside {
        format!("+{}+\n", parts.join("+"))
    } else {
        format!("{}\n", parts.join("+"))
    }
}

fn push_row(
    text: &mut String,
    cells: &[Vec<String>],
    widths: &[usize],
    aligns: &[Align],
    border: Border,
) {
    let height = cells.iter().map(Vec::len).max().unwrap_or(1);
    for index in 0..height {
        let mut line = String::from(if border.outside { "| " } else { "  " });
        for (column, ((cell, width), align)) in cells.iter().zip(widths).zip(aligns).enumerate() {
            if column > 0 {
                line.push_str(" | ");
            }
            let content = cell.get(index).map_or("", String::as_str);
            let free = width.saturating_sub(content.width());
            let before = match align {
                Align::Left => 0,
                Align::Center => free / 2,
                Align::Right => free,
            };
            line.push_str(&" ".repeat(before));
            line.push_str(content);
            line.push_str(&" ".repeat(free - before));
        }
        if border.outside {
            line.push_str(" |");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn cells(row: &[&str]) -> Vec<Cell> {
        row.iter().map(|cell| Some((*cell).to_owned())).collect()
    }

    #[test]
    fn matches_the_layout_of_administrative_tables() {
        let columns = [
            Column::number("id"),
            Column::text("is_live").aligned(Align::Center),
            Column::number("replicas"),
            Column::text("membership").aligned(Align::Center),
            Column::number("blocking_ranges"),
        ];
        let rows = [cells(&["4", "true", "39", "decommissioning", "0"])];
        expect![[r#"
              id | is_live | replicas |   membership    | blocking_ranges
            -----+---------+----------+-----------------+------------------
               4 |  true   |       39 | decommissioning |               0
            (1 row)
        "#]]
        .assert_eq(&table(&columns, &rows, Border::default()));
    }

    #[test]
    fn borders() {
        let columns = [Column::number("a"), Column::text("name")];
        let rows = [cells(&["1", "x"]), cells(&["22", "é"])];
        let mut text = String::new();
        for number in 0..=3 {
            let border = Border::from_number(number).unwrap();
            assert_eq!(border.number(), number);
            text.push_str(&table(&columns, &rows, border));
        }
        assert_eq!(Border::from_number(4), None);
        expect![[r#"
              a  | name
            -----+-------
               1 | x
              22 | é
            (2 rows)
              a  | name
            -----+-------
               1 | x
            -----+-------
              22 | é
            (2 rows)
            +----+------+
            | a  | name |
            +----+------+
            |  1 | x    |
            | 22 | é    |
            +----+------+
            (2 rows)
            +----+------+
            | a  | name |
            +----+------+
            |  1 | x    |
            +----+------+
            | 22 | é    |
            +----+------+
            (2 rows)
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn wide_characters_keep_columns_straight_and_controls_are_shown() {
        let columns = [Column::text("word"), Column::text("x")];
        let rows = [cells(&["日本", "1"]), cells(&["a\u{1b}[2J", "2"]), cells(&["\tt", "3"])];
        expect![[r#"
                 word    | x
            -------------+----
              日本       | 1
              a\u{1b}[2J | 2
                  t      | 3
            (3 rows)
        "#]]
        .assert_eq(&table(&columns, &rows, Border::default()));
    }

    #[test]
    fn one_column_and_no_column() {
        let rows = [cells(&["1"])];
        expect![[r#"
              ?column?
            ------------
                     1
            (1 row)
            --
            (2 rows)
        "#]]
        .assert_eq(&format!(
            "{}{}",
            table(&[Column::number("?column?")], &rows, Border::default()),
            table(&[], &[vec![], vec![]], Border::default())
        ));
    }
}
