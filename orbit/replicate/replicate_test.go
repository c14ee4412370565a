package replicate_test

import (
	"testing"

	"github.com/newpieceplease/npp/orbit"
)

func TestDatabaseIsFetchedFromWhoHasIt(t *testing.T) {
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

func TestPeersThatNeverMeetConvergeThroughOne(t *testing.T) {
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
	b.open(address) // not here yet
	b.restart()
	b.connect(a)
	wantSame(t, address, 1, a, b)
	b.restart()
	a.add(address, "two")
	b.connect(a)
	wantSame(t, address, 2, a, b)
}
