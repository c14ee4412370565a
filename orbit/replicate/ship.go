package replicate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/orbit/reconcile"
)

// maxUseless is how many entries of no use a peer may ship, besides as many as
// are of use.
const maxUseless = 256

// maxOpening is how many blocks it may take to open a database.
const maxOpening = 8

// turns are taken by peers that ship, one at a time. Who waits for a turn ends
// that of a peer of whom nothing comes.
type turns struct {
	token chan struct{} // holds a token during a turn

	mu      sync.Mutex
	waiting int
	moved   time.Time     // when something came in the present turn
	over    chan struct{} // closed at the end of the present turn
	stop    func()        // ends the present turn
}

func newTurns() turns { return turns{token: make(chan struct{}, 1)} }

// begin waits for a turn, which stop ends.
func (t *turns) begin(ctx context.Context, stop func()) error {
	t.mu.Lock()
	t.waiting++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.waiting--
		t.mu.Unlock()
	}()
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case t.token <- struct{}{}:
			t.mu.Lock()
			defer t.mu.Unlock()
			t.moved, t.over, t.stop = time.Now(), make(chan struct{}), stop
			return nil
		case <-look.C:
			t.mu.Lock()
			rest := time.Until(t.moved.Add(shipStall))
			if rest <= 0 && t.stop != nil {
				t.stop()
				rest = shipStall
			}
			t.mu.Unlock()
			look.Reset(max(rest, shipStall/10))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *turns) end() {
	t.mu.Lock()
	close(t.over)
	t.stop = nil
	t.mu.Unlock()
	<-t.token
}

// others notes that something came, and reports whether another peer waits.
func (t *turns) others() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moved = time.Now()
	return t.waiting > 0
}

// awaitShipment waits while entries are being shipped, so that they are not
// fetched one by one meanwhile, and reports whether it had to.
func (rp *replica) awaitShipment() (waited bool) {
	t := &rp.turns
	for {
		t.mu.Lock()
		running, rest, over := t.stop != nil, time.Until(t.moved.Add(shipStall)), t.over
		t.mu.Unlock()
		if !running || rest <= 0 {
			return waited
		}
		waited = true
		select {
		case <-over:
		case <-time.After(rest):
		case <-rp.ctx.Done():
			return waited
		}
	}
}

// serveSession answers a peer that asks for what it lacks.
func (r *Replicator) serveSession(s network.Stream) {
	p := s.Conn().RemotePeer()
	if !r.sessions.tryAcquire(p, 1) {
		s.Reset()
		return
	}
	defer r.sessions.release(p, 1)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	release := func() bool { return false }
	defer func() { release() }()
	err := reconcile.Serve(ctx, s, reconcile.Source{
		Log: func(address string) (*oplog.Log, bool) {
			rp := r.find(address)
			if rp == nil || rp.database() == nil {
				return nil, false
			}
			release = context.AfterFunc(rp.ctx, cancel) // it may be closed
			return rp.database().Log(), true
		},
		Block: r.cfg.Orbit.Block,
	})
	if err != nil {
		log.Debugw("session of", "peer", p, "err", err)
	}
}

// reconcile has a peer ship what it has of the database and we lack, if it can,
// until we have its heads. What a peer does not ship in its turn is left to the
// next exchange, and what nobody ships is fetched. A peer with whom that fails is
// not asked for a while.
func (rp *replica) reconcile(ctx context.Context, p peer.ID, theirs []block.Block) {
	for more := true; more && rp.mayShip(p) && rp.lacks(ctx, theirs); {
		turn, stop := context.WithCancel(ctx)
		err := rp.turns.begin(ctx, stop)
		if err == nil {
			if more = rp.lacks(ctx, theirs); more { // who was before may have had them
				more, err = rp.session(turn, p)
			}
			rp.turns.end()
		}
		stop()
		if err != nil {
			log.Debugw("reconcile", "address", rp.address, "peer", p, "err", err)
			if ctx.Err() == nil {
				rp.shipFailed(p, err)
			}
			return
		}
	}
}

// mayShip reports whether a peer is to be asked to ship.
func (rp *replica) mayShip(p peer.ID) bool {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	return time.Now().After(rp.partner(p).shipNext)
}

// shipFailed has a peer not be asked to ship for a while, longer each time, unless
// it cannot ship or is gone.
func (rp *replica) shipFailed(p peer.ID, err error) {
	if errors.Is(err, reconcile.ErrUnsupported) || !rp.connected(p) {
		return
	}
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.partner(p)
	q.shipNext = time.Now().Add(rp.r.random.around(min(failMin<<min(q.shipFailures, 20), idleMax)))
	q.shipFailures++
	if q.subscribed && (q.next.IsZero() || q.next.After(q.shipNext)) {
		q.next = q.shipNext
		signal(rp.due)
	}
}

// lacks reports whether one of the heads of a peer is not here, or nothing is.
func (rp *replica) lacks(ctx context.Context, theirs []block.Block) bool {
	db := rp.database()
	if db == nil {
		return true
	}
	for _, b := range theirs {
		if ok, err := db.Log().Has(ctx, b.Hash); err != nil || !ok {
			return err == nil
		}
	}
	return false
}

