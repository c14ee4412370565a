package replicate

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/heads"

	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// partner is a peer that has, or had, the database open.
type partner struct {
	subscribed bool
	busy       bool          // an exchange that we began runs
	next       time.Time     // of an exchange; zero for none
	pause      time.Duration // before the one after that
	failures   int           // exchanges in a row
	behind     int           // exchanges in a row since the last change that found other heads
	began      time.Time     // when we began an exchange
	last       time.Time     // when heads were exchanged
	inStep     time.Time     // when its replica agreed with ours
	by         Comparison    // what that was compared by; "" for not yet
	confirming bool          // it is being compared, since its heads are ours by now
	err        error         // of the last exchange
	heads      int           // that it had
	shown      []string      // hashes of those, while ours are others
	large      time.Time     // when heads that it cannot be sent were announced for it
	blame      int           // entries of no worth that it published since blamed
	blamed     time.Time

	ships        bool      // it ships, or is about to
	shipNext     time.Time // when it may be asked to ship
	shipFailures int       // in a row
}

// blame counts that a peer published an entry of no worth.
func (rp *replica) blame(p peer.ID) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.partner(p)
	if time.Since(q.blamed) > blameFor {
		q.blame, q.blamed = 0, time.Now()
	}
	q.blame++
}

// isIgnored reports whether what a peer publishes is ignored for a while: it
// published too much of no worth. Its heads are taken all the same.
func (rp *replica) isIgnored(p peer.ID) bool {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.peers[p]
	return q != nil && q.blame >= maxBlame && time.Since(q.blamed) <= blameFor
}

// partner returns a peer, which is remembered from now on. The caller holds
// rp.mu.
func (rp *replica) partner(p peer.ID) *partner {
	q := rp.peers[p]
	if q == nil {
		q = &partner{pause: idleMin}
		rp.forgetPartners()
		rp.peers[p] = q
	}
	return q
}

// subscription notes that a peer opened the database, or closed it.
func (rp *replica) subscription(p peer.ID, on bool) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if rp.peers[p] == nil && !on {
		return
	}
	q := rp.partner(p)
	if q.subscribed == on {
		// It may have begun anew on another connection, before the end of the
		// old one was noticed.
		if soon := later(time.Now(), q.began.Add(confirmAfter)); on && q.next.After(soon) {
			q.next = soon
			signal(rp.due)
		}
		return
	}
	q.subscribed, q.failures, q.behind, q.pause, q.next = on, 0, 0, idleMin, time.Time{}
	if !on {
		rp.tell(Event{Kind: Left, Peer: p})
	} else {
		rp.tell(Event{Kind: Met, Peer: p})
		q.next = later(time.Now(), q.began.Add(resubscribed))
		signal(rp.due)
		signal(rp.pulling) // it may have what is missing
	}
	rp.notify()
}

// forgetPartners makes room for one more partner. Who has the database open
// is not forgotten. The caller holds rp.mu.
func (rp *replica) forgetPartners() {
	if len(rp.peers) < maxPartners {
		return
	}
	var oldest peer.ID
	for id, q := range rp.peers {
		if old := rp.peers[oldest]; !q.busy && !q.subscribed && (old == nil || q.last.Before(old.last)) {
			oldest = id
		}
	}
	delete(rp.peers, oldest)
}

// exchangeAlways begins the exchanges that are due.
func (rp *replica) exchangeAlways() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-rp.due:
		case <-rp.ctx.Done():
			return
		}
		now, next := time.Now(), time.Now().Add(time.Hour)
		rp.mu.Lock()
		var due []peer.ID
		for id, q := range rp.peers {
			switch {
			case q.busy || q.next.IsZero():
			case q.next.After(now):
				next = earlier(next, q.next)
			default:
				q.busy, q.began, q.next = true, now, time.Time{}
				due = append(due, id)
			}
		}
		rp.mu.Unlock()
		for _, p := range due {
			rp.tasks.Go(func() {
				rp.exchange(rp.ctx, p)
				signal(rp.due)
			})
		}
		timer.Reset(time.Until(next))
	}
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

// doubled returns a pause that was doubled so many times.
func doubled(d time.Duration, times int) time.Duration { return min(d<<min(times, 20), idleMax) }

// exchange shows a peer our heads and takes its own. The partner is busy.
func (rp *replica) exchange(ctx context.Context, p peer.ID) {
	err := rp.r.exchanges.acquire(ctx, p, 1)
	if err == nil {
		err = rp.swap(ctx, p, rp.r.exchanges, func(ours heads.Side) ([]block.Block, error) {
			if !rp.connected(p) {
				return nil, errNotConnected
			}
			return heads.Exchange(ctx, rp.r.cfg.Host, p, rp.address, ours)
		})
	}
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.peers[p]
	if q == nil {
		return
	}
	q.busy, q.began, q.err = false, time.Now(), err
	if err != nil {
		// A peer that opens a database subscribes just before it answers.
		q.pause = doubled(failMin, q.failures)
		q.failures++
	}
	switch {
	case !rp.connected(p): // it says so when it is back
		rp.gone(p, q)
	case q.subscribed && q.next.IsZero(): // or it was asked for meanwhile
		q.next = time.Now().Add(rp.r.random.around(q.pause))
	}
	rp.notify()
}

