package oplog

import (
	"context"
	"fmt"
	"strings"

	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/store"
)

// Lost is an entry that a rebuild could not read.
type Lost struct {
	Number uint64
	Hash   string // "" if it is not known either
}

// Rebuild makes all that follows from the entries anew: heads, order, faults and
// state. Entries that are damaged are left out and returned. fault tells why an entry
// does not count; entries that wait are dropped, to be joined again.
//
// It must be the log's only use. When it is interrupted, the log does not open until it
// is run again.
func (l *Log) Rebuild(ctx context.Context, fault func(*entry.Entry) error) ([]Lost, error) {
	begun := &summary{Rebuild: 1}
	if err := l.store.Update(ctx, func(tx *store.Tx) error { return l.writeSummary(tx, begun) }); err != nil {
		return nil, err
	}
	for _, prefix := range append([]string{"order", "fault", "wait", "wake", "ready"}, l.state.Prefixes()...) {
		if err := l.clear(ctx, prefix); err != nil {
			return nil, fmt.Errorf("clear %s of %s: %w", prefix, l.id, err)
		}
	}
	var lost []Lost
	var batch []Arrival
	flush := func() error {
		err := l.update(ctx, func(tx *store.Tx, sum *summary) error {
			for _, a := range batch {
				at := blocks.Location{Log: l.number, Number: a.Number}
				if err := blocks.PutLocation(tx, at, a.Entry.Hash()); err != nil {
					return err
				}
				sum.Numbers = a.Number
				if err := l.index(tx, sum, a.Entry, a.Number, fault(a.Entry)); err != nil {
					return err
				}
			}
			return nil
		})
		batch = batch[:0]
		return err
	}
	last := uint64(0)
	for r, err := range l.store.Ascend(ctx, blocks.Entries(l.number), 0) {
		if err != nil {
			return lost, err
		}
		last = r.Number
		e, err := l.decode(r.Value)
		if err != nil {
			b, _ := blocks.DecodeEntry(r.Value)
			lost = append(lost, Lost{r.Number, b.Hash})
			continue
		}
		if batch = append(batch, Arrival{r.Number, e}); len(batch) == maxPerUpdate {
			if err := flush(); err != nil {
				return lost, err
			}
		}
	}
	if err := flush(); err != nil {
		return lost, err
	}
	return lost, l.update(ctx, func(tx *store.Tx, sum *summary) error {
		sum.Numbers, sum.Rebuild = last, 0
		return nil
	})
}

// clear deletes the keys of the log below a prefix.
func (l *Log) clear(ctx context.Context, prefix string) error {
	var keys []string
	flush := func() error {
		err := l.store.Update(ctx, func(tx *store.Tx) error {
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
	for record, err := range l.store.Scan(ctx, l.key(prefix)) {
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
