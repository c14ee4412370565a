package library

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

// companion is a peer that is followed.
type companion struct {
	lib  *Library
	id   peer.ID
	user string // address of its user store
	*collection
	profile gate // of the user store

	// recorded are the addresses of the stores that the companion had when the daemon
	// started.
	recorded map[string]bool
	// newsAfter is the number of the entry in the store of pieces after which a piece is
	// news: pieces from before were there when the companion was added.
	newsAfter atomic.Uint64

	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing of it runs any more
	gone   chan struct{} // closed when all is undone that was done for it

	remembered time.Time // when its record was changed for what it says; for run alone
	unnamed    bool      // it was added without a name, and has none yet; for run alone

	mu      sync.Mutex // guards what follows
	kept    bool
	addrs   []ma.Multiaddr         // at which it was kept last
	name    string                 // as remembered
	fields  map[string]value.Value // of the user store; nil before it is whole and read
	changed chan struct{}
	again   chan struct{}    // holds a token when what ended is to be tried again
	trouble map[string]error // what is wrong, by the name of a store
}

// record is what the store of companions has of one: what its user store had in it.
type record struct {
	NodeID   string `json:"nodeId"`
	Username string `json:"username,omitempty"`
	Pieces   string `json:"pieces,omitempty"`
	Practice string `json:"practice,omitempty"`
}

// recordOf reads a record. What is no text is left out: a username of the tutorial
// is a number.
func recordOf(v value.Value) record {
	text := func(key string) string {
		s, _ := v.Field(key).Text()
		return s
	}
	id := text(KeyNodeID)
	if decoded, err := decodePeer(id); err == nil {
		id = decoded.String() // in whatever way it is written
	}
	return record{id, nameOf(v.Field(KeyUsername)), text(KeyPieces), text(KeyPractice)}
}

// companionChanged takes what is at a key of the store of companions, or nil. The
// number is 0 for what was there at the start of the daemon.
func (l *Library) companionChanged(key value.Value, item *orbit.Item, number uint64) {
	address, _ := key.Text()
	var r record
	var id peer.ID
	var err error
	if item != nil {
		r = recordOf(item.Value)
		id, err = l.checkRecord(address, r)
	}
	// After a start, a search waits for the stores that are about to be read.
	user := number == 0 && err == nil && !l.isPartial(address) && l.isHere(address)
	pieces, practice := user && l.isHere(r.Pieces), user && l.isHere(r.Practice)
	l.mu.Lock()
	old := l.companions[address]
	switch {
	case item == nil:
		delete(l.invalid, shortKey(key))
	case err == nil && old == nil && len(l.companions) >= MaxCompanions:
		err = errTooMany
		fallthrough
	case err != nil:
		if len(l.invalid) < MaxCompanions {
			l.invalid[shortKey(key)] = err.Error()
		}
	case old != nil && old.id == id:
		l.mu.Unlock()
		old.setName(r.Username)
		return
	}
	if old != nil {
		delete(l.companions, address)
	}
	var c *companion
	if item != nil && err == nil && l.ctx.Err() == nil {
		delete(l.invalid, shortKey(key))
		c = l.newCompanion(id, address, r.Username)
		if number == 0 {
			c.recorded = map[string]bool{address: true, r.Pieces: true, r.Practice: true}
		}
		c.unnamed = r.Username == "" && (number > 0 || l.partial[address])
		for g, begins := range map[*gate]bool{&c.profile: user, &c.pieces: pieces, &c.practice: practice} {
			if begins {
				g.begin()
			}
		}
		l.companions[address] = c
		l.tasks.Go(c.run)
	}
	l.mu.Unlock()
	if old != nil {
		l.unfollow(old)
	}
	if c != nil {
		l.emit(Event{Kind: EventAdded, Peer: id, Name: r.Username})
	}
	if old != nil || c != nil {
		l.cards.Tell()
	}
}

// isHere reports whether there is a database with an address.
func (l *Library) isHere(address string) bool {
	if !strings.HasPrefix(address, "/") {
		return false
	}
	_, err := l.cfg.Orbit.Resolve(l.ctx, address)
	return err == nil
}

// shortKey is as much of a key as is remembered.
func shortKey(key value.Value) string {
	text, ok := key.Text()
	if !ok {
		text = key.String()
	}
	return text[:min(len(text), maxProfileValue)]
}

