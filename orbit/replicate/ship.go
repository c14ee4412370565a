package replicate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
	"github.com/newpieceplease/npp/space"
)

// Bounds of what one peer ships.
const (
	maxUseless   = 256     // blocks of no use, besides as many as are of use
	maxLater     = 1 << 10 // entries without effect that may turn out to be needed
	maxLaterSize = 1 << 20 // bytes of those
	maxOpening   = 8       // blocks that it may take to open a database
	maxWalked    = 1 << 10 // missing ancestors that are asked for at once
)

// serveSession answers a peer that asks for what it lacks.
func (r *Replicator) serveSession(s network.Stream) {
	p := s.Conn().RemotePeer()
	if !r.enter() {
		s.Reset()
		return
	}
	defer r.tasks.Done()
	if !r.sessions.tryAcquire(p, 1) {
		s.Reset()
		return
	}
	defer r.sessions.release(p, 1)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	release := func() bool { return false }
	defer func() { release() }()
	var about *replica
	err := reconcile.Serve(ctx, s, reconcile.Source{
		Log: func(address string) (log, access *oplog.Log, ok bool) {
			rp := r.find(address)
			if rp == nil || rp.database() == nil {
				return nil, nil, false
			}
			about = rp
			release = context.AfterFunc(rp.ctx, cancel) // it may be closed
			return oplog.Of(rp.database()), rp.accessLog(), true
		},
		Block: r.cfg.Orbit.Block,
	})
	if err != nil {
		log.Debugw("session of", "peer", p, "err", err)
	}
	if about != nil {
		about.sessionEnded(p)
	}
}

// claim says that reconcile will be called, if the peer is to be asked to ship. From
// now on bitswap waits.
func (rp *replica) claim(p peer.ID) bool {
	if !reconcile.Speaks(rp.r.cfg.Host, p) || !rp.accepts() || rp.isFull() != nil {
		return false
	}
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.partner(p)
	if q.ships || time.Now().Before(q.shipNext) {
		return false
	}
	q.ships = true
	rp.turns.want()
	return true
}

// reconcile has a peer ship what it has of the database and we lack, until we have
// the heads that it showed, and at least once if its state differs. It reports
// whether it asked the peer. What nobody ships is fetched. A peer with whom that
// fails is not asked for a while. The peer was claimed.
func (rp *replica) reconcile(ctx context.Context, p peer.ID, shown []string, differs bool) (asked bool) {
	defer func() {
		rp.mu.Lock()
		defer rp.mu.Unlock()
		rp.partner(p).ships = false
	}()
	for {
		if !differs && !rp.lacks(ctx, shown) {
			rp.turns.withdraw()
			return asked
		}
		turn, stop := context.WithCancel(ctx)
		err := rp.turns.begin(ctx, stop)
		again := false
		if err == nil {
			if differs || rp.lacks(ctx, shown) { // who was before may have had them
				again, err = rp.session(turn, p)
				asked, differs = true, again && differs
			}
			if again {
				rp.turns.want()
			}
			rp.turns.end()
		}
		stop()
		if err != nil {
			log.Debugw("reconcile", "address", rp.address, "peer", p, "err", err)
			if ctx.Err() == nil {
				rp.shipFailed(p, err)
			}
		}
		if !again {
			return asked
		}
	}
}

// shipFailed has a peer not be asked to ship for a while, longer each time, unless
// it cannot ship or is gone, or the disk is full here.
func (rp *replica) shipFailed(p peer.ID, err error) {
	if errors.Is(err, reconcile.ErrUnsupported) || errors.Is(err, space.ErrFull) || !rp.connected(p) {
		return
	}
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.partner(p)
	q.shipNext = time.Now().Add(rp.r.random.around(doubled(failMin, q.shipFailures)))
	q.shipFailures++
	if q.subscribed && (q.next.IsZero() || q.next.After(q.shipNext)) {
		q.next = q.shipNext
		signal(rp.due)
	}
}

// lacks reports whether one of the heads that a peer showed is not here.
func (rp *replica) lacks(ctx context.Context, shown []string) bool {
	l := oplog.Of(rp.database())
	for _, hash := range shown {
		if ok, err := l.Has(ctx, hash); err != nil || !ok {
			return err == nil
		}
	}
	return false
}

