package library

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/keyed"
	"github.com/newpieceplease/npp/orbit/value"
)

// keyedDatabase is what documents and keyvalue have in common.
type keyedDatabase interface {
	Get(ctx context.Context, key any) (orbit.Item, error)
	Iterate(ctx context.Context, p orbit.Page) iter.Seq2[orbit.Item, error]
}

func keyedOf(db *orbit.Database) (keyedDatabase, error) {
	if db.Type() == orbit.TypeDocuments {
		return db.Documents()
	}
	return db.KeyValue()
}

// mirror reads a keyed database and goes on with its changes. It passes all items to
// take, the newest first and with number 0, and then each key that was changed, with
// the number of the entry that changed it, and nil for a key that was deleted. Each
// time that take has been passed all that the log has, read is called with the number
// of the log's last entry: only then do the items belong together. An item that is
// damaged is left out. mirror returns when the context is done or the database is
// dropped.
func mirror(ctx context.Context, db *orbit.Database, take func(key value.Value, item *orbit.Item, number uint64), read func(last uint64)) error {
	view, err := keyedOf(db)
	if err != nil {
		return err
	}
	stats, err := db.Log().Stats(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", db.Address(), err)
	}
	for item, err := range view.Iterate(ctx, orbit.Page{}) {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			take(item.Key, &item, 0)
		case errors.Is(err, blocks.ErrDamaged):
			log.Warnw("damaged item", "database", db.Address(), "err", err)
		default:
			return fmt.Errorf("read %s: %w", db.Address(), err)
		}
	}
	read(stats.Last)
	for last := stats.Last; ; {
		changed := db.Log().Changed()
		now, err := db.Log().Stats(ctx)
		if err == nil && now.Last > last {
			last, err = mirrorChanges(ctx, db, view, last, take)
			last = max(last, now.Last) // an entry that is not valid is not passed on
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("follow %s: %w", db.Address(), err)
		case db.Log().Dropped():
			return fmt.Errorf("follow %s: %w", db.Address(), orbit.ErrDropped)
		}
		read(last)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// mirrorChanges passes take each key that an entry behind a number changed, and
// returns the number of the last entry.
func mirrorChanges(ctx context.Context, db *orbit.Database, view keyedDatabase, after uint64, take func(key value.Value, item *orbit.Item, number uint64)) (last uint64, err error) {
	last = after
	for arrival, err := range db.Log().Arrived(ctx, after) {
		if err != nil {
			return last, err
		}
		last = arrival.Number
		op, ok := keyed.Parse(arrival.Entry.Payload)
		if !ok {
			continue
		}
		item, err := view.Get(ctx, op.Key)
		switch {
		case err == nil:
			take(op.Key, &item, last)
		case errors.Is(err, orbit.ErrNotFound):
			take(op.Key, nil, last)
		case ctx.Err() != nil:
			return last, ctx.Err()
		default:
			log.Warnw("damaged item", "database", db.Address(), "err", err)
		}
	}
	return last, nil
}
