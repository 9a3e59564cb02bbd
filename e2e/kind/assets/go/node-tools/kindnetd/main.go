// Command kindnetd is the network agent of a node in a local test cluster.
//
// It takes the place of the agent that kind ships in its own node image. It does three things, each
// of them again whenever a node changes and every thirty seconds:
//
//   - it writes the CNI configuration for this node's pod range (plugins ptp and portmap);
//   - it keeps one route per other node: that node's pod range by way of its internal address;
//   - it keeps the source NAT rules for traffic that leaves the pod network.
//
// It does not enforce NetworkPolicy.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	confDir     = "/etc/cni/net.d"
	confName    = "10-kindnet.conflist"
	chain       = "KIND-MASQ-AGENT"
	resyncEvery = 30 * time.Second
	retryAfter  = time.Second
)

// agent is what one node needs to know to set up its own networking.
type agent struct {
	hostIP   net.IP     // this node's internal address
	podNet   *net.IPNet // the pod range of the whole cluster
	hostRoot string     // where the node's root is mounted: its own iptables is run from there
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatalf("kindnetd: %v", err)
	}
}

func run(ctx context.Context) error {
	a, err := agentFromEnv()
	if err != nil {
		return err
	}
	conf, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("in-cluster configuration: %w", err)
	}
	// kind sets the address of the apiserver itself, so that pod networking does not wait for
	// kube-proxy to serve the cluster address.
	if endpoint := os.Getenv("CONTROL_PLANE_ENDPOINT"); endpoint != "" {
		conf.Host = "https://" + endpoint
	}
	client, err := kubernetes.NewForConfig(conf)
	if err != nil {
		return err
	}

	factory := informers.NewSharedInformerFactory(client, 0)
	nodes := factory.Core().V1().Nodes()
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default: // one wake-up is pending already
		}
	}
	_, err = nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { wake() },
		DeleteFunc: func(any) { wake() },
		UpdateFunc: func(before, after any) {
			old, new := before.(*v1.Node), after.(*v1.Node)
			if old.Spec.PodCIDR != new.Spec.PodCIDR || !addressOf(old).Equal(addressOf(new)) {
				wake()
			}
		},
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced) {
		return nil
	}

	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(wait):
		}
		list, err := nodes.Lister().List(labels.Everything())
		if err == nil {
			err = a.reconcile(list)
		}
		wait = resyncEvery
		if err != nil {
			log.Printf("will try again: %v", err)
			wait = retryAfter
		}
	}
}

func agentFromEnv() (*agent, error) {
	a := &agent{hostIP: net.ParseIP(os.Getenv("HOST_IP")), hostRoot: os.Getenv("HOST_ROOT")}
	if a.hostIP == nil {
		return nil, fmt.Errorf("HOST_IP is %q, not an address", os.Getenv("HOST_IP"))
	}
	if a.hostRoot == "" {
		return nil, errors.New("HOST_ROOT is not set")
	}
	_, podNet, err := net.ParseCIDR(os.Getenv("POD_SUBNET"))
	if err != nil {
		return nil, fmt.Errorf("POD_SUBNET: %w", err)
	}
	a.podNet = podNet
	return a, nil
}

func addressOf(n *v1.Node) net.IP {
	for _, a := range n.Status.Addresses {
		if a.Type == v1.NodeInternalIP {
			return net.ParseIP(a.Address)
		}
	}
	return nil
}

// reconcile attempts every part, so that one failure does not hold up the rest.
func (a *agent) reconcile(nodes []*v1.Node) error {
	gateways := map[string]net.IP{} // pod range -> node address, the other nodes only
	var errs []error
	for _, n := range nodes {
		ip := addressOf(n)
		if ip == nil || n.Spec.PodCIDR == "" {
			continue // not registered completely yet
		}
		if ip.Equal(a.hostIP) {
			errs = append(errs, a.writeConf(n.Spec.PodCIDR))
		} else {
			gateways[n.Spec.PodCIDR] = ip
		}
	}
	errs = append(errs, a.syncRoutes(gateways), a.ensureMasquerade())
	return errors.Join(errs...)
}

// writeConf replaces the CNI configuration in one step: containerd reads the directory at any time.
func (a *agent) writeConf(podCIDR string) error {
	type object = map[string]any
	conf, err := json.MarshalIndent(object{
		"cniVersion": "0.4.0",
		"name":       "kindnet",
		"plugins": []object{
			{
				"type": "ptp", "ipMasq": false, "mtu": a.mtu(),
				"ipam": object{
					"type":    "host-local",
					"dataDir": "/run/cni-ipam-state",
					"routes":  []object{{"dst": "0.0.0.0/0"}},
					"ranges":  [][]object{{{"subnet": podCIDR}}},
				},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(confDir, confName)
	if present, err := os.ReadFile(path); err == nil && string(present) == string(conf) {
		return nil
	}
	next := path + ".next"
	if err := os.WriteFile(next, conf, 0o644); err != nil {
		return err
	}
	log.Printf("pod range of this node: %s", podCIDR)
	return os.Rename(next, path)
}

// mtu of the interface that holds the node's address.
func (a *agent) mtu() int {
	const usual = 1500
	links, err := net.Interfaces()
	if err != nil {
		return usual
	}
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			continue
		}
		for _, addr := range addrs {
			if ipnet, ok := addr.(*net.IPNet); ok && ipnet.IP.Equal(a.hostIP) {
				return link.MTU
			}
		}
	}
	return usual
}

// syncRoutes makes the gateway routes inside the pod network exactly those given.
func (a *agent) syncRoutes(gateways map[string]net.IP) error {
	present, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for i := range present {
		r := &present[i]
		if r.Dst == nil || r.Gw == nil || !a.podNet.Contains(r.Dst.IP) {
			continue // the default route, or a pod's own link
		}
		if _, wanted := gateways[r.Dst.String()]; wanted {
			continue
		}
		log.Printf("route to %s by %s: its node is gone", r.Dst, r.Gw)
		if err := netlink.RouteDel(r); err != nil {
			errs = append(errs, fmt.Errorf("delete route %s: %w", r.Dst, err))
		}
	}
	for cidr, gw := range gateways {
		_, dst, err := net.ParseCIDR(cidr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// Replace does nothing when the same route is there.
		if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: gw}); err != nil {
			errs = append(errs, fmt.Errorf("route %s by %s: %w", cidr, gw, err))
		}
	}
	return errors.Join(errs...)
}

// ensureMasquerade gives traffic that leaves the pod network the node's address.
func (a *agent) ensureMasquerade() error {
	if a.iptables("-L", chain, "-n") != nil {
		if err := a.iptables("-N", chain); err != nil {
			return err
		}
	}
	for _, rule := range [][]string{
		{chain, "-d", a.podNet.String(), "-j", "RETURN"},
		{chain, "-j", "MASQUERADE"},
		{"POSTROUTING", "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", chain},
	} {
		if a.iptables(append([]string{"-C"}, rule...)...) == nil {
			continue
		}
		if err := a.iptables(append([]string{"-A"}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

// iptables runs the node's own program: the node chose between the legacy and the nft variant.
func (a *agent) iptables(args ...string) error {
	cmd := exec.Command("/usr/sbin/iptables", append([]string{"--wait", "5", "--table", "nat"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: a.hostRoot}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("iptables %v: %w: %s", args, err, out)
	}
	return nil
}
