package oplog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

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
	var numbers, revision, place uint64 // the first two are of the summary before the change
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
		place = l.told.next()
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
		l.told.tell(place, numbers, sum.Numbers, l.config.Changed)
	}
	return err
}

// Tell calls [Config.Changed] for a change outside of the log.
func (l *Log) Tell() {
	l.told.mu.Lock()
	defer l.told.mu.Unlock()
	l.config.Changed(l.told.last)
}

// told orders the calls of [Config.Changed]. The callers of updates that share
// a batch go on in any order, but a batch contains all updates before its last.
type told struct {
	places atomic.Uint64 // updates so far

	mu    sync.Mutex
	place uint64 // the last update of which a call has told
	last  uint64 // number of the last entry after that update
}

// next returns the place of an update. Updates run one at a time.
func (t *told) next() uint64 { return t.places.Add(1) }

// tell tells of an update, between whose begin and end the number of the last
// entry rose, unless a call has told of it.
func (t *told) tell(place, begin, end uint64, changed func(after uint64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if place <= t.place {
		return
	}
	changed(min(t.last, begin)) // a rebuild numbers the entries from 1 again
	t.place, t.last = place, end
}
