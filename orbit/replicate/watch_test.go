package replicate_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// A watcher that is ready misses no update, and ends with the replication.
func TestWatcherMissesNoUpdate(t *testing.T) {
	a := newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "before")
	var numbers []uint64
	watch := func(ready func()) error {
		for e, err := range a.Watch(testContext(t), address, ready) {
			if err != nil {
				return err
			}
			numbers = append(numbers, e.Arrival.Number)
			if e.Arrival.Number == 3 {
				must(t, a.CloseDatabase(t.Context(), address))
			}
		}
		return nil
	}
	if err := watch(func() { a.add(address, "one", "two") }); !errors.Is(err, replicate.ErrNotReplicated) || !slices.Equal(numbers, []uint64{2, 3}) {
		t.Errorf("%v, %v", numbers, err)
	}
	if err := watch(nil); !errors.Is(err, replicate.ErrNotReplicated) {
		t.Errorf("closed: %v", err)
	}
	a.open(address)
	if err := watch(func() { a.Replicator.Close() }); !errors.Is(err, replicate.ErrClosed) {
		t.Errorf("at the end: %v", err)
	}
}

// After a failed drop, a database is replicated as before. A dropped database
// that arrives again is replicated, with its access database.
func TestDropLeavesNothingPaused(t *testing.T) {
	a, b := newNode(t), newNode(t)
	db := a.createManaged("band")
	address, list := db.Address(), db.Access().Database().Address()
	b.open(address)
	b.connect(a)
	b.database(address)
	isOpen := func(address string) {
		t.Helper()
		if s, err := b.Status(t.Context(), address); err != nil || s.State != replicate.Open {
			t.Errorf("%s: %+v, %v", address, s, err)
		}
	}
	if err := b.Replicator.Drop(t.Context(), list, nil); !errors.Is(err, orbit.ErrInUse) {
		t.Errorf("drop the list: %v", err)
	}
	if err := b.CloseDatabase(t.Context(), list); !errors.Is(err, orbit.ErrInUse) {
		t.Errorf("close the list: %v", err)
	}
	failed := errors.New("failed")
	if err := b.Replicator.Drop(t.Context(), address, func(context.Context, []block.Block) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("drop: %v", err)
	}
	isOpen(address)
	isOpen(list)
	must(t, b.Replicator.Drop(t.Context(), address, nil))
	if _, err := b.Status(t.Context(), list); !errors.Is(err, orbit.ErrUnknown) {
		t.Errorf("the list after the drop: %v", err)
	}
	b.restart()
	b.open(address)
	b.connect(a)
	b.database(address)
	isOpen(address)
	isOpen(list)
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	eventually(t, "b may write", func() bool { return b.mayWrite(address) })
}

func TestIndexFieldIsRememberedUntilTheDatabaseArrives(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("pieces", orbit.TypeDocuments).Address()
	must(t, b.Replicator.Open(t.Context(), address, orbit.OpenOptions{IndexBy: "hash"}))
	b.open(address)
	b.connect(a)
	if got := b.database(address).IndexBy(); got != "hash" {
		t.Errorf("indexed by %s", got)
	}
}
