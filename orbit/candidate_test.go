package orbit_test

import (
	"errors"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/probe"
)

// A candidate is decoded when it is made, and never again, however often it is
// verified and joined. It keeps the order of its blocks and says why a block is
// not an entry.
func TestCandidateIsDecodedOnce(t *testing.T) {
	ctx := t.Context()
	a, _ := open(ctx, nil)
	defer a.Close()
	b, _ := open(ctx, nil)
	defer b.Close()
	anybody := orbit.Options{Type: orbit.TypeEvents, Access: orbit.Access{Write: []string{"*"}}}
	from, err := a.Create(ctx, "gigs", anybody)
	must(t, err)
	to, err := b.Create(ctx, "gigs", anybody)
	must(t, err)
	events, err := from.Events()
	must(t, err)
	hash, err := events.Add(ctx, "one")
	must(t, err)
	valid, err := a.Block(ctx, hash)
	must(t, err)
	junk := block.New([]byte{0xff})
	wrong := block.Block{Hash: junk.Hash, Data: valid.Data}

	decodes := 0
	defer probe.WatchDecodes(func(of string) {
		if of == hash {
			decodes++
		}
	})()
	cs := orbit.NewCandidates(valid, junk, wrong)
	if decodes != 1 {
		t.Errorf("decoded %d times", decodes)
	}
	if c := cs[0]; c.Err() != nil || c.Hash() != hash || c.Entry().Hash() != hash {
		t.Errorf("valid: %v", c.Err())
	}
	if c := cs[1]; !errors.Is(c.Err(), entry.ErrMalformed) || c.Entry() != nil || c.Hash() != junk.Hash {
		t.Errorf("junk: %v", c.Err())
	}
	if c := cs[2]; !errors.Is(c.Err(), block.ErrMismatch) || c.Entry() != nil {
		t.Errorf("wrong CID: %v", c.Err())
	}
	if zero := (orbit.Candidate{}); !errors.Is(zero.Err(), entry.ErrMalformed) {
		t.Errorf("zero: %v", zero.Err())
	}
	opts := orbit.JoinOptions{From: "peer", Attached: orbit.Attached{a.Identity().Hash(): a.Identity().Block()}}
	to.Verify(ctx, cs)
	for range 2 {
		joined, err := to.Join(ctx, cs, opts)
		must(t, err)
		if joined[0].Err != nil || !errors.Is(joined[1].Err, entry.ErrMalformed) || !errors.Is(joined[2].Err, block.ErrMismatch) {
			t.Errorf("%+v", joined)
		}
	}
	if decodes != 1 {
		t.Errorf("decoded %d times", decodes)
	}
}

// A clone holds its own copy of the block, and nothing of the batch around it.
func TestClonedCandidateSharesNoMemory(t *testing.T) {
	ctx := t.Context()
	o, _ := open(ctx, nil)
	defer o.Close()
	db, err := o.Create(ctx, "gigs", orbit.Options{Type: orbit.TypeEvents})
	must(t, err)
	events, err := db.Events()
	must(t, err)
	hash, err := events.Add(ctx, "one")
	must(t, err)
	b, err := o.Block(ctx, hash)
	must(t, err)
	clone := orbit.NewCandidates(b)[0].Clone()
	clear(b.Data)
	for _, c := range []block.Block{clone.Block(), clone.Entry().Block} {
		if err := c.Check(); err != nil {
			t.Error(err)
		}
	}
}
