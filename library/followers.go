package library

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/card"
)

// MaxFollowers is the maximum number of followers that are stored.
const MaxFollowers = 1000

const (
	followerPrefix = "follower"

	// cardTimeout is how long an exchange of cards waits for the own card after
	// a start.
	cardTimeout = 5 * time.Second
)

// Follower is a follower, according to its own card.
type Follower struct {
	Name  string    `json:"name,omitempty"` // on its card
	Since time.Time `json:"since"`
}

// ownCard returns the card for a peer. It fails while the companions are being
// read after a start: the card would say that the peer is not followed.
func (l *Library) ownCard(to peer.ID) (card.Card, error) {
	ctx, cancel := context.WithTimeout(l.ctx, cardTimeout)
	defer cancel()
	if err := l.Wait(ctx); err != nil {
		return card.Card{}, err
	}
	l.opening.Lock()
	user := l.databases[userAt].DB
	l.opening.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	c := card.Card{Username: l.username}
	if user != nil {
		c.User = user.Address()
	}
	for _, followed := range l.companions {
		c.Follows = c.Follows || followed.id == to
	}
	return c, nil
}

// oldestFollower returns the follower to replace when the table is full: the
// oldest one that is not connected, or "" if all are.
func (l *Library) oldestFollower() (oldest peer.ID) {
	var since time.Time
	for id, f := range l.followers.all() {
		if !l.Connected(id) && (oldest == "" || f.Since.Before(since)) {
			oldest, since = id, f.Since
		}
	}
	return oldest
}

// received handles the card of a peer.
func (l *Library) received(from peer.ID, c card.Card) {
	c.Username = checkedName(c.Username)
	l.mu.Lock()
	name, seen := l.nearby[from]
	l.nearby[from] = c.Username
	l.mu.Unlock()
	if !seen || name != c.Username {
		l.emit(Event{Kind: EventNearby, Peer: from, Name: c.Username})
	}
	if followed := l.companionOf(from); followed != nil {
		if err := l.keepAt(followed.ctx, followed); err != nil && followed.ctx.Err() == nil {
			log.Warnw("companion is not a kept peer", "peer", from, "err", err)
		}
	}
	l.updateFollower(from, c)
}

// updateFollower adds, changes or removes a follower according to its card. If
// that fails, the next card repeats it.
func (l *Library) updateFollower(id peer.ID, c card.Card) {
	before, known := l.followers.get(id)
	switch {
	case !c.Follows && known:
		if l.followers.remove(l.ctx, id) == nil {
			l.emit(Event{Kind: EventUnfollows, Peer: id, Name: c.Username})
		}
		return
	case !c.Follows, known && before.Name == c.Username, !l.accepts():
		return
	}
	f := Follower{Name: c.Username, Since: before.Since}
	var evict peer.ID
	if !known {
		f.Since = time.Now()
		if l.followers.size() >= MaxFollowers {
			if evict = l.oldestFollower(); evict == "" {
				return
			}
		}
	}
	if l.followers.put(l.ctx, id, f, evict) == nil && !known {
		l.emit(Event{Kind: EventFollows, Peer: id, Name: c.Username})
	}
}
