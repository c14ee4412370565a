package library_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ptest "github.com/libp2p/go-libp2p/core/test"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/test/loopback"
)

func TestOfferStaysIfItsRemovalFails(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	offer, err := json.Marshal(map[string]string{"userDb": h.absentAddress(t, "user")})
	must(t, err)
	from := ptest.RandPeerIDFatal(t)
	received := time.Now().Add(-time.Hour)
	h.reopenWith(t, func(c *library.Config) {
		c.Messages = fixedMessages{{From: from, Data: offer, Received: received, Via: message.Direct}}
	})
	eventually(t, "the offer", func() bool { return len(offersOf(t, h)) == 1 })
	h.disk.FailAfter(1, storetest.Lasting)
	wantErr(t, h.RemoveCompanion(t.Context(), from), syscall.ENOSPC)
	h.disk.FailAfter(0, storetest.Lasting)
	if len(offersOf(t, h)) != 1 {
		t.Error("the disk is full, but the offer was removed")
	}
	must(t, h.RemoveCompanion(t.Context(), from))
	h.restart(t)
	if len(offersOf(t, h)) != 0 {
		t.Error("the offer was removed, but is there after a restart")
	}
}

// unpinlessFiles are Files whose pins cannot be removed.
type unpinlessFiles struct{ *memoryFiles }

func (unpinlessFiles) Unpin(context.Context, cid.Cid) (bool, error) { return false, syscall.ENOSPC }

func TestRemoveReportsAPinThatStays(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	h.reopenWith(t, func(c *library.Config) { c.Files = unpinlessFiles{h.files} })
	added, _, err := h.AddFile(t.Context(), files.NewBytesFile(prelude), "x.abc", library.Details{})
	must(t, err)
	h.disk.FailAfter(1, storetest.Once)
	if _, _, err := h.Remove(t.Context(), added.Hash); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, library.ErrStillPinned) {
		t.Errorf("the disk is full: %v", err)
	}
	if got := h.list(t, library.Query{}); len(got) != 1 {
		t.Errorf("Remove failed, but the piece is gone: %q", got)
	}
	p, unpinned, err := h.Remove(t.Context(), added.Hash)
	wantErr(t, err, library.ErrStillPinned)
	wantErr(t, err, syscall.ENOSPC)
	if p.Hash != added.Hash || unpinned {
		t.Errorf("%+v, unpinned: %v", p, unpinned)
	}
	_, _, err = h.Remove(t.Context(), added.Hash)
	wantErr(t, err, orbit.ErrNotFound)
}

// flakySwarm is a Swarm whose first two calls of Keep fail.
type flakySwarm struct {
	library.Swarm
	kept atomic.Int32
}

func (s *flakySwarm) Keep(ctx context.Context, info peer.AddrInfo) error {
	if s.kept.Add(1) <= 2 {
		return syscall.ENOSPC
	}
	return s.Swarm.Keep(ctx, info)
}

func TestKeepIsRetriedWithTheNextCard(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	s := &flakySwarm{Swarm: h.swarm}
	h.reopenWith(t, func(c *library.Config) { c.Swarm = s })
	m := newCardPeer(t, card.Card{Username: "alice", User: h.absentAddress(t, "user")})
	_, err := h.AddCompanion(testContext(t), loopback.Info(m.host))
	must(t, err)
	eventually(t, "Keep was called", func() bool { return s.kept.Load() > 1 })
	h.exchangeCards(t, m) // another card
	eventually(t, "the companion is a kept peer", func() bool { return len(h.swarm.Kept()) == 1 })
}

// watchedSwarm is a Swarm that calls a function before each Keep.
type watchedSwarm struct {
	library.Swarm
	before func()
}

func (s *watchedSwarm) Keep(ctx context.Context, info peer.AddrInfo) error {
	s.before()
	return s.Swarm.Keep(ctx, info)
}

// A daemon that is killed after it recorded a companion has the addresses of the
// companion.
func TestCompanionIsKeptBeforeItIsRecorded(t *testing.T) {
	t.Parallel()
	h := newTestLibrary(t)
	var records []int // when Keep was called
	var mu sync.Mutex
	s := &watchedSwarm{Swarm: h.swarm, before: func() {
		mu.Lock()
		defer mu.Unlock()
		entries := -1
		if db, err := h.orbit.Find(context.Background(), "companions"); err == nil {
			if stats, err := db.Stats(context.Background()); err == nil {
				entries = int(stats.Entries)
			}
		}
		records = append(records, entries)
	}}
	h.reopenWith(t, func(c *library.Config) { c.Swarm = s })
	m := newCardPeer(t, card.Card{Username: "alice", User: h.absentAddress(t, "user")})
	_, err := h.AddCompanion(testContext(t), loopback.Info(m.host))
	must(t, err)
	mu.Lock()
	defer mu.Unlock()
	if len(records) == 0 || records[0] != 0 {
		t.Errorf("records when the peer was kept: %v", records)
	}
	if kept := h.swarm.Kept(); len(kept) != 1 || len(kept[0].Addrs) == 0 {
		t.Errorf("kept peers: %+v", kept)
	}
}
