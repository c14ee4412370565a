package orbit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
)

// writtenBy returns a database of B, the blocks needed to open it, and entries
// of about size bytes in total.
func writtenBy(t *testing.T, b *peer, name string, opts orbit.Options, size int) (address string, attached orbit.Attached, bs []block.Block) {
	t.Helper()
	db := b.create(t, name, opts)
	for i := 0; size > 0; i++ {
		_, err := events(t, db).Add(t.Context(), fmt.Sprint(i, strings.Repeat("x", 500)))
		must(t, err)
		bs = entries(t, db)
		size -= len(bs[len(bs)-1].Data)
	}
	attached = orbit.Attached{b.Identity().Hash(): b.Identity().Block()}
	for _, address := range []string{db.Address(), db.Access().Address()} {
		one, err := b.Block(t.Context(), address[strings.LastIndexByte(address, '/')+1:])
		must(t, err)
		attached[one.Hash] = one
	}
	return db.Address(), attached, bs
}

// taken opens a database with attached blocks and joins entries one by one
// until one is refused. It returns the number of accepted bytes and the reason
// for the refusal.
func (p *peer) taken(t *testing.T, address string, attached orbit.Attached, bs []block.Block) (db *orbit.Database, bytes uint64, err error) {
	t.Helper()
	db, openErr := p.Open(t.Context(), address, orbit.OpenOptions{Attached: attached})
	must(t, openErr)
	for _, b := range bs {
		joined, joinErr := db.Join(t.Context(), orbit.NewCandidates(b), orbit.JoinOptions{From: "peer", Attached: attached})
		must(t, joinErr)
		if joined[0].Err != nil {
			return db, bytes, joined[0].Err
		}
		bytes += uint64(len(b.Data))
	}
	return db, bytes, nil
}

func about(t *testing.T, what string, got, want uint64) {
	t.Helper()
	if got > want || got+1500 < want {
		t.Errorf("%s takes %d bytes, the quota is %d", what, got, want)
	}
}

