package library

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

// keyedDatabase is the common part of [orbit.Documents] and [orbit.KeyValue].
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

// mirror reads a keyed database, and then follows its changes. It passes to
// take all items, newest first and with number 0, and then each changed key
// with the number of the entry that changed it, and a nil item if the key was
// deleted. Whenever take has received all changes, mirror calls read with the
// number of the log's last entry; only then are the items a consistent state.
// mirror logs and skips damaged items. It returns when ctx is done, the Orbit
// is closed or the database is dropped.
func mirror(ctx context.Context, db *orbit.Database, take func(key value.Value, item *orbit.Item, number uint64), read func(last uint64)) error {
	view, err := keyedOf(db)
	if err != nil {
		return err
	}
	stats, err := db.Stats(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", db.Address(), err)
	}
	for item, err := range view.Iterate(ctx, orbit.Page{}) {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			take(item.Key, &item, 0)
		case errors.Is(err, orbit.ErrDamagedBlock):
			log.Warnw("damaged item", "database", db.Address(), "err", err)
		default:
			return fmt.Errorf("read %s: %w", db.Address(), err)
		}
	}
	read(stats.Last)
	for arrival, err := range db.Follow(ctx, stats.Last, read) {
		if err != nil {
			return fmt.Errorf("follow %s: %w", db.Address(), err)
		}
		op, ok := orbit.ParseOperation(arrival.Entry.Payload)
		if !ok {
			continue
		}
		item, err := view.Get(ctx, op.Key)
		switch {
		case err == nil:
			take(op.Key, &item, arrival.Number)
		case errors.Is(err, orbit.ErrNotFound):
			take(op.Key, nil, arrival.Number)
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			log.Warnw("damaged item", "database", db.Address(), "err", err)
		}
	}
	return ctx.Err()
}
