package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

func init() {
	for command, args := range map[string][]string{
		"ls":  nil,
		"get": {"username"},
		"set": {"username", "Anna"},
		"rm":  {"about"},
	} {
		calls["ipfs npp profile "+command] = append([]string{"npp", "profile", command}, args...)
	}
}

type fieldRow struct{ Key, Value json.RawMessage }

// A field that is set is read by its owner and by all readers of the store.
func TestProfileIsSetAndRead(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	for way, f := range ways {
		do := func(command string, args ...string) []fieldRow {
			t.Helper()
			out, err := f(t, n, call{"profile/" + command, args, nil, nil})
			if err != "" {
				t.Fatalf("%s: %s %q: %s", way, command, args, err)
			}
			return decodeLines[fieldRow](t, out)
		}
		for _, test := range []struct{ key, text, want string }{
			{"username", "Anna ♪", `"Anna ♪"`},
			{"username", "123", `"123"`},
			{"username", "null", `"null"`},
			{"username", `"quoted"`, `"\"quoted\""`},
			{"about", "I play, sometimes", `"I play, sometimes"`},
			{"instruments", `["Piano", {"a":1}]`, `["Piano",{"a":1}]`},
			{"since", "1994", "1994"},
			{"a b/ü", "", `""`},
		} {
			if way == "RPC" && test.text == "" {
				continue // an empty arg= is no argument
			}
			if row := do("set", test.key, test.text); len(row) != 1 || string(row[0].Value) != test.want {
				t.Errorf("%s: set %s %s: %s", way, test.key, test.text, row[0].Value)
			}
			row := do("get", test.key)
			if len(row) != 1 || string(row[0].Value) != test.want {
				t.Errorf("%s: get %s: %s, want %s", way, test.key, row[0].Value, test.want)
			}
			if got := db(t, n, "get", "user", test.key)[0].Value; string(got) != test.want {
				t.Errorf("%s: in the store, %s is %s", way, test.key, got)
			}
		}
		rows := do("ls")
		if got := len(rows); got != len(db(t, n, "all", "user")) || got < 7 {
			t.Errorf("%s: %d fields", way, got)
		}
		if got := ask[idLine](t, n, "id", nil)[0].Username; got != `"quoted"` {
			t.Errorf("%s: the name is %s", way, got)
		}
		if row := do("rm", "about"); len(row) != 1 || string(row[0].Key) != `"about"` || row[0].Value != nil {
			t.Errorf("%s: rm: %s", way, row)
		}
		if _, err := f(t, n, call{"profile/get", []string{"about"}, nil, nil}); !strings.Contains(err, `no such key: "about"; hint: ipfs npp profile ls`) {
			t.Errorf("%s: a removed field: %s", way, err)
		}
	}
	if got := n.MustRun("npp", "profile", "set", "about", "line\nline\x1b[31m"); got != `about         line\nline\x1b[31m`+"\n" {
		t.Errorf("text: %q", got)
	}
	if got := n.MustRun("npp", "profile", "get", "about"); got != `line\nline\x1b[31m`+"\n" {
		t.Errorf("text: %q", got)
	}
	if got := n.MustRun("npp", "profile", "ls"); !strings.HasPrefix(got, "nodeId        "+n.PeerID()+"\n") || !strings.Contains(got, `instruments   ["Piano",{"a":1}]`+"\n") {
		t.Errorf("text: %s", got)
	}
	if got := n.MustRun("npp", "profile", "set", "--", "offset", "-5"); got != "offset        -5\n" {
		t.Errorf("a negative number: %s", got)
	}
	if got := n.MustRun("npp", "profile", "rm", "offset"); got != "removed offset\n" {
		t.Errorf("text: %s", got)
	}
}

// A refused command states the reason and a remedy, and changes nothing.
func TestProfileCommandsRefuseBadInput(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	before := n.MustRun("npp", "profile", "ls", "--enc=json")
	long := strings.Repeat("k", 257)
	for _, test := range []struct {
		call
		want []string
	}{
		{call{"profile/get", []string{"nothing"}, nil, nil}, []string{`no such key: "nothing"; hint: ipfs npp profile ls`}},
		{call{"profile/get", []string{"\x1b[31m"}, nil, nil}, []string{`"\u001b[31m"`}},
		{call{"profile/rm", []string{"nothing"}, nil, nil}, []string{`no such key: "nothing"; hint: ipfs npp profile ls`}},
		{call{"profile/rm", []string{"username"}, nil, nil}, []string{"the daemon manages this field", "; hint: ipfs npp profile set username <name>"}},
		{call{"profile/rm", []string{"nodeId"}, nil, nil}, []string{`manages this field: "nodeId"; hint: ipfs npp profile get nodeId`}},
		{call{"profile/set", []string{"nodeId", "x"}, nil, nil}, []string{`manages this field: "nodeId"; hint: ipfs npp profile get nodeId`}},
		{call{"profile/set", []string{"pieces", "x"}, nil, nil}, []string{`manages this field: "pieces"`, "hint: "}},
		{call{"profile/set", []string{"practice", "x"}, nil, nil}, []string{`manages this field: "practice"`, "hint: "}},
		{call{"profile/set", []string{long, "x"}, nil, nil}, []string{"the name of a field has 1 to 256 bytes", "hint: "}},
		{call{"profile/set", []string{"username", strings.Repeat("x", 65)}, nil, nil}, []string{"a username has 1 to 64 characters; hint: "}},
		{call{"profile/set", []string{"username", " x"}, nil, nil}, []string{"no surrounding spaces", "hint: "}},
		{call{"profile/set", []string{"username", "a\u202eb"}, nil, nil}, []string{"only printable characters and no surrounding spaces; hint: "}},
		{call{"profile/set", []string{"username", "/x"}, nil, nil}, []string{`does not begin with "/"; hint: `}},
		{call{"profile/set", []string{"username", somePeer}, nil, nil}, []string{"a username is not a peer ID; hint: "}},
		{call{"profile/set", []string{"about", strings.Repeat("x", 1<<20-1)[:120000]}, nil, nil}, nil}, // long, but valid
	} {
		for name, way := range ways {
			out, err := way(t, n, test.call)
			if test.want == nil {
				if err != "" {
					t.Errorf("%s: %s: %s", name, test.command, err)
				}
				n.MustRun("npp", "profile", "rm", "about")
				continue
			}
			if out != "" {
				t.Errorf("%s: %s %.80q: %s", name, test.command, test.args, out)
			}
			for _, want := range test.want {
				if !strings.Contains(err, want) || strings.Contains(err, "\n") || len(err) > 500 {
					t.Errorf("%s: %s %.80q: error is %q, want %q", name, test.command, test.args, err, want)
				}
			}
		}
	}
	refused(t, n, []string{"profile", "set", "username", ""}, "a username has 1 to 64 characters")
	refused(t, n, []string{"profile", "set", "", "x"}, "the name of a field has 1 to 256 bytes")
	if after := n.MustRun("npp", "profile", "ls", "--enc=json"); after != before {
		t.Errorf("a refused command changed something: %s\nbefore: %s", after, before)
	}
}