// checkRecord returns the peer that a record is about, or why it is none of a
// companion.
func (l *Library) checkRecord(address string, r record) (peer.ID, error) {
	if _, err := orbit.ParseAddress(address); err != nil {
		return "", err
	}
	id, err := decodePeer(r.NodeID)
	switch {
	case err != nil:
		return "", fmt.Errorf("%q is %.80q, no peer ID", KeyNodeID, r.NodeID)
	case id == l.self:
		return "", fmt.Errorf("%q is this peer itself", KeyNodeID)
	}
	return id, nil
}

func (l *Library) newCompanion(id peer.ID, user, name string) *companion {
	ctx, cancel := context.WithCancel(l.ctx)
	return &companion{
		lib:        l,
		ctx:        ctx,
		cancel:     cancel,
		id:         id,
		user:       user,
		collection: newCollection(id, piece.NewRoom(companionRoom), l.room),
		ended:      make(chan struct{}),
		gone:       make(chan struct{}),
		name:       name,
		changed:    make(chan struct{}, 1),
		again:      make(chan struct{}, 1),
		trouble:    make(map[string]error),
	}
}

func (c *companion) setName(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name = name
}

// names returns the name that is remembered, and the one that the companion has now:
// by its card, where it is connected, or else by its user store.
func (c *companion) names() (remembered, now string) {
	shown := c.lib.shownName(c.id)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.name, cmp.Or(shown, nameOf(c.fields[KeyUsername]), c.name)
}

// called returns the name that a companion goes by: the remembered one, if there is
// one.
func (c *companion) called() string {
	c.mu.Lock()
	remembered := c.name
	c.mu.Unlock()
	if remembered == "" {
		_, remembered = c.names()
	}
	return remembered
}

func (c *companion) setTrouble(store string, err error) {
	c.mu.Lock()
	before := c.trouble[store]
	if err == nil {
		delete(c.trouble, store)
	} else {
		c.trouble[store] = err
	}
	c.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		log.Warnw("companion", "peer", c.id, "store", store, "err", err)
	}
}

// run follows the companion until it is removed or the library closes.
func (c *companion) run() {
	defer close(c.ended)
	defer c.cancel()
	ctx := c.ctx
	c.lib.keep(ctx, c)

	user := &follower{companion: c, name: UserName, kind: orbit.TypeKeyValue, read: c.followUser}
	pieces := &follower{companion: c, name: PiecesName, kind: orbit.TypeDocuments, indexBy: piece.FieldHash, read: c.followPieces}
	practice := &follower{companion: c, name: PracticeName, kind: orbit.TypeKeyValue, read: c.followPractice}
	defer user.end()
	defer pieces.end()
	defer practice.end()
	user.set(ctx, c.user, false)
	for {
		again := false
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
		case <-c.again:
			again = true
			user.set(ctx, c.user, true)
		}
		want, err := c.wanted()
		// Whoever changes the addresses without end is followed slowly.
		if pieces.changes(want.Pieces) || practice.changes(want.Practice) {
			if !pause(ctx, changePause) {
				return
			}
			want, err = c.wanted()
		}
		c.setTrouble(UserName, err)
		pieces.set(ctx, want.Pieces, again)
		practice.set(ctx, want.Practice, again)
		if want.Pieces == "" {
			c.pieces.fail(cmp.Or(err, ErrNotHere))
		}
		if want.Practice == "" {
			c.practice.fail(cmp.Or(err, ErrNotHere))
		}
		if want.NodeID != "" {
			c.lib.remember(ctx, c, want)
		}
	}
}

// wanted returns what the user store says, or why the companion is not followed. It
// returns an empty record while the user store is not whole.
func (c *companion) wanted() (record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := func(key string) string {
		s, _ := c.fields[key].Text()
		return s
	}
	if c.fields == nil {
		return record{}, nil
	}
	// A user store that no daemon made may have no peer ID.
	if text := text(KeyNodeID); text != "" {
		if !isPeer(text, c.id) {
			return record{}, fmt.Errorf("its user store says that it is that of peer %.80q", text)
		}
	}
	return record{c.id.String(), nameOf(c.fields[KeyUsername]), text(KeyPieces), text(KeyPractice)}, nil
}

// isPeer reports whether a text is the ID of a peer, in whatever way it is written.
func isPeer(text string, id peer.ID) bool {
	said, err := decodePeer(text)
	return err == nil && said == id
}

// maxPeerID is the longest text that is read as a peer ID, in bytes. Decoding base58 and
// base36 takes time in proportion to the square of the length.
const maxPeerID = 1 << 10

