package main

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"go/format"
	"go/token"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"golang.org/x/mod/module"
)

// all is the Number of an entry for every plugin of a package.
const all = "*"

// entry is a line of the list.
type entry struct {
	Name   string // imported as plugin<Name>
	Path   string // import path
	Number string // index into the package's Plugins, or all
	line   int
}

// parse reads a list. Its errors begin with the number of a line and a colon.
func parse(r io.Reader) ([]entry, error) {
	var entries []entry
	lines := bufio.NewScanner(r)
	for line := 1; lines.Scan(); line++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		e, err := parseLine(text)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", line, err)
		}
		for _, prev := range entries {
			if e.Name == prev.Name {
				return nil, fmt.Errorf("%d: name %q is taken by line %d", line, e.Name, prev.line)
			}
			if e.overlaps(prev) {
				return nil, fmt.Errorf("%d: %s %s is already loaded by line %d", line, e.Path, e.Number, prev.line)
			}
		}
		e.line = line
		entries = append(entries, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf(" %w", err)
	}
	return entries, nil
}

func parseLine(text string) (entry, error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return entry{}, fmt.Errorf("want a name, a go-path and a number or *, got %d fields: %q", len(fields), text)
	}
	e := entry{Name: fields[0], Path: fields[1], Number: fields[2]}
	if !token.IsIdentifier("plugin" + e.Name) {
		return entry{}, fmt.Errorf("bad name %q: only letters, digits and _ are allowed", e.Name)
	}
	if err := module.CheckImportPath(e.Path); err != nil {
		return entry{}, fmt.Errorf("bad go-path: %w", err)
	}
	if e.Number != all {
		n, err := strconv.ParseUint(e.Number, 10, 16)
		if err != nil {
			return entry{}, fmt.Errorf("bad number %q: want * or the index of a plugin, from 0 on", e.Number)
		}
		e.Number = strconv.FormatUint(n, 10)
	}
	return e, nil
}

// overlaps reports whether e and f load the same plugin.
func (e entry) overlaps(f entry) bool {
	return e.Path == f.Path && (e.Number == f.Number || e.Number == all || f.Number == all)
}

var source = template.Must(template.New("preload.go").Parse(`// Code generated from preload_list by cmd/preload. DO NOT EDIT.

package main

import (
	"github.com/ipfs/kubo/plugin"
	"github.com/ipfs/kubo/plugin/loader"
{{range .Imports}}
	plugin{{.Name}} {{printf "%q" .Path}}{{end}}
)

// preload loads the plugins of preload_list, after kubo's own.
func preload(l *loader.PluginLoader) error {
	for _, plugins := range [][]plugin.Plugin{
{{- range .Plugins}}
		{{if eq .Number "*"}}plugin{{.Name}}.Plugins{{else}}{plugin{{.Name}}.Plugins[{{.Number}}]}{{end}},{{end}}
	} {
		for _, p := range plugins {
			if err := l.Load(p); err != nil {
				return err
			}
		}
	}
	return nil
}
`))

// generate returns the formatted source of the preload function. It imports
// packages in the order of their paths and loads plugins in that of the
// entries.
func generate(entries []entry) ([]byte, error) {
	imports := slices.Clone(entries)
	slices.SortFunc(imports, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Name, b.Name))
	})
	var b bytes.Buffer
	data := struct{ Imports, Plugins []entry }{imports, entries}
	if err := source.Execute(&b, data); err != nil {
		return nil, err
	}
	return format.Source(b.Bytes())
}
