package replicate_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/router"
)

// wantNotLive checks which databases of a node are not live, and that each
// source of that information agrees.
func wantNotLive(t *testing.T, n *node, all []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	got, why := n.NotLive()
	if !slices.Equal(got, want) || (why == nil) != (len(want) == 0) || why != nil && !errors.Is(why, router.ErrTooManyTopics) {
		t.Fatalf("not live are %v (%v), want %v", got, why, want)
	}
	for _, address := range all {
		live := !slices.Contains(want, address)
		s, err := n.Status(t.Context(), address)
		must(t, err)
		if s.State != replicate.Open || (s.NotLive == nil) != live || !live && !errors.Is(s.NotLive, router.ErrTooManyTopics) {
			t.Errorf("%s: %s, %v", address, s.State, s.NotLive)
		}
		findings, err := n.Examine(t.Context(), address)
		must(t, err)
		said := slices.ContainsFunc(findings, func(f replicate.Finding) bool {
			return f.Check == replicate.CheckPubsub && f.Level == replicate.Problem && strings.Contains(f.Text, "not live") && f.Advice == string(replicate.FreeTopics)
		})
		if said == live {
			t.Errorf("%s: the examination says %v", address, findings)
		}
	}
}

// A database beyond the limit of topics can be used like any other, reports
// that it is not live, and goes live when another one is closed.
func TestDatabaseBeyondTheLimitOfTopicsGoesLiveWhenOneIsClosed(t *testing.T) {
	a := newNodeAs(t, func(n *node) { n.limit = 2 })
	b := newNode(t)
	var all []string
	for _, name := range []string{"first", "second", "third", "fourth"} {
		all = append(all, a.create(name, orbit.TypeEvents).Address())
		if len(all) <= 2 { // in this order
			eventually(t, "it is live", func() bool { return slices.Contains(a.router.GetTopics(), all[len(all)-1]) })
		}
	}
	first, second, third, fourth := all[0], all[1], all[2], all[3]
	eventually(t, "both are refused", func() bool { got, _ := a.NotLive(); return len(got) == 2 })
	wantNotLive(t, a, all, third, fourth)

	// It accepts writes, and replicates with a peer at which it is live.
	a.add(third, "ours")
	b.open(third)
	b.connect(a)
	wantSame(t, third, 1, a, b)
	if slices.Contains(b.router.ListPeers(third), a.host.ID()) {
		t.Error("its topic is subscribed to")
	}
	wantNotLive(t, b, []string{third})

	must(t, a.CloseDatabase(t.Context(), fourth)) // this frees no topic
	wantNotLive(t, a, all[:3], third)
	must(t, a.CloseDatabase(t.Context(), first))
	eventually(t, "b sees that a has it live", func() bool { return slices.Contains(b.router.ListPeers(third), a.host.ID()) })
	eventually(t, "it is live", func() bool { got, _ := a.NotLive(); return len(got) == 0 })
	wantNotLive(t, a, []string{second, third})
	b.add(third, "theirs")
	wantSame(t, third, 2, a, b)

	a.open(first)
	eventually(t, "it is refused", func() bool { got, _ := a.NotLive(); return len(got) == 1 })
	wantNotLive(t, a, []string{first, second, third}, first)
	a.open(fourth) // tasks that wait for a topic end with the replicator
}

// The access list of a database has a topic of its own.
func TestExaminationSaysWhereTheAccessListIsNotLive(t *testing.T) {
	a := newNodeAs(t, func(n *node) { n.limit = 1 })
	a.create("first", orbit.TypeEvents)
	eventually(t, "it is live", func() bool { return len(a.router.GetTopics()) == 1 })
	db, err := a.Create(t.Context(), "managed", orbit.Options{Access: orbit.Access{Managed: true}})
	must(t, err)
	eventually(t, "both topics are refused", func() bool { got, _ := a.NotLive(); return len(got) == 2 })
	findings, err := a.Examine(t.Context(), db.Address())
	must(t, err)
	for _, which := range []string{"it is not live", "its access database is not live"} {
		if !slices.ContainsFunc(findings, func(f replicate.Finding) bool {
			return f.Level == replicate.Problem && strings.HasPrefix(f.Text, which)
		}) {
			t.Errorf("%q is not said: %v", which, findings)
		}
	}
}
