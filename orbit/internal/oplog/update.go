package oplog

import (
	"context"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/store"
)

// Changed returns a channel that is closed at the next change of the log or of
// its pending entries.
func (l *Log) Changed() <-chan struct{} { return l.changed.Next() }

// update changes the log in a transaction, and announces that.
func (l *Log) update(ctx context.Context, change func(*store.Tx, *summary) error) error {
	return l.write(ctx, func(tx *store.Tx, sum *summary) error {
		if sum.Rebuild != 0 {
			return fmt.Errorf("%w of %s: its index is being rebuilt", ErrDamaged, l.id)
		}
		return change(tx, sum)
	})
}

// write is like update, but also works during a rebuild.
func (l *Log) write(ctx context.Context, change func(*store.Tx, *summary) error) error {
	sum := new(summary)
	var numbers, revision uint64 // of the summary before the change
	err := l.store.Update(ctx, func(tx *store.Tx) error {
		if err := l.checkWritable(); err != nil {
			return err
		}
		read, err := l.readSummary(tx)
		if err != nil {
			return err
		}
		sum, numbers, revision = read, read.Numbers, read.Revision
		if err := change(tx, sum); err != nil {
			return err
		}
		return l.writeSummary(tx, sum)
	})
	if err == nil {
		l.config.Quota.Stored(sum.Bytes, sum.PendingBytes)
	} else {
		l.lookedUp.clear()
	}
	if err != nil && sum.Numbers != numbers || sum.Revision != revision {
		l.config.State.Invalidate()
	}
	// A change that may not be durable may still be there.
	if err == nil || errors.Is(err, store.ErrNotDurable) {
		l.mu.Lock()
		l.addRevisions(sum.revised)
		l.mu.Unlock()
		l.changed.Announce()
	}
	return err
}
