package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/gitops-engine/pkg/health"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const script = "health.lua"

// The form of health_test.yaml.
type healthTests struct {
	Tests []struct {
		InputPath    string              `json:"inputPath"`
		HealthStatus health.HealthStatus `json:"healthStatus"`
	} `json:"tests"`
}

// Reads every health.lua, by group and kind, as argocd-cm has them.
func checks(dir string) (lua.ResourceHealthOverrides, error) {
	found := lua.ResourceHealthOverrides{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != script {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		key, err := filepath.Rel(dir, filepath.Dir(path))
		found[filepath.ToSlash(key)] = v1alpha1.ResourceOverride{HealthLua: string(text)}
		return err
	})
	return found, err
}

func check(dir string) error {
	overrides, err := checks(dir)
	if err != nil {
		return err
	}
	held := 0
	for key := range overrides {
		folder := filepath.Join(dir, filepath.FromSlash(key))
		text, err := os.ReadFile(filepath.Join(folder, "health_test.yaml"))
		if err != nil {
			return err
		}
		var tests healthTests
		if err := yaml.UnmarshalStrict(text, &tests); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		for _, test := range tests.Tests {
			text, err := os.ReadFile(filepath.Join(folder, test.InputPath))
			if err != nil {
				return err
			}
			object := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(text, &object.Object); err != nil {
				return fmt.Errorf("%s: %w", test.InputPath, err)
			}
			found, err := overrides.GetResourceHealth(object)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", test.InputPath, key, err)
			}
			if found == nil || found.Status != test.HealthStatus.Status || found.Message != test.HealthStatus.Message {
				return fmt.Errorf("%s of %s is %+v instead of %+v", test.InputPath, key, found, test.HealthStatus)
			}
			held++
		}
	}
	fmt.Println(held)
	return nil
}

func judge(dir string) error {
	overrides, err := checks(dir)
	if err != nil {
		return err
	}
	all, err := objects()
	if err != nil {
		return err
	}
	for _, object := range all {
		found, err := health.GetResourceHealth(object, overrides)
		if err != nil {
			return err
		}
		if found == nil {
			found = &health.HealthStatus{}
		}
		if err := say(map[string]string{"status": string(found.Status), "message": found.Message}); err != nil {
			return err
		}
	}
	return nil
}
