package oplog

import (
	"context"
	"maps"
	"slices"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// restorePerPass is the number of slots that one pass over the log restores.
const restorePerPass = 1 << 14

// restoreSlots applies the newest authorized operation on each lapsed slot
// again. One pass reads the log from its newest entry until it has found an
// operation for each slot; it reads all of the log if a slot has none any more.
// A pass handles restorePerPass slots. An interrupted pass starts again.
func (l *Log) restoreSlots(ctx context.Context) error {
	for {
		slots, err := l.config.State.Lapsed(ctx, l.store, restorePerPass)
		if err != nil || len(slots) == 0 {
			return err
		}
		if err := l.restorePass(ctx, slots); err != nil {
			return err
		}
	}
}

func (l *Log) restorePass(ctx context.Context, slots []string) error {
	left := setOf(slots)
	var found []refEntry
	var done []string
	g := blocks.Reading(ctx, l.store)
	for ref, err := range l.descend(ctx, nil) {
		if err != nil {
			return err
		}
		e, err := l.at(g, ref.Number, ref.Hash)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		slot := l.config.State.Slot(e)
		if slot == "" || !left[slot] {
			continue
		}
		delete(left, slot)
		found, done = append(found, refEntry{ref, e}), append(done, slot)
		if len(found) == maxPerUpdate {
			if err := l.applyAgain(ctx, found, done); err != nil {
				return err
			}
			found, done = nil, nil
		}
		if len(left) == 0 {
			break
		}
	}
	return l.applyAgain(ctx, found, slices.AppendSeq(done, maps.Keys(left)))
}

// applyAgain applies entries again, and marks slots as restored.
func (l *Log) applyAgain(ctx context.Context, entries []refEntry, slots []string) error {
	return l.update(ctx, func(tx *store.Tx, sum *summary) error {
		for _, e := range entries {
			keys, err := l.config.State.Apply(tx, e.entry, e.Ref)
			if err != nil {
				return err
			}
			sum.Keys += uint64(keys)
			sum.revised = append(sum.revised, e.Number) // its effect shows only now
		}
		for _, slot := range slots {
			if err := l.config.State.Restored(tx, slot); err != nil {
				return err
			}
		}
		return nil
	})
}

// refEntry is an entry with its position and number.
type refEntry struct {
	Ref
	entry *entry.Entry
}
