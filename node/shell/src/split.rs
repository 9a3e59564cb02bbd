//! Splits shell input into SQL statements.
//!
//! A statement ends at a semicolon that stands outside quotes, dollar quotes, comments. The
//! splitter never judges the SQL inside: the server does. It only has to agree with the server's
//! lexer about where quoting begins and ends:
//!
//! | opens       | closes                              | doubled quote | backslash escapes |
//! |-------------|-------------------------------------|---------------|-------------------|
//! | `'`         | `'`                                 | yes           | no                |
//! | `e'` `E'`   | `'`                                 | yes           | yes               |
//! | `b'` `B'`   | `'`                                 | yes           | yes               |
//! | `"`         | `"`                                 | yes           | no                |
//! | `$tag$`     | `$tag$`                             | no            | no                |
//! | `--`        | end of line                         | no            | no                |
//! | `/*`        | `*/`, nesting                       | no            | no                |
//!
//! Invariants: the pieces and the rest joined together are the input, and a statement handed out
//! is never only white space and comments followed by a semicolon.

/// What a text of SQL splits into.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// Statements that are complete, each without its semicolon, trimmed.
    pub statements: Vec<String>,
    /// Text after the last semicolon, untrimmed.
    pub rest: String,
    /// Whether the rest holds anything but white space and comments.
    pub rest_is_statement: bool,
    /// What the rest leaves open, if it ends inside a quote or a comment.
    pub open: Option<Open>,
}

/// A construct that input may end inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    /// `'...`, with or without escapes.
    SingleQuote,
    /// `"...`.
    DoubleQuote,
    /// `$tag$...`.
    DollarQuote,
    /// `/* ...`.
    Comment,
}

/// Splits `input` at the semicolons that end statements.
#[must_use]
pub(crate) fn split(input: &str) -> Split {
    let mut splitter = Splitter::default();
    let statements = splitter.push(input);
    Split {
        statements,
        rest: splitter.text,
        rest_is_statement: splitter.has_content,
        open: splitter.open,
    }
}

/// Splits input that arrives line by line. A line is looked at once, unless it stands in a quote or
/// comment that is still open: a statement may be as long as a dump.
///
/// No token but a quote or a comment may reach over the end of a piece; lines with their line end
/// are such pieces.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// What was entered after the last complete statement.
    text: String,
    /// Where in it the next token starts.
    position: usize,
    has_content: bool,
    previous_is_word: bool,
    open: Option<Open>,
}

impl Splitter {
    /// Adds a piece; returns the statements that it completes.
    pub(crate) fn push(&mut self, piece: &str) -> Vec<String> {
        self.text.push_str(piece);
        let mut statements = Vec::new();
        let mut start = 0;
        self.open = None;
        while let Some(tail) = self.text.get(self.position..) {
            let Some(first) = tail.chars().next() else { break };
            let token = token(tail, first, self.previous_is_word);
            if token.open.is_some() {
                // It is looked at again once there is more of it.
                self.has_content |= token.kind == Kind::Content;
                self.open = token.open;
                break;
            }
            if token.kind == Kind::Semicolon {
                if self.has_content {
                    let text = self.text.get(start..self.position).unwrap_or_default();
                    statements.push(text.trim().to_owned());
                }
                start = self.position + token.len;
                self.has_content = false;
            } else if token.kind == Kind::Content {
                self.has_content = true;
            }
            self.previous_is_word =
                token.kind == Kind::Content && is_word(first) && token.len == first.len_utf8();
            self.position += token.len;
        }
        self.text.drain(..start);
        self.position -= start;
        statements
    }

    /// What was entered after the last complete statement.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether that holds anything but white space and comments.
    pub(crate) fn is_statement(&self) -> bool {
        self.has_content
    }

    /// What that leaves open.
    pub(crate) fn open(&self) -> Option<Open> {
        self.open
    }

    /// Forgets what was entered.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(PartialEq, Eq)]
enum Kind {
    Semicolon,
    Blank,
    Content,
}

struct Token {
    kind: Kind,
    len: usize,
    open: Option<Open>,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn token(tail: &str, first: char, previous_is_word: bool) -> Token {
    let content = |len, open| Token { kind: Kind::Content, len, open };
    match first {
        ';' => Token { kind: Kind::Semicolon, len: 1, open: None },
        '\'' => {
            let (len, closed) = quoted(tail, 1, '\'', false);
            content(len, (!closed).then_some(Open::SingleQuote))
        }
        'e' | 'E' | 'b' | 'B' if !previous_is_word && tail.get(1..2) == Some("'") => {
            let (len, closed) = quoted(tail, 2, '\'', true);
            content(len, (!closed).then_some(Open::SingleQuote))
        }
        '"' => {
            let (len, closed) = quoted(tail, 1, '"', false);
            content(len, (!closed).then_some(Open::DoubleQuote))
        }
        '$' if !previous_is_word => match dollar_tag(tail) {
            Some(tag) => {
                let body = tail.get(tag.len()..).unwrap_or_default();
                match body.find(tag) {
                    Some(at) => content(tag.len() * 2 + at, None),
                    None => content(tail.len(), Some(Open::DollarQuote)),
                }
            }
            None => content(1, None),
        },
        '-' if tail.starts_with("--") => {
            let len = tail.find('\n').map_or(tail.len(), |at| at + 1);
            Token { kind: Kind::Blank, len, open: None }
        }
        '/' if tail.starts_with("/*") => {
            let (len, closed) = comment(tail);
            Token { kind: Kind::Blank, len, open: (!closed).then_some(Open::Comment) }
        }
        c if c.is_whitespace() => Token { kind: Kind::Blank, len: c.len_utf8(), open: None },
        c => content(c.len_utf8(), None),
    }
}

/// Length of the quoted text that starts with `skip` opening bytes, and whether it is closed.
fn quoted(tail: &str, skip: usize, quote: char, escapes: bool) -> (usize, bool) {
    let mut chars = tail.char_indices().skip(skip).peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return (at + c.len_utf8(), true);
            }
        }
    }
    (tail.len(), false)
}

