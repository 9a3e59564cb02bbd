//! Keys as people read them: `/Meta2/...`, `/System/NodeLiveness/1`, `/Table/104/1/42`.
//!
//! Printing never fails: what cannot be taken apart is shown as escaped bytes, so a corrupt key in
//! a log line still says all it holds.

use std::fmt::{self, Write as _};

use crate::{
    Span,
    encoding::{self, Value},
    layout::{self, LOCAL_PREFIX, META_PREFIX, RangeLocal, SYSTEM_PREFIX, TABLE_PREFIX},
};

/// Shows a key in readable form.
#[derive(Clone, Copy, Debug)]
pub struct Pretty<'a>(pub &'a [u8]);

impl fmt::Display for Pretty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.0;
        if key.is_empty() {
            return f.write_str("/Min");
        }
        if *key == *layout::KEY_MAX {
            return f.write_str("/Max");
        }
        match key.split_first() {
            Some((&LOCAL_PREFIX, _)) => local(f, key),
            Some((&META_PREFIX, [])) => f.write_str("/Meta2"),
            Some((&META_PREFIX, end)) => write!(f, "/Meta2{}", Pretty(end)),
            Some((&layout::LIVENESS_PREFIX, rest)) => liveness(f, key, rest),
            Some((&SYSTEM_PREFIX, rest)) => system(f, key, rest),
            Some((&TABLE_PREFIX, rest)) => table(f, rest),
            _ => write!(f, "/{}", Escaped(key)),
        }
    }
}

/// Shows a span by both ends, or a point by its key.
#[derive(Clone, Copy, Debug)]
pub struct PrettySpan<'a>(pub &'a Span);

impl fmt::Display for PrettySpan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_point() {
            write!(f, "{}", Pretty(&self.0.start))
        } else {
            write!(f, "[{}, {})", Pretty(&self.0.start), Pretty(&self.0.end))
        }
    }
}

/// Shows bytes as text where they are printable, `\xNN` elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                b'"' => f.write_str("\\\"")?,
                b' '..=b'~' => f.write_char(byte.into())?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

fn local(f: &mut fmt::Formatter<'_>, key: &[u8]) -> fmt::Result {
    match layout::parse_range_local_key(key) {
        Some((range, RangeLocal::RaftLog(index))) => {
            write!(f, "/Local/RangeID/{}/RaftLog/{index}", range.get())
        }
        Some((range, what)) => write!(f, "/Local/RangeID/{}/{what:?}", range.get()),
        None => match key.get(1..).and_then(<[u8]>::split_first) {
            Some((1, name)) => write!(f, "/Local/Store/{}", Escaped(name)),
            _ => write!(f, "/Local/{}", Escaped(key.get(1..).unwrap_or_default())),
        },
    }
}

fn liveness(f: &mut fmt::Formatter<'_>, key: &[u8], rest: &[u8]) -> fmt::Result {
    f.write_str("/System/NodeLiveness")?;
    match layout::parse_liveness_key(key) {
        Some(node) => write!(f, "/{}", node.get()),
        None if rest.is_empty() => Ok(()),
        None => write!(f, "/{}", Escaped(rest)),
    }
}

fn system(f: &mut fmt::Formatter<'_>, key: &[u8], rest: &[u8]) -> fmt::Result {
    f.write_str("/System")?;
    if rest.is_empty() {
        return Ok(());
    }
    if let Some((parent, name)) = layout::parse_namespace_key(key) {
        return write!(f, "/catalog/name/{parent}/{name:?}");
    }
    // The names end in a slash, and what follows one is a number or more text.
    let slash = rest.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    for width in [8, 4] {
        if let Some((name, id)) = rest.len().checked_sub(width).map(|at| rest.split_at(at))
            && name.last() == Some(&b'/')
            && id.first() == Some(&0)
        {
            let id = id.iter().fold(0, |id, &byte| id << 8 | u64::from(byte));
            return write!(f, "/{}{id}", Escaped(name));
        }
    }
    let (name, last) = rest.split_at(slash);
    write!(f, "/{}{}", Escaped(name), Escaped(last))
}

/// The column family in the key of a row.
const FAMILY: u8 = 0;