// session is a turn of a peer. It reports whether the peer is to have another one:
// others wait, and it did not come to the end.
func (rp *replica) session(ctx context.Context, p peer.ID) (again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := rp.r.shipping.acquire(ctx, p, 1); err != nil {
		return false, err
	}
	defer rp.r.shipping.release(p, 1)
	in := &receiver{rp: rp, peer: p, patience: time.AfterFunc(shipPatience, cancel)}
	defer in.patience.Stop()
	defer rp.showShipment(nil)
	for i, phase := range []func(context.Context, *reconcile.Session) (bool, error){in.compare, in.walk} {
		if stats, err := oplog.Of(rp.database()).Stats(ctx); err != nil || i > 0 && stats.Waiting == 0 {
			return false, err
		}
		s, err := reconcile.Open(ctx, rp.r.cfg.Host, p, rp.address)
		if err != nil {
			return false, err
		}
		s.Answered = rp.turns.came
		again, err = phase(ctx, s)
		s.Reset()
		if again || err != nil && !errors.Is(err, errFormer) {
			return again, err
		}
	}
	return false, nil
}

// errFormer says that a peer ships much that former writers wrote. Such entries are
// taken only where an entry waits for them: it is better to ask for those.
var errFormer = errors.New("many entries of writers that may not write")

// compare takes what the peer has and the log lacks, oldest first. It reports
// whether the turn is over before that is all.
func (in *receiver) compare(ctx context.Context, s *reconcile.Session) (again bool, err error) {
	for d, err := range s.Compare(ctx, oplog.Of(in.rp.database())) {
		if err != nil {
			return false, err
		}
		if again, err := in.ship(ctx, s, d); again || err != nil {
			return again, err
		}
	}
	return false, s.Close()
}

// walk takes what entries wait for that came before, from the newest to the oldest:
// the ancestors of what counts may be entries of former writers.
func (in *receiver) walk(ctx context.Context, s *reconcile.Session) (again bool, err error) {
	for {
		missing, err := oplog.Of(in.rp.database()).Missing(ctx)
		if err != nil || len(missing) == 0 {
			return false, errors.Join(err, s.Close())
		}
		missing = missing[:min(len(missing), maxWalked)]
		d, err := reconcile.Wanted(missing)
		if err != nil {
			return false, err
		}
		in.asked = make(map[string]bool, len(missing))
		for _, hash := range missing {
			in.asked[hash] = true
		}
		before := in.walked + in.useful
		if again, err := in.ship(ctx, s, d); again || err != nil {
			return again, err
		}
		if in.walked+in.useful == before {
			return false, s.Close()
		}
	}
}

// ship takes what the peer sends of a difference. It reports whether the turn is
// over before that is all.
func (in *receiver) ship(ctx context.Context, s *reconcile.Session, d reconcile.Difference) (again bool, err error) {
	in.of += d.Count
	in.show()
	for bs, err := range ahead(in.verified(ctx, s.Ship(d)), s.Reset) {
		if err == nil && !in.rp.accepts() {
			err = space.ErrFull
		}
		if err == nil {
			err = in.take(ctx, bs)
		}
		if err != nil {
			return false, err
		}
		in.show()
		if in.rp.turns.isUp() {
			return true, nil
		}
	}
	return false, nil
}

func (in *receiver) show() {
	in.rp.showShipment(&Shipment{From: in.peer, Got: uint64(in.useful), Of: in.of})
}

// Shipment is what a peer ships at the moment.
type Shipment struct {
	From peer.ID
	Got  uint64 // entries
	Of   uint64 // as the peer says
}

func (rp *replica) showShipment(s *Shipment) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.shipment = s
	rp.notify()
}

// receiver takes what a peer ships in a turn.
type receiver struct {
	rp        *replica
	peer      peer.ID
	patience  *time.Timer     // ends the turn where nothing of use comes
	useful    int             // entries that became part of the log
	of        uint64          // entries that the peer said it has
	asked     map[string]bool // hashes of missing ancestors that were asked for
	walked    int             // of those, entries that wait
	former    int             // entries that were refused because their writers may not write
	useless   int             // other blocks
	later     []block.Block   // entries that are refused now and may be needed by what comes
	laterSize int
}

