//! What a cluster should look like, and the configuration file that says so to kind.

use std::fmt::Write as _;

/// A port of the control plane node that is reachable on this machine's loopback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The port in the node; a Service of type NodePort listens there.
    pub container_port: u16,
    /// The port on 127.0.0.1.
    pub host_port: u16,
}

/// The shape of a cluster: one control plane node, and workers in the zones of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The name, by which kind finds the cluster again.
    pub name: String,
    /// The value of the label `topology.kubernetes.io/region` of every worker.
    pub region: String,
    /// The values of the label `topology.kubernetes.io/zone`.
    pub zones: Vec<String>,
    /// Workers in each zone.
    pub workers_per_zone: u8,
    /// Ports reachable from this machine.
    pub host_ports: Vec<HostPort>,
}

impl ClusterConfig {
    /// Three zones `r1-a`, `r1-b`, `r1-c` in region `r1`, two workers in each.
    pub fn three_zones(name: &str) -> ClusterConfig {
        ClusterConfig {
            name: name.to_owned(),
            region: "r1".to_owned(),
            zones: ["a", "b", "c"].map(|zone| format!("r1-{zone}")).to_vec(),
            workers_per_zone: 2,
            host_ports: Vec::new(),
        }
    }

    /// The number of nodes, the control plane included.
    pub fn nodes(&self) -> usize {
        1 + self.zones.len() * usize::from(self.workers_per_zone)
    }

    /// The zone of each worker. Zones take turns: so do then the numbers in the workers' names.
    pub fn worker_zones(&self) -> impl Iterator<Item = &str> {
        (0..self.workers_per_zone).flat_map(|_| self.zones.iter().map(String::as_str))
    }

    /// kind's configuration file. `negative_oom_scores` says whether the kernel lets the kubelet and
    /// kube-proxy protect themselves; where it does not, they are told not to try.
    pub fn to_kind_yaml(&self, negative_oom_scores: bool) -> String {
        let mut yaml = "kind: Cluster\n\
                        apiVersion: kind.x-k8s.io/v1alpha4\n\
                        networking:\n  \
                          ipFamily: ipv4\n  \
                          kubeProxyMode: iptables\n"
            .to_owned();
        if !negative_oom_scores {
            yaml.push_str("kubeadmConfigPatches:\n");
            for kind in ["KubeletConfiguration", "KubeProxyConfiguration"] {
                append(&mut yaml, format_args!("  - |\n    kind: {kind}\n    oomScoreAdj: 0\n"));
            }
        }
        yaml.push_str("nodes:\n  - role: control-plane\n");
        if !self.host_ports.is_empty() {
            yaml.push_str("    extraPortMappings:\n");
        }
        for port in &self.host_ports {
            append(
                &mut yaml,
                format_args!(
                    "      - containerPort: {}\n        hostPort: {}\n        \
                     listenAddress: 127.0.0.1\n        protocol: TCP\n",
                    port.container_port, port.host_port
                ),
            );
        }
        for zone in self.worker_zones() {
            append(
                &mut yaml,
                format_args!(
                    "  - role: worker\n    labels:\n      \
                     topology.kubernetes.io/region: {}\n      \
                     topology.kubernetes.io/zone: {zone}\n",
                    self.region
                ),
            );
        }
        yaml
    }
}

fn append(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a String takes any text");
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_file_lists_the_workers_by_turns_of_zones() {
        let mut config = ClusterConfig::three_zones("t");
        assert_eq!(config.nodes(), 7);
        config.zones.truncate(2);
        config.host_ports.push(HostPort { container_port: 30257, host_port: 36257 });
        expect![[r#"
            kind: Cluster
            apiVersion: kind.x-k8s.io/v1alpha4
            networking:
              ipFamily: ipv4
              kubeProxyMode: iptables
            kubeadmConfigPatches:
              - |
                kind: KubeletConfiguration
                oomScoreAdj: 0
              - |
                kind: KubeProxyConfiguration
                oomScoreAdj: 0
            nodes:
              - role: control-plane
                extraPortMappings:
                  - containerPort: 30257
                    hostPort: 36257
                    listenAddress: 127.0.0.1
                    protocol: TCP
              - role: worker
                labels:
                  topology.kubernetes.io/region: r1
                  topology.kubernetes.io/zone: r1-a
              - role: worker
                labels:
                  topology.kubernetes.io/region: r1
                  topology.kubernetes.io/zone: r1-b
              - role: worker
                labels:
                  topology.kubernetes.io/region: r1
                  topology.kubernetes.io/zone: r1-a
              - role: worker
                labels:
                  topology.kubernetes.io/region: r1
                  topology.kubernetes.io/zone: r1-b
        "#]]
        .assert_eq(&config.to_kind_yaml(false));
    }
}
