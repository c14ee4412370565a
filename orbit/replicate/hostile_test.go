package replicate_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/network"
	libp2ppeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/heads"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/orbit/value"
)

// stream opens a heads stream from a node to another.
func (n *node) stream(to *node, address string) network.Stream {
	n.t.Helper()
	s, err := n.host.NewStream(testContext(n.t), to.host.ID(), heads.Protocol(address))
	must(n.t, err)
	n.t.Cleanup(func() { s.Reset() })
	return s
}

// offered sends blocks as heads, and returns when the peer has read them.
func (n *node) offered(to *node, address string, bs ...block.Block) {
	n.t.Helper()
	_, err := heads.Exchange(testContext(n.t), n.host, to.host.ID(), address, heads.Side{Heads: bs, MaxSend: block.MaxSize})
	must(n.t, err)
}

// signer returns the keys of a node's identity.
func (n *node) signer() *identity.Signer {
	n.t.Helper()
	s, err := identity.Load(n.keys, "orbitdb-root", "orbitdb-signing")
	must(n.t, err)
	return s
}

// written returns an entry that is not in a log.
func written(t testing.TB, s *identity.Signer, address, text string, next []entry.Position, refs ...string) *entry.Entry {
	t.Helper()
	e, err := entry.New(s, address, payload(t, text), next, refs)
	must(t, err)
	return e
}

func payload(t testing.TB, text string) value.Value {
	t.Helper()
	v, err := value.FromJSON(fmt.Appendf(nil, `{"op":"ADD","key":null,"value":%q}`, text))
	must(t, err)
	return v
}

// absent returns the position of an entry that no peer has.
func absent(text string) entry.Position {
	return entry.Position{Rank: entry.Rank{Time: 1}, ID: strings.Repeat("02", 33), Hash: block.Hash([]byte(text))}
}

// refused returns the errors of refused entries by CID.
func (n *node) refused(address string) map[string]error {
	n.t.Helper()
	s, err := n.Status(n.t.Context(), address)
	must(n.t, err)
	all := make(map[string]error)
	for _, r := range s.Refused {
		all[r.Hash] = r.Err
	}
	return all
}

func TestHostilePeerDoesNotPreventReplication(t *testing.T) {
	for name, attack := range map[string]func(t *testing.T, evil, victim *node, address string){
		"garbage": func(t *testing.T, evil, victim *node, address string) {
			for _, junk := range []string{"\xff\xff\xff", "\x00", "\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", strings.Repeat("\x81", 1<<19), strings.Repeat("\x00", 1<<16)} {
				s := evil.stream(victim, address)
				s.Write([]byte(junk))
				s.CloseWrite()
				must(t, evil.router.Announce(t.Context(), address, []byte(junk)))
			}
		},
		"stream held open": func(t *testing.T, evil, victim *node, address string) {
			for range 100 {
				evil.stream(victim, address).Write([]byte{0x83})
			}
		},
		"endless stream": func(t *testing.T, evil, victim *node, address string) {
			s := evil.stream(victim, address)
			go func() {
				for b := make([]byte, 1<<16); ; {
					if _, err := s.Write(b); err != nil {
						return
					}
				}
			}()
		},
		"head without parents": func(t *testing.T, evil, victim *node, address string) {
			for i := range 20 {
				e := written(t, evil.signer(), address, "orphan", []entry.Position{absent(fmt.Sprint(i))}, absent("x").Hash)
				evil.offered(victim, address, e.Block)
			}
		},
		"writer without identity": func(t *testing.T, evil, victim *node, address string) {
			stranger := newNode(t)
			for i := range 20 {
				e := written(t, stranger.signer(), address, fmt.Sprint(i), nil)
				evil.offered(victim, address, e.Block)
			}
		},
		"entry of another database": func(t *testing.T, evil, victim *node, address string) {
			e := written(t, evil.signer(), strings.Replace(address, "zdpu", "zdpv", 1), "other", nil)
			evil.offered(victim, address, e.Block)
			eventually(t, "it is refused", func() bool { return victim.refused(address)[e.Hash()] != nil })
		},
		"forged entries": func(t *testing.T, evil, victim *node, address string) {
			for i := range 300 {
				b := written(t, evil.signer(), address, fmt.Sprint(i), nil).Block
				forged := block.New([]byte(strings.Replace(string(b.Data), "ADD", "ADE", 1)))
				must(t, evil.router.Announce(t.Context(), address, forged.Data))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			victim, evil, friend := newNode(t), newNode(t), newNode(t)
			address := victim.create("gigs", orbit.TypeEvents).Address()
			evil.connect(victim)
			attack(t, evil, victim, address)
			begun := time.Now()
			friend.open(address)
			friend.connect(victim)
			friend.database(address)
			friend.add(address, numbered("friend %d", 20)...)
			victim.add(address, numbered("victim %d", 20)...)
			wantSame(t, address, 40, victim, friend)
			t.Logf("converged after %v", time.Since(begun))
		})
	}
}

