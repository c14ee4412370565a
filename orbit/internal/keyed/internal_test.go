package keyed

import (
	"errors"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

func TestHintsGoOnlyForward(t *testing.T) {
	h := NewHints()
	k := newHintKey(1, "slot of some key")
	want := func(number uint64) (forgotten int) {
		t.Helper()
		got, _, forgotten := h.get(k)
		if got.number != number {
			t.Errorf("got %d, want %d", got.number, number)
		}
		return forgotten
	}
	before := want(0)
	h.put(k, hint{number: 5})
	h.put(k, hint{number: 3})
	h.found(k, hint{number: 4}, before)
	before = want(5)
	h.found(k, hint{number: 6}, before)
	want(6)
	// A reader found 7, then 8 was written, then all hints were dropped.
	h.put(k, hint{number: 8})
	h.Clear()
	h.found(k, hint{number: 7}, before)
	before = want(0)
	h.found(k, hint{number: 8}, before)
	want(8)
}

func TestHintsOfKeysInUseAreKept(t *testing.T) {
	h := NewHints()
	used := newHintKey(1, "used")
	h.put(used, hint{number: 1})
	for i := range uint64(3 * generation) {
		h.put(hintKey{log: 2 + i}, hint{number: 1})
		if i%(generation/2) == 0 {
			if n, _, _ := h.get(used); n.number != 1 {
				t.Fatalf("forgotten after %d others", i)
			}
		}
	}
	if n := len(h.young) + len(h.old); n > 2*generation {
		t.Errorf("%d hints", n)
	}
	if n, _, _ := h.get(hintKey{log: 2}); n.number != 0 {
		t.Error("nothing is forgotten")
	}
}

func FuzzWinner(f *testing.F) {
	f.Add(winner{true, 1 << 40, block.Hash(nil)}.encode())
	f.Add(winner{false, 0, block.Hash(nil)}.encode())
	f.Add([]byte{1})
	f.Add([]byte("\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, record []byte) {
		w, err := decodeWinner(record)
		if err != nil {
			if !errors.Is(err, oplog.ErrDamaged) {
				t.Error(err)
			}
			return
		}
		if again, err := decodeWinner(w.encode()); err != nil || again != w {
			t.Errorf("%v is read again as %v, %v", w, again, err)
		}
	})
}
