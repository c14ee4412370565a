package replicate_test

import (
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// createManaged makes a database whose writers the node grants and revokes.
func (n *node) createManaged(name string) *orbit.Database {
	n.t.Helper()
	db, err := n.Create(n.t.Context(), name, orbit.Options{Type: orbit.TypeEvents, Access: orbit.Access{Managed: true}})
	must(n.t, err)
	return db
}

// newUngranted returns a node a with a managed database, a node b that was
// granted to write to it and did, and a node hub that has the database and
// knows neither.
func newUngranted(t *testing.T) (a, b, hub *node, address string) {
	t.Helper()
	a, b, hub = newNode(t), newNode(t), newNode(t)
	db := a.createManaged("band")
	address = db.Address()
	hub.open(address)
	b.open(address)
	b.connect(a)
	b.database(address)
	hub.connect(a)
	hub.database(address)
	a.disconnect(hub)
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	eventually(t, "b may write", func() bool { return b.mayWrite(address) })
	b.add(address, "from b")
	return a, b, hub, address
}

// mayWrite reports whether a node may write to a database now.
func (n *node) mayWrite(address string) bool {
	n.t.Helper()
	ok, err := n.database(address).Writable(n.t.Context())
	must(n.t, err)
	return ok
}

func TestGrantsAndRevocationsReplicate(t *testing.T) {
	a, b := newNode(t), newNode(t)
	db := a.createManaged("band")
	address := db.Address()
	b.open(address)
	b.connect(a)
	if b.mayWrite(address) {
		t.Fatal("b may write before it was granted")
	}
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	eventually(t, "b may write", func() bool { return b.mayWrite(address) })
	b.add(address, "from b")
	wantSame(t, address, 1, a, b)
	must(t, db.Access().Revoke(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	eventually(t, "b may not write any more", func() bool { return !b.mayWrite(address) })
	a.add(address, "from a")
	wantSame(t, address, 2, a, b)
}

// The entries of a granted writer do not refer to the grant: a peer that
// receives them before the grant must accept them all the same.
func TestEntriesOfGrantedWritersAreAcceptedInAnyOrder(t *testing.T) {
	a, b, late := newNode(t), newNode(t), newNode(t)
	db := a.createManaged("band")
	address := db.Address()
	must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	b.open(address)
	b.connect(a)
	eventually(t, "b may write", func() bool { return b.mayWrite(address) })
	for i := range 10 {
		b.add(address, numbered("from b %d", 3)...)
		wantSame(t, address, 6*i+3, a, b)
		a.add(address, numbered("from a %d", 3)...)
		wantSame(t, address, 6*i+6, a, b)
	}
	late.open(address)
	late.connect(a)
	wantSame(t, address, 60, a, b, late)
	s, err := oplog.Of(late.database(address)).Stats(t.Context())
	must(t, err)
	if s.Unauthorized != 0 {
		t.Errorf("%d entries have no effect", s.Unauthorized)
	}
}

func TestLateGrantAuthorizesRefusedHeads(t *testing.T) {
	a, b, hub, address := newUngranted(t)
	head, err := oplog.Of(b.database(address)).Get(t.Context(), b.hashes(address)[0])
	must(t, err)
	evil := newNode(t)
	evil.connect(hub)
	must(t, evil.PutBlocks(t.Context(), b.Identity().Block()))
	evil.offered(hub, address, head.Block)
	eventually(t, "it is refused", func() bool { return hub.refused(address)[head.Hash()] != nil })
	hub.connect(a)
	wantSame(t, address, 1, a, b, hub)
}

// A peer that withholds a grant and shows the entries of the granted writer
// must not make these entries unauthorized for ever.
func TestWithheldGrantLeavesNoEntryUnauthorized(t *testing.T) {
	a, b, hub, address := newUngranted(t)
	evil := newNode(t)
	wantSame(t, address, 1, a, b)
	a.add(address, "from a, a descendant")
	wantSame(t, address, 2, a, b)
	blocks := make(map[string]block.Block)
	for _, hash := range a.hashes(address) {
		e, err := oplog.Of(a.database(address)).Get(t.Context(), hash)
		must(t, err)
		blocks[hash] = e.Block
		must(t, evil.PutBlocks(t.Context(), e.Block))
	}
	must(t, evil.PutBlocks(t.Context(), a.signer().Block(), b.signer().Block()))
	evil.connect(hub)
	evil.offered(hub, address, blocks[a.hashes(address)[0]])
	parent := a.hashes(address)[1]
	eventually(t, "the parent was fetched, and has no effect", func() bool {
		fault, err := oplog.Of(hub.database(address)).Unauthorized(t.Context(), parent)
		return err == nil && fault != ""
	})
	hub.connect(a)
	wantSame(t, address, 2, a, b, hub)
	s, err := oplog.Of(hub.database(address)).Stats(t.Context())
	must(t, err)
	if s.Unauthorized != 0 {
		t.Errorf("%d entries have no effect", s.Unauthorized)
	}
}

// Two databases may share an access database.
func TestAccessDatabaseIsReplicatedWithEachOfItsDatabases(t *testing.T) {
	a, b := newNode(t), newNode(t)
	x := a.createManaged("band")
	y, err := a.Create(t.Context(), "band", orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Managed: true}})
	must(t, err)
	if x.Access().Address() != y.Access().Address() {
		t.Fatal("they have two access databases")
	}
	b.open(x.Address())
	b.connect(a)
	b.database(x.Address())
	must(t, b.CloseDatabase(t.Context(), x.Address()))
	b.open(y.Address())
	b.database(y.Address())
	must(t, y.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	eventually(t, "b may write", func() bool { return b.mayWrite(y.Address()) })
}

// Two admins grant concurrently, while they are not connected. In the end both
// grants are there, although one of the two changes was overwritten.
func TestConcurrentGrantsOfTwoAdminsAreBothKept(t *testing.T) {
	a, b := newNode(t), newNode(t)
	must(t, a.PutBlocks(t.Context(), b.signer().Block()))
	must(t, b.PutBlocks(t.Context(), a.signer().Block()))
	admins := []string{a.Identity().ID, b.Identity().ID}
	var dbs []*orbit.Database
	for _, n := range []*node{a, b} {
		db, err := n.Create(t.Context(), "band", orbit.Options{Access: orbit.Access{Write: admins, Managed: true}})
		must(t, err)
		must(t, db.Access().Grant(t.Context(), orbit.CapabilityWrite, "granted by "+n.Identity().ID))
		dbs = append(dbs, db)
	}
	a.connect(b)
	for _, db := range dbs {
		eventually(t, "both grants are there", func() bool {
			capabilities, err := db.Access().Capabilities(t.Context())
			return err == nil && len(capabilities[orbit.CapabilityWrite]) == 2
		})
	}
	eventually(t, "they are in sync", func() bool {
		s, err := a.Status(t.Context(), dbs[0].Address())
		return err == nil && len(s.Peers) == 1 && s.Peers[0].By == replicate.ByState && !s.Peers[0].InSync.IsZero()
	})
}
