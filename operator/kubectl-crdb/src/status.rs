//! `kubectl crdb status`: how one cluster is, on one screen.
//!
//! What is wrong comes first and says what to do next. Only what the operator reported is shown,
//! with a warning when that is older than the latest change of the spec.

use std::process::ExitCode;

use crdb_api::CrdbCluster;
use crdb_api::v1alpha1::{CrdbClusterStatus, Liveness, NodeRow};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::cli::{Common, StatusArgs};
use crate::failure::Failure;
use crate::output::{self, Output, print_cluster};
use crate::style::{self, Palette, Tone};
use crate::{cluster, nodes};

/// Conditions that are as they should be when they are False.
const NEGATIVE: &[&str] = &["Degraded", "Progressing", "Decommissioning"];

/// Runs `status`.
pub(crate) async fn run(common: &Common, args: &StatusArgs) -> Result<ExitCode, Failure> {
    if let (Some(name), Some(other)) = (&args.name, &common.cluster)
        && name != other
    {
        return Err(Failure::usage(format!("both {name:?} and --cluster {other:?} are given")));
    }
    let found = cluster::find(common, args.name.as_deref()).await?;
    let palette = Palette::for_stdout(common.color);
    print_cluster(&found, args.printing.watch, |cluster| text(cluster, args, palette, now())).await
}

/// The wall clock, for ages.
#[expect(clippy::disallowed_methods, reason = "the plugin is the edge of the process")]
fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn text(
    cluster: &CrdbCluster,
    args: &StatusArgs,
    palette: Palette,
    now: Timestamp,
) -> Result<String, Failure> {
    match args.printing.output {
        Output::Json => output::json(&output::shown(cluster)),
        Output::Yaml => output::yaml(&output::shown(cluster)),
        Output::Name => Ok(cluster::object_name(cluster) + "\n"),
        Output::Table => Ok(summary(cluster, palette, now, false, args.printing.no_headers)),
        Output::Wide => Ok(summary(cluster, palette, now, true, args.printing.no_headers)),
    }
}

/// The one screen.
fn summary(
    cluster: &CrdbCluster,
    palette: Palette,
    now: Timestamp,
    wide: bool,
    no_headers: bool,
) -> String {
    let name = cluster.name_any();
    let namespace = cluster.namespace().unwrap_or_default();
    let Some(status) = &cluster.status else {
        return format!(
            "Cluster {namespace}/{name}: {}\n\nNext:\n  - kubectl get pods --all-namespaces -l app.kubernetes.io/name=crdb-operator   (does the operator run?)\n",
            palette.paint(Tone::Note, "the operator has not reported on it yet")
        );
    };
    let mut text = head(cluster, status, palette);
    text.push_str("\nConditions:\n");
    text.push_str(&conditions(status, palette, now));
    if !status.node_rows.is_empty() {
        text.push_str("\nNodes:\n");
        let mut rows: Vec<&NodeRow> = status.node_rows.iter().collect();
        rows.sort_by_key(|row| (row.node_id.unwrap_or(u32::MAX), row.name.clone()));
        let table = nodes::table(&rows, wide, no_headers, palette);
        text.extend(table.lines().map(|line| format!("  {line}\n")));
    }
    text.push_str("\nNext:\n");
    for step in next_steps(&name, &namespace, status) {
        text.push_str(&format!("  - {step}\n"));
    }
    text
}

