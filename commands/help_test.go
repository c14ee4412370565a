package commands

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ipfs/boxo/keystore"
	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/ipfs/go-ipfs-cmds/cli"
	version "github.com/ipfs/kubo"
	"github.com/ipfs/kubo/cmd/ipfs/kubo"
	"github.com/ipfs/kubo/core/commands"
	"github.com/libp2p/go-libp2p"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/swarm"
	"github.com/newpieceplease/npp/test/readme"
)

// eachCommand calls f with every command and group of `ipfs npp`.
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

func TestReadmeNamesTheVersionOfKubo(t *testing.T) {
	readme.Says(t, "It is [kubo](https://github.com/ipfs/kubo) %s with a plugin", version.CurrentVersionNumber)
	if text := readme.Text(t); strings.Count(text, "kubo "+version.CurrentVersionNumber) != strings.Count(text, "kubo 0.") {
		t.Errorf("README.md names another version of kubo than %s", version.CurrentVersionNumber)
	}
}

// words are numbers in words.
var words = []string{"no", "one", "two", "three", "four", "five", "six", "seven"}

// ownStores returns the databases of a new library.
func ownStores(t *testing.T) []library.Database {
	t.Helper()
	host, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	disk := storetest.NewDisk()
	o, err := orbit.New(t.Context(), orbit.Config{Store: store.New(disk, "/orbit"), Keystore: keystore.NewMemKeystore()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	s, err := swarm.New(t.Context(), swarm.Config{Host: host, Store: store.New(disk, "/swarm")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	lib, err := library.New(t.Context(), library.Config{Orbit: o, Host: host, Store: store.New(disk, "/library"), Swarm: s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lib.Close() })
	return lib.Databases(t.Context())
}

func TestTextsNameAllStoresAndTypes(t *testing.T) {
	stores := ownStores(t)
	types := []string{orbit.TypeDocuments, orbit.TypeKeyValue, orbit.TypeEvents}
	dbHelp, idHelp := dbCmd.Helptext.ShortDescription, idCmd.Helptext.ShortDescription
	_, databases, _ := strings.Cut(readme.Text(t), "\n### Databases\n")
	databases, _, _ = strings.Cut(databases, "\n### ")
	says := func(where, text, want string) {
		t.Helper()
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("%s does not say: %s", where, want)
		}
	}
	for _, s := range stores {
		if s.Err != nil || !slices.Contains(types, s.DB.Type()) {
			t.Fatalf("%+v", s)
		}
		says("db --help", dbHelp, strconv.Quote(s.Name))
		says("id --help", idHelp, " "+s.Name+" /orbitdb/")
		says("README.md", databases, "`"+s.Name+"`")
		says("README.md", databases, " "+s.Name+" /orbitdb/")
	}
	count := words[len(stores)]
	says("db --help", dbHelp, "The daemon has "+count+" databases of its own")
	says("README.md", databases, strings.ToUpper(count[:1])+count[1:]+" databases are there from the beginning")
	says("db --help", dbHelp, "There are "+words[len(types)]+" types")
	says("README.md", databases, fmt.Sprintf("There are %s types: `%s`, `%s` and `%s`", words[len(types)], types[0], types[1], types[2]))
	says("db create --help", dbCreateCmd.Options[0].Description(), fmt.Sprintf("%s, %s or %s.", types[0], types[1], types[2]))
	for _, kind := range types {
		says("db --help", dbHelp, kind)
	}
}

// mention matches a command line of npp in a text: names, options, and '|'
// between alternative names.
var mention = regexp.MustCompile(`ipfs\s+npp((?:\s+(?:--[a-z-]+|[a-z]+|\|))*)`)

// spanned matches the end of such a command line between backquotes.
var spanned = regexp.MustCompile("`((?:--[a-z-]+|[a-z]+|\\|)(?:\\s+(?:--[a-z-]+|[a-z]+|\\|))*)")

// checkMention fails the test if a command or an option does not exist.
func checkMention(t *testing.T, where, text string) {
	t.Helper()
	c, group := nppCmd, nppCmd
	expected := true // the next word is a command, or a group is what is meant
	for _, token := range strings.Fields(text) {
		sub := c.Subcommands[token]
		switch {
		case token == "|" && !expected:
			return // the pipe of a shell
		case token == "|":
			c = group
		case strings.HasPrefix(token, "--"):
			known := func(o cmds.Option) bool { return slices.Contains(o.Names(), token[2:]) }
			if !slices.ContainsFunc(c.Options, known) && !slices.ContainsFunc(commands.Root.Options, known) && token != "--help" {
				t.Errorf("%s: %q: there is no %s", where, text, token)
			}
		case sub != nil:
			group, c = c, sub
		case c.Run == nil && expected:
			t.Errorf("%s: %q: there is no command %s", where, text, token)
			return
		default:
			expected = false
		}
	}
}

func TestCommandsThatTextsNameExist(t *testing.T) {
	Register()
	text := readme.Text(t)
	found := make(map[string]bool)
	for _, m := range mention.FindAllStringSubmatch(text, -1) {
		checkMention(t, "README.md", m[1])
		if name := strings.Fields(m[1]); len(name) > 0 {
			found[name[0]] = true
		}
	}
	for _, m := range spanned.FindAllStringSubmatch(text, -1) {
		if name := strings.Fields(m[1]); nppCmd.Subcommands[name[0]] != nil && len(name) > 1 {
			checkMention(t, "README.md", m[1])
		}
	}
	for name := range nppCmd.Subcommands {
		if !found[name] {
			t.Errorf("README.md does not name ipfs npp %s", name)
		}
	}
	root := readme.Root(t)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			for _, m := range mention.FindAllStringSubmatch(text, -1) {
				checkMention(t, strings.TrimPrefix(path, root), m[1])
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
