package orbit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/store"
)

// changes records the calls of OnChanged.
type changes struct {
	mu    sync.Mutex
	names []string // of the types as which the databases are open
	after []uint64
}

func watch(p *peer) *changes {
	c := &changes{}
	p.OnChanged(func(db *orbit.Database, after uint64) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.names, c.after = append(c.names, db.Type()), append(c.after, after)
	})
	return c
}

// take returns the calls since the last take.
func (c *changes) take() ([]string, []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.names, c.after = nil, nil }()
	return c.names, c.after
}

func TestEveryChangeIsTold(t *testing.T) {
	a, b := newA(t), newB(t)
	c := watch(a)
	opts := orbit.Options{Access: orbit.Access{Write: []string{a.Identity().ID}, Managed: true}}
	db, other := a.create(t, "band", opts), b.create(t, "band", opts)
	for _, p := range []*peer{a, b} {
		must(t, p.PutBlocks(t.Context(), a.Identity().Block(), b.Identity().Block()))
	}
	if names, _ := c.take(); len(names) > 0 {
		t.Errorf("opening changes %s", names)
	}
	check := func(what string, wantNames []string, wantAfter []uint64) {
		t.Helper()
		if names, after := c.take(); !slices.Equal(names, wantNames) || !slices.Equal(after, wantAfter) {
			t.Errorf("%s: %s after %d, want %s after %d", what, names, after, wantNames, wantAfter)
		}
	}
	for range 2 {
		_, err := events(t, db).Add(t.Context(), "by a")
		must(t, err)
	}
	check("append", []string{"events", "events"}, []uint64{0, 1})

	// A grant changes what the fingerprint of the database depends on, although
	// no entry becomes authorized.
	before, err := a.Fingerprint(t.Context(), db.Address())
	must(t, err)
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	names, after := c.take()
	if len(names) < 2 || names[0] != "keyvalue" || names[len(names)-1] != "events" || after[len(after)-1] != 2 {
		t.Errorf("grant: %s after %d", names, after)
	}
	if now, err := a.Fingerprint(t.Context(), db.Address()); err != nil || now == before {
		t.Errorf("the fingerprint does not show the grant: %v", err)
	}

	join(t, other.Access().Database(), entries(t, db.Access().Database())...)
	_, err = events(t, other).Add(t.Context(), "by b")
	must(t, err)
	join(t, db, entries(t, other)...)
	check("join", []string{"events"}, []uint64{2})

	// The database that Open returns is told of, whichever was written.
	kv, err := a.Open(t.Context(), db.Address(), orbit.OpenOptions{Type: orbit.TypeKeyValue})
	must(t, err)
	c.take()
	_, err = keyvalue(t, kv).Put(t.Context(), "key", 1)
	must(t, err)
	check("another type", []string{"keyvalue"}, []uint64{3})
	_, err = a.Rebuild(t.Context(), db.Address())
	must(t, err)
	if names, after := c.take(); len(names) == 0 || after[0] != 0 {
		t.Errorf("rebuild: %s after %d", names, after)
	}
}

func TestFingerprintWithoutOpening(t *testing.T) {
	a := newA(t)
	var addresses []string
	var want [][32]byte
	fingerprint := func(address string) [32]byte {
		t.Helper()
		f, err := a.Fingerprint(t.Context(), address)
		must(t, err)
		return f
	}
	for _, managed := range []bool{false, true} {
		db := a.create(t, "db", orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Managed: managed}})
		put(t, db, "a")
		addresses, want = append(addresses, db.Address()), append(want, fingerprint(db.Address()))
	}
	if want[0] == want[1] || want[0] == [32]byte{} {
		t.Errorf("fingerprints %x", want)
	}
	opened := 0
	a.open(t, orbit.Config{})
	a.OnOpened(func(*orbit.Database) { opened++ })
	for i, address := range addresses {
		if got := fingerprint(address); got != want[i] {
			t.Errorf("after a restart %x, before %x", got, want[i])
		}
	}
	if opened > 0 {
		t.Errorf("%d databases were opened", opened)
	}
	missing := newB(t).create(t, "unknown", orbit.Options{}).Address()
	if _, err := a.Fingerprint(t.Context(), missing); !errors.Is(err, orbit.ErrUnknown) {
		t.Errorf("an unknown database: %v", err)
	}
	if _, err := a.Fingerprint(context.Background(), "x"); !errors.Is(err, orbit.ErrInvalidAddress) {
		t.Errorf("no address: %v", err)
	}
}

