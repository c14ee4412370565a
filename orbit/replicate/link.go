package replicate

import (
	"context"
	"errors"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Bounds per link.
const (
	linkJoins    = 8    // databases whose new entries are joined at once
	linkTasks    = 8    // databases that catch up at once
	linkRemember = 1024 // entries that are not sent back

	blockOverhead = 128 // bytes of a queued block besides its data
)

// link is the inventory session with a daemon. It implements
// [inventory.Handler]: new entries of the peer are joined, and a database whose
// state differs catches up, by a transfer from the peer, until the states agree.
// The daemon at the other end does the same.
//
// A replica runs while one of its databases' tasks does, so a link costs a
// resting database nothing but its place in the session.
type link struct {
	r       *Replicator
	peer    peer.ID
	session *inventory.Session
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{}
	begun   time.Time
	got     *lru.Cache[string, struct{}] // CIDs of entries that the peer sent
	behind  *schedule                    // the databases whose states differ
	tasks   sync.WaitGroup

	mu      sync.Mutex
	heard   map[inventory.Key]time.Time // when the peer told its state, unless that was when the session began
	arrived map[inventory.Key][]block.Block
	order   []inventory.Key // of arrived, oldest first
	joining int             // goroutines that join them
}

func newLink(r *Replicator, p peer.ID) *link {
	l := &link{
		r: r, peer: p,
		done:    make(chan struct{}),
		begun:   time.Now(),
		behind:  newSchedule(),
		heard:   make(map[inventory.Key]time.Time),
		arrived: make(map[inventory.Key][]block.Block),
	}
	l.got, _ = lru.New[string, struct{}](linkRemember) // fails for sizes below 1
	l.ctx, l.cancel = context.WithCancel(r.tasks.Context())
	return l
}

// run runs the session until it ends.
func (l *link) run() error {
	defer close(l.done)
	l.tasks.Go(l.catchUpAlways)
	err := l.session.Run(l.ctx)
	l.cancel()
	l.tasks.Wait()
	l.drop()
	return err
}

// Common implements [inventory.Handler].
func (l *link) Common(k inventory.Key, theirs inventory.State) {
	if rp := l.r.find(addressOf(k)); rp != nil {
		l.hear(k) // somebody may wait for a comparison from now on
		rp.peers.link(l.peer, true)
	}
	l.compare(k, theirs, 0)
}

// Changed implements [inventory.Handler].
func (l *link) Changed(k inventory.Key, theirs inventory.State, entries []block.Block) {
	l.hear(k)
	if len(entries) == 0 || !l.take(k, entries) {
		l.compare(k, theirs, l.behind.delay(k))
	}
}

// Gone implements [inventory.Handler].
func (l *link) Gone(k inventory.Key) {
	l.forget(k)
	if rp := l.r.find(addressOf(k)); rp != nil {
		rp.peers.link(l.peer, false)
	}
}

// forget forgets a database that one side does not replicate any more.
func (l *link) forget(k inventory.Key) {
	l.mu.Lock()
	delete(l.heard, k)
	l.mu.Unlock()
	l.behind.remove(k)
}

// hear notes that the peer tells its state of a database.
func (l *link) hear(k inventory.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard[k] = time.Now()
}

// heardAt returns when the peer told the state of a database last.
func (l *link) heardAt(k inventory.Key) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.heard[k]; ok {
		return at
	}
	return l.begun
}

// compare compares the state of a peer's replica with that of the one here. If
// they differ, the replica here catches up after a time. A peer that does not
// have the database yet has nothing to catch up with.
func (l *link) compare(k inventory.Key, theirs inventory.State, after time.Duration) (agree bool) {
	ours := l.r.index.State(l.ctx, k)
	switch {
	case theirs == inventory.State{}:
		l.behind.remove(k)
	case ours == theirs:
		l.behind.remove(k)
		agree = true
	default:
		l.behind.add(k, time.Now().Add(l.r.random.around(after)))
	}
	if rp := l.r.find(addressOf(k)); rp != nil {
		rp.compared(l.peer, agree, l.heardAt(k))
	}
	return agree
}

// told notes that the peer was told the state of the replica here, which may
// agree with its own by now.
func (l *link) told(k inventory.Key, ours, theirs inventory.State) {
	agree := ours == theirs && theirs != inventory.State{}
	if agree {
		l.behind.remove(k)
	}
	if rp := l.r.find(addressOf(k)); rp != nil {
		rp.compared(l.peer, agree, l.heardAt(k))
	}
}

// take queues entries that the peer sent, within its memory budget, and reports
// whether it did.
func (l *link) take(k inventory.Key, entries []block.Block) bool {
	if !l.r.budget.TryAcquire(l.peer, int64(sizeOf(entries))) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.arrived[k]) == 0 {
		l.order = append(l.order, k)
	}
	l.arrived[k] = append(l.arrived[k], entries...)
	if l.joining < linkJoins {
		l.joining++
		l.tasks.Go(l.joinArrived)
	}
	return true
}

// sizeOf returns what blocks take in memory.
func sizeOf(bs []block.Block) (size int) {
	for _, b := range bs {
		size += len(b.Data) + blockOverhead
	}
	return size
}

