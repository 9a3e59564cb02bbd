//! How many tokens a text has, about, told without making them.
//!
//! A token costs some hundred bytes until its statement is planned, a byte of a literal one: so texts
//! are bounded by their tokens before anything is made of them. Strings, quoted names and comments
//! count as one token each. Where this reads a text otherwise than the tokenizer does, the count is
//! off, and nothing else.

/// Counts the tokens of a text, up to `most`.
pub(super) fn tokens(text: &str, most: usize) -> usize {
    let mut rest = text.as_bytes();
    let mut count = 0;
    while let (Some(&byte), true) = (rest.first(), count < most) {
        let length = match byte {
            _ if byte.is_ascii_whitespace() => {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            b'\'' | b'"' => quoted(rest, byte, false),
            b'E' | b'e' if rest.get(1) == Some(&b'\'') => {
                1 + quoted(rest.get(1..).unwrap_or_default(), b'\'', true)
            }
            b'$' => dollar_quoted(rest).unwrap_or_else(|| word(rest)),
            b'-' if rest.starts_with(b"--") => until(rest, b"\n"),
            b'/' if rest.starts_with(b"/*") => comment(rest),
            _ => word(rest),
        };
        rest = rest.get(length.max(1)..).unwrap_or_default();
        count += 1;
    }
    count
}

/// Length of the word or number at the start; of anything else, one.
fn word(rest: &[u8]) -> usize {
    let inside = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_' || **byte >= 0x80;
    rest.iter().take_while(inside).count().max(1)
}

/// Length of what is quoted at the start. A doubled quote ends one string and begins another.
fn quoted(rest: &[u8], quote: u8, escapes: bool) -> usize {
    let mut escaped = false;
    let inside = rest.get(1..).unwrap_or_default();
    let end = inside.iter().position(|byte| {
        let ends = *byte == quote && !escaped;
        escaped = escapes && *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |end| end + 2)
}

/// Length of a `$tag$ ... $tag$` at the start, if it is one.
fn dollar_quoted(rest: &[u8]) -> Option<usize> {
    let inside = rest.get(1..)?;
    let tag = inside.iter().position(|byte| *byte == b'$')?;
    let named = inside.get(..tag)?;
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
    if !named.iter().all(is_name) || named.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let mark = rest.get(..tag + 2)?;
    Some(mark.len() + until(rest.get(mark.len()..)?, mark))
}

/// Length up to the end of the first `mark`.
fn until(rest: &[u8], mark: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) =
        rest.get(at..).and_then(|r| r.iter().position(|b| Some(b) == mark.first()))
    {
        at += found;
        if rest.get(at..).is_some_and(|rest| rest.starts_with(mark)) {
            return at + mark.len();
        }
        at += 1;
    }
    rest.len()
}

/// Length of the comment at the start, with those in it.
fn comment(rest: &[u8]) -> usize {
    let (mut at, mut open) = (0, 0_usize);
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        if here.starts_with(b"/*") {
            open += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            open -= 1;
            at += 2;
            if open == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn literals_and_comments_are_one_each() {
        for (text, count) in [
            ("", 0),
            ("  \n", 0),
            ("SELECT 1", 2),
            ("SELECT a1_b, $1 FROM t", 7),
            ("VALUES (1),(22)", 8),
            ("'a b ( c'", 1),
            ("'it''s, so'", 2),
            ("E'it\\'s, (so)' x", 2),
            ("'\\' , x", 3),
            ("\"a, b\" c", 2),
            ("$$ a, b $$ c", 2),
            ("$x$ a $$ b $x$ c", 2),
            ("$1 + $2", 5),
            ("-- a, b\nc", 2),
            ("/* a /* b */ c */ d", 2),
            ("'open, (", 1),
            ("/* open", 1),
            ("é, ü", 3),
        ] {
            assert_eq!(tokens(text, 100), count, "{text}");
        }
        assert_eq!(tokens("1, 2, 3", 4), 4);
    }
}
