package cli

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

// managedPair is two daemons. The first creates databases and changes their
// access lists, the second replicates them. Once disconnected, they do not
// reconnect by themselves.
type managedPair struct {
	admin, member *harness.Node
	id            string // of the member's identity
}

func newManagedPair(t *testing.T) managedPair {
	t.Helper()
	p := managedPair{admin: harness.New(t).Hide().Start(), member: harness.New(t).Hide().Start()}
	p.id = identityOf(t, p.member)
	p.connect()
	return p
}

func (p managedPair) connect() { p.member.MustRun("swarm", "connect", p.admin.ListenAddr()) }

// create creates a database that both daemons have.
func (p managedPair) create(t *testing.T, name string) {
	t.Helper()
	address := db(t, p.admin, "create", name, "--managed", "--type=keyvalue")[0].Address
	p.member.MustRun("npp", "db", "open", address, "--wait")
}

// write makes the member put a key as soon as it is authorized.
func (p managedPair) write(t *testing.T, name, key string) {
	t.Helper()
	eventually(t, "the member may write", func() bool { return p.member.Run("npp", "db", "put", name, key, "1").Code == 0 })
}

// show waits until both daemons show these keys of a database.
func (p managedPair) show(t *testing.T, name string, want ...string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	for _, n := range []*harness.Node{p.admin, p.member} {
		eventually(t, fmt.Sprintf("%s has %q", n.PeerID(), want), func() bool {
			var got []string
			for line := range strings.Lines(n.MustRun("npp", "db", "all", name)) {
				key, _, _ := strings.Cut(line, "\t")
				got = append(got, key)
			}
			return slices.Equal(slices.Sorted(slices.Values(got)), want)
		})
	}
}

// inStep waits until each daemon reports that the other was in sync after a
// time. The reports compare valid entries, not heads.
func (p managedPair) inStep(t *testing.T, name string, since time.Time) {
	t.Helper()
	for n, other := range map[*harness.Node]*harness.Node{p.admin: p.member, p.member: p.admin} {
		eventually(t, n.PeerID()+" is in sync", func() bool {
			peers := decodeLines[dbPeerLine](t, n.MustRun("npp", "db", "peers", "--enc=json", name))
			return slices.ContainsFunc(peers, func(l dbPeerLine) bool {
				return l.Peer == other.PeerID() && l.Open && l.Compared == "state" && l.InStep.After(since)
			})
		})
	}
}

func TestAccessListsThatChange(t *testing.T) {
	t.Parallel()
	p := newManagedPair(t)
	t.Run("a revocation keeps or discards entries", func(t *testing.T) { revocationKeepsOrDiscards(t, p) })
	t.Run("grants and revocations while disconnected", func(t *testing.T) { changesWhileDisconnected(t, p) })
}

// The entries of a writer stay valid when it is revoked, unless they are
// discarded. Discarded entries are valid again when the writer is granted
// again. Both daemons show the same at each step.
func revocationKeepsOrDiscards(t *testing.T, p managedPair) {
	p.create(t, "band")
	a, b, id := p.admin, p.member, p.id
	keys := func(want ...string) { t.Helper(); p.show(t, "band", want...) }
	write := func(key string) { t.Helper(); p.write(t, "band", key) }
	a.MustRun("npp", "db", "grant", "band", id)
	write("kept")
	keys("kept")

	r := a.Run("npp", "db", "revoke", "band", id, "--dry-run")
	if want := "note   apps on @orbitdb/core that lack its 1 entry cannot join them\nnote   1 entry from which no other writer's entry descends is retained\n"; r.Code != 0 || r.Stderr != want || r.Stdout != "" {
		t.Errorf("dry run: %v", r)
	}
	write("kept too") // the writer was not revoked
	keys("kept", "kept too")
	if r := a.Run("npp", "db", "revoke", "band", id); r.Code != 0 || !strings.Contains(r.Stderr, "2 entries from which no other writer's entry descends are retained") {
		t.Errorf("revoke: %v", r)
	}
	eventually(t, "b may not write any more", func() bool { return b.Run("npp", "db", "put", "band", "no", "1").Code == 1 })
	keys("kept", "kept too")

	a.MustRun("npp", "db", "grant", "band", id)
	write("discarded")
	keys("discarded", "kept", "kept too")
	if r := a.Run("npp", "db", "revoke", "band", id, "--discard"); r.Code != 0 || !strings.Contains(r.Stderr, "1 entry from which no other writer's entry descends is discarded") {
		t.Errorf("revoke: %v", r)
	}
	keys("kept", "kept too")
	b.Stop()
	b.Start()
	p.connect()
	keys("kept", "kept too")
	a.MustRun("npp", "db", "grant", "band", id)
	keys("discarded", "kept", "kept too")
}

// A writer is granted, revoked and granted again while the daemons are
// disconnected, and writes as long as it does not know of a revocation. After
// each connection, both daemons show the same: all entries while the writer is
// on the access list, and otherwise those up to the newest entry that the admin
// wrote or that is kept.
func changesWhileDisconnected(t *testing.T, p managedPair) {
	const name, rounds = "orchestra", 10
	p.create(t, name)
	var keys []string // in the order of writing; each entry references the previous one
	anchored := 0     // number of keys that are valid whether or not the writer is on the list
	for round := range rounds {
		p.member.MustRun("swarm", "disconnect", "/p2p/"+p.admin.PeerID())
		granted := round%2 == 0
		switch {
		case granted:
			p.admin.MustRun("npp", "db", "grant", name, p.id)
		case round%4 == 1:
			p.admin.MustRun("npp", "db", "revoke", name, p.id)
			anchored = len(keys)
		default:
			p.admin.MustRun("npp", "db", "revoke", name, p.id, "--discard")
		}
		if !granted {
			key := fmt.Sprintf("%d, revoked without knowing it", round)
			p.member.MustRun("npp", "db", "put", name, key, "1")
			keys = append(keys, key)
		}
		since := time.Now()
		p.connect()
		want := keys
		if !granted {
			want = keys[:anchored]
		}
		p.show(t, name, want...)
		for _, n := range []*harness.Node{p.admin, p.member} {
			if got := replica(t, n, "info", name).Entries; int(got) != len(want) {
				t.Errorf("round %d: %s has %d entries, want %d", round, n.PeerID(), got, len(want))
			}
		}
		p.inStep(t, name, since)
		if !granted {
			continue
		}
		keys = append(keys, fmt.Sprint(round))
		p.write(t, name, keys[len(keys)-1])
		p.show(t, name, keys...)
		if round%6 == 4 {
			keys = append(keys, fmt.Sprintf("%d, by the admin", round))
			p.admin.MustRun("npp", "db", "put", name, keys[len(keys)-1], "1")
			anchored = len(keys)
			p.show(t, name, keys...)
		}
	}
}
