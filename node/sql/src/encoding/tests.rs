//! Properties of keys and values.

use std::sync::Arc;

use proptest::prelude::*;

use super::key::{decode_key_datum, encode_key_datum, is_composite};
use super::row::{decode_key_values, encode_row_value};
use super::value::{put_datum, skip_datum, take_datum};
use super::{RowDecoder, encode_row_key};
use crate::catalog::{ColumnDesc, DescState, KeyColumn, TableDesc};
use crate::datum::{Datum, Decimal, Interval};
use crate::types::{SqlType, TypeSpec};

/// Values of one type that may stand in a key.
fn key_values() -> impl Strategy<Value = (SqlType, Vec<Datum>)> {
    let many = |ty: SqlType, one: BoxedStrategy<Datum>| {
        let one = prop_oneof![1 => Just(Datum::Null), 9 => one];
        prop::collection::vec(one, 2..8).prop_map(move |values| (ty, values)).boxed()
    };
    let decimal = prop_oneof![
        (any::<i64>(), -20i64..20).prop_map(|(n, e)| format!("{n}e{e}")),
        (-1000i64..1000, -3i64..3).prop_map(|(n, e)| format!("{n}e{e}")),
        Just("NaN".to_owned()),
        Just("Infinity".to_owned()),
        Just("-Infinity".to_owned()),
    ];
    let decimal = decimal.prop_map(|s| Datum::decimal(Decimal::parse(&s).unwrap()));
    let interval = (-50i32..50, -1000i32..1000, -100_000_000_000i64..100_000_000_000)
        .prop_map(|(months, days, micros)| Datum::Interval(Interval { months, days, micros }));
    let text = prop_oneof!["[a-c\u{0}]{0,4}", "\\PC{0,6}"].prop_map(|s: String| Datum::text(s));
    prop_oneof![
        many(SqlType::Bool, any::<bool>().prop_map(Datum::Bool).boxed()),
        many(SqlType::Int8, prop_oneof![any::<i64>(), -300i64..300].prop_map(Datum::Int).boxed()),
        many(SqlType::Float8, any::<f64>().prop_map(Datum::Float).boxed()),
        many(SqlType::Numeric, decimal.boxed()),
        many(SqlType::Text, text.boxed()),
        many(
            SqlType::Bytea,
            prop::collection::vec(prop_oneof![Just(0u8), Just(255u8), any::<u8>()], 0..5)
                .prop_map(|b| Datum::Bytes(Arc::from(b)))
                .boxed()
        ),
        many(SqlType::Date, any::<i32>().prop_map(Datum::Date).boxed()),
        many(SqlType::TimestampTz, any::<i64>().prop_map(Datum::TimestampTz).boxed()),
        many(SqlType::Interval, interval.boxed()),
        many(SqlType::Uuid, any::<[u8; 16]>().prop_map(Datum::Uuid).boxed()),
        many(SqlType::Oid, any::<u32>().prop_map(Datum::Oid).boxed()),
    ]
}

fn key(value: &Datum, descending: bool) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key_datum(&mut out, value, descending);
    out
}

fn table(types: &[SqlType], keys: usize, descending: bool) -> TableDesc {
    let columns = types.iter().enumerate().map(|(i, ty)| ColumnDesc {
        id: u32::try_from(i * 3 + 1).unwrap(),
        name: format!("c{i}"),
        spec: TypeSpec::plain(*ty),
        nullable: true,
        default: None,
        hidden: false,
    });
    TableDesc {
        id: 104,
        database: 100,
        name: "t".to_owned(),
        columns: columns.collect(),
        key: (0..keys).map(|column| KeyColumn { column, descending }).collect(),
        key_name: "t_pkey".to_owned(),
        index_id: 1,
        next_index_id: 2,
        rewriting: None,
        state: DescState::Public,
        modified: 1,
        modified_nanos: 0,
    }
}

