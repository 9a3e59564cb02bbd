//! Runs the scripts of `testscripts/`: a cluster is declared, things are observed, and the scripts
//! record what is planned, built and reported.
//!
//! Commands: `declare`, `spec` (a value at a JSON pointer of the object), `pod`, `answer`,
//! `volume`, `external`, `ranges`, `liveness`, `conflict`, `reject` (a refused write), `fail` (a
//! step that fails) set the scene; `plan` prints the plan; `pass` does a whole pass on the scene
//! and prints the events, `broken` one that the API server ends; `status`, `conditions`, `rows`,
//! `numbers` and `running` print the status or a part of it; `object` prints a built object;
//! `record` prints what is written before a step.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use crdb_api::names::SlotName;
use crdb_api::v1alpha1::{CrdbCluster, CrdbClusterStatus, Liveness, Membership, Reconcile};
use goldenscript::Command;
use serde_json::{Value, json};
use test_each_file::test_each_path;

use super::build::{self, Object, OperatorIdentity};
use super::notices::notices;
use super::observed::{
    Answer, ClusterView, Kind, MemberView, Observed, PodView, RangeCounts, SlotView, Trouble,
    TroubleKind, VolumeMark, VolumeView,
};
use super::plan::{Plan, Step, plan};
use super::status::{self, Applied};
use super::validate::{Desired, validate};

test_each_path! { in "operator/src/cluster/testscripts" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut Scene::default(), path).expect("the script runs");
}

const FRESH_ID: &str = "fresh";

#[derive(Default)]
struct Scene {
    object: Value,
    status: CrdbClusterStatus,
    observed: Observed,
    members: BTreeMap<u32, MemberView>,
    ranges: Option<RangeCounts>,
    applied: Applied,
    seconds: i64,
}

impl goldenscript::Runner for Scene {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut keys: BTreeMap<String, String> = BTreeMap::new();
        while let Some((key, value)) = args.next_key() {
            keys.insert(key.to_owned(), value.to_owned());
        }
        let mut words: Vec<String> = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word.to_owned());
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match (command.name.as_str(), words.as_slice()) {
            ("declare", []) => self.declare(&keys),
            ("spec", [pointer, value]) => self.set(pointer, serde_json::from_str(value)?),
            ("pod", [slot, state]) => self.pod(slot, state, &keys)?,
            ("answer", [slot, answer]) => self.answer(slot, answer, &keys)?,
            ("volume", [slot]) => self.volume(slot, &keys)?,
            ("external", [address]) => self.observed.external_address = Some((*address).to_owned()),
            ("ranges", []) => self.ranges = Some(ranges(&keys)?),
            ("liveness", [node, state]) => self.liveness(node, state)?,
            ("conflict", [text]) => self.applied.conflicts = vec![(*text).to_owned()],
            ("no-conflict", []) => self.applied.conflicts.clear(),
            ("reject", [text]) => self.applied.rejected = vec![(*text).to_owned()],
            ("no-reject", []) => self.applied.rejected.clear(),
            ("fail", [text]) => self.applied.failed = Some((*text).to_owned()),
            ("no-fail", []) => self.applied.failed = None,
            ("broken", [text]) => return self.broken(text),
            ("forget-status", []) => self.status = CrdbClusterStatus::default(),
            ("plan", []) => return Ok(self.plan()),
            ("record", []) => return self.record(),
            ("pass", []) => return self.pass(),
            ("status", []) => return Ok(serde_yaml::to_string(&self.status)?),
            ("rows", []) => return Ok(serde_yaml::to_string(&self.status.node_rows)?),
            ("numbers", []) => return Ok(serde_yaml::to_string(&self.status.pools)?),
            ("running", []) => return Ok(serde_yaml::to_string(&self.status.version)?),
            ("conditions", []) => return Ok(self.conditions()),
            ("object", [kind, name]) => return self.object(kind, name),
            ("objects", []) => return self.objects(),
            (name, words) => return Err(format!("unknown: {name} {words:?}").into()),
        }
        Ok(String::new())
    }
}

impl Scene {
    /// `declare name=prod pools=a:2,b:1`
    fn declare(&mut self, keys: &BTreeMap<String, String>) {
        let name = keys.get("name").map_or("prod", String::as_str);
        let pools = keys.get("pools").map_or("a:1", String::as_str).split(',');
        let pools: Vec<Value> = pools
            .map(|pool| {
                let (name, nodes) = pool.split_once(':').unwrap_or((pool, "1"));
                let nodes: u32 = nodes.parse().unwrap_or(1);
                json!({"name": name, "nodes": nodes})
            })
            .collect();
        self.object = json!({
            "apiVersion": "crdb.dev/v1alpha1",
            "kind": "CrdbCluster",
            "metadata": {"name": name, "namespace": "db", "uid": "uid-1", "generation": 1},
            "spec": {
                "version": "v0.1.0",
                "profile": "Dev",
                "tls": {"mode": "Disabled"},
                "pools": pools,
            },
        });
    }

