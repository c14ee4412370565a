package orbit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// await collects garbage until a condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !holds() {
		runtime.GC()
		runtime.Gosched()
		if ctx.Err() != nil {
			t.Fatal(what)
		}
	}
}

func TestDatabasesThatNobodyHoldsAreLetGo(t *testing.T) {
	const n = 2000
	a := newA(t)
	made := make(map[string]int)
	a.OnOpened(func(db *orbit.Database) { made[db.Address()]++ })
	var addresses []string
	for i := range n {
		db := a.create(t, fmt.Sprint("db", i), orbit.Options{Type: orbit.TypeDocuments})
		put(t, db, "first")
		addresses = append(addresses, db.Address())
	}
	held, err := a.Open(t.Context(), addresses[0], orbit.OpenOptions{})
	must(t, err)
	log := held.Log()
	plain := held.Plain()
	held = nil
	await(t, "databases stay open", func() bool { return a.Held() <= orbit.KeptOpen+1 })

	// A log is enough to hold its database.
	again, err := a.Open(t.Context(), addresses[0], orbit.OpenOptions{})
	must(t, err)
	if again.Log() != log || plain.Log() != log || made[addresses[0]] != 2 {
		t.Errorf("a database that is held was opened again, %d times", made[addresses[0]])
	}
	for _, address := range addresses {
		db, err := a.Open(t.Context(), address, orbit.OpenOptions{})
		must(t, err)
		put(t, db, "second")
		stats, err := db.Stats(t.Context())
		must(t, err)
		if stats.Last != 2 || stats.Keys != 2 || len(stats.Heads) != 1 {
			t.Fatalf("after it was let go: %+v", stats)
		}
	}
	if times := made[addresses[1]]; times != 2 {
		t.Errorf("a database that nobody holds was opened %d times", times)
	}
	must(t, a.Close())
	if a.Held() != 0 {
		t.Errorf("%d databases are open after Close", a.Held())
	}
}

// An access database is held by those that it controls, and a change of it
// reaches databases that are not open.
func TestAccessDatabaseReachesDatabasesThatWereLetGo(t *testing.T) {
	a, b := newA(t), newB(t)
	opts := orbit.Options{Access: orbit.Access{Write: []string{a.Identity().ID}, Managed: true}}
	for _, p := range []*peer{a, b} {
		must(t, p.PutBlocks(t.Context(), a.Identity().Block(), b.Identity().Block()))
	}
	address := b.create(t, "band", opts).Address()
	db := a.create(t, "band", opts)
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	list := entries(t, db.Access().Database())

	// B has an entry of its own, which is not authorized without the grant.
	copied := newB(t)
	must(t, copied.PutBlocks(t.Context(), a.Identity().Block(), b.Identity().Block()))
	ofB := copied.create(t, "band", opts)
	join(t, ofB.Access().Database(), list...)
	_, err := events(t, ofB).Add(t.Context(), "by b")
	must(t, err)
	_, err = events(t, db).Add(t.Context(), "by a")
	must(t, err)

	access := db.Access().Address()
	must(t, b.Close())
	b.open(t, orbit.Config{})
	var told atomic.Int32
	b.OnChanged(func(db *orbit.Database, _ uint64) {
		if db.Address() == address {
			told.Add(1)
		}
	})
	before, err := b.Fingerprint(t.Context(), address)
	must(t, err)
	inner, err := b.Open(t.Context(), access, orbit.OpenOptions{})
	must(t, err)
	join(t, inner, list...)
	after, err := b.Fingerprint(t.Context(), address)
	must(t, err)
	if told.Load() == 0 || before == after {
		t.Errorf("a grant in the access database: told %d times", told.Load())
	}
	inner = nil
	held, err := b.Open(t.Context(), address, orbit.OpenOptions{})
	must(t, err)
	log := weak.Make(held.Access().Database().Log())
	for i := range orbit.KeptOpen + 1 {
		b.create(t, fmt.Sprint("other", i), orbit.Options{})
	}
	for range 3 {
		runtime.GC()
	}
	if log.Value() == nil {
		t.Error("the access database of a database that is held was let go")
	}
	runtime.KeepAlive(held)
}

// There is never a second log for a database, whoever opens, writes, drops and
// rebuilds, and however often garbage is collected.
func TestThereIsOneLogForADatabase(t *testing.T) {
	const databases, rounds = 40, 60
	a := newA(t)
	var mu sync.Mutex
	logs := make(map[uint64]map[weak.Pointer[oplog.Log]]bool) // by number
	a.OnOpened(func(db *orbit.Database) {
		mu.Lock()
		defer mu.Unlock()
		of := logs[db.Number()]
		if of == nil {
			of = make(map[weak.Pointer[oplog.Log]]bool)
			logs[db.Number()] = of
		}
		own := weak.Make(db.Log())
		for other := range of {
			if other != own && other.Value() != nil {
				t.Errorf("two logs for number %d", db.Number())
			}
		}
		of[own] = true
	})
	var written, reopened [databases]atomic.Int64
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 0))
			for range rounds {
				i := rng.IntN(databases)
				db, err := a.Create(t.Context(), fmt.Sprint("db", i), orbit.Options{Type: orbit.TypeKeyValue, Access: orbit.Access{Managed: i%4 == 0}})
				if errors.Is(err, orbit.ErrDamaged) {
					continue // it is being rebuilt
				}
				if err != nil {
					t.Error(err)
					return
				}
				kv, err := db.Plain().KeyValue()
				if err == nil {
					_, err = kv.Put(t.Context(), fmt.Sprint("key", rng.IntN(3)), i)
				}
				switch {
				case errors.Is(err, orbit.ErrDamaged): // it is being rebuilt
				case err != nil:
					t.Error(err)
					return
				default:
					written[i].Add(1)
				}
				if rng.IntN(20) == 0 {
					if _, err := a.Rebuild(t.Context(), db.Address()); err != nil {
						t.Error(err)
					}
				}
				db = nil
				if a.Forget(); rng.IntN(4) == 0 {
					runtime.GC()
				}
			}
		})
	}
	group.Wait()
	for i := range databases {
		db := a.create(t, fmt.Sprint("db", i), orbit.Options{Type: orbit.TypeKeyValue, Access: orbit.Access{Managed: i%4 == 0}})
		stats, err := db.Stats(t.Context())
		must(t, err)
		if want := uint64(written[i].Load()); stats.Last != want || stats.Entries != want {
			t.Errorf("database %d: %+v, %d were written", i, stats, want)
		}
		reopened[i].Store(int64(len(logs[db.Number()])))
	}
	most := int64(0)
	for i := range reopened {
		most = max(most, reopened[i].Load())
	}
	if most < 2 {
		t.Error("no database was let go meanwhile")
	}
}
