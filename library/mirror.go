package library

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/newpieceplease/npp/orbit"
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
// damaged is left out. mirror returns when the context is done, the Orbit is closed or
// the database is dropped.
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
