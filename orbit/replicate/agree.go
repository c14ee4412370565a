package replicate

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
)

// Comparison says by what the replica of a peer was compared with our own.
type Comparison string

const (
	// ByState compares what counts and the access list ([reconcile.State]).
	ByState Comparison = "state"
	// ByHeads compares heads: a JavaScript peer tells no more. It may count other
	// entries where a writer was revoked.
	ByHeads Comparison = "heads"
	// NotComparable is a daemon of an earlier version, where the access list can be
	// changed: its heads do not tell what counts there.
	NotComparable Comparison = "not comparable"
)

// agreement is the outcome of a comparison.
type agreement struct {
	by     Comparison
	agrees bool
}

// stateWithin bounds a comparison of states.
const stateWithin = 15 * time.Second

// compare compares the replica of a peer that has shown these heads with our own.
func (rp *replica) compare(ctx context.Context, p peer.ID, shown []string) (a agreement, err error) {
	a.by = ByHeads
	if reconcile.Speaks(rp.r.cfg.Host, p) {
		theirs, err := rp.stateOf(ctx, p)
		switch {
		case err == nil:
			ours, err := reconcile.StateOf(ctx, oplog.Of(rp.database()), rp.accessLog())
			return agreement{ByState, err == nil && ours.Agrees(theirs)}, err
		case errors.Is(err, reconcile.ErrOlder) && rp.accessLog() != nil:
			return agreement{by: NotComparable}, nil
		case !errors.Is(err, reconcile.ErrOlder) && !errors.Is(err, reconcile.ErrUnsupported):
			return agreement{by: ByState}, err
		}
	}
	ours, err := oplog.Of(rp.database()).Heads(ctx)
	a.agrees = err == nil && sameHeads(ours, shown)
	return a, err
}

// accessLog returns the log of the access database, or nil where the list is
// fixed.
func (rp *replica) accessLog() *oplog.Log {
	if inner := rp.database().Access().Database(); inner != nil {
		return oplog.Of(inner)
	}
	return nil
}

// stateOf asks a peer for the state of its replica.
func (rp *replica) stateOf(ctx context.Context, p peer.ID) (reconcile.State, error) {
	ctx, cancel := context.WithTimeout(ctx, stateWithin)
	defer cancel()
	if err := rp.r.states.acquire(ctx, p, 1); err != nil {
		return reconcile.State{}, err
	}
	defer rp.r.states.release(p, 1)
	s, err := reconcile.Open(ctx, rp.r.cfg.Host, p, rp.address)
	if err != nil {
		return reconcile.State{}, err
	}
	defer s.Reset()
	state, err := s.State()
	if err != nil {
		return state, err
	}
	return state, s.Close()
}

// confirm compares the replica of a peer whose heads are ours by now, and notes
// whether it is in step.
func (rp *replica) confirm(p peer.ID, shown []string) {
	a, err := rp.compare(rp.ctx, p, shown)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.peers[p]
	if q == nil {
		return
	}
	q.confirming = false
	if err == nil {
		q.by = a.by
		if a.agrees {
			rp.inStep(p, q)
		}
		rp.notify()
	}
}
