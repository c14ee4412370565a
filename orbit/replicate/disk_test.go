package replicate_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/space/spacetest"
)

// stats returns the counts of a log.
func (n *node) stats(address string) oplog.Stats {
	n.t.Helper()
	s, err := oplog.Of(n.database(address)).Stats(n.t.Context())
	must(n.t, err)
	return s
}

// exchanged returns when heads were exchanged with a peer last.
func (n *node) exchanged(address string, with *node) (at time.Time) {
	n.t.Helper()
	s, err := n.Status(n.t.Context(), address)
	must(n.t, err)
	for _, p := range s.Peers {
		if p.ID == with.host.ID() {
			at = p.Exchanged
		}
	}
	return at
}

// ask makes the node exchange heads with another one now, and waits for the
// exchange.
func (n *node) ask(address string, with *node) {
	n.t.Helper()
	before := n.exchanged(address, with)
	n.open(address)
	eventually(n.t, "heads are exchanged", func() bool { return n.exchanged(address, with).After(before) })
}

// askLate makes the node exchange heads with another one until the next
// exchange is due late.
func (n *node) askLate(address string, with *node) {
	n.t.Helper()
	for late := false; !late; late = time.Until(n.NextExchange(address, with.host.ID())) > 2*patience {
		n.ask(address, with)
	}
}

// When there is space again, all entries arrive without a restart, a new entry
// or a peer that asks: the peer is mute and begins no exchange, and the next
// one is due later than any test waits.
func TestFullDiskAcceptsNothingAndRecovers(t *testing.T) {
	disk := spacetest.New()
	a := newNodeAs(t, func(n *node) { n.mid, n.mute, n.shy = true, true, true })
	b := newNodeAs(t, func(n *node) { n.space = disk.Disk })
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "before")
	b.open(address)
	b.connect(a)
	wantSame(t, address, 1, a, b)

	disk.Set(spacetest.Floor - 1)
	a.add(address, numbered("meanwhile %d", 50)...)
	b.askLate(address, a) // exchanges that began before the disk was full are over
	b.sessions.Store(0)
	b.ask(address, a)
	if s := b.stats(address); s.Entries != 1 || s.Pending != 0 {
		t.Errorf("a full disk took %d entries, and %d that wait", s.Entries-1, s.Pending)
	}
	if n := b.sessions.Load(); n > 0 {
		t.Errorf("entries were asked for over %d streams", n)
	}
	for _, hash := range a.hashes(address)[:50] {
		if n := b.fetches.count(hash); n > 0 {
			t.Errorf("%s was asked for %d times", hash, n)
		}
	}
	s, err := b.Status(t.Context(), address)
	must(t, err)
	if !errors.Is(s.Full, space.ErrFull) {
		t.Errorf("the status says nothing of the disk: %+v", s)
	}
	findings, err := b.Examine(t.Context(), address)
	must(t, err)
	if !slices.ContainsFunc(findings, func(f replicate.Finding) bool {
		return f.Check == replicate.CheckDisk && f.Level == replicate.Problem && f.Advice != "" &&
			strings.Contains(f.Text, "67108863 bytes are free") && strings.Contains(f.Text, "71303168 are needed")
	}) {
		t.Errorf("the doctor says nothing of the disk: %+v", findings)
	}

	disk.Set(2 * spacetest.Floor)
	wantSame(t, address, 51, a, b)
}

// An announced entry that was rejected arrives later, although no peer asks.
func TestAnnouncedEntriesArriveOnceTheDiskHasSpace(t *testing.T) {
	disk, brought := spacetest.New(), make(chan heard, 10)
	a := newNodeAs(t, func(n *node) { n.mid, n.shy = true, true })
	b := newNodeAs(t, func(n *node) { n.space, n.heard = disk.Disk, brought })
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "before")
	b.open(address)
	b.connect(a)
	wantSame(t, address, 1, a, b)
	a.add(address, "with free space")
	wantSame(t, address, 2, a, b)
	b.askLate(address, a)
	disk.Set(spacetest.Floor - 1)
	a.add(address, "meanwhile")
	h := <-brought
	for h.hash != a.hashes(address)[0] {
		h = <-brought
	}
	if h.forwarded {
		t.Error("it is passed on")
	}
	if s := b.stats(address); s.Entries != 2 {
		t.Errorf("%d entries", s.Entries)
	}
	disk.Set(2 * spacetest.Floor)
	wantSame(t, address, 3, a, b)
}

