package orbit_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
)

// admins are peers that may all change the access list of one database.
type admins struct {
	peers []*peer
	dbs   []*orbit.Database
}

func newAdmins(t *testing.T, n int) admins {
	t.Helper()
	var a admins
	var ids []string
	for i := range n {
		p := newPeer(t, byte(0x11+2*i), byte(0x12+2*i))
		a.peers = append(a.peers, p)
		ids = append(ids, p.Identity().ID)
	}
	for _, p := range a.peers {
		for _, q := range a.peers {
			must(t, p.PutBlocks(t.Context(), q.Identity().Block()))
		}
		a.dbs = append(a.dbs, p.create(t, "band", orbit.Options{Access: orbit.Access{Write: ids, Managed: true}}))
	}
	return a
}

// meet transfers the changes of one admin to another.
func (a admins) meet(t *testing.T, from, to int) {
	t.Helper()
	join(t, a.dbs[to].Access().Database(), entries(t, a.dbs[from].Access().Database())...)
}

// settle makes all admins meet and repair until there is nothing to repair, and
// returns the number of lists that were written.
func (a admins) settle(t *testing.T) (repairs int) {
	t.Helper()
	for round := 0; ; round++ {
		before := repairs
		for i := range a.dbs {
			for j := range a.dbs {
				if i != j {
					a.meet(t, j, i)
				}
			}
		}
		for _, db := range a.dbs { // concurrently: no admin knows of the repairs of the others
			n, err := db.Access().Repair(t.Context())
			must(t, err)
			repairs += n
		}
		if repairs == before {
			return repairs
		}
		if round > 20 {
			t.Fatal("they repair each other's lists for ever")
		}
	}
}

func (a admins) writers(t *testing.T, i int) []string {
	t.Helper()
	capabilities, err := a.dbs[i].Access().Capabilities(t.Context())
	must(t, err)
	return slices.Sorted(slices.Values(capabilities[orbit.CapabilityWrite]))
}

func TestChangesOfTwoAdminsAtOnceAreBothKept(t *testing.T) {
	grant := func(db *orbit.Database, id string) error {
		return db.Access().Grant(t.Context(), orbit.CapabilityWrite, id)
	}
	revoke := func(db *orbit.Database, id string) error {
		return db.Access().Revoke(t.Context(), orbit.CapabilityWrite, id)
	}
	a := newAdmins(t, 2)
	for _, id := range []string{"both", "first", "second"} {
		must(t, grant(a.dbs[0], id))
	}
	a.meet(t, 0, 1)
	must(t, grant(a.dbs[0], "new of the first"))
	must(t, revoke(a.dbs[0], "first"))
	must(t, revoke(a.dbs[0], "both"))
	must(t, revoke(a.dbs[1], "both"))
	must(t, grant(a.dbs[1], "both")) // the revocation prevails
	must(t, revoke(a.dbs[1], "second"))
	must(t, grant(a.dbs[1], "new of the second"))
	if repairs := a.settle(t); repairs != 1 {
		t.Errorf("%d repairs of one pair", repairs)
	}
	for i := range a.dbs {
		if got, want := a.writers(t, i), []string{"new of the first", "new of the second"}; !slices.Equal(got, want) {
			t.Errorf("admin %d: %q, want %q", i, got, want)
		}
	}
}

// Another admin may write a long list, so IDs are not looked up in the list
// itself, which would take time quadratic in its length.
func TestLongListsAreMergedAsSets(t *testing.T) {
	a := newAdmins(t, 2)
	ids := make([]string, 60_000)
	for i := range ids {
		ids[i] = fmt.Sprintf("%05x", i)
	}
	must(t, a.dbs[0].Access().Grant(t.Context(), orbit.CapabilityWrite, "before"))
	a.meet(t, 0, 1)
	must(t, a.dbs[1].Access().Grant(t.Context(), orbit.CapabilityWrite, "own"))
	must(t, a.dbs[0].Access().Grant(t.Context(), orbit.CapabilityWrite, "newer"))
	kv, err := a.dbs[0].Access().Database().KeyValue()
	must(t, err)
	_, err = kv.Put(t.Context(), orbit.CapabilityWrite, ids)
	must(t, err)
	a.meet(t, 0, 1)
	repaired, err := a.dbs[1].Access().Repair(t.Context())
	must(t, err)
	if got := a.writers(t, 1); repaired != 1 || len(got) != len(ids)+1 {
		t.Errorf("%d repairs, %d writers; want %d", repaired, len(got), len(ids)+1)
	}
}

