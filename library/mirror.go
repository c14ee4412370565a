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

// mirror tells take what is in a keyed database: first all items, the newest first
// and with first set, then ready, then each key that was changed, with nil for one
// that was deleted. It goes on until the context is done, the Orbit closed or the
// database dropped. An item that is damaged is left out.
func mirror(ctx context.Context, db *orbit.Database, take func(key value.Value, item *orbit.Item, first bool), ready func()) error {
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
			take(item.Key, &item, true)
		case errors.Is(err, blocks.ErrDamaged):
			log.Warnw("damaged item", "database", db.Address(), "err", err)
		default:
			return fmt.Errorf("read %s: %w", db.Address(), err)
		}
	}
	if ready != nil {
		ready()
	}
	for arrival, err := range db.Updates(ctx, stats.Last) {
		if err != nil {
			return fmt.Errorf("follow %s: %w", db.Address(), err)
		}
		if arrival.Entry == nil {
			continue
		}
		op, ok := keyed.Parse(arrival.Entry.Payload)
		if !ok {
			continue
		}
		item, err := view.Get(ctx, op.Key)
		switch {
		case err == nil:
			take(op.Key, &item, false)
		case errors.Is(err, orbit.ErrNotFound):
			take(op.Key, nil, false)
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			log.Warnw("damaged item", "database", db.Address(), "err", err)
		}
	}
	return ctx.Err()
}
