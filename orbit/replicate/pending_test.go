package replicate_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-datastore/query"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// bytesOf returns the size of the entries of a database, in bytes.
func (n *node) bytesOf(address string) uint64 {
	n.t.Helper()
	st, err := oplog.Of(n.database(address)).Stats(n.t.Context())
	must(n.t, err)
	return st.Bytes
}

// asJavaScript makes a node exchange heads and answer bitswap only.
func asJavaScript(n *node) { n.old = true }

func TestLogOfTenTimesTheBoundArrivesFromJavaScriptAlone(t *testing.T) {
	t.Parallel()
	const entries = 200
	a := newNodeAs(t, asJavaScript)
	address := a.create("gigs", orbit.TypeEvents).Address()
	text := strings.Repeat("x", 3000)
	for i := range entries {
		a.add(address, fmt.Sprint(i, text))
	}
	b := newNodeAs(t, func(n *node) { n.quota.Pending = a.bytesOf(address) / 10 })
	begun := time.Now()
	b.open(address)
	b.connect(a)
	b.database(address)

	// Meanwhile it reports neither that it is in sync nor that nothing is
	// missing.
	log := oplog.Of(b.database(address))
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		for s, err := range b.Follow(t.Context(), address) {
			st, statsErr := log.Stats(t.Context())
			if err != nil || statsErr != nil {
				return
			}
			if st.Entries == entries {
				return
			}
			if s.Settled(begun) {
				t.Errorf("it is in sync with %d entries", st.Entries)
			}
			for _, p := range s.Peers {
				if !p.InSync.IsZero() {
					t.Errorf("a peer is in sync with %d entries", st.Entries)
				}
			}
			if st.Pending == 0 && st.Abandoned > 0 && !s.Abandoned {
				// The status follows at the end of the round of fetching.
				again, _ := b.Status(t.Context(), address)
				if now, err := log.Stats(t.Context()); err == nil && now.Pending == 0 && now.Last == st.Last && !again.Abandoned && again.Asking == 0 {
					t.Errorf("nothing is missing with %d entries: %+v", st.Entries, again)
				}
			}
			if bound := b.quota.Pending; st.PendingBytes > bound {
				t.Errorf("%d bytes wait, the bound is %d", st.PendingBytes, bound)
			}
		}
	}()
	wantSame(t, address, entries, a, b)
	<-followed
	fetched := 0
	b.fetches.mu.Lock()
	for _, n := range b.fetches.of {
		fetched += n
	}
	b.fetches.mu.Unlock()
	t.Logf("%d blocks were asked for, of %d entries, in %v", fetched, entries, time.Since(begun))
	if fetched > 12*entries {
		t.Errorf("%d blocks were asked for", fetched)
	}
	eventually(t, "they are in sync", func() bool {
		s, err := b.Status(t.Context(), address)
		must(t, err)
		return s.Settled(begun)
	})
}

// pendingOf returns the CIDs of the pending entries at a node, by the peers to
// whose quotas they are charged.
func (n *node) pendingOf() map[string][]string {
	n.t.Helper()
	results, err := n.disk.Query(n.t.Context(), query.Query{Prefix: "/orbit/log", KeysOnly: true})
	must(n.t, err)
	found, err := results.Rest()
	must(n.t, err)
	of := make(map[string][]string)
	for _, e := range found {
		if _, rest, ok := strings.Cut(e.Key, "/held/~"); ok {
			peer, _, _ := strings.Cut(rest, "/")
			of[peer] = append(of[peer], rest[strings.LastIndexByte(rest, '/')+1:])
		}
	}
	return of
}

// A pending entry is charged to the peer that offered it. A fetched one is
// charged to the peer whose entry needs it, whichever peer sent it.
func TestPendingEntriesAreChargedToThePeerThatCausedThem(t *testing.T) {
	t.Parallel()
	a, friend, evil := newNode(t), newNodeAs(t, asJavaScript), newNodeAs(t, asJavaScript)
	address := a.create("gigs", orbit.TypeEvents).Address()
	friend.create("gigs", orbit.TypeEvents)
	friend.connect(a)
	eventually(t, "the friend has it open", func() bool { return len(a.router.ListPeers(address)) == 1 })
	for _, n := range []*node{evil, friend} {
		must(t, n.PutBlocks(t.Context(), evil.signer().Block()))
	}
	parent := written(t, evil.signer(), address, "parent", []entry.Position{absent("nowhere")})
	must(t, friend.PutBlocks(t.Context(), parent.Block))
	child := written(t, evil.signer(), address, "child", []entry.Position{plainPosition(parent)})
	evil.connect(a)
	evil.offered(a, address, child.Block)
	eventually(t, "both are pending", func() bool { return len(slices.Concat(slices.Collect(maps.Values(a.pendingOf()))...)) == 2 })
	if of := a.pendingOf(); len(of[evil.host.ID().String()]) != 2 {
		t.Errorf("they are charged to %v", of)
	}
}

func plainPosition(e *entry.Entry) entry.Position { return e.Position(e.Rank()) }

func TestPendingJunkEvictsNoEntryOfAnotherPeer(t *testing.T) {
	t.Parallel()
	const entries = 60
	friend, evil := newNodeAs(t, asJavaScript), newNodeAs(t, asJavaScript)
	a := newNodeAs(t, func(n *node) { n.quota.Pending = 1 << 20 })
	address := a.create("gigs", orbit.TypeEvents).Address()
	friend.create("gigs", orbit.TypeEvents)
	friend.add(address, numbered("friend %d", entries)...)
	evil.connect(a)
	must(t, evil.PutBlocks(t.Context(), evil.signer().Block()))
	text := strings.Repeat("x", 100_000)
	junk := func(from, to int) (bs []block.Block) {
		for i := from; i < to; i++ {
			bs = append(bs, written(t, evil.signer(), address, fmt.Sprint(i, text), []entry.Position{absent(fmt.Sprint(i))}).Block)
		}
		return bs
	}
	evil.offered(a, address, junk(0, 15)...)
	friend.connect(a)
	evil.offered(a, address, junk(15, 40)...)
	wantSame(t, address, entries, friend, a)
	if n := friend.fetches.count(friend.hashes(address)[0]); n > 0 {
		t.Errorf("%d", n)
	}
	for _, hash := range friend.hashes(address) {
		if n := a.fetches.count(hash); n > 2 { // a request is repeated if nothing arrives for a while
			t.Errorf("%s was asked for %d times", hash, n)
		}
	}
	st, err := oplog.Of(a.database(address)).Stats(t.Context())
	must(t, err)
	if st.Pending == 0 || st.PendingBytes > 1<<20 {
		t.Errorf("%+v", st)
	}
	if s, err := a.Status(t.Context(), address); err != nil || s.State != replicate.Open {
		t.Errorf("%+v, %v", s, err)
	}
}