fn table(f: &mut fmt::Formatter<'_>, rest: &[u8]) -> fmt::Result {
    f.write_str("/Table")?;
    let mut rest = rest;
    // Table and index, then columns.
    for _ in 0..2 {
        if rest.is_empty() {
            return Ok(());
        }
        match encoding::decode_uvarint(&mut rest) {
            Ok(id) => write!(f, "/{id}")?,
            Err(_) => return write!(f, "/{}", Escaped(rest)),
        }
    }
    while !rest.is_empty() {
        // A row's key ends in its column family, of which there is one; no column of a key is NULL
        // at its end, so this is no column.
        if rest == [FAMILY] {
            return write!(f, "/{FAMILY}");
        }
        match encoding::decode_any(&mut rest) {
            Ok(Value::Null) => f.write_str("/NULL")?,
            Ok(Value::Int(value)) => write!(f, "/{value}")?,
            Ok(Value::Float(value)) => write!(f, "/{value}")?,
            Ok(Value::Bytes(value)) => write!(f, "/\"{}\"", Escaped(&value))?,
            Err(_) => return write!(f, "/{}", Escaped(rest)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::{NodeId, RangeId};

    #[test]
    fn keys_read_well() {
        let mut row = layout::index_prefix(104, 1);
        encoding::encode_int_asc(&mut row, -42);
        encoding::encode_bytes_asc(&mut row, b"a\"\x00b");
        encoding::encode_null_asc(&mut row);
        encoding::encode_float_asc(&mut row, 1.5);
        let cut = row[..row.len() - 3].to_vec();
        let mut whole = row.clone();
        encoding::encode_uvarint(&mut whole, 0);
        let keys: Vec<Vec<u8>> = vec![
            vec![],
            layout::KEY_MIN.to_vec(),
            layout::KEY_MAX.to_vec(),
            layout::meta_key(&layout::KEY_MAX).to_vec(),
            layout::meta_key(&layout::table_prefix(104)).to_vec(),
            vec![3],
            layout::liveness_key(NodeId(1)).to_vec(),
            vec![3, 9],
            vec![4],
            layout::node_id_counter().to_vec(),
            layout::node_descriptor_key(NodeId(3)).to_vec(),
            layout::setting_key("kv.x/y").to_vec(),
            layout::catalog_version_key().to_vec(),
            layout::namespace_key(1, "users").to_vec(),
            layout::descriptor_key(104).to_vec(),
            layout::dropped_span_key(104).to_vec(),
            vec![5],
            layout::table_prefix(104),
            row,
            cut,
            whole,
            layout::range_local_key(RangeId(4), RangeLocal::RaftLog(17)).to_vec(),
            layout::range_local_key(RangeId(4), RangeLocal::HardState).to_vec(),
            layout::store_ident_key().to_vec(),
            vec![1],
            b"\x80\xff".to_vec(),
        ];
        let shown: String = keys.iter().map(|key| format!("{}\n", Pretty(key))).collect();
        expect![[r#"
            /Min
            /Meta2
            /Max
            /Meta2/Max
            /Meta2/Table/104
            /System/NodeLiveness
            /System/NodeLiveness/1
            /System/NodeLiveness/\x09
            /System
            /System/id/node
            /System/node/3
            /System/setting/kv.x/y
            /System/catalog/version
            /System/catalog/name/1/"users"
            /System/catalog/descriptor/104
            /System/catalog/dropped/104
            /Table
            /Table/104
            /Table/104/1/-42/"a\"\x00b"/NULL/1.5
            /Table/104/1/-42/"a\"\x00b"/NULL/\x0f\xbf\xf8\x00\x00\x00
            /Table/104/1/-42/"a\"\x00b"/NULL/1.5/0
            /Local/RangeID/4/RaftLog/17
            /Local/RangeID/4/HardState
            /Local/Store/ident
            /Local/
            /\x80\xff
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn spans_show_both_ends() {
        let span = layout::liveness_span();
        assert_eq!(PrettySpan(&span).to_string(), "[/System/NodeLiveness, /System)");
        let point = Span::point(layout::liveness_key(NodeId(2)));
        assert_eq!(PrettySpan(&point).to_string(), "/System/NodeLiveness/2");
    }
}
