//! Which keys of a table a condition allows: spans from equalities, lists and ranges on a prefix of
//! the primary key.

use crdb_keys::{Key, Span, encoding as prim, layout};

use crate::catalog::{KeyColumn, TableDesc};
use crate::datum::Datum;
use crate::encoding::encode_key_datum;
use crate::error::Result;
use crate::expr::{CmpOp, EvalCtx, Expr};

/// What is allowed for one key column.
#[derive(Clone, Debug)]
enum Part {
    Equal(Expr),
    In(Vec<Expr>),
    AnyOf(Expr),
}

/// What is allowed for a prefix of the key. Its expressions read no row of the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Constraint {
    parts: Vec<Part>,
    /// Bounds of the column behind the parts; true for inclusive.
    low: Option<(Expr, bool)>,
    high: Option<(Expr, bool)>,
}

/// Where the only row that a constraint allows is.
#[derive(Clone, Debug)]
pub(crate) enum Point {
    Key(Key),
    /// A value is NULL, and nothing is equal to it.
    Nowhere,
}

/// A condition on one column that a constraint can take.
enum Atom {
    Part(Part),
    Low(Expr, bool),
    High(Expr, bool),
}

fn atom(condition: &Expr, column: usize) -> Option<Atom> {
    let is_column = |e: &Expr| matches!(e, Expr::Column(c) if *c == column);
    match condition {
        Expr::Compare(op, left, right) => {
            let (op, value) = if is_column(left) && right.is_row_independent() {
                (*op, right)
            } else if is_column(right) && left.is_row_independent() {
                (op.swapped(), left)
            } else {
                return None;
            };
            let value = value.as_ref().clone();
            Some(match op {
                CmpOp::Eq => Atom::Part(Part::Equal(value)),
                CmpOp::Lt => Atom::High(value, false),
                CmpOp::LtEq => Atom::High(value, true),
                CmpOp::Gt => Atom::Low(value, false),
                CmpOp::GtEq => Atom::Low(value, true),
                CmpOp::NotEq => return None,
            })
        }
        Expr::InList { expr, list, negated: false }
            if is_column(expr) && list.iter().all(Expr::is_row_independent) =>
        {
            Some(Atom::Part(Part::In(list.clone())))
        }
        Expr::Quantified { left, op: CmpOp::Eq, array, all: false }
            if is_column(left) && array.is_row_independent() =>
        {
            Some(Atom::Part(Part::AnyOf(array.as_ref().clone())))
        }
        _ => None,
    }
}

impl Constraint {
    /// Takes what it can from conditions; those it covers wholly are removed from the list. A list
    /// with which more than `most` keys would be named is left to be tested on the rows.
    pub(crate) fn extract(table: &TableDesc, most: usize, conditions: &mut Vec<Expr>) -> Self {
        let mut constraint = Self::default();
        let mut points = 1usize;
        for key in &table.key {
            let position = conditions
                .iter()
                .enumerate()
                .filter_map(|(i, c)| match atom(c, key.column) {
                    Some(Atom::Part(Part::Equal(_))) => Some((0, i)),
                    Some(Atom::Part(_)) => Some((1, i)),
                    _ => None,
                })
                .min();
            if let Some((_, at)) = position {
                if let Some(Atom::Part(Part::In(list))) =
                    conditions.get(at).and_then(|c| atom(c, key.column))
                {
                    points = points.saturating_mul(list.len());
                    if points > most {
                        break;
                    }
                }
                if let Some(Atom::Part(part)) = atom(&conditions.remove(at), key.column) {
                    constraint.parts.push(part);
                }
                continue;
            }
            conditions.retain(|condition| match atom(condition, key.column) {
                Some(Atom::Low(value, inclusive)) if constraint.low.is_none() => {
                    constraint.low = Some((value, inclusive));
                    false
                }
                Some(Atom::High(value, inclusive)) if constraint.high.is_none() => {
                    constraint.high = Some((value, inclusive));
                    false
                }
                _ => true,
            });
            break;
        }
        constraint
    }

    /// Whether the whole table is scanned.
    pub(crate) fn is_full(&self) -> bool {
        self.parts.is_empty() && self.low.is_none() && self.high.is_none()
    }

    /// How many leading key columns have a single value.
    pub(crate) fn equal_columns(&self) -> usize {
        self.parts.iter().take_while(|p| matches!(p, Part::Equal(_))).count()
    }

    /// Words for EXPLAIN.
    pub(crate) fn describe(&self, table: &TableDesc) -> String {
        if self.is_full() {
            return "FULL SCAN".to_owned();
        }
        if self.parts.len() == table.key.len() {
            return "point lookup on the primary key".to_owned();
        }
        let range = usize::from(self.low.is_some() || self.high.is_some());
        format!("prefix of {} primary key column(s)", self.parts.len() + range)
    }

    /// The key, when every key column has a single value; none when the constraint is another.
    pub(crate) fn point(&self, table: &TableDesc, ctx: &EvalCtx<'_>) -> Result<Option<Point>> {
        if self.parts.len() != table.key.len() || self.equal_columns() != table.key.len() {
            return Ok(None);
        }
        let mut key = layout::index_prefix(table.id, table.index_id);
        key.reserve(24);
        for (part, column) in self.parts.iter().zip(&table.key) {
            let Part::Equal(e) = part else { return Ok(None) };
            let value = e.eval_ref(ctx, &[])?;
            if value.is_null() {
                return Ok(Some(Point::Nowhere));
            }
            encode_key_datum(&mut key, &value, column.descending);
        }
        prim::encode_uvarint(&mut key, 0);
        Ok(Some(Point::Key(key.into())))
    }