func TestHugeClockDoesNotPreventReplication(t *testing.T) {
	a, b, evil := newNode(t), newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	b.open(address)
	b.connect(a)
	b.database(address)
	evil.connect(a)
	e := written(t, evil.signer(), address, "from the future", []entry.Position{{Rank: entry.Rank{Time: 1<<53 - 2}, ID: strings.Repeat("02", 33), Hash: block.Hash(nil)}})
	data := []byte(strings.Replace(string(e.Block.Data), block.Hash(nil), block.Hash(nil), 1))
	must(t, evil.PutBlocks(t.Context(), evil.signer().Block()))
	evil.offered(a, address, block.New(data))
	a.add(address, "a1", "a2")
	b.add(address, "b1", "b2")
	wantSame(t, address, 4, a, b)
}

func TestOnlyWritersChangeADatabase(t *testing.T) {
	a, evil := newNode(t), newNode(t)
	db, err := a.Create(t.Context(), "mine", orbit.Options{Type: orbit.TypeEvents})
	must(t, err)
	evil.connect(a)
	e := written(t, evil.signer(), db.Address(), "not mine", nil)
	evil.offered(a, db.Address(), e.Block)
	eventually(t, "it is refused", func() bool { return a.refused(db.Address())[e.Hash()] != nil })
	if got := a.hashes(db.Address()); len(got) != 0 {
		t.Errorf("the log has %v", got)
	}
	// An entry that names the identity of the owner is refused as well: the
	// signature is not the owner's.
	stolen := block.New([]byte(strings.Replace(string(e.Block.Data), evil.Identity().Hash(), a.Identity().Hash(), 1)))
	evil.offered(a, db.Address(), stolen)
	eventually(t, "it is refused", func() bool { return a.refused(db.Address())[stolen.Hash] != nil })
}

func TestMissingBlockIsFetchedOnceAPeerHasIt(t *testing.T) {
	a, b, c := newNode(t), newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, numbered("a%d", 5)...)
	head, err := oplog.Of(a.database(address)).Get(t.Context(), a.hashes(address)[0])
	must(t, err)
	c.create("gigs", orbit.TypeEvents)
	b.connect(c)
	must(t, b.PutBlocks(t.Context(), a.Identity().Block()))
	b.offered(c, address, head.Block)
	eventually(t, "the head is pending", func() bool {
		s, err := oplog.Of(c.database(address)).Stats(t.Context())
		must(t, err)
		return s.Pending == 1
	})
	b.host.Close() // it had sent the head
	c.connect(a)
	wantSame(t, address, 5, a, c)
}

func TestStatusNamesMissingBlocksAndAskedPeers(t *testing.T) {
	t.Parallel()
	a, b, address := newPair(t)
	lost := absent("lost")
	e := written(t, b.signer(), address, "orphan", []entry.Position{lost})
	b.offered(a, address, e.Block)
	eventually(t, "it is missing", func() bool {
		s, err := a.Status(t.Context(), address)
		must(t, err)
		i := slices.IndexFunc(s.Missing, func(m replicate.Missing) bool { return m.Hash == lost.Hash })
		return i >= 0 && s.Missing[i].Tries > 0 && slices.Equal(s.Missing[i].Asked, []libp2ppeer.ID{b.host.ID()})
	})
	if ours, err := oplog.Of(a.database(address)).Heads(t.Context()); err != nil || len(ours) != 0 {
		t.Errorf("heads are %v, %v: one has no parents here", ours, err)
	}
}

func TestUnknownDatabaseIsNotServed(t *testing.T) {
	a, b := newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.connect(b)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := heads.Exchange(ctx, a.host, b.host.ID(), address, heads.Side{}); err == nil || !strings.Contains(err.Error(), heads.ErrUnsupported.Error()) {
		t.Errorf("%v", err)
	}
	if _, err := a.host.NewStream(ctx, b.host.ID(), protocol.ID("/orbitdb/heads/nonsense")); err == nil {
		t.Error("the protocol of an invalid address is spoken")
	}
}

func TestMissingParentsDoNotDelayOtherEntries(t *testing.T) {
	t.Parallel()
	a, b, friend := newNode(t), newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	b.open(address)
	b.connect(a)
	b.database(address)
	var next []entry.Position
	var refs []string
	for i := range 100 {
		next = append(next, absent(fmt.Sprint("next", i)))
		refs = append(refs, absent(fmt.Sprint("ref", i)).Hash)
	}
	for i := range 20 {
		b.offered(a, address, written(t, b.signer(), address, fmt.Sprint(i), next, refs...).Block)
	}
	friend.open(address)
	friend.create("gigs", orbit.TypeEvents)
	friend.add(address, numbered("friend %d", 30)...)
	friend.connect(a)
	eventually(t, "all of the friend's are here", func() bool { return a.count(address) == 30 })
}

