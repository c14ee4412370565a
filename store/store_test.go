package store_test

import (
	"iter"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/mount"
	leveldb "github.com/ipfs/go-ds-leveldb"
	"github.com/ipfs/go-ds-measure"
	pebble "github.com/ipfs/go-ds-pebble"

	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// backends are kubo's datastores with atomic batches, configured as kubo does.
var backends = []struct {
	name string
	open func(t testing.TB, dir string) datastore.Batching
}{
	{"leveldb", func(t testing.TB, dir string) datastore.Batching {
		ds, err := leveldb.NewDatastore(filepath.Join(dir, "datastore"), nil)
		must(t, err)
		return mounted(t, ds)
	}},
	{"pebble", func(t testing.TB, dir string) datastore.Batching {
		ds, err := pebble.NewDatastore(filepath.Join(dir, "pebbleds"))
		must(t, err)
		return mounted(t, ds)
	}},
}

// mounted mounts ds as kubo does, beside the one for blocks. The test closes
// it.
func mounted(t testing.TB, ds datastore.Datastore) datastore.Batching {
	m := mount.New([]mount.Mount{
		{Prefix: datastore.NewKey("/blocks"), Datastore: datastore.NewMapDatastore()},
		{Prefix: datastore.NewKey("/"), Datastore: measure.New("store_test.datastore", ds)},
	})
	t.Cleanup(func() { m.Close() })
	return m
}

// onAll runs a test on a disk in memory and on each of the backends.
func onAll(t *testing.T, test func(t *testing.T, ds datastore.Batching)) {
	t.Run("disk", func(t *testing.T) { test(t, storetest.NewDisk()) })
	for _, backend := range backends {
		t.Run(backend.name, func(t *testing.T) { test(t, backend.open(t, t.TempDir())) })
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// take returns the first n records, or all if there are fewer.
func take(t testing.TB, records iter.Seq2[store.Record, error], n int) []store.Record {
	t.Helper()
	var page []store.Record
	for r, err := range records {
		must(t, err)
		if page = append(page, r); len(page) == n {
			break
		}
	}
	return page
}

// parallel runs n calls of fn at once.
func parallel(n int, fn func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	wg.Wait()
}
