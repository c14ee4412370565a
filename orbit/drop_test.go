package orbit_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// contents returns all stored records except the counter of databases.
func (p *peer) contents(t testing.TB) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for e, err := range p.store.Scan(t.Context(), "") {
		must(t, err)
		all[e.Key] = string(e.Value)
	}
	delete(all, "databases")
	return all
}

// sameContents fails the test unless both are equal.
func sameContents(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	var differ []string
	for key := range got {
		if _, ok := want[key]; !ok {
			differ = append(differ, "too many: "+key)
		}
	}
	for key, v := range want {
		if got[key] != v {
			differ = append(differ, fmt.Sprintf("%s: got %q, want %q", key, got[key], v))
		}
	}
	if len(differ) > 0 {
		slices.Sort(differ)
		t.Errorf("%s: %d differ: %q", what, len(differ), differ[:min(len(differ), 10)])
	}
}

func (p *peer) listed(t testing.TB) (addresses []string) {
	t.Helper()
	for d, err := range p.Databases(t.Context()) {
		must(t, err)
		addresses = append(addresses, d.Address)
	}
	return addresses
}

func put(t testing.TB, db *orbit.Database, key string) {
	t.Helper()
	_, err := documents(t, db).Put(t.Context(), map[string]any{"_id": key})
	must(t, err)
}

// fill puts documents into a database and deletes one.
func fill(t testing.TB, db *orbit.Database, n int) {
	t.Helper()
	docs := documents(t, db)
	all := func(yield func(any) bool) {
		for i := range n {
			if !yield(map[string]any{"_id": fmt.Sprint(i)}) {
				return
			}
		}
	}
	_, err := docs.PutMany(t.Context(), iter.Seq[any](all))
	must(t, err)
	_, err = docs.Delete(t.Context(), "0")
	must(t, err)
}

var managedDocuments = orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Managed: true}}

// collect returns a save function that records the blocks.
func collect(to map[string]string) func(context.Context, []block.Block) error {
	return func(_ context.Context, bs []block.Block) error {
		for _, b := range bs {
			to[b.Hash] = string(b.Data)
		}
		return nil
	}
}

// stored returns the blocks in contents.
func (p *peer) stored(t testing.TB, contents map[string]string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for key := range contents {
		if hash, ok := strings.CutPrefix(key, "block/"); ok {
			b, err := blocks.Get(blocks.Reading(t.Context(), p.store), hash)
			must(t, err)
			found[hash] = string(b.Data)
		}
	}
	return found
}

func TestDropLeavesNothingAndOffersWhatItDeletes(t *testing.T) {
	a := newA(t)
	other := a.create(t, "other", orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Write: []string{"somebody", a.Identity().ID}}})
	put(t, other, "x")
	want := a.contents(t)

	db := a.create(t, "band", managedDocuments)
	fill(t, db, 300)
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
	twin := newA(t)
	twins := twin.create(t, "band", managedDocuments)
	put(t, twins, "first")
	put(t, twins, "waits")
	equalOutcomes(t, join(t, db, entries(t, twins)[1:]...), orbit.Pending)

	before := a.contents(t)
	deleted := a.stored(t, before)
	for hash := range a.stored(t, want) {
		delete(deleted, hash)
	}
	offered := make(map[string]string)
	must(t, a.Drop(t.Context(), db.Address(), collect(offered)))
	sameContents(t, "stored", a.contents(t), want)
	if !maps.Equal(offered, deleted) {
		t.Errorf("%d blocks were offered, %d deleted", len(offered), len(deleted))
	}
	if got := a.listed(t); !slices.Equal(got, []string{other.Address()}) {
		t.Errorf("listed: %v", got)
	}
	put(t, other, "y")
	if err := a.Drop(t.Context(), db.Address(), nil); !errors.Is(err, orbit.ErrUnknown) {
		t.Errorf("dropped again: %v", err)
	}
	if err := a.Drop(t.Context(), "/orbitdb/x", nil); !errors.Is(err, manifest.ErrInvalidAddress) {
		t.Errorf("no address: %v", err)
	}
}

