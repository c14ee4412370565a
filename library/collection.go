package library

import (
	"context"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

// collection is the pieces and practice counts of the owner or a companion, in
// memory.
type collection struct {
	owner    peer.ID
	index    *piece.Index
	counts   *counts
	pieces   latch // of the pieces database
	practice latch // of the practice database
}

// newCollection returns an empty collection that stays within budgets.
func newCollection(owner peer.ID, budgets ...*piece.Budget) *collection {
	return &collection{owner: owner, index: piece.NewIndex(budgets...), counts: newCounts(budgets...)}
}

// documents returns the documents of the pieces database, or nil before it is
// read.
func (c *collection) documents() *orbit.Documents {
	db := c.pieces.database()
	if db == nil {
		return nil
	}
	docs, err := db.Documents()
	if err != nil {
		return nil
	}
	return docs
}

// indexFull returns an error if pieces were left out of the index.
func (c *collection) indexFull() error {
	if pieces, full := c.index.Len(); full {
		return fmt.Errorf("only %d of its pieces can be searched, because the memory for the index is full", pieces)
	}
	return nil
}

// readPieces keeps the index in sync with a pieces database until ctx is done.
// It calls added, unless that is nil, for each piece that was not in the
// database at first, with the number of the entry that put it. The caller has
// begun the latch.
func (c *collection) readPieces(ctx context.Context, db *orbit.Database, added func(p piece.Piece, number uint64)) error {
	if _, err := db.Documents(); err != nil {
		c.pieces.end(err)
		return err
	}
	c.pieces.reading(db)
	take := func(key value.Value, item *orbit.Item, number uint64) {
		if item == nil {
			if hash, ok := key.Text(); ok {
				c.index.Delete(hash)
			}
			return
		}
		p, ok := piece.Of(item.Value)
		if hash, _ := key.Text(); hash != p.Hash { // no look-up by hash finds such a document
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

// readPractice keeps the counts in sync with a practice database until ctx is
// done. The caller has begun the latch.
func (c *collection) readPractice(ctx context.Context, db *orbit.Database) error {
	if _, err := db.KeyValue(); err != nil {
		c.practice.end(err)
		return err
	}
	c.practice.reading(db)
	take := func(key value.Value, item *orbit.Item, _ uint64) { c.counts.set(key, item) }
	err := mirror(ctx, db, take, c.practice.readTo)
	c.practice.end(err)
	return err
}
