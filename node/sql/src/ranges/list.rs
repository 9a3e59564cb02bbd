//! SHOW RANGES, SHOW RANGE ... FOR ROW and `crdb_internal.ranges`.

use crdb_keys::{Key, Span, encoding, layout};
use crdb_sqlfront::ast::{RangesOf, TableOrIndex};

use super::columns::{Col, Line, Object};
use super::keys::Form;
use super::{RangeInfo, load, localities};
use crate::analyze::{shown, user_table};
use crate::catalog::CatalogData;
use crate::datum::Row;
use crate::error::{Result, SqlError, SqlState};
use crate::session::{Column, SessionInfo};

/// A list of ranges that was asked for.
struct Request<'a> {
    of: &'a RangesOf,
    tables: bool,
    indexes: bool,
    details: bool,
    keys: bool,
}

impl<'a> Request<'a> {
    fn new(of: &'a RangesOf, options: &[String]) -> Result<Self> {
        let has = |option: &str| options.iter().any(|given| given == option);
        for option in ["EXPLAIN", "ZONE"] {
            if has(option) {
                return Err(SqlError::unsupported(format!("SHOW RANGES ... WITH {option}")));
            }
        }
        let request = Self {
            of,
            tables: has("TABLES"),
            indexes: has("INDEXES"),
            details: has("DETAILS"),
            keys: has("KEYS"),
        };
        let refused = match of {
            RangesOf::Table(of) if request.tables => Some(("TABLES", of.index.is_some())),
            RangesOf::Table(of) if request.indexes && of.index.is_some() => Some(("INDEXES", true)),
            _ => None,
        };
        if let Some((option, index)) = refused {
            let from = if index { "INDEX" } else { "TABLE" };
            return Err(SqlError::syntax(format!(
                "cannot use WITH {option} with SHOW RANGES FROM {from}"
            )));
        }
        Ok(request)
    }

    /// Whether each range stands once for each table in it.
    fn expands(&self) -> bool {
        self.tables || self.indexes
    }

    fn form(&self) -> Form {
        match self.of {
            RangesOf::Table(of) if of.index.is_some() => Form::Index,
            RangesOf::Table(_) if self.indexes => Form::TableIndexes,
            RangesOf::Table(_) => Form::Table,
            _ => Form::Whole,
        }
    }

    fn columns(&self) -> Vec<Col> {
        let named = !matches!(self.of, RangesOf::Table(_));
        let cluster = matches!(self.of, RangesOf::Cluster);
        let blocks: [(bool, &[Col]); 13] = [
            (true, &[Col::StartKey, Col::EndKey]),
            (self.keys, &[Col::RawStartKey, Col::RawEndKey]),
            (true, &[Col::RangeId]),
            (self.expands() && cluster, &[Col::DatabaseName]),
            (self.expands() && named, &[Col::SchemaName, Col::TableName, Col::TableId]),
            (self.tables, &[Col::TableStartKey, Col::TableEndKey]),
            (self.tables && self.keys, &[Col::RawTableStartKey, Col::RawTableEndKey]),
            (self.indexes, &[Col::IndexName, Col::IndexId, Col::IndexStartKey, Col::IndexEndKey]),
            (self.indexes && self.keys, &[Col::RawIndexStartKey, Col::RawIndexEndKey]),
            (self.details, &[Col::RangeSizeMb, Col::LeaseHolder, Col::LeaseHolderLocality]),
            (
                true,
                &[
                    Col::Replicas,
                    Col::ReplicaLocalities,
                    Col::VotingReplicas,
                    Col::NonVotingReplicas,
                    Col::LearnerReplicas,
                ],
            ),
            (true, &[Col::SplitEnforcedUntil]),
            (self.details, &[Col::RangeSize, Col::SpanStats]),
        ];
        blocks.iter().filter(|(shown, _)| *shown).flat_map(|(_, block)| *block).copied().collect()
    }
}

const ROW_COLUMNS: [Col; 7] = [
    Col::StartKey,
    Col::EndKey,
    Col::RangeId,
    Col::LeaseHolder,
    Col::LeaseHolderLocality,
    Col::Replicas,
    Col::ReplicaLocalities,
];

fn headers(columns: &[Col]) -> Vec<Column> {
    let column = |col: &Col| {
        let (name, ty) = col.header();
        Column::new(name, ty)
    };
    columns.iter().map(column).collect()
}

/// The columns of SHOW RANGES.
pub(crate) fn ranges_columns(of: &RangesOf, options: &[String]) -> Result<Vec<Column>> {
    Ok(headers(&Request::new(of, options)?.columns()))
}

/// The columns of SHOW RANGE ... FOR ROW.
pub(crate) fn row_columns() -> Vec<Column> {
    headers(&ROW_COLUMNS)
}

