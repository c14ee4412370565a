package orbit

import (
	"cmp"
	"fmt"
	"sync/atomic"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/store"
)

// hasKeys reports whether the log of a database of the given type has an index
// of keys.
func hasKeys(kind string) bool { return kind != TypeEvents }

// checkTypes returns [ErrInvalid] for an unknown type, and [ErrType] if a
// database whose manifest names one type cannot be opened as the other; ""
// means the same type. JavaScript creates databases of any type whose manifest
// says events, its default (open(name, { Database: Documents() })). So a
// database of type events may be opened as any other type, and so may one of an
// unknown type. Documents and keyvalue databases may not.
func checkTypes(manifestType, kind string) error {
	switch kind {
	case "", manifestType:
		return nil
	case TypeDocuments, TypeKeyValue, TypeEvents:
	default:
		return fmt.Errorf("%w: type %.40q; there are %s, %s and %s", ErrInvalid, kind, TypeDocuments, TypeKeyValue, TypeEvents)
	}
	if manifestType == TypeDocuments || manifestType == TypeKeyValue {
		return fmt.Errorf("%w: its manifest says %s, so it cannot be opened as %s", ErrType, manifestType, kind)
	}
	return nil
}

// matches reports whether a database with the given type and index field
// satisfies the options.
func (opts OpenOptions) matches(kind, indexBy string) bool {
	return cmp.Or(opts.Type, kind) == kind && cmp.Or(opts.IndexBy, indexBy) == indexBy
}

// index is the state of a database's log: the keys, if the type of the database
// has keys, and whether the own identity has written a plain value (see
// [Database.Encrypted]). Below the prefix of the log, it stores the records of
// [keyed.Index] and
//
//	plain    empty; exists once the own identity has written a plain value
type index struct {
	keyed.Index
	on    atomic.Bool // whether the type has keys
	stale atomic.Bool // whether the type has changed and the log is not rebuilt yet

	own        string // CID of the own identity
	plainKey   string
	wrotePlain atomic.Bool // whether plainKey is stored or about to be
}

func (o *Orbit) newIndex(log uint64, kind string) *index {
	x := &index{
		Index:    keyed.New(log, o.hints),
		own:      o.signer.Hash(),
		plainKey: blocks.LogPrefix(log) + "/plain",
	}
	x.on.Store(hasKeys(kind))
	return x
}

var _ oplog.State = (*index)(nil)

// Apply implements [oplog.State].
func (x *index) Apply(tx *store.Tx, e *entry.Entry, at oplog.Ref) (keys int, err error) {
	if isOwnPlain(e, x.own) && !x.wrotePlain.Swap(true) {
		if err := tx.Put(x.plainKey, nil); err != nil {
			return 0, err
		}
	}
	if !x.on.Load() {
		return 0, nil
	}
	return x.Index.Apply(tx, e, at)
}

// Retract implements [oplog.State].
func (x *index) Retract(tx *store.Tx, e *entry.Entry, at oplog.Ref) (keys int, err error) {
	if !x.on.Load() {
		return 0, nil
	}
	return x.Index.Retract(tx, e, at)
}

// Invalidate implements [oplog.State].
func (x *index) Invalidate() {
	x.wrotePlain.Store(false)
	x.Index.Invalidate()
}
