package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/ipfs/go-datastore"

	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

const namespace = "/npp/test"

func put(key, value string) func(*store.Tx) error {
	return func(tx *store.Tx) error { return tx.Put(key, []byte(value)) }
}

// find returns an update that writes nothing and succeeds if key exists.
func find(key string) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		_, err := tx.Get(key)
		return err
	}
}

func increment(key string) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		var n int
		switch value, err := tx.Get(key); {
		case err == nil:
			if n, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		return tx.Put(key, []byte(strconv.Itoa(n+1)))
	}
}

// want checks the value at key; "" means none.
func want(t testing.TB, s *store.Store, key, value string) {
	t.Helper()
	got, err := s.Get(context.Background(), key)
	if value == "" {
		if !errors.Is(err, store.ErrNotFound) || !errors.Is(err, datastore.ErrNotFound) {
			t.Errorf("%s = %q, %v; want not found", key, got, err)
		}
	} else if err != nil || string(got) != value {
		t.Errorf("%s = %q, %v; want %q", key, got, err, value)
	}
	if ok, err := s.Has(context.Background(), key); err != nil || ok != (value != "") {
		t.Errorf("has %s: %v, %v", key, ok, err)
	}
}

// group makes updates wait behind a running one, so that they share a group,
// and returns their errors. It must be called in a synctest bubble.
func group(t *testing.T, s *store.Store, fns ...func(*store.Tx) error) []error {
	release := make(chan struct{})
	errs := make([]error, len(fns))
	go s.Update(t.Context(), func(*store.Tx) error { <-release; return nil })
	for i, fn := range fns {
		synctest.Wait()
		go func() { errs[i] = s.Update(t.Context(), fn) }()
	}
	synctest.Wait()
	close(release)
	synctest.Wait()
	return errs
}

func TestConcurrentUpdatesShareASync(t *testing.T) {
	for _, test := range []struct {
		updates, bytes, syncs int
	}{
		{255, 100, 1},    // and the running one
		{999, 100, 4},    // at most 256 updates
		{12, 300_000, 3}, // at most a mebibyte and one update
	} {
		synctest.Test(t, func(t *testing.T) {
			disk := storetest.NewDisk()
			s := store.New(disk, namespace)
			fns := make([]func(*store.Tx) error, test.updates)
			for i := range fns {
				fns[i] = func(tx *store.Tx) error {
					if err := tx.Put(fmt.Sprint("filler/", i), make([]byte, test.bytes)); err != nil {
						return err
					}
					return increment("n")(tx)
				}
			}
			must(t, errors.Join(group(t, s, fns...)...))
			want(t, s, "n", strconv.Itoa(test.updates))
			if disk.Syncs() != test.syncs {
				t.Errorf("%d updates took %d syncs, want %d", test.updates+1, disk.Syncs(), test.syncs)
			}
		})
	}
}

func TestUpdatesAreSerial(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		s := store.New(ds, namespace)
		const writers, rounds = 16, 20
		parallel(writers, func(int) {
			for range rounds {
				if err := s.Update(t.Context(), increment("n")); err != nil {
					t.Error(err)
				}
			}
		})
		want(t, s, "n", strconv.Itoa(writers*rounds))
	})
}

func TestUpdateSeesItsOwnWrites(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		s := store.New(ds, namespace)
		must(t, s.Update(t.Context(), put("old", "1")))
		see := func(tx *store.Tx, key, value string) {
			t.Helper()
			got, err := tx.Get(key)
			ok, hasErr := tx.Has(key)
			if string(got) != value || ok != (value != "") || hasErr != nil || (err == nil) != ok {
				t.Errorf("%s = %q, %v, has: %v, %v; want %q", key, got, err, ok, hasErr, value)
			}
			if !ok && !errors.Is(err, store.ErrNotFound) {
				t.Errorf("get %s: %v", key, err)
			}
		}
		must(t, s.Update(t.Context(), func(tx *store.Tx) error {
			see(tx, "old", "1")
			see(tx, "new", "")
			value := []byte("2")
			must(t, tx.Put("new", value))
			value[0] = 'x'
			see(tx, "new", "2")
			got, err := tx.Get("new")
			must(t, err)
			got[0] = 'x'
			see(tx, "new", "2")
			must(t, tx.Delete("old"))
			see(tx, "old", "")
			must(t, tx.Put("back", []byte("3")))
			must(t, tx.Delete("back"))
			must(t, tx.Put("back", []byte("4")))
			must(t, tx.Put("gone", []byte("5")))
			must(t, tx.Delete("gone"))
			must(t, tx.Delete("never"))
			want(t, s, "old", "1")
			want(t, s, "new", "")
			return nil
		}))
		want(t, s, "new", "2")
		want(t, s, "old", "")
		want(t, s, "back", "4")
		want(t, s, "gone", "")
	})
}

func TestFailedUpdateWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.New(storetest.NewDisk(), namespace)
		must(t, s.Update(t.Context(), put("n", "7")))
		refused := errors.New("refused")
		errs := group(t, s,
			put("a", "1"),
			func(tx *store.Tx) error {
				return errors.Join(tx.Put("a", []byte("2")), tx.Delete("n"), refused)
			},
			func(tx *store.Tx) error {
				if err := tx.Put("b", []byte("1")); err != nil {
					return err
				}
				panic("oops")
			},
			func(tx *store.Tx) error {
				if _, err := tx.Get("b"); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("b is seen: %v", err)
				}
				return increment("a")(tx)
			},
		)
		must(t, errors.Join(errs[0], errs[3]))
		if !errors.Is(errs[1], refused) {
			t.Errorf("got %v, want the error of the function", errs[1])
		}
		if errs[2] == nil || !strings.Contains(errs[2].Error(), "oops") {
			t.Errorf("got %v, want the panic", errs[2])
		}
		want(t, s, "a", "2")
		want(t, s, "b", "")
		want(t, s, "n", "7")
	})
}

func TestFunctionThatEndsItsGoroutineDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.New(storetest.NewDisk(), namespace)
		errs := group(t, s,
			put("a", "1"),
			func(*store.Tx) error { runtime.Goexit(); return nil },
			put("c", "1"),
		)
		if errs[0] == nil || errs[1] == nil {
			t.Errorf("updates of the group: %v", errs[:2])
		}
		must(t, errs[2])
		want(t, s, "a", "")
		want(t, s, "c", "1")
	})
}

func TestCancelledUpdateWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.New(storetest.NewDisk(), namespace)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Update(cancelled, put("early", "1")); err != context.Canceled {
			t.Errorf("update with a cancelled context: %v", err)
		}

		release := make(chan struct{})
		var running, waiting error
		go func() { running = s.Update(t.Context(), func(*store.Tx) error { <-release; return nil }) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { waiting = s.Update(ctx, put("waiting", "1")) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		if waiting != context.Canceled {
			t.Errorf("cancelled while it waited: %v", waiting)
		}
		close(release)
		synctest.Wait()
		must(t, running)
		want(t, s, "early", "")
		want(t, s, "waiting", "")
	})
}

func TestUpdateThatBeganWaitsForItsOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.New(storetest.NewDisk(), namespace)
		ctx, cancel := context.WithCancel(t.Context())
		first, release := make(chan struct{}), make(chan struct{})
		var err error
		answered := false
		go s.Update(t.Context(), func(*store.Tx) error { <-first; return nil })
		synctest.Wait()
		go func() {
			err = s.Update(ctx, func(tx *store.Tx) error {
				<-release
				return tx.Put("a", []byte("1"))
			})
			answered = true
		}()
		synctest.Wait()
		close(first) // the second function begins in the goroutine of the first update
		synctest.Wait()
		cancel()
		synctest.Wait()
		if answered {
			t.Errorf("answered before its function returned: %v", err)
		}
		close(release)
		synctest.Wait()
		if !answered {
			t.Error("not answered")
		}
		must(t, err)
		want(t, s, "a", "1")
	})
}

func TestClosedStoreLeavesTheDatastoreAlone(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		s := store.New(ds, namespace)
		model{}.change(t, s, []uint64{1, 2, 3}, nil)
		var first []error
		for _, err := range s.Ascend(t.Context(), "log", 0) {
			if first = append(first, err); len(first) == 1 {
				must(t, s.Close())
				must(t, ds.Close())
			}
		}
		if len(first) != 2 || !errors.Is(first[1], store.ErrClosed) {
			t.Errorf("loop around close: %v", first)
		}
		_, getErr := s.Get(t.Context(), store.Key("log", 1))
		_, hasErr := s.Has(t.Context(), store.Key("log", 1))
		closed := []error{getErr, hasErr, s.Update(t.Context(), put("a", "1"))}
		for _, read := range []iter.Seq[error]{errs(s.Scan(t.Context(), "")), errs(s.Ascend(t.Context(), "log", 0)), errs(s.Descend(t.Context(), "log", 9))} {
			closed = slices.AppendSeq(closed, read)
		}
		for i, err := range closed {
			if !errors.Is(err, store.ErrClosed) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if len(closed) != 6 {
			t.Errorf("%d errors of 6 calls", len(closed))
		}
	})
}

func TestCloseWaitsForTheRunningGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := storetest.NewDisk()
		s := store.New(disk, namespace)
		release := make(chan struct{})
		var running, waiting error
		closed := false
		go func() {
			running = s.Update(t.Context(), func(tx *store.Tx) error {
				<-release
				return tx.Put("running", []byte("1"))
			})
		}()
		synctest.Wait()
		go func() { waiting = s.Update(t.Context(), put("waiting", "1")) }()
		synctest.Wait()
		go func() { closed = s.Close() == nil }()
		synctest.Wait()
		if closed {
			t.Error("closed while a group was running")
		}
		if !errors.Is(waiting, store.ErrClosed) {
			t.Errorf("waiting update: %v", waiting)
		}
		close(release)
		synctest.Wait()
		if !closed {
			t.Error("not closed")
		}
		must(t, running)
		if err := s.Update(t.Context(), put("late", "1")); !errors.Is(err, store.ErrClosed) {
			t.Errorf("late update: %v", err)
		}
		must(t, s.Close())
		s = store.New(disk, namespace)
		want(t, s, "running", "1")
		want(t, s, "waiting", "")
		want(t, s, "late", "")
	})
}

func TestDatastoreFailureReachesTheWholeGroup(t *testing.T) {
	for _, test := range []struct {
		name      string
		operation int // 1 is the commit, 2 the sync
		failure   storetest.Failure
		found     string // what the next update reads
	}{
		{"commit", 1, storetest.Once, ""},
		{"commit that was applied", 1, storetest.Applied, "1"},
		{"sync", 2, storetest.Once, "1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := storetest.NewDisk()
				s := store.New(disk, namespace)
				disk.FailAfter(test.operation, test.failure)
				refused := errors.New("refused")
				for i, err := range group(t, s,
					put("a", "1"),
					find("a"), // writes nothing, but has read what failed
					func(tx *store.Tx) error { // so has this one
						if err := find("a")(tx); err != nil {
							return err
						}
						return refused
					},
				) {
					if !errors.Is(err, store.ErrNotDurable) || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, refused) {
						t.Errorf("update %d: %v", i, err)
					}
				}
				want(t, s, "a", test.found)
			})
		})
	}
}

func TestFailingTellsTheErrorOfTheLastWrite(t *testing.T) {
	disk := storetest.NewDisk()
	s := store.New(disk, namespace)
	update := func(fn func(*store.Tx) error) error { return s.Update(t.Context(), fn) }
	wantFailing := func(when string, want error) {
		t.Helper()
		if err := s.Failing(); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", when, err, want)
		}
	}
	wantFailing("before the first write", nil)
	must(t, update(put("a", "1")))
	wantFailing("after a write", nil)

	disk.FailAfter(1, storetest.Lasting)
	errSuch := errors.New("such a function")
	if err := update(func(*store.Tx) error { return errSuch }); !errors.Is(err, errSuch) {
		t.Fatal(err)
	}
	wantFailing("after a function that failed", nil)
	if err := update(put("a", "2")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	wantFailing("on a full disk", syscall.ENOSPC)

	disk.FailAfter(0, storetest.Lasting)
	must(t, update(find("a")))
	wantFailing("after an update that writes nothing", syscall.ENOSPC)
	must(t, update(put("b", "1")))
	wantFailing("after a write that succeeded", nil)

	disk.FailAfter(2, storetest.Once)
	if err := update(put("b", "2")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	wantFailing("after a sync that failed", syscall.ENOSPC)
}

func TestWhatIsFoundAfterAFailureIsDurable(t *testing.T) {
	for operation, failure := range map[int]storetest.Failure{1: storetest.Applied, 2: storetest.Once} {
		disk := storetest.NewDisk()
		s := store.New(disk, namespace)
		disk.FailAfter(operation, failure)
		if err := s.Update(t.Context(), put("a", "1")); !errors.Is(err, store.ErrNotDurable) {
			t.Fatal(err)
		}
		disk.FailAfter(1, storetest.Once) // the sync
		if err := s.Update(t.Context(), find("a")); !errors.Is(err, store.ErrNotDurable) {
			t.Fatal(err)
		}
		must(t, s.Update(t.Context(), find("a")))
		want(t, store.New(disk.PowerLoss(nil), namespace), "a", "1")

		syncs := disk.Syncs()
		must(t, s.Update(t.Context(), find("a")))
		if disk.Syncs() != syncs {
			t.Error("synced again, with nothing to sync")
		}
	}
}

func TestWhatAKilledProcessLeftIsDurableWhenFound(t *testing.T) {
	disk := storetest.NewDisk()
	disk.FailAfter(2, storetest.Lasting)
	if err := store.New(disk, namespace).Update(t.Context(), put("a", "1")); !errors.Is(err, store.ErrNotDurable) {
		t.Fatal(err)
	}
	disk.FailAfter(0, storetest.Lasting)
	must(t, store.New(disk, namespace).Update(t.Context(), find("a")))
	want(t, store.New(disk.PowerLoss(nil), namespace), "a", "1")
}

func TestNamespacesAreApart(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		one, other := store.New(ds, "/npp/one"), store.New(ds, "/npp/one2")
		must(t, one.Update(t.Context(), put("a/b", "1")))
		must(t, other.Update(t.Context(), put("a/c", "2")))
		want(t, one, "a/c", "")
		if got := scan(t, one, ""); !slices.Equal(got, []string{"a/b=1"}) {
			t.Errorf("got %q", got)
		}
		value, err := ds.Get(t.Context(), datastore.NewKey("/npp/one/a/b"))
		if err != nil || string(value) != "1" {
			t.Errorf("in the datastore: %q, %v", value, err)
		}
	})
}