/// A table, and its primary index if one was named.
pub(crate) fn table_of(
    info: &SessionInfo,
    catalog: &CatalogData,
    of: &TableOrIndex,
) -> Result<Object> {
    let table = user_table(info, catalog, &of.table)?;
    if let Some(index) = &of.index
        && index.value != table.key_name
        && index.value != "primary"
    {
        return Err(SqlError::new(
            SqlState::UNDEFINED_OBJECT,
            format!("index \"{}\" does not exist", index.value),
        )
        .with_position(index.pos.0)
        .with_detail(format!("The indexes of {}: {}.", shown(&of.table), table.key_name)));
    }
    let database = catalog.databases().find(|database| database.id == table.database);
    Ok(Object::new(database.map_or("", |database| database.name.as_str()), &table))
}

/// The tables whose ranges are listed, in the order of their keys.
fn objects(info: &SessionInfo, catalog: &CatalogData, of: &RangesOf) -> Result<Vec<Object>> {
    let mut objects: Vec<Object> = match of {
        RangesOf::Table(of) => vec![table_of(info, catalog, of)?],
        RangesOf::Cluster => catalog
            .databases()
            .flat_map(|d| catalog.tables(d.id).map(|table| Object::new(&d.name, table)))
            .collect(),
        RangesOf::CurrentCatalog | RangesOf::Database(_) => {
            let name = match of {
                RangesOf::Database(name) => name.value.as_str(),
                _ => info.database.as_str(),
            };
            let database = catalog.database(name).ok_or_else(|| {
                SqlError::new(
                    SqlState::INVALID_CATALOG_NAME,
                    format!("database \"{name}\" does not exist"),
                )
            })?;
            catalog.tables(database.id).map(|table| Object::new(name, table)).collect()
        }
    };
    objects.sort_by(|a, b| a.table_span.start.cmp(&b.table_span.start));
    Ok(objects)
}

fn all_keys() -> Span {
    Span::new(layout::KEY_MIN, layout::KEY_MAX)
}

/// The rows of SHOW RANGES.
pub(crate) async fn ranges_rows(
    info: &SessionInfo,
    catalog: &CatalogData,
    of: &RangesOf,
    options: &[String],
) -> Result<Vec<Row>> {
    let request = Request::new(of, options)?;
    let objects = objects(info, catalog, of)?;
    let by_index = request.indexes || request.form() == Form::Index;
    let span_of = |o: &Object| if by_index { o.index_span.clone() } else { o.table_span.clone() };
    let span = match (of, objects.first(), objects.last()) {
        (RangesOf::Cluster, _, _) => all_keys(),
        (_, Some(first), Some(last)) => Span::new(span_of(first).start, span_of(last).end),
        _ => return Ok(Vec::new()),
    };
    let ranges = load(&info.node, &span, request.details).await?;
    let localities = localities(&info.node).await?;
    let columns = request.columns();
    let mut rows = Vec::new();
    let mut line = |range: &RangeInfo, object: Option<&Object>| {
        let line = Line { range, object, form: request.form(), localities: &localities };
        rows.push(columns.iter().map(|column| line.cell(*column)).collect());
    };
    for range in &ranges {
        let inside: Vec<&Object> =
            objects.iter().filter(|object| range.overlaps(&span_of(object))).collect();
        match (inside.as_slice(), of) {
            ([], RangesOf::Cluster) => line(range, None),
            ([], _) => {}
            ([first, ..], _) if !request.expands() => line(range, Some(first)),
            (all, _) => all.iter().for_each(|object| line(range, Some(object))),
        }
    }
    Ok(rows)
}

/// The row of SHOW RANGE ... FOR ROW: the range of a key of a table.
pub(crate) async fn row_range(info: &SessionInfo, object: &Object, key: Key) -> Result<Vec<Row>> {
    let ranges = load(&info.node, &Span::new(key.clone(), encoding::next_key(&key)), false).await?;
    let localities = localities(&info.node).await?;
    let row = |range: &RangeInfo| {
        let form = Form::Row;
        let line = Line { range, object: Some(object), form, localities: &localities };
        ROW_COLUMNS.iter().map(|column| line.cell(*column)).collect()
    };
    Ok(ranges.iter().map(row).collect())
}

/// The columns of `crdb_internal.ranges_no_leases`, and what `ranges` has behind them.
pub(crate) const INTERNAL: [Col; 13] = [
    Col::RangeId,
    Col::RawStartKey,
    Col::StartPretty,
    Col::RawEndKey,
    Col::EndPretty,
    Col::Replicas,
    Col::ReplicaLocalities,
    Col::VotingReplicas,
    Col::NonVotingReplicas,
    Col::LearnerReplicas,
    Col::SplitEnforcedUntil,
    Col::LeaseHolder,
    Col::RangeSize,
];

/// The rows of `crdb_internal.ranges`, with the first columns of [`INTERNAL`].
pub(crate) async fn internal_rows(info: &SessionInfo, columns: &[Col]) -> Result<Vec<Row>> {
    let with_stats = columns.contains(&Col::RangeSize);
    let ranges = load(&info.node, &all_keys(), with_stats).await?;
    let localities = localities(&info.node).await?;
    let row = |range: &RangeInfo| {
        let line = Line { range, object: None, form: Form::Whole, localities: &localities };
        columns.iter().map(|column| line.cell(*column)).collect()
    };
    Ok(ranges.iter().map(row).collect())
}
