package replicate

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
)

// The last refusal of an entry is remembered until the entry is accepted.
func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	why := errors.New("why")
	for i := range maxRefusals + 5 {
		r.add(nil, fmt.Sprint(i), errors.New("first"))
	}
	r.add(nil, "10", why)
	list := r.snapshot()
	if last := list[len(list)-1]; len(list) != maxRefusals || last.Hash != "10" || last.Err != why || last.At.IsZero() || list[0].Hash != "5" {
		t.Errorf("%d refusals, from %+v to %+v", len(list), list[0], last)
	}
	if !r.remove("10") || r.remove("10") || len(r.snapshot()) != maxRefusals-1 {
		t.Error("an accepted entry is still refused")
	}
	list[0].Hash = "changed"
	if r.snapshot()[0].Hash != "5" {
		t.Error("a snapshot is shared")
	}
}

// Entries pending authorization are few, small, and shared with nothing.
func TestEntriesPendingAuthorizationAreBounded(t *testing.T) {
	var r refusals
	data := make([]byte, unauthorizedBytes+1)
	for i := range maxUnauthorized + 5 {
		data[0] = byte(i)
		c := orbit.NewCandidates(block.New(data[:10]))[0]
		r.hold(c)
		r.hold(c)
	}
	r.hold(orbit.NewCandidates(block.New(bytes.Clone(data)))[0])
	if !r.holds() {
		t.Error("none is held")
	}
	cs := r.take()
	if len(cs) != maxUnauthorized {
		t.Errorf("%d are held", len(cs))
	}
	for i, c := range cs {
		if b := c.Block(); b.Check() != nil || b.Data[0] != byte(i+5) {
			t.Errorf("%d: %v", i, b.Data)
		}
	}
	if r.holds() || r.take() != nil {
		t.Error("they are held after they were taken")
	}
}
