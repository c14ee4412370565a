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

// ErrDropped means that a log is dropped or about to be dropped, and cannot be
// written.
var ErrDropped = errors.New("database is dropped")

// Freeze stops writes. When it returns, everything written before can be read,
// and every later write fails with [ErrDropped] until [Log.Thaw] is called.
func (l *Log) Freeze(ctx context.Context) error {
	// Updates run one at a time.
	err := l.store.Update(ctx, func(*store.Tx) error {
		l.setFrozen(true)
		return nil
	})
	if err != nil {
		l.Thaw()
	}
	return err
}

// Thaw allows writes to a frozen log again.
func (l *Log) Thaw() { l.setFrozen(false) }

func (l *Log) setFrozen(frozen bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = frozen || l.dropped
}

// Drop marks a frozen log as deleted ([Clear]) and ends the loops over its
// updates.
func (l *Log) Drop() {
	l.mu.Lock()
	l.frozen, l.dropped = true, true
	l.mu.Unlock()
	l.changed.Announce()
}

// Dropped reports whether the log is dropped. Unlike a freeze, that is final.
func (l *Log) Dropped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// checkWritable returns [ErrDropped] if the log cannot be written.
func (l *Log) checkWritable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen {
		return fmt.Errorf("%w: %s", ErrDropped, l.id)
	}
	return nil
}

// Bounds of a batch of exported blocks.
const (
	offerBlocks = 256
	offerBytes  = 4 << 20
)

// Export calls keep with the blocks of all entries of a log in the order of
// their arrival, in batches of at most 256 blocks or 4 MiB. It stops at the
// first error. It reports whether the log is whole: no entry is damaged or
// lost. The log may be damaged; it must not be written during the call.
func Export(ctx context.Context, s *store.Store, number uint64, keep func(context.Context, []block.Block) error) (whole bool, err error) {
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

// Clear makes a log empty. [Delete] deletes the rest of its records. An open
// [Log] must not be written any more ([Log.Freeze]).
func Clear(tx *store.Tx, number uint64) error {
	return tx.Delete((&Log{number: number}).summaryKey())
}

// Delete deletes everything that is stored for a log, many entries in one
// transaction. It starts with the keys that lead to entries: the order and the
// prefixes of the log's [State]. If it is interrupted, run it again. Meanwhile,
// other logs may contain and receive entries with the same hashes. If the log
// is not whole ([Export]), Delete also reads the locations of all blocks to
// find those of lost entries.
func Delete(ctx context.Context, s *store.Store, number uint64, whole bool, prefixes ...string) error {
	log := blocks.LogPrefix(number)
	for _, prefix := range append([]string{"order"}, prefixes...) {
		if err := clearPrefix(ctx, s, log+"/"+prefix); err != nil {
			return err
		}
	}
	d := &deletion{ctx: ctx, store: s, number: number}
	for r, err := range s.Scan(ctx, blocks.Entries(number)) {
		if err != nil {
			return err
		}
		if b, _ := blocks.DecodeEntry(r.Value); b.Hash != "" {
			if err := d.addHash(b.Hash); err != nil {
				return err
			}
		}
		if err := d.add(r.Key); err != nil {
			return err
		}
	}
	if !whole {
		for hash, err := range blocks.Located(ctx, s, number) {
			if err != nil {
				return err
			}
			if err := d.addHash(hash); err != nil {
				return err
			}
		}
	}
	if err := d.flush(); err != nil {
		return err
	}
	return clearPrefix(ctx, s, log)
}

// clearPrefix deletes all keys below a prefix.
func clearPrefix(ctx context.Context, s *store.Store, prefix string) error {
	d := &deletion{ctx: ctx, store: s}
	for record, err := range s.Scan(ctx, prefix) {
		if err != nil {
			return err
		}
		if err := d.add(record.Key); err != nil {
			return err
		}
	}
	return d.flush()
}

// deletePerUpdate is the largest number of keys and locations that one
// transaction deletes.
const deletePerUpdate = 1024

// deletion deletes keys and the locations of a log's entries, many in one
// transaction.
type deletion struct {
	ctx    context.Context
	store  *store.Store
	number uint64 // of the log
	keys   []string
	hashes []string // of entries whose locations are deleted
}

func (d *deletion) add(key string) error {
	d.keys = append(d.keys, strings.Clone(key))
	return d.flushFull()
}

func (d *deletion) addHash(hash string) error {
	d.hashes = append(d.hashes, strings.Clone(hash))
	return d.flushFull()
}

func (d *deletion) flushFull() error {
	if len(d.keys)+len(d.hashes) < deletePerUpdate {
		return nil
	}
	return d.flush()
}

func (d *deletion) flush() error {
	err := d.store.Update(d.ctx, func(tx *store.Tx) error {
		for _, key := range d.keys {
			if err := tx.Delete(key); err != nil {
				return err
			}
		}
		for _, hash := range d.hashes {
			if err := blocks.DeleteLocation(tx, d.number, hash); err != nil {
				return err
			}
		}
		return nil
	})
	d.keys, d.hashes = d.keys[:0], d.hashes[:0]
	return err
}
