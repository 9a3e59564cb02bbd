//! Runs the scripts of `testscripts/`: each `.sql` file is statements separated by blank lines, the
//! `.out` file beside it what they answer. `UPDATE_EXPECT=1` rewrites the answers.

mod harness;

use std::path::Path;

use harness::{Cluster, block_on, run, show};

fn script(name: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let input = std::fs::read_to_string(dir.join(format!("{name}.sql"))).expect("the script");
    let cluster = Cluster::new(1);
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
