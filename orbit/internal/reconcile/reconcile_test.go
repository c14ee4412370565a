package reconcile

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"

	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// For any two replicas, exactly the entries that one of them lacks are
// transferred, parents first, with their identities.
func TestTransferSendsTheMissingEntries(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i := range 4 {
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
		blocks, items := reconcileWith(t, s, to)
		if blocks < lacking || blocks > lacking+len(w.orbits)*(1+items/maxItems) {
			t.Errorf("%d blocks for %d entries, %d items", blocks, lacking, items)
		}
		has := hashes(t, to)
		for _, hash := range hashes(t, from) {
			if !slices.Contains(has, hash) {
				t.Fatalf("%s was not sent", hash)
			}
		}
		if _, items := reconcileWith(t, s, to); items > 0 {
			t.Errorf("%d items are still different", items)
		}
	}
}

// A database that is empty here is transferred by a single item.
func TestWholeDatabaseIsOneItem(t *testing.T) {
	w := newWriters(t, 2)
	add(t, w.databases[0], 700)
	server := newPeer(t)
	server.serve(w.orbits[0], w.databases[0])
	s := session(t, server, w.databases[0].Address())
	d := difference(t, s, w.databases[1])
	if len(d.items) != 1 || d.Count != 700 {
		t.Errorf("%d items of %d entries", len(d.items), d.Count)
	}
	if n := joinBatches(t, w.databases[1], s.Transfer(d)); n != 701 {
		t.Errorf("%d blocks", n)
	}
	// Only the manifest and the access controller can be requested in addition.
	root := w.databases[0].Address()[len("/orbitdb/"):]
	bs, err := s.Blocks(root, block.Hash([]byte("nowhere")))
	if err != nil || len(bs) != 1 || bs[0].Hash != root {
		t.Errorf("blocks: %v, %v", bs, err)
	}
}

// The entries of a day cost kilobytes, whatever the size of the database.
func TestSmallDifferenceIsFewBytes(t *testing.T) {
	w := newWriters(t, 2)
	a, b := w.databases[0], w.databases[1]
	add(t, a, 1500)
	copyAll(t, a, b, w.orbits[0], w.orbits[1])
	add(t, a, 10)
	add(t, b, 10)
	server := newPeer(t)
	server.serve(w.orbits[0], a)
	s := session(t, server, a.Address())
	if n, _ := reconcileWith(t, s, b); n > 11 {
		t.Errorf("%d blocks for 10 entries", n)
	}
	s.Close()
	traffic := server.traffic.GetBandwidthForProtocol(Protocol)
	if traffic.TotalOut > 12<<10 || traffic.TotalIn > 1<<10 {
		t.Errorf("%d bytes out, %d in", traffic.TotalOut, traffic.TotalIn)
	}
	t.Logf("%d bytes out, %d in", traffic.TotalOut, traffic.TotalIn)
}

// An interrupted transfer continues where it was, also with another peer.
func TestTransferGoesOnWhereItBrokeOff(t *testing.T) {
	w := newWriters(t, 2)
	add(t, w.databases[0], 1000)
	for part := 0; ; part++ {
		server := newPeer(t)
		server.serve(w.orbits[0], w.databases[0])
		s := session(t, server, w.databases[0].Address())
		before := len(hashes(t, w.databases[1]))
		d := difference(t, s, w.databases[1])
		if d.Count != uint64(1000-before) {
			t.Errorf("with %d of 1000, %d are lacking", before, d.Count)
		}
		for bs, err := range s.Transfer(d) {
			must(t, err)
			joinBatch(t, w.databases[1], bs)
			if len(hashes(t, w.databases[1]))-before > 300 {
				break
			}
		}
		s.Reset()
		if len(hashes(t, w.databases[1])) == 1000 {
			if part < 2 {
				t.Errorf("it did not break off")
			}
			return
		}
	}
}

// Writers who never met have one entry each at every time.
func TestManyEntriesOfOneTime(t *testing.T) {
	for _, n := range []int{fewHashes - 8, fewHashes + 1, maxHashes/8 + 200} {
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
		d := difference(t, s, to)
		if d.Count != uint64(n/8) {
			t.Errorf("%d of %d are lacking", d.Count, n/8)
		}
		joinBatches(t, to, s.Transfer(d))
		if !slices.Equal(hashes(t, from), hashes(t, to)) {
			t.Error("they differ")
		}
	}
}

// A difference that exceeds one part comes in several, and nothing is lost.
func TestLargeDifferenceComesInParts(t *testing.T) {
	w := newWriters(t, 3)
	add(t, w.databases[0], 900)
	add(t, w.databases[1], 900)
	copyAll(t, w.databases[0], w.databases[2], w.orbits[0], w.orbits[2])
	copyAll(t, w.databases[1], w.databases[2], w.orbits[1], w.orbits[2])
	server := newPeer(t)
	server.serve(w.orbits[2], w.databases[2])
	s := session(t, server, w.databases[0].Address())
	c, err := newComparison(t.Context(), s, oplog.Of(w.databases[0]), 20)
	must(t, err)
	parts := 0
	for d, err := range c.parts() {
		must(t, err)
		parts++
		joinBatches(t, w.databases[0], s.Transfer(d))
	}
	if parts < 2 {
		t.Errorf("%d parts", parts)
	}
	if !slices.Equal(hashes(t, w.databases[0]), hashes(t, w.databases[2])) {
		t.Error("they differ")
	}
}

// Unauthorized entries precede those that name them, and however many there
// are, the transfer ends.
func TestUnauthorizedEntriesAreTransferred(t *testing.T) {
	for _, n := range []int{3, 40} {
		w := newWriters(t, 3)
		from, to := w.databases[0], w.databases[1]
		add(t, from, 10)
		copyAll(t, from, to, w.orbits[0], w.orbits[1])
		top := chainOfInvalid(t, from, n)
		server := newPeer(t)
		server.serve(w.orbits[0], from)
		s := session(t, server, from.Address())
		for range 2 {
			for d, err := range s.Compare(t.Context(), oplog.Of(to)) {
				must(t, err)
				for bs, err := range s.Transfer(d) {
					must(t, err)
					joinBatch(t, to, bs)
				}
			}
		}
		if ok, err := oplog.Of(to).Has(t.Context(), top); err != nil || !ok {
			t.Errorf("the entry on top of %d without effect did not come: %v", n, err)
		}
		if _, items := reconcileWith(t, s, to); items > 0 {
			t.Errorf("%d items are still different", items)
		}
	}
}
