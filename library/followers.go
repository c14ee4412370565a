package library

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/store"
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
	Peer  peer.ID   `json:"-"`
	Name  string    `json:"name,omitempty"` // on its card
	Since time.Time `json:"since"`
}

func followerKey(id peer.ID) string { return followerPrefix + "/" + id.String() }

func (l *Library) loadFollowers(ctx context.Context) error {
	return scanPeers(ctx, l.cfg.Store, followerPrefix, func(id peer.ID, f Follower) {
		f.Peer = id
		l.followers[id] = f
	})
}

// scanPeers decodes the records with a prefix, whose keys are peer IDs. It logs
// and skips damaged records.
func scanPeers[R any](ctx context.Context, s *store.Store, prefix string, take func(peer.ID, R)) error {
	for e, err := range s.Scan(ctx, prefix) {
		if err != nil {
			return fmt.Errorf("read %s: %w", prefix, err)
		}
		var r R
		id, err := peer.Decode(strings.TrimPrefix(e.Key, prefix+"/"))
		if err != nil || json.Unmarshal(e.Value, &r) != nil {
			log.Warnw("damaged record", "key", e.Key)
			continue
		}
		take(id, r)
	}
	return nil
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

// dropFollower removes the oldest follower that is not connected, and reports
// whether there was one.
func (l *Library) dropFollower() bool {
	l.mu.Lock()
	followers := maps.Clone(l.followers)
	l.mu.Unlock()
	var oldest *Follower
	for id, f := range followers {
		if !l.Connected(id) && (oldest == nil || f.Since.Before(oldest.Since)) {
			oldest = &f
		}
	}
	if oldest == nil || l.erase(l.ctx, followerKey(oldest.Peer)) != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.followers, oldest.Peer)
	return true
}

// received handles the card of a peer.
func (l *Library) received(from peer.ID, c card.Card) {
	c.Username = checkedName(c.Username)
	l.mu.Lock()
	before, known := l.followers[from]
	full := len(l.followers) >= MaxFollowers
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
	switch {
	case !c.Follows && known:
		if err := l.erase(l.ctx, followerKey(from)); err != nil {
			return // the next card repeats it
		}
		l.mu.Lock()
		delete(l.followers, from)
		l.mu.Unlock()
		l.emit(Event{Kind: EventUnfollows, Peer: from, Name: c.Username})
	case c.Follows && known && before.Name == c.Username, !c.Follows:
	case !l.accepts(): // the next card repeats it
	default:
		if full && !known && !l.dropFollower() {
			return
		}
		f := Follower{Peer: from, Name: c.Username, Since: before.Since}
		if !known {
			f.Since = time.Now()
		}
		text, err := json.Marshal(f)
		if err != nil || l.save(l.ctx, followerKey(from), text) != nil {
			return
		}
		l.mu.Lock()
		l.followers[from] = f
		l.mu.Unlock()
		if !known {
			l.emit(Event{Kind: EventFollows, Peer: from, Name: c.Username})
		}
	}
}
