//! Runs the scripts of `testscripts/`: each `.sql` file is statements separated by blank lines, the
//! `.out` file beside it what they answer. `UPDATE_EXPECT=1` rewrites the answers.
//!
//! Each runs twice, the second time with bounds drawn at random, which change no answer;
//! `CRDB_SEED` repeats a draw.

mod harness;

use std::path::Path;
use std::sync::Arc;

use harness::{Cluster, block_on, run, show};

fn script(name: &str) {
    let seed = std::env::var("CRDB_SEED").ok().and_then(|seed| seed.parse().ok());
    let drawn = Cluster::drawn(1, seed.unwrap_or_else(rand::random));
    for cluster in [Cluster::new(1), drawn] {
        run_on(&cluster, name);
    }
}

fn run_on(cluster: &Arc<Cluster>, name: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let input = std::fs::read_to_string(dir.join(format!("{name}.sql"))).expect("the script");
    let mut session = cluster.session(0);
    let mut out = String::new();
    for statement in input.split("\n\n").map(str::trim).filter(|s| !s.is_empty()) {
        if statement.lines().all(|l| l.starts_with("--")) {
            out.push_str(&format!("{statement}\n\n"));
            continue;
        }
        let result = block_on(run(&mut session, statement.trim_end_matches(';')));
        out.push_str(&format!("{statement}\n----\n{}\n", show(&session, &result)));
    }
    expect_test::expect_file![dir.join(format!("{name}.out"))].assert_eq(&out);
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            script(stringify!($name));
        })*
    };
}

scripts! { splits cluster_settings ddl dml expressions queries subqueries lateral primary_key errors catalog settings types psql sqlstates }
