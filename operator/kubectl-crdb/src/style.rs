//! Colours and plain tables.

use std::io::IsTerminal as _;

use unicode_width::UnicodeWidthStr as _;

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Never.
    Never,
}

/// How much attention a piece of text asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tone {
    /// Something is wrong.
    Bad,
    /// Something is to be known.
    Note,
    /// As it should be.
    Good,
}

/// Whether texts are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette(pub(crate) bool);

impl Palette {
    /// The palette for standard output.
    pub(crate) fn for_stdout(color: Color) -> Self {
        let wanted = color == Color::Auto && std::env::var_os("NO_COLOR").is_none();
        Self(wanted && std::io::stdout().is_terminal())
    }

    /// The text in the colour of its tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Bad => "31",
            Tone::Note => "33",
            Tone::Good => "32",
        };
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Columns aligned by blanks, two between any two, as kubectl prints them.
pub(crate) fn table(header: Option<&[&str]>, rows: &[Vec<String>]) -> String {
    let header: Vec<Vec<String>> = header
        .map(|cells| cells.iter().map(|cell| (*cell).to_owned()).collect())
        .into_iter()
        .collect();
    let lines = || header.iter().chain(rows);
    let columns = lines().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for line in lines() {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    for line in lines() {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            padded.push_str(cell);
            padded.push_str(&" ".repeat(width.saturating_sub(cell.width()) + 2));
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

/// A time span as kubectl prints ages.
pub(crate) fn age(seconds: i64) -> String {
    let (minute, hour, day) = (60, 3600, 86_400);
    match seconds.max(0) {
        s if s < 2 * minute => format!("{s}s"),
        s if s < 10 * minute && s % minute != 0 => format!("{}m{}s", s / minute, s % minute),
        s if s < 3 * hour => format!("{}m", s / minute),
        s if s < 8 * hour && s % hour >= minute => {
            format!("{}h{}m", s / hour, s % hour / minute)
        }
        s if s < 2 * day => format!("{}h", s / hour),
        s if s < 8 * day && s % day >= hour => format!("{}d{}h", s / day, s % day / hour),
        s => format!("{}d", s / day),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_in_kubectl() {
        for (seconds, expected) in [
            (-5, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600 + 120, "3h2m"),
            (9 * 3600, "9h"),
            (2 * 86_400 + 3600, "2d1h"),
            (30 * 86_400, "30d"),
        ] {
            assert_eq!(age(seconds), expected);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["1".to_owned(), "x".to_owned()], vec!["100".to_owned(), String::new()]];
        assert_eq!(table(Some(&["ID", "NAME"]), &rows), "ID   NAME\n1    x\n100\n");
        assert_eq!(table(None, &rows), "1    x\n100\n");
    }

    #[test]
    fn without_colour_text_stays_plain() {
        assert_eq!(Palette(false).paint(Tone::Bad, "x"), "x");
        assert_eq!(Palette(true).paint(Tone::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
