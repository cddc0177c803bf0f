// Command dashboard reads a dashboard as Grafana's own types do, and fails on what they do not know.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: dashboard FILE")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	// Without the plugins, nothing is known of the options of panels and of queries.
	plugins.RegisterDefaultPlugins()
	var board dashboard.Dashboard
	if err := actual(board.UnmarshalJSONStrict(text)); err != nil {
		return fmt.Errorf("%s is not what Grafana's types say: %w", args[0], err)
	}
	if err := actual(board.Validate()); err != nil {
		return fmt.Errorf("%s breaks a rule of Grafana's types: %w", args[0], err)
	}
	fmt.Printf("%d panels and rows\n", len(board.Panels))
	return nil
}

// actual leaves out a list of errors that is empty, which is an error to Go all the same.
func actual(err error) error {
	var list cog.BuildErrors
	if errors.As(err, &list) && len(list) == 0 {
		return nil
	}
	return err
}