func TestFullDiskServesStoredAndLocalEntries(t *testing.T) {
	disk := spacetest.New()
	a := newNodeAs(t, func(n *node) { n.space = disk.Disk })
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, numbered("before %d", 20)...)
	disk.Set(spacetest.Floor - 1)
	b := newNode(t)
	b.open(address)
	b.connect(a)
	wantSame(t, address, 20, a, b)
	a.add(address, "own")
	wantSame(t, address, 21, a, b)

	disk.Set(spacetest.Reserve - 1)
	ev, err := a.database(address).Events()
	must(t, err)
	if _, err := ev.Add(t.Context(), "refused"); !errors.Is(err, space.ErrFull) {
		t.Errorf("an own entry on a full disk: %v", err)
	}
	c := newNode(t)
	c.open(address)
	c.connect(a)
	wantSame(t, address, 21, a, b, c)
}

func TestDatabaseIsNotFetchedOnAFullDisk(t *testing.T) {
	disk := spacetest.New()
	disk.Set(spacetest.Floor - 1)
	a, b := newNode(t), newNodeAs(t, func(n *node) { n.space = disk.Disk })
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "one")
	b.open(address)
	b.connect(a)
	eventually(t, "b showed a its heads", func() bool { return !a.exchanged(address, b).IsZero() })
	if _, err := b.Find(t.Context(), address); !errors.Is(err, orbit.ErrUnknown) {
		t.Errorf("find: %v", err)
	}
	if s, err := b.Status(t.Context(), address); err != nil || s.State != replicate.Fetching || !errors.Is(s.Full, space.ErrFull) {
		t.Errorf("status: %+v, %v", s, err)
	}
	if n := b.fetches.count(strings.TrimPrefix(address, "/orbitdb/")); n > 0 {
		t.Errorf("its manifest was asked for %d times", n)
	}
	disk.Set(2 * spacetest.Floor)
	wantSame(t, address, 1, a, b)
}

// The disk has space for some entries. Then replication stops, whether entries
// are transferred or fetched, and goes on when there is more space.
func TestReplicationPausesWhileTheDiskIsFull(t *testing.T) {
	const all, free, onTheirWay = 1200, 300, 3 * 128
	for name, old := range map[string]bool{"transferred": false, "fetched": true} {
		t.Run(name, func(t *testing.T) {
			var limit atomic.Uint64
			limit.Store(free)
			var into atomic.Pointer[oplog.Log]
			disk := space.New(space.Config{FreeBytes: spacetest.Floor, Interval: time.Millisecond, Probe: func() (space.Usage, error) {
				l := into.Load()
				if l == nil {
					return space.Usage{Free: 2 * spacetest.Floor}, nil
				}
				s, err := l.Stats(t.Context())
				if err == nil && s.Entries+s.Pending >= limit.Load() {
					return space.Usage{Free: spacetest.Floor - 1}, nil
				}
				return space.Usage{Free: 2 * spacetest.Floor}, err
			}})
			a := newNodeAs(t, func(n *node) { n.old = old })
			b := newNodeAs(t, func(n *node) { n.space = disk })
			address := a.create("gigs", orbit.TypeEvents).Address()
			b.open(address)
			b.connect(a)
			into.Store(oplog.Of(b.database(address)))
			ev, err := a.database(address).Events()
			must(t, err)
			_, err = ev.AddMany(t.Context(), slices.Values(anyOf(numbered("event %d", all))))
			must(t, err)
			b.open(address) // it asks
			eventually(t, "replication pauses", func() bool {
				s, err := b.Status(t.Context(), address)
				must(t, err)
				return s.Full != nil && s.Transfer == nil && s.Asking == 0
			})
			for range 3 {
				b.ask(address, a)
			}
			if s := b.stats(address); s.Entries+s.Pending > free+onTheirWay {
				t.Errorf("%d entries and %d pending ones, with space for %d", s.Entries, s.Pending, free)
			}
			limit.Store(all + 1)
			eventually(t, "the rest arrives", func() bool { return b.stats(address).Entries == all })
			wantSame(t, address, all, a, b)
		})
	}
}

func anyOf(texts []string) (list []any) {
	for _, s := range texts {
		list = append(list, s)
	}
	return list
}
