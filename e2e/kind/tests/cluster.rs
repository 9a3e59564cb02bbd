//! The local Kubernetes is what the other tests rely on: nodes in their zones, names, the network
//! between pods, volumes. Runs on the cluster that `cargo xtask test e2e` brings up.

use std::collections::BTreeMap;
use std::time::Duration;

use crdb_kind::progress::now;
use crdb_kind::{Cmd, TestEnvironment};
use serde_json::Value;

/// How long a pod may take to start or to answer on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn environment() -> TestEnvironment {
    TestEnvironment::from_env().expect("this runs on a cluster")
}

fn kubectl() -> Cmd {
    environment().kubectl()
}

fn json(command: &Cmd) -> Value {
    let text = command.output().expect("the command passes");
    serde_json::from_str(&text).expect("kubectl prints JSON")
}

/// A namespace that goes away with the test, also when it fails.
struct Namespace(String);

impl Namespace {
    fn new(prefix: &str) -> Namespace {
        let name = format!("{prefix}-{}", std::process::id());
        let create = kubectl().args_of(&["create", "namespace", &name]);
        create.run().expect("the name is not taken");
        Namespace(name)
    }

    fn kubectl(&self) -> Cmd {
        kubectl().args_of(&["--namespace", &self.0])
    }

    fn sh(&self, pod: &str, script: &str) -> Result<String, String> {
        let exec = self.kubectl().args_of(&["exec", pod, "--", "sh", "-c", script]);
        exec.output().map_err(|error| error.to_string())
    }

    /// Repeats a script until its output is as expected.
    fn sh_until(&self, pod: &str, script: &str, expected: &str) {
        let end = now() + PATIENCE;
        loop {
            let outcome = self.sh(pod, script);
            if outcome.as_deref().map(str::trim) == Ok(expected) {
                return;
            }
            assert!(now() < end, "`{script}` in {pod}: {outcome:?}, not {expected:?}");
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let delete = kubectl().args_of(&["delete", "namespace", &self.0, "--wait=false"]);
        delete.run().ok(); // the cluster goes away after the tests anyway
    }
}

#[test]
fn every_node_is_ready_and_workers_are_two_per_zone() {
    let nodes = json(&kubectl().words("get nodes --output=json"));
    let mut zones = BTreeMap::<String, usize>::new();
    for node in nodes["items"].as_array().unwrap() {
        let labels = &node["metadata"]["labels"];
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
        assert_eq!(ready["status"], "True", "{}", node["metadata"]["name"]);
        if labels.get("node-role.kubernetes.io/control-plane").is_some() {
            continue;
        }
        assert_eq!(labels["topology.kubernetes.io/region"], "r1");
        let zone = labels["topology.kubernetes.io/zone"].as_str().unwrap();
        *zones.entry(zone.to_owned()).or_default() += 1;
    }
    let zones: Vec<_> = zones.iter().map(|(zone, count)| (zone.as_str(), *count)).collect();
    assert_eq!(zones, [("r1-a", 2), ("r1-b", 2), ("r1-c", 2)]);
}

#[test]
fn pods_keep_their_volume_and_reach_each_other_by_name() {
    let namespace = Namespace::new("stateful");
    let image = environment().busybox_image;
    let manifest = include_str!("stateful.yaml").replace("@IMAGE@", &image);
    namespace.kubectl().words("apply --filename=-").stdin(manifest).run().unwrap();
    let rollout = namespace.kubectl().words("rollout status statefulset/web --timeout=120s");
    rollout.seconds(130).run().unwrap();

    let pods = json(&namespace.kubectl().words("get pods --output=json"));
    let on: Vec<&str> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| pod["spec"]["nodeName"].as_str().unwrap())
        .collect();
    assert_eq!(on.len(), 2);
    assert_ne!(on[0], on[1], "the pods are to be on different nodes, else no network is tried");

    // By the name of one pod, and by the address of the Service, from the other node.
    namespace.sh_until("web-0", "timeout 3 wget -qO- http://web-1.web:8080/name", "web-1");
    let both =
        "for i in $(seq 20); do timeout 3 wget -qO- http://any:80/name; done | sort -u | xargs";
    namespace.sh_until("web-0", both, "web-0 web-1");

    // The volume outlives the pod.
    namespace.sh("web-0", "echo kept > /data/kept").unwrap();
    let uid = namespace.kubectl().words("get pod web-0 --output=jsonpath={.metadata.uid}");
    let before = uid.output().unwrap();
    namespace.kubectl().words("delete pod web-0 --wait=true").run().unwrap();
    let end = now() + PATIENCE;
    while uid.output().map_or(true, |now| now == before) {
        assert!(now() < end, "web-0 does not come back");
    }
    namespace.kubectl().words("wait --for=condition=Ready pod/web-0 --timeout=110s").run().unwrap();
    assert_eq!(namespace.sh("web-0", "cat /data/kept").unwrap().trim(), "kept");
}
