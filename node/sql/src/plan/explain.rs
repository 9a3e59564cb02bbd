//! Plans as text.

use super::{JoinKind, LateralJoin, Plan, QueryPlan, Scan, SetKind, StatementPlan};

fn line(out: &mut Vec<String>, depth: usize, text: &str) {
    let lead =
        if depth == 0 { String::new() } else { format!("{}└── ", "    ".repeat(depth - 1)) };
    out.push(format!("{lead}• {text}"));
}

fn detail(out: &mut Vec<String>, depth: usize, text: &str) {
    out.push(format!("{}  {text}", "    ".repeat(depth)));
}

impl Scan {
    fn explain(&self, depth: usize, out: &mut Vec<String>) {
        line(out, depth, if self.reverse { "revscan" } else { "scan" });
        detail(out, depth, &format!("table: {}@{}", self.table.name, self.table.key_name));
        detail(out, depth, &format!("spans: {}", self.constraint.describe(&self.table)));
        if self.filter.is_some() {
            detail(out, depth, "filter: on each row");
        }
    }
}

impl LateralJoin {
    fn explain(&self, depth: usize, out: &mut Vec<String>) {
        let kind = if self.keeps_left { " (left outer)" } else { "" };
        line(out, depth, &format!("apply join{kind}"));
        self.left.explain(depth + 1, out);
        self.right.explain(depth + 1, out);
    }
}

impl Plan {
    fn explain(&self, depth: usize, out: &mut Vec<String>) {
        let next = depth + 1;
        match self {
            Self::Values(rows) => {
                line(out, depth, "values");
                detail(out, depth, &format!("size: {} row(s)", rows.len()));
            }
            Self::Scan(scan) => scan.explain(depth, out),
            Self::Virtual(table) => {
                line(out, depth, "virtual table");
                detail(out, depth, &format!("table: {}.{}", table.schema, table.name));
            }
            Self::Show(show) => {
                line(out, depth, "show");
                detail(out, depth, &format!("statement: {show}"));
            }
            Self::Filter { input, .. } => {
                line(out, depth, "filter");
                input.explain(next, out);
            }
            Self::Project { input, .. } => {
                line(out, depth, "render");
                input.explain(next, out);
            }
            Self::ProjectSet { input, .. } => {
                line(out, depth, "project set");
                input.explain(next, out);
            }
            Self::Ordinality(input) => {
                line(out, depth, "ordinality");
                input.explain(next, out);
            }
            Self::Join(join) => {
                let how = if join.keys.is_empty() { "cross join" } else { "hash join" };
                let kind = match join.kind {
                    JoinKind::Inner => "",
                    JoinKind::Left => " (left outer)",
                    JoinKind::Right => " (right outer)",
                    JoinKind::Full => " (full outer)",
                };
                line(out, depth, &format!("{how}{kind}"));
                join.left.explain(next, out);
                join.right.explain(next, out);
            }
            Self::LateralJoin(join) => join.explain(depth, out),
            Self::Aggregate { input, groups, .. } => {
                line(out, depth, if groups.is_empty() { "group (scalar)" } else { "group (hash)" });
                input.explain(next, out);
            }
            Self::Sort { input, keys } => {
                line(out, depth, "sort");
                detail(out, depth, &format!("keys: {}", keys.len()));
                input.explain(next, out);
            }
            Self::Limit { input, .. } => {
                line(out, depth, "limit");
                input.explain(next, out);
            }
            Self::Distinct { input, .. } => {
                line(out, depth, "distinct");
                input.explain(next, out);
            }
            Self::SetOp { kind, all, left, right } => {
                let name = match kind {
                    SetKind::Union => "union",
                    SetKind::Intersect => "intersect",
                    SetKind::Except => "except",
                };
                line(out, depth, &format!("{name}{}", if *all { " all" } else { "" }));
                left.explain(next, out);
                right.explain(next, out);
            }
            Self::Apply { input, items } => {
                line(out, depth, "apply");
                input.explain(next, out);
                for item in items {
                    item.plan.explain(next, out);
                }
            }
        }
    }
}

impl QueryPlan {
    fn explain(&self, depth: usize, out: &mut Vec<String>) {
        self.root.explain(depth, out);
        for (i, slot) in self.slots.iter().enumerate() {
            line(out, depth, &format!("subquery {}", i + 1));
            slot.plan.explain(depth + 1, out);
        }
    }
}

impl StatementPlan {
    /// The lines of EXPLAIN.
    pub(crate) fn explain(&self) -> Vec<String> {
        let mut out = vec!["distribution: local".to_owned(), String::new()];
        match self {
            Self::Query(query) => query.explain(0, &mut out),
            Self::Insert(insert) => {
                line(&mut out, 0, "insert");
                detail(&mut out, 0, &format!("into: {}", insert.table.name));
                insert.query.explain(1, &mut out);
            }
            Self::Update(update) => {
                line(&mut out, 0, "update");
                detail(&mut out, 0, &format!("table: {}", update.table.name));
                update.query.explain(1, &mut out);
            }
            Self::Delete(delete) => {
                line(&mut out, 0, "delete");
                detail(&mut out, 0, &format!("from: {}", delete.table.name));
                delete.query.explain(1, &mut out);
            }
            Self::Explain(lines) => out.extend(lines.iter().cloned()),
            Self::Utility => line(&mut out, 0, "utility statement"),
        }
        out
    }
}
