package library_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/keystore"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/swarm"
	"github.com/newpieceplease/npp/test/loopback"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// testTimeout fails a test. Tests that pass do not depend on it.
const testTimeout = time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

// node is a library with a network.
type node struct {
	*testLibrary
	replicator *replicate.Replicator
	t          testing.TB
}

func newNode(t testing.TB) *node {
	t.Helper()
	return newNodeOn(t, nil)
}

// newNodeOn returns a node on a disk, which may be full.
func newNodeOn(t testing.TB, disk *space.Disk) *node {
	t.Helper()
	n := &node{testLibrary: &testLibrary{disk: storetest.NewDisk(), keys: keystore.NewMemKeystore(), files: newMemoryFiles()}, t: t}
	n.host = loopback.Host(t)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	rt, err := router.New(ctx, n.host, router.Options{SupportsBursts: func(peer.ID) bool { return true }})
	must(t, err)
	n.store = store.New(n.disk, "/npp/orbit")
	bs := orbit.Overlay(blockstore.NewBlockstore(n.disk), n.store)
	swap := bitswap.New(ctx, bsnet.NewFromIpfsHost(n.host), nil, bs)
	t.Cleanup(func() { swap.Close() })
	n.orbit, err = orbit.New(ctx, orbit.Config{Store: n.store, Keystore: n.keys, Source: bs, Announce: swap.NotifyNewBlocks, Disk: disk})
	must(t, err)
	t.Cleanup(func() { n.orbit.Close() })
	n.replicator, err = replicate.New(ctx, replicate.Config{
		Orbit: n.orbit, Store: store.New(n.disk, "/npp/replicate"), Host: n.host, Router: rt, Exchange: swap, Disk: disk,
		LargeHeads: func(peer.ID) bool { return true },
	})
	must(t, err)
	t.Cleanup(func() { n.replicator.Close() })
	n.swarm, err = swarm.New(ctx, swarm.Config{Host: n.host, Store: store.New(n.disk, "/npp/swarm")})
	must(t, err)
	t.Cleanup(func() { n.swarm.Close() })
	n.Library, err = library.New(ctx, library.Config{
		Orbit: n.orbit, Host: n.host, Files: n.files, Store: store.New(n.disk, "/npp/library"),
		Replicator: n.replicator, Swarm: n.swarm, Disk: disk,
	})
	must(t, err)
	t.Cleanup(func() { n.Library.Close() })
	return n
}

// addCompanion makes another node a companion.
func (n *node) addCompanion(o *node) {
	n.t.Helper()
	_, err := n.AddCompanion(testContext(n.t), loopback.Info(o.host))
	must(n.t, err)
}

// addAndAwait makes another node a companion, and waits until its databases are
// complete and it has a number of pieces.
func (n *node) addAndAwait(o *node, pieces int) {
	n.t.Helper()
	n.addCompanion(o)
	eventually(n.t, "the companion's pieces are here", func() bool {
		c, err := n.Companion(n.t.Context(), o.host.ID())
		return err == nil && c.Ready && c.Pieces >= pieces && len(c.Incomplete) == 0
	})
}

// problemsOf returns the problems of a companion's databases.
func (h *testLibrary) problemsOf(t testing.TB, id peer.ID) []library.DatabaseProblem {
	c, _ := h.Companion(t.Context(), id) // it may not be a companion yet
	return c.Problems
}

// keyValue returns a library database of type keyvalue.
func (h *testLibrary) keyValue(t testing.TB, name string) *orbit.KeyValue {
	t.Helper()
	kv, err := h.database(t, name).KeyValue()
	must(t, err)
	return kv
}

// database returns a library database.
func (h *testLibrary) database(t testing.TB, name string) *orbit.Database {
	t.Helper()
	for _, s := range h.Databases(t.Context()) {
		if s.Name == name {
			must(t, s.Err)
			return s.DB
		}
	}
	t.Fatalf("there is no database %q", name)
	return nil
}

// putOwnProfile puts a field into the user database, without the library's
// checks.
func (h *testLibrary) putOwnProfile(t testing.TB, key string, v any) {
	t.Helper()
	_, err := h.keyValue(t, library.UserName).Put(t.Context(), key, v)
	must(t, err)
}

// documents creates a documents database, and returns it with its address.
func (h *testLibrary) documents(t testing.TB, name, indexBy string, writers ...string) (docs *orbit.Documents, address string) {
	t.Helper()
	db, err := h.orbit.Create(t.Context(), name, orbit.Options{Type: orbit.TypeDocuments, IndexBy: indexBy, Access: orbit.Access{Write: writers}})
	must(t, err)
	docs, err = db.Documents()
	must(t, err)
	return docs, db.Address()
}

// putOwnPieces puts documents into the own pieces, by hash and title.
func (h *testLibrary) putOwnPieces(t testing.TB, hashesAndTitles ...string) {
	t.Helper()
	docs, err := h.database(t, library.PiecesName).Documents()
	must(t, err)
	for i := 0; i < len(hashesAndTitles); i += 2 {
		_, err := docs.Put(t.Context(), map[string]any{"hash": hashesAndTitles[i], "title": hashesAndTitles[i+1]})
		must(t, err)
	}
}

// isHere reports whether the database with an address is here.
func (h *testLibrary) isHere(t testing.TB, address string) bool {
	_, err := h.orbit.Resolve(t.Context(), address)
	return err == nil
}

// cardPeer is a peer that only exchanges cards.
type cardPeer struct {
	host  host.Host
	cards *card.Exchanger
	card  atomic.Pointer[card.Card]
}

