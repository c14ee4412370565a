package reconcile

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Diff returns the entries that are authorized on one side alone, for any two
// replicas.
func TestDiffNamesWhatCountsOnOneSideAlone(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	only := func(a, b []string) (list []string) {
		for _, hash := range a {
			if !slices.Contains(b, hash) {
				list = append(list, hash)
			}
		}
		return slices.Sorted(slices.Values(list))
	}
	found := 0
	for i := range 4 {
		w := newWriters(t, 3)
		w.history(t, rand.New(rand.NewPCG(seed, uint64(i))), 14)
		theirs, ours := w.databases[0], w.databases[1]
		server := newPeer(t)
		server.serve(w.orbits[0], theirs)
		s := session(t, server, theirs.Address())
		d, err := s.Diff(t.Context(), oplog.Of(ours), 1<<20)
		must(t, err)
		wantTheirs, wantOurs := only(hashes(t, theirs), hashes(t, ours)), only(hashes(t, ours), hashes(t, theirs))
		if slices.Sort(d.Theirs); !slices.Equal(d.Theirs, wantTheirs) {
			t.Errorf("seed %d: theirs: %d entries, want %d", i, len(d.Theirs), len(wantTheirs))
		}
		if slices.Sort(d.Ours); !slices.Equal(d.Ours, wantOurs) || d.More {
			t.Errorf("seed %d: ours: %d entries, more %v, want %d", i, len(d.Ours), d.More, len(wantOurs))
		}
		found += len(d.Theirs) + len(d.Ours)
		if few, err := s.Diff(t.Context(), oplog.Of(ours), 1); err != nil || len(few.Theirs) > 1 || len(few.Ours) > 1 {
			t.Errorf("%d and %d entries, %v; at most one was asked for", len(few.Theirs), len(few.Ours), err)
		}
	}
	if found == 0 {
		t.Error("the histories never differed")
	}
}

// Diff includes an entry that both sides have and one of them authorizes.
func TestDiffNamesEntriesThatOnlyOneSideAuthorizes(t *testing.T) {
	a, b := newOrbit(t), newOrbit(t)
	managed := orbit.Options{Access: orbit.Access{Write: []string{a.Identity().ID}, Managed: true}}
	theirs, err := a.Create(t.Context(), "band", managed)
	must(t, err)
	ours, err := b.Create(t.Context(), "band", managed)
	must(t, err)
	must(t, theirs.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	copyAll(t, theirs.Access().Database(), ours.Access().Database(), a, b)
	add(t, ours, 2)
	copyAll(t, ours, theirs, b, a)
	must(t, theirs.Access().Discard(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	server := newPeer(t)
	server.serve(a, theirs)
	d, err := session(t, server, theirs.Address()).Diff(t.Context(), oplog.Of(ours), 10)
	must(t, err)
	if len(d.Theirs) != 0 || len(d.Ours) != 2 {
		t.Errorf("got %+v", d)
	}
}
