// Judges, compares and synchronises objects with Argo CD's own libraries.
//
//	argocd check DIR     runs each health_test.yaml below DIR in Argo's interpreter; prints how many cases held
//	argocd health DIR    judges each object on its input, one a line as JSON, with the checks of DIR
//	argocd diff          compares the objects on its input with the cluster, in each way that Argo CD knows
//	argocd sync DIR      makes the cluster have the objects on its input, in waves, and prunes others
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(words []string) error {
	switch {
	case len(words) == 2 && words[0] == "check":
		return check(words[1])
	case len(words) == 2 && words[0] == "health":
		return judge(words[1])
	case len(words) == 1 && words[0] == "diff":
		return compare()
	case len(words) == 2 && words[0] == "sync":
		return synchronise(words[1])
	}
	return fmt.Errorf("usage: argocd check DIR | health DIR | diff | sync DIR")
}

// Reads the objects of the input, one a line.
func objects() ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(lines.Bytes()); err != nil {
			return nil, fmt.Errorf("failed to read an object: %w", err)
		}
		all = append(all, object)
	}
	return all, lines.Err()
}

// Writes a line of JSON.
func say(what any) error {
	return json.NewEncoder(os.Stdout).Encode(what)
}
