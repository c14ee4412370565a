package replicate

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit/entry"
)

// fixture is a peer table with what it told.
type fixture struct {
	*peerTable
	offline map[peer.ID]bool
	events  []EventKind
	changes int
}

func newFixture() *fixture {
	f := &fixture{offline: make(map[peer.ID]bool)}
	f.peerTable = newPeerTable(func(p peer.ID) bool { return !f.offline[p] }, new(random),
		func(e Event) { f.events = append(f.events, e.Kind) }, func() { f.changes++ })
	return f
}

// told returns the kinds of the events since the last call.
func (f *fixture) told() (kinds []EventKind) {
	kinds, f.events = f.events, nil
	return kinds
}

// startedAfter waits for a time, and returns the peers with which exchanges
// begin.
func (f *fixture) startedAfter(d time.Duration) []peer.ID {
	time.Sleep(d)
	due, _ := f.start()
	return due
}

const alice, bob = peer.ID("alice"), peer.ID("bob")

var agrees, differs = agreement{ByState, true}, agreement{by: ByState}

// Each event has the effect on each state that its name says: a running
// exchange runs until it is finished, and none is due without a time.
func TestExchangeStates(t *testing.T) {
	at := time.Now()
	for _, from := range []exchangeState{exchangeIdle, exchangeScheduled, exchangeRunning, exchangeRescheduled} {
		for _, e := range []exchangeEvent{scheduleExchange, cancelExchange, startExchange, refreshExchange, finishExchange} {
			s := &peerState{exchange: from}
			if from.due() {
				s.next = at
			}
			s.apply(e, at.Add(1))
			to := s.exchange
			if to.due() == s.next.IsZero() {
				t.Errorf("%v, event %d: %v, due at %v", from, e, to, s.next)
			}
			due, runs := from.due(), from.runs()
			switch e {
			case scheduleExchange:
				due = true
			case cancelExchange:
				due = false
			case startExchange:
				due, runs = due && runs, true
			case refreshExchange:
				runs = true
			case finishExchange:
				runs = false
			}
			if to.due() != due || to.runs() != runs {
				t.Errorf("%v, event %d: %v", from, e, to)
			}
			if e == scheduleExchange != s.next.Equal(at.Add(1)) {
				t.Errorf("%v, event %d: due at %v", from, e, s.next)
			}
		}
	}
}

func TestExchangesAreBegunOneAtATimeAndRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		f.subscription(bob, false)
		if len(f.snapshot()) != 0 || !f.subscription(alice, true) || f.subscription(alice, true) {
			t.Error("a peer joins once")
		}
		if len(f.due) == 0 || !slices.Equal(f.startedAfter(0), []peer.ID{alice}) || !f.runs(alice) {
			t.Error("heads are not exchanged with a peer that joins")
		}
		if f.askAll(); f.startedAfter(time.Hour) != nil {
			t.Error("two exchanges run")
		}
		f.exchanged(alice, nil, agrees, true, true)
		f.finish(alice, nil)
		if f.startedAfter(0) == nil {
			t.Error("the exchange that was asked for meanwhile does not begin")
		}
		f.exchanged(alice, nil, agrees, true, true)
		f.finish(alice, nil)
		if f.startedAfter(idleMin) != nil || f.startedAfter(idleMax) == nil {
			t.Error("an exchange with a peer in sync is not after idleMin, or never")
		}
		f.finish(alice, errors.New("failed"))
		if f.startedAfter(failMin*5/4) == nil {
			t.Error("an exchange that failed is not repeated soon")
		}
		f.offline[alice] = true
		f.finish(alice, errors.New("failed"))
		if f.startedAfter(time.Hour) != nil {
			t.Error("an exchange with a peer that is gone begins")
		}
		if told := f.told(); !slices.Equal(told, []EventKind{PeerJoined, PeerInSync, PeerLeft}) {
			t.Errorf("events %v", told)
		}
		if s := f.snapshot(); len(s) != 1 || s[0].Open || s[0].Err == nil || f.changes == 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestChangesMoveExchangesForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for what, move := range map[string]func(*fixture){
			"the log changed":   func(f *fixture) { f.logChanged() },
			"an entry was lost": func(f *fixture) { f.missed(alice) },
			"it subscribed":     func(f *fixture) { f.subscription(alice, true) },
			"it was asked for":  func(f *fixture) { f.askAll() },
			"it is back":        func(f *fixture) { f.disconnected(alice) },
		} {
			f := newFixture()
			f.subscription(alice, true)
			f.startedAfter(0)
			for range 5 {
				f.exchanged(alice, nil, agrees, true, true)
			}
			f.finish(alice, nil)
			select {
			case <-f.due:
			default:
			}
			move(f)
			if len(f.due) == 0 || f.startedAfter(confirmAfter*5/4) == nil {
				t.Errorf("%s: no exchange", what)
			}
		}
		f := newFixture()
		if f.missed(alice); len(f.snapshot()) != 0 {
			t.Error("an unknown peer is remembered")
		}
	})
}

func TestRefreshBeginsBesidesWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		time.Sleep(time.Hour)
		if begins, runs := f.refresh(alice); !begins || !runs {
			t.Error("it does not begin")
		}
		if begins, runs := f.refresh(alice); begins || runs {
			t.Error("it begins again at once")
		}
		time.Sleep(refreshEvery)
		if begins, runs := f.refresh(alice); begins || !runs {
			t.Error("a second one begins, or the first one ended")
		}
	})
}

func TestTableForgetsNoSubscriberAndNoRunningExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		f.subscription(alice, true)
		time.Sleep(time.Hour)
		f.refresh(bob)
		for i := range 2 * maxPeers { // all of them are newer
			p := peer.ID(fmt.Sprint(i))
			f.remember(p)
			f.exchanged(p, nil, differs, false, false)
		}
		s := f.snapshot()
		has := func(id peer.ID) bool { return slices.ContainsFunc(s, func(p Peer) bool { return p.ID == id }) }
		if len(s) != maxPeers || !has(alice) || !has(bob) {
			t.Errorf("%d peers; alice %v, bob %v", len(s), has(alice), has(bob))
		}
		for i := range 2 * maxPeers {
			f.subscription(peer.ID(fmt.Sprint("s", i)), true)
		}
		if n := len(f.snapshot()); n < 2*maxPeers {
			t.Errorf("%d peers: subscribers were forgotten", n)
		}
	})
}

// A peer is compared again, once at a time, when the heads that it showed are
// here.
func TestPeersAreSettledOnceTheirHeadsAreHere(t *testing.T) {
	f := newFixture()
	f.subscription(alice, true)
	f.exchanged(alice, []string{"head"}, differs, false, false)
	f.told()
	ours := []entry.Position{{Hash: "head"}}
	if m := f.settle(nil); len(m) != 0 {
		t.Errorf("%v, before its heads are here", m)
	}
	if m := f.settle(ours); len(m) != 1 || !slices.Equal(m[alice], []string{"head"}) {
		t.Errorf("%v", m)
	}
	if m := f.settle(ours); len(m) != 0 {
		t.Errorf("%v, while it is being compared", m)
	}
	f.unconfirmed(alice)
	if m := f.settle(ours); len(m) != 1 {
		t.Errorf("%v, after a failed comparison", m)
	}
	f.confirmed(alice, ByState, true)
	if m := f.settle(ours); len(m) != 0 {
		t.Errorf("%v, in sync", m)
	}
	if s := f.snapshot(); s[0].InSync.IsZero() || s[0].By != ByState || !slices.Equal(f.told(), []EventKind{PeerInSync}) {
		t.Errorf("%+v", s)
	}
	f.exchanged(alice, make([]string, maxShown+1), differs, false, false)
	if s := f.snapshot(); s[0].Heads != maxShown+1 || f.peers[alice].shown != nil {
		t.Errorf("%+v: many heads are remembered", s)
	}
}

// The entries of an author that published too many useless ones are ignored for
// a while.
func TestPenalties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		for range maxOffences {
			if f.ignores(alice) {
				t.Fatal("it is ignored too early")
			}
			f.penalize(alice)
		}
		if !f.ignores(alice) || f.ignores(bob) {
			t.Error("it is not ignored, or another one is")
		}
		time.Sleep(offencesFor + 1)
		if f.ignores(alice) {
			t.Error("it is ignored for ever")
		}
		if f.penalize(alice); f.ignores(alice) {
			t.Error("old offences count")
		}
	})
}

