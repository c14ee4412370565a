package replicate

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit/entry"
)

// exchangeState says whether an exchange of heads that this side begins with a
// peer runs, and whether one is due.
type exchangeState uint8

const (
	exchangeIdle        exchangeState = iota // none runs, none is due
	exchangeScheduled                        // none runs, one is due
	exchangeRunning                          // one runs, none is due
	exchangeRescheduled                      // one runs, another one is due
)

// String returns the state in a word.
func (s exchangeState) String() string {
	return [...]string{"idle", "scheduled", "running", "rescheduled"}[s]
}

func (s exchangeState) runs() bool { return s == exchangeRunning || s == exchangeRescheduled }
func (s exchangeState) due() bool  { return s == exchangeScheduled || s == exchangeRescheduled }

// exchangeEvent changes an exchangeState.
type exchangeEvent uint8

const (
	scheduleExchange exchangeEvent = iota // one becomes due at a time
	cancelExchange                        // none is due any more
	startExchange                         // the one that is due begins
	refreshExchange                       // one begins besides the one that is due, if any
	finishExchange                        // the one that runs ends
)

// exchangeTransitions has the next state for each state and event.
var exchangeTransitions = [...][5]exchangeState{
	exchangeIdle: {
		scheduleExchange: exchangeScheduled,
		cancelExchange:   exchangeIdle,
		startExchange:    exchangeRunning,
		refreshExchange:  exchangeRunning,
		finishExchange:   exchangeIdle,
	},
	exchangeScheduled: {
		scheduleExchange: exchangeScheduled,
		cancelExchange:   exchangeIdle,
		startExchange:    exchangeRunning,
		refreshExchange:  exchangeRescheduled,
		finishExchange:   exchangeScheduled,
	},
	exchangeRunning: {
		scheduleExchange: exchangeRescheduled,
		cancelExchange:   exchangeRunning,
		startExchange:    exchangeRunning,
		refreshExchange:  exchangeRunning,
		finishExchange:   exchangeIdle,
	},
	exchangeRescheduled: {
		scheduleExchange: exchangeRescheduled,
		cancelExchange:   exchangeRunning,
		startExchange:    exchangeRescheduled,
		refreshExchange:  exchangeRescheduled,
		finishExchange:   exchangeScheduled,
	},
}

// peerState is what is known of one peer and one database.
type peerState struct {
	subscribed bool      // it is subscribed to the topic
	linked     bool      // it is a daemon that has the database open
	left       time.Time // when it was the last time that it was subscribed

	exchange exchangeState
	next     time.Time     // when the exchange is due; zero if none is
	began    time.Time     // when an exchange that this side began was begun or ended last
	pause    time.Duration // from the end of the exchange to the next one
	failures int           // exchanges that failed in a row
	diverged int           // exchanges in a row since the last change that found another replica

	exchanged time.Time  // when heads were exchanged last, by either side
	heads     int        // that the peer had then
	shown     []string   // the CIDs of those, if the replica differs and they are few
	err       error      // of the last exchange
	inSync    time.Time  // when its replica agreed with this one last
	by        Comparison // by what that was compared; "" before the first comparison
	comparing bool       // its replica is being compared because its heads are here by now
	large     time.Time  // when heads that are too large for it were announced

	offences int       // useless entries that it published since offended
	offended time.Time // when the count began

	transfers        bool      // it transfers entries, or is about to
	transferNext     time.Time // before that, it is not asked to transfer
	transferFailures int       // in a row
}

// apply is the only place where the exchange of a peer changes its state. at is
// when the exchange is due, for scheduleExchange.
func (s *peerState) apply(e exchangeEvent, at time.Time) {
	s.exchange = exchangeTransitions[s.exchange][e]
	if e == scheduleExchange {
		s.next = at
	}
	if !s.exchange.due() {
		s.next = time.Time{}
	}
}

// advance moves the exchange that is due forward to a time, and reports whether
// it was due later.
func (s *peerState) advance(at time.Time) bool {
	if !s.next.After(at) {
		return false
	}
	s.apply(scheduleExchange, at)
	return true
}