var errNotConnected = errors.New("not connected")

func (rp *replica) connected(p peer.ID) bool {
	return rp.r.cfg.Host.Network().Connectedness(p) == network.Connected
}

// gone notes that a peer is not connected any more. The caller holds rp.mu.
func (rp *replica) gone(p peer.ID, q *partner) {
	q.next = time.Time{}
	if q.subscribed {
		q.subscribed = false
		rp.tell(Event{Kind: Left, Peer: p})
	}
}

// disconnected notes that the connection to a peer was lost. If it is back
// already, what it missed meanwhile is made up for.
func (rp *replica) disconnected(p peer.ID) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.peers[p]
	switch {
	case q == nil || !q.subscribed:
	case rp.connected(p):
		q.next = time.Now()
		signal(rp.due)
	default:
		rp.gone(p, q)
		rp.notify()
	}
}

// served answers a stream that a peer began, for which it has a slot.
func (rp *replica) served(s network.Stream) {
	p := s.Conn().RemotePeer()
	rp.mu.Lock()
	rp.partner(p)
	rp.mu.Unlock()
	err := rp.swap(rp.ctx, p, rp.r.served, func(ours heads.Side) ([]block.Block, error) { return heads.Serve(s, ours) })
	if err != nil {
		s.Reset()
		log.Debugw("exchange that was begun by", "peer", p, "address", rp.address, "err", err)
	}
}

// swap exchanges heads in one way or the other, takes those of the peer, and
// notes what that tells of it. It gives its slot back as soon as it has them.
func (rp *replica) swap(ctx context.Context, p peer.ID, slots *shares, exchange func(heads.Side) ([]block.Block, error)) error {
	var once sync.Once
	release := func() { once.Do(func() { slots.release(p, 1) }) }
	defer release()
	bound := &reading{s: rp.r.held, peer: p}
	defer bound.release()
	ours := heads.Side{MaxSend: heads.MaxSend, Reading: func(from io.Reader) io.Reader {
		bound.from = from
		return bound
	}}
	if rp.r.cfg.Reads != nil && rp.r.cfg.Reads(p) {
		ours.MaxSend = block.MaxSize
	}
	if rp.database() != nil {
		var err error
		if ours.Heads, err = rp.heads(ctx); err != nil {
			return err
		}
	}
	theirs, err := exchange(ours)
	release()
	if rp.database() == nil && rp.accepts() {
		if err := rp.obtainFrom(ctx, p); err != nil {
			log.Debugw("obtain", "address", rp.address, "peer", p, "err", err)
		}
	}
	if rp.database() == nil {
		return err
	}
	rp.announceLarge(p, ours)
	shown := make([]string, len(theirs))
	for i, b := range theirs {
		shown[i] = b.Hash
	}
	ships := rp.claim(p)
	if len(theirs) > 0 && rp.accepts() {
		if _, joinErr := rp.join(ctx, []peer.ID{p}, theirs...); err == nil {
			err = joinErr
		}
	}
	theirs, ours.Heads = nil, nil
	bound.release()
	var a agreement
	if !rp.lacks(ctx, shown) {
		var compareErr error
		if a, compareErr = rp.compare(ctx, p, shown); compareErr != nil {
			log.Debugw("compare", "address", rp.address, "peer", p, "err", compareErr)
		}
	}
	if ships {
		if rp.reconcile(ctx, p, shown, a.by == ByState && !a.agrees) {
			a, _ = rp.compare(ctx, p, shown)
		}
	}
	if err == nil {
		rp.compared(p, shown, a, slots == rp.r.exchanges)
	}
	return err
}

// announceLarge publishes heads that a subscriber cannot be sent otherwise, a few
// of them, now and then.
func (rp *replica) announceLarge(p peer.ID, ours heads.Side) {
	large := slices.DeleteFunc(slices.Clone(ours.Heads), func(b block.Block) bool { return len(b.Data) <= ours.MaxSend })
	if len(large) == 0 {
		return
	}
	rp.mu.Lock()
	q := rp.peers[p]
	now := time.Now()
	wanted := q != nil && q.subscribed && now.Sub(q.large) > heardFor && now.Sub(rp.large) > largeAfter
	if wanted {
		q.large, rp.large = now, now
	}
	rp.mu.Unlock()
	if !wanted {
		return
	}
	for _, b := range large[:min(len(large), maxLarge)] {
		rp.r.once(rp.address, b.Hash)
		rp.announce(b)
	}
}

// compared notes how the replica of a peer compares with ours, and when we begin the
// next exchange if we began this one.
func (rp *replica) compared(p peer.ID, shown []string, a agreement, begun bool) {
	// A daemon of an earlier version is not asked more often than one that agrees.
	ok := a.agrees || a.by == NotComparable
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.peers[p]
	if q == nil {
		return
	}
	q.failures, q.last, q.heads, q.err, q.shown = 0, time.Now(), len(shown), nil, nil
	if a.by != "" {
		q.by = a.by
	}
	switch {
	case a.agrees:
		rp.inStep(p, q)
	case len(shown) <= maxShown:
		q.shown = shown
	}
	switch {
	case !begun:
	case ok:
		q.pause = min(max(2*q.pause, idleMin), idleMax)
	default:
		q.pause = doubled(confirmAfter, q.behind)
		q.behind++
	}
	rp.notify()
}

