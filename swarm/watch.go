package swarm

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/wait"
)

const (
	// maxWatchQueue is the largest number of queued events of a watcher.
	maxWatchQueue = 64 << 10

	// eventBuffer is the size of the event bus's buffer for the Swarm. The bus
	// blocks when it is full; handling an event takes microseconds.
	eventBuffer = 4096
)

// ErrTooSlow means that a watcher had more than 65 536 events in its queue.
var ErrTooSlow = errors.New("watcher is too slow, events were lost")

// Event says that a peer connected or disconnected.
type Event struct {
	// Peer contains the ID and, for a connect, what is known at that moment.
	// The host learns agent and protocols slightly later. Topics is always nil.
	Peer      Peer
	Connected bool
	At        time.Time
}

// Watch returns the connected peers, sorted by ID, and the events that follow.
// For a peer of the list the first event is a disconnect, for any other peer it
// is a connect, and the two alternate.
//
// The events end without an error when ctx is done or the Swarm is closed, and
// with [ErrTooSlow] after 65 536 events if the reader is further behind. They
// can be read once. A caller that does not read them cancels ctx.
func (s *Swarm) Watch(ctx context.Context) ([]Peer, iter.Seq2[Event, error]) {
	w := &watcher{wake: wait.NewFlag(), done: make(chan struct{})}
	s.mu.Lock()
	if s.closed {
		close(w.done)
	} else {
		s.watchers[w] = struct{}{}
	}
	ids := slices.Collect(maps.Keys(s.connected))
	s.mu.Unlock()

	remove := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dismiss(w, nil)
	}
	forget := context.AfterFunc(ctx, remove)

	return s.describeAll(ids), func(yield func(Event, error) bool) {
		defer forget()
		defer remove()
		for ctx.Err() == nil {
			for _, e := range s.take(w) {
				if ctx.Err() != nil || !yield(e, nil) {
					return
				}
			}
			select {
			case <-w.wake:
			case <-ctx.Done():
			case <-w.done:
				// The queue does not change after this.
				for _, e := range s.take(w) {
					if !yield(e, nil) {
						return
					}
				}
				if w.err != nil {
					yield(Event{}, w.err)
				}
				return
			}
		}
	}
}

// watcher is the queue of one Watch. Its fields are guarded by Swarm.mu; err
// may be read once done is closed.
type watcher struct {
	queue []Event
	wake  wait.Flag     // set when the queue is not empty
	done  chan struct{} // closed when nothing more is queued
	err   error
}

// take empties the queue of w.
func (s *Swarm) take(w *watcher) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := w.queue
	w.queue = nil
	return queue
}

// dismiss ends w. The caller holds s.mu.
func (s *Swarm) dismiss(w *watcher, err error) {
	if _, ok := s.watchers[w]; !ok {
		return
	}
	delete(s.watchers, w)
	w.err = err
	close(w.done)
}

// follow handles the host's events until the Swarm closes.
func (s *Swarm) follow() {
	for evt := range s.events.Out() {
		change := evt.(event.EvtPeerConnectednessChanged)
		s.announce(change.Peer, change.Connectedness != network.NotConnected)
	}
}

// announce records whether a peer is connected. If that is a change, it queues
// an event for the watchers and logs it.
func (s *Swarm) announce(id peer.ID, connected bool) {
	e := Event{Peer: Peer{ID: id}, Connected: connected, At: time.Now()}
	if connected {
		e.Peer = s.describe(id)
	}
	if !s.record(e) {
		return
	}
	if connected {
		logConnect(id)
	} else {
		log.Debugw("peer:disconnect", "peer", id)
	}
}

// record reports whether e is a change.
func (s *Swarm) record(e Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.kept[e.Peer.ID]; k != nil {
		// The keeper may have seen the change before.
		k.changed.Set()
	}
	if s.connected[e.Peer.ID] == e.Connected || s.closed {
		return false
	}
	if e.Connected {
		s.connected[e.Peer.ID] = true
	} else {
		delete(s.connected, e.Peer.ID)
		delete(s.measured, e.Peer.ID)
	}
	for w := range s.watchers {
		if len(w.queue) == maxWatchQueue {
			s.dismiss(w, ErrTooSlow)
			continue
		}
		w.queue = append(w.queue, e)
		w.wake.Set()
	}
	return true
}

func logConnect(id peer.ID) {
	log.Infow("peer:connect", "peer", id)
}