    /// The spans in key order (largest first when `reverse`), without overlap. A list whose length
    /// is known only now is refused if more keys are named than the node allows.
    pub(crate) fn spans(
        &self,
        table: &TableDesc,
        ctx: &EvalCtx<'_>,
        reverse: bool,
    ) -> Result<Vec<Span>> {
        let base = layout::index_prefix(table.id, table.index_id);
        if self.is_full() {
            return Ok(vec![layout::prefix_span(&base)]);
        }
        let mut prefixes = vec![base];
        let mut key = table.key.iter();
        for part in &self.parts {
            let Some(column) = key.next() else { break };
            let values = part_values(part, ctx)?;
            let most = ctx.info.node.limits.points;
            if prefixes.len().saturating_mul(values.len()) > most {
                return Err(crate::error::SqlError::new(
                    crate::error::SqlState::PROGRAM_LIMIT,
                    format!("a condition names more than {most} keys"),
                )
                .with_hint("Split the list over several statements."));
            }
            prefixes = extend(&prefixes, &values, *column);
        }
        let mut spans = Vec::with_capacity(prefixes.len());
        if self.parts.len() == table.key.len() {
            for mut prefix in prefixes {
                prim::encode_uvarint(&mut prefix, 0);
                spans.push(Span::point(prefix));
            }
        } else {
            let bounds = key.next().map(|column| self.bounds(*column, ctx)).transpose()?.flatten();
            match (bounds, self.low.is_some() || self.high.is_some()) {
                // A bound is NULL: nothing compares with it.
                (None, true) => return Ok(Vec::new()),
                (bounds, _) => {
                    for prefix in prefixes {
                        push_range(&mut spans, &prefix, bounds.as_ref());
                    }
                }
            }
        }
        spans.sort();
        spans.dedup();
        if reverse {
            spans.reverse();
        }
        Ok(spans)
    }

    /// Key bytes of the bounds of a column: first and end. None when a bound is NULL.
    fn bounds(&self, column: KeyColumn, ctx: &EvalCtx<'_>) -> Result<Option<Bounds>> {
        let encode = |bound: &Option<(Expr, bool)>| -> Result<Option<(Datum, bool)>> {
            bound.as_ref().map(|(e, inclusive)| Ok((e.eval(ctx, &[])?, *inclusive))).transpose()
        };
        let (low, high) = (encode(&self.low)?, encode(&self.high)?);
        if [&low, &high].into_iter().flatten().any(|(value, _)| value.is_null()) {
            return Ok(None);
        }
        let (first, last) = if column.descending { (high, low) } else { (low, high) };
        let bytes = |(value, inclusive): (Datum, bool)| {
            let mut out = Vec::new();
            encode_key_datum(&mut out, &value, column.descending);
            (out, inclusive)
        };
        Ok(Some(Bounds {
            first: first.map(bytes),
            last: last.map(bytes),
            descending: column.descending,
        }))
    }
}

struct Bounds {
    first: Option<(Vec<u8>, bool)>,
    last: Option<(Vec<u8>, bool)>,
    descending: bool,
}

fn push_range(spans: &mut Vec<Span>, prefix: &[u8], bounds: Option<&Bounds>) {
    let whole = layout::prefix_span(prefix);
    let Some(bounds) = bounds else {
        spans.push(whole);
        return;
    };
    let joined = |bytes: &[u8]| [prefix, bytes].concat();
    let after = |bytes: Vec<u8>| prim::prefix_end(&bytes).unwrap_or_else(|| whole.end.to_vec());
    let start = match &bounds.first {
        Some((bytes, true)) => joined(bytes),
        Some((bytes, false)) => after(joined(bytes)),
        // NULL compares with nothing: it lies before every ascending value.
        None if !bounds.descending => {
            let mut null = prefix.to_vec();
            prim::encode_null_asc(&mut null);
            after(null)
        }
        None => prefix.to_vec(),
    };
    let end = match &bounds.last {
        Some((bytes, true)) => after(joined(bytes)),
        Some((bytes, false)) => joined(bytes),
        None if bounds.descending => {
            let mut null = prefix.to_vec();
            prim::encode_null_desc(&mut null);
            null
        }
        None => whole.end.to_vec(),
    };
    if start < end {
        spans.push(Span::new(start, end));
    }
}

fn part_values(part: &Part, ctx: &EvalCtx<'_>) -> Result<Vec<Datum>> {
    let mut values = match part {
        Part::Equal(e) => vec![e.eval(ctx, &[])?],
        Part::In(list) => list.iter().map(|e| e.eval(ctx, &[])).collect::<Result<_>>()?,
        Part::AnyOf(e) => match e.eval(ctx, &[])? {
            Datum::Array(array) => array.items.clone(),
            _ => Vec::new(),
        },
    };
    values.retain(|v| !v.is_null());
    Ok(values)
}

fn extend(prefixes: &[Vec<u8>], values: &[Datum], column: KeyColumn) -> Vec<Vec<u8>> {
    let mut out = Vec::with_capacity(prefixes.len() * values.len());
    for prefix in prefixes {
        for value in values {
            let mut key = Vec::with_capacity(prefix.len() + 12);
            key.extend_from_slice(prefix);
            encode_key_datum(&mut key, value, column.descending);
            out.push(key);
        }
    }
    out
}