fn head(cluster: &CrdbCluster, status: &CrdbClusterStatus, palette: Palette) -> String {
    let unknown = || "unknown".to_owned();
    let summary = crdb_api::conditions::find(&status.conditions, "Ready").map_or_else(
        || palette.paint(Tone::Note, "unknown"),
        |ready| palette.paint(tone(ready), &ready.reason),
    );
    let version = status.version.clone().unwrap_or_default();
    let running = version.running.unwrap_or_else(unknown);
    let target = &cluster.spec.version;
    let version = if running == *target { running } else { format!("{running}, wanted {target}") };
    let nodes = status.nodes.clone().unwrap_or_default();
    let nodes = format!("{} wanted, {} ready, {} live", nodes.desired, nodes.ready, nodes.live);
    let ranges = status.ranges.as_ref().map_or_else(unknown, |ranges| {
        format!(
            "{} in all, {} under-replicated, {} unavailable",
            ranges.total, ranges.under_replicated, ranges.unavailable
        )
    });
    let endpoints = status.endpoints.clone().unwrap_or_default();
    let mut rows = vec![
        ("Cluster", format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any())),
        ("State", summary),
        ("Version", version),
        ("Nodes", nodes),
        ("Ranges", ranges),
        ("SQL", endpoints.sql),
        ("HTTP", endpoints.http),
        ("Cluster ID", status.cluster_id.clone().unwrap_or_else(|| "none yet".to_owned())),
    ];
    if let Some(external) = endpoints.external {
        rows.push(("External", external));
    }
    if let Some(operation) = &status.operation {
        rows.push(("Operation", format!("{} on {}", operation.type_.as_str(), operation.slot)));
    }
    let seen = status.observed_generation.unwrap_or(0);
    let latest = cluster.metadata.generation.unwrap_or(0);
    if seen < latest {
        let text = format!("change {latest} of the spec is not taken up yet, change {seen} is");
        rows.push(("Warning", palette.paint(Tone::Note, &text)));
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(label, value)| vec![format!("{label}:"), value])
        .collect();
    style::table(None, &rows)
}

/// The conditions, those that ask for attention first.
fn conditions(status: &CrdbClusterStatus, palette: Palette, now: Timestamp) -> String {
    let mut conditions: Vec<&Condition> = status.conditions.iter().collect();
    conditions.sort_by_key(|condition| (tone(condition), condition.type_.clone()));
    let rows: Vec<Vec<String>> = conditions
        .iter()
        .map(|condition| {
            let mark = match tone(condition) {
                Tone::Bad => "not ok",
                Tone::Note => "note",
                Tone::Good => "ok",
            };
            let age = now.as_second() - condition.last_transition_time.0.as_second();
            let state = format!("{}={}", condition.type_, condition.status);
            let message = condition.message.lines().next().unwrap_or_default().to_owned();
            vec![mark.to_owned(), state, condition.reason.clone(), style::age(age), message]
        })
        .collect();
    let table = style::table(None, &rows);
    let lines = table.lines().zip(&conditions).map(|(line, condition)| {
        let tone = tone(condition);
        let line = if tone == Tone::Good { line.to_owned() } else { palette.paint(tone, line) };
        format!("  {line}\n")
    });
    lines.collect()
}

/// How much attention a condition asks for.
fn tone(condition: &Condition) -> Tone {
    let negative = NEGATIVE.contains(&condition.type_.as_str());
    match (condition.type_.as_str(), condition.status.as_str(), condition.reason.as_str()) {
        // Chosen, or on its way: to be known, but nothing to act upon.
        ("Progressing", "True", _)
        | ("CertificatesValid", "False", "Disabled")
        | ("Ready", "False", "Initializing" | "Paused" | "PoweredOff")
        | ("Initialized", "False", "WaitingForFirstNode")
        | ("Available" | "FullyReplicated" | "LoadBalancerReady", "False", "Pending")
        | (_, "Unknown", _) => Tone::Note,
        (_, "True", _) if negative => Tone::Bad,
        (_, "False", _) if negative => Tone::Good,
        (_, "True", _) => Tone::Good,
        _ => Tone::Bad,
    }
}

/// What the user does next, most urgent first.
fn next_steps(name: &str, namespace: &str, status: &CrdbClusterStatus) -> Vec<String> {
    let mut steps = Vec::new();
    let reason = |type_: &str| {
        let found = crdb_api::conditions::find(&status.conditions, type_);
        found.filter(|c| tone(c) != Tone::Good).map(|c| c.reason.as_str())
    };
    let edit = format!("kubectl -n {namespace} edit crdbclusters {name}");
    if reason("Ready") == Some("SpecInvalid") {
        steps.push(format!("{edit}   (the condition says what is wrong with the spec)"));
    }
    if reason("Ready") == Some("Paused") {
        steps.push(format!("{edit}   (spec.reconcile: Enabled lets the operator act again)"));
    }
    match reason("Degraded") {
        Some("PodUnschedulable" | "ImagePullFailed" | "NodeDown" | "NodeLost") => {
            let troubled = status.node_rows.iter().filter(|row| {
                !row.ready || matches!(row.liveness, Liveness::Dead | Liveness::Suspect)
            });
            steps.extend(
                troubled
                    .take(3)
                    .map(|row| format!("kubectl -n {namespace} describe pod {}", row.pod)),
            );
        }
        Some(_) => {
            steps.push(format!("kubectl -n {namespace} describe crdbclusters {name}   (events)"));
        }
        None => {}
    }
    if reason("Initialized").is_some() {
        steps.push(format!(
            "kubectl -n {namespace} get pods -l crdb.dev/cluster={name} --watch   (the first nodes start)"
        ));
    }
    let available = crdb_api::conditions::is_true(&status.conditions, "Available");
    if !available && steps.is_empty() {
        steps.push(format!("kubectl -n {namespace} describe crdbclusters {name}   (events)"));
    }
    if available {
        steps.push(format!("kubectl crdb sql -n {namespace} -c {name}"));
    }
    steps
}

