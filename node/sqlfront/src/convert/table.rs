//! Column definitions of CREATE TABLE.

use sqlparser::ast as sp;

use super::{Converter, Result};
use crate::ast::{ColumnDef, ForeignKey, Ident, Pos, TableConstraint, Unsupported};

impl Converter<'_> {
    /// Starts a column definition from its name and type.
    pub(crate) fn column_start(&mut self, name: sp::Ident, ty: sp::DataType) -> Result<ColumnDef> {
        let name = self.ident(name)?;
        Ok(ColumnDef {
            ty: self.type_name(ty)?,
            name,
            nullable: None,
            default: None,
            primary_key: None,
            collation: None,
            constraints: Vec::new(),
            hidden: false,
            unsupported: Vec::new(),
        })
    }

    /// Adds one column option.
    pub(crate) fn column_option(
        &mut self,
        column: &mut ColumnDef,
        name: Option<Ident>,
        option: sp::ColumnOption,
        pos: Pos,
    ) -> Result<()> {
        use sp::ColumnOption as O;
        match option {
            O::Null => self.set_nullable(column, true, pos),
            O::NotNull => self.set_nullable(column, false, pos),
            O::Default(expr) => {
                if column.default.is_some() {
                    return self.conflict(column, "multiple default values specified", pos);
                }
                column.default = Some(self.expr(expr)?);
                Ok(())
            }
            O::PrimaryKey(_) => {
                if column.primary_key.is_some() {
                    return self.conflict(column, "multiple primary keys specified", pos);
                }
                column.primary_key = Some(name);
                Ok(())
            }
            O::Unique(_) => {
                let columns = vec![self_column(column)];
                column.constraints.push(TableConstraint::Unique { name, columns, pos });
                Ok(())
            }
            O::Check(check) => {
                let expr = self.expr(*check.expr)?;
                column.constraints.push(TableConstraint::Check { name, expr, pos });
                Ok(())
            }
            O::ForeignKey(key) => {
                let columns = vec![column.name.clone()];
                let table = self.object_name(key.foreign_table)?;
                let referenced = self.idents(key.referred_columns)?;
                let key = ForeignKey { name, columns, table, referenced, pos };
                column.constraints.push(TableConstraint::ForeignKey(key));
                Ok(())
            }
            O::Collation(collation) => {
                column.collation = Some(self.object_name(collation)?);
                Ok(())
            }
            O::Generated { generation_expr: Some(_), .. } => {
                column.unsupported.push(feature("computed columns", pos));
                Ok(())
            }
            O::Generated { .. } | O::Identity(_) => {
                column.unsupported.push(feature("identity columns", pos));
                Ok(())
            }
            O::OnUpdate(_) => {
                column.unsupported.push(feature("ON UPDATE expressions", pos));
                Ok(())
            }
            other => self.syntax(&other.to_string(), pos),
        }
    }

    fn set_nullable(&self, column: &mut ColumnDef, nullable: bool, pos: Pos) -> Result<()> {
        if column.nullable.is_some_and(|before| before != nullable) {
            return self.conflict(column, "conflicting NULL/NOT NULL declarations", pos);
        }
        column.nullable = Some(nullable);
        Ok(())
    }

    fn conflict<T>(&self, column: &ColumnDef, what: &str, pos: Pos) -> Result<T> {
        Err(crate::error::ParseError::new(
            crate::error::ParseErrorKind::Syntax,
            format!("{what} for column \"{}\"", column.name.value),
            pos,
        ))
    }
}

/// A reference to the column itself, as an index column.
fn self_column(column: &ColumnDef) -> crate::ast::IndexColumn {
    let parts = vec![column.name.clone()];
    let expr = crate::ast::Expr::Column(crate::ast::ColumnRef { parts });
    crate::ast::IndexColumn { expr, descending: false }
}

/// A recognised clause that is not available.
pub(crate) fn feature(name: &str, pos: Pos) -> Unsupported {
    Unsupported { feature: name.to_owned(), hint: None, pos }
}
