package orbit

import (
	"cmp"
	"fmt"
	"sync/atomic"

	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/keyed"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/store"
)

// hasKeys reports whether the log of a database of a type has an index of keys.
func hasKeys(kind string) bool { return kind != TypeEvents }

// checkKind returns [ErrInvalid] where there is no such type, and [ErrType] where
// a database whose manifest names a type cannot be opened as one of another type;
// "" stands for the same. JavaScript makes databases of any type whose manifest
// says events, its default (open(name, { Database: Documents() })), so events may
// be any other type, and so may what has a type of its own. Documents and
// keyvalue stay what they are.
func checkKind(manifestType, kind string) error {
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

// fits reports whether a database with this type and index field is what the
// options ask for.
func (opts OpenOptions) fits(kind, indexBy string) bool {
	return cmp.Or(opts.Type, kind) == kind && cmp.Or(opts.IndexBy, indexBy) == indexBy
}

// index is the state of a database's log: the keys, where the type of the
// database has keys, and whether the own identity has written a plain value
// (see [Database.Encrypted]). Below the log's namespace in the store, it has
// what [keyed.Index] has, and
//
//	plain    nothing; it is there once the own identity has, and stays
type index struct {
	keyed.Index
	on    atomic.Bool // the type has keys
	stale atomic.Bool // the type has changed, and the log is not rebuilt yet

	own        string // hash of the own identity
	plainKey   string
	wrotePlain atomic.Bool // plainKey is stored, or is about to be
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

// Failed implements [oplog.State].
func (x *index) Failed() {
	x.wrotePlain.Store(false)
	x.Index.Failed()
}
