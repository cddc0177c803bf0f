package main

import (
	"context"
	"fmt"
	"time"

	"github.com/argoproj/gitops-engine/pkg/cache"
	"github.com/argoproj/gitops-engine/pkg/diff"
	"github.com/argoproj/gitops-engine/pkg/engine"
	"github.com/argoproj/gitops-engine/pkg/sync"
	"github.com/argoproj/gitops-engine/pkg/sync/common"
	"github.com/argoproj/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/gitops-engine/pkg/utils/tracing"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// Field manager of Argo CD.
	manager = "argocd-controller"
	// How Argo CD 3 knows what belongs to an Application.
	tracking = "argocd.argoproj.io/tracking-id"
	app      = "rig"
	patience = 2 * time.Minute
)

// An object as the engine's cache keeps it.
type tracked struct {
	id string
}

func config() (*rest.Config, error) {
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), &clientcmd.ConfigOverrides{}).ClientConfig()
}

func trackingID(object *unstructured.Unstructured) string {
	kind := object.GroupVersionKind()
	return fmt.Sprintf("%s:%s/%s:%s/%s", app, kind.Group, kind.Kind, object.GetNamespace(), object.GetName())
}

// Reads the objects of the input, marked as those of the application.
func targets() ([]*unstructured.Unstructured, error) {
	all, err := objects()
	for _, object := range all {
		annotations := object.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[tracking] = trackingID(object)
		object.SetAnnotations(annotations)
	}
	return all, err
}

func newCache(config *rest.Config, kubectl kube.Kubectl) cache.ClusterCache {
	return cache.NewClusterCache(config, cache.SetKubectl(kubectl), cache.SetLogr(logr.Discard()),
		cache.SetPopulateResourceInfoHandler(func(object *unstructured.Unstructured, _ bool) (any, bool) {
			id := object.GetAnnotations()[tracking]
			return &tracked{id: id}, id != ""
		}))
}

// An object with an id of the application that names another object is a copy, and not managed.
func isManaged(resource *cache.Resource) bool {
	info, ok := resource.Info.(*tracked)
	if !ok || info.id == "" {
		return false
	}
	ref := resource.Ref
	object := &unstructured.Unstructured{}
	object.SetAPIVersion(ref.APIVersion)
	object.SetKind(ref.Kind)
	object.SetNamespace(ref.Namespace)
	object.SetName(ref.Name)
	return info.id == trackingID(object)
}

func newKubectl() *kube.KubectlCmd {
	return &kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}
}

// Prints one line for each object, with what was done, and fails unless all is well.
func synchronise(dir string) error {
	overrides, err := checks(dir)
	if err != nil {
		return err
	}
	config, err := config()
	if err != nil {
		return err
	}
	target, err := targets()
	if err != nil {
		return err
	}
	kubectl := newKubectl()
	argo := engine.NewEngine(config, newCache(config, kubectl), engine.WithLogr(logr.Discard()), engine.WithKubectl(kubectl))
	stop, err := argo.Run()
	if err != nil {
		return err
	}
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	results, err := argo.Sync(ctx, target, isManaged, "1", "default",
		sync.WithPrune(true), sync.WithServerSideApply(true), sync.WithServerSideApplyManager(manager),
		sync.WithHealthOverride(overrides), sync.WithLogr(logr.Discard()),
		sync.WithOperationSettings(false, true, false, false))
	for _, result := range results {
		said := map[string]string{
			"object": result.ResourceKey.String(), "status": string(result.Status),
			"phase": string(result.HookPhase), "message": result.Message,
		}
		if err := say(said); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	for _, result := range results {
		if result.Status == common.ResultCodeSyncFailed || result.HookPhase != common.OperationSucceeded && result.Status != common.ResultCodePruned {
			return fmt.Errorf("%s: %s %s: %s", result.ResourceKey.String(), result.Status, result.HookPhase, result.Message)
		}
	}
	return nil
}

// Prints one line for each object and each way of comparing it.
func compare() error {
	config, err := config()
	if err != nil {
		return err
	}
	target, err := targets()
	if err != nil {
		return err
	}
	kubectl := newKubectl()
	live := newCache(config, kubectl)
	if err := live.EnsureSynced(); err != nil {
		return err
	}
	defer live.Invalidate()
	managed, err := live.GetManagedLiveObjs(target, isManaged)
	if err != nil {
		return err
	}
	schema, parser, err := kubectl.LoadOpenAPISchema(config)
	if err != nil {
		return err
	}
	resources, cleanup, err := kubectl.ManageResources(config, schema)
	if err != nil {
		return err
	}
	defer cleanup()
	common := []diff.Option{diff.WithLogr(logr.Discard()), diff.WithGVKParser(parser), diff.WithManager(manager)}
	ways := []struct {
		name    string
		options []diff.Option
	}{
		{"client", nil},
		{"structured", []diff.Option{diff.WithStructuredMergeDiff(true)}},
		{"server", []diff.Option{diff.WithServerSideDiff(true),
			diff.WithServerSideDryRunner(diff.NewK8sServerSideDryRunner(resources))}},
	}
	reconciled := sync.Reconcile(target, managed, "default", live)
	for i := range reconciled.Target {
		wanted, found := reconciled.Target[i], reconciled.Live[i]
		for _, way := range ways {
			result, err := diff.Diff(wanted, found, append(way.options, common...)...)
			if err != nil {
				return err
			}
			name := "none"
			if wanted != nil {
				name = trackingID(wanted)
			} else if found != nil {
				name = trackingID(found)
			}
			said := map[string]any{"object": name, "way": way.name, "modified": result.Modified}
			if result.Modified {
				said["live"], said["predicted"] = string(result.NormalizedLive), string(result.PredictedLive)
			}
			if err := say(said); err != nil {
				return err
			}
		}
	}
	return nil
}