func TestUselessBlocksAreFetchedOnce(t *testing.T) {
	a, b, address := newPair(t)
	junk := block.New([]byte{0x63, 'a', 'b', 'c'})
	must(t, b.PutBlocks(t.Context(), junk))
	e := written(t, b.signer(), address, "with a useless parent", []entry.Position{{Rank: entry.Rank{Time: 1}, ID: strings.Repeat("02", 33), Hash: junk.Hash}})
	b.offered(a, address, e.Block)
	eventually(t, "it is known to be useless", func() bool {
		s, err := a.Status(t.Context(), address)
		must(t, err)
		return slices.ContainsFunc(s.Missing, func(m replicate.Missing) bool { return m.Hash == junk.Hash && m.Err != nil })
	})
	for i := range 3 { // in each round it is still missing
		b.add(address, fmt.Sprint("b", i))
		eventually(t, "it arrives", func() bool { return a.count(address) == i+1 })
		b.offered(a, address, written(t, b.signer(), address, fmt.Sprint("orphan", i), []entry.Position{absent(fmt.Sprint(i))}).Block)
		eventually(t, "a round has begun", func() bool { return a.fetches.count(absent(fmt.Sprint(i)).Hash) > 0 })
	}
	if n := a.fetches.count(junk.Hash); n != 1 {
		t.Errorf("it was asked for %d times", n)
	}
}

func TestMissingIdentitiesDoNotDelayOtherEntries(t *testing.T) {
	a, friend, evil := newNode(t), newNode(t), newNode(t)
	mine, err := a.Create(t.Context(), "mine", orbit.Options{Type: orbit.TypeEvents})
	must(t, err)
	address := a.create("gigs", orbit.TypeEvents).Address()
	evil.connect(a)
	for range 4 {
		var junk []block.Block
		for i := range 50 {
			e := written(t, evil.signer(), mine.Address(), fmt.Sprint(i), nil)
			bogus := block.Hash(fmt.Append(nil, time.Now(), i))
			junk = append(junk, block.New([]byte(strings.Replace(string(e.Block.Data), evil.Identity().Hash(), bogus, 1))))
		}
		evil.offered(a, mine.Address(), junk...)
	}
	begun := time.Now()
	friend.open(address)
	friend.connect(a)
	friend.database(address)
	friend.add(address, numbered("friend %d", 5)...)
	wantSame(t, address, 5, a, friend)
	if took := time.Since(begun); took > replicate.IdentityWithin {
		t.Errorf("it took %v", took)
	}
}

func TestManyStreamsOfAPeerDoNotDelayOthers(t *testing.T) {
	a, friend, evil := newNode(t), newNode(t), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "one")
	evil.connect(a)
	for i := range 8 {
		other := a.create(fmt.Sprint("other", i), orbit.TypeEvents).Address()
		for range 60 {
			if s, err := evil.host.NewStream(testContext(t), a.host.ID(), heads.Protocol(other)); err == nil {
				s.Write([]byte{0x83})
			}
		}
	}
	friend.create("gigs", orbit.TypeEvents)
	friend.connect(a)
	wantSame(t, address, 1, a, friend)
	theirs, err := heads.Exchange(testContext(t), friend.host, a.host.ID(), address, heads.Side{})
	if err != nil || len(theirs) != 1 {
		t.Errorf("%d heads, %v", len(theirs), err)
	}
}

// A peer that is not subscribed cannot cause announcements, however often it
// exchanges heads.
func TestLargeHeadsArePublishedOnlyForSubscribers(t *testing.T) {
	a, evil := newNode(t), newEarlierNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, strings.Repeat("x", 100_000))
	listener, err := evil.router.Subscribe(address, nil)
	must(t, err)
	listener.Cancel()
	watcher := newEarlierNode(t)
	heard := make(chan struct{}, 64)
	stop, err := watcher.router.Follow(address, func(context.Context, *pubsub.Message) bool {
		heard <- struct{}{}
		return false
	})
	must(t, err)
	defer stop()
	watcher.connect(a)
	eventually(t, "the watcher is subscribed", func() bool { return slices.Contains(a.router.ListPeers(address), watcher.host.ID()) })
	evil.connect(a)
	for range 20 {
		_, err := heads.Exchange(testContext(t), evil.host, a.host.ID(), address, heads.Side{})
		must(t, err)
	}
	a.add(address, "a small one")
	eventually(t, "it is announced", func() bool { return len(heard) > 0 })
	if n := len(heard); n > 3 {
		t.Errorf("%d messages", n)
	}
}

func TestEntryThatWasSeenOnAnotherTopicIsAccepted(t *testing.T) {
	a, b, evil := newNode(t), newNode(t), newEarlierNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	other := a.create("other", orbit.TypeEvents).Address()
	for _, topic := range []string{address, other} {
		s, err := evil.router.Subscribe(topic, nil)
		must(t, err)
		defer s.Cancel()
	}
	b.open(address)
	b.connect(a)
	b.database(address)
	evil.connect(a)
	e := written(t, b.signer(), address, "from b", nil)
	must(t, b.PutBlocks(t.Context(), b.signer().Block()))
	eventually(t, "a is known", func() bool { return len(evil.router.ListPeers(other)) > 0 && len(evil.router.ListPeers(address)) > 0 })
	must(t, evil.router.Announce(t.Context(), other, e.Block.Data))
	eventually(t, "it is refused there", func() bool { return a.refused(other)[e.Hash()] != nil })
	must(t, evil.router.Announce(t.Context(), address, e.Block.Data))
	eventually(t, "it is accepted", func() bool { return a.count(address) == 1 })
}
