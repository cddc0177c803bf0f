// Applies, compares, prunes and awaits objects with the libraries of Flux's kustomize-controller.
//
//	flux build DIR            prints the objects of a kustomization, one a line as JSON
//	flux apply DIR INVENTORY  applies them, prunes what the inventory has besides, and writes the inventory;
//	                          prints one line for each object, with what was done
//	flux await DIR            waits until kstatus judges every object as current; fails at once if one failed
//	flux diff DIR             prints one line for each object, with what an apply would do, and the fields
//	flux delete INVENTORY     removes what the inventory has, and waits until it is gone
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/cli-utils/pkg/object"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/normalize"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// Name and namespace of the Flux Kustomization whose part is played.
	name      = "rig"
	namespace = "flux-system"
	patience  = 90 * time.Second
	interval  = 500 * time.Millisecond
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, words []string) error {
	if len(words) == 2 && words[0] == "build" {
		return printAll(words[1])
	}
	manager, err := newManager()
	if err != nil {
		return err
	}
	switch {
	case len(words) == 3 && words[0] == "apply":
		return apply(ctx, manager, words[1], words[2])
	case len(words) == 2 && words[0] == "diff":
		return compare(ctx, manager, words[1])
	case len(words) == 2 && words[0] == "delete":
		return remove(ctx, manager, words[1])
	case len(words) == 2 && words[0] == "await":
		return await(ctx, manager, words[1])
	}
	return errors.New("usage: flux build DIR | apply DIR INVENTORY | await DIR | diff DIR | delete INVENTORY")
}

// An entry of an inventory: what was applied.
type entry struct {
	ID      string `json:"id"`
	Version string `json:"version"`
}

func newManager() (*ssa.ResourceManager, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, err
	}
	kubernetes, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	poller := polling.NewStatusPoller(kubernetes, kubernetes.RESTMapper(), polling.Options{})
	owner := ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"}
	return ssa.NewResourceManager(kubernetes, poller, owner), nil
}

// Builds the kustomization and prepares its objects as the controller does.
func prepared(manager *ssa.ResourceManager, dir string) ([]*unstructured.Unstructured, error) {
	all, err := build(dir)
	if err != nil {
		return nil, err
	}
	if err := normalize.UnstructuredList(all); err != nil {
		return nil, err
	}
	manager.SetOwnerLabels(all, name, namespace)
	return all, nil
}

func apply(ctx context.Context, manager *ssa.ResourceManager, dir, inventory string) error {
	all, err := prepared(manager, dir)
	if err != nil {
		return err
	}
	changes, err := manager.ApplyAllStaged(ctx, all, ssa.DefaultApplyOptions())
	if err != nil {
		return err
	}
	if err := tell(changes); err != nil {
		return err
	}
	before, err := read(inventory)
	if err != nil {
		return err
	}
	stale, err := besides(before, changes)
	if err != nil {
		return err
	}
	pruned, err := manager.DeleteAll(ctx, stale, deletion(manager))
	if err != nil {
		return err
	}
	if err := tell(pruned); err != nil {
		return err
	}
	return write(inventory, changes)
}

func await(ctx context.Context, manager *ssa.ResourceManager, dir string) error {
	all, err := prepared(manager, dir)
	if err != nil {
		return err
	}
	wait := ssa.WaitOptions{Interval: interval, Timeout: patience, FailFast: true}
	return manager.WaitForSetWithContext(ctx, object.UnstructuredSetToObjMetadataSet(all), wait)
}

func compare(ctx context.Context, manager *ssa.ResourceManager, dir string) error {
	all, err := prepared(manager, dir)
	if err != nil {
		return err
	}
	for _, object := range all {
		change, live, merged, err := manager.Diff(ctx, object, ssa.DefaultDiffOptions())
		if err != nil {
			return err
		}
		said := map[string]any{"object": change.Subject, "action": change.Action}
		if live != nil && merged != nil {
			said["live"], said["merged"] = live.Object, merged.Object
		}
		if err := say(said); err != nil {
			return err
		}
	}
	return nil
}

func remove(ctx context.Context, manager *ssa.ResourceManager, inventory string) error {
	before, err := read(inventory)
	if err != nil {
		return err
	}
	all, err := besides(before, ssa.NewChangeSet())
	if err != nil {
		return err
	}
	changes, err := manager.DeleteAll(ctx, all, deletion(manager))
	if err != nil {
		return err
	}
	if err := tell(changes); err != nil {
		return err
	}
	return manager.WaitForSetTermination(changes, ssa.WaitOptions{Interval: interval, Timeout: patience})
}

func deletion(manager *ssa.ResourceManager) ssa.DeleteOptions {
	return ssa.DeleteOptions{
		PropagationPolicy: metav1.DeletePropagationBackground,
		Inclusions:        manager.GetOwnerLabels(name, namespace),
		Exclusions:        map[string]string{"kustomize.toolkit.fluxcd.io/prune": "disabled"},
	}
}

// The objects of an inventory that were not among those applied.
func besides(before []entry, applied *ssa.ChangeSet) ([]*unstructured.Unstructured, error) {
	kept := map[string]bool{}
	for _, change := range applied.Entries {
		kept[change.ObjMetadata.String()] = true
	}
	var all []*unstructured.Unstructured
	for _, entry := range before {
		if kept[entry.ID] {
			continue
		}
		meta, err := object.ParseObjMetadata(entry.ID)
		if err != nil {
			return nil, err
		}
		stale := &unstructured.Unstructured{}
		stale.SetGroupVersionKind(schema.GroupVersionKind{
			Group: meta.GroupKind.Group, Kind: meta.GroupKind.Kind, Version: entry.Version,
		})
		stale.SetNamespace(meta.Namespace)
		stale.SetName(meta.Name)
		all = append(all, stale)
	}
	return all, nil
}

func read(inventory string) ([]entry, error) {
	text, err := os.ReadFile(inventory)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var entries []entry
	return entries, json.Unmarshal(text, &entries)
}

func write(inventory string, applied *ssa.ChangeSet) error {
	var entries []entry
	for _, change := range applied.Entries {
		entries = append(entries, entry{ID: change.ObjMetadata.String(), Version: change.GroupVersion})
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	return os.WriteFile(inventory, text, 0o600)
}

// Prints one line for each object, with what was done.
func tell(changes *ssa.ChangeSet) error {
	for _, change := range changes.Entries {
		if err := say(map[string]any{"object": change.Subject, "action": change.Action}); err != nil {
			return err
		}
	}
	return nil
}

// Writes a line of JSON.
func say(what any) error {
	return json.NewEncoder(os.Stdout).Encode(what)
}