// session is a turn of a peer. It reports whether another one may bring more.
func (rp *replica) session(ctx context.Context, p peer.ID) (more bool, err error) {
	s, err := reconcile.Open(ctx, rp.r.cfg.Host, p, rp.address)
	if err != nil {
		return false, err
	}
	defer s.Reset()
	if rp.database() == nil {
		if err := rp.obtainFrom(ctx, s); err != nil {
			return false, err
		}
	}
	l := rp.database().Log()
	d, err := s.Compare(ctx, l)
	if err != nil {
		return false, err
	}
	rp.setShipment(&Shipment{From: p, Of: d.Count})
	defer rp.setShipment(nil)
	done, err := rp.takeShipment(ctx, p, ahead(rp.verified(ctx, p, s.Ship(d)), s.Reset))
	if err != nil {
		return false, err
	}
	if !done {
		return true, nil
	}
	s.Close()
	rp.mu.Lock()
	rp.partner(p).shipFailures = 0
	rp.mu.Unlock()
	return !d.Whole, nil
}

// Shipment is what a peer ships at the moment.
type Shipment struct {
	From peer.ID
	Got  uint64 // entries
	Of   uint64 // as the peer says
}

func (rp *replica) setShipment(s *Shipment) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.shipment = s
	rp.notify()
}

// takeShipment joins what comes, and reports whether it came to the end: after a
// while, others have their turn.
func (rp *replica) takeShipment(ctx context.Context, p peer.ID, batches iter.Seq2[[]block.Block, error]) (done bool, err error) {
	began := time.Now()
	useful, useless := 0, 0
	for entries, err := range batches {
		if err != nil {
			return false, err
		}
		good, err := rp.takeBatch(ctx, p, entries)
		if err != nil {
			return false, err
		}
		useful += good
		if useless += len(entries) - good; useless > useful+maxUseless {
			return false, fmt.Errorf("%w: what it ships is of no use", reconcile.ErrProtocol)
		}
		if rp.turns.others() && time.Since(began) > turnFor {
			return false, nil
		}
	}
	return true, nil
}

// verified yields the entries of batches, whose signatures were checked.
func (rp *replica) verified(ctx context.Context, p peer.ID, batches iter.Seq2[[]block.Block, error]) iter.Seq2[[]block.Block, error] {
	return func(yield func([]block.Block, error) bool) {
		for bs, err := range batches {
			var entries []block.Block
			if err == nil {
				entries = rp.verify(ctx, p, bs)
			}
			if !yield(entries, err) || err != nil {
				return
			}
		}
	}
}

// verify returns the entries among blocks. The others are identities of their
// writers.
func (rp *replica) verify(ctx context.Context, p peer.ID, bs []block.Block) (entries []block.Block) {
	at := make(orbit.AtHand)
	for _, b := range bs {
		if _, err := entry.Decode(b); err == nil {
			entries = append(entries, b)
		} else {
			at[b.Hash] = b
		}
	}
	for hash := range at {
		if _, err := rp.r.cfg.Orbit.IdentityOf(orbit.WithAtHand(ctx, at), hash); err != nil {
			log.Debugw("identity", "address", rp.address, "peer", p, "hash", hash, "err", err)
		}
	}
	rp.database().Verify(ctx, entries)
	return entries
}

// takeBatch joins entries, and returns how many of them were new.
func (rp *replica) takeBatch(ctx context.Context, p peer.ID, entries []block.Block) (fresh int, err error) {
	size := int64(0)
	for _, b := range entries {
		size += int64(len(b.Data))
	}
	if err := rp.r.held.acquire(ctx, p, size); err != nil {
		return 0, err
	}
	defer rp.r.held.release(p, size)
	joined, err := rp.join(ctx, []peer.ID{p}, entries...)
	if err != nil {
		return 0, err
	}
	for _, j := range joined {
		if j.Outcome == oplog.Joined || j.Outcome == oplog.Waiting {
			fresh++
		}
	}
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if rp.shipment != nil {
		rp.shipment = &Shipment{From: p, Got: rp.shipment.Got + uint64(fresh), Of: rp.shipment.Of}
	}
	rp.notify()
	return fresh, nil
}

// ahead yields what a sequence does, and has the next one made meanwhile. Where
// the loop is left before its end, stop ends what makes it.
func ahead[T any](seq iter.Seq2[T, error], stop func()) iter.Seq2[T, error] {
	type result struct {
		value T
		err   error
	}
	return func(yield func(T, error) bool) {
		results, left := make(chan result), make(chan struct{})
		go func() {
			defer close(results)
			for v, err := range seq {
				select {
				case results <- result{v, err}:
				case <-left:
					return
				}
			}
		}()
		for r := range results {
			if !yield(r.value, r.err) {
				stop()
				close(left)
				for range results { // until that is over
				}
				return
			}
		}
	}
}

// obtainFrom opens the database with what a peer has.
func (rp *replica) obtainFrom(ctx context.Context, s *reconcile.Session) error {
	at := make(orbit.AtHand)
	for range maxOpening {
		db, err := rp.r.cfg.Orbit.Open(orbit.WithAtHand(ctx, at), rp.address, orbit.OpenOptions{IndexBy: rp.indexBy()})
		if err == nil {
			rp.obtained(db)
			return nil
		}
		var needed *orbit.UnavailableError
		if !errors.As(err, &needed) {
			return err
		}
		bs, fetchErr := s.Blocks(needed.Hash)
		if fetchErr != nil || len(bs) == 0 || bs[0].Hash != needed.Hash {
			return errors.Join(err, fetchErr)
		}
		at[needed.Hash] = bs[0]
		rp.found(needed.Hash)
	}
	return fmt.Errorf("%w: %s", orbit.ErrUnavailable, rp.address)
}
