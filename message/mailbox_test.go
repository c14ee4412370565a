package message

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Unix(1e9, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func (c *clock) add(d time.Duration) { c.set(c.now().Add(d)) }

func newBox(ds datastore.Batching, l Limits, now func() time.Time) *mailbox {
	return newMailbox(store.New(ds, "/messages"), l, now)
}

func direct(from peer.ID, id string, data string) *Message {
	return &Message{ID: id, From: from, Data: []byte(data), Seqno: []byte(id), Topics: []string{"me"}, Via: Direct}
}

func broadcast(from peer.ID, seqno uint64, data string) *Message {
	b := binary.BigEndian.AppendUint64(nil, seqno)
	return &Message{ID: pubsubID(from, b), From: from, Data: []byte(data), Seqno: b, Topics: []string{"topic"}, Via: Pubsub}
}

// model is a simple model of a mailbox.
type model struct {
	limits   Limits
	messages []*Message
	gone     map[string]*Message // by ID
	next     uint64
	received time.Time
}

func (m *model) size(msg *Message) uint64 {
	b, err := encodeRecord(msg)
	if err != nil {
		panic(err)
	}
	return uint64(len(b)) + recordOverhead
}

func (m *model) used(via Via, from peer.ID) (bytes uint64) {
	for _, msg := range m.messages {
		if msg.Via == via && (from == "" || msg.From == from) {
			bytes += m.size(msg)
		}
	}
	return bytes
}

func (m *model) remove(i int, now time.Time) {
	msg := m.messages[i]
	m.messages = slices.Delete(slices.Clone(m.messages), i, i+1)
	if msg.Via == Pubsub && now.Sub(msg.Received) < ReplayWindow {
		m.gone[msg.ID] = msg
	}
}

// evict removes the oldest messages of the author, or of all, until the new one
// fits.
func (m *model) evict(via Via, from peer.ID, size, share uint64, now time.Time) {
	for m.used(via, from)+size > share {
		m.remove(slices.IndexFunc(m.messages, func(msg *Message) bool {
			return msg.Via == via && (from == "" || msg.From == from)
		}), now)
	}
}

func (m *model) add(msg *Message, now time.Time) error {
	for _, old := range m.messages {
		if old.ID == msg.ID && old.From == msg.From && old.Via == msg.Via {
			if bytes.Equal(old.Data, msg.Data) {
				return nil
			}
			return ErrIDReused
		}
	}
	if _, ok := m.gone[msg.ID]; ok && msg.Via == Pubsub {
		return nil
	}
	c := *msg
	c.Received = now
	if c.Received.Before(m.received) {
		c.Received = m.received
	}
	size := m.size(&c)
	total, share := m.limits.StoreBytes, m.limits.PeerBytes
	if c.Via == Pubsub {
		total, share = m.limits.PubsubBytes, m.limits.PubsubBytes/4
	}
	before := m.messages
	switch {
	case size > share:
		return ErrFull
	case c.Via == Pubsub || m.limits.WhenPeerFull == DropOldest:
		m.evict(c.Via, c.From, size, share, now)
	case m.used(c.Via, c.From)+size > share:
		return ErrFull
	}
	if c.Via == Pubsub {
		m.evict(Pubsub, "", size, total, now)
	} else if m.used(Direct, "")+size > total {
		m.messages = before
		return ErrFull
	}
	m.messages = append(slices.Clone(m.messages), &c)
	m.received = c.Received
	c.Number = m.next
	m.next++
	return nil
}

func (m *model) sweep(now time.Time) {
	keep := time.Duration(m.limits.KeepFor)
	for len(m.messages) > 0 && keep > 0 && m.messages[0].Received.Before(now.Add(-keep)) {
		m.remove(0, now)
	}
	for id, msg := range m.gone {
		if msg.Received.Before(now.Add(-ReplayWindow)) {
			delete(m.gone, id)
		}
	}
	for m.surplus() > 0 {
		m.forget()
	}
}

// surplus returns how many IDs of removed messages exceed the bound.
func (m *model) surplus() int { return len(m.gone) - int(m.limits.PubsubBytes/recordOverhead) }

// forget deletes IDs of the authors whose counts have the most binary digits.
func (m *model) forget() {
	of := make(map[peer.ID][]*Message)
	highest := 0
	for _, msg := range slices.SortedFunc(maps.Values(m.gone), func(a, b *Message) int { return cmp.Compare(a.Number, b.Number) }) {
		of[msg.From] = append(of[msg.From], msg)
		highest = max(highest, bits.Len(uint(len(of[msg.From]))))
	}
	for _, author := range slices.SortedFunc(maps.Keys(of), func(a, b peer.ID) int { return cmp.Compare(b.String(), a.String()) }) {
		if bits.Len(uint(len(of[author]))) < highest {
			continue
		}
		for _, msg := range of[author][:max(1, 1<<highest/4)] {
			if m.surplus() > 0 {
				delete(m.gone, msg.ID)
			}
		}
	}
}

func TestMailboxIsItsModelOverReopeningsAndItsAccountsEndAtZero(t *testing.T) {
	seed := rand.Uint64()
	for _, full := range []WhenFull{Refuse, DropOldest} {
		t.Run(string(full), func(t *testing.T) {
			onBoth(t, func(t *testing.T, ds datastore.Batching) {
				t.Log("seed", seed)
				rng := rand.New(rand.NewPCG(seed, 0))
				limits := Limits{StoreBytes: 9000, PeerBytes: 4000, PubsubBytes: 8000, WhenPeerFull: full, KeepFor: Duration(30 * time.Hour)}
				c := newClock()
				b := newBox(ds, limits, c.now)
				m := &model{limits: limits, gone: map[string]*Message{}}
				ctx := t.Context()
				peers := []peer.ID{"a", "b", "c", "d", "e"}
				any := func() string { return string(bytes.Repeat([]byte{byte('0' + rng.IntN(3))}, rng.IntN(1500))) }
				for i := range 400 {
					c.add(time.Duration(rng.IntN(200)-40) * time.Minute)
					from := peers[rng.IntN(len(peers))]
					switch op := rng.IntN(20); {
					case op < 8:
						msg := direct(from, fmt.Sprint(rng.IntN(30)), any())
						want := m.add(msg, c.now())
						if err := b.add(ctx, msg); !errors.Is(err, want) || want == nil && err != nil {
							t.Fatalf("step %d: add: %v, want %v", i, err, want)
						}
					case op < 14:
						var batch []*Message
						wantRefused := 0
						for range 1 + rng.IntN(8) {
							msg := broadcast(peers[rng.IntN(len(peers))], rng.Uint64N(40), any())
							batch = append(batch, msg)
							if errors.Is(m.add(msg, c.now()), ErrFull) {
								wantRefused++
							}
						}
						if refused, err := b.addPubsub(ctx, batch); err != nil || refused != wantRefused {
							t.Fatalf("step %d: %d refused, want %d, %v", i, refused, wantRefused, err)
						}
					case op < 17 && len(m.messages) > 0:
						n := rng.IntN(len(m.messages))
						at := contents(t, b)[n].Number
						m.remove(n, c.now())
						if n, err := b.remove(ctx, []uint64{at, at, at + 1e6}, false); n != 1 || err != nil {
							t.Fatalf("step %d: remove: %d, %v", i, n, err)
						}
					case op < 19:
						m.sweep(c.now())
						must(t, b.sweep(ctx))
					default:
						must(t, b.store.Close())
						if disk, ok := ds.(*storetest.Disk); ok {
							ds = disk.PowerLoss(rng)
						}
						b = newBox(ds, limits, c.now)
					}
					compare(t, i, b, m)
				}
				var all []uint64
				for _, msg := range contents(t, b) {
					all = append(all, msg.Number)
				}
				_, err := b.remove(ctx, all, false)
				must(t, err)
				c.add(1000 * time.Hour)
				must(t, b.sweep(ctx))
				st, err := b.state(ctx)
				if err != nil || st.DirectBytes != 0 || st.PubsubBytes != 0 || st.Gone != 0 {
					t.Errorf("state of an empty mailbox: %v, %v", st, err)
				}
				for e, err := range b.store.Scan(ctx, "") {
					must(t, err)
					if e.Key != stateKey {
						t.Errorf("%s is left", e.Key)
					}
				}
			})
		})
	}
}

func compare(t *testing.T, step int, b *mailbox, m *model) {
	t.Helper()
	have := contents(t, b)
	same := slices.EqualFunc(have, m.messages, func(x, y *Message) bool {
		return x.ID == y.ID && x.From == y.From && x.Via == y.Via && bytes.Equal(x.Data, y.Data) && x.Received.Equal(y.Received)
	})
	if !same {
		t.Fatalf("step %d: %d messages, want %d, or others", step, len(have), len(m.messages))
	}
	checkBooks(t, b)
	if st, err := b.state(t.Context()); err != nil || st.Gone != uint64(len(m.gone)) {
		t.Fatalf("step %d: %d IDs are remembered, want %d, %v", step, st.Gone, len(m.gone), err)
	}
	if t.Failed() {
		t.Fatalf("at step %d", step)
	}
}

func TestMessagesThatArriveTogetherPushEachOtherOut(t *testing.T) {
	limits := DefaultLimits()
	limits.PubsubBytes = 1 << 20
	b := newBox(storetest.NewDisk(), limits, time.Now)
	var batch []*Message
	for i := range uint64(20) {
		batch = append(batch, broadcast("author", i, string(make([]byte, 100<<10))))
	}
	refused, err := b.addPubsub(t.Context(), batch)
	ms := contents(t, b)
	if refused != 0 || err != nil || len(ms) != 2 || ms[1].ID != batch[19].ID {
		t.Errorf("%d refused, %v, %d stored", refused, err, len(ms))
	}
	checkBooks(t, b)
}

func TestRememberedIDsAreBounded(t *testing.T) {
	limits := DefaultLimits()
	limits.PubsubBytes = 8 << 10 // a quota holds 7 short messages
	b := newBox(storetest.NewDisk(), limits, time.Now)
	most := b.maxGone() + 2*sweepBatch
	seqno := uint64(0)
	for range 20 {
		var batch []*Message
		for range pubsubBatch {
			seqno++
			batch = append(batch, broadcast("author", seqno, "x"))
		}
		_, err := b.addPubsub(t.Context(), batch)
		must(t, err)
		st, err := b.state(t.Context())
		must(t, err)
		if st.Gone > most {
			t.Fatalf("%d IDs are remembered, want at most %d", st.Gone, most)
		}
	}
	checkBooks(t, b)
	newest := binary.BigEndian.AppendUint64(nil, seqno-10)
	if b.unseen(t.Context(), "author", newest) {
		t.Error("a message that was just pushed out is forgotten")
	}
	if !b.unseen(t.Context(), "author", binary.BigEndian.AppendUint64(nil, 1)) {
		t.Error("the first is remembered: the test proves nothing")
	}
}

// reads counts the records that queries of a disk yield.
type reads struct {
	*storetest.Disk
	count int
}

func (r *reads) Query(ctx context.Context, q query.Query) (query.Results, error) {
	results, err := r.Disk.Query(ctx, q)
	return &countedResults{results, r}, err
}

type countedResults struct {
	query.Results
	of *reads
}

func (r *countedResults) NextSync() (query.Result, bool) {
	r.of.count++
	return r.Results.NextSync()
}

func TestMessageThatPushesAnotherOutCostsLittleHoweverManyDo(t *testing.T) {
	ds := &reads{Disk: storetest.NewDisk()}
	limits := DefaultLimits()
	limits.PubsubBytes = 1 << 20 // an author's quota holds 800 short messages
	b := newBox(ds, limits, time.Now)
	seqno := uint64(0)
	hear := func() {
		var batch []*Message
		for range pubsubBatch {
			seqno++
			batch = append(batch, broadcast("author", seqno, "x"))
		}
		_, err := b.addPubsub(t.Context(), batch)
		must(t, err)
	}
	for range 4 {
		hear()
	}
	ds.count = 0
	before, err := b.state(t.Context())
	must(t, err)
	hear()
	after, err := b.state(t.Context())
	must(t, err)
	if pushed := after.Expired - before.Expired; pushed != pubsubBatch {
		t.Fatalf("%d messages were pushed out by %d: the test proves nothing", pushed, pubsubBatch)
	}
	if ds.count > 16*pubsubBatch {
		t.Errorf("%d records were read to push out %d messages", ds.count, pubsubBatch)
	}
	checkBooks(t, b)
}

// Floods of one or many other authors do not displace the IDs of an author's
// messages, whether the messages were evicted or removed.
func TestFloodDoesNotMakeOthersMessagesReplayable(t *testing.T) {
	const text = "at eight"
	for _, authors := range []uint64{1, 3, 100} {
		t.Run(fmt.Sprint(authors), func(t *testing.T) {
			ds := storetest.NewDisk()
			c := newClock()
			limits := DefaultLimits()
			limits.PubsubBytes = 32 << 10 // 128 IDs
			b := newBox(ds, limits, c.now)
			hear := func(batch ...*Message) {
				t.Helper()
				refused, err := b.addPubsub(t.Context(), batch)
				if refused != 0 || err != nil {
					t.Fatalf("%d refused, %v", refused, err)
				}
			}
			// replay returns how many of the messages are stored again.
			replay := func() uint64 {
				t.Helper()
				before, err := b.state(t.Context())
				must(t, err)
				for _, victim := range []peer.ID{"pushed out", "removed"} {
					hear(broadcast(victim, 1, text))
				}
				after, err := b.state(t.Context())
				must(t, err)
				return after.Next - before.Next
			}
			hear(broadcast("removed", 1, text))
			_, err := b.remove(t.Context(), []uint64{0}, false)
			must(t, err)
			hear(broadcast("pushed out", 1, text))
			seqno := uint64(0)
			flood := func() {
				var batch []*Message
				for range pubsubBatch {
					seqno++
					batch = append(batch, broadcast(peer.ID(fmt.Sprint("flood", seqno%authors)), seqno, "x"))
				}
				hear(batch...)
			}
			for range 8 { // many times the number of remembered IDs
				flood()
			}
			must(t, b.sweep(t.Context()))
			if n := replay(); n != 0 {
				t.Errorf("%d replays are stored", n)
			}
			if st, err := b.state(t.Context()); err != nil || st.Gone > b.maxGone() {
				t.Errorf("%d IDs are remembered, %v", st.Gone, err)
			}
			checkBooks(t, b)
			b = newBox(ds.PowerLoss(nil), limits, c.now)
			if n := replay(); n != 0 {
				t.Errorf("%d replays are stored after a restart", n)
			}
			c.add(ReplayWindow + time.Second)
			must(t, b.sweep(t.Context()))
			if replay() == 0 {
				t.Error("beyond the window none is stored: the test proves nothing")
			}
		})
	}
}

// IDs that an earlier version remembered are bounded, and deleted in the end.
func TestIDsThatAnEarlierVersionRememberedAreForgotten(t *testing.T) {
	limits := DefaultLimits()
	limits.PubsubBytes = 8 << 10
	c := newClock()
	b := newBox(storetest.NewDisk(), limits, c.now)
	const before = 100
	must(t, b.store.Update(t.Context(), func(tx *store.Tx) error {
		st := &pb.State{Next: before, Gone: before, Received: c.now().UnixNano()}
		for n := range uint64(before) {
			m := broadcast("author", n, "x")
			gone := append(number(uint64(c.now().UnixNano())), idKey(m.ID, m.Via, m.From)...)
			if err := errors.Join(tx.Put(store.Key(goneSeries, n), gone), tx.Put(idKey(m.ID, m.Via, m.From), number(n))); err != nil {
				return err
			}
		}
		return writeState(tx, st)
	}))
	must(t, b.sweep(t.Context()))
	newest := broadcast("author", before-1, "x").Seqno
	if st, err := b.state(t.Context()); err != nil || st.Gone != b.maxGone() || b.unseen(t.Context(), "author", newest) {
		t.Errorf("%d IDs are remembered, want %d, with the newest; %v", st.Gone, b.maxGone(), err)
	}
	c.add(ReplayWindow + time.Second)
	must(t, b.sweep(t.Context()))
	if !b.unseen(t.Context(), "author", newest) {
		t.Error("an ID is remembered for longer than the window")
	}
	checkBooks(t, b)
}

func TestPubsubReplayIsRefusedWithinTheWindowAndAfterARestart(t *testing.T) {
	ds := storetest.NewDisk()
	c := newClock()
	b := newBox(ds, DefaultLimits(), c.now)
	ctx := t.Context()
	hear := func() int {
		_, err := b.addPubsub(ctx, []*Message{broadcast("author", 7, "x"), broadcast("author", 7, "x")})
		must(t, err)
		return len(contents(t, b))
	}
	if hear() != 1 || hear() != 1 {
		t.Error("it is not stored once")
	}
	_, err := b.remove(ctx, []uint64{0}, false)
	must(t, err)
	if hear() != 0 {
		t.Error("a replay is stored after it was removed")
	}
	b = newBox(ds.PowerLoss(nil), DefaultLimits(), c.now)
	c.add(ReplayWindow)
	must(t, b.sweep(ctx))
	if hear() != 0 {
		t.Error("a replay is stored after a restart")
	}
	c.add(time.Second)
	must(t, b.sweep(ctx))
	if hear() != 1 || hear() != 1 {
		t.Error("beyond the window it is not stored once")
	}
}

func TestKeepForRemovesWhatIsOlderAndNothingElse(t *testing.T) {
	c := newClock()
	limits := DefaultLimits()
	limits.KeepFor = Duration(time.Hour)
	b := newBox(storetest.NewDisk(), limits, c.now)
	const n = 3*sweepBatch + 1
	for i := range n {
		must(t, b.add(t.Context(), direct("a", fmt.Sprint("old", i), "x")))
	}
	c.add(time.Minute)
	must(t, b.add(t.Context(), direct("a", "new", "x")))
	c.add(59 * time.Minute)
	must(t, b.sweep(t.Context()))
	if len(contents(t, b)) != n+1 {
		t.Error("what is as old as it may be was removed")
	}
	c.add(time.Second)
	must(t, b.sweep(t.Context()))
	if ms := contents(t, b); len(ms) != 1 || ms[0].ID != "new" {
		t.Errorf("%d messages are left", len(ms))
	}
	checkBooks(t, b)
	if st, err := b.state(t.Context()); err != nil || st.Expired != n {
		t.Errorf("state %v, %v", st, err)
	}
	limits.KeepFor = 0
	c.add(1e6 * time.Hour)
	must(t, newMailbox(b.store, limits, c.now).sweep(t.Context()))
	if len(contents(t, b)) != 1 {
		t.Error("what is kept until it is removed was removed")
	}
}

func TestReceivedNeverGoesBackThoughTheClockDoes(t *testing.T) {
	c := newClock()
	b := newBox(storetest.NewDisk(), DefaultLimits(), c.now)
	for i := range 50 {
		c.add(time.Duration(3-i%5) * time.Second)
		must(t, b.add(t.Context(), direct("a", fmt.Sprint(i), "x")))
	}
	if err := firstSinceAgrees(t, b); err != nil {
		t.Error(err)
	}
	checkBooks(t, b) // reports times that are earlier than the previous one
}

// firstSinceAgrees compares the binary search with a linear one.
func firstSinceAgrees(t *testing.T, b *mailbox) error {
	ms := contents(t, b)
	st, err := b.state(t.Context())
	must(t, err)
	for at := ms[0].Received.Add(-time.Second); !at.After(ms[len(ms)-1].Received.Add(time.Second)); at = at.Add(500 * time.Millisecond) {
		want := st.Next
		for _, m := range ms {
			if !m.Received.Before(at) {
				want = m.Number
				break
			}
		}
		from, err := b.firstSince(t.Context(), at)
		must(t, err)
		first := st.Next
		for m, err := range b.read(t.Context(), from) {
			must(t, err)
			first = m.Number
			break
		}
		if first != want {
			return fmt.Errorf("the first since %s is %d, want %d", at, first, want)
		}
	}
	return nil
}

func TestFirstSinceFindsTheWayAroundGaps(t *testing.T) {
	c := newClock()
	b := newBox(storetest.NewDisk(), DefaultLimits(), c.now)
	var gone []uint64
	for i := range uint64(100) {
		c.add(time.Second)
		must(t, b.add(t.Context(), direct("a", fmt.Sprint(i), "x")))
		if i%7 != 3 {
			gone = append(gone, i)
		}
	}
	must(t, firstSinceAgrees(t, b))
	_, err := b.remove(t.Context(), gone, false)
	must(t, err)
	must(t, firstSinceAgrees(t, b))
}

func TestPowerLossDuringAnyOperationLeavesTheBooksInOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	limits := Limits{StoreBytes: 9000, PeerBytes: 4000, PubsubBytes: 8000, WhenPeerFull: DropOldest, KeepFor: Duration(time.Minute)}
	c := newClock()
	for operation := 1; operation < 60; operation += 3 {
		for _, failure := range []storetest.Failure{storetest.Once, storetest.Applied} {
			disk := storetest.NewDisk()
			b := newBox(disk, limits, c.now)
			disk.FailAfter(operation, failure)
			ctx := context.Background()
			for i := range 10 {
				c.add(20 * time.Second)
				b.add(ctx, direct("a", fmt.Sprint(i), string(make([]byte, rng.IntN(1500)))))
				b.addPubsub(ctx, []*Message{broadcast("b", uint64(i), "x"), broadcast("c", uint64(i), string(make([]byte, rng.IntN(1500))))})
				b.remove(ctx, []uint64{uint64(i)}, false)
				b.sweep(ctx)
				checkBooks(t, newBox(disk.PowerLoss(rng), limits, c.now))
				checkBooks(t, b)
			}
		}
	}
}