func newCardPeer(t testing.TB, shown card.Card) *cardPeer {
	t.Helper()
	m := &cardPeer{host: loopback.Host(t)}
	m.card.Store(&shown)
	var err error
	m.cards, err = card.New(card.Config{Host: m.host, Own: func(peer.ID) (card.Card, error) { return *m.card.Load(), nil }})
	must(t, err)
	t.Cleanup(func() { m.cards.Close() })
	return m
}

// exchangeCards connects to a peer, and returns once its card was received.
func (h *testLibrary) exchangeCards(t testing.TB, m *cardPeer) {
	t.Helper()
	loopback.Connect(t, h.host, m.host)
	eventually(t, "the peer is connected", func() bool { return len(m.host.Network().ConnsToPeer(h.host.ID())) > 0 })
	_, err := m.cards.Exchange(testContext(t), h.host.ID())
	must(t, err)
}

// absentAddress returns the address of a keyvalue database that does not exist.
func (h *testLibrary) absentAddress(t testing.TB, name string) string {
	t.Helper()
	address, err := h.orbit.AddressOf(name, orbit.Options{Type: orbit.TypeKeyValue})
	must(t, err)
	return address
}

// libraryGoroutines returns the background goroutines of libraries.
func libraryGoroutines() (found []string) {
	stacks := make([]byte, 16<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, g := range strings.Split(string(stacks), "\n\n") {
		frames, _, _ := strings.Cut(g, "\ncreated by ")
		background := strings.Contains(frames, "npp/library.") || strings.Contains(frames, "npp/library/companion.")
		if background && !strings.Contains(g, "npp/library_test.") {
			found = append(found, g)
		}
	}
	return found
}

func TestConcurrentUse(t *testing.T) {
	nodes := []*node{newNode(t), newNode(t)}
	hash := cidOf(prelude).String()
	for _, n := range nodes {
		n.putOwnPieces(t, "QmShared", "Prelude", "Qm"+n.host.ID().String(), "Fugue")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	for i, n := range nodes {
		other, user := nodes[1-i], n.keyValue(t, library.UserName)
		for _, f := range []func(){
			func() { n.AddCompanion(ctx, loopback.Info(other.host)) },
			func() { n.RemoveCompanion(ctx, other.host.ID()) },
			func() {
				q := library.Query{Query: piece.Query{Text: "prelude"}, All: true, Sort: library.ByPractice}
				if found, _, err := n.Pieces(ctx, q); err == nil {
					for range found {
					}
				}
				n.Random(ctx, library.Query{All: true})
				n.Resolve(ctx, "Qm", true)
			},
			func() { n.Practise(ctx, "QmShared", 1) },
			func() {
				n.AddHash(ctx, hash, library.Details{}, false, nil)
				n.Remove(ctx, hash)
			},
			func() {
				n.SetProfileField(ctx, library.KeyUsername, value.Text(fmt.Sprint("n", rand.N(5))))
				user.Put(ctx, library.KeyPieces, other.DatabaseAddresses()[rand.N(4)])
			},
			func() {
				n.Companions(ctx)
				n.NearbyPeers()
				n.InvalidRecords()
				n.PeerNamed(ctx, "n1")
			},
			func() {
				brief, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
				for range n.Watch(brief, nil) {
				}
			},
		} {
			group.Go(func() {
				for ctx.Err() == nil {
					f()
				}
			})
		}
	}
	<-time.After(2 * time.Second)
	closed := make(chan error, len(nodes))
	for _, n := range nodes {
		go func() { closed <- n.Library.Close() }()
	}
	for range nodes {
		select {
		case err := <-closed:
			must(t, err)
		case <-testContext(t).Done():
			t.Fatalf("Close does not return: %s", strings.Join(libraryGoroutines(), "\n\n"))
		}
	}
	if left := libraryGoroutines(); len(left) > 0 {
		t.Errorf("goroutines after Close: %s", strings.Join(left, "\n\n"))
	}
	cancel()
	group.Wait()
}

func TestPiecesFollowTheAccessList(t *testing.T) {
	t.Parallel()
	a, b := newNode(t), newNode(t)
	access, address := a.database(t, library.PiecesName).Access(), a.database(t, library.PiecesName).Address()
	writer := b.orbit.Identity().ID
	must(t, access.Grant(t.Context(), orbit.CapabilityWrite, writer))
	b.addAndAwait(a, 0)
	theirs, err := b.orbit.Open(t.Context(), address, orbit.OpenOptions{})
	must(t, err)
	eventually(t, "the follower may write", func() bool {
		ok, err := theirs.Writable(t.Context())
		return ok && err == nil
	})
	docs, err := theirs.Documents()
	must(t, err)
	_, err = docs.Put(t.Context(), map[string]any{"hash": "QmTheirs", "title": "Fugue"})
	must(t, err)
	is := func(what string, count int) {
		t.Helper()
		eventually(t, what, func() bool {
			c, err := b.Companion(t.Context(), a.host.ID())
			return err == nil && c.Pieces == count && len(b.list(t, library.Query{All: true})) == count
		})
	}
	is("the piece is counted", 1)
	eventually(t, "the owner has it", func() bool { return len(a.list(t, library.Query{})) == 1 })
	must(t, access.Discard(t.Context(), orbit.CapabilityWrite, writer))
	is("the piece of a revoked writer is not counted", 0)
	must(t, access.Grant(t.Context(), orbit.CapabilityWrite, writer))
	is("the piece is counted again", 1)
}
