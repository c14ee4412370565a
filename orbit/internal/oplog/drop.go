package oplog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// ErrDropped says that a log is dropped, or about to be: nothing is written to
// it.
var ErrDropped = errors.New("database is dropped")

// Freeze ends writing: once it returns, all that was written can be read, and
// nothing else is written ([ErrDropped]) until [Log.Thaw].
func (l *Log) Freeze(ctx context.Context) error {
	// Updates run one after the other.
	err := l.store.Update(ctx, func(*store.Tx) error {
		l.setFrozen(true)
		return nil
	})
	if err != nil {
		l.Thaw()
	}
	return err
}

// Thaw lets a frozen log be written again.
func (l *Log) Thaw() { l.setFrozen(false) }

func (l *Log) setFrozen(frozen bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = frozen || l.dropped
}

// Drop says that a frozen log is deleted ([Forget]), and ends loops over updates.
func (l *Log) Drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen, l.dropped = true, true
	l.signal()
}

// Dropped reports whether the log is dropped: for good, unlike one that is
// frozen.
func (l *Log) Dropped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// refusal returns [ErrDropped] where nothing may be written.
func (l *Log) refusal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen {
		return fmt.Errorf("%w: %s", ErrDropped, l.id)
	}
	return nil
}

// Batches of what is offered before it is deleted.
const (
	offerBlocks = 256
	offerBytes  = 4 << 20
)

// Offer gives keep the blocks of all entries of the log of a number, as they
// came, at most 256 of them or 4 MiB at a time, and ends with its first error.
// It reports whether they are whole: whether no entry is damaged or gone. The
// log may be damaged. It must not be written meanwhile.
func Offer(ctx context.Context, s *store.Store, number uint64, keep func(context.Context, []block.Block) error) (whole bool, err error) {
	l := &Log{store: s, number: number, id: blocks.LogPrefix(number)}
	sum, err := l.readSummary(blocks.Reading(ctx, s))
	if err != nil && !errors.Is(err, ErrDamaged) {
		return false, err
	}
	whole = err == nil
	var batch []block.Block
	var count uint64
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := keep(ctx, batch)
		batch, size = nil, 0
		return err
	}
	for r, err := range s.Scan(ctx, blocks.Entries(number)) {
		if err != nil {
			return false, err
		}
		b, err := blocks.DecodeEntry(r.Value)
		if err != nil {
			whole = false
			continue
		}
		count++
		if len(batch) == offerBlocks || size+len(b.Data) > offerBytes {
			if err := flush(); err != nil {
				return false, err
			}
		}
		batch = append(batch, b)
		size += len(b.Data)
	}
	return whole && count == sum.Numbers, flush()
}

// Forget makes the log of a number one that is empty. [Delete] deletes the rest
// of it. Whoever has it open must not write it ([Log.Freeze]).
func Forget(tx *store.Tx, number uint64) error {
	return tx.Delete((&Log{number: number}).summaryKey())
}

// deletePerUpdate is how many entries a transaction deletes.
const deletePerUpdate = 512

// Delete deletes what is stored of the log of a number, many entries to a
// transaction, first what leads to them: the order, and the prefixes that its
// [State] has. Where it is interrupted, it is to be run again. It may run while
// a log of another number has or gets entries with the same hashes. Unless the
// log is whole (see [Offer]), it looks through all blocks for what led to entries
// that are lost.
func Delete(ctx context.Context, s *store.Store, number uint64, whole bool, prefixes ...string) error {
	log := blocks.LogPrefix(number)
	for _, prefix := range append([]string{"order"}, prefixes...) {
		if err := clearPrefix(ctx, s, log+"/"+prefix); err != nil {
			return err
		}
	}
	var keys, hashes []string
	flush := func() error {
		err := s.Update(ctx, func(tx *store.Tx) error {
			for _, key := range keys {
				if err := tx.Delete(key); err != nil {
					return err
				}
			}
			for _, hash := range hashes {
				if err := blocks.DeleteLocation(tx, number, hash); err != nil {
					return err
				}
			}
			return nil
		})
		keys, hashes = keys[:0], hashes[:0]
		return err
	}
	for r, err := range s.Scan(ctx, blocks.Entries(number)) {
		if err != nil {
			return err
		}
		if b, _ := blocks.DecodeEntry(r.Value); b.Hash != "" {
			hashes = append(hashes, strings.Clone(b.Hash))
		}
		if keys = append(keys, strings.Clone(r.Key)); len(keys) == deletePerUpdate {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if !whole {
		for hash, err := range blocks.Located(ctx, s, number) {
			if err != nil {
				return err
			}
			if hashes = append(hashes, hash); len(hashes) >= deletePerUpdate {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return clearPrefix(ctx, s, log)
}
