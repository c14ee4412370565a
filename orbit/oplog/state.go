package oplog

import (
	"context"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/store"
)

// State is what follows from the entries of a log. It must not depend on the
// order in which they come.
type State interface {
	// Apply adds the effect of an entry that counts, and returns by how much
	// the number of live keys changed. It may be called again for the same entry.
	Apply(tx *store.Tx, e *entry.Entry, at Ref) (keys int, err error)
	// Retract takes back the effect of an entry that ceased to count, and returns
	// by how much the number of live keys changed. Where other entries have to be
	// applied again, it notes the slot of the entry as lapsed.
	Retract(tx *store.Tx, e *entry.Entry, at Ref) (keys int, err error)
	// Slot returns what an entry is an operation on, or "".
	Slot(e *entry.Entry) string
	// Lapsed returns up to n slots whose newest entry has to be applied again.
	Lapsed(ctx context.Context, s *store.Store, n int) ([]string, error)
	// Restored says that a slot is not lapsed any more.
	Restored(tx *store.Tx, slot string) error
	// Failed tells that changes which were applied may not have been stored, or
	// that some were retracted.
	Failed()
	// Prefixes are the parts of the log's namespace that the state has to
	// itself.
	Prefixes() []string
}

// NoState is the state of a database whose entries are all there is.
type NoState struct{}

// Apply does nothing.
func (NoState) Apply(*store.Tx, *entry.Entry, Ref) (int, error) { return 0, nil }

// Retract does nothing.
func (NoState) Retract(*store.Tx, *entry.Entry, Ref) (int, error) { return 0, nil }

// Slot returns "".
func (NoState) Slot(*entry.Entry) string { return "" }

// Lapsed returns none.
func (NoState) Lapsed(context.Context, *store.Store, int) ([]string, error) { return nil, nil }

// Restored does nothing.
func (NoState) Restored(*store.Tx, string) error { return nil }

// Failed does nothing.
func (NoState) Failed() {}

// Prefixes returns none.
func (NoState) Prefixes() []string { return nil }
