package replicate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange"
	"github.com/ipfs/boxo/keystore"
	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	libp2ppeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/test/loopback"
)

// patience is the time after which a test fails; a test that passes does not
// wait for it.
const patience = time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok returns true.
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

// node is a peer like a daemon with npp. Its disk outlives a restart.
type node struct {
	*orbit.Orbit
	*replicate.Replicator
	host    host.Host
	router  *router.Router // nil if it is plain
	pubsub  *pubsub.PubSub // nil unless it is plain
	fetches *fetches

	t     testing.TB
	key   crypto.PrivKey
	disk  datastore.Batching
	keys  *keystore.MemKeystore
	mute  bool // its announcements are lost
	old   bool // it does not speak package reconcile, as an early version
	mid   bool // it does not speak package inventory, as an earlier version
	bare  bool // it has no bitswap
	deaf  bool // it has no pubsub
	quota orbit.Quotas
	shy   bool // it begins no exchange of heads
	plain bool // its router is a pubsub.PubSub
	space *space.Disk
	found *rendezvous // where peers find each other; nil: nowhere

	sessions atomic.Int32 // in which it requested entries
	heard    chan heard   // entries that arrived by pubsub, unless it is nil

	close func()
}

// oldHost is the host of a daemon that does not speak package reconcile.
type oldHost struct{ host.Host }

func (h oldHost) SetStreamHandler(p protocol.ID, handler network.StreamHandler) {
	if p != reconcile.Protocol && p != reconcile.Earlier {
		h.Host.SetStreamHandler(p, handler)
	}
}

func (h oldHost) NewStream(ctx context.Context, to libp2ppeer.ID, protocols ...protocol.ID) (network.Stream, error) {
	if slices.Contains(protocols, reconcile.Protocol) {
		return nil, errors.New("an old daemon requests no transfers")
	}
	return h.Host.NewStream(ctx, to, protocols...)
}

// midHost is the host of a daemon that does not speak package inventory.
type midHost struct{ host.Host }

func (h midHost) SetStreamHandler(p protocol.ID, handler network.StreamHandler) {
	if p != inventory.Protocol {
		h.Host.SetStreamHandler(p, handler)
	}
}

func (h midHost) NewStream(ctx context.Context, to libp2ppeer.ID, protocols ...protocol.ID) (network.Stream, error) {
	if slices.Contains(protocols, inventory.Protocol) {
		return nil, errors.New("an earlier daemon begins no link")
	}
	return h.Host.NewStream(ctx, to, protocols...)
}

func (h midHost) Peerstore() peerstore.Peerstore { return midPeerstore{h.Host.Peerstore()} }

// midPeerstore does not know package inventory.
type midPeerstore struct{ peerstore.Peerstore }

func (s midPeerstore) GetProtocols(p libp2ppeer.ID) ([]protocol.ID, error) {
	known, err := s.Peerstore.GetProtocols(p)
	return slices.DeleteFunc(known, func(id protocol.ID) bool { return id == inventory.Protocol }), err
}

func (s midPeerstore) SupportsProtocols(p libp2ppeer.ID, protocols ...protocol.ID) ([]protocol.ID, error) {
	known, err := s.Peerstore.SupportsProtocols(p, protocols...)
	return slices.DeleteFunc(known, func(id protocol.ID) bool { return id == inventory.Protocol }), err
}

// shyHost is the host of a peer that begins no exchange of heads.
type shyHost struct{ host.Host }

func (h shyHost) Network() network.Network { return shyNetwork{h.Host.Network()} }

type shyNetwork struct{ network.Network }

func (shyNetwork) NewStream(context.Context, libp2ppeer.ID) (network.Stream, error) {
	return nil, errors.New("a shy peer begins no exchange")
}

// countingHost counts the sessions in which it requests entries.
type countingHost struct {
	host.Host
	sessions *atomic.Int32
}

func (h countingHost) NewStream(ctx context.Context, to libp2ppeer.ID, protocols ...protocol.ID) (network.Stream, error) {
	if slices.Contains(protocols, reconcile.Protocol) {
		h.sessions.Add(1)
	}
	return h.Host.NewStream(ctx, to, protocols...)
}

// muteRouter is a router whose announcements are lost.
type muteRouter struct{ *router.Router }

func (muteRouter) Announce(context.Context, string, []byte) error { return nil }

