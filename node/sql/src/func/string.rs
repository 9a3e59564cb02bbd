//! Strings and bytes.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::t::{BYTES, INT, TEXT};
use super::{Arg, Builtin, Ret, array_at, bytes_at, int_at, length, str_at};
use crate::datum::{Datum, FormatSettings};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{EvalCtx, like};
use crate::types::SqlType as S;

fn text(value: impl Into<Arc<str>>) -> Result<Datum> {
    Ok(Datum::text(value))
}

fn any_text(ctx: &EvalCtx<'_>, value: &Datum) -> String {
    // Functions over "any" get values without their type; the widest of each kind prints alike.
    let ty = match value {
        Datum::Float(_) => S::Float8,
        _ => S::Text,
    };
    value.to_text(ty, &ctx.info.format)
}

/// Refuses to build a string that is too long.
fn check_length(ctx: &EvalCtx<'_>, bytes: usize) -> Result<()> {
    if bytes <= ctx.info.node.limits.string_bytes {
        return Ok(());
    }
    Err(SqlError::new(SqlState::PROGRAM_LIMIT, "requested length too large"))
}

/// Characters of a string from a 1-based start, `count` of them.
fn substring(source: &str, start: i64, count: Option<i64>) -> Result<Datum> {
    let end = match count {
        Some(n) if n < 0 => {
            return Err(SqlError::new(
                SqlState::NEGATIVE_SUBSTRING,
                "negative substring length not allowed",
            ));
        }
        Some(n) => start.saturating_add(n),
        None => i64::MAX,
    };
    let first = start.max(1);
    if end <= first {
        return text("");
    }
    let skip = usize::try_from(first - 1).unwrap_or(usize::MAX);
    let take = usize::try_from(end - first).unwrap_or(usize::MAX);
    text(source.chars().skip(skip).take(take).collect::<String>())
}

fn pad(ctx: &EvalCtx<'_>, args: &[Datum], left: bool) -> Result<Datum> {
    let source = str_at(args, 0);
    let wanted = usize::try_from(int_at(args, 1)).unwrap_or(0);
    let fill = if args.len() > 2 { str_at(args, 2) } else { " " };
    let have = source.chars().count();
    check_length(ctx, wanted)?;
    if wanted <= have || fill.is_empty() {
        return text(source.chars().take(wanted).collect::<String>());
    }
    let padding: String = fill.chars().cycle().take(wanted - have).collect();
    text(if left { padding + source } else { source.to_owned() + &padding })
}

fn trim_set(args: &[Datum]) -> Vec<char> {
    if args.len() > 1 { str_at(args, 1).chars().collect() } else { vec![' '] }
}

fn initcap(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut inside = false;
    for c in source.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric();
    }
    out
}

fn split_part(args: &[Datum]) -> Result<Datum> {
    let (source, separator, n) = (str_at(args, 0), str_at(args, 1), int_at(args, 2));
    if n == 0 {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "field position must not be zero",
        ));
    }
    let parts: Vec<&str> =
        if separator.is_empty() { vec![source] } else { source.split(separator).collect() };
    let index = if n > 0 {
        usize::try_from(n - 1).ok()
    } else {
        usize::try_from(n.unsigned_abs()).ok().and_then(|back| parts.len().checked_sub(back))
    };
    text(index.and_then(|i| parts.get(i)).copied().unwrap_or(""))
}

fn translate(args: &[Datum]) -> Result<Datum> {
    let (from, to): (Vec<char>, Vec<char>) =
        (str_at(args, 1).chars().collect(), str_at(args, 2).chars().collect());
    let mapped = str_at(args, 0).chars().filter_map(|c| match from.iter().position(|f| *f == c) {
        None => Some(c),
        Some(i) => to.get(i).copied(),
    });
    text(mapped.collect::<String>())
}

fn regexp_flags(flags: &str) -> (bool, bool) {
    (flags.contains('i'), flags.contains('g'))
}

