package commands

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/ipfs/go-ipfs-cmds/cli"
	"github.com/ipfs/kubo/cmd/ipfs/kubo"
	"github.com/ipfs/kubo/core/commands"
)

// eachCommand calls f with every command of `ipfs npp`, the groups among them.
func eachCommand(f func(path []string, c *cmds.Command)) {
	var walk func(path []string, c *cmds.Command)
	walk = func(path []string, c *cmds.Command) {
		f(path, c)
		for name, sub := range c.Subcommands {
			walk(append(slices.Clone(path), name), sub)
		}
	}
	walk([]string{Name}, nppCmd)
}

func TestHelpHasExamplesAndFitsTheTerminal(t *testing.T) {
	root := &cmds.Command{Subcommands: map[string]*cmds.Command{Name: nppCmd}}
	eachCommand(func(path []string, c *cmds.Command) {
		name := "ipfs " + strings.Join(path, " ")
		var help bytes.Buffer
		if err := cli.LongHelp("ipfs", root, path, &help); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.Contains(c.Helptext.ShortDescription, "\n  > "+name) && !strings.Contains(c.Helptext.ShortDescription, "\n  "+name+" ") {
			t.Errorf("%s has no example", name)
		}
		for line := range strings.Lines(help.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
	})
}

func TestEveryCommandDocumentsItsOptions(t *testing.T) {
	eachCommand(func(path []string, c *cmds.Command) {
		if c.Helptext.Tagline == "" || !strings.HasSuffix(c.Helptext.Tagline, ".") {
			t.Errorf("%v: tagline is %q", path, c.Helptext.Tagline)
		}
		for _, o := range c.Options {
			if o.Description() == "" {
				t.Errorf("%v: option %s is not described", path, o.Name())
			}
		}
		if (c.Run == nil) != (len(c.Subcommands) > 0) {
			t.Errorf("%v is neither a group nor a command", path)
		}
		if c.Run != nil && (c.Type == nil || c.Encoders[cmds.Text] == nil) {
			t.Errorf("%v has no text for people", path)
		}
	})
}

func TestRegisterTakesUpdateAway(t *testing.T) {
	roots := map[string]*cmds.Command{"API": commands.Root, "client": kubo.Root}
	Register()
	for name, root := range roots {
		if root.Subcommands[Name] != nppCmd || root.Subcommands["update"] != nil {
			t.Errorf("%s: npp %p, update %p", name, root.Subcommands[Name], root.Subcommands["update"])
		}
	}
}
