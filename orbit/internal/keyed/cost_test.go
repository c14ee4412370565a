package keyed_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ipfs/go-datastore"

	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// counting counts reads.
type counting struct {
	*storetest.Disk
	reads int
}

func (c *counting) Get(ctx context.Context, key datastore.Key) ([]byte, error) {
	c.reads++
	return c.Disk.Get(ctx, key)
}

// An entry costs the same number of reads regardless of the size of the
// database, even without hints.
func TestAnEntryCostsTheSameInALargeDatabase(t *testing.T) {
	undo := errors.New("undo")
	for _, keys := range []int{10, 3000} {
		d, other := open(t, 1), open(t, 2)
		for i := range keys {
			d.write(t, keyed.Put(of(t, fmt.Sprint(i)), of(t, i)))
			if i == 9 {
				other.joinFrom(t, d)
			}
		}
		e := other.write(t, keyed.Put(of(t, "3"), of(t, "newer")))[0]
		at := oplog.Ref{Position: e.Position(e.Rank()), Number: uint64(keys + 1)}
		at.Time = float64(keys + 1)
		disk := &counting{Disk: d.disk}
		s := store.New(disk, "/npp/test")
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			added, err := keyed.New(logNumber, keyed.NewHints()).Apply(tx, e, at)
			if err != nil || added != 0 {
				t.Errorf("%d keys are added: %v", added, err)
			}
			return undo
		})
		if !errors.Is(err, undo) {
			t.Fatal(err)
		}
		if disk.reads > 3 {
			t.Errorf("%d reads where the database has %d keys", disk.reads, keys)
		}
	}
}