// A JavaScript admin does not repair, and no other admin repairs for it: the
// newer list stays.
func TestListThatWasOverwrittenKnowinglyStays(t *testing.T) {
	a := newAdmins(t, 2)
	must(t, a.dbs[0].Access().Grant(t.Context(), orbit.CapabilityWrite, "x"))
	a.meet(t, 0, 1)
	must(t, a.dbs[1].Access().Revoke(t.Context(), orbit.CapabilityWrite, "x"))
	if repairs := a.settle(t); repairs != 0 {
		t.Errorf("%d repairs", repairs)
	}
	if got := a.writers(t, 0); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

// Admins change a list during changing partitions. In the end all have the same
// list. It contains each identity that was granted and not revoked, and no
// other.
func TestAdminsWhoRepairAtOnceEndWithOneList(t *testing.T) {
	repaired := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 0))
		a := newAdmins(t, 2+rng.IntN(2))
		granted, revoked := make(map[string]bool), make(map[string]bool)
		for range 3 + rng.IntN(12) {
			i := rng.IntN(len(a.dbs))
			id := fmt.Sprint("id", rng.IntN(5))
			switch rng.IntN(4) {
			case 0:
				if j := rng.IntN(len(a.dbs)); j != i {
					a.meet(t, j, i)
				}
			case 1:
				if slices.Contains(a.writers(t, i), id) {
					must(t, a.dbs[i].Access().Revoke(t.Context(), orbit.CapabilityWrite, id))
					revoked[id] = true
				}
			default:
				must(t, a.dbs[i].Access().Grant(t.Context(), orbit.CapabilityWrite, id))
				granted[id] = true
			}
			if rng.IntN(3) == 0 {
				n, err := a.dbs[i].Access().Repair(t.Context())
				must(t, err)
				repaired += n
			}
		}
		repaired += a.settle(t)
		list := a.writers(t, 0)
		for i := range a.dbs {
			if got := a.writers(t, i); !slices.Equal(got, list) {
				t.Errorf("seed %d: admin %d has %q, another %q", seed, i, got, list)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(granted)) {
			if !revoked[id] && !slices.Contains(list, id) {
				t.Errorf("seed %d: %s was granted, never revoked, and is not in %q", seed, id, list)
			}
		}
		for _, id := range list {
			if !granted[id] {
				t.Errorf("seed %d: %s was never granted", seed, id)
			}
		}
	}
	if repaired == 0 {
		t.Error("nothing was ever repaired")
	}
}

// Retaining too many entries fails and writes nothing.
func TestTooManyRetainedEntriesChangeNothing(t *testing.T) {
	a := newAdmins(t, 1)
	access := a.dbs[0].Access()
	hashes := make([]string, 4097)
	for i := range hashes {
		hashes[i] = block.New(fmt.Append(nil, i)).Hash
	}
	if err := access.Retain(t.Context(), "x", hashes); !errors.Is(err, orbit.ErrTooManyRetained) {
		t.Errorf("%d entries are kept: %v", len(hashes), err)
	}
	must(t, access.Retain(t.Context(), "x", hashes[1:]))
	if err := access.Retain(t.Context(), "x", hashes[:1]); !errors.Is(err, orbit.ErrTooManyRetained) {
		t.Errorf("one more is kept: %v", err)
	}
	stats, err := access.Database().Log().Stats(t.Context())
	must(t, err)
	if stats.Entries != 1 {
		t.Errorf("%d entries in the access database, want 1", stats.Entries)
	}
}

// Other versions and @orbitdb/core read the access database.
func TestRetainedEntriesAreAtTheKeyThatOtherVersionsRead(t *testing.T) {
	access := newAdmins(t, 1).dbs[0].Access()
	hash := block.New([]byte("an entry")).Hash
	must(t, access.Retain(t.Context(), "writer", []string{hash}))
	kv, err := access.Database().KeyValue()
	must(t, err)
	item, err := kv.Get(t.Context(), "npp:kept:writer")
	if err != nil || item.Value.String() != `["`+hash+`"]` {
		t.Errorf("%s, %v", item.Value, err)
	}
}