// sessionEnded has heads be exchanged soon with a peer that asked us for entries or for
// our state, unless its replica agreed with ours before: it may agree by now. Where it
// does not, again and again, that is later each time.
func (rp *replica) sessionEnded(p peer.ID) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.peers[p]
	if q == nil || !q.subscribed || q.busy || !q.inStep.Before(q.last) {
		return
	}
	if soon := time.Now().Add(rp.r.random.around(doubled(againAfter, q.behind))); q.next.After(soon) {
		q.next = soon
		signal(rp.due)
	}
}

// inStep notes that the replica of a peer agrees with ours. The caller holds rp.mu.
func (rp *replica) inStep(p peer.ID, q *partner) {
	if rp.full != nil {
		return
	}
	now := time.Now()
	if q.inStep.IsZero() || now.Sub(q.inStep) > time.Second {
		rp.tell(Event{Kind: InStep, Peer: p})
	}
	q.inStep, q.behind, q.shown = now, 0, nil
	rp.gaveUp = false
	for g := range rp.guarded {
		signal(g.accessAgrees)
	}
}

// settle compares ours with the replicas of the peers that showed the heads which
// are ours since the log changed: they were shown before all their ancestors were
// here.
func (rp *replica) settle(ours []entry.Position) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	for p, q := range rp.peers {
		if q.shown != nil && !q.confirming && sameHeads(ours, q.shown) {
			q.confirming = true
			shown := q.shown
			rp.tasks.Go(func() { rp.confirm(p, shown) })
		}
	}
}

// heads returns the blocks of our heads, newest first.
func (rp *replica) heads(ctx context.Context) ([]block.Block, error) {
	l := oplog.Of(rp.database())
	positions, err := l.Heads(ctx)
	if err != nil {
		return nil, err
	}
	bs := make([]block.Block, 0, len(positions))
	for _, h := range positions[:min(len(positions), maxHeads)] {
		e, err := l.Get(ctx, h.Hash)
		if err != nil {
			return nil, err
		}
		bs = append(bs, e.Block)
	}
	return bs, nil
}

// sameHeads reports whether a peer that shows heads with these hashes shows the ones
// that we do.
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

// hurry tells that the log changed, and has exchanges take place soon, to see
// whether that arrived.
func (rp *replica) hurry() {
	soon := time.Now().Add(rp.r.random.around(confirmAfter))
	rp.mu.Lock()
	for _, q := range rp.peers {
		q.behind = 0
		if q.next.After(soon) {
			q.next = soon
		}
	}
	rp.notify()
	rp.mu.Unlock()
	signal(rp.due)
}

// askSoon has an exchange with a peer take place soon: something that it
// published was lost here.
func (rp *replica) askSoon(p peer.ID) {
	soon := time.Now().Add(rp.r.random.around(confirmAfter))
	rp.mu.Lock()
	if q := rp.peers[p]; q != nil && q.subscribed && q.next.After(soon) {
		q.next = soon
	}
	rp.mu.Unlock()
	signal(rp.due)
}

// ask has exchanges take place now.
func (rp *replica) ask() {
	rp.mu.Lock()
	for _, q := range rp.peers {
		if q.subscribed {
			q.next = time.Now()
		}
	}
	rp.mu.Unlock()
	signal(rp.due)
	signal(rp.pulling)
}

// refreshAccess makes the list of writers as new as that of peers who may know
// better, a few of them at once.
func (rp *replica) refreshAccess(ctx context.Context, from []peer.ID) {
	access := rp.r.find(rp.database().Access().Address())
	if access == nil || access.database() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	var group sync.WaitGroup
	for _, p := range from[:min(len(from), maxRefreshed)] {
		group.Go(func() { access.refresh(ctx, p) })
	}
	group.Wait()
}

// refresh exchanges heads with a peer, unless that was tried a moment ago, and
// waits until what it has is here.
func (rp *replica) refresh(ctx context.Context, p peer.ID) {
	rp.mu.Lock()
	q := rp.partner(p)
	if time.Since(q.began) < refreshAfter {
		rp.mu.Unlock()
		return
	}
	ours := !q.busy
	q.busy, q.began = true, time.Now()
	rp.mu.Unlock()
	if ours {
		rp.exchange(ctx, p)
	}
	l := oplog.Of(rp.database())
	for {
		changed := l.Changed()
		rp.mu.Lock()
		busy, status := q.busy, rp.changed
		rp.mu.Unlock()
		if s, err := l.Stats(ctx); err != nil || s.Waiting == 0 && !busy {
			return
		}
		select {
		case <-changed:
		case <-status:
		case <-ctx.Done():
			return
		}
	}
}
