package oplog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// Lost is an entry that a rebuild could not read.
type Lost struct {
	Number uint64
	Hash   string // "" if it is not known either
}

func (l *Log) lostKey(number uint64) string { return store.Key(l.key("lost"), number) }

// Rebuild makes all that follows from the entries anew: where they are, heads,
// order, faults and state. Entries that are damaged or gone are left out and
// returned; their records stay as they are, and their numbers are not used
// again. check tells why an entry is invalid, or nil, and the ID of its writer;
// its error ends the rebuild. Entries that wait are dropped, to be joined again. The
// access list stays, unless it is damaged: then it is that of the configuration.
//
// Meanwhile, what is read of the log may be incomplete, and nothing can be
// written to it ([ErrDamaged]). When it is interrupted, the log does not open
// until it is run again. There must be one at a time.
func (l *Log) Rebuild(ctx context.Context, check func(e *entry.Entry) (writer string, fault, err error)) ([]Lost, error) {
	before, err := l.readSummary(blocks.Reading(ctx, l.store))
	if errors.Is(err, ErrDamaged) {
		before = new(summary)
	} else if err != nil {
		return nil, err
	}
	if before.Rebuild == 0 {
		before.Rebuild = 1 + before.Numbers
	}
	begun := &summary{Rebuild: before.Rebuild, Revision: before.Revision, GivenUp: before.GivenUp + before.Waiting, Own: before.Own}
	if err := l.store.Update(ctx, func(tx *store.Tx) error {
		if err := l.refusal(); err != nil {
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
	}); err != nil {
		return nil, err
	}
	for _, prefix := range append([]string{"order", "tree", "raised", "fault", "idle", "loose", "below", "under", "revise", "heads", "head", "lost", "wait", "parents", "wake", "waiters", "ready", "missing", "held", "evicted", "share", "shares"}, l.config.State.Prefixes()...) {
		if err := l.clear(ctx, prefix); err != nil {
			return nil, fmt.Errorf("clear %s of %s: %w", prefix, l.id, err)
		}
	}
	var lost []Lost
	var noted int // how many of those are written
	var batch []Arrival
	size := 0 // bytes of the batch
	flush := func() error {
		err := l.write(ctx, func(tx *store.Tx, sum *summary) error {
			for _, a := range batch {
				at := blocks.Location{Log: l.number, Number: a.Number}
				if err := blocks.PutLocation(tx, at, a.Hash); err != nil {
					return err
				}
				sum.Numbers = a.Number
				sum.Bytes += uint64(len(a.Entry.Block.Data))
				writer, fault, err := check(a.Entry)
				if err != nil {
					return err
				}
				if err := l.index(tx, sum, a.Entry, a.Number, writer, fault); err != nil {
					return err
				}
			}
			for _, a := range lost[noted:] {
				if err := tx.Put(l.lostKey(a.Number), []byte(a.Hash)); err != nil {
					return err
				}
			}
			return nil
		})
		batch, size, noted = batch[:0], 0, len(lost)
		return err
	}
	lose := func(a Lost) error {
		if lost = append(lost, a); len(lost)-noted < maxPerUpdate {
			return nil
		}
		return flush()
	}
	last := uint64(0)
	advance := func(to uint64) error {
		for last++; last < to; last++ {
			if err := lose(Lost{Number: last}); err != nil {
				return err
			}
		}
		return nil
	}
	for a, err := range l.Stored(ctx, 0) {
		if err != nil && a.Number == 0 {
			return lost, err
		}
		if err := advance(a.Number); err != nil {
			return lost, err
		}
		if err != nil {
			if err := lose(Lost{a.Number, a.Hash}); err != nil {
				return lost, err
			}
			continue
		}
		batch = append(batch, a)
		if size += len(a.Entry.Block.Data); len(batch) == maxPerUpdate || size >= maxUpdateBytes {
			if err := flush(); err != nil {
				return lost, err
			}
		}
	}
	if err := advance(before.Rebuild); err != nil {
		return lost, err
	}
	if err := flush(); err != nil {
		return lost, err
	}
	for queued := true; queued; {
		if err := l.write(ctx, func(tx *store.Tx, sum *summary) error {
			err := l.decideQueued(tx, sum)
			queued = sum.Queue > 0
			return err
		}); err != nil {
			return lost, err
		}
	}
	l.config.State.Failed() // what readers took from the old index is not to stay
	return lost, l.write(ctx, func(tx *store.Tx, sum *summary) error {
		sum.Numbers, sum.Rebuild = last-1, 0
		return nil
	})
}

// MarkStale says that what follows from the entries of the log of a number, such
// as its [State], no longer fits them: the log neither opens nor can be written
// ([ErrDamaged]) until [Log.Rebuild] has made it anew.
func MarkStale(tx *store.Tx, number uint64) error {
	l := &Log{number: number, id: blocks.LogPrefix(number)}
	sum, err := l.readSummary(tx)
	if err != nil || sum.Rebuild != 0 {
		return err
	}
	sum.Rebuild = 1 + sum.Numbers
	return l.writeSummary(tx, sum)
}

// clear deletes the keys of the log below a prefix.
func (l *Log) clear(ctx context.Context, prefix string) error {
	return clearPrefix(ctx, l.store, l.key(prefix))
}

// clearPrefix deletes the keys below a prefix.
func clearPrefix(ctx context.Context, s *store.Store, prefix string) error {
	var keys []string
	flush := func() error {
		err := s.Update(ctx, func(tx *store.Tx) error {
			for _, key := range keys {
				if err := tx.Delete(key); err != nil {
					return err
				}
			}
			return nil
		})
		keys = keys[:0]
		return err
	}
	for record, err := range s.Scan(ctx, prefix) {
		if err != nil {
			return err
		}
		if keys = append(keys, strings.Clone(record.Key)); len(keys) == 1024 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