    fn set(&mut self, pointer: &str, value: Value) {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        if self.object.pointer(parent).is_none() {
            self.set(parent, json!({}));
        }
        match self.object.pointer_mut(parent) {
            Some(Value::Array(list)) => match key.parse::<usize>() {
                Ok(index) if index < list.len() => list[index] = value,
                _ => list.push(value),
            },
            Some(object) => object[key] = value,
            None => {}
        }
    }

    fn cluster(&self) -> Result<CrdbCluster, Box<dyn Error>> {
        let mut cluster: CrdbCluster = serde_json::from_value(self.object.clone())?;
        cluster.status = Some(self.status.clone());
        Ok(cluster)
    }

    fn desired(&self) -> Result<Desired, Box<dyn Error>> {
        validate(&self.cluster()?).map_err(|faults| faults.join("\n").into())
    }

    fn slot(&self, text: &str) -> Result<SlotName, Box<dyn Error>> {
        let (pool, number) = text.rsplit_once('-').ok_or("a slot is POOL-NUMBER")?;
        let name = self.object["metadata"]["name"].as_str().unwrap_or("prod");
        Ok(SlotName::new(name, pool, number.parse()?))
    }

    /// `pod a-1 ready|running|pending|gone|none|image-pull|crash|unschedulable|slotless
    /// [uid=..] [template=..] [made-from=..]`
    fn pod(
        &mut self,
        slot: &str,
        state: &str,
        keys: &BTreeMap<String, String>,
    ) -> Result<(), Box<dyn Error>> {
        let slot = self.slot(slot)?;
        if state == "slotless" {
            self.observed.slots.remove(&slot);
            return Ok(());
        }
        let desired = self.desired()?;
        let current = desired.pool(&slot.pool).map(|pool| build::revision(&desired, pool));
        let before = self.observed.slots.get(&slot).cloned();
        let kept = before.as_ref().map(|view| view.revision.clone());
        let pick = |key: &str, kept: Option<String>| match keys.get(key).map(String::as_str) {
            Some("declared") => current.clone().unwrap_or_default(),
            Some(other) => other.to_owned(),
            None => kept.or_else(|| current.clone()).unwrap_or_default(),
        };
        let pod_kept = before.as_ref().and_then(|v| v.pod.as_ref()).map(|p| p.revision.clone());
        let revision = pick("template", kept);
        let pod_revision = pick("made-from", pod_kept);
        let trouble = |kind, message: &str| Some(Trouble { kind, message: message.to_owned() });
        let trouble = match state {
            "image-pull" => trouble(TroubleKind::ImagePull, "ErrImagePull: not found"),
            "crash" => trouble(TroubleKind::CrashLoop, "CrashLoopBackOff: back-off 10s"),
            "unschedulable" => trouble(TroubleKind::Unschedulable, "0/3 nodes are available"),
            "ready" | "running" | "pending" | "gone" => None,
            other => return Err(format!("unknown state of a pod: {other}").into()),
        };
        let running = matches!(state, "ready" | "running");
        let pod = (state != "gone").then(|| PodView {
            uid: keys.get("uid").cloned().unwrap_or_else(|| format!("pod-{slot}")),
            revision: pod_revision,
            machine: running.then(|| "w1".to_owned()),
            ip: running.then(|| "10.0.0.1".to_owned()),
            running,
            ran: running || state == "crash",
            ready: state == "ready",
            terminating: false,
            trouble,
        });
        self.observed.slots.insert(slot, SlotView { revision, pod });
        Ok(())
    }

    /// `answer a-1 uninitialized|unreachable|member store=.. [cluster=.. node=.. version=..]`
    fn answer(
        &mut self,
        slot: &str,
        answer: &str,
        keys: &BTreeMap<String, String>,
    ) -> Result<(), Box<dyn Error>> {
        let slot = self.slot(slot)?;
        let store_uuid = keys.get("store").cloned().unwrap_or_else(|| format!("store-{slot}"));
        let answer = match answer {
            "unreachable" => Answer::Unreachable("connection refused".to_owned()),
            "uninitialized" => Answer::Uninitialized { store_uuid },
            "member" => {
                let node_id = keys.get("node").ok_or("node=")?.parse()?;
                let member = MemberView {
                    node_id,
                    address: format!("{}:26258", slot.host("db")),
                    store_uuid: store_uuid.clone(),
                    version: keys.get("version").map_or("v0.1.0", String::as_str).to_owned(),
                    liveness: Liveness::Live,
                    membership: Membership::Active,
                    draining: false,
                    replicas: 7,
                    leases: 2,
                    used_bytes: 1000,
                };
                self.members.insert(node_id, member);
                let cluster_id = keys.get("cluster").cloned();
                let cluster_id = cluster_id.unwrap_or_else(|| FRESH_ID.to_owned());
                let view = ClusterView { cluster_id, ..ClusterView::default() };
                Answer::Member { node_id, store_uuid, view: Box::new(view) }
            }
            other => return Err(format!("unknown answer: {other}").into()),
        };
        self.observed.answers.insert(slot, answer);
        Ok(())
    }