func TestDatabasesOfOthersAreHeldToTheirQuotas(t *testing.T) {
	const each, group, all = 20_000, 30_000, 70_000
	a, b := newA(t), newB(t)
	a.open(t, orbit.Config{Quotas: orbit.Quotas{Database: each, Group: group, All: all}})
	only := orbit.Options{}
	fill := func(name string) (*orbit.Database, uint64, error) {
		address, at, bs := writtenBy(t, b, name, only, 40_000)
		return a.taken(t, address, at, bs)
	}
	one, bytes, err := fill("one")
	if !errors.Is(err, orbit.ErrQuotaFull) || !strings.Contains(err.Error(), "this database") {
		t.Errorf("%v", err)
	}
	about(t, "one", bytes, each)
	if u := one.Usage(); u.Entries != bytes || !u.Limited || u.Quota != each {
		t.Errorf("%+v", u)
	}

	// Two databases of a companion.
	address, at, bs := writtenBy(t, b, "user", only, 12_000)
	a.SetGroup(address, "companion")
	_, bytes, err = a.taken(t, address, at, bs)
	must(t, err)
	address, at, bs = writtenBy(t, b, "pieces", only, 40_000)
	a.SetGroup(address, "companion")
	pieces, more, err := a.taken(t, address, at, bs)
	if !errors.Is(err, orbit.ErrQuotaFull) || !strings.Contains(err.Error(), "this companion") {
		t.Errorf("%v", err)
	}
	about(t, "the companion", bytes+more, group)
	if u := pieces.Usage(); u.Quota != group || u.Grouped != bytes+more {
		t.Errorf("%+v", u)
	}

	// All databases together; those created here do not count.
	mine := a.create(t, "mine", orbit.Options{})
	for range 30 {
		_, err := events(t, mine).Add(t.Context(), strings.Repeat("x", 1000))
		must(t, err)
	}
	_, _, err = fill("two")
	if !errors.Is(err, orbit.ErrQuotaFull) {
		t.Errorf("%v", err)
	}
	three, bytes, err := fill("three")
	if !errors.Is(err, orbit.ErrQuotaFull) || !strings.Contains(err.Error(), "all databases") {
		t.Errorf("%v", err)
	}
	about(t, "all", a.Usage().Entries, all)
	if u := mine.Usage(); u.Limited || u.Quota != math.MaxUint64 {
		t.Errorf("%+v", u)
	}

	// Closed databases count as well.
	before := a.Usage()
	a.open(t, orbit.Config{Quotas: orbit.Quotas{Database: each, Group: group, All: all}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for a.Usage() != before { // the usage is read in the background
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after a restart: %+v, before %+v", a.Usage(), before)
		}
	}

	// A drop frees space and notifies those who wait for it.
	freed := a.Freed()
	must(t, a.Drop(t.Context(), one.Address(), nil))
	<-freed
	address, at, _ = writtenBy(t, b, "three", only, 0)
	bs = entries(t, b.create(t, "three", only))
	_, now, err := a.taken(t, address, at, bs)
	if !errors.Is(err, orbit.ErrQuotaFull) || now <= bytes || now > each {
		t.Errorf("%d bytes, %d before: %v", now, bytes, err)
	}
	if three.Usage().Group != "" {
		t.Error("it is in a group")
	}
}

// Neither own writes nor a database that only the own identity may write have a
// quota. A database that was created here and that anybody may write has one.
func TestOwnWritesHaveNoQuota(t *testing.T) {
	a, b := newA(t), newB(t)
	a.open(t, orbit.Config{Quotas: orbit.Quotas{Database: 5000}})
	opts := orbit.Options{Access: anyone}
	address, at, bs := writtenBy(t, b, "guests", opts, 20_000)
	made := a.create(t, "guests", opts)
	if made.Address() != address {
		t.Fatal("it is another database")
	}
	db, bytes, err := a.taken(t, address, at, bs)
	if !errors.Is(err, orbit.ErrPeerQuotaFull) && !errors.Is(err, orbit.ErrQuotaFull) || bytes > 5000 {
		t.Errorf("%d bytes, %v", bytes, err)
	}
	for range 10 {
		_, err := events(t, db).Add(t.Context(), strings.Repeat("x", 1000))
		must(t, err)
	}
	if u := db.Usage(); !u.Limited || u.Entries < 10_000 {
		t.Errorf("%+v", u)
	}
	joined := join(t, db, bs[len(bs)-1])
	if !errors.Is(joined[0].Err, orbit.ErrQuotaFull) || joined[0].Outcome != orbit.Refused {
		t.Errorf("%+v", joined)
	}
	named := a.create(t, "band", orbit.Options{Access: orbit.Access{Write: []string{a.Identity().ID, b.Identity().ID}}})
	if named.Usage().Limited {
		t.Error("a database made here for named writers has a quota")
	}
}

func TestImportIntoAFullDatabaseIsAnError(t *testing.T) {
	a, b := newA(t), newB(t)
	a.open(t, orbit.Config{Quotas: orbit.Quotas{Database: 5000}})
	db := b.create(t, "large", orbit.Options{})
	for range 20 {
		_, err := events(t, db).Add(t.Context(), strings.Repeat("x", 500))
		must(t, err)
	}
	var car bytes.Buffer
	_, err := db.Export(t.Context(), &car)
	must(t, err)
	_, _, err = a.Import(t.Context(), &car, nil)
	if !errors.Is(err, orbit.ErrQuotaFull) {
		t.Errorf("%v", err)
	}
	for d, err := range a.Databases(t.Context()) {
		must(t, err)
		if !slices.Contains([]string{db.Address()}, d.Address) {
			t.Errorf("%+v", d)
		}
	}
}

// The pending entries of all databases together are bounded, and each database
// may have some, whatever is pending in others.
func TestPendingEntriesOfAllDatabasesAreBounded(t *testing.T) {
	const waiting = 6 << 20
	a, b := newA(t), newB(t)
	a.open(t, orbit.Config{Quotas: orbit.Quotas{Pending: waiting}})
	for i := range 8 {
		db := b.create(t, fmt.Sprint("db", i), orbit.Options{})
		for range 9 {
			_, err := events(t, db).Add(t.Context(), strings.Repeat("x", 900_000))
			must(t, err)
		}
		address, at, bs := writtenBy(t, b, fmt.Sprint("db", i), orbit.Options{}, 1)
		slices.Reverse(bs)
		db, _, err := a.taken(t, address, at, bs[:len(bs)-1])
		must(t, err)
		if u := db.Usage(); u.Pending > waiting || u.Pending < 2<<20 {
			t.Errorf("database %d: %d bytes wait", i, u.Pending)
		}
	}
	if u := a.Usage(); u.Pending > 4*waiting+4*4<<20 || u.Pending < 3*waiting || u.Entries != 0 {
		t.Errorf("%d bytes wait", u.Pending)
	}
}

// What a database uses is counted once, whether or not it is open, and so are
// its group and that of its access database.
func TestUsageOfDatabasesThatWereLetGo(t *testing.T) {
	a, b := newA(t), newB(t)
	quotas := orbit.Config{Quotas: orbit.Quotas{Database: 1 << 20, Group: 1 << 20, All: 1 << 30}}
	a.open(t, quotas)
	letGo := func() {
		t.Helper()
		a.Forget()
		must(t, a.store.Put(t.Context(), "last", nil)) // the store holds the last transaction
		await(t, "databases stay open", func() bool { return a.Held() == 0 })
	}
	address, at, bs := writtenBy(t, b, "one", orbit.Options{}, 20_000)
	_, some, err := a.taken(t, address, at, bs[:5])
	must(t, err)
	for range 2 {
		letGo()
		if u := a.Usage(); u.Entries != some {
			t.Errorf("%+v, want %d bytes", u, some)
		}
		freed := a.Freed()
		db, err := a.Open(t.Context(), address, orbit.OpenOptions{})
		must(t, err)
		select {
		case <-freed:
			t.Error("opening frees space")
		default:
		}
		if u := db.Usage(); u.Entries != some || !u.Limited {
			t.Errorf("opened again: %+v, want %d bytes", u, some)
		}
	}
	letGo()
	_, all, err := a.taken(t, address, at, bs)
	must(t, err)
	if u := a.Usage(); u.Entries != all {
		t.Errorf("%+v, want %d bytes", u, all)
	}
	letGo()
	a.SetGroup(address, "companion")
	db, err := a.Open(t.Context(), address, orbit.OpenOptions{})
	must(t, err)
	if u := db.Usage(); u.Group != "companion" || u.Grouped != all {
		t.Errorf("in a group: %+v, want %d bytes", u, all)
	}
	managed := a.create(t, "managed", orbit.Options{Access: orbit.Access{Managed: true}})
	access := managed.Access().Address()
	managedAddress := managed.Address()
	managed, db = nil, nil
	letGo()
	a.SetGroup(managedAddress, "companion")
	inner, err := a.Open(t.Context(), access, orbit.OpenOptions{})
	must(t, err)
	if u := inner.Usage(); u.Group != "companion" {
		t.Errorf("the access database: %+v", u)
	}
	inner = nil
	letGo()
	freed := a.Freed()
	must(t, a.Drop(t.Context(), address, nil))
	<-freed
	if u := a.Usage(); u.Entries != 0 {
		t.Errorf("after the drop: %+v", u)
	}
}
