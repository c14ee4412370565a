// Package compat holds the promise that this version and the one before share
// repos and peers: a repo of either opens with the other and goes on, and their
// daemons replicate with each other.
//
// The environment variable NPP_BEFORE names the ipfs binary of the version
// before; make compat builds it from the history of git.
package compat

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// before returns the binary of the version before.
func before(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("NPP_BEFORE")
	if bin == "" {
		t.Skip("NPP_BEFORE does not name a binary; make compat builds one")
	}
	return bin
}

// musician is a node that the test fills step by step, with either version.
type musician struct {
	*harness.Node
	t    *testing.T
	step int
}

func newMusician(t *testing.T, bin string) *musician {
	t.Helper()
	n := harness.Bare(t, bin).Init()
	return &musician{Node: n.FixPort(), t: t}
}

// volatile are the fields of outputs that depend on the running process.
var volatile = []string{
	"addrs", "agent", "connected", "live", "peers", "inStep", "inStepWith", "since", "asking", "fetching", "exchanged",
	"latencyMs", "open", "online", "attention", "version",
}

// view returns what the node shows of all that it stores, without what depends
// on the running process, as lines of JSON.
func (m *musician) view() string {
	m.t.Helper()
	var out strings.Builder
	for _, command := range []string{
		"messages ls", "db ls", "db info score", "db log score", "db all score", "db all tempo", "db all events", "db info events",
		"pieces ls --all", "profile ls", "companions ls",
	} {
		fmt.Fprintf(&out, "%s\n", command)
		args := append(append([]string{"npp"}, strings.Fields(command)...), "--enc=json")
		var shown string
		eventually(m.t, "the catalog is complete", func() bool {
			shown = m.MustRun(args...)
			return !strings.Contains(shown, `"warning"`)
		})
		for line := range strings.Lines(shown) {
			var v any
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				m.t.Fatalf("%s: %v: %s", command, err, line)
			}
			stable, err := json.Marshal(without(v, volatile))
			if err != nil {
				m.t.Fatal(err)
			}
			fmt.Fprintf(&out, "  %s\n", stable)
		}
	}
	return out.String()
}

// without returns a JSON value without some fields.
func without(v any, fields []string) any {
	switch v := v.(type) {
	case map[string]any:
		for k, of := range v {
			if slices.Contains(fields, k) {
				delete(v, k)
			} else {
				v[k] = without(of, fields)
			}
		}
	case []any:
		for i := range v {
			v[i] = without(v[i], fields)
		}
	}
	return v
}

// fill adds something of each kind that a repo stores.
func (m *musician) fill(friend *musician) {
	m.t.Helper()
	m.step++
	n := fmt.Sprint(m.step)
	if m.step == 1 {
		m.MustRun("npp", "db", "create", "score", "--type=documents", "--managed")
		m.MustRun("npp", "db", "create", "tempo", "--type=keyvalue")
		m.MustRun("npp", "db", "create", "events", "--type=events", "--managed")
		m.MustRun("npp", "profile", "set", "username", "Musician")
		m.MustRun("npp", "companions", "add", "--wait=1m", friend.ListenAddr())
	}
	m.MustRun("npp", "db", "put", "score", fmt.Sprintf(`{"_id":"opus %s","bars":%s}`, n, n))
	m.MustRun("npp", "db", "put", "score", fmt.Sprintf(`{"_id":"last","bars":%s}`, n))
	m.MustRun("npp", "db", "put", "tempo", "allegro "+n, n)
	m.MustRun("npp", "db", "put", "events", fmt.Sprintf(`"rehearsal %s"`, n))
	m.MustRun("npp", "db", "grant", "score", identityOf(friend))
	m.MustRun("npp", "profile", "set", "seat"+n, n)
	file := filepath.Join(m.t.TempDir(), "piece"+n+".abc")
	if err := os.WriteFile(file, fmt.Appendf(nil, "X:1\nT:Piece %s of %s\nC:Trad.\nK:C\nCDEF|\n", n, m.PeerID()), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.MustRun("npp", "pieces", "add", file)
	var piece struct{ Hash string }
	if err := json.Unmarshal([]byte(strings.SplitN(m.MustRun("npp", "pieces", "ls", "--enc=json"), "\n", 2)[0]), &piece); err != nil || piece.Hash == "" {
		m.t.Fatalf("no piece: %v", err)
	}
	m.MustRun("npp", "practice", piece.Hash, n)
}

// talk sends messages both ways and has each replicate a database of the other.
// The friend writes to the database of m, and loses the right to.
func (m *musician) talk(friend *musician) {
	m.t.Helper()
	text := fmt.Sprintf(`{"step":%d}`, m.step)
	m.MustRun("npp", "send", friend.ListenAddr(), text)
	friend.MustRun("npp", "send", m.ListenAddr(), text)
	for _, pair := range [][2]*musician{{m, friend}, {friend, m}} {
		to, from := pair[0], pair[1]
		address := from.info("score").Address
		to.MustRun("npp", "db", "open", address, "--wait", "--timeout=2m")
		want := from.MustRun("npp", "db", "all", "score", "--enc=json")
		eventually(to.t, "the database is replicated", func() bool {
			return to.MustRun("npp", "db", "all", address, "--enc=json") == want
		})
	}
	key := fmt.Sprintf("note %d", m.step)
	friend.MustRun("npp", "db", "put", m.info("score").Address, fmt.Sprintf(`{"_id":%q}`, key))
	eventually(m.t, "the friend's entry arrives", func() bool { return m.Run("npp", "db", "get", "score", key).Code == 0 })
	m.MustRun("npp", "db", "revoke", "score", identityOf(friend))
	m.MustRun("npp", "db", "get", "score", key)
}

type info struct{ Address string }

func (m *musician) info(db string) (i info) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.MustRun("npp", "db", "info", db, "--enc=json")), &i); err != nil {
		m.t.Fatal(err)
	}
	return i
}

func identityOf(m *musician) string {
	m.t.Helper()
	var id struct{ ID string }
	out := m.MustRun("npp", "id", "--enc=json")
	if err := json.Unmarshal([]byte(out), &id); err != nil || id.ID == "" {
		m.t.Fatalf("no identity in %s: %v", out, err)
	}
	return id.ID
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(harness.Patience)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Two musicians fill their repos and talk. One repo then changes its version
// back and forth while the other keeps the version before. Each change shows
// what was stored and goes on.
func TestRepoGoesBackAndForthBetweenVersions(t *testing.T) {
	old, now := before(t), harness.NPP(t)
	m, friend := newMusician(t, old), newMusician(t, old)
	friend.Start()
	m.Start()
	friend.fill(m)
	m.fill(friend)
	m.talk(friend)
	for _, bin := range []string{now, old, now, old} {
		want := m.view()
		m.Stop()
		m.Bin = bin
		m.Start()
		if got := m.view(); got != want {
			t.Fatalf("after a change of the version to %s, the node shows\n%s\nbefore\n%s", bin, got, want)
		}
		m.fill(friend)
		m.talk(friend)
	}
}
