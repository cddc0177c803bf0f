// Enforces NetworkPolicies on one node: sigs.k8s.io/kube-network-policies with a kubeconfig, which
// its own program, made for pods, does not take.
package main

import (
	"context"
	"flag"
	"log"
	"os/signal"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

func main() {
	node := flag.String("node-name", "", "name of the node")
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	klog.InitFlags(nil)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := enforce(ctx, *node, *kubeconfig); err != nil {
		log.Fatal(err)
	}
}

// enforce runs until ctx is done, and removes its rules then.
func enforce(ctx context.Context, node, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	watched := informers.NewSharedInformerFactory(client, 0)
	controller, err := networkpolicy.NewController(
		client,
		watched.Networking().V1().NetworkPolicies(),
		watched.Core().V1().Namespaces(),
		watched.Core().V1().Pods(),
		// Admin policies are not ours.
		nil, nil, nil, nil,
		networkpolicy.Config{NodeName: node, NetfilterBug1766Fix: true},
	)
	if err != nil {
		return err
	}
	watched.Start(ctx.Done())
	return controller.Run(ctx)
}
