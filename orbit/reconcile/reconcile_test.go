package reconcile

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/oplog"
)

// Whatever two replicas have: what is shipped is just what one of them lacks,
// parents first, and identities.
func TestShippedIsWhatIsLacking(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i := range 12 {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		w := newWriters(t, 4)
		w.history(t, rng, 24)
		from, to := w.databases[0], w.databases[1]
		had := hashes(t, to)
		lacking := 0
		for _, hash := range hashes(t, from) {
			if !slices.Contains(had, hash) {
				lacking++
			}
		}
		server := newPeer(t)
		server.serve(w.orbits[0], from)
		s := session(t, server, from.Address())
		d, err := s.Compare(t.Context(), to.Log())
		must(t, err)
		blocks := shipped(t, to, s.Ship(d))
		if !d.Whole || blocks < lacking || blocks > lacking+len(w.orbits)*(1+len(d.items)/maxItems) {
			t.Errorf("%d blocks for %d entries, %d items", blocks, lacking, len(d.items))
		}
		has := hashes(t, to)
		for _, hash := range hashes(t, from) {
			if !slices.Contains(has, hash) {
				t.Fatalf("%s was not shipped", hash)
			}
		}
		if d, err := s.Compare(t.Context(), to.Log()); err != nil || len(d.items) > 0 {
			t.Errorf("%d items are still different, %v", len(d.items), err)
		}
	}
}

// A database that is not here is shipped whole: by one item.
func TestWholeDatabaseIsOneItem(t *testing.T) {
	w := newWriters(t, 2)
	add(t, w.databases[0], 700)
	server := newPeer(t)
	server.serve(w.orbits[0], w.databases[0])
	s := session(t, server, w.databases[0].Address())
	d, err := s.Compare(t.Context(), w.databases[1].Log())
	must(t, err)
	if len(d.items) != 1 || d.Count != 700 {
		t.Errorf("%d items of %d entries", len(d.items), d.Count)
	}
	if n := shipped(t, w.databases[1], s.Ship(d)); n != 701 {
		t.Errorf("%d blocks", n)
	}
	// The manifest and who may write are to be had, and nothing else.
	root := w.databases[0].Address()[len("/orbitdb/"):]
	bs, err := s.Blocks(root, block.Hash([]byte("nowhere")))
	if err != nil || len(bs) != 1 || bs[0].Hash != root {
		t.Errorf("blocks: %v, %v", bs, err)
	}
}

// What a day brings costs kilobytes, whatever the size of the database.
func TestSmallDifferenceIsFewBytes(t *testing.T) {
	w := newWriters(t, 2)
	a, b := w.databases[0], w.databases[1]
	add(t, a, 5000)
	copyAll(t, a, b, w.orbits[0], w.orbits[1])
	add(t, a, 10)
	add(t, b, 10)
	server := newPeer(t)
	server.serve(w.orbits[0], a)
	s := session(t, server, a.Address())
	d, err := s.Compare(t.Context(), b.Log())
	must(t, err)
	if n := shipped(t, b, s.Ship(d)); n > 11 {
		t.Errorf("%d blocks for 10 entries", n)
	}
	s.Close()
	traffic := server.traffic.GetBandwidthForProtocol(Protocol)
	if traffic.TotalOut > 12<<10 || traffic.TotalIn > 1<<10 {
		t.Errorf("%d bytes out, %d in", traffic.TotalOut, traffic.TotalIn)
	}
	t.Logf("%d bytes out, %d in", traffic.TotalOut, traffic.TotalIn)
}

// A transfer that breaks off goes on where it was, with another peer, too.
func TestTransferGoesOnWhereItBrokeOff(t *testing.T) {
	w := newWriters(t, 2)
	add(t, w.databases[0], 2000)
	for part := 0; ; part++ {
		server := newPeer(t)
		server.serve(w.orbits[0], w.databases[0])
		s := session(t, server, w.databases[0].Address())
		before := len(hashes(t, w.databases[1]))
		d, err := s.Compare(t.Context(), w.databases[1].Log())
		must(t, err)
		if d.Count != uint64(2000-before) {
			t.Errorf("with %d of 2000, %d are lacking", before, d.Count)
		}
		for bs, err := range s.Ship(d) {
			must(t, err)
			joinBatch(t, w.databases[1], bs)
			if len(hashes(t, w.databases[1]))-before > 600 {
				break
			}
		}
		s.Reset()
		if len(hashes(t, w.databases[1])) == 2000 {
			if part < 3 {
				t.Errorf("it did not break off")
			}
			return
		}
	}
}

// Writers who never met have as many entries of each time as there are of them.
func TestManyEntriesOfOneTime(t *testing.T) {
	for _, n := range []int{fewNames - 8, fewNames + 1, maxNames/8 + 200} {
		w := newWriters(t, 9)
		all := newOrbit(t)
		to := create(t, all)
		for i, db := range w.databases[:8] {
			add(t, db, n/8)
			copyAll(t, db, to, w.orbits[i], all)
		}
		from, fromOrbit := create(t, w.orbits[8]), w.orbits[8]
		copyAll(t, to, from, all, fromOrbit)
		late := newWriters(t, 1)
		add(t, late.databases[0], n/8)
		copyAll(t, late.databases[0], from, late.orbits[0], fromOrbit)
		server := newPeer(t)
		server.serve(fromOrbit, from)
		s := session(t, server, from.Address())
		d, err := s.Compare(t.Context(), to.Log())
		must(t, err)
		if d.Count != uint64(n/8) {
			t.Errorf("%d of %d are lacking", d.Count, n/8)
		}
		shipped(t, to, s.Ship(d))
		if !slices.Equal(hashes(t, from), hashes(t, to)) {
			t.Error("they differ")
		}
	}
}

// A comparison ends where it would be too much, with what it found.
func TestComparisonHasABound(t *testing.T) {
	a := comparison{found: Difference{Whole: true}}
	for range maxWanted + 10 {
		a.want(wanted{item{path: oplog.Path("\x01\x01")}, "\x01\x01"}, 1)
	}
	if len(a.wanted) != maxWanted || a.found.Whole {
		t.Errorf("%d items, whole: %v", len(a.wanted), a.found.Whole)
	}
}