#[cfg(test)]
pub(crate) mod tests {
    use expect_test::expect;

    use super::*;

    /// A cluster as it should be.
    pub(crate) const HEALTHY: &str = "
apiVersion: crdb.dev/v1alpha1
kind: CrdbCluster
metadata: {name: prod, namespace: db, generation: 1}
spec: {version: v0.1.0, tls: {mode: Disabled}, pools: [{name: a, nodes: 1}, {name: b, nodes: 1}]}
status:
  observedGeneration: 1
  clusterID: 6f0c6a1e-3c1b-4c57-9d1e-0b7e5f4c9a11
  version: {running: v0.1.0, target: v0.1.0}
  nodes: {desired: 2, ready: 2, live: 2}
  ranges: {total: 4, underReplicated: 0, unavailable: 0, constraintViolations: 0}
  endpoints: {sql: 'prod-sql.db.svc:26257', http: 'prod-http.db.svc:8080'}
  nodeRows:
  - {name: prod-b-1, nodeID: 2, pod: prod-b-1-0, pool: b, zone: z2, k8sNode: w2, version: v0.1.0,
     ready: true, liveness: Live, membership: Active, ranges: 4, leases: 1, usedBytes: 67108864}
  - {name: prod-a-1, nodeID: 1, pod: prod-a-1-0, pool: a, zone: z1, k8sNode: w1, version: v0.1.0,
     ready: true, liveness: Live, membership: Active, ranges: 4, leases: 3, usedBytes: 67108864}
  conditions:
  - {type: Ready, status: 'True', reason: AllNodesReady, message: 'all 2 nodes are ready', lastTransitionTime: '2026-01-01T00:00:00Z'}
  - {type: Degraded, status: 'False', reason: AsExpected, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}
  - {type: CertificatesValid, status: 'False', reason: Disabled, message: 'connections are not protected', lastTransitionTime: '2026-01-01T00:00:00Z'}
  - {type: Available, status: 'True', reason: QuorumHealthy, message: 'SQL is served', lastTransitionTime: '2026-01-01T00:00:00Z'}
";

    /// A cluster with a dead node, a change not taken up, and an operation under way.
    pub(crate) const DOWN: &str = "
apiVersion: crdb.dev/v1alpha1
kind: CrdbCluster
metadata: {name: prod, namespace: db, generation: 3}
spec: {version: v0.2.0, tls: {mode: Disabled}, pools: [{name: a, nodes: 2}]}
status:
  observedGeneration: 2
  version: {running: v0.1.0, target: v0.2.0}
  nodes: {desired: 2, ready: 1, live: 1}
  operation: {type: ReplacePod, slot: prod-a-2, startTime: '2026-01-01T00:00:00Z'}
  nodeRows:
  - {name: prod-a-1, nodeID: 1, pod: prod-a-1-0, pool: a, ready: true, liveness: Live, membership: Active, ranges: 4, leases: 4}
  - {name: prod-a-2, pod: prod-a-2-0, pool: a, ready: false, liveness: Dead}
  conditions:
  - {type: Available, status: 'False', reason: RangesUnavailable, message: '4 ranges lack a quorum', lastTransitionTime: '2026-01-01T00:00:00Z'}
  - {type: Degraded, status: 'True', reason: NodeDown, message: 'prod-a-2 is down', lastTransitionTime: '2026-01-01T00:00:00Z'}
  - {type: Initialized, status: 'True', reason: Bootstrapped, message: '', lastTransitionTime: '2025-12-01T00:00:00Z'}
  - {type: Progressing, status: 'True', reason: Repairing, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}
  - {type: Ready, status: 'False', reason: NotAllNodesReady, message: '1 of 2 nodes is ready', lastTransitionTime: '2026-01-01T00:00:00Z'}
";

