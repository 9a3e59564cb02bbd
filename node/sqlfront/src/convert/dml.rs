//! INSERT, UPDATE and DELETE.

use sqlparser::ast as sp;

use super::{Converter, Result};
use crate::ast::{
    Assignment, AssignmentTarget, ConflictTarget, Delete, Insert, InsertSource, OnConflict, Pos,
    SelectItem, Statement, TableExpr, TableRef, Update, With,
};

impl Converter<'_> {
    /// Converts a statement the library parsed whole.
    pub(crate) fn statement(&mut self, statement: sp::Statement) -> Result<Statement> {
        match statement {
            sp::Statement::Query(query) => self.query_statement(*query),
            other => self.data_change(other, None),
        }
    }

    /// Converts an INSERT, UPDATE or DELETE.
    pub(super) fn data_change(
        &mut self,
        statement: sp::Statement,
        with: Option<With>,
    ) -> Result<Statement> {
        match statement {
            sp::Statement::Insert(insert) => {
                Ok(Statement::Insert(Box::new(self.insert(insert, with)?)))
            }
            sp::Statement::Update(update) => {
                Ok(Statement::Update(Box::new(self.update(update, with)?)))
            }
            sp::Statement::Delete(delete) => {
                Ok(Statement::Delete(Box::new(self.delete(delete, with)?)))
            }
            _ => self.unsupported("this statement"),
        }
    }

    fn insert(&mut self, insert: sp::Insert, with: Option<With>) -> Result<Insert> {
        let sp::Insert {
            insert_token,
            optimizer_hints: _,
            or,
            ignore,
            into,
            table,
            table_alias,
            columns,
            overwrite,
            source,
            assignments,
            partitioned,
            after_columns,
            has_table_keyword,
            on,
            returning,
            output,
            replace_into,
            priority,
            insert_alias,
            settings,
            format_clause,
            multi_table_insert_type,
            multi_table_into_clauses,
            multi_table_when_clauses,
            multi_table_else_clause,
        } = insert;
        self.last_pos = self.source.span_pos(insert_token.0.span);
        self.absent(or.is_some(), "OR")?;
        self.absent(ignore, "IGNORE")?;
        if !into {
            return self.malformed("INSERT needs INTO");
        }
        self.absent(overwrite, "OVERWRITE")?;
        self.absent(!assignments.is_empty(), "SET")?;
        self.absent(partitioned.is_some() || !after_columns.is_empty(), "PARTITION")?;
        self.absent(has_table_keyword, "TABLE")?;
        self.absent(output.is_some(), "OUTPUT")?;
        self.absent(replace_into || priority.is_some(), "INSERT")?;
        self.absent(insert_alias.is_some(), "AS")?;
        self.absent(settings.is_some() || format_clause.is_some(), "FORMAT")?;
        let multi_table = multi_table_insert_type.is_some()
            || !multi_table_into_clauses.is_empty()
            || !multi_table_when_clauses.is_empty()
            || multi_table_else_clause.is_some();
        self.absent(multi_table, "INSERT")?;
        let sp::TableObject::TableName(table) = table else {
            return self.syntax("(", Pos::UNKNOWN);
        };
        let table = self.table_name(table)?;
        let alias = table_alias.map(|alias| self.name(alias.alias)).transpose()?;
        let mut names = Vec::with_capacity(columns.len());
        for column in columns {
            names.push(self.column_name(column)?);
        }
        let source = match source {
            None => InsertSource::DefaultValues,
            Some(query) => InsertSource::Query(self.boxed_query(*query)?),
        };
        let on_conflict = match on {
            None => None,
            Some(sp::OnInsert::OnConflict(conflict)) => {
                Some(self.on_conflict(conflict, table.pos())?)
            }
            Some(_) => return self.syntax("DUPLICATE", Pos::UNKNOWN),
        };
        let returning = self.returning(returning)?;
        Ok(Insert {
            table,
            alias,
            columns: names,
            source,
            upsert: false,
            on_conflict,
            returning,
            with,
        })
    }

    fn on_conflict(&mut self, conflict: sp::OnConflict, pos: Pos) -> Result<OnConflict> {
        let sp::OnConflict { conflict_target, action } = conflict;
        let target = match conflict_target {
            None => None,
            Some(sp::ConflictTarget::Columns(columns)) => {
                Some(ConflictTarget::Columns(self.idents(columns)?))
            }
            Some(sp::ConflictTarget::OnConstraint(name)) => {
                Some(ConflictTarget::Constraint(self.object_name(name)?))
            }
        };
        let (update, filter) = match action {
            sp::OnConflictAction::DoNothing => (None, None),
            sp::OnConflictAction::DoUpdate(update) => {
                let assignments = self.assignments(update.assignments)?;
                (Some(assignments), self.opt_expr(update.selection)?)
            }
        };
        Ok(OnConflict { target, update, filter, pos })
    }

    fn assignments(&mut self, assignments: Vec<sp::Assignment>) -> Result<Vec<Assignment>> {
        let mut converted = Vec::with_capacity(assignments.len());
        for sp::Assignment { target, value } in assignments {
            let target = match target {
                sp::AssignmentTarget::ColumnName(name) => {
                    AssignmentTarget::Column(self.column_name(name)?)
                }
                sp::AssignmentTarget::Tuple(names) => {
                    let mut columns = Vec::with_capacity(names.len());
                    for name in names {
                        columns.push(self.column_name(name)?);
                    }
                    AssignmentTarget::Columns(columns)
                }
            };
            converted.push(Assignment { target, value: self.expr(value)? });
        }
        Ok(converted)
    }

    fn returning(&mut self, items: Option<Vec<sp::SelectItem>>) -> Result<Vec<SelectItem>> {
        let items = self.select_items(items.unwrap_or_default())?;
        // `RETURNING NOTHING` says that nothing is wanted; the word is reserved there.
        if let [SelectItem::Expr { expr: crate::ast::Expr::Column(column), alias: None }] =
            items.as_slice()
            && let [only] = column.parts.as_slice()
            && only.value == "nothing"
            && !only.quoted
        {
            return Ok(Vec::new());
        }
        Ok(items)
    }

    fn update(&mut self, update: sp::Update, with: Option<With>) -> Result<Update> {
        let sp::Update {
            update_token,
            optimizer_hints: _,
            table,
            assignments,
            from,
            selection,
            returning,
            output,
            or,
            order_by,
            limit,
        } = update;
        self.last_pos = self.source.span_pos(update_token.0.span);
        self.absent(output.is_some(), "OUTPUT")?;
        self.absent(or.is_some(), "OR")?;
        let table = self.target_table(table)?;
        let assignments = self.assignments(assignments)?;
        let from = match from {
            None => Vec::new(),
            Some(sp::UpdateTableFromKind::AfterSet(tables)) => self.from(tables)?,
            Some(sp::UpdateTableFromKind::BeforeSet(_)) => {
                return self.syntax("FROM", Pos::UNKNOWN);
            }
        };
        Ok(Update {
            table,
            assignments,
            from,
            filter: self.opt_expr(selection)?,
            order_by: self.order_by_exprs(order_by)?,
            limit: self.opt_expr(limit)?,
            returning: self.returning(returning)?,
            with,
        })
    }

    fn delete(&mut self, delete: sp::Delete, with: Option<With>) -> Result<Delete> {
        let sp::Delete {
            delete_token,
            optimizer_hints: _,
            tables,
            from,
            using,
            selection,
            returning,
            output,
            order_by,
            limit,
        } = delete;
        self.last_pos = self.source.span_pos(delete_token.0.span);
        self.absent(!tables.is_empty(), "DELETE")?;
        self.absent(output.is_some(), "OUTPUT")?;
        let sp::FromTable::WithFromKeyword(mut from) = from else {
            return self.malformed("DELETE needs FROM");
        };
        let table = match (from.pop(), from.is_empty()) {
            (Some(table), true) => self.target_table(table)?,
            _ => return self.syntax(",", Pos::UNKNOWN),
        };
        Ok(Delete {
            table,
            using: self.from(using.unwrap_or_default())?,
            filter: self.opt_expr(selection)?,
            order_by: self.order_by_exprs(order_by)?,
            limit: self.opt_expr(limit)?,
            returning: self.returning(returning)?,
            with,
        })
    }

    /// The table that an UPDATE or DELETE changes: one name, perhaps with an alias.
    fn target_table(&mut self, table: sp::TableWithJoins) -> Result<TableRef> {
        let mut tables = self.from(vec![table])?;
        match tables.pop() {
            Some(TableExpr::Table(table)) if !table.ordinality => Ok(table),
            _ => self.syntax("JOIN", Pos::UNKNOWN),
        }
    }
}