// peerTable has the states of the peers of one database: when heads are
// exchanged with each, which of them are in sync, which transfer entries, and
// which are ignored because of their penalties.
//
// The table has at most maxPeers peers, and beyond that only peers that are
// subscribed or with which an exchange runs. A peer that is neither is
// forgotten first. An exchange with a peer is due at next, which is zero
// exactly if none is due. At most one exchange per peer runs that this side
// began. At most one comparison per peer runs because of settle.
type peerTable struct {
	connected func(peer.ID) bool // does not block
	random    *random
	tell      func(Event) // is told of peers that join, leave or are in sync
	changed   func()      // is called at each change of what snapshot returns
	due       wait.Flag   // set when an exchange may be due

	mu    sync.Mutex
	peers map[peer.ID]*peerState
	large time.Time // when heads that are too large for streams were announced last
}

func newPeerTable(connected func(peer.ID) bool, r *random, tell func(Event), changed func()) *peerTable {
	return &peerTable{
		connected: connected, random: r, tell: tell, changed: changed,
		due:   wait.NewFlag(),
		peers: make(map[peer.ID]*peerState),
	}
}

// state returns the state of a peer, which is remembered from now on. The
// caller holds t.mu.
func (t *peerTable) state(p peer.ID) *peerState {
	s := t.peers[p]
	if s == nil {
		s = &peerState{pause: idleMin}
		t.evict()
		t.peers[p] = s
	}
	return s
}

// evict forgets the peer that was idle for longest, if the table is full. The
// caller holds t.mu.
func (t *peerTable) evict() {
	if len(t.peers) < maxPeers {
		return
	}
	var oldest peer.ID
	for p, s := range t.peers {
		if old := t.peers[oldest]; !s.exchange.runs() && !s.subscribed && !s.linked && (old == nil || s.exchanged.Before(old.exchanged)) {
			oldest = p
		}
	}
	delete(t.peers, oldest)
}

// remember adds a peer to the table.
func (t *peerTable) remember(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state(p)
}

// subscription notes that a peer opened or closed the database, and reports
// whether a peer opened it that did not have it open.
func (t *peerTable) subscription(p peer.ID, on bool) (opened bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers[p] == nil && !on {
		return false
	}
	s := t.state(p)
	if s.subscribed == on {
		// The peer may have reconnected before this side noticed that the old
		// connection was lost.
		if on && s.advance(later(time.Now(), s.began.Add(confirmAfter))) {
			t.due.Set()
		}
		return false
	}
	was := s.open()
	s.subscribed, s.left, s.failures, s.diverged, s.pause = on, time.Now(), 0, 0, idleMin
	s.apply(cancelExchange, time.Time{})
	t.opened(p, was)
	if on {
		s.apply(scheduleExchange, later(time.Now(), s.began.Add(resubscribeAfter)))
		t.due.Set()
	}
	t.changed()
	return on
}

// open reports whether the peer has the database open.
func (s *peerState) open() bool { return s.subscribed || s.linked }

// opened tells whether a peer opened or closed the database, given whether it
// was open. The caller holds t.mu.
func (t *peerTable) opened(p peer.ID, was bool) {
	switch is := t.peers[p].open(); {
	case is && !was:
		t.tell(Event{Kind: PeerJoined, Peer: p})
	case was && !is:
		t.tell(Event{Kind: PeerLeft, Peer: p})
	}
}

// link notes whether a peer is a daemon that has the database open.
func (t *peerTable) link(p peer.ID, on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers[p] == nil && !on {
		return
	}
	s := t.state(p)
	was := s.open()
	if s.linked == on {
		return
	}
	s.linked = on
	t.opened(p, was)
	t.changed()
}

// compared notes what a daemon told of its replica at a time: whether it is in
// sync, and then how many heads it has.
func (t *peerTable) compared(p peer.ID, inSync bool, heads int, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.peers[p]
	if s == nil || !s.linked {
		return
	}
	s.exchanged, s.by, s.heads, s.err = later(s.exchanged, at), ByState, heads, nil
	if inSync {
		t.agreed(p, s)
		s.inSync = s.exchanged
	}
	t.changed()
}

// active reports whether a peer is subscribed, or was a moment ago, or an
// exchange runs.
func (t *peerTable) active(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, s := range t.peers {
		if s.subscribed && t.connected(p) || s.exchange.runs() || !s.left.IsZero() && now.Sub(s.left) < lingerFor {
			return true
		}
	}
	return false
}

// restore adds peers of an earlier table of the same database.
func (t *peerTable) restore(peers []Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range peers {
		s := t.state(p.ID)
		s.exchanged, s.inSync, s.by, s.heads, s.err = p.Exchanged, p.InSync, p.By, p.Heads, p.Err
	}
}