    fn show(yaml: &str) -> String {
        let now = "2026-01-01T00:02:05Z".parse().unwrap();
        summary(&cluster::tests::from_yaml(yaml), Palette(false), now, false, false)
    }

    #[test]
    fn a_healthy_cluster_ends_with_the_line_to_connect() {
        expect![[r#"
            Cluster:     db/prod
            State:       AllNodesReady
            Version:     v0.1.0
            Nodes:       2 wanted, 2 ready, 2 live
            Ranges:      4 in all, 0 under-replicated, 0 unavailable
            SQL:         prod-sql.db.svc:26257
            HTTP:        prod-http.db.svc:8080
            Cluster ID:  6f0c6a1e-3c1b-4c57-9d1e-0b7e5f4c9a11

            Conditions:
              note  CertificatesValid=False  Disabled       2m5s  connections are not protected
              ok    Available=True           QuorumHealthy  2m5s  SQL is served
              ok    Degraded=False           AsExpected     2m5s
              ok    Ready=True               AllNodesReady  2m5s  all 2 nodes are ready

            Nodes:
              ID  NAME      ZONE  LIVE  MEMBER  RANGES  LEASES  VERSION  K8S-NODE
              1   prod-a-1  z1    yes   Active  4       3       v0.1.0   w1
              2   prod-b-1  z2    yes   Active  4       1       v0.1.0   w2

            Next:
              - kubectl crdb sql -n db -c prod
        "#]]
        .assert_eq(&show(HEALTHY));
    }

    #[test]
    fn what_is_wrong_comes_first() {
        expect![[r#"
            Cluster:     db/prod
            State:       NotAllNodesReady
            Version:     v0.1.0, wanted v0.2.0
            Nodes:       2 wanted, 1 ready, 1 live
            Ranges:      unknown
            Cluster ID:  none yet
            Operation:   ReplacePod on prod-a-2
            Warning:     change 3 of the spec is not taken up yet, change 2 is

            Conditions:
              not ok  Available=False   RangesUnavailable  2m5s  4 ranges lack a quorum
              not ok  Degraded=True     NodeDown           2m5s  prod-a-2 is down
              not ok  Ready=False       NotAllNodesReady   2m5s  1 of 2 nodes is ready
              note    Progressing=True  Repairing          2m5s
              ok      Initialized=True  Bootstrapped       31d

            Nodes:
              ID  NAME      ZONE  LIVE  MEMBER  RANGES  LEASES  VERSION  K8S-NODE
              1   prod-a-1  -     yes   Active  4       4       -        -
              -   prod-a-2  -     no    -       0       0       -        -

            Next:
              - kubectl -n db describe pod prod-a-2-0
        "#]]
        .assert_eq(&show(DOWN));
    }

    #[test]
    fn the_object_is_shown_as_kubectl_shows_it() {
        let yaml = HEALTHY.replace(
            "generation: 1}",
            "generation: 1, managedFields: [{manager: m, operation: Apply}]}",
        );
        let cluster = cluster::tests::from_yaml(&yaml);
        assert!(cluster.metadata.managed_fields.is_some());
        let printing = crate::cli::Printing { output: Output::Yaml, ..Default::default() };
        let args = StatusArgs { name: None, printing };
        let text = text(&cluster, &args, Palette(false), Timestamp::UNIX_EPOCH).unwrap();
        assert!(text.starts_with("apiVersion: crdb.dev/v1alpha1\nkind: CrdbCluster\n"), "{text}");
        assert!(!text.contains("managedFields"), "{text}");
    }

    #[test]
    fn a_cluster_nobody_reported_on() {
        let cluster = cluster::tests::named("prod");
        let text = summary(&cluster, Palette(false), Timestamp::UNIX_EPOCH, false, false);
        assert!(text.starts_with("Cluster db/prod: the operator has not reported on it yet\n"));
    }

    #[test]
    fn an_invalid_or_paused_spec_leads_to_the_spec() {
        for (reason, expected) in [("SpecInvalid", "what is wrong"), ("Paused", "spec.reconcile")] {
            let yaml = HEALTHY.replace(
                "{type: Ready, status: 'True', reason: AllNodesReady",
                &format!("{{type: Ready, status: 'False', reason: {reason}"),
            );
            let text = show(&yaml);
            let steps = text.split("Next:").nth(1).unwrap();
            assert!(steps.contains("edit crdbclusters prod") && steps.contains(expected), "{text}");
        }
    }
}
