//! CREATE.

use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::unavailable;
use crate::ast::{
    ColumnDef, CreateTable, ForeignKey, Ident, IndexColumn, Maintenance, Pos, Statement,
    TableConstraint,
};
use crate::convert::{Result, feature};
use crate::error::ParseError;

/// Parses a CREATE statement.
pub(super) fn create(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let start = cursor.pos();
    cursor.expect_word("CREATE")?;
    if cursor.eat_word("DATABASE") {
        return super::create_database(cursor);
    }
    if cursor.eat_word("TABLE") {
        return create_table(cursor);
    }
    if cursor.eat_word("EXTENSION") {
        cursor.skip_rest();
        return Ok(Statement::Maintenance(Maintenance::CreateExtension));
    }
    for words in [&["TEMP", "TABLE"], &["TEMPORARY", "TABLE"]] {
        if cursor.eat_words(words) {
            return Err(ParseError::unsupported("temporary tables", start));
        }
    }
    if cursor.eat_words(&["UNLOGGED", "TABLE"]) {
        return create_table(cursor);
    }
    unavailable::object_command(cursor, "CREATE", start)
}

fn create_table(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = cursor.eat_words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.object_name()?;
    let mut table = CreateTable {
        name,
        if_not_exists,
        columns: Vec::new(),
        constraints: Vec::new(),
        as_query: None,
        unsupported: Vec::new(),
    };
    if cursor.peek_word().as_deref() == Some("AS") {
        return Err(ParseError::unsupported("CREATE TABLE AS", cursor.pos()));
    }
    if cursor.eat_words(&["PARTITION", "OF"]) {
        return Err(ParseError::unsupported("CREATE TABLE PARTITION OF", cursor.pos()));
    }
    cursor.expect_open_paren()?;
    if !cursor.eat(&Token::RParen) {
        loop {
            element(cursor, &mut table)?;
            if !cursor.eat_comma() {
                break;
            }
        }
        cursor.expect_close_paren()?;
    }
    table_options(cursor, &mut table)?;
    Ok(Statement::CreateTable(Box::new(table)))
}