func TestGlanceTellsOfDatabasesThatAreNotOpen(t *testing.T) {
	a := newA(t)
	db := a.create(t, "db", orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Managed: true}})
	fill(t, db, 3)
	put(t, db, "a")
	stats, err := db.Stats(t.Context())
	must(t, err)
	access := db.Access().Address()
	a.open(t, orbit.Config{})
	a.OnOpened(func(*orbit.Database) { t.Error("a database was opened") })
	want := orbit.Glance{Entries: stats.Entries, Keys: stats.Keys, Last: stats.Last, Access: access}
	if g, err := a.Glance(t.Context(), db.Address()); err != nil || g != want {
		t.Errorf("%+v, %v, want %+v", g, err, want)
	}
	if g, err := a.Glance(t.Context(), access); err != nil || g.AccessOf != db.Address() || g.Entries != 0 {
		t.Errorf("its access database: %+v, %v", g, err)
	}
	must(t, a.store.Update(t.Context(), func(tx *store.Tx) error { return oplog.MarkStale(tx, db.Number()) }))
	if g, err := a.Glance(t.Context(), db.Address()); !errors.Is(err, orbit.ErrDamaged) || g.Access != access {
		t.Errorf("while it is rebuilt: %+v, %v", g, err)
	}
	if f, err := a.Fingerprint(t.Context(), db.Address()); err != nil || f != [32]byte{} {
		t.Errorf("while it is rebuilt: fingerprint %x, %v", f, err)
	}
	must(t, a.store.Put(t.Context(), fmt.Sprintf("log/%d/summary", db.Number()), []byte("x")))
	if g, err := a.Glance(t.Context(), db.Address()); !errors.Is(err, orbit.ErrDamaged) || g.Access != access {
		t.Errorf("damaged: %+v, %v", g, err)
	}
	if f, err := a.Fingerprint(t.Context(), db.Address()); err != nil || f != [32]byte{} {
		t.Errorf("damaged: fingerprint %x, %v", f, err)
	}
	if _, err := a.Glance(t.Context(), newB(t).create(t, "unknown", orbit.Options{}).Address()); !errors.Is(err, orbit.ErrUnknown) {
		t.Errorf("an unknown database: %v", err)
	}
}

// A catalog of an earlier version, which does not tell who may write, is
// completed, and a database that such a version registered meanwhile as well.
func TestCatalogOfAnEarlierVersionIsCompleted(t *testing.T) {
	a := newA(t)
	var want []string
	records := func() (list []string) {
		t.Helper()
		for _, prefix := range []string{"database", "controlled"} {
			for e, err := range a.store.Scan(t.Context(), prefix) {
				must(t, err)
				list = append(list, e.Key+" "+string(e.Value))
			}
		}
		return list
	}
	fixed := a.create(t, "fixed", orbit.Options{Type: orbit.TypeDocuments, IndexBy: "title"})
	managed := a.create(t, "managed", orbit.Options{Access: orbit.Access{Managed: true}})
	a.create(t, "guests", orbit.Options{Access: anyone})
	before, err := a.Fingerprint(t.Context(), managed.Address())
	must(t, err)
	want = records()
	must(t, a.Close())
	for e, err := range a.store.Scan(t.Context(), "database") {
		must(t, err)
		var old map[string]any
		must(t, json.Unmarshal(e.Value, &old))
		for _, field := range []string{"fixed", "writers", "admins"} {
			delete(old, field)
		}
		record, err := json.Marshal(old)
		must(t, err)
		must(t, a.store.Put(t.Context(), e.Key, record))
	}
	for e, err := range a.store.Scan(t.Context(), "controlled") {
		must(t, err)
		must(t, a.store.Delete(t.Context(), e.Key))
	}
	a.open(t, orbit.Config{})
	if now, err := a.Fingerprint(t.Context(), managed.Address()); err != nil || now != before {
		t.Errorf("fingerprint %x, %v, before %x", now, err, before)
	}
	db, err := a.Open(t.Context(), fixed.Address(), orbit.OpenOptions{})
	must(t, err)
	if db.IndexBy() != "title" {
		t.Errorf("opening made the index field %q", db.IndexBy())
	}
	await(t, "the catalog stays incomplete", func() bool { return !a.Loading() })
	same := func(x, y string) bool {
		keyX, x, _ := strings.Cut(x, " ")
		keyY, y, _ := strings.Cut(y, " ")
		var a, b any
		return keyX == keyY && (x == y || json.Unmarshal([]byte(x), &a) == nil && json.Unmarshal([]byte(y), &b) == nil && reflect.DeepEqual(a, b))
	}
	if got := records(); !slices.EqualFunc(got, want, same) {
		t.Errorf("the catalog is %q, want %q", got, want)
	}
}
