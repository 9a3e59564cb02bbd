// Command coredns is CoreDNS with the plugins that the Corefile of kubeadm names and a few that are
// useful when one debugs a cluster. The plugins of the cloud providers stay out: they are most of
// the compile time of the stock binary.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	// Each import registers its plugin.
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/template"
)

// A query passes the plugins in this order, whatever the order in the Corefile.
var chain = []string{
	"reload", "bind", "debug", "ready", "health", "prometheus", "errors", "log", "cache",
	"rewrite", "loadbalance", "template", "hosts", "kubernetes", "loop", "forward",
}

func init() {
	dnsserver.Directives = chain
}

func main() {
	coremain.Run()
}
