package replicate_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-msgio"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
	"github.com/newpieceplease/npp/orbit/replicate"
)

func bare(n *node) { n.bare = true }

func old(n *node) { n.old = true }

// Between daemons, one stream transfers all blocks of a database: its manifest,
// its access controller, identities and entries.
func TestDatabaseIsTransferredWithoutBitswap(t *testing.T) {
	a, b := newNodeAs(t, bare), newNodeAs(t, bare)
	managed, err := a.Create(t.Context(), "managed", orbit.Options{Type: orbit.TypeEvents, Access: orbit.Access{Managed: true}})
	must(t, err)
	empty := a.create("empty", orbit.TypeKeyValue)
	a.add(managed.Address(), numbered("a%d", 300)...)
	b.open(managed.Address())
	b.open(empty.Address())
	b.connect(a)
	wantSame(t, managed.Address(), 300, a, b)
	b.database(empty.Address())

	// The same for entries written on both sides while they are not connected.
	must(t, managed.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	access := managed.Access().Database().Address()
	wantSame(t, access, 1, a, b)
	b.disconnect(a)
	a.add(managed.Address(), numbered("a, apart %d", 200)...)
	b.add(managed.Address(), numbered("b, apart %d", 200)...)
	b.connect(a)
	wantSame(t, managed.Address(), 700, a, b)
}

// Transferred entries are not fetched as well.
func TestTransferredEntriesAreNotFetched(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, numbered("a%d", 500)...)
	b.open(address)
	b.connect(a)
	wantSame(t, address, 500, a, b)
	b.disconnect(a)
	a.add(address, numbered("apart %d", 50)...)
	b.connect(a)
	wantSame(t, address, 550, a, b)
	fetched := 0
	for _, hash := range a.hashes(address) {
		fetched += b.fetches.count(hash)
	}
	if fetched > 100 { // the ancestors of a head that arrived by pubsub before the transfer
		t.Errorf("%d entries were fetched", fetched)
	}
}

// A daemon of a version without transfers replicates like JavaScript, in both
// directions.
func TestOldDaemonReplicates(t *testing.T) {
	for _, olds := range [][2]bool{{true, false}, {false, true}, {true, true}} {
		t.Run(fmt.Sprint(olds), func(t *testing.T) {
			var nodes [2]*node
			for i, is := range olds {
				nodes[i] = newNodeAs(t, func(n *node) { n.old = is })
			}
			a, b := nodes[0], nodes[1]
			address := a.create("gigs", orbit.TypeEvents).Address()
			a.add(address, numbered("a%d", 100)...)
			b.open(address)
			b.connect(a)
			wantSame(t, address, 100, a, b)
			b.disconnect(a)
			a.add(address, numbered("a, apart %d", 30)...)
			b.add(address, numbered("b, apart %d", 30)...)
			b.connect(a)
			wantSame(t, address, 160, a, b)
		})
	}
}

// A peer between others transfers entries that it fetched, and serves entries
// that were transferred to it.
func TestOldAndNewDaemonsConvergeThroughEachOther(t *testing.T) {
	nodes := []*node{newNode(t), newNodeAs(t, old), newNode(t), newNodeAs(t, old), newNode(t), newNode(t)}
	address := nodes[0].create("gigs", orbit.TypeEvents).Address()
	for i, n := range nodes[1:] {
		n.open(address)
		n.connect(nodes[i])
		n.database(address)
	}
	for i, n := range nodes {
		n.add(address, numbered(fmt.Sprintf("%d: %%d", i), 40)...)
	}
	wantSame(t, address, 40*len(nodes), nodes...)
}

// A hostile transfer harms no other peer: the entries of the hostile peer
// arrive by bitswap, and those of other peers arrive as well.
func TestHostileTransfersAffectNoOtherPeer(t *testing.T) {
	forged := func(n *node, address string) (blocks [][]byte) {
		for i := range 1000 {
			e := written(t, n.signer(), address, fmt.Sprint("forged ", i), nil)
			blocks = append(blocks, bytes.Replace(e.Block.Data, []byte("forged"), []byte("FORGED"), 1)) // the signature is that of another entry
		}
		return blocks
	}
	for name, serve := range map[string]func(n *node, address string, s network.Stream){
		"reset": func(_ *node, _ string, s network.Stream) { s.Reset() },
		"silence": func(n *node, _ string, s network.Stream) {
			<-n.t.Context().Done()
			s.Reset()
		},
		"garbage": func(_ *node, _ string, s network.Stream) {
			for {
				if _, err := s.Write(bytes.Repeat([]byte("garbage "), 1000)); err != nil {
					return
				}
			}
		},
		"forgeries": func(n *node, address string, s network.Stream) { serveForged(s, 1, forged(n, address)...) },
		"forgeries without end": func(n *node, address string, s network.Stream) {
			serveForged(s, 1<<30, forged(n, address)...)
		},
		"identities again and again": func(n *node, _ string, s network.Stream) {
			serveForged(s, 1<<30, slices.Repeat([][]byte{n.signer().Block().Data}, 100)...)
		},
		"an orphan again and again": func(n *node, address string, s network.Stream) {
			e := written(n.t, n.signer(), address, "orphan", []entry.Position{absent("parent")})
			serveForged(s, 1<<30, slices.Repeat([][]byte{e.Block.Data}, 100)...)
		},
		"the same again and again": func(n *node, address string, s network.Stream) {
			b, err := n.Block(context.Background(), n.hashes(address)[0])
			if err == nil {
				serveForged(s, 1<<30, slices.Repeat([][]byte{b.Data}, 100)...)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, m := newNode(t), newNode(t), newNode(t)
			address := a.create("gigs", orbit.TypeEvents).Address()
			a.add(address, numbered("a%d", 100)...)
			m.create("gigs", orbit.TypeEvents)
			m.add(address, numbered("m%d", 10)...)
			m.host.SetStreamHandler(reconcile.Protocol, func(s network.Stream) { serve(m, address, s) })
			b.open(address)
			b.connect(m)
			b.connect(a)
			wantSame(t, address, 110, a, b)
		})
	}
}