// decodePeer returns the peer ID that a text in a store is.
func decodePeer(text string) (peer.ID, error) {
	if len(text) > maxPeerID {
		return "", fmt.Errorf("a peer ID of %d bytes, at most %d", len(text), maxPeerID)
	}
	return peer.Decode(text)
}

// followUser keeps the fields in step with the user store. They change together, once
// all that is here of the store was read.
func (c *companion) followUser(ctx context.Context, db *orbit.Database) error {
	c.profile.begin()
	c.profile.opened(db)
	fields := make(map[string]value.Value)
	take := func(key value.Value, item *orbit.Item, _ uint64) {
		name, _ := key.Text()
		if !slices.Contains([]string{KeyUsername, KeyNodeID, KeyPieces, KeyPractice}, name) {
			return
		}
		if item == nil || len(item.Value) > maxProfileValue {
			delete(fields, name)
		} else {
			fields[name] = item.Value
		}
	}
	err := mirror(ctx, db, take, func(last uint64) {
		c.setFields(maps.Clone(fields))
		c.profile.readTo(last)
	})
	c.profile.end(err)
	return err
}

// setFields takes the fields of the user store.
func (c *companion) setFields(fields map[string]value.Value) {
	c.mu.Lock()
	before := c.fields
	c.fields = fields
	c.mu.Unlock()
	if before != nil && maps.EqualFunc(before, fields, value.Value.Equal) {
		return
	}
	if now := nameOf(fields[KeyUsername]); before != nil && now != nameOf(before[KeyUsername]) {
		c.lib.emit(Event{Kind: EventName, Peer: c.id, Name: now})
	}
	signal(c.changed)
}

// followPieces and followPractice are those of the collection, with news.
func (c *companion) followPieces(ctx context.Context, db *orbit.Database) error {
	c.pieces.begin()
	c.index.Clear()
	return c.collection.followPieces(ctx, db, func(p piece.Piece, number uint64) {
		if number <= c.newsAfter.Load() {
			return
		}
		c.lib.emit(Event{Kind: EventPiece, Peer: c.id, Name: c.called(), Hash: p.Hash, Title: p.Title[:min(len(p.Title), maxDetail)]})
	})
}

func (c *companion) followPractice(ctx context.Context, db *orbit.Database) error {
	c.practice.begin()
	c.counts.clear()
	return c.collection.followPractice(ctx, db)
}

// isOwn reports whether an address is that of one of the own stores.
func (l *Library) isOwn(ctx context.Context, address string) bool {
	return slices.ContainsFunc(l.Stores(ctx), func(s Store) bool { return s.DB != nil && s.DB.Address() == address })
}

// unfollow ends what is done for a companion, and waits for it.
func (l *Library) unfollow(c *companion) {
	defer close(c.gone)
	c.cancel()
	<-c.ended
	l.unkeep(l.ctx, c.id)
	l.emit(Event{Kind: EventRemoved, Peer: c.id, Name: c.called()})
}

// remember puts what a companion's profile says into its record, if that is another.
func (l *Library) remember(ctx context.Context, c *companion, r record) {
	kv, err := l.keyValue(ctx, companionsAt)
	if err != nil {
		return
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	item, err := kv.Get(ctx, c.user)
	if err != nil { // it is about to be removed
		return
	}
	before := recordOf(item.Value)
	doc, err := mapOf(item.Value)
	if err != nil {
		return
	}
	changed := false
	set := func(key, old, now string) {
		if now != "" && now != old {
			doc[key], changed = now, true
		}
	}
	for key, pair := range map[string][2]string{KeyPieces: {before.Pieces, r.Pieces}, KeyPractice: {before.Practice, r.Practice}} {
		if _, err := orbit.ParseAddress(pair[1]); err == nil {
			set(key, pair[0], pair[1])
		}
	}
	// A name that the user store has later is not taken: it may be that of somebody else.
	if before.Username == "" && c.unnamed {
		set(KeyUsername, "", r.Username)
	}
	c.unnamed = false
	if !changed || time.Since(c.remembered) < rememberPause {
		return
	}
	c.remembered = time.Now()
	if _, err := kv.Put(ctx, c.user, doc); err != nil && ctx.Err() == nil {
		log.Warnw("companion cannot be recorded", "peer", c.id, "err", err)
	}
}

// signal leaves a token in a channel that holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// byPeer returns the companions, by peer ID.
func (l *Library) byPeer() []*companion {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.companions), func(a, b *companion) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.user, b.user))
	})
}
