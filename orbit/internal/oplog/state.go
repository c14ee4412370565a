package oplog

import (
	"context"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/store"
)

// State is derived from the authorized entries of a log. It must not depend on
// the order in which they arrive.
type State interface {
	// Apply adds the effect of an authorized entry, and returns the change in
	// the number of live keys. It may be called more than once for an entry.
	Apply(tx *store.Tx, e *entry.Entry, at Ref) (keys int, err error)
	// Retract removes the effect of an entry that is no longer authorized, and
	// returns the change in the number of live keys. If other entries must be
	// applied again, it marks the slot of the entry as lapsed.
	Retract(tx *store.Tx, e *entry.Entry, at Ref) (keys int, err error)
	// Slot returns the key on which an entry operates, or "" if there is none.
	Slot(e *entry.Entry) string
	// Lapsed returns up to n slots whose newest authorized entry must be
	// applied again.
	Lapsed(ctx context.Context, s *store.Store, n int) ([]string, error)
	// Restored marks a slot as no longer lapsed.
	Restored(tx *store.Tx, slot string) error
	// Invalidate invalidates caches: applied changes may not have been stored,
	// or entries were retracted.
	Invalidate()
	// Prefixes returns the prefixes, within the log's namespace, that only the
	// state uses.
	Prefixes() []string
}

// NoState is the state of a database that consists of its entries alone.
type NoState struct{}

// Apply does nothing.
func (NoState) Apply(*store.Tx, *entry.Entry, Ref) (int, error) { return 0, nil }

// Retract does nothing.
func (NoState) Retract(*store.Tx, *entry.Entry, Ref) (int, error) { return 0, nil }

// Slot returns "".
func (NoState) Slot(*entry.Entry) string { return "" }

// Lapsed returns nil.
func (NoState) Lapsed(context.Context, *store.Store, int) ([]string, error) { return nil, nil }

// Restored does nothing.
func (NoState) Restored(*store.Tx, string) error { return nil }

// Invalidate does nothing.
func (NoState) Invalidate() {}

// Prefixes returns nil.
func (NoState) Prefixes() []string { return nil }