func TestServiceAppliesRetentionAgainAndAgain(t *testing.T) {
	c := newClock()
	b := newDaemon(t, setup{
		now:    c.now,
		limits: func(l *Limits) { l.KeepFor = Duration(time.Hour) },
		times:  func(p *times) { p.sweep = time.Millisecond },
	})
	for range 3 {
		must(t, b.box.add(t.Context(), direct("a", "id", "x")))
		c.add(2 * time.Hour)
		eventually(t, "it is removed", func() bool { return len(stored(t, b)) == 0 })
	}
}

func TestDamagedMessageIsLeftOut(t *testing.T) {
	ctx := t.Context()
	now := newClock()
	l := DefaultLimits()
	l.KeepFor = Duration(time.Hour)
	b := newBox(storetest.NewDisk(), l, now.now)
	for _, id := range []string{"a", "b", "c"} {
		if err := b.add(ctx, direct("p", id, "1")); err != nil {
			t.Fatal(err)
		}
	}
	err := b.store.Update(ctx, func(tx *store.Tx) error {
		return tx.Put(store.Key(logSeries, 1), []byte("no record"))
	})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for m, err := range b.read(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.ID)
	}
	if got := strings.Join(ids, " "); got != "a c" {
		t.Errorf("read %q, want the messages that are whole", got)
	}
	now.add(2 * time.Hour)
	if err := b.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	for m := range b.read(ctx, 0) {
		t.Errorf("%s outlived its time", m.ID)
	}
}
