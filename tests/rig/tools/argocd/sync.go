package main

import (
	"fmt"
	"time"

	"github.com/argoproj/gitops-engine/pkg/cache"
	"github.com/argoproj/gitops-engine/pkg/diff"
	"github.com/argoproj/gitops-engine/pkg/health"
	"github.com/argoproj/gitops-engine/pkg/sync"
	"github.com/argoproj/gitops-engine/pkg/sync/common"
	"github.com/argoproj/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/gitops-engine/pkg/utils/tracing"
	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// Field manager of Argo CD.
	manager = "argocd-controller"
	// How Argo CD 3 knows what belongs to an Application.
	tracking = "argocd.argoproj.io/tracking-id"
	appName  = "rig"
	patience = 2 * time.Minute
)

// An object as the engine's cache keeps it.
type tracked struct {
	id string
}

func config() (*rest.Config, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 1000, 2000
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

func trackingID(object *unstructured.Unstructured) string {
	kind := object.GroupVersionKind()
	return fmt.Sprintf("%s:%s/%s:%s/%s", appName, kind.Group, kind.Kind, object.GetNamespace(), object.GetName())
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

// The objects of the application, as they should be and as the cluster has them.
type application struct {
	config  *rest.Config
	kubectl *kube.KubectlCmd
	target  []*unstructured.Unstructured
	live    cache.ClusterCache
}

// Reads the input and fills the cache, which the caller invalidates.
func open() (*application, error) {
	config, err := config()
	if err != nil {
		return nil, err
	}
	target, err := targets()
	if err != nil {
		return nil, err
	}
	kubectl := &kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}
	live := newCache(config, kubectl)
	return &application{config, kubectl, target, live}, live.EnsureSynced()
}

// Pairs each object with what the cluster has of it.
func (app *application) reconcile() (sync.ReconciliationResult, error) {
	managed, err := app.live.GetManagedLiveObjs(app.target, isManaged)
	if err != nil {
		return sync.ReconciliationResult{}, err
	}
	return sync.Reconcile(app.target, managed, "default", app.live), nil
}

// Prints one line for each object, with what was done, and fails unless all is well.
func synchronise(dir string) error {
	overrides, err := checks(dir)
	if err != nil {
		return err
	}
	app, err := open()
	if err != nil {
		return err
	}
	defer app.live.Invalidate()
	results, err := waves(app, overrides)
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
		// Without waves a sync does not wait until its objects are healthy.
		failed := result.HookPhase == common.OperationFailed || result.HookPhase == common.OperationError
		if failed || result.Status == common.ResultCodeSyncFailed {
			return fmt.Errorf("%s: %s %s: %s", result.ResourceKey.String(), result.Status, result.HookPhase, result.Message)
		}
	}
	return nil
}

// Goes on with the operation, as Argo CD's controller does at each look, until it has ended.
func waves(app *application, overrides health.HealthOverride) ([]common.ResourceSyncResult, error) {
	started := metav1.Now()
	phase, message := common.OperationRunning, ""
	var results []common.ResourceSyncResult
	for time.Since(started.Time) < patience {
		reconciled, err := app.reconcile()
		if err != nil {
			return results, err
		}
		step, cleanup, err := sync.NewSyncContext("1", reconciled, app.config, app.config, app.kubectl, "default",
			app.live.GetOpenAPISchema(),
			sync.WithInitialState(phase, message, results, started), sync.WithOperationSettings(false, true, false, false),
			sync.WithServerSideApply(true), sync.WithServerSideApplyManager(manager),
			sync.WithHealthOverride(overrides), sync.WithLogr(logr.Discard()))
		if err != nil {
			return results, err
		}
		step.Sync()
		phase, message, results = step.GetState()
		cleanup()
		if phase == common.OperationError || phase == common.OperationFailed {
			return results, fmt.Errorf("the sync failed: %s", message)
		}
		if phase.Completed() {
			return results, nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return results, fmt.Errorf("the sync has not ended: %s", message)
}

// Prints one line for each object and each way of comparing it.
func compare() error {
	app, err := open()
	if err != nil {
		return err
	}
	defer app.live.Invalidate()
	schema, parser, err := app.kubectl.LoadOpenAPISchema(app.config)
	if err != nil {
		return err
	}
	resources, cleanup, err := kube.ManageServerSideDiffDryRuns(app.config, schema, tracing.NopTracer{}, logr.Discard(), nil)
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
	reconciled, err := app.reconcile()
	if err != nil {
		return err
	}
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