func equalOutcomes(t testing.TB, joined []orbit.JoinResult, want ...orbit.Outcome) {
	t.Helper()
	var got []orbit.Outcome
	for _, j := range joined {
		got = append(got, j.Outcome)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDatabaseThatWasNotOpenedIsDropped(t *testing.T) {
	a := newA(t)
	want := a.contents(t)
	db := a.create(t, "band", managedDocuments)
	fill(t, db, 3)
	must(t, a.Close())
	a.open(t, orbit.Config{})
	must(t, a.Drop(t.Context(), db.Address(), nil))
	sameContents(t, "stored", a.contents(t), want)
}

func TestAccessControllerOfAnotherDatabaseIsNotDropped(t *testing.T) {
	a := newA(t)
	db := a.create(t, "band", managedDocuments)
	access := db.Access().Address()
	before := a.contents(t)
	keep := func(context.Context, []block.Block) error { t.Error("blocks were offered"); return nil }
	if err := a.Drop(t.Context(), access, keep); !errors.Is(err, orbit.ErrInUse) || !strings.Contains(err.Error(), db.Address()) {
		t.Errorf("got %v", err)
	}
	sameContents(t, "stored", a.contents(t), before)
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
	put(t, db, "x")
}

func TestDropLeavesWhatOthersNeed(t *testing.T) {
	a := newA(t)
	want := a.contents(t)
	// Both have the same access database, with the same list of admins.
	docs := a.create(t, "band", managedDocuments)
	log := a.create(t, "band", orbit.Options{Access: orbit.Access{Managed: true}})
	plain := a.create(t, "plain", orbit.Options{})
	if docs.Access().Address() != log.Access().Address() {
		t.Fatal("they do not share their access controller")
	}
	reopened := func(address string) *orbit.Database {
		t.Helper()
		must(t, a.Close())
		a.open(t, orbit.Config{})
		db, err := a.Open(t.Context(), address, orbit.OpenOptions{})
		must(t, err)
		return db
	}
	must(t, a.Drop(t.Context(), docs.Address(), nil))
	log = reopened(log.Address())
	_, err := events(t, log).Add(t.Context(), "x")
	must(t, err)
	must(t, log.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
	access := log.Access().Address()

	must(t, a.Drop(t.Context(), log.Address(), nil))
	if got := a.listed(t); !slices.Equal(got, []string{plain.Address()}) {
		t.Errorf("listed: %v, without %s", got, access)
	}
	plain = reopened(plain.Address())
	_, err = events(t, plain).Add(t.Context(), "x")
	must(t, err)
	must(t, a.Drop(t.Context(), plain.Address(), nil))
	sameContents(t, "stored", a.contents(t), want)
}

func TestListThatCameByItselfStays(t *testing.T) {
	a := newA(t)
	list := a.create(t, "band", orbit.Options{Type: orbit.TypeKeyValue})
	before := a.contents(t)
	db := a.create(t, "band", managedDocuments)
	if db.Access().Address() != list.Address() {
		t.Fatal("it is another list")
	}
	must(t, a.Drop(t.Context(), db.Address(), nil))
	sameContents(t, "stored", a.contents(t), before)
	must(t, a.Drop(t.Context(), list.Address(), nil))
}

// While the needs of a database are unknown, no block that it may need is
// deleted.
func TestDropLeavesWhatADatabaseWithoutManifestMayNeed(t *testing.T) {
	a := newA(t)
	docs := a.create(t, "band", managedDocuments)
	log := a.create(t, "band", orbit.Options{Access: orbit.Access{Managed: true}})
	hash, err := manifest.ParseAddress(log.Address())
	must(t, err)
	var record []byte
	must(t, a.store.Update(t.Context(), func(tx *store.Tx) (err error) {
		record, err = tx.Get("block/" + hash)
		return errors.Join(err, tx.Delete("block/"+hash))
	}))
	must(t, a.Drop(t.Context(), docs.Address(), nil))
	must(t, a.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Put("block/"+hash, record) }))
	must(t, a.Close())
	a.open(t, orbit.Config{})
	log, err = a.Open(t.Context(), log.Address(), orbit.OpenOptions{})
	must(t, err)
	must(t, log.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
}

func TestDamagedDatabaseIsDropped(t *testing.T) {
	for _, damage := range []string{"summary", "first", "last", "manifest"} {
		a := newA(t)
		want := a.contents(t)
		db := a.create(t, "band", managedDocuments)
		fill(t, db, 3)
		hash, err := manifest.ParseAddress(db.Address())
		must(t, err)
		number := lastLog(t, a)
		stats, err := db.Log().Stats(t.Context())
		must(t, err)
		must(t, a.store.Update(t.Context(), func(tx *store.Tx) error {
			switch damage {
			case "summary":
				return tx.Put(blocks.LogPrefix(number)+"/summary", nil)
			case "first":
				return tx.Put(store.Key(blocks.Entries(number), 1), []byte("garbage"))
			case "last":
				return tx.Delete(store.Key(blocks.Entries(number), stats.Last))
			}
			return tx.Put("block/"+hash, []byte("\x00garbage"))
		}))
		must(t, a.Close())
		a.open(t, orbit.Config{})
		_, err = a.Open(t.Context(), db.Address(), orbit.OpenOptions{})
		if (damage == "summary" || damage == "last") != errors.Is(err, oplog.ErrDamaged) {
			t.Errorf("%s: opened: %v", damage, err)
		}
		must(t, a.Drop(t.Context(), db.Address(), nil))
		if damage == "manifest" {
			// Its contents are unknown, so the list stays.
			must(t, a.Drop(t.Context(), db.Access().Address(), nil))
		}
		sameContents(t, damage, a.contents(t), want)
	}
}

// lastLog returns the number of the newest log.
func lastLog(t testing.TB, p *peer) (n uint64) {
	t.Helper()
	b, err := p.store.Get(t.Context(), "databases")
	must(t, err)
	_, err = fmt.Sscan(string(b), &n)
	must(t, err)
	return n
}

func TestNothingIsDeletedThatKeepFails(t *testing.T) {
	a := newA(t)
	db := a.create(t, "band", managedDocuments)
	fill(t, db, 300)
	before := a.contents(t)
	full := errors.New("disk is full")
	for failAt := 1; ; failAt++ {
		calls := 0
		err := a.Drop(t.Context(), db.Address(), func(context.Context, []block.Block) error {
			if calls++; calls == failAt {
				return full
			}
			// During the drop:
			if _, err := documents(t, db).Put(t.Context(), map[string]any{"_id": "x"}); !errors.Is(err, orbit.ErrDropped) {
				t.Errorf("put: %v", err)
			}
			if _, err := db.Join(t.Context(), nil, orbit.JoinOptions{}); !errors.Is(err, orbit.ErrDropped) {
				t.Errorf("join: %v", err)
			}
			if err := db.Access().Grant(t.Context(), orbit.CapabilityWrite, "x"); !errors.Is(err, orbit.ErrDropped) {
				t.Errorf("grant: %v", err)
			}
			if _, err := a.Open(t.Context(), db.Address(), orbit.OpenOptions{}); !errors.Is(err, orbit.ErrDropped) {
				t.Errorf("open: %v", err)
			}
			if _, err := a.Create(t.Context(), "band", orbit.Options{Access: orbit.Access{Managed: true}}); !errors.Is(err, orbit.ErrDropped) {
				t.Errorf("create another one with the list: %v", err)
			}
			if item, err := documents(t, db).Get(t.Context(), "1"); err != nil {
				t.Errorf("get: %v, %v", item, err)
			}
			return nil
		})
		if err == nil {
			if calls < 3 || len(a.listed(t)) != 0 {
				t.Errorf("%d calls", calls)
			}
			break
		}
		if !errors.Is(err, full) || calls != failAt {
			t.Fatalf("call %d of %d: %v", failAt, calls, err)
		}
		now := a.contents(t)
		for key, v := range before {
			if now[key] != v {
				t.Errorf("%s is changed", key)
			}
		}
		// The database is used as before.
		put(t, db, fmt.Sprint("after ", failAt))
		must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, fmt.Sprint("after ", failAt)))
		before = a.contents(t)
	}
}

