package replicate

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// EventKind is the kind of an event.
type EventKind string

const (
	Update     EventKind = "update" // an entry became authorized
	Lost       EventKind = "lost"   // an entry ceased to be authorized: the access list changed
	PeerJoined EventKind = "join"   // a peer opened the database
	PeerLeft   EventKind = "leave"  // a peer closed it or disconnected
	PeerInSync EventKind = "sync"   // the replica of a peer agrees with the one here
)

// Event is a change of a database or of its peers.
type Event struct {
	Kind    EventKind
	At      time.Time
	Peer    peer.ID       // of all kinds but Update and Lost
	Arrival orbit.Arrival // of Update and Lost
}

// watchers receive the events of peers. The zero value is ready to use.
type watchers struct {
	mu  sync.Mutex
	all map[chan Event]bool
}

// add returns a channel that receives each event from now on for which it has
// room, until remove is called.
func (w *watchers) add() (events <-chan Event, remove func()) {
	c := make(chan Event, watchQueue)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = make(map[chan Event]bool)
	}
	w.all[c] = true
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, c)
	}
}

// tell tells the watchers of an event that happens now. It does not block.
func (w *watchers) tell(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.At = time.Now()
	for c := range w.all {
		select {
		case c <- e:
		default: // its reader is slow
		}
	}
}

// Watch yields the events of a replicated database from now on: each entry that
// becomes authorized, in the order of arrival, and the events of its peers. A
// slow reader misses some of the latter. ready, unless it is nil, is called
// when Watch misses nothing any more. The sequence ends when the context is
// done or the replication of the database ends.
func (r *Replicator) Watch(ctx context.Context, address string, ready func()) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := r.awaitLoaded(ctx); err != nil {
			yield(Event{}, err)
			return
		}
		rp, release := r.acquire(address)
		if rp == nil {
			yield(Event{}, fmt.Errorf("%w: %s", ErrNotReplicated, address))
			return
		}
		defer release()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		select {
		case <-rp.tried:
		case <-ctx.Done():
		}
		events, remove := rp.watchers.add()
		defer remove()
		after := uint64(0) // of a database that is not here yet, all entries are new
		if db := rp.database(); db != nil {
			stats, err := oplog.Of(db).Stats(ctx)
			if err != nil {
				yield(Event{}, err)
				return
			}
			after = stats.Last
		}
		if ready != nil {
			ready()
		}
		failed := make(chan error, 1)
		updates := make(chan Event)
		go func() { failed <- rp.updates(ctx, after, updates) }()
		for {
			var e Event
			select {
			case e = <-events:
			case e = <-updates:
			case err := <-failed:
				yield(Event{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// updates sends the entries whose authorization changes after a number of
// arrival. It returns why it ended.
func (rp *replica) updates(ctx context.Context, after uint64, to chan<- Event) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(rp.ctx, func() { cancel(rp.end()) })()
	select {
	case <-rp.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for a, err := range rp.database().Updates(ctx, after) {
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return err
		}
		kind := Update
		if a.Revoked {
			kind = Lost
		}
		select {
		case to <- Event{Kind: kind, At: time.Now(), Arrival: a}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return orbit.ErrClosed
}
