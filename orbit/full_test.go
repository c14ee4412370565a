package orbit_test

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"

	ipfsblocks "github.com/ipfs/go-block-format"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/store/storetest"
)

// eachFailure calls run with a peer whose disk fails at the first operation,
// then at the second and so on, until run needs fewer operations.
func eachFailure(t *testing.T, newPeer func(testing.TB) *peer, run func(p *peer, fail func()) (err error)) {
	t.Helper()
	for _, failure := range []storetest.Failure{storetest.Once, storetest.Lasting} {
		for failAt := 1; ; failAt++ {
			p := newPeer(t)
			err := run(p, func() { p.disk.FailAfter(failAt, failure) })
			p.Close()
			if err == nil {
				break
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("the disk fails (%v) at operation %d: %v", failure, failAt, err)
			}
		}
	}
}

// A put that is reported is on the disk, and one that is on the disk is
// reported.
func TestPutManyTellsWhatWasPutOnAFailingDisk(t *testing.T) {
	const all = 600 // three chunks
	values := make([]any, all)
	for i := range values {
		values[i] = i
	}
	eachFailure(t, newA, func(p *peer, fail func()) error {
		db := p.create(t, "log", orbit.Options{Type: orbit.TypeEvents})
		fail()
		n, err := events(t, db).AddMany(t.Context(), slices.Values(values))
		p.disk.FailAfter(0, storetest.Once)
		stats, statsErr := db.Log().Stats(t.Context())
		must(t, statsErr)
		// After a failed sync, the last chunk may or may not be there.
		if unsure := int(stats.Entries) - n; unsure != 0 && (err == nil || unsure < 0 || unsure > 256) {
			t.Errorf("%d are told as put, %d entries are there, %v", n, stats.Entries, err)
		}
		after := &peer{disk: p.disk.PowerLoss(nil), keys: p.keys}
		after.open(t, orbit.Config{})
		again, findErr := after.Find(t.Context(), "log")
		must(t, findErr)
		if stats, statsErr = again.Log().Stats(t.Context()); statsErr != nil || int(stats.Entries) != n {
			t.Errorf("%d are told as put, %d survive a power loss, %v", n, stats.Entries, statsErr)
		}
		return err
	})
}

// An entry whose join was not committed is neither reported as joined nor
// announced.
func TestJoinTellsWhatWasJoinedOnAFailingDisk(t *testing.T) {
	a := newA(t)
	db := a.create(t, "log", orbit.Options{Type: orbit.TypeEvents, Access: anyone})
	values := make([]any, 300) // three transactions
	_, err := events(t, db).AddMany(t.Context(), slices.Values(values))
	must(t, err)
	bs := entries(t, db)
	eachFailure(t, newB, func(b *peer, fail func()) error {
		announced := make(map[string]bool)
		must(t, b.Close())
		b.open(t, orbit.Config{Announce: func(_ context.Context, bs ...ipfsblocks.Block) error {
			for _, b := range bs {
				hash, _ := block.HashOf(b.Cid())
				announced[hash] = true
			}
			return nil
		}})
		here := b.create(t, "log", orbit.Options{Type: orbit.TypeEvents, Access: anyone})
		identity, identityErr := a.Block(t.Context(), a.Identity().Hash())
		must(t, identityErr)
		fail()
		joined, err := here.Join(t.Context(), orbit.NewCandidates(bs...), orbit.JoinOptions{Attached: orbit.Attached{identity.Hash: identity}})
		b.disk.FailAfter(0, storetest.Once)
		for i, j := range joined {
			has, hasErr := here.Log().Has(t.Context(), bs[i].Hash)
			must(t, hasErr)
			if told := j.Outcome == orbit.Joined; told && !has || announced[bs[i].Hash] != told {
				t.Fatalf("entry %d of %d, which is here: %v, is told as %v and announced: %v (%v)", i, len(bs), has, j.Outcome, announced[bs[i].Hash], err)
			}
		}
		return err
	})
}