func TestHandlesOfADroppedDatabaseRefuse(t *testing.T) {
	a := newA(t)
	db := a.create(t, "band", managedDocuments)
	fill(t, db, 3)
	docs, es := documents(t, db), entries(t, db)
	ended := make(chan error, 1)
	seen := make(chan struct{})
	go func() {
		var err error
		var once sync.Once
		for _, err = range db.Updates(t.Context(), 0) {
			once.Do(func() { close(seen) })
		}
		ended <- err
	}()
	<-seen
	must(t, a.Drop(t.Context(), db.Address(), nil))
	if err := <-ended; !errors.Is(err, orbit.ErrDropped) {
		t.Errorf("updates end with %v", err)
	}
	before := a.contents(t)
	for range 2 {
		if _, err := docs.Put(t.Context(), map[string]any{"_id": "x"}); !errors.Is(err, orbit.ErrDropped) {
			t.Errorf("put: %v", err)
		}
		if _, err := docs.Delete(t.Context(), "1"); !errors.Is(err, orbit.ErrDropped) && !errors.Is(err, orbit.ErrNotFound) {
			t.Errorf("delete: %v", err)
		}
		if _, err := db.Join(t.Context(), orbit.NewCandidates(es...), orbit.JoinOptions{}); !errors.Is(err, orbit.ErrDropped) {
			t.Errorf("join: %v", err)
		}
		if err := db.Access().Grant(t.Context(), orbit.CapabilityWrite, "x"); !errors.Is(err, orbit.ErrDropped) {
			t.Errorf("grant: %v", err)
		}
		if _, err := docs.Get(t.Context(), "1"); !errors.Is(err, orbit.ErrNotFound) {
			t.Errorf("get: %v", err)
		}
		if _, err := db.Log().Get(t.Context(), es[0].Hash); !errors.Is(err, oplog.ErrNotFound) {
			t.Errorf("get an entry: %v", err)
		}
		if got := items(t, docs.All(t.Context())); len(got) > 0 {
			t.Errorf("items: %v", got)
		}
		sameContents(t, "after writes", a.contents(t), before)
		// They do not reach the new database either.
		again := a.create(t, "band", managedDocuments)
		if again == db || len(items(t, documents(t, again).All(t.Context()))) > 0 {
			t.Error("it is the old one")
		}
		must(t, again.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
		put(t, again, "y")
		must(t, a.Drop(t.Context(), again.Address(), nil))
		before = a.contents(t)
	}
}

// hooked is a disk that calls a function at the next read of a key or query of
// a prefix, before it answers.
type hooked struct {
	*storetest.Disk
	mu     sync.Mutex
	prefix string
	hook   func()
}

func (h *hooked) arm(prefix string, hook func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.prefix, h.hook = prefix, hook
}

func (h *hooked) Query(ctx context.Context, q query.Query) (query.Results, error) {
	results, err := h.Disk.Query(ctx, q)
	h.fire(datastore.NewKey(q.Prefix))
	return results, err
}

func (h *hooked) Get(ctx context.Context, key datastore.Key) ([]byte, error) {
	v, err := h.Disk.Get(ctx, key)
	h.fire(key)
	return v, err
}

func (h *hooked) fire(key datastore.Key) {
	h.mu.Lock()
	var hook func()
	if key == datastore.NewKey(h.prefix) {
		hook, h.hook = h.hook, nil
	}
	h.mu.Unlock()
	if hook != nil {
		hook()
	}
}

func onHooked(t testing.TB) (*peer, *hooked) {
	t.Helper()
	p := newA(t)
	must(t, p.Close())
	h := &hooked{Disk: p.disk}
	p.store = store.New(h, "/orbit")
	var err error
	p.Orbit, err = orbit.New(t.Context(), orbit.Config{Store: p.store, Keystore: p.keys})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p, h
}

// newHooked returns a peer, and a save function that causes one call of hook,
// just before the entries of the log with a number are deleted.
func newHooked(t testing.TB, number uint64, hook func(*peer)) (p *peer, keep func(context.Context, []block.Block) error) {
	t.Helper()
	p, h := onHooked(t)
	calls := 0
	return p, func(context.Context, []block.Block) error {
		if calls++; calls == 2 { // the first call had the manifest; now the entries are read
			h.arm("/orbit/"+blocks.Entries(number), func() { hook(p) })
		}
		return nil
	}
}

func TestDatabaseIsMadeAnewWhileItIsDeleted(t *testing.T) {
	var es []block.Block
	var db, again *orbit.Database
	a, keep := newHooked(t, 2, func(a *peer) {
		again = a.create(t, "band", managedDocuments)
		if got := items(t, documents(t, again).All(t.Context())); len(got) > 0 {
			t.Errorf("it is not empty: %v", got)
		}
		if heads, err := db.Log().Heads(t.Context()); err != nil || len(heads) > 0 {
			t.Errorf("the old one has heads: %v, %v", heads, err)
		}
		join(t, again, es[:len(es)/2]...)
		put(t, again, "new")
	})
	db = a.create(t, "band", managedDocuments)
	fill(t, db, 60)
	es = entries(t, db)
	must(t, a.Drop(t.Context(), db.Address(), keep))
	if again == nil {
		t.Fatal("it was not made anew")
	}
	for key := range a.contents(t) {
		if strings.HasPrefix(key, "log/1/") || strings.HasPrefix(key, "log/2/") || strings.HasPrefix(key, "dropping/") {
			t.Errorf("left: %s", key)
		}
	}
	check := func(want int) {
		t.Helper()
		for _, e := range es[:len(es)/2] {
			if ok, err := again.Log().Has(t.Context(), e.Hash); err != nil || !ok {
				t.Fatalf("%s is gone: %v", e.Hash, err)
			}
			_, err := blocks.Get(blocks.Reading(t.Context(), a.store), e.Hash)
			must(t, err)
		}
		if got := len(items(t, documents(t, again).All(t.Context()))); got != want {
			t.Errorf("%d documents, want %d", got, want)
		}
	}
	check(31)
	must(t, a.Close())
	a.open(t, orbit.Config{})
	var err error
	again, err = a.Open(t.Context(), db.Address(), orbit.OpenOptions{})
	must(t, err)
	check(31)
	join(t, again, es...)
	check(60)
}

func TestConcurrentWritesLeaveNothingBehind(t *testing.T) {
	a, b := newA(t), newB(t)
	opts := orbit.Options{Type: orbit.TypeDocuments, Access: anyone}
	theirs := b.create(t, "band", opts)
	fill(t, theirs, 60)
	must(t, a.PutBlocks(t.Context(), b.Identity().Block()))
	es := entries(t, theirs)
	for range 6 {
		want := a.contents(t)
		db := a.create(t, "band", opts)
		put(t, db, "first")
		var group sync.WaitGroup
		busy := make(chan struct{}, 4)
		until := func(do func(i int) error) {
			group.Go(func() {
				for i := 0; ; i++ {
					if err := do(i); err != nil {
						if !errors.Is(err, orbit.ErrDropped) {
							t.Error(err)
						}
						return
					}
					if i == 0 {
						busy <- struct{}{}
					}
				}
			})
		}
		for range 2 {
			until(func(i int) error {
				_, err := documents(t, db).Put(t.Context(), map[string]any{"_id": fmt.Sprint(i)})
				return err
			})
			until(func(i int) error {
				at := i * 7 % len(es)
				_, err := db.Join(t.Context(), orbit.NewCandidates(es[at:min(len(es), at+9)]...), orbit.JoinOptions{})
				return err
			})
		}
		for range 4 {
			<-busy
		}
		offered := make(map[string]string)
		must(t, a.Drop(t.Context(), db.Address(), collect(offered)))
		group.Wait()
		sameContents(t, "stored", a.contents(t), want)
		if t.Failed() {
			return
		}
	}
}

func TestDropLeavesWhatIsNeededMeanwhile(t *testing.T) {
	a := newA(t)
	db := a.create(t, "band", orbit.Options{})
	var other *orbit.Database
	must(t, a.Drop(t.Context(), db.Address(), func(context.Context, []block.Block) error {
		other = a.create(t, "other", orbit.Options{})
		return nil
	}))
	must(t, a.Close())
	a.open(t, orbit.Config{})
	_, err := a.Open(t.Context(), other.Address(), orbit.OpenOptions{})
	must(t, err)
}

// The list exists when it is stored, and is deleted before it is used.
func TestListIsNotDroppedWhileADatabaseIsMadeWithIt(t *testing.T) {
	a, h := onHooked(t)
	db := a.create(t, "band", orbit.Options{})
	_, list, err := manifest.AccessList{a.Identity().ID}.Address()
	must(t, err)
	ended := make(chan error, 1)
	h.arm("/orbit/block/"+list.Hash, func() {
		go func() { ended <- a.Drop(t.Context(), db.Address(), nil) }()
		for range 10_000 { // give it the chance
			runtime.Gosched()
		}
	})
	other := a.create(t, "other", orbit.Options{})
	must(t, <-ended)
	must(t, a.Close())
	a.open(t, orbit.Config{})
	_, err = a.Open(t.Context(), other.Address(), orbit.OpenOptions{})
	must(t, err)
}

// Concurrent creates and drops of a database return a whole database or an
// error.
func TestCreatingAndDroppingAtOnce(t *testing.T) {
	a := newA(t)
	want := a.contents(t)
	var group sync.WaitGroup
	for n := range 3 {
		group.Go(func() {
			for range 40 {
				opts := managedDocuments
				if n == 1 {
					opts = orbit.Options{Access: orbit.Access{Managed: true}} // with the same list
				}
				db, err := a.Create(t.Context(), "band", opts)
				if errors.Is(err, orbit.ErrDropped) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n == 1 {
					_, err = events(t, db).Add(t.Context(), "x")
				} else {
					_, err = documents(t, db).Put(t.Context(), map[string]any{"_id": "x"})
				}
				if err != nil && !errors.Is(err, orbit.ErrDropped) {
					t.Error(err)
				}
				err = a.Drop(t.Context(), db.Address(), nil)
				if err != nil && !errors.Is(err, orbit.ErrUnknown) {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for _, address := range a.listed(t) { // dropped while another one used the list
		must(t, a.Drop(t.Context(), address, nil))
	}
	sameContents(t, "stored", a.contents(t), want)
}

func TestCanceledDropLeavesItWholeOrGone(t *testing.T) {
	// While blocks are saved:
	a := newA(t)
	db := a.create(t, "band", managedDocuments)
	fill(t, db, 20)
	before := a.contents(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := a.Drop(ctx, db.Address(), func(ctx context.Context, _ []block.Block) error {
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	sameContents(t, "stored", a.contents(t), before)
	put(t, db, "x")
	// After they were saved:
	ctx, cancel = context.WithCancel(t.Context())
	err = a.Drop(ctx, db.Address(), func(ctx context.Context, _ []block.Block) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	put(t, db, "y")
	// While they are deleted:
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan struct{})
		a, keep := newHooked(t, 2, func(*peer) {
			cancel()
			<-returned
		})
		want := a.contents(t)
		db := a.create(t, "band", managedDocuments)
		fill(t, db, 20)
		if err := a.Drop(ctx, db.Address(), keep); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if got := a.listed(t); len(got) > 0 {
			t.Errorf("listed: %v", got)
		}
		close(returned)
		synctest.Wait()
		sameContents(t, "in the end", a.contents(t), want)
	})
}

func TestNextOrbitDeletesWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		returned := make(chan struct{})
		a, keep := newHooked(t, 2, func(a *peer) {
			go a.Close() // which waits for the deletion
			<-returned
		})
		want := a.contents(t)
		db := a.create(t, "band", managedDocuments)
		fill(t, db, 20)
		if err := a.Drop(t.Context(), db.Address(), keep); !errors.Is(err, orbit.ErrClosed) {
			t.Errorf("got %v", err)
		}
		close(returned)
		synctest.Wait()
		left := 0
		for key := range a.contents(t) {
			if strings.HasPrefix(key, "log/2/entry") {
				left++
			}
		}
		if left == 0 {
			t.Error("nothing was left")
		}
		a.open(t, orbit.Config{})
		synctest.Wait()
		sameContents(t, "in the end", a.contents(t), want)
	})
}

func TestClosedOrbitDropsNothing(t *testing.T) {
	a := newA(t)
	db := a.create(t, "band", managedDocuments)
	put(t, db, "x")
	before := a.contents(t)
	if err := a.Drop(t.Context(), db.Address(), func(context.Context, []block.Block) error { return a.Close() }); !errors.Is(err, orbit.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := a.Drop(t.Context(), db.Address(), nil); !errors.Is(err, orbit.ErrClosed) {
		t.Errorf("got %v", err)
	}
	sameContents(t, "stored", a.contents(t), before)
}

// Each disk operation of a drop either fails, or succeeds and returns an error,
// or is the last one that works. Then either the power fails, or the Orbit
// continues.
func TestDropIsAllOrNothingAfterAnyCrash(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	a := newA(t)
	other := a.create(t, "other", orbit.Options{Type: orbit.TypeDocuments})
	put(t, other, "x")
	gone := a.contents(t)
	db := a.create(t, "band", orbit.Options{Access: orbit.Access{Managed: true}})
	const n = 20
	_, err := events(t, db).AddMany(t.Context(), slices.Values(make([]any, n)))
	must(t, err)
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
	whole := a.contents(t)
	address := db.Address()
	must(t, a.Close())

	ended := make(map[string]int)
	state := func(t *testing.T, p *peer) {
		t.Helper()
		switch got := p.contents(t); {
		case maps.Equal(got, whole):
			ended["whole"]++
			db, err := p.Open(t.Context(), address, orbit.OpenOptions{})
			must(t, err)
			_, err = events(t, db).Add(t.Context(), "y")
			must(t, err)
			must(t, p.Drop(t.Context(), address, nil))
			sameContents(t, "dropped again", p.contents(t), gone)
		default:
			ended["gone"]++
			sameContents(t, "gone", got, gone)
		}
	}
	run := func(t *testing.T, failAt int, failure storetest.Failure, restart bool) (reached bool) {
		rng := rand.New(rand.NewPCG(seed, uint64(failAt)))
		p := &peer{disk: a.disk.PowerLoss(nil), keys: a.keys}
		p.open(t, orbit.Config{})
		db, err := p.Open(t.Context(), address, orbit.OpenOptions{})
		must(t, err)
		synctest.Wait()
		p.disk.FailAfter(failAt, failure)
		before := p.disk.Operations()
		offered := make(map[string]string)
		dropErr := p.Drop(t.Context(), address, collect(offered))
		reached = p.disk.Operations() >= before+failAt
		if dropErr != nil && !errors.Is(dropErr, syscall.ENOSPC) {
			t.Errorf("drop: %v", dropErr)
		}
		if dropErr == nil && reached {
			t.Error("a failure was not told")
		}
		if restart {
			must(t, p.Close())
			found := &peer{disk: p.disk.PowerLoss(rng), keys: a.keys}
			found.open(t, orbit.Config{})
			synctest.Wait()
			if dropErr == nil {
				sameContents(t, "dropped", found.contents(t), gone)
			}
			state(t, found)
			return reached
		}
		p.disk.FailAfter(0, failure)
		if slices.Contains(p.listed(t), address) {
			// Holders of the database may or may not write, but lose nothing.
			_, err := events(t, db).Add(t.Context(), "z")
			if err != nil && !errors.Is(err, orbit.ErrDropped) {
				t.Errorf("put: %v", err)
			}
			again, openErr := p.Open(t.Context(), address, orbit.OpenOptions{})
			must(t, openErr)
			_, addErr := events(t, again).Add(t.Context(), "y")
			must(t, addErr)
			want := n + 1
			if err == nil {
				want++
			}
			if got := len(entries(t, again)); got != want {
				t.Errorf("%d entries, want %d", got, want)
			}
		} else if _, err := events(t, db).Add(t.Context(), "z"); !errors.Is(err, orbit.ErrDropped) {
			t.Errorf("put: %v", err)
		}
		if err := p.Drop(t.Context(), address, nil); err != nil && !errors.Is(err, orbit.ErrUnknown) {
			t.Errorf("drop again: %v, after %v", err, dropErr)
		}
		sameContents(t, "dropped", p.contents(t), gone)
		return reached
	}
	for _, failure := range []storetest.Failure{storetest.Once, storetest.Applied, storetest.Lasting} {
		for failAt := 1; ; failAt++ {
			reached := false
			for _, restart := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) { reached = run(t, failAt, failure, restart) })
			}
			if t.Failed() {
				t.Fatalf("failure %d of operation %d", failure, failAt)
			}
			if !reached {
				break
			}
		}
	}
	if ended["whole"] == 0 || ended["gone"] < 10 {
		t.Errorf("ended %v", ended)
	}
}

// A database that is being deleted is not reported as damaged.
func TestLoopsThatMeetADropDoNotSpeakOfDamage(t *testing.T) {
	a := newA(t)
	db := a.create(t, "band", orbit.Options{Type: orbit.TypeDocuments})
	fill(t, db, 600)
	told := func(err error) {
		t.Helper()
		if !errors.Is(err, orbit.ErrDropped) || errors.Is(err, blocks.ErrDamaged) {
			t.Errorf("got %v", err)
		}
	}
	dropped := false
	next, stop := iter.Pull2(db.Iterate(t.Context(), orbit.Range{}))
	defer stop()
	var e *entry.Entry
	for item, err := range documents(t, db).All(t.Context()) {
		if err != nil {
			told(err)
			break
		}
		if !dropped {
			var ok bool
			if e, err, ok = next(); !ok || err != nil {
				t.Fatal(e, err)
			}
			must(t, a.Drop(t.Context(), db.Address(), nil))
			dropped = true
			continue
		}
		t.Fatalf("%v is still here", item.Key)
	}
	_, err, _ := next()
	told(err)
}
