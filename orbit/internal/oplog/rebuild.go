package oplog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// Lost is an entry that a rebuild could not read.
type Lost struct {
	Number uint64
	Hash   string // "" if unknown
}

func (l *Log) lostKey(number uint64) string { return store.Key(l.key("lost"), number) }

// Rebuild derives everything from the stored entries again: locations, heads,
// order, authorization and state. It omits entries that are damaged or gone and
// returns them. Their records stay as they are, and their numbers are not used
// again. check returns the ID of an entry's writer and why the entry is
// invalid, or nil; its error stops the rebuild. Pending entries are abandoned,
// and peers must offer them again. The access list stays. If it is damaged, the
// one from the configuration replaces it.
//
// During a rebuild, reads of the log may be incomplete and writes fail with
// [ErrDamaged]. An interrupted rebuild must be run again before the log can be
// opened. Only one rebuild may run at a time.
func (l *Log) Rebuild(ctx context.Context, check func(e *entry.Entry) (writer string, invalid, err error)) ([]Lost, error) {
	before, err := l.beginRebuild(ctx)
	if err != nil {
		return nil, err
	}
	for _, prefix := range append(slices.Clone(rebuilt), l.config.State.Prefixes()...) {
		if err := clearPrefix(ctx, l.store, l.key(prefix)); err != nil {
			return nil, fmt.Errorf("clear %s of %s: %w", prefix, l.id, err)
		}
	}
	r := &rebuild{ctx: ctx, log: l, check: check}
	if err := r.entries(before.Rebuild); err != nil {
		return r.lost, err
	}
	for queued := true; queued; {
		if err := l.write(ctx, func(tx *store.Tx, sum *summary) error {
			err := l.decideQueued(tx, sum)
			queued = sum.Queue > 0
			return err
		}); err != nil {
			return r.lost, err
		}
	}
	l.config.State.Invalidate() // readers may have cached the old index
	return r.lost, l.write(ctx, func(tx *store.Tx, sum *summary) error {
		sum.Numbers, sum.Rebuild = r.last, 0
		return nil
	})
}

// rebuilt lists the prefixes of the keys that a rebuild derives again.
var rebuilt = []string{"order", "tree", "raised", "fault", "idle", "loose", "below", "under", "revise", "heads", "head", "lost", "wait", "parents", "wake", "waiters", "ready", "missing", "held", "evicted", "share", "shares"}

// beginRebuild closes the log until the rebuild ends. It returns the previous
// summary with Rebuild set.
func (l *Log) beginRebuild(ctx context.Context) (*summary, error) {
	before, err := l.readSummary(blocks.Reading(ctx, l.store))
	if errors.Is(err, ErrDamaged) {
		before = new(summary)
	} else if err != nil {
		return nil, err
	}
	if before.Rebuild == 0 {
		before.Rebuild = 1 + before.Numbers
	}
	begun := &summary{Rebuild: before.Rebuild, Revision: before.Revision, Abandoned: before.Abandoned + before.Pending, Own: before.Own}
	return before, l.store.Update(ctx, func(tx *store.Tx) error {
		if err := l.checkWritable(); err != nil {
			return err
		}
		if _, err := l.readAccess(tx); errors.Is(err, ErrDamaged) {
			if err := tx.Delete(l.key("access")); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		return l.writeSummary(tx, begun)
	})
}

// rebuild indexes the stored entries in batches.
type rebuild struct {
	ctx   context.Context
	log   *Log
	check func(e *entry.Entry) (writer string, invalid, err error)

	last  uint64 // number of the last entry visited
	batch []Arrival
	size  int // bytes of the batch
	lost  []Lost
	noted int // how many of lost are stored
}

// entries indexes all stored entries. It records those that cannot be read as
// lost, and all other unused numbers below end.
func (r *rebuild) entries(end uint64) error {
	for a, err := range r.log.Stored(r.ctx, 0) {
		if err != nil && a.Number == 0 {
			return err
		}
		if err := r.skipTo(a.Number); err != nil {
			return err
		}
		r.last = a.Number
		if err != nil {
			err = r.lose(Lost{a.Number, a.Hash})
		} else {
			err = r.add(a)
		}
		if err != nil {
			return err
		}
	}
	if err := r.skipTo(end); err != nil {
		return err
	}
	return r.flush()
}

// skipTo records the numbers between the last entry and the given number as
// lost.
func (r *rebuild) skipTo(number uint64) error {
	for r.last+1 < number {
		r.last++
		if err := r.lose(Lost{Number: r.last}); err != nil {
			return err
		}
	}
	return nil
}

func (r *rebuild) lose(e Lost) error {
	if r.lost = append(r.lost, e); len(r.lost)-r.noted < maxPerUpdate {
		return nil
	}
	return r.flush()
}

func (r *rebuild) add(a Arrival) error {
	r.batch = append(r.batch, a)
	if r.size += len(a.Entry.Block.Data); len(r.batch) < maxPerUpdate && r.size < maxUpdateBytes {
		return nil
	}
	return r.flush()
}

// flush indexes the batch and stores which entries are lost.
func (r *rebuild) flush() error {
	err := r.log.write(r.ctx, func(tx *store.Tx, sum *summary) error {
		for _, a := range r.batch {
			if err := r.index(tx, sum, a); err != nil {
				return err
			}
		}
		for _, e := range r.lost[r.noted:] {
			if err := tx.Put(r.log.lostKey(e.Number), []byte(e.Hash)); err != nil {
				return err
			}
		}
		return nil
	})
	r.batch, r.size, r.noted = r.batch[:0], 0, len(r.lost)
	return err
}

func (r *rebuild) index(tx *store.Tx, sum *summary, a Arrival) error {
	at := blocks.Location{Log: r.log.number, Number: a.Number}
	if err := blocks.PutLocation(tx, at, a.Hash); err != nil {
		return err
	}
	sum.Numbers = a.Number
	sum.Bytes += uint64(len(a.Entry.Block.Data))
	writer, invalid, err := r.check(a.Entry)
	if err != nil {
		return err
	}
	return r.log.index(tx, sum, a.Entry, a.Number, writer, invalid)
}

// MarkStale records that the data derived from the entries of a log, such as
// its [State], no longer matches them. The log can be neither opened nor
// written ([ErrDamaged]) until [Log.Rebuild] has derived it again.
func MarkStale(tx *store.Tx, number uint64) error {
	l := &Log{number: number, id: blocks.LogPrefix(number)}
	sum, err := l.readSummary(tx)
	if err != nil || sum.Rebuild != 0 {
		return err
	}
	sum.Rebuild = 1 + sum.Numbers
	return l.writeSummary(tx, sum)
}