// followingRouter is the router of a daemon of an earlier version, which is
// subscribed to the topics of all its databases.
type followingRouter struct{ replicate.Router }

func (followingRouter) SeesAll() bool { return false }

// heard is an entry that arrived by pubsub.
type heard struct {
	hash      string
	forwarded bool
}

// tellingRouter reports the entries that arrive, and whether they are
// forwarded.
type tellingRouter struct {
	replicate.Router
	heard chan<- heard
}

func (r tellingRouter) Follow(topic string, take func(context.Context, *pubsub.Message) bool) (stop func(), err error) {
	return r.Router.Follow(topic, func(ctx context.Context, m *pubsub.Message) bool {
		ok := take(ctx, m)
		r.heard <- heard{block.Hash(m.Data), ok}
		return ok
	})
}

func newNode(t testing.TB) *node {
	t.Helper()
	return newNodeAs(t, func(*node) {})
}

// newEarlierNode returns a daemon of an earlier version, which does not speak
// package inventory.
func newEarlierNode(t testing.TB) *node {
	t.Helper()
	return newNodeAs(t, func(n *node) { n.mid = true })
}

func newNodeAs(t testing.TB, as func(*node)) *node {
	t.Helper()
	n := &node{t: t, disk: dssync.MutexWrap(datastore.NewMapDatastore()), keys: keystore.NewMemKeystore()}
	var err error
	n.key, _, err = crypto.GenerateEd25519Key(nil)
	must(t, err)
	must(t, identity.Generate(n.keys, "orbitdb-root"))
	must(t, identity.Generate(n.keys, "orbitdb-signing"))
	as(n)
	return n.start()
}

func (n *node) start() *node {
	n.t.Helper()
	var err error
	n.host, err = libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.Identity(n.key), libp2p.DisableMetrics())
	must(n.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	r := n.startRouter(ctx)
	orbitStore, ownStore := store.New(n.disk, "/orbit"), store.New(n.disk, "/replicate")
	bs := blocks.Overlay(blockstore.NewBlockstore(n.disk), orbitStore)
	swap := bitswap.New(ctx, bsnet.NewFromIpfsHost(n.host), nil, bs)
	n.Orbit, err = orbit.New(ctx, orbit.Config{Store: orbitStore, Keystore: n.keys, Source: bs, Announce: swap.NotifyNewBlocks, Disk: n.space, Quotas: n.quota})
	must(n.t, err)
	n.fetches = &fetches{Bitswap: swap, of: make(map[string]int)}
	c := replicate.Config{Orbit: n.Orbit, Store: ownStore, Host: countingHost{n.host, &n.sessions}, Router: r, Exchange: n.fetches, Disk: n.space, LargeHeads: func(libp2ppeer.ID) bool { return true }}
	if n.found != nil {
		c.Discovery = n.found.of(n.host)
	}
	if n.old {
		c.Host = oldHost{c.Host}
	}
	if n.old || n.mid {
		c.Host = midHost{c.Host}
	}
	if n.shy {
		c.Host = shyHost{c.Host}
	}
	if n.deaf {
		c.Router = nil
	}
	if n.bare {
		c.Exchange = nil
	}
	n.Replicator, err = replicate.New(ctx, c)
	must(n.t, err)
	n.close = sync.OnceFunc(func() {
		n.Replicator.Close()
		n.Orbit.Close()
		orbitStore.Close()
		ownStore.Close()
		swap.Close()
		n.host.Close()
		cancel()
	})
	n.t.Cleanup(n.close)
	return n
}

// startRouter returns the router of a node.
func (n *node) startRouter(ctx context.Context) replicate.Router {
	n.t.Helper()
	var r replicate.Router
	var err error
	if n.plain {
		n.pubsub, err = pubsub.NewGossipSub(ctx, n.host, pubsub.WithFloodPublish(true))
		r = replicate.PubSub(n.pubsub)
	} else {
		n.router, err = router.New(ctx, n.host, router.Options{SupportsBursts: func(libp2ppeer.ID) bool { return true }, TellFollowed: n.old || n.mid})
		r = n.router
	}
	must(n.t, err)
	if n.mute {
		r = muteRouter{n.router}
	}
	if n.heard != nil {
		r = tellingRouter{r, n.heard}
	}
	if n.old || n.mid {
		r = followingRouter{r}
	}
	return r
}

// fetches is a bitswap that counts the requests for each block.
type fetches struct {
	*bitswap.Bitswap
	mu sync.Mutex
	of map[string]int // by hash
}

