package keyed

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/ipfs/go-datastore"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// counting counts reads of single keys.
type counting struct {
	datastore.Batching
	gets int
}

func (c *counting) Get(ctx context.Context, key datastore.Key) ([]byte, error) {
	c.gets++
	return c.Batching.Get(ctx, key)
}

// warmed returns a log with a number of keys, and warmed hints.
func warmed(t *testing.T, keys int) (Index, *store.Store, *counting) {
	t.Helper()
	ds := &counting{Batching: storetest.NewDisk()}
	s := store.New(ds, "/npp/test")
	x := New(1, NewHints())
	for i := range keys {
		if err := s.Update(t.Context(), func(tx *store.Tx) error {
			return tx.Put(x.slotKey(value.Text(fmt.Sprint(i)).Slot()), winner{number: uint64(i + 1), hash: block.Hash(nil)}.encode())
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Warm(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return x, s, ds
}

func absent(t *testing.T, x Index, s *store.Store, ds *counting) (reads int) {
	t.Helper()
	before := ds.gets
	if item, err := x.Get(blocks.Reading(t.Context(), s), value.Text("absent")); err == nil {
		t.Errorf("found %v", item)
	}
	return ds.gets - before
}

func TestWarmHintsKnowWhatIsNotThere(t *testing.T) {
	for _, keys := range []int{0, 10} {
		x, s, ds := warmed(t, keys)
		if n := absent(t, x, s, ds); n != 0 {
			t.Errorf("%d keys: %d reads", keys, n)
		}
		if n := absent(t, New(2, x.hints), s, ds); n != 1 {
			t.Errorf("%d keys: %d reads for another log", keys, n)
		}
		for i := range keys {
			if at, _, _ := x.hints.get(newHintKey(1, value.Text(fmt.Sprint(i)).Slot())); at.number != uint64(i+1) {
				t.Errorf("key %d is hinted at %d", i, at.number)
			}
		}
	}
}

func TestHintsThatWereForgottenAreNotTakenForAll(t *testing.T) {
	for what, forget := range map[string]func(Index){
		"a failure": func(x Index) { x.Invalidate() },
		"too many others": func(x Index) {
			for i := range uint64(3 * generation) {
				x.hints.put(hintKey{log: 5 + i}, hint{number: 1})
			}
		},
	} {
		x, s, ds := warmed(t, 10)
		forget(x)
		if n := absent(t, x, s, ds); n != 1 {
			t.Errorf("after %s: %d reads", what, n)
		}
		// The same holds if it happens during the warm-up.
		_, begun := x.hints.begin(x.log)
		x.Invalidate()
		x.hints.finish(1, begun)
		if n := absent(t, x, s, ds); n != 1 {
			t.Errorf("after %s meanwhile: %d reads", what, n)
		}
	}
}

func TestKeysPutWhileHintsAreWarmedAreKnown(t *testing.T) {
	x, s, ds := warmed(t, 0)
	_, begun := x.hints.begin(x.log)
	x.hints.put(newHintKey(1, value.Text("absent").Slot()), hint{number: 7})
	x.hints.finish(1, begun)
	// The hint matches no entry, so the record of the key is read.
	if n := absent(t, x, s, ds); n != 2 {
		t.Errorf("%d reads", n)
	}
}

func TestHintToANumberThatAnotherEntryGotLeadsNowhere(t *testing.T) {
	x := New(1, NewHints())
	other := block.New([]byte("another entry"))
	g := getter{store.Key(blocks.Entries(1), 5): append([]byte(other.Hash), other.Data...)}
	if _, ok := x.guess(g, newHint(5, block.Hash([]byte("never stored")))); ok {
		t.Error("another entry is taken for it")
	}
}

// getter is a store in memory.
type getter map[string][]byte

func (g getter) Get(key string) ([]byte, error) {
	if v, ok := g[key]; ok {
		return v, nil
	}
	return nil, store.ErrNotFound
}

// An operation that was applied and forgotten before a warm-up begins may not
// be committed yet. The warm-up must see it.
func TestWarmSeesOperationsThatAreNotCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.New(storetest.NewDisk(), "/npp/test")
		x := New(1, NewHints())
		key := value.Text("k")
		release := make(chan struct{})
		go s.Update(t.Context(), func(tx *store.Tx) error {
			x.hints.put(newHintKey(1, key.Slot()), newHint(1, block.Hash(nil)))
			x.Invalidate() // of another log
			<-release
			return tx.Put(x.slotKey(key.Slot()), winner{number: 1, hash: block.Hash(nil)}.encode())
		})
		synctest.Wait()
		warm := make(chan error, 1)
		go func() { warm <- x.Warm(t.Context(), s) }()
		synctest.Wait()
		close(release)
		if err := <-warm; err != nil {
			t.Fatal(err)
		}
		if at, none, _ := x.hints.get(newHintKey(1, key.Slot())); none || at.number != 1 {
			t.Errorf("hint %v, none: %v", at, none)
		}
	})
}

func TestHintsOfADroppedLogAreForgotten(t *testing.T) {
	x, s, ds := warmed(t, 3)
	other := New(2, x.hints)
	if err := other.Warm(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	x.hints.Drop(1)
	if len(x.hints.young)+len(x.hints.old) > 0 {
		t.Errorf("left: %v, %v", x.hints.young, x.hints.old)
	}
	if n := absent(t, x, s, ds); n != 1 {
		t.Errorf("%d reads of the dropped log, want 1", n)
	}
	if n := absent(t, other, s, ds); n != 0 {
		t.Errorf("%d reads of another one, want 0", n)
	}
}
