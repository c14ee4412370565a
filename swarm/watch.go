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
)

const (
	// maxWatchQueue is how many events wait for a slow watcher.
	maxWatchQueue = 64 << 10

	// eventBuffer is how many of the host's events wait for us; the bus stalls
	// when it is full. Handling one takes microseconds.
	eventBuffer = 4096
)

// ErrTooSlow says that a watcher did not take its events: more than 65 536
// were waiting.
var ErrTooSlow = errors.New("watcher is too slow, events were lost")

// Event says that a peer connected or disconnected.
type Event struct {
	// Peer holds the ID and, on a connect, what is known of the peer at that
	// moment: the host learns agent and protocols a little later, and Topics
	// is always nil.
	Peer      Peer
	Connected bool
	At        time.Time
}

// Watch returns the connected peers, sorted by ID, and the events that follow.
// A peer of the list has no connect among the events before its disconnect,
// any other peer has one, and connects and disconnects of a peer alternate.
//
// The events end, without an error, when ctx is done or the Swarm is closed,
// and with [ErrTooSlow] after 65 536 events if the reader fell further behind
// than that. They can be read once. Cancel ctx if they are not read.
func (s *Swarm) Watch(ctx context.Context) ([]Peer, iter.Seq2[Event, error]) {
	w := &watcher{wake: make(chan struct{}, 1), done: make(chan struct{})}
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
				// Nothing is queued any more after this.
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
	wake  chan struct{} // holds a token when there is something in the queue
	done  chan struct{} // closed when nothing is queued any more
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

// dismiss ends w, with s.mu held.
func (s *Swarm) dismiss(w *watcher, err error) {
	if _, ok := s.watchers[w]; !ok {
		return
	}
	delete(s.watchers, w)
	w.err = err
	close(w.done)
}

// follow takes the host's events, as fast as they come, until the Swarm
// closes.
func (s *Swarm) follow() {
	for evt := range s.events.Out() {
		change := evt.(event.EvtPeerConnectednessChanged)
		s.announce(change.Peer, change.Connectedness != network.NotConnected)
	}
}

// announce notes that a peer is connected or not and, if that is news, tells
// the watchers and the log.
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

// record reports whether e was news.
func (s *Swarm) record(e Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.kept[e.Peer.ID]; k != nil {
		// News or not: the keeper saw the connection itself.
		signal(k.changed)
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
		signal(w.wake)
	}
	return true
}

// signal leaves a token in a channel that holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func logConnect(id peer.ID) {
	log.Infow("peer:connect", "peer", id)
}
