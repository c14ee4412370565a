package library

import (
	"context"
	"iter"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// EventKind is what an event tells.
type EventKind string

// What happens.
const (
	EventAdded     EventKind = "added"     // a companion
	EventRemoved   EventKind = "removed"   // a companion
	EventOnline    EventKind = "online"    // a companion is connected
	EventOffline   EventKind = "offline"   // a companion is not any more
	EventFollows   EventKind = "follows"   // a peer follows us
	EventUnfollows EventKind = "unfollows" // a peer does not any more
	EventName      EventKind = "name"      // a companion calls itself otherwise
	EventPiece     EventKind = "piece"     // a companion has a new piece
	EventOffer     EventKind = "offer"     // a peer offers its user store
	EventNearby    EventKind = "nearby"    // a peer with npp is connected, or calls itself otherwise
)

// maxEvents is how many events wait for a slow watcher.
const maxEvents = 4096

// Event is news of companions, and of who may become one.
type Event struct {
	Kind    EventKind
	At      time.Time
	Peer    peer.ID
	Name    string // "" if that is not known
	Hash    string // of EventPiece
	Title   string // of EventPiece
	Address string // of EventOffer
}

// watcher is the queue of one Watch.
type watcher struct{ events chan Event }

// emit tells the watchers. One that is slow misses it.
func (l *Library) emit(e Event) {
	e.At = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.watchers {
		select {
		case w.events <- e:
		default:
		}
	}
}

// Watch yields what happens from now on, until the context is done or the library
// closes. A reader that is more than 4096 events behind misses some.
func (l *Library) Watch(ctx context.Context, ready func()) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		w := &watcher{events: make(chan Event, maxEvents)}
		l.mu.Lock()
		l.watchers[w] = struct{}{}
		l.mu.Unlock()
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.watchers, w)
		}()
		if ready != nil {
			ready()
		}
		for {
			select {
			case e := <-w.events:
				if !yield(e) {
					return
				}
			case <-ctx.Done():
				return
			case <-l.ctx.Done():
				return
			}
		}
	}
}

// watchPeers tells when companions come and go.
func (l *Library) watchPeers() {
	_, events := l.cfg.Swarm.Watch(l.ctx)
	for e, err := range events {
		if err != nil {
			log.Warnw("peers are not watched any more", "err", err)
			return
		}
		if !e.Connected {
			l.mu.Lock()
			delete(l.nearby, e.Peer.ID)
			l.mu.Unlock()
		}
		c := l.companionOf(e.Peer.ID)
		if c == nil {
			continue
		}
		kind := EventOffline
		if e.Connected {
			kind = EventOnline
		}
		l.emit(Event{Kind: kind, Peer: c.id, Name: c.called()})
	}
}
