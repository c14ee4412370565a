package replicate_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// rest waits until no replica of the node runs.
func (n *node) rest() {
	n.t.Helper()
	eventually(n.t, "all replicas rest", func() bool { return n.RestLater(replicate.LingerFor) == 0 })
}

func (n *node) follows(address string) bool { return slices.Contains(n.router.GetTopics(), address) }

// A database rests until a peer that speaks no inventory opens it. Such a peer
// is sent what is there and what is new. Its topic is left when it is gone.
func TestDatabaseIsLiveForAnEarlierPeer(t *testing.T) {
	for name, as := range map[string]func(*node){"a daemon": func(n *node) { n.mid = true }, "JavaScript": asJavaScript} {
		t.Run(name, func(t *testing.T) {
			a, b := newNode(t), newNodeAs(t, as)
			address := a.create("gigs", orbit.TypeEvents).Address()
			a.add(address, "before")
			a.rest()
			if a.follows(address) {
				t.Error("the topic of a database at rest is subscribed to")
			}
			b.open(address)
			b.connect(a)
			wantSame(t, address, 1, a, b)
			eventually(t, "the topic is subscribed to", func() bool { return a.follows(address) })
			a.add(address, "live")
			wantSame(t, address, 2, a, b)
			b.add(address, "live too")
			wantSame(t, address, 3, a, b)
			b.close()
			a.rest()
			eventually(t, "the topic is left", func() bool { return !a.follows(address) })
		})
	}
}

// Changes reach each peer of a line, whichever of them speak the inventory.
func TestChangesAreLiveAlongALine(t *testing.T) {
	for name, kinds := range map[string][]func(*node){
		"daemons":                     {nil, nil, nil},
		"an earlier daemon at an end": {nil, nil, func(n *node) { n.mid = true }},
		"an earlier one in between":   {nil, func(n *node) { n.mid = true }, nil},
		"daemons without pubsub":      {func(n *node) { n.deaf = true }, func(n *node) { n.deaf = true }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var line []*node
			for _, as := range kinds {
				if as == nil {
					as = func(*node) {}
				}
				line = append(line, newNodeAs(t, as))
			}
			address := line[0].create("gigs", orbit.TypeEvents).Address()
			line[0].add(address, "before")
			for i, n := range line[1:] {
				n.open(address)
				n.connect(line[i])
			}
			wantSame(t, address, 1, line...)
			last := line[len(line)-1]
			for i := range 5 {
				line[0].add(address, fmt.Sprint("from the first ", i))
				wantSame(t, address, 2*i+2, line...)
				last.add(address, fmt.Sprint("from the last ", i))
				wantSame(t, address, 2*i+3, line...)
			}
		})
	}
}

// Somebody who watches a database at rest sees what daemons write.
func TestWatcherOfADatabaseAtRest(t *testing.T) {
	a, b, address := newPair(t)
	eventually(t, "b rests", func() bool { return b.RestLater(replicate.LingerFor) == 0 })
	for e, err := range b.Watch(testContext(t), address, func() { a.add(address, "one") }) {
		must(t, err)
		if e.Kind == replicate.Update {
			break
		}
	}
	for s, err := range b.Follow(testContext(t), address) {
		must(t, err)
		if len(s.Peers) == 1 && s.Peers[0].Open && !s.Peers[0].InSync.IsZero() {
			break
		}
	}
}

// The access list changes while the database rests. Then an entry of a writer
// that it permits is accepted.
func TestAccessListChangesAtRest(t *testing.T) {
	a, b := newNode(t), newNode(t)
	db := a.createManaged("band")
	b.open(db.Address())
	b.connect(a)
	b.database(db.Address())
	eventually(t, "b rests", func() bool { return b.RestLater(replicate.LingerFor) == 0 })
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	eventually(t, "b may write", func() bool { return b.mayWrite(db.Address()) })
	a.rest()
	b.add(db.Address(), "hello")
	wantSame(t, db.Address(), 1, a, b)
}

// Of many databases in common, only those that differ cause work.
func TestOnlyWhatDiffersCatchesUp(t *testing.T) {
	const common, differing = 200, 10
	a, b := newNode(t), newNode(t)
	var all []string
	for i := range common {
		all = append(all, a.create(fmt.Sprint(i), orbit.TypeEvents).Address())
		b.create(fmt.Sprint(i), orbit.TypeEvents)
	}
	for i, address := range all[:differing] {
		a.add(address, fmt.Sprint("event ", i))
	}
	b.connect(a)
	for _, address := range all[:differing] {
		wantSame(t, address, 1, a, b)
	}
	if n := b.sessions.Load(); n > 4*differing {
		t.Errorf("%d sessions for %d databases that differ", n, differing)
	}
	for _, address := range all[differing:] {
		if b.count(address) != 0 {
			t.Errorf("%s has an entry", address)
		}
	}
}

// A quota stops what a daemon sends, and replication goes on when space is
// freed, also of a database that rests by then.
func TestFullDatabaseAtRestResumes(t *testing.T) {
	a := newNode(t)
	one, two := a.mine("one", 20), a.mine("two", 20)
	b := newNodeAs(t, func(n *node) { n.quota.All = 50_000 })
	b.open(one)
	b.connect(a)
	wantSame(t, one, 20, a, b)
	b.open(two)
	b.full(two)
	b.rest()
	must(t, b.Replicator.Drop(t.Context(), one, nil))
	wantSame(t, two, 20, a, b)
}
