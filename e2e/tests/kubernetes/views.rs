//! What users see of a cluster: `kubectl get`, `describe` and `explain`, and the plugin.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use crdb_api::v1alpha1::Liveness;

use crate::bench::{In as _, environment, eventually, kubectl, plugin};
use crate::zones::{self, NAME, NAMESPACE, PODS};

fn ensure_has(text: &str, wanted: &[&str]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|part| !text.contains(**part)).collect();
    ensure!(missing.is_empty(), "without {missing:?}:\n{text}");
    Ok(())
}

/// The three-zone cluster of the sample becomes Available, a node in each zone, and everything
/// that shows clusters shows that.
#[test]
fn a_cluster_of_three_zones_becomes_available_and_shows_its_zones() -> Result<()> {
    zones::beside_others(|| {
        let status = zones::status()?;
        let nodes = status.nodes.context("counts")?;
        ensure!((nodes.desired, nodes.ready, nodes.live) == (3, 3, 3), "{nodes:?}");
        let rows = status.node_rows.iter();
        let rows: Vec<_> =
            rows.map(|row| (row.zone.as_deref().unwrap_or_default(), row.pod.as_str())).collect();
        ensure!(rows == PODS, "{rows:?}");
        ensure!(status.node_rows.iter().all(|row| row.liveness == Liveness::Live));
        every_pod_is_in_its_zone()?;
        the_database_knows_the_zones()?;
        the_plugin_shows_the_nodes()
    })
}

/// The zone is that of the machine, not only what the database was told.
fn every_pod_is_in_its_zone() -> Result<()> {
    let pods = zones::pods()?;
    for (zone, pod) in PODS {
        let spec = pods.get(pod).and_then(|pod| pod.spec.as_ref()).context("a pod is missing")?;
        let machine = spec.node_name.as_deref().context("a pod is not scheduled")?;
        let label = "get node --output=jsonpath={.metadata.labels.topology\\.kubernetes\\.io/zone}";
        let found = kubectl(label)?.arg(machine).output()?;
        ensure!(found == zone, "{pod} is on {machine} in {found}");
    }
    Ok(())
}

fn the_database_knows_the_zones() -> Result<()> {
    let rows = zones::node_status("")?;
    let localities: BTreeSet<_> = rows.iter().filter_map(|row| row.get("locality")).collect();
    let wanted: Vec<_> = PODS.iter().map(|(zone, _)| format!("region=r1,zone={zone}")).collect();
    ensure!(localities == wanted.iter().collect(), "node status: {rows:?}");
    let live = rows.iter().all(|row| row.get("is_live").map(String::as_str) == Some("true"));
    ensure!(live && rows.len() == 3, "node status: {rows:?}");
    Ok(())
}

fn the_plugin_shows_the_nodes() -> Result<()> {
    let nodes = plugin(NAMESPACE)?.arg("nodes").output()?;
    for (zone, pod) in PODS {
        let slot = pod.trim_end_matches("-0");
        let line = nodes.lines().find(|line| line.contains(slot));
        let cells: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        let shown = cells.get(1..5) == Some(&[slot, zone, "yes", "Active"][..]);
        ensure!(shown, "{slot} in {zone}:\n{nodes}");
    }
    let status = plugin(NAMESPACE)?.args_of(&["status", NAME]).output()?;
    let sql = format!("{NAME}-sql.{NAMESPACE}.svc:26257");
    ensure_has(&status, &["AllNodesReady", "3 wanted, 3 ready, 3 live", "QuorumHealthy", &sql])?;
    let version = plugin(NAMESPACE)?.arg("version").output()?;
    ensure_has(&version, &[environment_version()?.as_str()])
}

fn environment_version() -> Result<String> {
    Ok(crate::installation::image(&environment()?.node_image)?.1.to_owned())
}

/// One line says how a cluster is; the details are a `describe` away, the fields an `explain`.
#[test]
fn kubectl_shows_clusters_in_words() -> Result<()> {
    zones::beside_others(|| {
        let line = eventually("`kubectl get crdbclusters`", || {
            let table = kubectl("get crdbclusters")?.within(NAMESPACE).output()?;
            let (header, row) = table.split_once('\n').context("a table")?;
            // Columns are told by where their header stands: a cell may be empty.
            let cell = |name: &str| -> Result<String> {
                let start = header.find(name).with_context(|| format!("no {name} in\n{table}"))?;
                let rest = row.get(start..).unwrap_or_default();
                Ok(rest.split_whitespace().next().unwrap_or_default().to_owned())
            };
            let shown = ["NAME", "DESIRED", "READY", "VERSION", "AVAILABLE", "REASON", "UNDERREPL"]
                .map(&cell);
            let shown = shown.into_iter().collect::<Result<Vec<_>>>()?;
            let version = environment_version()?;
            let wanted = [NAME, "3", "3", version.as_str(), "True", "AllNodesReady", "0"];
            ensure!(shown == wanted, "{table}");
            cell("AGE")
        })?;
        ensure!(line.starts_with(|first: char| first.is_ascii_digit()), "an age is {line:?}");

        let described = kubectl("describe crdbcluster")?.arg(NAME).within(NAMESPACE).output()?;
        let reasons =
            ["AllNodesReady", "QuorumHealthy", "AsExpected", "Bootstrapped", "Bound", "Idle"];
        for reason in reasons {
            let found = described.lines().map(str::trim).any(|line| {
                line.strip_prefix("Reason:").is_some_and(|value| value.trim() == reason)
            });
            ensure!(found, "no condition has the reason {reason}:\n{described}");
        }
        let (_, events) = described.split_once("\nEvents:").context("no events are described")?;
        ensure_has(events, &["Bootstrapped", "AllNodesReady", "QuorumHealthy"])?;

        let explained = kubectl("explain crdbcluster.spec.pools")?.output()?;
        ensure_has(&explained, &["GROUP:      crdb.dev", "FIELD: pools", "DESCRIPTION:"])?;
        for field in ["name", "nodes", "region", "zone"] {
            let mut lines = explained.lines().skip_while(|line| {
                line.strip_prefix("  ").and_then(|line| line.split('\t').next()) != Some(field)
            });
            ensure!(lines.next().is_some(), "no field {field}:\n{explained}");
            let text = lines.next().unwrap_or_default().trim();
            ensure!(
                text.ends_with('.') || text.len() > 20,
                "{field} is not explained:\n{explained}"
            );
        }
        Ok(())
    })
}
