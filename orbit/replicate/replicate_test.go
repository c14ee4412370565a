package replicate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

func TestDatabaseIsFetched(t *testing.T) {
	a, b := newNode(t), newNode(t)
	db := a.create("gigs", orbit.TypeEvents)
	a.add(db.Address(), numbered("a%d", 300)...)
	b.open(db.Address())
	b.connect(a)
	wantSame(t, db.Address(), 300, a, b)
}

func TestUpdatesArriveLiveBothWays(t *testing.T) {
	a, b := newNode(t), newNode(t)
	db := a.create("gigs", orbit.TypeEvents)
	b.open(db.Address())
	b.connect(a)
	b.database(db.Address())
	for i := range 5 {
		a.add(db.Address(), numbered("a%d", 10)...)
		wantSame(t, db.Address(), 20*i+10, a, b)
		b.add(db.Address(), numbered("b%d", 10)...)
		wantSame(t, db.Address(), 20*i+20, a, b)
	}
}

func TestPeersConvergeThroughAnotherOne(t *testing.T) {
	hub, a, b := newNode(t), newNode(t), newNode(t)
	db := a.create("gigs", orbit.TypeEvents)
	address := db.Address()
	a.add(address, "from a")
	hub.open(address)
	b.open(address)
	a.connect(hub)
	wantSame(t, address, 1, a, hub)
	a.disconnect(hub)
	b.connect(hub)
	wantSame(t, address, 1, b, hub)
	b.add(address, "from b")
	wantSame(t, address, 2, b, hub)
	a.add(address, "from a, alone")
	a.connect(hub)
	wantSame(t, address, 3, a, b, hub)
}

func TestPartitionHeals(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	b.open(address)
	b.connect(a)
	a.add(address, "before")
	wantSame(t, address, 1, a, b)
	b.disconnect(a)
	a.add(address, numbered("a%d", 50)...)
	b.add(address, numbered("b%d", 50)...)
	b.connect(a)
	wantSame(t, address, 101, a, b)
}

func TestOpenDatabasesStayOpenOverARestart(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "one")
	b.open(address) // it is not here yet
	b.restart()
	b.connect(a)
	wantSame(t, address, 1, a, b)
	b.restart()
	a.add(address, "two")
	b.connect(a)
	wantSame(t, address, 2, a, b)
}

func TestHeadsOfAnySizeAreExchanged(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, strings.Repeat("x", 100_000))
	head := a.hashes(address)[0]
	begun := time.Now()
	b.open(address)
	b.connect(a)
	wantSame(t, address, 1, a, b)
	eventually(t, "they know that they are in sync", func() bool {
		s, err := b.Status(t.Context(), address)
		must(t, err)
		return s.Settled(begun) && b.hashes(address)[0] == head
	})
}

func TestDroppedDatabaseIsReplicatedAgain(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "one", "two")
	b.open(address)
	b.connect(a)
	wantSame(t, address, 2, a, b)
	must(t, b.CloseDatabase(t.Context(), address))
	b.open(address)
	wantSame(t, address, 2, a, b)
	a.add(address, "three")
	wantSame(t, address, 3, a, b)
	b.add(address, "four")
	wantSame(t, address, 4, a, b)
	// The same if the Orbit dropped it.
	must(t, b.Orbit.Drop(t.Context(), address, nil))
	b.create("gigs", orbit.TypeEvents)
	wantSame(t, address, 4, a, b)
	b.add(address, "five")
	wantSame(t, address, 5, a, b)
}

func TestLostConnectionLosesNoEntry(t *testing.T) {
	a, b, address := newPair(t)
	for i := range 10 {
		b.disconnect(a)
		a.add(address, "while it is away")
		b.connect(a)
		wantSame(t, address, i+1, a, b)
	}
}

func TestClosedDatabaseStaysClosedOverARestart(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "one")
	b.open(address)
	b.connect(a)
	wantSame(t, address, 1, a, b)
	must(t, b.CloseDatabase(t.Context(), address))
	b.restart()
	b.connect(a)
	other := a.create("other", orbit.TypeEvents).Address()
	a.add(address, "two")
	a.add(other, "three")
	b.open(other)
	wantSame(t, other, 1, a, b)
	if s, err := b.Status(t.Context(), address); err != nil || s.State != replicate.Closed || b.count(address) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	b.open(address)
	wantSame(t, address, 2, a, b)
}

func TestEntriesThatPubsubLosesArrive(t *testing.T) {
	t.Parallel()
	a, b, address := newPair(t)
	a.mute = true
	a.restart()
	begun := time.Now()
	a.connect(b) // b may not have noticed the end of the connection yet
	a.database(address)
	eventually(t, "they are in sync", func() bool {
		s, err := b.Status(t.Context(), address)
		must(t, err)
		return s.Settled(begun)
	})
	a.add(address, "nobody hears of it")
	wantSame(t, address, 1, a, b)
}

// An entry that is written as soon as the database is open is announced like
// any other.
func TestFirstEntryIsAnnounced(t *testing.T) {
	a := newNode(t)
	for i := range 10 {
		address := a.create(fmt.Sprint("gigs ", i), orbit.TypeEvents).Address()
		b := newNode(t)
		b.open(address)
		b.connect(a)
		b.database(address)
		begun := time.Now()
		b.add(address, "at once")
		wantSame(t, address, 1, a, b)
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		b.close()
	}
}

// A database that was closed and is opened again over the same connection is
// in sync since then.
func TestDatabaseThatIsOpenedAgainSettles(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	b.connect(a)
	for range 3 {
		began := time.Now()
		b.open(address)
		for s, err := range b.Follow(testContext(t), address) {
			must(t, err)
			if s.Settled(began) {
				break
			}
		}
		must(t, b.CloseDatabase(t.Context(), address))
	}
}
