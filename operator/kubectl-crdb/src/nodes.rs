//! `kubectl crdb nodes`: a row for each node of a cluster.

use std::process::ExitCode;

use crdb_api::CrdbCluster;
use crdb_api::v1alpha1::{Liveness, NodeRow};

use crate::cli::{Common, NodesArgs};
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::style::{self, Palette, Tone};
use crate::{cluster, output::print_cluster};

/// Runs `nodes`.
pub(crate) async fn run(common: &Common, args: &NodesArgs) -> Result<ExitCode, Failure> {
    let found = cluster::find(common, None).await?;
    let palette = Palette::for_stdout(common.color);
    print_cluster(&found, args.printing.watch, |cluster| text(cluster, args, palette)).await
}

fn text(cluster: &CrdbCluster, args: &NodesArgs, palette: Palette) -> Result<String, Failure> {
    let wanted = |asked: &Option<String>, is: &Option<String>| asked.is_none() || asked == is;
    let mut rows: Vec<&NodeRow> = cluster
        .status
        .iter()
        .flat_map(|status| &status.node_rows)
        .filter(|row| wanted(&args.zone, &row.zone) && wanted(&args.region, &row.region))
        .collect();
    rows.sort_by_key(|row| (row.node_id.unwrap_or(u32::MAX), row.name.clone()));
    match args.printing.output {
        Output::Json => output::json(&rows),
        Output::Yaml => output::yaml(&rows),
        Output::Name => Ok(rows.iter().map(|row| format!("pod/{}\n", row.pod)).collect()),
        Output::Table | Output::Wide if rows.is_empty() => {
            Ok("The operator reports no such nodes.\n".to_owned())
        }
        Output::Table => Ok(table(&rows, false, args.printing.no_headers, palette)),
        Output::Wide => Ok(table(&rows, true, args.printing.no_headers, palette)),
    }
}

/// The table of nodes; wide adds what is rarely needed.
pub(crate) fn table(rows: &[&NodeRow], wide: bool, no_headers: bool, palette: Palette) -> String {
    let mut header = vec!["ID", "NAME", "ZONE", "LIVE", "MEMBER", "RANGES", "LEASES", "VERSION"];
    header.push("K8S-NODE");
    if wide {
        header.extend(["REGION", "POOL", "POD", "READY", "USED", "STORE"]);
    }
    let lines: Vec<Vec<String>> = rows.iter().map(|row| cells(row, wide)).collect();
    let text = style::table((!no_headers).then_some(header.as_slice()), &lines);
    if !palette.0 {
        return text;
    }
    // Whole lines are coloured, since colour within a cell would spoil the alignment.
    let skip = usize::from(!no_headers);
    let paint = |(index, line): (usize, &str)| {
        let row = index.checked_sub(skip).and_then(|index| rows.get(index));
        match row.and_then(|row| tone(row)) {
            Some(tone) => palette.paint(tone, line) + "\n",
            None => format!("{line}\n"),
        }
    };
    text.lines().enumerate().map(paint).collect()
}

fn tone(row: &NodeRow) -> Option<Tone> {
    match row.liveness {
        Liveness::Dead => Some(Tone::Bad),
        Liveness::Suspect | Liveness::Unknown => Some(Tone::Note),
        Liveness::Live => (!row.ready).then_some(Tone::Note),
    }
}

fn cells(row: &NodeRow, wide: bool) -> Vec<String> {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let live = match row.liveness {
        Liveness::Live => "yes",
        Liveness::Suspect => "suspect",
        Liveness::Dead => "no",
        Liveness::Unknown => "unknown",
    };
    let member = match (row.membership, row.draining) {
        (None, _) => "-".to_owned(),
        (Some(membership), false) => membership.as_str().to_owned(),
        (Some(membership), true) => format!("{}, draining", membership.as_str()),
    };
    let mut cells = vec![
        row.node_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        row.name.clone(),
        known(&row.zone),
        live.to_owned(),
        member,
        row.ranges.to_string(),
        row.leases.to_string(),
        known(&row.version),
        known(&row.k8s_node),
    ];
    if wide {
        let ready = if row.ready { "yes" } else { "no" };
        cells.extend([known(&row.region), row.pool.clone(), row.pod.clone(), ready.to_owned()]);
        cells.extend([bytes(row.used_bytes), known(&row.store_uuid)]);
    }
    cells
}

/// A size in the largest binary unit that leaves a number of at least one.
fn bytes(count: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{}.{}{unit}", count / size, count % size * 10 / size),
        None => format!("{count}B"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::cli::Printing;
    use crate::status::tests::{DOWN, HEALTHY};

    fn show(yaml: &str, output: Output, zone: Option<&str>) -> String {
        let printing = Printing { output, ..Printing::default() };
        let args = NodesArgs { zone: zone.map(ToOwned::to_owned), region: None, printing };
        text(&cluster::tests::from_yaml(yaml), &args, Palette(false)).unwrap()
    }

    #[test]
    fn rows_in_order_of_node_ids() {
        expect![[r#"
            ID  NAME      ZONE  LIVE  MEMBER  RANGES  LEASES  VERSION  K8S-NODE
            1   prod-a-1  z1    yes   Active  4       3       v0.1.0   w1
            2   prod-b-1  z2    yes   Active  4       1       v0.1.0   w2
        "#]]
        .assert_eq(&show(HEALTHY, Output::Table, None));
        expect![[r#"
            ID  NAME      ZONE  LIVE  MEMBER  RANGES  LEASES  VERSION  K8S-NODE  REGION  POOL  POD         READY  USED  STORE
            1   prod-a-1  -     yes   Active  4       4       -        -         -       a     prod-a-1-0  yes    0B    -
            -   prod-a-2  -     no    -       0       0       -        -         -       a     prod-a-2-0  no     0B    -
        "#]].assert_eq(&show(DOWN, Output::Wide, None));
    }

    #[test]
    fn rows_of_a_zone_for_machines() {
        assert_eq!(show(HEALTHY, Output::Name, Some("z2")), "pod/prod-b-1-0\n");
        assert!(show(HEALTHY, Output::Json, Some("z2")).contains("\"nodeID\": 2"));
        assert!(show(HEALTHY, Output::Yaml, Some("z2")).starts_with("- name: prod-b-1\n"));
        assert_eq!(
            show(HEALTHY, Output::Table, Some("z9")),
            "The operator reports no such nodes.\n"
        );
    }

    #[test]
    fn trouble_is_coloured_by_line() {
        let cluster = cluster::tests::from_yaml(DOWN);
        let rows: Vec<&NodeRow> = cluster.status.iter().flat_map(|s| &s.node_rows).collect();
        let text = table(&rows, false, false, Palette(true));
        assert_eq!(text.matches("\u{1b}[31m").count(), 1, "{text}");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(5), "5B");
        assert_eq!(bytes(64 << 20), "64.0MiB");
        assert_eq!(bytes(3 << 39), "1.5TiB");
    }
}