// A peer that joins after a revocation receives all entries of the revoked
// writer, however many, even without bitswap.
func TestEntriesOfARevokedWriterAreTransferred(t *testing.T) {
	a, w, late := newNode(t), newNode(t), newNodeAs(t, bare)
	db := a.createManaged("band")
	address := db.Address()
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, w.Identity().ID))
	w.open(address)
	w.connect(a)
	eventually(t, "w may write", func() bool { return w.mayWrite(address) })
	w.add(address, numbered("w %d", 700)...)
	wantSame(t, address, 700, a, w)
	must(t, db.Access().Revoke(t.Context(), orbit.CapabilityWrite, w.Identity().ID))
	a.disconnect(w)
	a.add(address, numbered("a %d", 100)...)
	late.open(address)
	late.connect(a)
	late.database(address)
	has := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d entries are there", n), func() bool { return late.count(address) == n })
	}
	has(800)
	late.disconnect(a)
	a.add(address, numbered("later %d", 20)...)
	late.connect(a)
	has(820)
	wantSame(t, address, 820, a, late)
}

// Two daemons that share many databases transfer the entries of all of them.
func TestManyDatabasesAreTransferred(t *testing.T) {
	a, b := newNode(t), newNodeAs(t, bare)
	const databases, entries = 40, 20
	var addresses []string
	for i := range databases {
		address := a.create(fmt.Sprint("gigs ", i), orbit.TypeEvents).Address()
		a.add(address, numbered("a%d", entries)...)
		b.open(address)
		addresses = append(addresses, address)
	}
	b.connect(a)
	for _, address := range addresses {
		wantSame(t, address, entries, a, b)
	}
}

// A closed database is not transferred any more, not even by a session that
// runs.
func TestClosedDatabaseIsNotTransferred(t *testing.T) {
	a, b, address := newPair(t)
	a.add(address, numbered("a%d", 10)...)
	wantSame(t, address, 10, a, b)
	s, err := reconcile.Open(t.Context(), b.host, a.host.ID(), address)
	must(t, err)
	must(t, a.CloseDatabase(t.Context(), address))
	eventually(t, "the session ends", func() bool {
		_, err := s.Blocks(a.hashes(address)[0])
		return err != nil
	})
	if _, err := reconcile.Open(t.Context(), b.host, a.host.ID(), address); err == nil {
		t.Error("a session was opened")
	}
}

// serveForged answers each comparison with CIDs of nothing, and each request
// for entries with the blocks, repeated a number of times.
func serveForged(s network.Stream, times int, blocks ...[]byte) {
	defer s.Reset()
	in, out := msgio.NewVarintReader(s), msgio.NewVarintWriter(s)
	pack, _ := zstd.NewWriter(nil)
	for {
		frame, err := in.ReadMsg()
		if err != nil {
			return
		}
		r := dagcbor.NewReader(frame)
		r.Array()
		kind, _ := r.Number()
		n, _ := r.Array()
		answer := dagcbor.AppendArray(nil, n)
		switch kind.Bits {
		case 0:
			answer = dagcbor.AppendArray(nil, 0)
		case 2:
			for range n {
				answer = dagcbor.AppendArray(answer, 5)
				answer = dagcbor.AppendBytes(dagcbor.AppendUint(answer, 1<<40), make([]byte, 16))
				answer = dagcbor.AppendArray(answer, 0)
				answer = dagcbor.AppendBool(dagcbor.AppendBytes(answer, bytes.Repeat([]byte{7}, 3*32)), false)
			}
		default:
			for range times {
				for some := range slices.Chunk(blocks, 100) {
					if out.WriteMsg(pack.EncodeAll(bytes.Join(some, nil), nil)) != nil {
						return
					}
				}
			}
			answer = nil
		}
		if out.WriteMsg(answer) != nil {
			return
		}
	}
}

// After a broken transfer, the rest is requested, and not what arrived.
func TestBrokenTransferResumes(t *testing.T) {
	a, b := newNode(t), newNodeAs(t, bare)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, numbered("a%d", 1500)...)
	b.open(address)
	status := func() replicate.Status {
		s, err := b.Status(t.Context(), address)
		must(t, err)
		return s
	}
	b.connect(a)
	eventually(t, "a part arrived", func() bool { s := status(); return s.Transfer != nil && s.Transfer.Got > 0 })
	must(t, b.host.Network().ClosePeer(a.host.ID()))
	b.restart()
	had := b.count(address)
	if had == 0 || had == 1500 {
		t.Skipf("%d entries arrived: there is nothing to resume", had)
	}
	b.connect(a)
	eventually(t, "the rest arrives", func() bool {
		s := status()
		return s.Transfer != nil && s.Transfer.Of <= uint64(1500-had) || b.count(address) == 1500
	})
	wantSame(t, address, 1500, a, b)
}