// disconnected notes that the connection to a peer was lost. If the peer is
// connected again, heads are exchanged at once, for it may have missed some.
func (t *peerTable) disconnected(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.peers[p]
	switch {
	case s == nil || !s.subscribed:
	case t.connected(p):
		s.apply(scheduleExchange, time.Now())
		t.due.Set()
	default:
		t.gone(p, s)
		t.changed()
	}
}

// gone notes that a peer is not connected any more. The caller holds t.mu.
func (t *peerTable) gone(p peer.ID, s *peerState) {
	s.apply(cancelExchange, time.Time{})
	if s.subscribed {
		s.subscribed, s.left = false, time.Now()
		t.opened(p, true)
	}
}

// start begins the exchanges that are due, and returns their peers, and when
// the next exchange is due, which is in an hour at the latest.
func (t *peerTable) start() (due []peer.ID, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	next = now.Add(time.Hour)
	for p, s := range t.peers {
		switch {
		case s.exchange != exchangeScheduled:
		case s.next.After(now):
			next = earlier(next, s.next)
		default:
			s.apply(startExchange, time.Time{})
			s.began = now
			due = append(due, p)
		}
	}
	return due, next
}

// refresh begins an exchange with a peer besides the one that is due. begins
// reports whether the caller is to run the exchange, and runs whether one runs
// now: neither is true if the latest one is less than refreshEvery ago.
func (t *peerTable) refresh(p peer.ID) (begins, runs bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(p)
	if time.Since(s.began) < refreshEvery {
		return false, false
	}
	begins = !s.exchange.runs()
	s.apply(refreshExchange, time.Time{})
	s.began = time.Now()
	return begins, true
}

// runs reports whether an exchange with a peer runs that this side began.
func (t *peerTable) runs(p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.peers[p]
	return s != nil && s.exchange.runs()
}

// finish ends an exchange, with its error, and schedules the next one.
func (t *peerTable) finish(p peer.ID, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.peers[p]
	if s == nil {
		return
	}
	s.apply(finishExchange, time.Time{})
	s.began, s.err = time.Now(), err
	if err != nil {
		// A peer that opens a database subscribes just before it answers.
		s.pause = doubled(failMin, s.failures, idleMax)
		s.failures++
	}
	switch {
	case !t.connected(p): // it subscribes again when it is back
		t.gone(p, s)
	case s.subscribed && !s.exchange.due():
		s.apply(scheduleExchange, time.Now().Add(t.random.around(s.pause)))
	}
	t.changed()
}

// exchanged notes what an exchange of heads told of a peer: the CIDs of its
// heads, how its replica compares, and whether it is in sync. begun says that
// this side began the exchange.
func (t *peerTable) exchanged(p peer.ID, shown []string, a agreement, inSync, begun bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.peers[p]
	if s == nil {
		return
	}
	s.failures, s.exchanged, s.heads, s.err, s.shown = 0, time.Now(), len(shown), nil, nil
	if a.by != "" {
		s.by = a.by
	}
	switch {
	case inSync:
		t.agreed(p, s)
	case !a.agrees && len(shown) <= maxShown:
		s.shown = shown
	}
	switch {
	case !begun:
	case a.agrees, a.by == NotComparable: // an earlier version is asked no more often than a peer in sync
		s.pause = min(max(2*s.pause, idleMin), idleMax)
	default:
		s.pause = doubled(confirmAfter, s.diverged, idleMax)
		s.diverged++
	}
	t.changed()
}

// agreed notes that a peer is in sync. The caller holds t.mu.
func (t *peerTable) agreed(p peer.ID, s *peerState) {
	now := time.Now()
	if s.inSync.IsZero() || now.Sub(s.inSync) > time.Second {
		t.tell(Event{Kind: PeerInSync, Peer: p})
	}
	s.inSync, s.diverged, s.shown = now, 0, nil
}

// settle returns the peers to compare because the heads that they showed are
// the heads here by now, with the CIDs of those. confirmed or unconfirmed ends
// each comparison.
func (t *peerTable) settle(ours []entry.Position) map[peer.ID][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	matching := make(map[peer.ID][]string)
	for p, s := range t.peers {
		if s.shown != nil && !s.comparing && sameHeads(ours, s.shown) {
			s.comparing = true
			matching[p] = s.shown
		}
	}
	return matching
}

// confirmed notes the outcome of a comparison that settle asked for.
func (t *peerTable) confirmed(p peer.ID, by Comparison, inSync bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.peers[p]
	if s == nil {
		return
	}
	s.comparing, s.by = false, by
	if inSync {
		t.agreed(p, s)
	}
	t.changed()
}