func TestScanIsOrderedAndByComponent(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		s := store.New(ds, namespace)
		for _, key := range []string{"b", "a", "a/2", "a/10", "a/1/x", "a-", "ab", "a/1"} {
			must(t, s.Update(t.Context(), put(key, key)))
		}
		for prefix, keys := range map[string][]string{
			"":    {"a", "a-", "a/1", "a/1/x", "a/10", "a/2", "ab", "b"},
			"a":   {"a/1", "a/1/x", "a/10", "a/2"},
			"a/1": {"a/1/x"},
			"b":   nil,
		} {
			var want []string
			for _, key := range keys {
				want = append(want, key+"="+key)
			}
			if got := scan(t, s, prefix); !slices.Equal(got, want) {
				t.Errorf("below %q: %q, want %q", prefix, got, want)
			}
		}
	})
}

func scan(t *testing.T, s *store.Store, prefix string) (entries []string) {
	t.Helper()
	for e, err := range s.Scan(t.Context(), prefix) {
		must(t, err)
		entries = append(entries, e.Key+"="+string(e.Value))
	}
	return entries
}

func TestUncleanKeysAreRefused(t *testing.T) {
	s := store.New(storetest.NewDisk(), namespace)
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/./b", "a/../b", "a/.."} {
		_, getErr := s.Get(t.Context(), key)
		_, hasErr := s.Has(t.Context(), key)
		errs := []error{getErr, hasErr}
		must(t, s.Update(t.Context(), func(tx *store.Tx) error {
			_, getErr := tx.Get(key)
			_, hasErr := tx.Has(key)
			errs = append(errs, getErr, hasErr, tx.Put(key, nil), tx.Delete(key))
			return nil
		}))
		if key != "" {
			for _, err := range s.Scan(t.Context(), key) {
				errs = append(errs, err)
			}
		}
		for _, err := range s.Ascend(t.Context(), key, 0) {
			errs = append(errs, err)
		}
		if key != "" && len(errs) != 8 {
			t.Errorf("key %q: %d errors", key, len(errs))
		}
		for i, err := range errs {
			if !errors.Is(err, store.ErrInvalidKey) {
				t.Errorf("key %q, call %d: %v", key, i, err)
			}
		}
	}
	if got := scan(t, s, ""); got != nil {
		t.Errorf("stored %q", got)
	}
	for _, key := range []string{"...", "..a", "a/..b", "\x00", "\xff", "a b", "ü:1"} {
		must(t, s.Update(t.Context(), put(key, "1")))
		want(t, s, key, "1")
	}
}

func TestPutAndDeleteAreUpdates(t *testing.T) {
	disk := storetest.NewDisk()
	s := store.New(disk, "/test")
	if err := s.Put(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if v, err := store.New(disk.PowerLoss(nil), "/test").Get(t.Context(), "a"); err != nil || string(v) != "1" {
		t.Errorf("after a power loss: %q, %v", v, err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := store.New(disk.PowerLoss(nil), "/test").Has(t.Context(), "a"); ok || err != nil {
		t.Errorf("after a power loss: %t, %v", ok, err)
	}
	disk.FailAfter(1, storetest.Once)
	if err := s.Put(t.Context(), "a", nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
}
