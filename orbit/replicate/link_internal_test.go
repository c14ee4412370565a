package replicate

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/test/loopback"
)

// linkOf waits for a link with a peer that is another one than a given one.
func (r *rig) linkOf(p peer.ID, not *link) *link {
	r.t.Helper()
	within(r.t, "there is a link", func() bool { l := r.link(p); return l != nil && l != not })
	return r.link(p)
}

// lower returns two rigs, the one that begins links first.
func lower(a, b *rig) (begins, accepts *rig) {
	if a.host.ID() > b.host.ID() {
		return b, a
	}
	return a, b
}

// Two daemons have one link, which is begun again when it ends, and at once
// when they connect again.
func TestLinkIsBegunAgain(t *testing.T) {
	a, b := lower(newRig(t), newRig(t))
	loopback.Connect(t, b.host, a.host)
	k, _ := keyOf(a.create("gigs").Address())
	b.create("gigs")
	common := func() {
		t.Helper()
		within(t, "both know what both have", func() bool {
			_, here := a.links.common(b.host.ID(), k)
			_, there := b.links.common(a.host.ID(), k)
			return here && there
		})
	}
	common()
	for range 2 {
		first := a.linkOf(b.host.ID(), nil)
		b.linkOf(a.host.ID(), nil).cancel()
		<-first.done
		a.linkOf(b.host.ID(), first)
		common()
	}
	for range 5 {
		before := a.linkOf(b.host.ID(), nil)
		check(t, b.host.Network().ClosePeer(a.host.ID()))
		<-before.done
		loopback.Connect(t, b.host, a.host)
		a.linkOf(b.host.ID(), before)
		common()
	}
	check(t, b.host.Network().ClosePeer(a.host.ID()))
	within(t, "nothing of the link is left", func() bool {
		a.links.mu.Lock()
		defer a.links.mu.Unlock()
		return len(a.links.all) == 0 && len(a.links.beginning) == 0
	})
}

func TestLaterLinkReplacesTheEarlierOne(t *testing.T) {
	r := newRig(t)
	k, _ := keyOf(r.create("gigs").Address())
	d := newDaemon(t, r, k)
	first := d.linked(t, r, k)
	rp := r.started(addressOf(k))
	d.begin(t, r)
	<-first.done
	second := d.linked(t, r, k)
	if second == first || len(r.links.list()) != 1 {
		t.Errorf("%d links", len(r.links.list()))
	}
	within(t, "the peer has the database open", func() bool {
		s := rp.peers.snapshot()
		return len(s) == 1 && s[0].Open
	})
}

func TestPeerBeginsFewLinks(t *testing.T) {
	r := newRig(t)
	d := newDaemon(t, r)
	for range 2 * linkBurst {
		before := r.linkOf(d.host.ID(), nil)
		ended := d.begin(t, r)
		refused := false
		within(t, "the link is accepted or refused", func() bool {
			select {
			case <-ended:
				refused = true
			default:
			}
			return refused || r.link(d.host.ID()) != before
		})
		if refused {
			return
		}
	}
	t.Error("a peer begins links without a limit")
}

// A database that is closed is not common any more, and what a link does for it
// ends, at once.
func TestClosedDatabaseEndsOnLinks(t *testing.T) {
	r := newRig(t)
	k, _ := keyOf(r.create("gigs").Address())
	d := newDaemon(t, r, k)
	l := d.linked(t, r, k)
	_, ctx, release := l.acquire(k)
	defer release()
	check(t, r.CloseDatabase(t.Context(), addressOf(k)))
	<-ctx.Done()
	within(t, "the daemon hears of it", func() bool { return d.has(k) == inventory.State{} })
	if rp, _, _ := l.acquire(k); rp != nil {
		t.Error("a closed database is used")
	}
	check(t, r.Open(t.Context(), addressOf(k), orbit.OpenOptions{}))
	d.linked(t, r, k)
}

// Of many daemons, few are sent new entries. All of them hear the state. A
// daemon is not sent what it sent, nor anything if it has the state.
func TestNewEntriesAreSentToFew(t *testing.T) {
	r, writer := newRig(t), newRig(t)
	db, theirs := r.create("gigs"), writer.create("gigs")
	k, _ := keyOf(db.Address())
	var all []*daemon
	for range tellEntries + 3 {
		d := newDaemon(t, r, k)
		d.linked(t, r, k)
		all = append(all, d)
	}
	told := func() (entries int) {
		t.Helper()
		state := r.index.State(t.Context(), k)
		for i, d := range all {
			within(t, fmt.Sprintf("daemon %d hears the state", i), func() bool { return d.has(k) == state })
			entries += d.received()
		}
		return entries
	}
	r.add(db, "one")
	if n := told(); n != tellEntries {
		t.Errorf("an entry is sent to %d daemons", n)
	}
	writer.add(theirs, "two")
	var second block.Block
	for a, err := range oplog.Of(theirs).Stored(t.Context(), 0) {
		check(t, err)
		second = a.Entry.Block
		who, err := writer.orbit.Block(t.Context(), a.Entry.Identity)
		check(t, err)
		check(t, r.orbit.CacheIdentity(who))
	}
	sender := all[0]
	before := sender.received()
	sender.tell(k, inventory.State{2}, second)
	within(t, "the entry is here", func() bool {
		ok, err := oplog.Of(db).Has(t.Context(), second.Hash)
		return ok && err == nil
	})
	within(t, "others hear of it", func() bool { return told() >= 2*tellEntries-1 })
	if sender.received() != before {
		t.Error("an entry is sent back")
	}
	before = told()
	var many []any
	for i := range maxTold + 1 {
		many = append(many, fmt.Sprint("event ", i))
	}
	r.add(db, many...)
	if n := told(); n != before {
		t.Errorf("%d entries of a large change are sent", n-before)
	}
}

