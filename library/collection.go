package library

import (
	"context"
	"fmt"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

// collection is somebody's pieces and practice counts, as far as they are in
// memory.
type collection struct {
	owner    peer.ID
	index    *piece.Index
	counts   *counts
	pieces   gate
	practice gate
}

// newCollection returns an empty collection, of what finds room.
func newCollection(owner peer.ID, rooms ...*piece.Room) *collection {
	return &collection{owner: owner, index: piece.NewIndex(rooms...), counts: newCounts(rooms...)}
}

// gate is closed while a store is being read into memory.
type gate struct {
	mu   sync.Mutex
	read chan struct{}   // closed when the store was read; nil before it is being read
	err  error           // why it was not
	db   *orbit.Database // nil before it is being read
	last uint64          // number of the entry up to which the store was read
}

// begin says that it is about to be read, anew if it was before.
func (g *gate) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.read == nil || isClosed(g.read) {
		g.read = make(chan struct{})
	}
	g.err = nil
}

// opened says which database the store is.
func (g *gate) opened(db *orbit.Database) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.db, g.last = db, 0
}

// readTo says that the store was read up to the entry with a number.
func (g *gate) readTo(last uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = last
	g.endLocked(nil)
}

// address returns the address of the store, or "" before it is being read.
func (g *gate) address() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.db == nil {
		return ""
	}
	return g.db.Address()
}

// isUpToDate reports whether all that is here of the store was read, where that is
// the database with an address.
func (g *gate) isUpToDate(ctx context.Context, address string) bool {
	g.mu.Lock()
	db, last := g.db, g.last
	g.mu.Unlock()
	if db == nil || db.Address() != address || !g.isRead() {
		return false
	}
	stats, err := db.Stats(ctx)
	return err == nil && last >= stats.Last
}

// end says that it was read, or why it cannot be.
func (g *gate) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.endLocked(err)
}

func (g *gate) endLocked(err error) {
	g.err = err
	if g.read != nil && !isClosed(g.read) {
		close(g.read)
	}
}

// fail says why it is not read, unless it was.
func (g *gate) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.read == nil || !isClosed(g.read) || g.err != nil {
		g.endLocked(err)
	}
}

// reset says that it is not there any more.
func (g *gate) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.endLocked(ErrNotHere)
	g.read, g.db = nil, nil
}

// wait waits until it was read, and returns why it cannot be.
func (g *gate) wait(ctx context.Context) error {
	g.mu.Lock()
	read := g.read
	if read == nil {
		defer g.mu.Unlock()
		if g.err == nil {
			return ErrNotHere
		}
		return g.err
	}
	g.mu.Unlock()
	select {
	case <-read:
	case <-ctx.Done():
		return ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// isRead reports whether it was read.
func (g *gate) isRead() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.read != nil && isClosed(g.read) && g.err == nil
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// documents returns where the pieces are, or nil.
func (c *collection) documents() *orbit.Documents {
	c.pieces.mu.Lock()
	defer c.pieces.mu.Unlock()
	if c.pieces.db == nil {
		return nil
	}
	docs, err := c.pieces.db.Documents()
	if err != nil {
		return nil
	}
	return docs
}

// unsearched returns that not all of the pieces found room to be searched, or nil.
func (c *collection) unsearched() error {
	if pieces, full := c.index.Len(); full {
		return fmt.Errorf("no more than %d of its pieces can be searched, there is no room for the others", pieces)
	}
	return nil
}

// followPieces keeps the index in step with a store of pieces. It passes added, unless
// that is nil, each piece that was not in the store when it began, with the number of
// the entry that put it. The gate was begun.
func (c *collection) followPieces(ctx context.Context, db *orbit.Database, added func(p piece.Piece, number uint64)) error {
	if _, err := db.Documents(); err != nil {
		c.pieces.end(err)
		return err
	}
	c.pieces.opened(db)
	take := func(key value.Value, item *orbit.Item, number uint64) {
		if item == nil {
			if hash, ok := key.Text(); ok {
				c.index.Delete(hash)
			}
			return
		}
		p, ok := piece.Of(item.Value)
		if hash, _ := key.Text(); hash != p.Hash { // nothing would find it
			return
		}
		if ok && c.index.Put(p, number == 0) && number > 0 && added != nil {
			added(p, number)
		}
	}
	err := mirror(ctx, db, take, c.pieces.readTo)
	c.pieces.end(err)
	return err
}

// followPractice keeps the counts in step with a practice store. The gate was
// begun.
func (c *collection) followPractice(ctx context.Context, db *orbit.Database) error {
	if _, err := db.KeyValue(); err != nil {
		c.practice.end(err)
		return err
	}
	c.practice.opened(db)
	take := func(key value.Value, item *orbit.Item, _ uint64) { c.counts.set(key, item) }
	err := mirror(ctx, db, take, c.practice.readTo)
	c.practice.end(err)
	return err
}
