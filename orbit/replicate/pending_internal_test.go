package replicate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/keystore"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// If pending entries were abandoned, all peers are asked for their heads at
// once when the log grows, and the status says so until a peer is in sync.
func TestAbandonedEntriesAreRequestedAgain(t *testing.T) {
	open := func(q orbit.Quotas) *orbit.Orbit {
		keys := keystore.NewMemKeystore()
		for _, name := range []string{"orbitdb-root", "orbitdb-signing"} {
			must(t, identity.Generate(keys, name))
		}
		o, err := orbit.New(t.Context(), orbit.Config{Store: store.New(storetest.NewDisk(), "/orbit"), Keystore: keys, Quotas: q})
		must(t, err)
		t.Cleanup(func() { o.Close() })
		return o
	}
	anybody := orbit.Options{Access: orbit.Access{Write: []string{"*"}}}
	writer := open(orbit.Quotas{})
	from, err := writer.Create(t.Context(), "gigs", anybody)
	must(t, err)
	events, err := from.Events()
	must(t, err)
	var bs []block.Block
	for i := range 40 {
		_, err := events.Add(t.Context(), fmt.Sprint(i, strings.Repeat("x", 500)))
		must(t, err)
	}
	for a, err := range oplog.Of(from).Stored(t.Context(), 0) {
		must(t, err)
		bs = append(bs, a.Entry.Block)
	}
	to, err := open(orbit.Quotas{Pending: 10_000}).Create(t.Context(), "gigs", anybody)
	must(t, err)
	opts := orbit.JoinOptions{From: "P", Attached: orbit.Attached{writer.Identity().Hash(): writer.Identity().Block()}}

	rp := newReplica(bare(Config{}), to.Address())
	defer rp.cancel()
	rp.setDatabase(to)
	const p = peer.ID("peer")
	later := time.Now().Add(time.Hour)
	q := &peerState{subscribed: true}
	q.apply(scheduleExchange, later)
	rp.peers.peers[p] = q
	last, err := oplog.Of(to).Stats(t.Context())
	must(t, err)
	resumed := func(abandoned, asked bool) {
		t.Helper()
		rp.resume(&last)
		if rp.abandoned != abandoned || q.next.Before(later) != asked {
			t.Errorf("abandoned: %v, asked: %v", rp.abandoned, q.next.Before(later))
		}
		q.apply(scheduleExchange, later)
	}
	resumed(false, false)
	for i := range bs[1:] {
		_, err := to.Join(t.Context(), orbit.NewCandidates(bs[len(bs)-1-i]), opts)
		must(t, err)
	}
	resumed(true, false) // the log did not grow, so the same entries would be abandoned
	_, err = to.Join(t.Context(), orbit.NewCandidates(bs[0]), opts)
	must(t, err)
	resumed(true, true)
	resumed(true, false)
	a := agreement{ByHeads, true}
	rp.peers.exchanged(p, nil, a, rp.inSync(a), true)
	resumed(false, false)
}

func TestFullDatabaseIsNotSettled(t *testing.T) {
	now := time.Now()
	s := Status{State: Open, Peers: []Peer{{InSync: now}}}
	if !s.Settled(now) {
		t.Error("it is not settled")
	}
	if s.Full = errors.New("full"); s.Settled(now) {
		t.Error("it is settled although it is full")
	}
}
