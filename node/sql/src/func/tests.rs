//! No function, operator, cast or text form panics, whatever values it gets.

use std::sync::Arc;
use std::time::Duration;

use crdb_keys::NodeId;
use crdb_keys::hlc::{Clock, ManualClock};
use crdb_kv::local::LocalSender;
use crdb_kv::{TxnClient, TxnClientConfig};
use futures::future::{BoxFuture, FutureExt as _, ready};

use super::{Arg, BY_NAME, Builtin, op};
use crate::cast::{apply_typmod, cast, cast_context};
use crate::datum::{Datum, Decimal, FormatSettings, Interval, json};
use crate::expr::EvalCtx;
use crate::limits::Limits;
use crate::node::{SqlNode, SqlNodeConfig, Timer};
use crate::session::{SessionInfo, Shown, Vars};
use crate::types::{SqlType as S, TypeSpec};

struct NoTimer;

impl Timer for NoTimer {
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

fn info() -> SessionInfo {
    let wall = Arc::new(ManualClock::new(1_704_067_200_000_000_000));
    let clock = Clock::new(wall, Duration::from_millis(500));
    let node = SqlNode::new(SqlNodeConfig {
        node_id: NodeId(1),
        cluster_id: "00000000-0000-4000-8000-000000000001".to_owned(),
        txns: TxnClient::new(TxnClientConfig {
            sender: Arc::new(LocalSender::new(clock.clone())),
            clock,
            node_id: NodeId(1),
            seed: 1,
            limits: crdb_kv::Limits::default(),
        }),
        timer: Arc::new(NoTimer),
        seed: 1,
        build_tag: "v0".to_owned(),
        limits: Limits::default(),
        settings: Arc::default(),
    });
    SessionInfo {
        node,
        user: "root".to_owned(),
        database: "defaultdb".to_owned(),
        session_id: u64::MAX,
        vars: Vars::default(),
        format: FormatSettings {
            zone: crate::datum::datetime::parse_zone("America/New_York").unwrap(),
            ..FormatSettings::default()
        },
        statement_micros: 0,
        shown: Shown::none(),
    }
}

fn numbers(ty: S) -> Vec<Datum> {
    match ty {
        S::Int2 | S::Int4 | S::Int8 => {
            let (low, high) = match ty {
                S::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
                S::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
                _ => (i64::MIN, i64::MAX),
            };
            [low, low + 1, -1, 0, 1, 2, 63, 64, high - 1, high].map(Datum::Int).into()
        }
        S::Float4 | S::Float8 => {
            let all = [f64::MIN, -0.0, 0.0, f64::MIN_POSITIVE, 0.5, 1e18, f64::MAX, f64::NAN];
            all.into_iter().chain([f64::INFINITY, f64::NEG_INFINITY]).map(Datum::Float).collect()
        }
        S::Numeric => ["0", "-1", "0.5", "1e3000", "1e-3000", "-9e300", "NaN", "inf", "-inf"]
            .map(|t| Datum::decimal(Decimal::parse(t).unwrap()))
            .into(),
        _ => Vec::new(),
    }
}

fn times(ty: S) -> Vec<Datum> {
    let (first, end) = (crate::datum::civil::MIN_TIMESTAMP, crate::datum::civil::MAX_TIMESTAMP);
    let micros = [i64::MIN, first, -1, 0, 1_704_067_200_000_000, end - 1, i64::MAX];
    match ty {
        S::Date => {
            let (low, high) = (crate::datum::civil::MIN_DATE, crate::datum::civil::MAX_DATE);
            [i32::MIN, low, -1, 0, 19_723, high, i32::MAX].map(Datum::Date).into()
        }
        S::Time => [0, 1, 86_399_999_999, 86_400_000_000].map(Datum::Time).into(),
        S::Timestamp => micros.map(Datum::Timestamp).into(),
        S::TimestampTz => micros.map(Datum::TimestampTz).into(),
        S::Interval => {
            let make = |months, days, micros| Datum::Interval(Interval { months, days, micros });
            vec![
                make(0, 0, 0),
                make(1, -1, 1),
                make(i32::MIN, i32::MIN, i64::MIN),
                make(i32::MAX, i32::MAX, i64::MAX),
                make(0, 0, i64::MIN),
            ]
        }
        _ => Vec::new(),
    }
}

/// Values of a type at the edges of what it holds.
fn extremes(ty: S) -> Vec<Datum> {
    let text = |all: &[&str]| all.iter().map(|t| Datum::text(*t)).collect();
    match ty {
        S::Bool => vec![Datum::Bool(true), Datum::Bool(false)],
        S::Int2 | S::Int4 | S::Int8 | S::Float4 | S::Float8 | S::Numeric => numbers(ty),
        S::QChar => text(&["", "a", "é"]),
        S::Name | S::Text | S::Varchar | S::Bpchar | S::Unknown => text(&[
            "",
            " ",
            "a",
            "é€𝄞",
            "a.b.c",
            "\"",
            "'\\",
            "(",
            "[",
            "%s%I%L%",
            "%",
            "\\1\\&$0",
            "9",
            "-9223372036854775808",
            "1e9999999999",
            "infinity",
            "YYYY-MM-DD",
            "year",
            "epoch",
            "{",
            "{}",
            "{1,2}",
            "P1Y",
            "99999999999 years",
            "UTC",
            "hex",
            "on",
            "public",
            "\u{0}",
        ]),
        S::Bytea => [&b""[..], b"a", &[0xff, 0xfe, 0]].map(|b| Datum::Bytes(b.into())).into(),
        S::Date | S::Time | S::Timestamp | S::TimestampTz | S::Interval => times(ty),
        S::Uuid => vec![Datum::Uuid([0; 16]), Datum::Uuid([255; 16])],
        S::Jsonb => ["null", "[]", "{}", "[1,[2,\"x\"]]", "{\"a\":{\"b\":null}}", "1e400", "\"\""]
            .iter()
            .filter_map(|t| json::parse(t).ok().map(Datum::json))
            .collect(),
        S::Oid | S::Regclass | S::Regtype | S::Regnamespace => {
            [0, 20, 1259, 2200, u32::MAX].map(Datum::Oid).into()
        }
        S::Void => vec![Datum::Null],
        S::Array(elem) => {
            let mut items = extremes(*elem);
            items.push(Datum::Null);
            let first = items.first().cloned().into_iter().collect();
            vec![
                Datum::array(*elem, Vec::new()),
                Datum::array(*elem, first),
                Datum::array(*elem, items),
            ]
        }
    }
}

/// The types an argument is tried with.
fn types_of(arg: Arg) -> Vec<S> {
    match arg {
        Arg::T(ty) => vec![ty],
        Arg::Any => S::scalars().to_vec(),
        Arg::Elem => vec![S::Int8, S::Text, S::Numeric],
        Arg::Arr => [S::Int8, S::Text, S::Numeric].iter().filter_map(|t| t.array_of()).collect(),
    }
}

/// Every list of arguments, at most `most` of them, spread over all there are.
fn argument_lists(choices: &[Vec<Datum>], most: usize) -> Vec<Vec<Datum>> {
    let total = choices.iter().map(Vec::len).product::<usize>();
    // Odd, so that it goes through all values of each argument.
    let step = total.div_ceil(most) | 1;
    (0..total)
        .step_by(step)
        .map(|number| {
            let mut rest = number;
            let pick = |values: &Vec<Datum>| {
                let value = values[rest % values.len()].clone();
                rest /= values.len();
                value
            };
            choices.iter().map(pick).collect()
        })
        .collect()
}

fn show(value: &Datum, ty: S, format: &FormatSettings) {
    let text = value.to_text(ty, format);
    let mut bytes = Vec::new();
    value.encode_binary(ty, &mut bytes);
    assert!(value.is_null() || text.len() < usize::MAX);
}

fn call(entry: &Builtin, info: &SessionInfo) {
    let ctx = EvalCtx { info, params: &[], outer: &[], slots: &[] };
    let mut args = entry.args.to_vec();
    if entry.variadic {
        args.extend(args.last().copied());
    }
    let mut choices: Vec<Vec<Datum>> = Vec::new();
    for arg in args {
        let mut values: Vec<Datum> = types_of(arg).into_iter().flat_map(extremes).collect();
        if !entry.strict {
            values.push(Datum::Null);
        }
        choices.push(values);
    }
    for args in argument_lists(&choices, 600) {
        if let Ok(value) = (entry.f)(&ctx, &args)
            && let super::Ret::T(ty) = entry.ret
        {
            show(&value, ty, &info.format);
        }
    }
}

#[test]
fn functions_take_any_value() {
    let info = info();
    for entry in BY_NAME.values().flatten() {
        call(entry, &info);
    }
}

#[test]
fn operators_take_any_value() {
    let info = info();
    let ctx = EvalCtx { info: &info, params: &[], outer: &[], slots: &[] };
    let names = [
        "+", "-", "*", "/", "//", "%", "^", "||", "&", "|", "#", "<<", ">>", "~", "!~*", "->",
        "->>", "#>", "#>>", "@>", "<@", "&&", "?",
    ];
    let arrays = [S::Int8, S::Text].iter().filter_map(|t| t.array_of());
    let types: Vec<S> = S::scalars().iter().copied().chain(arrays).collect();
    let mut found = 0;
    for name in names {
        for (l, r) in types.iter().flat_map(|l| types.iter().map(move |r| (*l, *r))) {
            let Some(operator) = op::binary(name, l, r) else { continue };
            found += 1;
            for args in argument_lists(&[extremes(operator.left), extremes(operator.right)], 120) {
                if let Ok(value) = (operator.f)(&ctx, &args[0], &args[1]) {
                    show(&value, operator.result, &info.format);
                }
            }
        }
    }
    assert!(found > 300, "only {found} operators were tried");
    for ty in types {
        for value in extremes(ty) {
            let negated = op::negate(ty, &value);
            assert!(negated.is_err() || !matches!(ty, S::Bool));
        }
    }
}

#[test]
fn casts_take_any_value() {
    let info = info();
    let arrays = [S::Int8, S::Text, S::TimestampTz].iter().filter_map(|t| t.array_of());
    let types: Vec<S> = S::scalars().iter().copied().chain(arrays).collect();
    for (from, to) in types.iter().flat_map(|l| types.iter().map(move |r| (*l, *r))) {
        if cast_context(from, to).is_none() {
            continue;
        }
        for value in extremes(from) {
            let Ok(cast) = cast(&value, from, to, &info.format) else { continue };
            show(&cast, to, &info.format);
            for spec in [TypeSpec::with_length(to, 1), TypeSpec::numeric(3, 2)] {
                if spec.ty == to
                    && let Ok(fitted) = apply_typmod(cast.clone(), spec, true)
                {
                    show(&fitted, to, &info.format);
                }
            }
        }
    }
}

#[test]
fn parameters_of_any_bytes_are_values_or_errors() {
    let info = info();
    let texts = extremes(S::Text);
    for ty in S::scalars() {
        for all in [*ty].into_iter().chain(ty.array_of()) {
            for text in texts.iter().filter_map(Datum::as_str) {
                if let Ok(value) = Datum::decode_text(all, text, &info.format) {
                    show(&value, all, &info.format);
                }
            }
            for length in 0..40usize {
                for fill in [0u8, 1, 0x7f, 0x80, 0xff] {
                    let bytes = vec![fill; length];
                    if let Ok(value) = Datum::decode_binary(all, &bytes) {
                        show(&value, all, &info.format);
                    }
                }
            }
        }
    }
}