type fetching struct {
	exchange.Fetcher
	f *fetches
}

func (f *fetches) NewSession(ctx context.Context) exchange.Fetcher {
	return fetching{f.Bitswap.NewSession(ctx), f}
}

func (s fetching) GetBlocks(ctx context.Context, cids []cid.Cid) (<-chan ipfsblocks.Block, error) {
	s.f.add(cids...)
	return s.Fetcher.GetBlocks(ctx, cids)
}

func (s fetching) GetBlock(ctx context.Context, c cid.Cid) (ipfsblocks.Block, error) {
	s.f.add(c)
	return s.Fetcher.GetBlock(ctx, c)
}

func (f *fetches) add(cids ...cid.Cid) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range cids {
		hash, _ := block.HashOf(c)
		f.of[hash]++
	}
}

// count returns the number of requests for a block.
func (f *fetches) count(hash string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.of[hash]
}

// restart stops the node and starts it again, with another port.
func (n *node) restart() {
	n.t.Helper()
	n.close()
	n.start()
}

func (n *node) connect(to *node) {
	n.t.Helper()
	loopback.Connect(n.t, n.host, to.host)
}

func (n *node) disconnect(from *node) {
	n.t.Helper()
	eventually(n.t, "disconnected", func() bool {
		must(n.t, n.host.Network().ClosePeer(from.host.ID())) // a new connection may have been opened meanwhile
		return len(from.host.Network().ConnsToPeer(n.host.ID())) == 0
	})
}

// newPair returns two connected nodes with an open database of events to which
// anybody may write.
func newPair(t testing.TB) (a, b *node, address string) {
	t.Helper()
	a, b = newNode(t), newNode(t)
	address = a.create("gigs", orbit.TypeEvents).Address()
	b.open(address)
	b.connect(a)
	b.database(address)
	return a, b, address
}

// open opens a database at the node, or has it fetched.
func (n *node) open(address string) {
	n.t.Helper()
	must(n.t, n.Replicator.Open(n.t.Context(), address, orbit.OpenOptions{}))
}

// create creates a database to which anybody may write.
func (n *node) create(name, kind string) *orbit.Database {
	n.t.Helper()
	db, err := n.Create(n.t.Context(), name, orbit.Options{Type: kind, Access: orbit.Access{Write: []string{manifest.Anyone}}})
	must(n.t, err)
	return db
}

// database returns an open database.
func (n *node) database(address string) *orbit.Database {
	n.t.Helper()
	var db *orbit.Database
	eventually(n.t, "the database is open", func() bool {
		var err error
		db, err = n.Find(n.t.Context(), address)
		return err == nil
	})
	return db
}

// add adds events.
func (n *node) add(address string, events ...string) {
	n.t.Helper()
	ev, err := n.database(address).Events()
	must(n.t, err)
	for _, e := range events {
		_, err := ev.Add(n.t.Context(), e)
		must(n.t, err)
	}
}

// hashes returns the CIDs of the authorized entries, newest first.
func (n *node) hashes(address string) (hashes []string) {
	n.t.Helper()
	for e, err := range n.database(address).Iterate(n.t.Context(), orbit.Range{}) {
		must(n.t, err)
		hashes = append(hashes, e.Hash())
	}
	return hashes
}

// count returns the number of authorized entries.
func (n *node) count(address string) int { return int(n.stats(address).Entries) }

// wantSame waits until all nodes have the same log with a number of entries.
func wantSame(t testing.TB, address string, entries int, nodes ...*node) {
	t.Helper()
	var got [][]string
	defer func() {
		if t.Failed() {
			for i, n := range nodes {
				s, err := n.Status(context.Background(), address)
				t.Logf("node %d: %d entries; %+v %v", i, n.count(address), s, err)
			}
		}
	}()
	eventually(t, fmt.Sprintf("%d entries everywhere", entries), func() bool {
		for _, n := range nodes {
			if n.count(address) != entries {
				return false
			}
		}
		got = nil
		for _, n := range nodes {
			got = append(got, n.hashes(address))
		}
		for _, h := range got {
			if len(h) != entries || !slices.Equal(h, got[0]) {
				return false
			}
		}
		return true
	})
}

func numbered(format string, n int) (texts []string) {
	for i := range n {
		texts = append(texts, fmt.Sprintf(format, i))
	}
	return texts
}