proptest! {
    #[test]
    fn keys_sort_like_values((_, values) in key_values(), descending: bool) {
        for a in &values {
            for b in &values {
                let order = if descending { b.cmp(a) } else { a.cmp(b) };
                let (ka, kb) = (key(a, descending), key(b, descending));
                prop_assert_eq!(ka.cmp(&kb), order, "{:?} and {:?}", a, b);
                prop_assert!(ka == kb || !kb.starts_with(&ka), "{:?} is a prefix of {:?}", a, b);
            }
        }
    }

    #[test]
    fn keys_decode((ty, values) in key_values(), descending: bool) {
        for value in &values {
            let mut bytes = key(value, descending);
            bytes.extend([0x42, 0x42]);
            let mut rest = bytes.as_slice();
            let decoded = decode_key_datum(&mut rest, ty, descending).unwrap();
            prop_assert_eq!(rest, &[0x42, 0x42]);
            if !is_composite(ty) {
                prop_assert_eq!(&decoded, value);
            }
        }
    }

    #[test]
    fn rows_read_back(
        (first, a) in key_values(),
        (second, b) in key_values(),
        (third, c) in key_values(),
        descending: bool,
    ) {
        let table = table(&[first, second, third], 2, descending);
        let decoder = RowDecoder::new(&table, &[true; 3]);
        for ((a, b), c) in a.iter().zip(&b).zip(&c) {
            let row = vec![a.clone(), b.clone(), c.clone()];
            let (key, value) = (encode_row_key(&table, &row), encode_row_value(&table, &row));
            let read = decoder.decode(&key, &value).unwrap();
            for (read, (written, column)) in read.iter().zip(row.iter().zip(&table.columns)) {
                let shown = |d: &Datum| d.to_text(column.spec.ty, &crate::FormatSettings::default());
                prop_assert_eq!(read, written);
                prop_assert_eq!(shown(read), shown(written));
            }
        }
    }

    #[test]
    fn values_read_back_and_skip((_, values) in key_values()) {
        for value in &values {
            let mut bytes = Vec::new();
            put_datum(&mut bytes, value);
            bytes.push(7);
            let (mut read, mut skipped) = (bytes.as_slice(), bytes.as_slice());
            prop_assert_eq!(&take_datum(&mut read).unwrap(), value);
            skip_datum(&mut skipped).unwrap();
            prop_assert_eq!(read, &[7]);
            prop_assert_eq!(skipped, &[7]);
        }
    }

    #[test]
    fn damaged_rows_are_errors_or_rows(
        key in prop::collection::vec(any::<u8>(), 0..24),
        value in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let table = table(&[SqlType::Int8, SqlType::Text, SqlType::Numeric], 2, false);
        let mut full = crdb_keys::layout::index_prefix(104, 1);
        full.extend(&key);
        let decoder = RowDecoder::new(&table, &[true; 3]);
        // Whatever it is, it must not panic.
        let outcome = (
            decoder.decode(&full, &value).is_ok(),
            decode_key_values(&table, &key, |_, _| {}).is_ok(),
        );
        prop_assert!(!outcome.1, "a key without its table was read");
    }

    #[test]
    fn binary_forms_read_back((ty, values) in key_values()) {
        for value in values.iter().filter(|v| !v.is_null()) {
            let out_of_range = matches!(value, Datum::Date(d) if d.checked_sub(10_957).is_none())
                || matches!(value, Datum::TimestampTz(t)
                    if *t < -200_000_000_000_000_000 || *t > 9_000_000_000_000_000_000);
            let nul = matches!(value, Datum::Text(s) if s.contains('\0'));
            if out_of_range || nul {
                continue;
            }
            let mut bytes = Vec::new();
            value.encode_binary(ty, &mut bytes);
            let read = Datum::decode_binary(ty, &bytes).unwrap();
            prop_assert_eq!(&read, value);
            let settings = crate::FormatSettings::default();
            prop_assert_eq!(read.to_text(ty, &settings), value.to_text(ty, &settings));
        }
    }
}