fn regexp_replace(ctx: &EvalCtx<'_>, args: &[Datum]) -> Result<Datum> {
    let (insensitive, all) = regexp_flags(if args.len() > 3 { str_at(args, 3) } else { "" });
    let regex = like::regex(str_at(args, 1), insensitive)?;
    // `\1` and `\&` become what the library expects; its own `$` is a plain character here.
    let mut replacement = String::new();
    let mut chars = str_at(args, 2).chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => replacement.push_str("$$"),
            '\\' => match chars.next() {
                Some('&') => replacement.push_str("${0}"),
                Some(d) if d.is_ascii_digit() => {
                    replacement.push_str("${");
                    replacement.push(d);
                    replacement.push('}');
                }
                Some(other) => replacement.push(other),
                None => replacement.push('\\'),
            },
            c => replacement.push(c),
        }
    }
    let source = str_at(args, 0);
    let mut out = String::new();
    let mut copied = 0;
    for captures in regex.captures_iter(source).take(if all { usize::MAX } else { 1 }) {
        let Some(found) = captures.get(0) else { break };
        out.push_str(source.get(copied..found.start()).unwrap_or_default());
        captures.expand(&replacement, &mut out);
        copied = found.end();
        check_length(ctx, out.len())?;
    }
    out.push_str(source.get(copied..).unwrap_or_default());
    text(out)
}

fn regexp_match(args: &[Datum]) -> Result<Datum> {
    let (insensitive, _) = regexp_flags(if args.len() > 2 { str_at(args, 2) } else { "" });
    let regex = like::regex(str_at(args, 1), insensitive)?;
    Ok(match regex.captures(str_at(args, 0)) {
        None => Datum::Null,
        Some(captures) => {
            let skip = usize::from(captures.len() > 1);
            let items = captures.iter().skip(skip);
            let items = items.map(|m| m.map_or(Datum::Null, |m| Datum::text(m.as_str())));
            Datum::array(S::Text, items.collect())
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    crate::datum::push_hex(&mut out, bytes);
    out
}

fn format_fn(ctx: &EvalCtx<'_>, args: &[Datum]) -> Result<Datum> {
    let Some(Datum::Text(template)) = args.first() else { return Ok(Datum::Null) };
    let mut out = String::new();
    let mut rest = args.iter().skip(1);
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let kind = chars.next();
        if kind == Some('%') {
            out.push('%');
            continue;
        }
        let value = rest.next().ok_or_else(|| {
            SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "too few arguments for format()")
        })?;
        let shown = if value.is_null() { String::new() } else { any_text(ctx, value) };
        match kind {
            Some('s') => out.push_str(&shown),
            Some('I') => out.push_str(&crate::names::quote_ident(&shown)),
            Some('L') if value.is_null() => out.push_str("NULL"),
            Some('L') => out.push_str(&crate::names::quote_literal(&shown)),
            _ => {
                return Err(SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    "unrecognized format() type specifier",
                ));
            }
        }
    }
    text(out)
}

fn encode_fn(args: &[Datum]) -> Result<Datum> {
    let bytes = bytes_at(args, 0);
    match str_at(args, 1) {
        "hex" => text(hex(bytes)),
        "escape" => text(String::from_utf8_lossy(bytes).into_owned()),
        other => Err(SqlError::unsupported(format!("encoding \"{other}\""))
            .with_hint("Use \"hex\" or \"escape\".")),
    }
}

fn decode_fn(args: &[Datum]) -> Result<Datum> {
    let source = str_at(args, 0);
    let settings = FormatSettings::default();
    match str_at(args, 1) {
        "hex" => Datum::decode_text(S::Bytea, &format!("\\x{source}"), &settings),
        "escape" => Datum::decode_text(S::Bytea, source, &settings),
        other => Err(SqlError::unsupported(format!("encoding \"{other}\""))
            .with_hint("Use \"hex\" or \"escape\".")),
    }
}

fn find(haystack: &str, needle: &str) -> Datum {
    match haystack.find(needle) {
        None => Datum::Int(0),
        Some(at) => length(haystack.get(..at).map_or(0, |s| s.chars().count()) + 1),
    }
}