    /// Gives every member's answer the same picture of the cluster.
    fn spread_view(&mut self) {
        for answer in self.observed.answers.values_mut() {
            if let Answer::Member { view, .. } = answer {
                view.nodes = self.members.values().cloned().collect();
                view.ranges = self.ranges;
                view.active_version = "v0.1".to_owned();
            }
        }
    }

    fn volume(
        &mut self,
        slot: &str,
        keys: &BTreeMap<String, String>,
    ) -> Result<(), Box<dyn Error>> {
        let slot = self.slot(slot)?;
        let node_id = keys.get("node").map(|id| id.parse()).transpose()?;
        let mark = VolumeMark {
            cluster_id: keys.get("cluster").cloned(),
            node_id,
            store_uuid: keys.get("store").cloned(),
            membership: keys.get("membership").cloned(),
            released: false,
        };
        let uid = format!("volume-{slot}");
        let bound = keys.get("bound").is_none_or(|bound| bound == "true");
        let terminating = keys.get("terminating").is_some_and(|value| value == "true");
        self.observed.volumes.insert(slot, VolumeView { uid, bound, terminating, mark });
        Ok(())
    }

    fn liveness(&mut self, node: &str, state: &str) -> Result<(), Box<dyn Error>> {
        let member = self.members.get_mut(&node.parse()?).ok_or("no such node")?;
        member.liveness = match state {
            "live" => Liveness::Live,
            "suspect" => Liveness::Suspect,
            "dead" => Liveness::Dead,
            other => return Err(format!("unknown liveness: {other}").into()),
        };
        Ok(())
    }

    fn planned(&mut self) -> Result<(Desired, Plan), String> {
        self.spread_view();
        let desired = self.desired().map_err(|error| format!("invalid: {error}\n"))?;
        let plan = plan(&desired, &self.status, &self.observed, FRESH_ID);
        Ok((desired, plan))
    }

    fn plan(&mut self) -> String {
        match self.planned() {
            Ok((_, plan)) => show(&plan),
            Err(error) => error,
        }
    }

