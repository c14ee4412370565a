// Package api tests the exported API of the packages that other modules import.
package api

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// public are the packages that other modules import, as patterns of the go
// command.
var public = []string{"./orbit/...", "./store", "./space", "./router"}

// A module that imports a package cannot name a type of an internal package.
func TestNoExportedAPIMentionsAnInternalType(t *testing.T) {
	t.Chdir("../..")
	paths, exports := load(t)
	open := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	imports := importer.ForCompiler(token.NewFileSet(), "gc", open)
	found := 0
	for _, path := range paths {
		if isInternal(path) {
			continue
		}
		pkg, err := imports.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		found++
		for _, leak := range leaks(pkg) {
			t.Errorf("%s: %s", path, leak)
		}
	}
	if found < len(public) {
		t.Errorf("%d packages", found)
	}
}

// load returns the public packages, and the files of the export data of all
// packages that they depend on.
func load(t *testing.T) (paths []string, exports map[string]string) {
	t.Helper()
	list := func(args ...string) []string {
		var stderr bytes.Buffer
		command := exec.Command("go", append(append([]string{"list"}, args...), public...)...)
		command.Stderr = &stderr
		out, err := command.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", command, err, stderr.Bytes())
		}
		return strings.Fields(string(out))
	}
	for _, dir := range list("-f", "{{.Dir}}") {
		if _, err := os.ReadDir(dir); err != nil { // go test runs the test again when a file changes
			t.Fatal(err)
		}
	}
	exports = make(map[string]string)
	for _, line := range list("-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}") {
		path, file, _ := strings.Cut(line, "=")
		exports[path] = file
	}
	return list(), exports
}

func isInternal(path string) bool {
	return slices.Contains(strings.Split(path, "/"), "internal")
}

// leaks returns the exported parts of a package that mention an internal type,
// with that type.
func leaks(pkg *types.Package) []string {
	w := walker{pkg: pkg, seen: make(map[types.Type]bool), found: make(map[string]bool)}
	for _, name := range pkg.Scope().Names() {
		if object := pkg.Scope().Lookup(name); object.Exported() {
			w.object(name, object)
		}
	}
	return slices.Sorted(maps.Keys(w.found))
}

type walker struct {
	pkg   *types.Package
	seen  map[types.Type]bool
	found map[string]bool
}

func (w *walker) object(where string, object types.Object) {
	name, ok := object.(*types.TypeName)
	if ok && name.IsAlias() {
		if alias, ok := name.Type().(*types.Alias); ok {
			w.walk(where, alias.Rhs())
			return
		}
	}
	w.walk(where, object.Type())
}

// walk looks for internal types in the part of a type that other packages can
// use.
func (w *walker) walk(where string, t types.Type) {
	if w.seen[t] {
		return
	}
	switch t := t.(type) {
	case *types.Alias:
		w.named(where, t.Obj(), t.TypeArgs())
		w.walk(where, t.Rhs())
	case *types.Named:
		w.named(where, t.Obj(), t.TypeArgs())
		if t.Obj().Pkg() != w.pkg {
			return
		}
		w.seen[t] = true
		for i := range t.NumMethods() {
			if m := t.Method(i); m.Exported() {
				w.walk(where+"."+m.Name(), m.Type())
			}
		}
		w.walk(where, t.Underlying())
	case *types.Struct:
		for i := range t.NumFields() {
			if f := t.Field(i); f.Exported() || f.Embedded() {
				w.walk(where+"."+f.Name(), f.Type())
			}
		}
	case *types.Interface:
		for i := range t.NumMethods() {
			w.walk(where+"."+t.Method(i).Name(), t.Method(i).Type())
		}
		for i := range t.NumEmbeddeds() {
			w.walk(where, t.EmbeddedType(i))
		}
	case *types.Union:
		for i := range t.Len() {
			w.walk(where, t.Term(i).Type())
		}
	case *types.Signature:
		for i := range t.TypeParams().Len() {
			w.walk(where, t.TypeParams().At(i).Constraint())
		}
		w.walk(where, t.Params())
		w.walk(where, t.Results())
	case *types.Tuple:
		for i := range t.Len() {
			w.walk(where, t.At(i).Type())
		}
	case *types.Map:
		w.walk(where, t.Key())
		w.walk(where, t.Elem())
	case interface{ Elem() types.Type }: // pointer, slice, array, channel
		w.walk(where, t.Elem())
	}
}

func (w *walker) named(where string, name *types.TypeName, args *types.TypeList) {
	if name.Pkg() != nil && isInternal(name.Pkg().Path()) && strings.HasPrefix(name.Pkg().Path(), module(w.pkg.Path())) {
		w.found[fmt.Sprintf("%s mentions %s.%s", where, name.Pkg().Path(), name.Name())] = true
	}
	for i := range args.Len() {
		w.walk(where, args.At(i))
	}
}

// module returns the first three elements of a path, which are those of this
// module.
func module(path string) string {
	return strings.Join(strings.SplitN(path, "/", 4)[:3], "/") + "/"
}

func TestLeaksAreFound(t *testing.T) {
	const header = "package p\nimport \"example.org/o/m/internal/i\"\n"
	hidden := types.NewPackage("example.org/o/m/internal/i", "i")
	inner := types.NewTypeName(token.NoPos, hidden, "T", nil)
	types.NewNamed(inner, types.NewStruct(nil, nil), nil)
	hidden.Scope().Insert(inner)
	hidden.MarkComplete()
	config := types.Config{Importer: importerOf{hidden}}
	for code, want := range map[string]string{
		"type A = i.T":                                            "A",
		"type A = []i.T":                                          "A",
		"type S struct{ F i.T }":                                  "S.F",
		"type S struct{ F map[string]*i.T }":                      "S.F",
		"type S struct{ i.T }":                                    "S.T",
		"type S struct{ e }; type e struct{ F i.T }":              "S.e.F",
		"type S struct{ e }; type e struct{}; func (e) M(i.T) {}": "S.e.M",
		"type S struct{}; func (*S) M() (n int, t chan i.T)":      "S.M",
		"type S interface{ M(func(...i.T)) }":                     "S.M",
		"func F[P interface{ i.T }](P) {}":                        "F",
		"type G[P any] struct{}; var V G[i.T]":                    "V",
		"var V [2]i.T":                                            "V",
		"func F() e { panic(0) }; type e struct{ G i.T }":         "F.G",
		"var v i.T": "",
		"type S struct{ f i.T }; func (S) m(i.T) {}":          "",
		"type S struct{ F func(f) }; type f struct{ t *i.T }": "",
	} {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "p.go", header+code, 0)
		if err != nil {
			t.Fatal(err)
		}
		pkg, err := config.Check("example.org/o/m/p", fset, []*ast.File{file}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(leaks(pkg), "; ")
		if want != "" {
			want += " mentions example.org/o/m/internal/i.T"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
}

type importerOf struct{ pkg *types.Package }

func (i importerOf) Import(string) (*types.Package, error) { return i.pkg, nil }