/// The opening `$tag$` of a dollar quote, if `tail` starts with one.
fn dollar_tag(tail: &str) -> Option<&str> {
    let end = tail.get(1..)?.find('$')? + 2;
    let name = tail.get(1..end - 1)?;
    let mut chars = name.chars();
    let starts_well = chars.next().is_none_or(|c| c.is_alphabetic() || c == '_');
    (starts_well && chars.all(|c| c.is_alphanumeric() || c == '_')).then(|| tail.get(..end))?
}

/// Length of the block comment that `tail` starts with, and whether it is closed.
fn comment(tail: &str) -> (usize, bool) {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = tail.get(at..) {
        if rest.is_empty() {
            break;
        }
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return (at, true);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    (tail.len(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(input: &str) -> Vec<String> {
        let split = split(input);
        assert!(!split.rest_is_statement, "rest {:?}", split.rest);
        assert_eq!(split.open, None);
        split.statements
    }

    #[test]
    fn splits_at_semicolons_and_drops_empty_statements() {
        assert_eq!(statements("select 1; ;\n select 2 ;;\n"), ["select 1", "select 2"]);
        assert_eq!(statements("  -- nothing\n/* at all */ ;"), Vec::<String>::new());
        assert_eq!(statements(""), Vec::<String>::new());
    }

    #[test]
    fn semicolons_inside_quotes_do_not_split() {
        assert_eq!(statements("select ';', 'it''s;';"), ["select ';', 'it''s;'"]);
        assert_eq!(statements(r#"select ";""a";"#), [r#"select ";""a""#]);
        assert_eq!(statements(r"select e'\';', E'\\';"), [r"select e'\';', E'\\'"]);
        assert_eq!(statements("select $$;$$, $a$ $$ ; $a$;"), ["select $$;$$, $a$ $$ ; $a$"]);
    }

    #[test]
    fn a_backslash_in_a_plain_string_is_no_escape() {
        assert_eq!(statements(r"select '\'; select 2;"), [r"select '\'", "select 2"]);
        assert_eq!(statements(r"select name'\'; select 2;"), [r"select name'\'", "select 2"]);
    }

    #[test]
    fn a_dollar_inside_a_name_or_parameter_opens_nothing() {
        assert_eq!(statements("select a$b$c; select $1, $2;"), ["select a$b$c", "select $1, $2"]);
    }

    #[test]
    fn comments_may_hold_semicolons_and_quotes_and_nest() {
        assert_eq!(
            statements("select 1 -- it's; \n + 2; /* ; /* ' */ ; */ select 3;"),
            ["select 1 -- it's; \n + 2", "/* ; /* ' */ ; */ select 3"]
        );
    }

    #[test]
    fn unfinished_input_says_what_it_leaves_open() {
        for (input, open) in [
            ("select 'a", Some(Open::SingleQuote)),
            ("select e'a\\'", Some(Open::SingleQuote)),
            ("select \"a", Some(Open::DoubleQuote)),
            ("select $x$ $$", Some(Open::DollarQuote)),
            ("select 1 /* /* */", Some(Open::Comment)),
            ("select 1", None),
        ] {
            let split = split(input);
            assert_eq!(split.open, open, "{input}");
            assert_eq!(split.rest, input);
            assert!(split.rest_is_statement, "{input}");
        }
    }

    #[test]
    fn line_by_line_is_as_at_once() {
        let input = "select 1; select\n'a;\n;b', $x$ ;\n$x$ -- c;\n, e'\\';\n' /* ;\n/* */ ; */\n; x\ny; z 'o";
        let whole = split(input);
        let mut splitter = Splitter::default();
        let statements: Vec<String> =
            input.split_inclusive('\n').flat_map(|line| splitter.push(line)).collect();
        assert_eq!(statements, whole.statements);
        assert_eq!(statements.len(), 3);
        assert_eq!(
            (splitter.text(), splitter.is_statement(), splitter.open()),
            (&*whole.rest, true, Some(Open::SingleQuote))
        );
    }

    #[test]
    fn a_statement_of_very_many_lines_is_no_burden() {
        let mut splitter = Splitter::default();
        assert!(splitter.push("insert into t values\n").is_empty());
        for _ in 0..100_000 {
            assert!(splitter.push("(1, 'a line of a dump'),\n").is_empty());
        }
        assert_eq!(splitter.push("(2);\n").len(), 1);
    }

    #[test]
    fn text_outside_ascii_is_kept_whole() {
        assert_eq!(statements("select 'é;ß'; select $ü$;$ü$;"), ["select 'é;ß'", "select $ü$;$ü$"]);
    }
}
