//! The tables of `pg_catalog` about what a database here never has: their being empty is the answer.
//!
//! When a feature comes, its table moves to where its rows are computed.

use super::VirtualTable;
use super::pg_catalog::table;
use crate::datum::Row;
use crate::error::Result;
use crate::session::SessionInfo;
use crate::types::SqlType as S;

fn none(_: &SessionInfo) -> Result<Vec<Row>> {
    Ok(Vec::new())
}

const TEXTS: S = S::Array(&S::Text);

pub(super) const TABLES: &[VirtualTable] = &[
    // Members of roles.
    table(
        1261,
        "pg_auth_members",
        &[("roleid", S::Oid), ("member", S::Oid), ("grantor", S::Oid), ("admin_option", S::Bool)],
        none,
    ),
    // Comments.
    table(
        2609,
        "pg_description",
        &[
            ("objoid", S::Oid),
            ("classoid", S::Oid),
            ("objsubid", S::Int4),
            ("description", S::Text),
        ],
        none,
    ),
    table(
        2396,
        "pg_shdescription",
        &[("objoid", S::Oid), ("classoid", S::Oid), ("description", S::Text)],
        none,
    ),
    table(
        3501,
        "pg_enum",
        &[
            ("oid", S::Oid),
            ("enumtypid", S::Oid),
            ("enumsortorder", S::Float4),
            ("enumlabel", S::Name),
        ],
        none,
    ),
    table(
        3079,
        "pg_extension",
        &[
            ("oid", S::Oid),
            ("extname", S::Name),
            ("extowner", S::Oid),
            ("extnamespace", S::Oid),
            ("extrelocatable", S::Bool),
            ("extversion", S::Text),
        ],
        none,
    ),
    table(
        2611,
        "pg_inherits",
        &[("inhrelid", S::Oid), ("inhparent", S::Oid), ("inhseqno", S::Int4)],
        none,
    ),
    // Tables that are partitioned the way of PostgreSQL.
    table(
        3350,
        "pg_partitioned_table",
        &[
            ("partrelid", S::Oid),
            ("partstrat", S::QChar),
            ("partnatts", S::Int2),
            ("partdefid", S::Oid),
            ("partattrs", S::Array(&S::Int2)),
        ],
        none,
    ),
    // Row-level security.
    table(
        3256,
        "pg_policy",
        &[
            ("oid", S::Oid),
            ("polname", S::Name),
            ("polrelid", S::Oid),
            ("polcmd", S::QChar),
            ("polpermissive", S::Bool),
            ("polroles", S::Array(&S::Oid)),
            ("polqual", S::Text),
            ("polwithcheck", S::Text),
        ],
        none,
    ),
    table(
        6104,
        "pg_publication",
        &[
            ("oid", S::Oid),
            ("pubname", S::Name),
            ("pubowner", S::Oid),
            ("puballtables", S::Bool),
            ("pubinsert", S::Bool),
            ("pubupdate", S::Bool),
            ("pubdelete", S::Bool),
            ("pubtruncate", S::Bool),
            ("pubviaroot", S::Bool),
        ],
        none,
    ),
    table(
        6106,
        "pg_publication_rel",
        &[("oid", S::Oid), ("prpubid", S::Oid), ("prrelid", S::Oid)],
        none,
    ),
    table(3541, "pg_range", &[("rngtypid", S::Oid), ("rngsubtype", S::Oid)], none),
    // Rules of views.
    table(
        2618,
        "pg_rewrite",
        &[
            ("oid", S::Oid),
            ("rulename", S::Name),
            ("ev_class", S::Oid),
            ("ev_type", S::QChar),
            ("ev_enabled", S::QChar),
            ("is_instead", S::Bool),
        ],
        none,
    ),
    // Extended statistics.
    table(
        3381,
        "pg_statistic_ext",
        &[
            ("oid", S::Oid),
            ("stxrelid", S::Oid),
            ("stxname", S::Name),
            ("stxnamespace", S::Oid),
            ("stxowner", S::Oid),
            ("stxstattarget", S::Int4),
            ("stxkeys", S::Array(&S::Int2)),
            ("stxkind", S::Array(&S::QChar)),
        ],
        none,
    ),
    table(
        2620,
        "pg_trigger",
        &[
            ("oid", S::Oid),
            ("tgrelid", S::Oid),
            ("tgparentid", S::Oid),
            ("tgname", S::Name),
            ("tgfoid", S::Oid),
            ("tgtype", S::Int2),
            ("tgenabled", S::QChar),
            ("tgisinternal", S::Bool),
            ("tgconstrrelid", S::Oid),
            ("tgconstrindid", S::Oid),
            ("tgconstraint", S::Oid),
            ("tgdeferrable", S::Bool),
            ("tginitdeferred", S::Bool),
            ("tgargs", TEXTS),
        ],
        none,
    ),
];
