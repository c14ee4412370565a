// Package layers holds the imports of the module against its architecture.
package layers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/readme"
)

const (
	module = "github.com/newpieceplease/npp"
	kubo   = "github.com/ipfs/kubo"
)

// layers lists the folders of the module, from the top down. A package imports
// packages of its own folder and of lower layers: not of a higher one, and not
// of another folder of its layer.
var layers = [][]string{
	{"cmd"},
	{"commands"},
	{"plugin"},
	{"daemon"},
	{"library"},
	{"message", "orbit"},
	{"router", "swarm"},
	{"space", "store"},
	{"internal"},
}

// tools are folders that may import everything, and that no layer imports.
var tools = []string{"bench", "test"}

// withKubo are the folders whose packages may depend on kubo.
var withKubo = append([]string{"cmd", "commands", "plugin"}, tools...)

// imports are the imports of each package, by import path.
type imports map[string][]string

// listed returns the imports of the module's packages and of all that they
// depend on, tests left out.
func listed(t *testing.T) imports {
	t.Helper()
	root := readme.Root(t)
	visit(t, root)
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	all := make(imports)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p.Imports
	}
}

// visit reads the folders of packages. go test repeats a cached result until a
// file or folder changes that the test itself read; it does not know which ones
// go list reads.
func visit(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if name := d.Name(); d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

// folder returns the first element of a path below the module, or "" for a
// package of another module.
func folder(path string) string {
	below, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(below, "/")
	return first
}

// own returns the packages of the module, sorted.
func (all imports) own() (paths []string) {
	for path := range all {
		if folder(path) != "" {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// chain returns a shortest chain of imports from a package to one of a module,
// or nil if the package does not depend on it.
func (all imports) chain(from, module string) []string {
	importer := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if !within(at, module) {
			for _, next := range all[at] {
				if _, seen := importer[next]; !seen {
					importer[next] = at
					queue = append(queue, next)
				}
			}
			continue
		}
		var chain []string
		for ; at != ""; at = importer[at] {
			chain = append([]string{at}, chain...)
		}
		return chain
	}
	return nil
}

// dependents returns a sentence for each package that depends on kubo and may
// not, with the chain of imports.
func (all imports) dependents() (sentences []string) {
	for _, path := range all.own() {
		if slices.Contains(withKubo, folder(path)) {
			continue
		}
		if chain := all.chain(path, kubo); chain != nil {
			sentences = append(sentences, fmt.Sprintf("%s depends on kubo:\n\t%s", path, strings.Join(chain, "\n\timports ")))
		}
	}
	return sentences
}

// layer returns the number of a folder's layer, from the top down, or -1 if it
// is in none.
func layer(folder string) int {
	return slices.IndexFunc(layers, func(folders []string) bool { return slices.Contains(folders, folder) })
}

// upward returns a sentence for each import that does not point to a lower
// layer, and for each package in no layer.
func (all imports) upward() (sentences []string) {
	for _, path := range all.own() {
		from := folder(path)
		switch {
		case slices.Contains(tools, from):
			continue
		case layer(from) < 0:
			sentences = append(sentences, path+" is in no layer")
			continue
		}
		for _, imported := range all[path] {
			if to := folder(imported); to != "" && to != from && layer(to) <= layer(from) {
				sentences = append(sentences, path+" imports "+imported)
			}
		}
	}
	return sentences
}

func TestCoreDoesNotDependOnKubo(t *testing.T) {
	all := listed(t)
	for _, sentence := range all.dependents() {
		t.Error(sentence)
	}
	if all.chain(module+"/plugin", kubo) == nil {
		t.Error("not even the plugin depends on kubo: the test is blind")
	}
}

func TestImportsPointDownwards(t *testing.T) {
	for _, sentence := range listed(t).upward() {
		t.Error(sentence)
	}
}

func TestForbiddenImportsAreFound(t *testing.T) {
	for _, test := range []struct {
		name string
		all  imports
		want string
	}{
		{"kubo, by way of another module", imports{
			module + "/store":  {"example.org/near"},
			"example.org/near": {"example.org/far", "fmt"},
			"example.org/far":  {kubo + "/core"},
			kubo + "/core":     nil,
		}, module + "/store depends on kubo:\n\t" + module + "/store\n\timports example.org/near\n\timports example.org/far\n\timports " + kubo + "/core"},
		{"kubo, where it may be", imports{module + "/plugin": {kubo + "/core"}, kubo + "/core": nil}, ""},
		{"a module with kubo's name as its beginning", imports{module + "/store": {kubo + "-tools"}, kubo + "-tools": nil}, ""},
		{"upwards", imports{module + "/orbit/oplog": {module + "/library/piece"}, module + "/library/piece": nil}, module + "/orbit/oplog imports " + module + "/library/piece"},
		{"to the side", imports{module + "/message": {module + "/orbit"}, module + "/orbit": nil}, module + "/message imports " + module + "/orbit"},
		{"of a tool", imports{module + "/store": {module + "/test/readme"}, module + "/test/readme": nil}, module + "/store imports " + module + "/test/readme"},
		{"by a tool", imports{module + "/test/sim": {module + "/orbit"}, module + "/orbit": nil}, ""},
		{"within a folder", imports{module + "/orbit": {module + "/orbit/entry"}, module + "/orbit/entry": {module + "/orbit/block"}, module + "/orbit/block": nil}, ""},
		{"a new folder", imports{module + "/attic": nil}, module + "/attic is in no layer"},
	} {
		if got := strings.Join(append(test.all.dependents(), test.all.upward()...), "\n"); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
