package replicate_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// full waits until a quota excludes the entries of peers.
func (n *node) full(address string) {
	n.t.Helper()
	eventually(n.t, "it is full", func() bool {
		s, err := n.Status(n.t.Context(), address)
		must(n.t, err)
		return errors.Is(s.Full, orbit.ErrQuotaFull)
	})
}

// mine creates a database that only the node may write to, with events of a
// kilobyte.
func (n *node) mine(name string, events int) (address string) {
	n.t.Helper()
	db, err := n.Create(n.t.Context(), name, orbit.Options{Type: orbit.TypeEvents})
	must(n.t, err)
	n.addLarge(db.Address(), events)
	return db.Address()
}

func (n *node) addLarge(address string, events int) {
	n.t.Helper()
	for range events {
		n.add(address, strings.Repeat("x", 1000))
	}
}

func TestFullDatabaseIsReportedServedAndResumed(t *testing.T) {
	for name, as := range map[string]func(*node){"of a daemon": func(*node) {}, "of JavaScript": asJavaScript} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const entries, quota = 60, 40_000
			a := newNodeAs(t, as)
			address := a.mine("gigs", entries)
			b, c := newNodeAs(t, func(n *node) { n.quota.Database = quota }), newNode(t)
			begun := time.Now()
			b.open(address)
			b.connect(a)
			b.full(address)
			if u := b.database(address).Usage(); u.Entries+u.Pending > quota {
				t.Errorf("%+v", u)
			}
			s, err := b.Status(t.Context(), address)
			if err != nil || s.Settled(begun) || s.State != replicate.Open {
				t.Errorf("%+v, %v", s, err)
			}
			for _, p := range s.Peers {
				if !p.InSync.IsZero() {
					t.Errorf("%+v", p)
				}
			}
			findings, err := b.Examine(t.Context(), address)
			must(t, err)
			if !contains(findings, replicate.CheckQuota, replicate.Problem) || contains(findings, replicate.CheckSummary, replicate.OK) {
				t.Errorf("%+v", findings)
			}

			// Its entries are served.
			has := b.count(address)
			c.open(address)
			c.connect(b)
			eventually(t, "what is there is served", func() bool { return len(c.database(address).Address()) > 0 && c.count(address) >= has })

			b.quota.Database = 0
			b.restart()
			b.connect(a)
			wantSame(t, address, entries, a, b)
			eventually(t, "they are in sync", func() bool {
				s, err := b.Status(t.Context(), address)
				must(t, err)
				return s.Settled(begun)
			})
		})
	}
}

func contains(findings []replicate.Finding, check string, level replicate.Level) bool {
	for _, f := range findings {
		if f.Check == check && f.Level == level {
			return true
		}
	}
	return false
}

func TestFullDatabaseResumesWhenAnotherOneIsDropped(t *testing.T) {
	t.Parallel()
	a := newNode(t)
	one, two := a.mine("one", 20), a.mine("two", 20)
	b := newNodeAs(t, func(n *node) { n.quota.All = 50_000 })
	b.open(one)
	b.connect(a)
	wantSame(t, one, 20, a, b)
	b.open(two)
	b.full(two)
	must(t, b.Replicator.Drop(t.Context(), one, nil))
	wantSame(t, two, 20, a, b)
	if s, err := b.Status(t.Context(), two); err != nil || s.Full != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

// A full database still accepts local writes, and they reach peers.
func TestLocalWritesToAFullDatabaseReachPeers(t *testing.T) {
	t.Parallel()
	a, b := newEarlierNode(t), newNodeAs(t, func(n *node) { n.quota.Database = 20_000 })
	address := a.create("guests", orbit.TypeEvents).Address()
	a.addLarge(address, 40)
	b.open(address)
	b.connect(a)
	b.full(address)
	b.add(address, "here I am")
	eventually(t, "it is everywhere", func() bool { return a.count(address) == 41 })
}
