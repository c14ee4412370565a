package replicate

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
)

// Comparison says by what the replica of a peer was compared with the one here.
type Comparison string

const (
	// ByState compares the authorized entries and the access list
	// ([reconcile.State]).
	ByState Comparison = "state"
	// ByHeads compares heads, as a JavaScript peer tells nothing else. If a
	// writer was revoked, it may regard other entries as authorized.
	ByHeads Comparison = "heads"
	// NotComparable is the result for a daemon of an earlier version, if the
	// access list can change: its heads do not tell which entries are
	// authorized there.
	NotComparable Comparison = "not comparable"
)

// agreement is the outcome of a comparison.
type agreement struct {
	by     Comparison
	agrees bool
}

// stateWithin bounds a comparison of states.
const stateWithin = 15 * time.Second

// compare compares the replica of a peer, which showed these heads, with the
// one here.
func (rp *replica) compare(ctx context.Context, p peer.ID, shown []string) (a agreement, err error) {
	a.by = ByHeads
	if reconcile.MaySpeak(rp.r.cfg.Host, p) {
		theirs, err := rp.stateOf(ctx, p)
		switch {
		case err == nil:
			ours, err := reconcile.StateOf(ctx, oplog.Of(rp.database()), rp.accessLog())
			return agreement{ByState, err == nil && ours.Agrees(theirs)}, err
		case errors.Is(err, reconcile.ErrEarlierVersion) && rp.accessLog() != nil:
			return agreement{by: NotComparable}, nil
		case !errors.Is(err, reconcile.ErrEarlierVersion) && !errors.Is(err, reconcile.ErrUnsupported):
			return agreement{by: ByState}, err
		}
	}
	ours, err := oplog.Of(rp.database()).Heads(ctx)
	a.agrees = err == nil && sameHeads(ours, shown)
	return a, err
}

// stateOf requests the state of a peer's replica.
func (rp *replica) stateOf(ctx context.Context, p peer.ID) (reconcile.State, error) {
	ctx, cancel := context.WithTimeout(ctx, stateWithin)
	defer cancel()
	if err := rp.r.states.Acquire(ctx, p, 1); err != nil {
		return reconcile.State{}, err
	}
	defer rp.r.states.Release(p, 1)
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

// settle compares the replicas of peers whose heads are the heads here since
// the log changed: when they were shown, not all their ancestors were here.
func (rp *replica) settle(ours []entry.Position) {
	for p, shown := range rp.peers.settle(ours) {
		rp.tasks.Go(func() { rp.confirm(p, shown) })
	}
}

// confirm runs a comparison that settle asked for.
func (rp *replica) confirm(p peer.ID, shown []string) {
	a, err := rp.compare(rp.ctx, p, shown)
	if err != nil {
		rp.peers.unconfirmed(p)
		return
	}
	rp.peers.confirmed(p, a.by, rp.inSync(a))
}