// unconfirmed notes that a comparison that settle asked for failed.
func (t *peerTable) unconfirmed(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.peers[p]; s != nil {
		s.comparing = false
	}
}

// sessionEnded schedules an exchange with a peer that requested entries or the
// state from this side, unless it was in sync before: it may be in sync now.
// The pause doubles each time that it is not.
func (t *peerTable) sessionEnded(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.peers[p]
	if s == nil || !s.subscribed || s.exchange.runs() || !s.inSync.Before(s.exchanged) {
		return
	}
	if s.advance(time.Now().Add(t.random.around(doubled(recheckAfter, s.diverged, idleMax)))) {
		t.due.Set()
	}
}

// logChanged moves all exchanges forward, to see whether the change reached the
// peers.
func (t *peerTable) logChanged() {
	soon := time.Now().Add(t.random.around(confirmAfter))
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.peers {
		s.diverged = 0
		s.advance(soon)
	}
	t.changed()
	t.due.Set()
}

// missed moves the exchange with a peer forward: an entry that it published was
// lost here.
func (t *peerTable) missed(p peer.ID) {
	soon := time.Now().Add(t.random.around(confirmAfter))
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.peers[p]; s != nil && s.subscribed {
		s.advance(soon)
	}
	t.due.Set()
}

// askAll makes an exchange with each subscribed peer due now.
func (t *peerTable) askAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.peers {
		if s.subscribed {
			s.apply(scheduleExchange, time.Now())
		}
	}
	t.due.Set()
}

// announcesLarge reports whether heads that are too large for a subscriber's
// stream are to be announced now, and notes that they are. It is true rarely
// per peer and in total.
func (t *peerTable) announcesLarge(p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, now := t.peers[p], time.Now()
	if s == nil || !s.subscribed || now.Sub(s.large) <= seenFor || now.Sub(t.large) <= largeEvery {
		return false
	}
	s.large, t.large = now, now
	return true
}

// penalize notes that a peer published a useless entry.
func (t *peerTable) penalize(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(p)
	if time.Since(s.offended) > offencesFor {
		s.offences, s.offended = 0, time.Now()
	}
	s.offences++
}

// ignores reports whether entries that a peer publishes are ignored, because it
// published too many useless ones. Its heads are accepted all the same.
func (t *peerTable) ignores(p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.peers[p]
	return s != nil && s.offences >= maxOffences && time.Since(s.offended) <= offencesFor
}

// claimTransfer reports whether a peer may be asked to transfer entries, and
// reserves it until releaseTransfer is called.
func (t *peerTable) claimTransfer(p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(p)
	if s.transfers || time.Now().Before(s.transferNext) {
		return false
	}
	s.transfers = true
	return true
}

// releaseTransfer ends the reservation of claimTransfer.
func (t *peerTable) releaseTransfer(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state(p).transfers = false
}

// transferFailed penalizes a peer: it is not asked to transfer for a while,
// which doubles each time. Heads are exchanged after that, to ask it again.
func (t *peerTable) transferFailed(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state(p)
	s.transferNext = time.Now().Add(t.random.around(doubled(failMin, s.transferFailures, idleMax)))
	s.transferFailures++
	if s.subscribed && (!s.exchange.due() || s.next.After(s.transferNext)) {
		s.apply(scheduleExchange, s.transferNext)
		t.due.Set()
	}
}

// transferred notes that a peer transferred something useful.
func (t *peerTable) transferred(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state(p).transferFailures = 0
}

// snapshot returns what a status says of the peers, by ID.
func (t *peerTable) snapshot() []Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	var peers []Peer
	for p, s := range t.peers {
		open := s.open() && t.connected(p)
		peers = append(peers, Peer{ID: p, Open: open, Exchanged: s.exchanged, InSync: s.inSync, By: s.by, Heads: s.heads, Err: s.err})
	}
	slices.SortFunc(peers, func(a, b Peer) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return peers
}

// sameHeads reports whether the CIDs that a peer showed are those of the heads
// that this side shows.
func sameHeads(ours []entry.Position, shown []string) bool {
	ours = ours[:min(len(ours), maxHeads)]
	theirs := make(map[string]bool, len(shown))
	for _, hash := range shown {
		theirs[hash] = true
	}
	for _, h := range ours {
		if !theirs[h.Hash] {
			return false
		}
	}
	return len(theirs) == len(ours)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
