package library

import (
	"context"
	"iter"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// EventKind is the kind of an event.
type EventKind string

// The kinds of events.
const (
	EventAdded     EventKind = "added"     // a companion was added
	EventRemoved   EventKind = "removed"   // a companion was removed
	EventOnline    EventKind = "online"    // a companion connected
	EventOffline   EventKind = "offline"   // a companion disconnected
	EventFollows   EventKind = "follows"   // a peer became a follower
	EventUnfollows EventKind = "unfollows" // a peer is not a follower any more
	EventName      EventKind = "name"      // a companion changed its username
	EventPiece     EventKind = "piece"     // a companion added a piece
	EventOffer     EventKind = "offer"     // a peer offered its user database
	EventNearby    EventKind = "nearby"    // a nearby peer connected or changed its username
)

// maxEvents is the number of events that are buffered for a watcher.
const maxEvents = 4096

// Event is a change of a companion, a follower or a nearby peer.
type Event struct {
	Kind    EventKind
	At      time.Time
	Peer    peer.ID
	Name    string // "" if unknown
	Hash    string // for EventPiece
	Title   string // for EventPiece
	Address string // for EventOffer
}

// watcher is the event buffer of a call of Watch.
type watcher struct{ events chan Event }

// emit sends an event to the watchers whose buffer is not full.
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

// Watch yields events until the context is done or the library closes. It calls
// ready, if that is not nil, once events are buffered. A reader that falls more
// than 4096 events behind misses some.
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

// watchPeers emits events when companions connect and disconnect.
func (l *Library) watchPeers() {
	_, events := l.cfg.Swarm.Watch(l.ctx)
	for e, err := range events {
		if err != nil {
			log.Warnw("connections are not watched any more", "err", err)
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
		l.emit(Event{Kind: kind, Peer: c.id, Name: c.displayName()})
	}
}
