package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"syscall"
	"testing"

	"github.com/ipfs/go-datastore"

	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// deliver stores a message under the next number of a log, unless it is stored
// already, as a mailbox does. A transaction is a count, a record and an index
// entry.
func deliver(id string) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		if ok, err := tx.Has("id/" + id); ok || err != nil {
			return err
		}
		var n uint64
		switch value, err := tx.Get("count"); {
		case err == nil:
			if n, err = strconv.ParseUint(string(value), 10, 64); err != nil {
				return err
			}
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		return errors.Join(
			tx.Put(store.Key("log", n), []byte(id)),
			tx.Put("id/"+id, []byte(strconv.FormatUint(n, 10))),
			tx.Put("count", []byte(strconv.FormatUint(n+1, 10))),
		)
	}
}

// checkMailbox checks that no transaction is torn and that no acknowledged one
// is lost.
func checkMailbox(t *testing.T, ds datastore.Batching, acknowledged map[string]bool) {
	t.Helper()
	s := store.New(ds, namespace)
	log := take(t, s.Ascend(t.Context(), "log", 0), -1)
	found := map[string]bool{}
	for i, r := range log {
		id := string(r.Value)
		if r.Number != uint64(i) || found[id] {
			t.Errorf("record %d is %s, number %d, seen before: %v", i, id, r.Number, found[id])
		}
		found[id] = true
		want(t, s, "id/"+id, strconv.Itoa(i))
	}
	if len(log) > 0 {
		want(t, s, "count", strconv.Itoa(len(log)))
	} else {
		want(t, s, "count", "")
	}
	if ids := scan(t, s, "id"); len(ids) != len(log) {
		t.Errorf("%d records, index %q", len(log), ids)
	}
	for id := range acknowledged {
		if !found[id] {
			t.Errorf("%s was acknowledged and is lost", id)
		}
	}
}

// For each operation of a workload on the disk: it fails, or takes effect and
// returns an error, or is the first after which all fail. The power may fail
// after every acknowledgement and at the end.
func TestAcknowledgedSurvivesPowerLossAndFullDisk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const messages, writers = 24, 3
	for _, failure := range []storetest.Failure{storetest.Once, storetest.Applied, storetest.Lasting} {
		for failAt := 1; ; failAt++ {
			rng := rand.New(rand.NewPCG(seed, uint64(failAt)))
			disk := storetest.NewDisk()
			s := store.New(disk, namespace)
			disk.FailAfter(failAt, failure)
			acknowledged := map[string]bool{}
			for first := 0; first < messages; first += writers {
				// Messages of a round arrive concurrently, some of them twice.
				// Failed calls are repeated once.
				errs := make([]error, 2*writers)
				parallel(len(errs), func(i int) {
					fn := deliver(fmt.Sprint("message", first+i%writers))
					if errs[i] = s.Update(t.Context(), fn); errs[i] != nil {
						errs[i] = s.Update(t.Context(), fn)
					}
				})
				for i, err := range errs {
					if err == nil {
						acknowledged[fmt.Sprint("message", first+i%writers)] = true
					} else if !errors.Is(err, syscall.ENOSPC) {
						t.Fatal(err)
					}
				}
				checkMailbox(t, disk.PowerLoss(nil), acknowledged)
				checkMailbox(t, disk.PowerLoss(rng), acknowledged)
			}
			if failure != storetest.Lasting && len(acknowledged) != messages {
				t.Errorf("%d of %d messages are acknowledged", len(acknowledged), messages)
			}

			// The restarted process continues with what it finds.
			restarted := disk.PowerLoss(rng)
			s = store.New(restarted, namespace)
			for i := range messages {
				must(t, s.Update(t.Context(), deliver(fmt.Sprint("message", i))))
				acknowledged[fmt.Sprint("message", i)] = true
			}
			checkMailbox(t, restarted.PowerLoss(nil), acknowledged)
			if t.Failed() {
				t.Fatalf("failure %d of operation %d", failure, failAt)
			}
			if disk.Operations() < failAt {
				break // the operation was never reached
			}
		}
	}
}

func TestUpdatesSurviveReopening(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend.name, func(t *testing.T) {
			dir := t.TempDir()
			acknowledged := map[string]bool{}
			for round := range 3 {
				ds := backend.open(t, dir)
				checkMailbox(t, ds, acknowledged)
				s := store.New(ds, namespace)
				for i := range 20 {
					id := fmt.Sprint("message", round, "-", i)
					must(t, s.Update(t.Context(), deliver(id)))
					acknowledged[id] = true
				}
				must(t, s.Close())
				must(t, ds.Close())
			}
		})
	}
}
