package oplog

import (
	"context"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// Resume continues with pending entries whose parents have arrived and with
// entries whose authorization must be decided again, until there are none. It
// is needed after an interrupted Join or Revise, which call it too.
func (l *Log) Resume(ctx context.Context) error {
	for {
		sum, err := l.readSummary(blocks.Reading(ctx, l.store))
		if err != nil || sum.ReadyFrom == sum.ReadyTo && sum.Queue == 0 {
			return err
		}
		err = l.update(ctx, func(tx *store.Tx, sum *summary) error {
			if err := l.resumeReady(tx, sum); err != nil || sum.ReadyFrom < sum.ReadyTo {
				return err
			}
			return l.decideQueued(tx, sum)
		})
		if err != nil {
			return err
		}
	}
}

func (l *Log) readyKey(n uint64) string { return store.Key(l.key("ready"), n) }

// resumeReady resumes the dependants of the entries in the ready queue, as many
// as fit into one transaction.
func (l *Log) resumeReady(tx *store.Tx, sum *summary) error {
	n, size := 0, 0
	for sum.ReadyFrom < sum.ReadyTo {
		key := l.readyKey(sum.ReadyFrom)
		record, err := l.mustGet(tx, key)
		if err != nil {
			return err
		}
		arrived := string(record)
		list, err := l.dependants(tx, arrived, maxPerUpdate-n)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			if err := tx.Delete(key); err != nil {
				return err
			}
			sum.ReadyFrom++
		}
		for _, hash := range list {
			if err := l.release(tx, arrived, hash); err != nil {
				return err
			}
			read, err := l.resumeOne(tx, sum, hash)
			if err != nil {
				return err
			}
			size += read
			if n++; n == maxPerUpdate || size >= maxUpdateBytes {
				return nil
			}
		}
	}
	return nil
}

// resumeOne resumes a pending entry after the parent that it waited for entered
// the log. The entry enters the log, waits for another parent, or has its
// evicted block fetched again. size is the number of bytes read.
func (l *Log) resumeOne(tx *store.Tx, sum *summary, hash string) (size int, err error) {
	pe, err := l.mustPending(tx, hash)
	if err != nil {
		return 0, err
	}
	if size, err = l.advance(tx, sum, pe); err != nil {
		return size, err
	}
	switch {
	case len(pe.parents) > 0:
		if err := l.putPending(tx, pe); err != nil {
			return size, err
		}
		if err := l.depend(tx, pe.parents[0], pe.hash); err != nil {
			return size, err
		}
		return size, l.require(tx, sum, pe.parents[0], pe)
	case !pe.held:
		if err := l.putPending(tx, pe); err != nil {
			return size, err
		}
		return size, l.refetch(tx, sum, pe)
	}
	b, err := l.heldBlock(tx, pe)
	if err != nil {
		return size, err
	}
	e, err := entry.Decode(b)
	if err != nil {
		return size, fmt.Errorf("%w of %s: pending entry %s: %v", ErrDamaged, l.id, hash, err)
	}
	if err := l.removePending(tx, sum, pe); err != nil {
		return size, err
	}
	var invalid error
	if pe.reason != "" {
		invalid = errors.New(pe.reason)
	}
	return size + len(b.Data), l.enter(tx, sum, e, pe.writer, pe.from, invalid)
}

// advance removes the parents of a pending entry that are in the log, up to the
// first one that is not. size is the number of bytes of the records read.
func (l *Log) advance(tx *store.Tx, sum *summary, pe *pendingEntry) (size int, err error) {
	for loaded := false; ; loaded = true {
		missing, n, err := l.firstMissing(tx, pe.parents)
		if err != nil {
			return size, err
		}
		pe.parents = pe.parents[n:]
		pe.fromNext -= min(pe.fromNext, uint64(n))
		if missing != "" && loaded {
			return size, l.requireAll(tx, sum, pe)
		}
		if missing != "" || pe.firstChunk == pe.chunks {
			return size, nil
		}
		key := l.parentsKey(pe.hash, pe.firstChunk)
		record, err := l.mustGet(tx, key)
		if err != nil {
			return size, err
		}
		size += len(record)
		var ok bool
		if pe.parents, ok = splitHashes(record); !ok || len(pe.parents) > parentsPerRecord {
			return size, fmt.Errorf("%w of %s: %s", ErrDamaged, l.id, key)
		}
		pe.firstChunk++
		if err := tx.Delete(key); err != nil {
			return size, err
		}
	}
}