// batch is entries whose signatures were checked, and how many identities came
// with them that were known.
type batch struct {
	entries []block.Block
	useless int
}

// verified yields what batches have.
func (s *receiver) verified(ctx context.Context, batches iter.Seq2[[]block.Block, error]) iter.Seq2[batch, error] {
	return func(yield func(batch, error) bool) {
		for bs, err := range batches {
			var b batch
			if err == nil {
				b = s.verify(ctx, bs)
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// verify tells entries from the identities of their writers, which it remembers.
func (s *receiver) verify(ctx context.Context, bs []block.Block) (b batch) {
	o := s.rp.r.cfg.Orbit
	var ours []block.Block
	for _, one := range bs {
		if e, err := entry.Decode(one); err == nil {
			b.entries = append(b.entries, one)
			if e.LogID == s.rp.address {
				ours = append(ours, one)
			}
			continue
		}
		if _, err := o.IdentityOf(ctx, one.Hash); !errors.Is(err, orbit.ErrUnavailable) {
			b.useless++
			continue
		}
		if err := o.CacheIdentity(alone(one)); err != nil {
			b.useless++
		}
	}
	s.rp.database().Verify(ctx, orbit.NewCandidates(ours...))
	return b
}

// alone returns a block without the batch around it, to be kept.
func alone(b block.Block) block.Block {
	return block.Block{Hash: b.Hash, Data: bytes.Clone(b.Data)}
}

var errUseless = errors.New("what it ships is of no use")

// take joins entries.
func (s *receiver) take(ctx context.Context, b batch) error {
	size := int64(s.laterSize)
	for _, e := range b.entries {
		size += int64(len(e.Data))
	}
	waiting, cancel := context.WithTimeout(ctx, shipStall)
	err := s.rp.r.held.acquire(waiting, s.peer, size)
	cancel()
	if err != nil {
		return err
	}
	defer s.rp.r.held.release(s.peer, size)
	offered := append(s.later, b.entries...)
	again := len(s.later)
	s.later, s.laterSize = nil, 0
	joined, err := s.rp.join(ctx, []peer.ID{s.peer}, offered...)
	if err != nil {
		return err
	}
	if err := s.rp.isFull(); err != nil {
		return err
	}
	before := s.useful + s.walked
	s.useless += b.useless
	for i, j := range joined {
		switch {
		case j.Outcome == orbit.Joined:
			s.useful++
		case j.Outcome == orbit.Pending && s.asked[j.Hash]:
			s.walked++
		case j.Outcome == orbit.Refused && (errors.Is(j.Err, entry.ErrFault) || errors.Is(j.Err, orbit.ErrNotAllowed)) &&
			len(s.later) < maxLater && s.laterSize+len(offered[i].Data) <= maxLaterSize:
			s.later = append(s.later, alone(offered[i]))
			s.laterSize += len(offered[i].Data)
		case j.Outcome == orbit.Refused && errors.Is(j.Err, orbit.ErrNotAllowed):
			s.former++
		case i >= again || j.Outcome == orbit.Refused:
			s.useless++
		}
	}
	if s.useful+s.walked > before {
		s.rp.turns.came()
		s.patience.Reset(shipPatience)
		s.rp.shipped(s.peer)
	}
	if s.former > maxUseless {
		s.former = 0
		return errFormer
	}
	if s.useless > s.useful+s.walked+maxUseless {
		return fmt.Errorf("%w: %d blocks beside %d entries", errUseless, s.useless, s.useful)
	}
	return nil
}

// shipped notes that a peer shipped something of use.
func (rp *replica) shipped(p peer.ID) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.partner(p).shipFailures = 0
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

// obtainFrom opens the database with what a peer has, if it has it open.
func (rp *replica) obtainFrom(ctx context.Context, p peer.ID) error {
	if err := rp.r.shipping.acquire(ctx, p, 1); err != nil {
		return err
	}
	defer rp.r.shipping.release(p, 1)
	s, err := reconcile.Open(ctx, rp.r.cfg.Host, p, rp.address)
	if err != nil {
		return err
	}
	defer s.Reset()
	at := make(orbit.Attached)
	for range maxOpening {
		opts := rp.options()
		opts.Attached = at
		db, err := rp.r.cfg.Orbit.Open(ctx, rp.address, opts)
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
