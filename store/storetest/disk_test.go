package storetest

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/ipfs/go-datastore"
)

var (
	a = datastore.NewKey("/a/1")
	b = datastore.NewKey("/b/1")
)

func has(t *testing.T, d *Disk, key datastore.Key) bool {
	t.Helper()
	ok, err := d.Has(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestPowerLossKeepsWhatWasSynced(t *testing.T) {
	d := NewDisk()
	for _, key := range []datastore.Key{a, b} {
		if err := d.Put(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sync(t.Context(), a.Parent()); err != nil {
		t.Fatal(err)
	}
	found := d.PowerLoss(nil)
	if !has(t, found, a) || has(t, found, b) {
		t.Errorf("found a: %v, b: %v; want what was synced only", has(t, found, a), has(t, found, b))
	}
	if !has(t, d, b) {
		t.Error("the power loss reached the disk that goes on")
	}
}

func TestPowerLossMayKeepAPrefixOfTheRest(t *testing.T) {
	d := NewDisk()
	for _, key := range []datastore.Key{a, b} {
		if err := d.Put(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[[2]bool]bool{}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		found := d.PowerLoss(rng)
		seen[[2]bool{has(t, found, a), has(t, found, b)}] = true
	}
	if len(seen) != 3 || seen[[2]bool{false, true}] {
		t.Errorf("found %v; want none, the first, and both", seen)
	}
}

func TestFailures(t *testing.T) {
	for _, test := range []struct {
		failure Failure
		fails   [3]bool // of three puts, where the second is told to fail
		applied [3]bool
	}{
		{Once, [3]bool{false, true, false}, [3]bool{true, false, true}},
		{Applied, [3]bool{false, true, false}, [3]bool{true, true, true}},
		{Lasting, [3]bool{false, true, true}, [3]bool{true, false, false}},
	} {
		d := NewDisk()
		d.FailAfter(2, test.failure)
		for i, key := range []datastore.Key{a, b, a.ChildString("c")} {
			err := d.Put(t.Context(), key, nil)
			if test.fails[i] != errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%v: put %d: %v", test.failure, i, err)
			}
			if has(t, d, key) != test.applied[i] {
				t.Errorf("%v: put %d applied: %v", test.failure, i, has(t, d, key))
			}
		}
		d.FailAfter(0, test.failure)
		if err := d.Put(t.Context(), b, nil); err != nil {
			t.Errorf("%v: put after the end of failures: %v", test.failure, err)
		}
	}
}