// A database that is only opened is not told.
func TestOpeningIsNotAChange(t *testing.T) {
	r := newRig(t)
	db := r.create("gigs")
	k, _ := keyOf(db.Address())
	d := newDaemon(t, r, k)
	d.linked(t, r, k)
	state := r.index.State(t.Context(), k)
	if (change{after: ^uint64(0), opened: true, before: state}).concernsNobody(state) != true ||
		(change{after: 1, before: state}).concernsNobody(state) || (change{after: ^uint64(0), opened: true}).concernsNobody(state) {
		t.Error("a change is confused with an opening")
	}
}

func TestChangesAreMerged(t *testing.T) {
	c := newChanges()
	a, b := keyNumbered(1), keyNumbered(2)
	first, second := new(orbit.Database), new(orbit.Database)
	c.add(a, change{db: first, after: 5})
	c.add(a, change{db: second, after: 3, opened: true, before: inventory.State{1}})
	c.add(a, change{db: second, after: 9, opened: true, before: inventory.State{2}})
	c.add(b, change{db: first, after: 1})
	<-c.due
	all := c.take()
	if want := (change{db: second, after: 3, opened: true, before: inventory.State{1}}); len(all) != 2 || all[a] != want {
		t.Errorf("%+v", all)
	}
	if len(c.take()) != 0 || len(c.due) > 0 {
		t.Error("changes are taken twice")
	}
	c.add(a, change{db: first, after: 7})
	if all := c.take(); len(c.due) != 1 || all[a].after != 7 || all[a].opened {
		t.Errorf("%+v", all)
	}
}

// Small entries count with what they take in memory, and all of it is given
// back.
func TestArrivedEntriesAreWithinTheBudget(t *testing.T) {
	r := newRig(t)
	k, _ := keyOf(r.create("gigs").Address())
	l := newLink(r.Replicator, "peer")
	l.joining = linkJoins // none joins
	var small []block.Block
	for i := range 100 {
		small = append(small, block.New([]byte{byte(i)}))
	}
	taken := 0
	for l.take(k, small) {
		taken += len(small)
	}
	if most := budgetOfOne / 100; taken > most {
		t.Errorf("%d entries wait, want %d at most", taken, most)
	}
	l.cancel()
	l.joinArrived()
	if !r.budget.TryAcquire("peer", budgetOfOne) {
		t.Error("the budget is not given back")
	}
}

// In sync is a daemon whose state was that of the database here.
func TestInSyncIsAnEqualState(t *testing.T) {
	r := newRig(t)
	db := r.create("gigs")
	k, _ := keyOf(db.Address())
	d := newDaemon(t, r, k)
	d.linked(t, r, k)
	inSync := func() bool {
		s, err := r.Status(t.Context(), db.Address())
		check(t, err)
		return len(s.Peers) == 1 && !s.Peers[0].InSync.IsZero()
	}
	if inSync() {
		t.Error("a daemon with another state is in sync")
	}
	d.tell(k, inventory.State{})
	r.CompareNow(db.Address())
	within(t, "the daemon answers", func() bool { theirs, ok := r.links.common(d.host.ID(), k); return ok && theirs == inventory.State{} })
	if inSync() {
		t.Error("a daemon that decides is in sync")
	}
	begun := time.Now()
	d.tell(k, r.index.State(t.Context(), k))
	within(t, "it is in sync", inSync)
	s, err := r.Status(t.Context(), db.Address())
	check(t, err)
	if !s.Settled(begun) || s.Settled(time.Now()) {
		t.Errorf("%+v", s)
	}
	r.add(db, "one")
	later := time.Now()
	r.CompareNow(db.Address())
	within(t, "the daemon answers", func() bool { l := r.link(d.host.ID()); return l.heardAt(k).After(later) })
	if s, err = r.Status(t.Context(), db.Address()); err != nil || s.Settled(later) {
		t.Errorf("with another state: %+v, %v", s, err)
	}
}
