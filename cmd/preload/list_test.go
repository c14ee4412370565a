package main

import (
	"bytes"
	"go/format"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const list = `# a comment

npp   github.com/newpieceplease/npp/plugin *
	# an indented comment
s3    example.org/s3/plugin 01
other example.org/s3/plugin 0
`

func TestListIsLoadedInItsOrder(t *testing.T) {
	entries, err := parse(strings.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	src, err := generate(entries)
	if err != nil {
		t.Fatal(err)
	}
	rest := string(src)
	for _, want := range []string{
		"// Code generated from preload_list by cmd/preload. DO NOT EDIT.\n",
		"\tpluginother \"example.org/s3/plugin\"\n",
		"\tplugins3 \"example.org/s3/plugin\"\n",
		"\tpluginnpp \"github.com/newpieceplease/npp/plugin\"\n",
		"\t\tpluginnpp.Plugins,\n",
		"\t\t{plugins3.Plugins[1]},\n",
		"\t\t{pluginother.Plugins[0]},\n",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("%q is missing or out of order in\n%s", want, src)
		}
		rest = after
	}
}

func TestOutputIsFormattedAndDeterministic(t *testing.T) {
	for _, list := range []string{list, ""} {
		entries, err := parse(strings.NewReader(list))
		if err != nil {
			t.Fatal(err)
		}
		src, err := generate(entries)
		if err != nil {
			t.Fatal(err)
		}
		formatted, err := format.Source(src)
		if err != nil || !bytes.Equal(src, formatted) {
			t.Errorf("not gofmt-ed (%v):\n%s", err, src)
		}
		again, err := generate(entries)
		if err != nil || !bytes.Equal(src, again) {
			t.Errorf("second run (%v) differs:\n%s", err, again)
		}
	}
}

func TestBadLineIsNamed(t *testing.T) {
	const good = "# comment\nnpp example.org/a *\n"
	for _, test := range []struct{ name, list, want string }{
		{"doubled line", good + "npp example.org/a *", `3: name "npp" is taken by line 2`},
		{"doubled name", good + "npp example.org/b 0", `3: name "npp" is taken by line 2`},
		{"doubled plugin", good + "b example.org/a 0", `3: example.org/a 0 is already loaded by line 2`},
		{"doubled number", "a example.org/a 1\nb example.org/a 01", `2: example.org/a 1 is already loaded by line 1`},
		{"two fields", good + "b example.org/b", `3: want a name, a go-path and a number or *, got 2 fields: "b example.org/b"`},
		{"four fields", good + "\nb example.org/b * x", `4: want a name, a go-path and a number or *, got 4 fields: "b example.org/b * x"`},
		{"word for number", good + "b example.org/b all", `3: bad number "all": want * or the index of a plugin, from 0 on`},
		{"negative number", good + "b example.org/b -1", `3: bad number "-1": want * or the index of a plugin, from 0 on`},
		{"huge number", good + "b example.org/b 99999999999999999999", `3: bad number "99999999999999999999": want * or the index of a plugin, from 0 on`},
		{"dashed name", good + "go-b example.org/b *", `3: bad name "go-b": only letters, digits and _ are allowed`},
		{"name with code", good + "b;import example.org/b *", `3: bad name "b;import": only letters, digits and _ are allowed`},
		{"quoted path", good + `b "example.org/b" *`, `3: bad go-path: malformed import path "\"example.org/b\"": invalid char '"'`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(strings.NewReader(test.list))
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestBadListLeavesTheFileAlone(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "preload_list"), filepath.Join(dir, "preload.go")
	for file, text := range map[string]string{in: "npp\n", out: "before"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := run(in, out)
	if err == nil || !strings.HasPrefix(err.Error(), in+":1: ") {
		t.Errorf("error does not begin with file and line: %v", err)
	}
	if got, _ := os.ReadFile(out); string(got) != "before" {
		t.Errorf("file overwritten with %q", got)
	}
}

// TestGeneratedFileIsFresh fails if preload_list changed and `make preload` did
// not run.
func TestGeneratedFileIsFresh(t *testing.T) {
	out := filepath.Join(t.TempDir(), "preload.go")
	if err := run("../../preload_list", out); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../ipfs/preload.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("cmd/ipfs/preload.go is stale: run make preload")
	}
}
