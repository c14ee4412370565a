package replicate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/newpieceplease/npp/orbit/internal/inventory"
)

// fingerprints is what an index reads. reading is called during each read.
type fingerprints struct {
	value   [32]byte
	err     error
	reads   int
	reading func()
}

func (f *fingerprints) read(context.Context, string) ([32]byte, error) {
	f.reads++
	value := f.value
	if f.reading != nil {
		f.reading()
	}
	return value, f.err
}

func TestAddressesAndKeysAreTheSame(t *testing.T) {
	for n := range 1000 {
		k := keyNumbered(n)
		if got, ok := keyOf(addressOf(k)); !ok || got != k {
			t.Fatalf("%x becomes %x", k, got)
		}
	}
	for _, text := range []string{"", "gigs", "/orbitdb/", "/orbitdb/zdpu", "/orbitdb/zdpuQ", addressOf(keyNumbered(1)) + "/x"} {
		if k, ok := keyOf(text); ok {
			t.Errorf("%q has the key %x", text, k)
		}
	}
}

func TestStateIsReadOnceForEachChange(t *testing.T) {
	f := &fingerprints{value: [32]byte{1}}
	x, k := newIndex(f.read), keyNumbered(1)
	state := func() inventory.State { return x.State(t.Context(), k) }
	if state() != (inventory.State{}) || f.reads != 0 {
		t.Error("a database that is not here has a state")
	}
	if !x.add(k) || x.add(k) || !x.has(k) || x.Len() != 1 {
		t.Error("a database is added once")
	}
	if _, known := x.changed(k); known {
		t.Error("a state is known that was not read")
	}
	if state() != (inventory.State{1}) || state() != (inventory.State{1}) || f.reads != 1 {
		t.Errorf("the state is %v after %d reads", state(), f.reads)
	}
	f.value[0] = 2
	if before, known := x.changed(k); before != (inventory.State{1}) || !known {
		t.Errorf("before the change, the state was %v, %v", before, known)
	}
	if state() != (inventory.State{2}) || f.reads != 2 {
		t.Error("the state is not that after a change")
	}
	x.changed(k)
	f.err = errors.New("failed")
	if state() != (inventory.State{}) {
		t.Error("a state that cannot be read is not zero")
	}
	if f.err = nil; state() != (inventory.State{2}) {
		t.Error("a failed read is remembered")
	}
	x.remove(k)
	if x.has(k) || x.Len() != 0 || state() != (inventory.State{}) {
		t.Error("a removed database is here")
	}
}

// A state that was read before a change is not known after it.
func TestChangeDuringAReadIsNotLost(t *testing.T) {
	f := &fingerprints{value: [32]byte{1}}
	x, k := newIndex(f.read), keyNumbered(1)
	for name, change := range map[string]func(){
		"a change":                  func() { x.changed(k) },
		"two changes":               func() { x.changed(k); x.changed(k) },
		"a removal":                 func() { x.remove(k) },
		"a change and another read": func() { x.changed(k); f.reading = nil; f.value[0]++; x.State(t.Context(), k) },
	} {
		x.remove(k)
		x.add(k)
		f.reading = func() { f.reading = nil; change(); f.value[0]++ }
		x.State(t.Context(), k)
		x.add(k)
		x.changed(k)
		if got := x.State(t.Context(), k); got[0] != f.value[0] {
			t.Errorf("%s: the state is %d, want %d", name, got[0], f.value[0])
		}
	}
	x.add(k)
	f.reading = func() { f.reading = nil; x.changed(k); f.value[0]++ }
	x.changed(k)
	x.State(t.Context(), k)
	if got := x.State(t.Context(), k); got[0] != f.value[0] {
		t.Errorf("the state is %d, want %d", got[0], f.value[0])
	}
}

func TestWalkYieldsEachKeyOnceFromAnywhere(t *testing.T) {
	x := newIndex(nil)
	const n = 5000
	for i := range n {
		x.add(keyNumbered(i))
	}
	all := slices.Collect(x.Keys())
	seen := make(map[inventory.Key]bool)
	for _, k := range all {
		seen[k] = true
	}
	if len(all) != n || len(seen) != n {
		t.Errorf("%d keys, %d different ones, want %d", len(all), len(seen), n)
	}
	for _, first := range []int{1, 100, indexShards - 1} {
		from := slices.Collect(x.keysFrom(first))
		if len(from) != n || int(from[0][0]) != first {
			t.Errorf("%d keys from shard %d on, the first of shard %d", len(from), first, from[0][0])
		}
	}
	for range x.Keys() { // the loop may end early, and change the index
		x.add(keyNumbered(n))
		break
	}
}

func TestIndexIsUsedConcurrently(t *testing.T) {
	x := newIndex(func(context.Context, string) ([32]byte, error) { return [32]byte{1}, nil })
	var group sync.WaitGroup
	for n := range 4 {
		group.Go(func() {
			for i := range 1000 {
				k := keyNumbered(i % 300)
				switch (i + n) % 4 {
				case 0:
					x.add(k)
				case 1:
					x.changed(k)
				case 2:
					x.State(t.Context(), k)
				default:
					x.remove(k)
				}
				if i%100 == 0 {
					for range x.Keys() {
					}
				}
			}
		})
	}
	group.Wait()
}

func TestRenewedState(t *testing.T) {
	fingerprint := [32]byte{1}
	x := newIndex(func(context.Context, string) ([32]byte, error) { return fingerprint, nil })
	k := inventory.Key{7}
	x.add(k)
	if state, differs := x.renew(t.Context(), k); state != (inventory.State{1}) || !differs {
		t.Errorf("got %x, %v, want the state, which is new", state, differs)
	}
	fingerprint = [32]byte{2}
	if state := x.State(t.Context(), k); state != (inventory.State{1}) {
		t.Errorf("got %x, want the known state", state)
	}
	if state, differs := x.renew(t.Context(), k); state != (inventory.State{2}) || !differs {
		t.Errorf("got %x, %v, want the new state", state, differs)
	}
	if state, differs := x.renew(t.Context(), k); state != (inventory.State{2}) || differs {
		t.Errorf("got %x, %v, want the same state", state, differs)
	}
}
