package main

import (
	"bytes"
	"fmt"

	"github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Builds a kustomization.
func build(dir string) ([]*unstructured.Unstructured, error) {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("failed to build %s: %w", dir, err)
	}
	text, err := made.AsYaml()
	if err != nil {
		return nil, err
	}
	return utils.ReadObjects(bytes.NewReader(text))
}

func printAll(dir string) error {
	all, err := build(dir)
	if err != nil {
		return err
	}
	for _, object := range all {
		if err := say(object.Object); err != nil {
			return err
		}
	}
	return nil
}