// A peer transfers once at a time, and after failures later and later.
func TestTransferPenalties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		if !f.claimTransfer(alice) || f.claimTransfer(alice) || !f.claimTransfer(bob) {
			t.Error("a peer transfers twice, or not at all")
		}
		f.releaseTransfer(alice)
		pause := func(failures int) time.Duration {
			for range failures {
				f.transferFailed(alice)
			}
			begun := time.Now()
			for !f.claimTransfer(alice) {
				time.Sleep(failMin / 10)
			}
			f.releaseTransfer(alice)
			return time.Since(begun)
		}
		once, often := pause(1), pause(6)
		if once == 0 || often < 8*once {
			t.Errorf("pauses of %v and %v", once, often)
		}
		f.transferred(alice)
		if again := pause(1); again > 2*failMin {
			t.Errorf("a pause of %v after a success", again)
		}
		f.subscription(alice, true)
		f.startedAfter(0)
		f.finish(alice, nil)
		if f.transferFailed(alice); f.startedAfter(time.Second) == nil {
			t.Error("a subscriber whose transfer failed is not asked again")
		}
	})
}

func TestLargeHeadsAreAnnouncedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		time.Sleep(time.Hour)
		if f.remember(bob); f.announcesLarge(bob) {
			t.Error("for a peer that is not subscribed")
		}
		f.subscription(alice, true)
		f.subscription(bob, true)
		if !f.announcesLarge(alice) || f.announcesLarge(bob) {
			t.Error("not at all, or for two peers at once")
		}
		time.Sleep(largeEvery + 1)
		if f.announcesLarge(alice) || !f.announcesLarge(bob) {
			t.Error("twice for a peer, or not for the other one")
		}
	})
}

// A peer that was not in sync and requested what it lacked is compared again
// soon, and less and less often if it stays so.
func TestPeerThatRequestedEntriesIsComparedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, test := range map[string]struct {
			peer  peerState
			after time.Duration // 0 for as before
		}{
			"not in sync":        {peerState{subscribed: true, exchanged: now}, recheckAfter},
			"in sync before":     {peerState{subscribed: true, exchanged: now, inSync: now.Add(-1)}, recheckAfter},
			"in sync":            {peerState{subscribed: true, exchanged: now, inSync: now}, 0},
			"never compared":     {peerState{subscribed: true}, 0},
			"for the third time": {peerState{subscribed: true, exchanged: now, diverged: 2}, 4 * recheckAfter},
			"for a long time":    {peerState{subscribed: true, exchanged: now, diverged: 30}, 0},
			"gone":               {peerState{exchanged: now}, 0},
			"it is being done":   {peerState{subscribed: true, exchanged: now, exchange: exchangeRunning}, 0},
		} {
			f := newFixture()
			q := test.peer
			q.apply(scheduleExchange, now.Add(confirmAfter))
			f.peers[alice] = &q
			f.sessionEnded(alice)
			got := q.next.Sub(now)
			soon := got >= test.after*3/4 && got <= test.after*5/4 && len(f.due) > 0
			same := got == confirmAfter && len(f.due) == 0
			if test.after > 0 && !soon || test.after == 0 && !same {
				t.Errorf("%s: the next exchange is after %v, not around %v", name, got, test.after)
			}
		}
	})
}

// The table may be used concurrently.
func TestPeerTableIsSafeForConcurrentUse(t *testing.T) {
	var w watchers
	var c wait.Change
	events, remove := w.add()
	defer remove()
	table := newPeerTable(func(peer.ID) bool { return true }, new(random), w.tell, c.Announce)
	var group sync.WaitGroup
	for i := range 8 {
		p := peer.ID(fmt.Sprint(i % 4))
		group.Go(func() {
			for n := range 200 {
				table.subscription(p, n%3 > 0)
				table.start()
				table.exchanged(p, []string{"head"}, agrees, n%2 == 0, true)
				table.finish(p, nil)
				table.settle([]entry.Position{{Hash: "head"}})
				table.confirmed(p, ByHeads, true)
				table.askAll()
				table.snapshot()
			}
		})
	}
	group.Wait()
	if len(events) == 0 {
		t.Error("no events")
	}
}