// joinArrived joins queued entries until none is queued. Entries of one
// database may be joined by several goroutines.
func (l *link) joinArrived() {
	for {
		l.mu.Lock()
		if len(l.order) == 0 {
			l.joining--
			l.mu.Unlock()
			return
		}
		k := l.order[0]
		l.order = l.order[1:]
		entries := l.arrived[k]
		delete(l.arrived, k)
		l.mu.Unlock()
		l.join(k, entries)
		l.r.budget.Release(l.peer, int64(sizeOf(entries)))
	}
}

// join joins entries, and compares the states afterwards.
func (l *link) join(k inventory.Key, entries []block.Block) {
	rp, ctx, release := l.acquire(k)
	if rp == nil {
		return
	}
	defer release()
	after := announceAfter
	if rp.database() == nil || rp.receive(ctx, l.peer, entries) {
		after = 0
	}
	if theirs, ok := l.session.Common(k); ok {
		l.compare(k, theirs, after)
	}
}

// acquire acquires the replica of a database, and waits until the database is
// open, if it is here. The context ends with the link, and with the replica.
func (l *link) acquire(k inventory.Key) (rp *replica, ctx context.Context, release func()) {
	if l.ctx.Err() != nil {
		return nil, nil, nil
	}
	rp, let := l.r.acquire(addressOf(k))
	if rp == nil {
		return nil, nil, nil
	}
	ctx, cancel := context.WithCancel(l.ctx)
	stop := context.AfterFunc(rp.ctx, cancel)
	release = func() {
		stop()
		cancel()
		let()
	}
	select {
	case <-rp.tried:
		return rp, ctx, release
	case <-ctx.Done():
	}
	release()
	return nil, nil, nil
}

// catchUpAlways lets the databases catch up that are due, until the link ends.
func (l *link) catchUpAlways() {
	slots := make(chan struct{}, linkTasks)
	for {
		select {
		case slots <- struct{}{}:
		case <-l.ctx.Done():
			return
		}
		k, ok := l.behind.next(l.ctx)
		if !ok {
			return
		}
		l.tasks.Go(func() {
			l.catchUp(k)
			<-slots
		})
	}
}

// catchUp transfers what the peer has of a database and the replica here lacks,
// and tells the peer the state afterwards, and all daemons if it is a new one. It
// is repeated at growing intervals while the states differ.
func (l *link) catchUp(k inventory.Key) {
	defer l.behind.finished(k)
	if _, ok := l.session.Common(k); !ok {
		l.behind.remove(k)
		return
	}
	rp, ctx, release := l.acquire(k)
	if rp == nil {
		return
	}
	defer release()
	rp.catchUp(ctx, l.peer, l.behind.runs(k) > 1)
	state, differs := l.r.index.renew(l.ctx, k)
	if differs {
		l.r.links.tell(k, state, nil)
	} else {
		l.session.Tell(k, state, nil)
	}
	if theirs, ok := l.session.Common(k); ok {
		l.compare(k, theirs, l.behind.pause(k))
	}
}

// drop removes the link, all of whose tasks have ended.
func (l *link) drop() {
	l.r.links.remove(l)
	for _, rp := range l.r.running() {
		_, has := l.r.links.common(l.peer, rp.key)
		rp.peers.link(l.peer, has)
	}
}

// catchUp gets from a daemon what its replica has and this one lacks: the
// database itself, or entries. If that was in vain before, heads are exchanged
// as well, so that bitswap fetches what the daemon does not transfer.
func (rp *replica) catchUp(ctx context.Context, p peer.ID, again bool) {
	if rp.database() == nil && rp.accepts() {
		if err := rp.obtainFrom(ctx, p); err != nil {
			log.Debugw("obtain", "address", rp.address, "peer", p, "err", err)
		}
	}
	if rp.database() != nil && rp.claimTransfer(p) {
		rp.reconcile(ctx, p, nil, true)
	}
	if !again {
		return
	}
	if begins, _ := rp.peers.refresh(p); begins {
		rp.exchange(ctx, p)
	}
}

// receive joins new entries that a daemon sent, and publishes them to the
// subscribers of the topic. It reports whether the daemon has others that are
// needed.
func (rp *replica) receive(ctx context.Context, p peer.ID, entries []block.Block) (more bool) {
	if !rp.accepts() || rp.peers.ignores(p) {
		return false
	}
	joined, err := rp.join(ctx, []peer.ID{p}, orbit.NewCandidates(entries...))
	if err != nil {
		return false
	}
	for i, j := range joined {
		switch {
		case j.Outcome == orbit.Pending:
			more = true
		case j.Outcome == orbit.Joined && j.Err == nil:
			if len(rp.subscribers()) > 0 && rp.r.see(rp.address, j.Hash) {
				rp.announce(entries[i])
			}
		case useless(j.Err):
			rp.peers.penalize(p)
		}
	}
	return more
}

// useless reports whether an error says that an entry is of no use at any time.
func useless(err error) bool {
	return err != nil && !errors.Is(err, orbit.ErrUnavailable) && !errors.Is(err, orbit.ErrNotAllowed) &&
		!errors.Is(err, orbit.ErrPeerQuotaFull) && !errors.Is(err, orbit.ErrQuotaFull)
}

// compared notes how the replica of a daemon compares with this one.
func (rp *replica) compared(p peer.ID, agree bool, at time.Time) {
	heads := 0
	if db := rp.database(); db != nil && agree {
		if s, err := oplog.Of(db).Stats(rp.ctx); err == nil {
			heads = int(s.HeadCount)
		}
	}
	rp.peers.compared(p, rp.inSync(agreement{ByState, agree}), heads, at)
}