fn array_to_string(ctx: &EvalCtx<'_>, args: &[Datum]) -> Result<Datum> {
    let Some(array) = array_at(args, 0) else { return Ok(Datum::Null) };
    if args.get(1).is_none_or(Datum::is_null) {
        return Ok(Datum::Null);
    }
    let null_text = args.get(2).and_then(Datum::as_str);
    let shown: Vec<String> = array
        .items
        .iter()
        .filter_map(|item| match item {
            Datum::Null => null_text.map(ToOwned::to_owned),
            item => Some(item.to_text(array.elem, &ctx.info.format)),
        })
        .collect();
    let separator = str_at(args, 1);
    check_length(ctx, shown.len().saturating_mul(separator.len()))?;
    text(shown.join(separator))
}

fn string_to_array(args: &[Datum]) -> Result<Datum> {
    let (source, separator) = (str_at(args, 0), str_at(args, 1));
    let items: Vec<Datum> = if source.is_empty() {
        Vec::new()
    } else if separator.is_empty() {
        vec![Datum::text(source)]
    } else {
        source.split(separator).map(Datum::text).collect()
    };
    Ok(Datum::array(S::Text, items))
}

const ANY: Arg = Arg::Any;

pub(super) const TABLE: &[Builtin] = &[
    Builtin::new("length", &[TEXT], S::Int8, |_, a| Ok(length(str_at(a, 0).chars().count()))),
    Builtin::new("length", &[BYTES], S::Int8, |_, a| Ok(length(bytes_at(a, 0).len()))),
    Builtin::new("char_length", &[TEXT], S::Int8, |_, a| Ok(length(str_at(a, 0).chars().count()))),
    Builtin::new("character_length", &[TEXT], S::Int8, |_, a| {
        Ok(length(str_at(a, 0).chars().count()))
    }),
    Builtin::new("octet_length", &[TEXT], S::Int8, |_, a| Ok(length(str_at(a, 0).len()))),
    Builtin::new("octet_length", &[BYTES], S::Int8, |_, a| Ok(length(bytes_at(a, 0).len()))),
    Builtin::new("bit_length", &[TEXT], S::Int8, |_, a| Ok(length(str_at(a, 0).len() * 8))),
    Builtin::new("upper", &[TEXT], S::Text, |_, a| text(str_at(a, 0).to_uppercase())),
    Builtin::new("lower", &[TEXT], S::Text, |_, a| text(str_at(a, 0).to_lowercase())),
    Builtin::new("initcap", &[TEXT], S::Text, |_, a| text(initcap(str_at(a, 0)))),
    Builtin::new("reverse", &[TEXT], S::Text, |_, a| {
        text(str_at(a, 0).chars().rev().collect::<String>())
    }),
    Builtin::new("substring", &[TEXT, INT], S::Text, |_, a| {
        substring(str_at(a, 0), int_at(a, 1), None)
    }),
    Builtin::new("substring", &[TEXT, INT, INT], S::Text, |_, a| {
        substring(str_at(a, 0), int_at(a, 1), Some(int_at(a, 2)))
    }),
    Builtin::new("substring", &[TEXT, TEXT], S::Text, |_, a| {
        let regex = like::regex(str_at(a, 1), false)?;
        Ok(match regex.captures(str_at(a, 0)) {
            Some(c) => {
                c.get(1).or_else(|| c.get(0)).map_or(Datum::Null, |m| Datum::text(m.as_str()))
            }
            None => Datum::Null,
        })
    }),
    Builtin::new("substr", &[TEXT, INT], S::Text, |_, a| {
        substring(str_at(a, 0), int_at(a, 1), None)
    }),
    Builtin::new("substr", &[TEXT, INT, INT], S::Text, |_, a| {
        substring(str_at(a, 0), int_at(a, 1), Some(int_at(a, 2)))
    }),
    Builtin::new("left", &[TEXT, INT], S::Text, |_, a| {
        let (source, n) = (str_at(a, 0), int_at(a, 1));
        let have = i64::try_from(source.chars().count()).unwrap_or(i64::MAX);
        let keep = if n < 0 { (have + n).max(0) } else { n };
        text(source.chars().take(usize::try_from(keep).unwrap_or(usize::MAX)).collect::<String>())
    }),
    Builtin::new("right", &[TEXT, INT], S::Text, |_, a| {
        let (source, n) = (str_at(a, 0), int_at(a, 1));
        let have = i64::try_from(source.chars().count()).unwrap_or(i64::MAX);
        let skip = if n < 0 { n.saturating_neg() } else { (have - n).max(0) };
        text(source.chars().skip(usize::try_from(skip).unwrap_or(usize::MAX)).collect::<String>())
    }),
    Builtin::new("lpad", &[TEXT, INT], S::Text, |ctx, a| pad(ctx, a, true)),
    Builtin::new("lpad", &[TEXT, INT, TEXT], S::Text, |ctx, a| pad(ctx, a, true)),
    Builtin::new("rpad", &[TEXT, INT], S::Text, |ctx, a| pad(ctx, a, false)),
    Builtin::new("rpad", &[TEXT, INT, TEXT], S::Text, |ctx, a| pad(ctx, a, false)),
    Builtin::new("btrim", &[TEXT], S::Text, |_, a| text(str_at(a, 0).trim_matches(' '))),
    Builtin::new("btrim", &[TEXT, TEXT], S::Text, |_, a| {
        text(str_at(a, 0).trim_matches(trim_set(a).as_slice()))
    }),
    Builtin::new("ltrim", &[TEXT], S::Text, |_, a| text(str_at(a, 0).trim_start_matches(' '))),
    Builtin::new("ltrim", &[TEXT, TEXT], S::Text, |_, a| {
        text(str_at(a, 0).trim_start_matches(trim_set(a).as_slice()))
    }),
    Builtin::new("rtrim", &[TEXT], S::Text, |_, a| text(str_at(a, 0).trim_end_matches(' '))),
    Builtin::new("rtrim", &[TEXT, TEXT], S::Text, |_, a| {
        text(str_at(a, 0).trim_end_matches(trim_set(a).as_slice()))
    }),
    Builtin::new("replace", &[TEXT, TEXT, TEXT], S::Text, |ctx, a| {
        let (source, from) = (str_at(a, 0), str_at(a, 1));
        if from.is_empty() {
            return text(source);
        }
        let to = str_at(a, 2);
        let added = source.matches(from).count().saturating_mul(to.len());
        check_length(ctx, added)?;
        text(source.replace(from, to))
    }),
    Builtin::new("repeat", &[TEXT, INT], S::Text, |ctx, a| {
        let (source, n) = (str_at(a, 0), usize::try_from(int_at(a, 1)).unwrap_or(0));
        check_length(ctx, source.len().saturating_mul(n))?;
        text(source.repeat(n))
    }),
    Builtin::new("split_part", &[TEXT, TEXT, INT], S::Text, |_, a| split_part(a)),
    Builtin::new("translate", &[TEXT, TEXT, TEXT], S::Text, |_, a| translate(a)),
    Builtin::new("position", &[TEXT, TEXT], S::Int8, |_, a| Ok(find(str_at(a, 0), str_at(a, 1)))),
    Builtin::new("strpos", &[TEXT, TEXT], S::Int8, |_, a| Ok(find(str_at(a, 0), str_at(a, 1)))),
    Builtin::new("starts_with", &[TEXT, TEXT], S::Bool, |_, a| {
        Ok(Datum::Bool(str_at(a, 0).starts_with(str_at(a, 1))))
    }),
    Builtin::new("overlay", &[TEXT, TEXT, INT], S::Text, |_, a| {
        let count = i64::try_from(str_at(a, 1).chars().count()).unwrap_or(0);
        overlay(a, count)
    }),
    Builtin::new("overlay", &[TEXT, TEXT, INT, INT], S::Text, |_, a| overlay(a, int_at(a, 3))),
    Builtin::new("ascii", &[TEXT], S::Int8, |_, a| {
        Ok(Datum::Int(str_at(a, 0).chars().next().map_or(0, |c| i64::from(u32::from(c)))))
    }),
    Builtin::new("chr", &[INT], S::Text, |_, a| {
        let c = u32::try_from(int_at(a, 0)).ok().filter(|c| *c > 0).and_then(char::from_u32);
        let c = c.ok_or_else(|| {
            SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "requested character not valid")
        })?;
        text(String::from(c))
    }),
    Builtin::new("concat", &[ANY], S::Text, |c, a| {
        text(a.iter().map(|v| concat_text(c, v)).collect::<String>())
    })
    .variadic()
    .lenient(),
    Builtin::new("concat_ws", &[TEXT, ANY], S::Text, |c, a| {
        let Some(Datum::Text(separator)) = a.first() else { return Ok(Datum::Null) };
        let shown: Vec<String> =
            a.iter().skip(1).filter(|v| !v.is_null()).map(|v| concat_text(c, v)).collect();
        text(shown.join(separator))
    })
    .variadic()
    .lenient(),
    Builtin::new("format", &[TEXT, ANY], S::Text, format_fn).variadic().lenient(),
    Builtin::new("quote_ident", &[TEXT], S::Text, |_, a| {
        text(crate::names::quote_ident(str_at(a, 0)))
    }),
    Builtin::new("quote_literal", &[TEXT], S::Text, |_, a| {
        text(crate::names::quote_literal(str_at(a, 0)))
    }),
    Builtin::new("quote_nullable", &[TEXT], S::Text, |_, a| match a.first() {
        Some(Datum::Text(s)) => text(crate::names::quote_literal(s)),
        _ => text("NULL"),
    })
    .lenient(),
    Builtin::new("regexp_replace", &[TEXT, TEXT, TEXT], S::Text, regexp_replace),
    Builtin::new("regexp_replace", &[TEXT, TEXT, TEXT, TEXT], S::Text, |ctx, a| {
        regexp_replace(ctx, a)
    }),
    Builtin::new("regexp_match", &[TEXT, TEXT], S::Text, |_, a| regexp_match(a))
        .returns(Ret::T(S::Array(&S::Text))),
    Builtin::new("regexp_match", &[TEXT, TEXT, TEXT], S::Text, |_, a| regexp_match(a))
        .returns(Ret::T(S::Array(&S::Text))),
    Builtin::new("md5", &[TEXT], S::Text, |_, a| {
        text(super::system::md5_hex(str_at(a, 0).as_bytes()))
    }),
    Builtin::new("sha256", &[BYTES], S::Bytea, |_, a| {
        Ok(Datum::Bytes(Arc::from(Sha256::digest(bytes_at(a, 0)).as_slice())))
    }),
    Builtin::new("sha256", &[TEXT], S::Text, |_, a| text(hex(&Sha256::digest(str_at(a, 0))))),
    Builtin::new("to_hex", &[INT], S::Text, |_, a| text(format!("{:x}", int_at(a, 0)))),
    Builtin::new("encode", &[BYTES, TEXT], S::Text, |_, a| encode_fn(a)),
    Builtin::new("decode", &[TEXT, TEXT], S::Bytea, |_, a| decode_fn(a)),
    Builtin::new("array_to_string", &[Arg::Arr, TEXT], S::Text, array_to_string).lenient(),
    Builtin::new("array_to_string", &[Arg::Arr, TEXT, TEXT], S::Text, array_to_string).lenient(),
    Builtin::new("string_to_array", &[TEXT, TEXT], S::Text, |_, a| string_to_array(a))
        .returns(Ret::T(S::Array(&S::Text))),
];

fn overlay(args: &[Datum], count: i64) -> Result<Datum> {
    let (source, new, from) = (str_at(args, 0), str_at(args, 1), int_at(args, 2));
    if from < 1 {
        return Err(SqlError::new(
            SqlState::NEGATIVE_SUBSTRING,
            "negative substring length not allowed",
        ));
    }
    let before = usize::try_from(from - 1).unwrap_or(usize::MAX);
    let after = usize::try_from(from.saturating_add(count) - 1).unwrap_or(0);
    let head: String = source.chars().take(before).collect();
    let tail: String = source.chars().skip(after).collect();
    text(format!("{head}{new}{tail}"))
}

fn concat_text(ctx: &EvalCtx<'_>, value: &Datum) -> String {
    match value {
        Datum::Null => String::new(),
        value => any_text(ctx, value),
    }
}