    fn now(&mut self) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
        self.seconds += 1;
        let now = jiff::Timestamp::from_second(self.seconds).expect("a small number");
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now)
    }

    fn record(&mut self) -> Result<String, Box<dyn Error>> {
        let (_, plan) = self.planned()?;
        let now = self.now();
        let Some(recorded) = status::record(&self.status, &plan.step, &now) else {
            return Ok("nothing to record\n".to_owned());
        };
        self.status = recorded;
        Ok(serde_yaml::to_string(&json!({
            "clusterID": self.status.cluster_id,
            "operation": self.status.operation,
        }))?)
    }

    /// A pass: the step, if any, is recorded but has no effect on the scene.
    fn pass(&mut self) -> Result<String, Box<dyn Error>> {
        let now = self.now();
        let Ok((desired, mut plan)) = self.planned() else {
            let faults = validate(&self.cluster()?).err().unwrap_or_default();
            let new = status::invalid(&self.cluster()?, &self.observed, &faults, &now);
            return Ok(self.publish(new));
        };
        let before = self.status.clone();
        self.applied.stateful_sets.clear();
        let acts = plan.halt.is_none() && desired.spec.reconcile == Reconcile::Enabled;
        if !acts || !self.applied.conflicts.is_empty() {
            plan.step = Step::None;
        } else if self.applied.rejected.is_empty() {
            let sets = self.built()?.apply;
            let sets = sets.iter().map(Object::id).filter(|(kind, _)| *kind == Kind::StatefulSet);
            self.applied.stateful_sets = sets.map(|(_, name)| name).collect();
        }
        if let Some(recorded) = status::record(&before, &plan.step, &now) {
            self.status = recorded;
        }
        let stored = &self.status;
        let new = status::status(&desired, stored, &self.observed, &plan, &self.applied, &now);
        self.status = before;
        Ok(self.publish(new))
    }

    /// A pass that the API server ends again and again.
    fn broken(&mut self, text: &str) -> Result<String, Box<dyn Error>> {
        let now = self.now();
        let new = status::failed(&self.cluster()?, text.to_owned(), &now);
        Ok(self.publish(new))
    }

    fn publish(&mut self, new: CrdbClusterStatus) -> String {
        let mut text = String::new();
        let soon = std::time::Duration::from_secs(20);
        if !status::worth_writing(&self.status, &new, soon) {
            writeln!(text, "nothing worth writing").expect("a string takes all");
            return text;
        }
        for notice in notices(&self.status, &new) {
            let type_ = if notice.warning { "Warning" } else { "Normal" };
            writeln!(text, "{type_} {} {}: {}", notice.reason, notice.action, notice.note)
                .expect("a string takes all");
        }
        self.status = new;
        text
    }

    fn conditions(&self) -> String {
        let mut text = String::new();
        for c in &self.status.conditions {
            let since = c.last_transition_time.0.as_second();
            writeln!(text, "{}={} {} @{since} {}", c.type_, c.status, c.reason, c.message)
                .expect("a string takes all");
        }
        text
    }

    fn built(&mut self) -> Result<build::Objects, Box<dyn Error>> {
        let (desired, plan) = self.planned()?;
        let operator = OperatorIdentity { namespace: "crdb-system".to_owned() };
        Ok(build::build(&desired, &plan, &operator))
    }

    fn objects(&mut self) -> Result<String, Box<dyn Error>> {
        let built = self.built()?;
        let mut text = String::new();
        for object in &built.apply {
            let (kind, name) = object.id();
            writeln!(text, "apply {kind} {name}")?;
        }
        let written: Vec<(Kind, String)> = built.apply.iter().map(Object::id).collect();
        for (kind, name) in built.keep.iter().filter(|id| !written.contains(id)) {
            writeln!(text, "keep {kind} {name}")?;
        }
        Ok(text)
    }

    fn object(&mut self, kind: &str, name: &str) -> Result<String, Box<dyn Error>> {
        for object in self.built()?.apply {
            let (found, found_name) = object.id();
            if found.to_string() != kind || found_name != name {
                continue;
            }
            return Ok(match object {
                Object::ServiceAccount(object) => serde_yaml::to_string(&object)?,
                Object::Service(object) => serde_yaml::to_string(&object)?,
                Object::NetworkPolicy(object) => serde_yaml::to_string(&object)?,
                Object::PodDisruptionBudget(object) => serde_yaml::to_string(&object)?,
                Object::StatefulSet(object) => serde_yaml::to_string(&object)?,
            });
        }
        Err(format!("no {kind} {name} is applied").into())
    }
}

fn ranges(keys: &BTreeMap<String, String>) -> Result<RangeCounts, Box<dyn Error>> {
    let number = |key: &str| -> Result<u64, Box<dyn Error>> {
        Ok(keys.get(key).map_or(Ok(0), |text| text.parse())?)
    };
    Ok(RangeCounts {
        total: number("total")?,
        unavailable: number("unavailable")?,
        under_replicated: number("under")?,
        constraint_violations: number("violations")?,
    })
}

fn show(plan: &Plan) -> String {
    let mut text = String::new();
    let id = plan.cluster_id.as_deref().unwrap_or("none");
    let state = if plan.initialized { "initialized" } else { "not initialized" };
    writeln!(text, "cluster {id}, {state}, {} members", plan.members).expect("a string takes all");
    for planned in &plan.slots {
        let held = if planned.released { "" } else { " held: its pod runs an older template" };
        writeln!(text, "slot {}{held}", planned.slot).expect("a string takes all");
    }
    for (pool, last) in &plan.last_slots {
        writeln!(text, "pool {pool} last slot {last}").expect("a string takes all");
    }
    for (slot, mark) in &plan.marks {
        writeln!(
            text,
            "mark {} cluster={} node={} store={} membership={} released={}",
            slot.volume_claim(),
            mark.cluster_id.as_deref().unwrap_or("-"),
            mark.node_id.map_or("-".to_owned(), |id| id.to_string()),
            mark.store_uuid.as_deref().unwrap_or("-"),
            mark.membership.as_deref().unwrap_or("-"),
            mark.released,
        )
        .expect("a string takes all");
    }
    if let Some(halt) = &plan.halt {
        writeln!(text, "halt {}: {}", halt.reason.as_str(), halt.message)
            .expect("a string takes all");
    }
    if let Some(waiting) = &plan.waiting {
        writeln!(text, "waiting: {waiting}").expect("a string takes all");
    }
    match &plan.step {
        Step::None => writeln!(text, "step: none"),
        Step::Bootstrap { slot, cluster_id, store_uuid } => {
            writeln!(text, "step: bootstrap {slot} as {cluster_id} (store {store_uuid})")
        }
        Step::ReplacePod { slot, pod_uid } => {
            writeln!(text, "step: replace pod of {slot} ({pod_uid})")
        }
    }
    .expect("a string takes all");
    writeln!(text, "look again after {:?}", plan.recheck_after).expect("a string takes all");
    text
}
