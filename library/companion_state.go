package library

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/library/companion"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

// companionState is a companion in memory. It is the [companion.Content] of the
// companion's databases.
type companionState struct {
	lib  *Library
	id   peer.ID
	user string // address of its user database
	*collection
	profile   latch          // of the user database
	databases *companion.Set // set before run

	ctx     context.Context
	cancel  context.CancelFunc
	ended   chan struct{} // closed when run returned
	removed chan struct{} // closed when the companion was removed completely

	remembered time.Time // when remember changed the record last; for run alone
	unnamed    bool      // it was added without a name, and has none yet; for run alone

	mu     sync.Mutex // guards the fields below
	kept   bool       // the daemon reconnects to it, at addrs
	addrs  []ma.Multiaddr
	name   string                 // from its record
	fields map[string]value.Value // of the user database; nil before it is complete and read
}

func (l *Library) newCompanion(id peer.ID, user, name string) *companionState {
	ctx, cancel := context.WithCancel(l.ctx)
	return &companionState{
		lib:        l,
		ctx:        ctx,
		cancel:     cancel,
		id:         id,
		user:       user,
		collection: newCollection(id, piece.NewBudget(companionBudget), l.budget),
		ended:      make(chan struct{}),
		removed:    make(chan struct{}),
		name:       name,
	}
}

// run follows the companion until it is removed or the library closes.
func (c *companionState) run() {
	defer close(c.ended)
	defer c.cancel()
	c.lib.keep(c.ctx, c)
	c.databases.Run(c.ctx)
}

// remove stops run, and undoes what it did.
func (c *companionState) remove() {
	defer close(c.removed)
	c.cancel()
	<-c.ended
	c.lib.unkeep(c.lib.ctx, c.id)
	c.lib.emit(Event{Kind: EventRemoved, Peer: c.id, Name: c.displayName()})
}

func (c *companionState) setName(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name = name
}

// usernames returns the name in the record, and the current name: that on the
// card of a connected peer, or else that in the user database.
func (c *companionState) usernames() (recorded, current string) {
	onCard := c.lib.cardName(c.id)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.name, cmp.Or(onCard, nameOf(c.fields[KeyUsername]), c.name)
}

// displayName returns the name in the record, or else the current name.
func (c *companionState) displayName() string {
	c.mu.Lock()
	name := c.name
	c.mu.Unlock()
	if name == "" {
		_, name = c.usernames()
	}
	return name
}

// profileRecord returns the content of the user database as a record, or why
// the database is not followed. The record is empty before the database was
// read.
func (c *companionState) profileRecord() (record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := func(key string) string {
		s, _ := c.fields[key].Text()
		return s
	}
	if c.fields == nil {
		return record{}, nil
	}
	// Apps other than this daemon may write a user database without a peer ID.
	if owner := text(KeyNodeID); owner != "" && !isPeer(owner, c.id) {
		return record{}, fmt.Errorf("its user database belongs to peer %.80q", owner)
	}
	return record{c.id.String(), nameOf(c.fields[KeyUsername]), text(KeyPieces), text(KeyPractice)}, nil
}

// Addresses implements [companion.Content].
func (c *companionState) Addresses() (companion.Addresses, error) {
	r, err := c.profileRecord()
	return companion.Addresses{Pieces: r.Pieces, Practice: r.Practice}, err
}

// Followed implements [companion.Content]: it updates the companion's record.
func (c *companionState) Followed(ctx context.Context) {
	if r, err := c.profileRecord(); err == nil && r.NodeID != "" {
		c.lib.remember(ctx, c, r)
	}
}

// Read implements [companion.Content].
func (c *companionState) Read(ctx context.Context, kind companion.Kind, db *orbit.Database, isNew func(number uint64) bool) error {
	switch kind {
	case companion.User:
		return c.readUser(ctx, db)
	case companion.Pieces:
		c.pieces.begin()
		c.index.Clear()
		return c.readPieces(ctx, db, func(p piece.Piece, number uint64) {
			if isNew(number) {
				c.lib.emit(Event{Kind: EventPiece, Peer: c.id, Name: c.displayName(), Hash: p.Hash, Title: p.Title[:min(len(p.Title), maxDetail)]})
			}
		})
	}
	c.practice.begin()
	c.counts.clear()
	return c.readPractice(ctx, db)
}

// Failed implements [companion.Content]. Without the user database, the others
// are unknown.
func (c *companionState) Failed(kind companion.Kind, err error) {
	if kind == companion.User {
		c.profile.fail(err)
	}
	if kind != companion.Practice {
		c.pieces.fail(err)
	}
	if kind != companion.Pieces {
		c.practice.fail(err)
	}
}

// Reset implements [companion.Content].
func (c *companionState) Reset(kind companion.Kind) {
	switch kind {
	case companion.User:
		c.profile.reset()
	case companion.Pieces:
		c.pieces.reset()
		c.index.Clear()
	case companion.Practice:
		c.practice.reset()
		c.counts.clear()
	}
}

// readUser keeps the fields in sync with the user database until ctx is done.
// They change together, once all entries that are here were read.
func (c *companionState) readUser(ctx context.Context, db *orbit.Database) error {
	c.profile.begin()
	c.profile.reading(db)
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

func (c *companionState) setFields(fields map[string]value.Value) {
	c.mu.Lock()
	before := c.fields
	c.fields = fields
	c.mu.Unlock()
	if before != nil && maps.EqualFunc(before, fields, value.Value.Equal) {
		return
	}
	if name := nameOf(fields[KeyUsername]); before != nil && name != nameOf(before[KeyUsername]) {
		c.lib.emit(Event{Kind: EventName, Peer: c.id, Name: name})
	}
	c.databases.AddressesChanged()
}

// awaitCounts waits until the practice counts are in memory, and returns why
// they are incomplete, or nil. A companion without a practice database has no
// counts.
func (c *companionState) awaitCounts(ctx context.Context) error {
	err := c.practice.wait(ctx)
	named, _ := c.Addresses()
	isRead := err == nil && c.practice.address() == named.Practice
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return ErrBeingRead
	case named.Practice == "", isRead && !c.lib.followed.IsIncomplete(named.Practice):
		return nil
	case isRead:
		return ErrIncomplete
	case err != nil && !errors.Is(err, ErrNotHere):
		return err
	}
	return c.lib.incomplete(ctx, &c.practice, named.Practice)
}