/// One element between the parentheses.
fn element(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Result<()> {
    let pos = cursor.pos();
    // A column may carry any of the words that are not reserved, `index` or `family` for example,
    // so those are elements of their own only where no type follows.
    let second = cursor.peek_nth_word(1);
    match cursor.peek_word().as_deref() {
        Some("CONSTRAINT") => {
            cursor.next();
            let name = cursor.ident()?;
            let constraint = constraint(cursor, Some(name))?;
            table.constraints.push(constraint);
            return Ok(());
        }
        Some("PRIMARY" | "UNIQUE" | "CHECK" | "FOREIGN") => {
            let constraint = constraint(cursor, None)?;
            table.constraints.push(constraint);
            return Ok(());
        }
        Some("INDEX") if index_follows(cursor) => {
            let constraint = index(cursor, false, pos)?;
            table.constraints.push(constraint);
            return Ok(());
        }
        Some("INVERTED") if second.as_deref() == Some("INDEX") => {
            cursor.next();
            let constraint = index(cursor, true, pos)?;
            table.constraints.push(constraint);
            return Ok(());
        }
        Some("FAMILY") if index_follows(cursor) => {
            cursor.next();
            if !cursor.at_open_paren() {
                cursor.ident()?;
            }
            cursor.paren_idents()?;
            table.unsupported.push(feature("column families", pos));
            return Ok(());
        }
        Some("LIKE") => return Err(ParseError::unsupported("CREATE TABLE (LIKE ...)", pos)),
        Some("EXCLUDE") => return Err(ParseError::unsupported("exclusion constraints", pos)),
        _ => {}
    }
    let column = column(cursor)?;
    table.columns.push(column);
    Ok(())
}

/// Whether `INDEX (` or `INDEX name (` stands at the cursor, the latter not a type with a length.
fn index_follows(cursor: &Cursor<'_>) -> bool {
    const TYPES_WITH_LENGTH: [&str; 9] =
        ["VARCHAR", "CHAR", "CHARACTER", "STRING", "DECIMAL", "NUMERIC", "DEC", "BIT", "VARBIT"];
    match cursor.ahead(1) {
        Token::LParen => true,
        Token::Word(word) => {
            *cursor.ahead(2) == Token::LParen
                && !TYPES_WITH_LENGTH.iter().any(|name| word.value.eq_ignore_ascii_case(name))
        }
        _ => false,
    }
}

fn column(cursor: &mut Cursor<'_>) -> Result<ColumnDef> {
    cursor.check_name()?;
    let name = cursor.library(Parser::parse_identifier)?;
    if matches!(cursor.ahead(0), Token::Comma | Token::RParen | Token::EOF) {
        return cursor.syntax_here();
    }
    let ty = cursor.library(Parser::parse_data_type)?;
    let mut column = cursor.converter.column_start(name, ty)?;
    loop {
        let pos = cursor.pos();
        let constraint = if cursor.eat_word("CONSTRAINT") { Some(cursor.ident()?) } else { None };
        if cursor.eat_words(&["NOT", "VISIBLE"]) {
            column.hidden = true;
            continue;
        }
        if cursor.peek_word().as_deref() == Some("AS") {
            computed(cursor)?;
            column.unsupported.push(feature("computed columns", pos));
            continue;
        }
        if cursor.eat_words(&["PRIMARY", "KEY"]) {
            if cursor.eat_words(&["USING", "HASH"]) {
                return Err(ParseError::unsupported("hash-sharded indexes", pos));
            }
            deferrable(cursor)?;
            if column.primary_key.is_some() {
                return cursor.syntax_here();
            }
            column.primary_key = Some(constraint);
            continue;
        }
        for words in
            [&["CREATE", "FAMILY"][..], &["CREATE", "IF", "NOT", "EXISTS", "FAMILY"], &["FAMILY"]]
        {
            if cursor.eat_words(words) {
                return Err(ParseError::unsupported("column families", pos));
            }
        }
        if matches!(
            cursor.peek_word().as_deref(),
            Some("COMMENT" | "AUTO_INCREMENT" | "AUTOINCREMENT")
        ) {
            return cursor.syntax_here();
        }
        match cursor.library(Parser::parse_optional_column_option)? {
            Some(option) => {
                cursor.converter.column_option(&mut column, constraint, option, pos)?;
            }
            None if constraint.is_some() => return cursor.syntax_here(),
            None => return Ok(column),
        }
    }
}

/// `AS (expr) STORED | VIRTUAL`.
fn computed(cursor: &mut Cursor<'_>) -> Result<()> {
    cursor.expect_word("AS")?;
    cursor.expect_open_paren()?;
    cursor.expr()?;
    cursor.expect_close_paren()?;
    if cursor.eat_word("STORED") || cursor.eat_word("VIRTUAL") {
        Ok(())
    } else {
        cursor.syntax_here()
    }
}

/// `[NOT] DEFERRABLE`, `INITIALLY ...`: immediate is what there is.
fn deferrable(cursor: &mut Cursor<'_>) -> Result<()> {
    let pos = cursor.pos();
    if cursor.eat_word("DEFERRABLE") {
        return Err(ParseError::unsupported("deferrable constraints", pos));
    }
    cursor.eat_words(&["NOT", "DEFERRABLE"]);
    cursor.eat_words(&["INITIALLY", "IMMEDIATE"]);
    Ok(())
}

/// A table constraint; also behind ALTER TABLE ADD.
pub(super) fn constraint(cursor: &mut Cursor<'_>, name: Option<Ident>) -> Result<TableConstraint> {
    let pos = cursor.pos();
    if cursor.eat_words(&["PRIMARY", "KEY"]) {
        let columns = index_columns(cursor)?;
        index_options(cursor)?;
        deferrable(cursor)?;
        return Ok(TableConstraint::PrimaryKey { name, columns, pos });
    }
    if cursor.eat_word("UNIQUE") {
        let mut name = name;
        if cursor.eat_word("INDEX") && !cursor.at_open_paren() {
            name = Some(cursor.ident()?);
        }
        let columns = index_columns(cursor)?;
        index_options(cursor)?;
        deferrable(cursor)?;
        return Ok(TableConstraint::Unique { name, columns, pos });
    }
    if cursor.eat_word("CHECK") {
        cursor.expect_open_paren()?;
        let expr = cursor.expr()?;
        cursor.expect_close_paren()?;
        return Ok(TableConstraint::Check { name, expr, pos });
    }
    if cursor.eat_words(&["FOREIGN", "KEY"]) {
        let columns = cursor.paren_idents()?;
        cursor.expect_word("REFERENCES")?;
        let table = cursor.object_name()?;
        let referenced = if cursor.at_open_paren() { cursor.paren_idents()? } else { Vec::new() };
        foreign_key_options(cursor)?;
        let key = ForeignKey { name, columns, table, referenced, pos };
        return Ok(TableConstraint::ForeignKey(key));
    }
    if cursor.eat_word("EXCLUDE") {
        return Err(ParseError::unsupported("exclusion constraints", pos));
    }
    cursor.syntax_here()
}

/// `MATCH ...`, `ON DELETE ...`, `ON UPDATE ...`, `[NOT] DEFERRABLE`.
fn foreign_key_options(cursor: &mut Cursor<'_>) -> Result<()> {
    loop {
        if cursor.eat_word("MATCH") {
            cursor.any_ident()?;
        } else if cursor.eat_words(&["ON", "DELETE"]) || cursor.eat_words(&["ON", "UPDATE"]) {
            let known = cursor.eat_word("CASCADE")
                || cursor.eat_word("RESTRICT")
                || cursor.eat_words(&["NO", "ACTION"])
                || cursor.eat_words(&["SET", "NULL"])
                || cursor.eat_words(&["SET", "DEFAULT"]);
            if !known {
                return cursor.syntax_here();
            }
        } else {
            return deferrable(cursor);
        }
    }
}

fn index(cursor: &mut Cursor<'_>, inverted: bool, pos: Pos) -> Result<TableConstraint> {
    cursor.expect_word("INDEX")?;
    let name = if cursor.at_open_paren() { None } else { Some(cursor.ident()?) };
    let columns = index_columns(cursor)?;
    index_options(cursor)?;
    Ok(TableConstraint::Index { name, columns, inverted, pos })
}

fn index_columns(cursor: &mut Cursor<'_>) -> Result<Vec<IndexColumn>> {
    cursor.expect_open_paren()?;
    let mut columns = Vec::new();
    loop {
        let expr = cursor.expr()?;
        let descending = cursor.eat_word("DESC");
        if !descending {
            cursor.eat_word("ASC");
        }
        columns.push(IndexColumn { expr, descending });
        if !cursor.eat_comma() {
            break;
        }
    }
    cursor.expect_close_paren()?;
    Ok(columns)
}

/// Options of a key or index: the ones that would change its meaning are refused.
fn index_options(cursor: &mut Cursor<'_>) -> Result<()> {
    loop {
        let pos = cursor.pos();
        if cursor.eat_words(&["USING", "HASH"]) {
            return Err(ParseError::unsupported("hash-sharded indexes", pos));
        } else if cursor.eat_word("STORING")
            || cursor.eat_word("COVERING")
            || cursor.eat_word("INCLUDE")
        {
            return Err(ParseError::unsupported("indexes that store columns", pos));
        } else if cursor.peek_word().as_deref() == Some("PARTITION") {
            return Err(ParseError::unsupported("PARTITION BY", pos));
        } else if cursor.eat_words(&["NOT", "VISIBLE"]) || cursor.eat_word("VISIBLE") {
            continue;
        } else if cursor.eat_word("WITH") {
            storage_parameters(cursor)?;
        } else if cursor.eat_word("WHERE") {
            return Err(ParseError::unsupported("partial indexes", pos));
        } else {
            return Ok(());
        }
    }
}

/// `(name = value, ...)`: storage parameters say how, not what; they are read and not kept.
fn storage_parameters(cursor: &mut Cursor<'_>) -> Result<()> {
    cursor.expect_open_paren()?;
    loop {
        cursor.dotted_name()?;
        if cursor.eat_equals() {
            cursor.expr()?;
        }
        if !cursor.eat_comma() {
            break;
        }
    }
    cursor.expect_close_paren()
}

/// What follows the closing parenthesis.
fn table_options(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Result<()> {
    loop {
        let pos = cursor.pos();
        match cursor.peek_word().as_deref() {
            None => return cursor.expect_end(),
            Some("WITH") => {
                cursor.next();
                storage_parameters(cursor)?;
            }
            Some("PARTITION") => {
                table.unsupported.push(feature("PARTITION BY", pos));
                cursor.skip_rest();
            }
            Some("LOCALITY") => {
                table.unsupported.push(feature("LOCALITY", pos));
                cursor.skip_rest();
            }
            Some("INHERITS") => return Err(ParseError::unsupported("INHERITS", pos)),
            Some("INTERLEAVE") => {
                return Err(ParseError::unsupported("INTERLEAVE IN PARENT", pos));
            }
            Some("AS") => return Err(ParseError::unsupported("CREATE TABLE AS", pos)),
            Some("ON") => return Err(ParseError::unsupported("ON COMMIT", pos)),
            Some("TABLESPACE") => return Err(ParseError::unsupported("tablespaces", pos)),
            Some(_) => return cursor.syntax_here(),
        }
    }
}
