package replicate

import (
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

// Bounds of what one peer transfers.
const (
	maxUseless   = 256     // useless blocks in excess of the useful ones
	maxLater     = 1 << 10 // refused entries that may be needed later
	maxLaterSize = 1 << 20 // bytes of their blocks
	maxWalked    = 1 << 10 // missing ancestors that are requested at once
)

// serveSession answers a peer that requests the entries that it lacks.
func (r *Replicator) serveSession(s network.Stream) {
	p := s.Conn().RemotePeer()
	end, ok := r.tasks.Begin()
	if !ok {
		s.Reset()
		return
	}
	defer end()
	if !r.sessions.TryAcquire(p, 1) {
		s.Reset()
		return
	}
	defer r.sessions.Release(p, 1)
	ctx, cancel := context.WithCancel(r.tasks.Context())
	defer cancel()
	release := func() {}
	defer func() { release() }()
	var about *replica
	err := reconcile.Serve(ctx, s, reconcile.Source{
		Log: func(address string) (log, access *oplog.Log, ok bool) {
			rp, let := r.acquire(address)
			if rp == nil {
				return nil, nil, false
			}
			<-rp.tried
			ended := context.AfterFunc(rp.ctx, cancel) // the database may be closed
			release = func() { ended(); let() }
			if rp.database() == nil {
				return nil, nil, false
			}
			about = rp
			return oplog.Of(rp.database()), rp.accessLog(), true
		},
		Block: r.cfg.Orbit.Block,
	})
	if err != nil {
		log.Debugw("serve session", "peer", p, "err", err)
	}
	if about != nil {
		about.peers.sessionEnded(p)
	}
}

// claimTransfer reports whether the peer is to be asked to transfer entries. If
// so, the caller calls reconcile, and bitswap waits from now on.
func (rp *replica) claimTransfer(p peer.ID) bool {
	if !reconcile.MaySpeak(rp.r.cfg.Host, p) || !rp.accepts() || rp.isFull() != nil || !rp.peers.claimTransfer(p) {
		return false
	}
	rp.slot.announce()
	return true
}

// reconcile asks a peer to transfer the entries that are missing here, until
// the heads that it showed are here, and at least once if its state differs. It
// reports whether it asked the peer. Bitswap fetches what no peer transfers. A
// peer with which this fails is not asked for a while. The caller called
// claimTransfer.
func (rp *replica) reconcile(ctx context.Context, p peer.ID, shown []string, differs bool) (asked bool) {
	defer rp.peers.releaseTransfer(p)
	for {
		if !differs && !rp.lacks(ctx, shown) {
			rp.slot.withdraw()
			return asked
		}
		holding, stop := context.WithCancel(ctx)
		err := rp.slot.begin(ctx, stop)
		again := false
		if err == nil {
			if differs || rp.lacks(ctx, shown) { // the peer before may have transferred them
				again, err = rp.session(holding, p)
				asked, differs = true, again && differs
			}
			if again {
				rp.slot.announce()
			}
			rp.slot.end()
		}
		stop()
		if err != nil {
			log.Debugw("reconcile", "address", rp.address, "peer", p, "err", err)
			if ctx.Err() == nil && rp.deserves(p, err) {
				rp.peers.transferFailed(p)
			}
		}
		if !again {
			return asked
		}
	}
}

// deserves reports whether a peer gets a penalty for a failed transfer: not if
// it cannot transfer, is gone, or the disk here is full.
func (rp *replica) deserves(p peer.ID, err error) bool {
	return !errors.Is(err, reconcile.ErrUnsupported) && !errors.Is(err, space.ErrFull) && rp.connected(p)
}

// session transfers entries of a peer that holds the slot. It reports whether
// the peer is to get the slot again: other peers wait for it, and the session
// did not come to its end.
func (rp *replica) session(ctx context.Context, p peer.ID) (again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := rp.r.transfers.Acquire(ctx, p, 1); err != nil {
		return false, err
	}
	defer rp.r.transfers.Release(p, 1)
	in := &receiver{rp: rp, peer: p, stall: time.AfterFunc(transferStall, cancel)}
	defer in.stall.Stop()
	defer rp.setTransfer(nil)
	for i, phase := range []func(context.Context, *reconcile.Session) (bool, error){in.compare, in.walk} {
		if stats, err := oplog.Of(rp.database()).Stats(ctx); err != nil || i > 0 && stats.Pending == 0 {
			return false, err
		}
		s, err := reconcile.Open(ctx, rp.r.cfg.Host, p, rp.address)
		if err != nil {
			return false, err
		}
		s.Answered = rp.slot.progressed
		again, err = phase(ctx, s)
		s.Reset()
		if again || err != nil && !errors.Is(err, errRevoked) {
			return again, err
		}
	}
	return false, nil
}

// errRevoked says that a peer transfers many entries of revoked writers. They
// are accepted only if a pending entry needs them, so it is better to request
// those.
var errRevoked = errors.New("many entries of writers that may not write")

// receiver receives the entries that a peer transfers while it holds the slot.
// One goroutine uses it, but for verified, which uses none of its changing
// fields.
type receiver struct {
	rp        *replica
	peer      peer.ID
	stall     *time.Timer       // ends the session when nothing useful arrives
	useful    int               // entries that became part of the log
	of        uint64            // entries that the peer has, as it says
	requested map[string]bool   // missing ancestors that were requested
	walked    int               // entries of those that arrived and are pending
	revoked   int               // entries that were refused because their writers may not write
	useless   int               // other blocks
	later     []orbit.Candidate // refused entries that may be needed later
	laterSize int               // bytes of their blocks
}

// compare receives the entries that the peer has and the log lacks, oldest
// first. It reports whether the slot passes on before the end.
func (in *receiver) compare(ctx context.Context, s *reconcile.Session) (again bool, err error) {
	for d, err := range s.Compare(ctx, oplog.Of(in.rp.database())) {
		if err != nil {
			return false, err
		}
		if again, err := in.receive(ctx, s, d); again || err != nil {
			return again, err
		}
	}
	return false, s.Close()
}

// walk receives the missing ancestors of pending entries, from the newest to
// the oldest: the ancestors of an authorized entry may be entries of revoked
// writers.
func (in *receiver) walk(ctx context.Context, s *reconcile.Session) (again bool, err error) {
	for {
		missing, err := oplog.Of(in.rp.database()).Missing(ctx)
		if err != nil || len(missing) == 0 {
			return false, errors.Join(err, s.Close())
		}
		missing = missing[:min(len(missing), maxWalked)]
		d, err := reconcile.DifferenceOf(missing)
		if err != nil {
			return false, err
		}
		in.requested = make(map[string]bool, len(missing))
		for _, hash := range missing {
			in.requested[hash] = true
		}
		before := in.walked + in.useful
		if again, err := in.receive(ctx, s, d); again || err != nil {
			return again, err
		}
		if in.walked+in.useful == before {
			return false, s.Close()
		}
	}
}

// receive joins the entries of a difference. It reports whether the slot passes
// on before the end.
func (in *receiver) receive(ctx context.Context, s *reconcile.Session, d reconcile.Difference) (again bool, err error) {
	in.of += d.Count
	in.show()
	for b, err := range ahead(in.verified(ctx, s.Transfer(d)), s.Reset) {
		if err == nil && !in.rp.accepts() {
			err = space.ErrFull
		}
		if err == nil {
			err = in.take(ctx, b)
		}
		if err != nil {
			return false, err
		}
		in.show()
		if in.rp.slot.isUp() {
			return true, nil
		}
	}
	return false, nil
}

func (in *receiver) show() {
	in.rp.setTransfer(&Transfer{From: in.peer, Got: uint64(in.useful), Of: in.of})
}

// Transfer is the transfer that runs.
type Transfer struct {
	From peer.ID
	Got  uint64 // entries that arrived
	Of   uint64 // entries that the peer announced
}

func (rp *replica) setTransfer(s *Transfer) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.transfer = s
	rp.changes.Announce()
}

