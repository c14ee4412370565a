package interop

import (
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/test/harness"
)

// anybody returns the options of a database that anybody may write.
func anybody(kind string) orbit.Options {
	return orbit.Options{Type: kind, Access: orbit.Access{Write: []string{orbit.Anyone}}}
}

func pair(key, val string) [2]value.Value { return [2]value.Value{value.Text(key), value.Text(val)} }

func TestDaemonPutsNoPlainValueWhereAppsEncrypt(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	a, b := startNode(t), startNode(t)
	a.newIdentity(writerA)
	b.newIdentity(writerB)
	inA := a.createLive(writerA, "secrets", anybody(orbit.TypeKeyValue), live{encryption: "data"})
	inA.putMany(pair("a", "one"))
	a.connect(n)
	inDaemon := openIn(t, n, inA.address)
	count := func(want uint64) {
		t.Helper()
		eventually(t, "the daemon has the entries", func() (any, bool) { i := inDaemon.info(); return i, i.Entries == want })
	}
	refuses := func() {
		t.Helper()
		for _, args := range [][]string{{"put", inA.address, "b", `"plain"`}, {"del", inA.address, "a"}} {
			if r := n.Run(append([]string{"npp", "db"}, args...)...); r.Code == 0 || !strings.Contains(r.Stderr, "encrypt the values") || !strings.Contains(r.Stderr, "--plain") {
				t.Errorf("%v: %v", args, r)
			}
		}
	}
	count(1)
	refuses() // with one writer
	b.connect(n)
	inB := b.openLive(writerB, inA.address, live{memory: true, encryption: "data"})
	inB.waitForCount(1)
	inB.putMany(pair("b", "two"))
	count(2)
	refuses() // with two writers
	inA.waitForCount(2)
	converge(t, inA, inB)
	for _, js := range []*node{a, b} {
		if errs := js.happened(eventError, inA.address); len(errs) > 0 {
			t.Errorf("errors: %+v", errs)
		}
	}
	if text := n.MustRun("npp", "db", "doctor", inA.address); !strings.Contains(text, "values    the apps that write to it encrypt the values") {
		t.Errorf("doctor: %s", text)
	}
	// The effect on an app of a plain value that is put nevertheless.
	n.MustRun("npp", "db", "put", inA.address, "c", `"plain"`, "--plain")
	eventually(t, "the apps fail at it", func() (any, bool) {
		errs := a.happened(eventError, inA.address)
		return errs, len(errs) > 0 && strings.Contains(errs[0].Error, "Could not decrypt payload")
	})
}

func TestDaemonSaysThatALogIsEncrypted(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	js := startNode(t)
	js.newIdentity(writerA)
	inJS := js.createLive(writerA, "secrets", anybody(orbit.TypeEvents), live{encryption: "replication"})
	inJS.putMany("one", "two")
	js.connect(n)
	inDaemon := openIn(t, n, inJS.address)
	shown := func(command ...string) string { return n.MustRun(append([]string{"npp", "db"}, command...)...) }
	eventually(t, "it is encrypted", func() (any, bool) {
		text := shown("info", inJS.address)
		return text, strings.Contains(text, "\nstate     encrypted\n")
	})
	if text := shown("ls"); !strings.Contains(text, inJS.address+"  events          0  encrypted  secrets\n") {
		t.Errorf("ls: %s", text)
	}
	text := shown("doctor", inJS.address)
	if !strings.Contains(text, "problem  state     it is open, but the entries of its peers are encrypted as a whole") ||
		!strings.Contains(text, "problem  refused ") || strings.Contains(text, "in sync") || strings.Contains(text, "nothing prevents its replication") {
		t.Errorf("doctor: %s", text)
	}
	if text := shown("peers", inJS.address); !strings.Contains(text, "in sync never") {
		t.Errorf("peers: %s", text)
	}
	if i := inDaemon.info(); i.Entries+i.Faults+i.Waiting != 0 {
		t.Errorf("info: %+v", i)
	}
}

// As JavaScript creates one with open(name, { Database: Documents({ indexBy })
// }).
func TestDaemonOpensEventsAsTheDocumentsThatAppsKeepInThem(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	js := startNode(t)
	js.newIdentity(writerA)
	opts := anybody(orbit.TypeEvents)
	opts.IndexBy = "hash"
	inJS := js.createLive(writerA, "scores", opts, live{})
	inJS.kind = orbit.TypeDocuments
	document := func(hash string) value.Value { return fromJSON(`{"hash":"` + hash + `"}`) }
	inJS.putMany(document("one"), document("two"))
	n.MustRun("npp", "db", "open", inJS.address, "--type=documents", "--index-by=hash") // while no peer is connected
	inDaemon := daemonReplica{t, n, inJS.address}
	js.connect(n)
	agree(t, 2, daemonsOf(inDaemon), inJS)
	inDaemon.put([]string{`{"hash":"three"}`})
	n.MustRun("npp", "db", "del", inJS.address, "one")
	agree(t, 4, daemonsOf(inDaemon), inJS)
	if text := n.MustRun("npp", "db", "info", inJS.address); !strings.Contains(text, "documents, indexed by hash; its manifest says events") {
		t.Errorf("info: %s", text)
	}
}