// batch is entries whose signatures were checked, and the number of useless
// blocks that came with them.
type batch struct {
	entries []orbit.Candidate
	useless int
}

// verified yields the batches, verified.
func (in *receiver) verified(ctx context.Context, batches iter.Seq2[[]block.Block, error]) iter.Seq2[batch, error] {
	return func(yield func(batch, error) bool) {
		for bs, err := range batches {
			var b batch
			if err == nil {
				b = in.verify(ctx, bs)
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// verify decodes the blocks, checks the signatures of the entries, and
// remembers the identities. An identity that is known, and any other block, is
// useless.
func (in *receiver) verify(ctx context.Context, bs []block.Block) (b batch) {
	o := in.rp.r.cfg.Orbit
	var ours []orbit.Candidate
	for _, c := range orbit.NewCandidates(bs...) {
		if !errors.Is(c.Err(), entry.ErrMalformed) {
			b.entries = append(b.entries, c)
			if e := c.Entry(); e != nil && e.LogID == in.rp.address {
				ours = append(ours, c)
			}
			continue
		}
		if _, err := o.IdentityOf(ctx, c.Hash()); !errors.Is(err, orbit.ErrUnavailable) {
			b.useless++
			continue
		}
		if err := o.CacheIdentity(c.Clone().Block()); err != nil {
			b.useless++
		}
	}
	in.rp.database().Verify(ctx, ours)
	return b
}

var errUseless = errors.New("the transferred blocks are useless")

// take joins entries, within the memory budget of the peer.
func (in *receiver) take(ctx context.Context, b batch) error {
	size := int64(in.laterSize)
	for _, c := range b.entries {
		size += int64(len(c.Block().Data))
	}
	waiting, cancel := context.WithTimeout(ctx, slotStall)
	err := in.rp.r.budget.Acquire(waiting, in.peer, size)
	cancel()
	if err != nil {
		return err
	}
	defer in.rp.r.budget.Release(in.peer, size)
	offered := append(in.later, b.entries...)
	again := len(in.later)
	in.later, in.laterSize = nil, 0
	joined, err := in.rp.join(ctx, []peer.ID{in.peer}, offered)
	if err != nil {
		return err
	}
	if err := in.rp.isFull(); err != nil {
		return err
	}
	before := in.useful + in.walked
	in.useless += b.useless
	for i, j := range joined {
		in.count(j, offered[i], i < again)
	}
	if in.useful+in.walked > before {
		in.rp.slot.progressed()
		in.stall.Reset(transferStall)
		in.rp.peers.transferred(in.peer)
	}
	if in.revoked > maxUseless {
		in.revoked = 0
		return errRevoked
	}
	if in.useless > in.useful+in.walked+maxUseless {
		return fmt.Errorf("%w: %d blocks beside %d entries", errUseless, in.useless, in.useful)
	}
	return nil
}

// count counts an entry by its outcome, and keeps it if it may be needed later.
// again says that it was kept before.
func (in *receiver) count(j orbit.JoinResult, c orbit.Candidate, again bool) {
	notAllowed := j.Outcome == orbit.Refused && errors.Is(j.Err, orbit.ErrNotAllowed)
	invalid := j.Outcome == orbit.Refused && errors.Is(j.Err, entry.ErrInvalid)
	size := len(c.Block().Data)
	switch {
	case j.Outcome == orbit.Joined:
		in.useful++
	case j.Outcome == orbit.Pending && in.requested[j.Hash]:
		in.walked++
	case (invalid || notAllowed) && len(in.later) < maxLater && in.laterSize+size <= maxLaterSize:
		in.later = append(in.later, c.Clone())
		in.laterSize += size
	case notAllowed:
		in.revoked++
	case !again || j.Outcome == orbit.Refused:
		in.useless++
	}
}

// ahead yields the values of a sequence, and computes the next one meanwhile.
// If the loop is left early, ahead calls stop, which ends the sequence.
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
				for range results { // until the goroutine ends
				}
				return
			}
		}
	}
}
