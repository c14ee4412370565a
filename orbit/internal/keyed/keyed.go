// Package keyed maintains the state of documents and keyvalue databases: the
// newest operation on each key.
//
// Operations are {op: "PUT", key, value} and {op: "DEL", key, value: null};
// other payloads are ignored. The newest operation is the one whose entry is
// last in the order of the log, regardless of the order of arrival.
//
// JavaScript stores keys as properties of an object. A number and its text are
// therefore the same key, and the newest operation on either hides the other.
// This package does the same ([value.Value.Slot]). Unlike JavaScript, it
// distinguishes keys that are maps, arrays or bytes, and shows keys such as
// "constructor".
//
// # Stored keys
//
//	key/<slot>                      newest operation: whether it deletes, number
//	                                and CID of its entry
//	live/<time>/<clock id>.<CID>    number of the entry of each live key
//	lapsed/<slot>                   a slot whose newest operation is no longer
//	                                authorized, until the next one is found
//
// All are below the prefix of the log. The series live is in the order of the
// log, so a page of it is a page of the database.
//
// # Cost
//
// For an authorized entry from a peer, the package decodes the payload
// ([Parse]), hashes the key, reads three records (the one of the key, the entry
// that was the newest, and that entry's rank), deletes one, and writes two of
// about 300 bytes together, regardless of the size of the database. If the
// entry is not the newest of its key, it costs the reads alone. An entry that
// is no longer authorized costs one read and three writes. The record of a key
// is never deleted. [Hints] hold 262 144 keys of all logs together, about 10
// MiB. [Index.Warm] reads at most 131 073 records, once. [Index.Get] reads one
// entry, and where the hint is wrong the record and another entry; the loops
// read each entry that they yield.
package keyed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

// ErrNotFound is returned for a key that has no value.
var ErrNotFound = errors.New("no such key")

// Op is an operation on a key.
type Op struct {
	Key     value.Value
	Value   value.Value
	Deleted bool
}

// Put returns the payload that sets the value of a key.
func Put(key, val value.Value) value.Value { return operation("PUT", key, val) }

// Delete returns the payload that deletes a key.
func Delete(key value.Value) value.Value { return operation("DEL", key, value.Null) }

func operation(op string, key, val value.Value) value.Value {
	return value.Map(value.Member{Name: "op", Value: value.Text(op)}, value.Member{Name: "key", Value: key}, value.Member{Name: "value", Value: val})
}

// Parse decodes a payload and reports whether it is an operation.
func Parse(payload value.Value) (Op, bool) {
	name, _ := payload.Field("op").Text()
	op := Op{Key: payload.Field("key"), Value: payload.Field("value"), Deleted: name == "DEL"}
	if name != "PUT" && name != "DEL" || op.Key == nil {
		return Op{}, false
	}
	if op.Value == nil {
		op.Value = value.Null // JavaScript's undefined
	}
	return op, true
}

// Index is the state of one log.
type Index struct {
	log   uint64
	hints *Hints
}

// New returns the state of the log with a number. Logs may share hints.
func New(log uint64, hints *Hints) Index { return Index{log, hints} }

var _ oplog.State = Index{}

func (x Index) slotKey(slot string) string { return blocks.LogPrefix(x.log) + "/key/" + slot }
func (x Index) live() string               { return blocks.LogPrefix(x.log) + "/live" }

// Prefixes implements [oplog.State].
func (Index) Prefixes() []string { return []string{"key", "live", "lapsed"} }

func (x Index) lapsedKey(slot string) string { return blocks.LogPrefix(x.log) + "/lapsed/" + slot }

// winner is the newest operation on a key.
type winner struct {
	deleted bool
	number  uint64
	hash    string
}

func (w winner) encode() []byte {
	flag := byte(0)
	if w.deleted {
		flag = 1
	}
	return append(binary.AppendUvarint([]byte{flag}, w.number), w.hash...)
}

func decodeWinner(b []byte) (w winner, err error) {
	if len(b) > 1 {
		number, n := binary.Uvarint(b[1:])
		w = winner{b[0] == 1, number, string(b[1+max(n, 0):])}
		if n > 0 && b[0] <= 1 && block.ValidHash(w.hash) {
			return w, nil
		}
	}
	return w, fmt.Errorf("%w: record of a key", oplog.ErrDamaged)
}

// Apply implements [oplog.State].
func (x Index) Apply(tx *store.Tx, e *entry.Entry, at oplog.Ref) (int, error) {
	op, ok := Parse(e.Payload)
	if !ok {
		return 0, nil
	}
	keys := 0
	slot := op.Key.Slot()
	record, err := x.record(tx, slot)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return 0, err
	default:
		w, err := decodeWinner(record)
		if err != nil {
			return 0, err
		}
		older, err := x.at(tx, w)
		if err != nil {
			return 0, err
		}
		position, err := oplog.PositionOf(tx, x.log, older)
		if err != nil {
			return 0, err
		}
		if position.Compare(at.Position) > 0 {
			return 0, nil
		}
		if !w.deleted {
			keys--
			if err := tx.Delete(oplog.PositionKey(x.live(), position)); err != nil {
				return 0, err
			}
		}
	}
	if !op.Deleted {
		keys++
		if err := tx.Put(oplog.PositionKey(x.live(), at.Position), binary.AppendUvarint(nil, at.Number)); err != nil {
			return 0, err
		}
	}
	// Until the transaction is committed, the hint does not match any
	// entry, and readers use the record.
	x.hints.put(newHintKey(x.log, slot), newHint(at.Number, e.Hash()))
	return keys, tx.Put(x.slotKey(slot), winner{op.Deleted, at.Number, e.Hash()}.encode())
}

// Retract implements [oplog.State]. A slot whose newest operation is retracted
// is empty until Restored is called.
func (x Index) Retract(tx *store.Tx, e *entry.Entry, at oplog.Ref) (int, error) {
	slot := x.Slot(e)
	if slot == "" {
		return 0, nil
	}
	record, err := tx.Get(x.slotKey(slot))
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	w, err := decodeWinner(record)
	if err != nil || w.hash != e.Hash() {
		return 0, err
	}
	if err := errors.Join(tx.Delete(x.slotKey(slot)), tx.Put(x.lapsedKey(slot), nil)); err != nil {
		return 0, err
	}
	if w.deleted {
		return 0, nil
	}
	return -1, tx.Delete(oplog.PositionKey(x.live(), at.Position))
}

// Slot implements [oplog.State].
func (Index) Slot(e *entry.Entry) string {
	op, ok := Parse(e.Payload)
	if !ok {
		return ""
	}
	return op.Key.Slot()
}

// Lapsed implements [oplog.State].
func (x Index) Lapsed(ctx context.Context, s *store.Store, n int) (slots []string, err error) {
	prefix := x.lapsedKey("")
	for r, err := range s.Scan(ctx, strings.TrimSuffix(prefix, "/")) {
		if err != nil {
			return nil, err
		}
		if slots = append(slots, strings.TrimPrefix(r.Key, prefix)); len(slots) == n {
			break
		}
	}
	return slots, nil
}

// Restored implements [oplog.State].
func (x Index) Restored(tx *store.Tx, slot string) error { return tx.Delete(x.lapsedKey(slot)) }

// record returns the record of a slot, or [store.ErrNotFound].
func (x Index) record(g blocks.Getter, slot string) ([]byte, error) {
	if _, none, _ := x.hints.get(newHintKey(x.log, slot)); none {
		return nil, store.ErrNotFound
	}
	return g.Get(x.slotKey(slot))
}

// Warm loads the hints of all keys of the log, unless there are too many. Hints
// affect speed alone.
func (x Index) Warm(ctx context.Context, s *store.Store) error {
	complete, forgotten := x.hints.begin(x.log)
	if complete {
		return nil
	}
	// Once this empty transaction is committed, each operation that was
	// applied before it is stored or never will be.
	if err := s.Update(ctx, func(*store.Tx) error { return nil }); err != nil {
		return err
	}
	prefix := x.slotKey("")
	count := 0
	for r, err := range s.Scan(ctx, strings.TrimSuffix(prefix, "/")) {
		if err != nil {
			return err
		}
		if count++; count > generation {
			return nil
		}
		w, err := decodeWinner(r.Value)
		if err != nil {
			return nil // Get reports the error
		}
		x.hints.found(newHintKey(x.log, strings.TrimPrefix(r.Key, prefix)), newHint(w.number, w.hash), forgotten)
	}
	x.hints.finish(x.log, forgotten)
	return nil
}

// Invalidate implements [oplog.State].
func (x Index) Invalidate() { x.hints.Clear() }

func (x Index) at(g blocks.Getter, w winner) (*entry.Entry, error) {
	return oplog.At(g, blocks.Location{Log: x.log, Number: w.number}, w.hash)
}

// Item is a key with its value.
type Item struct {
	Hash  string // of the entry that set it
	Key   value.Value
	Value value.Value
}

// Get returns the value of a key, or [ErrNotFound].
func (x Index) Get(g blocks.Getter, key value.Value) (Item, error) {
	slot := key.Slot()
	hash, op, err := x.newest(g, slot)
	// The newest operation in a slot may be on another key: 42 is not "42".
	if errors.Is(err, store.ErrNotFound) || err == nil && (op.Deleted || !op.Key.Equal(key)) {
		return Item{}, fmt.Errorf("%w: %.80s", ErrNotFound, key)
	}
	return Item{hash, op.Key, op.Value}, err
}

// newest returns the newest operation in a slot and the hash of its entry.
func (x Index) newest(g blocks.Getter, slot string) (hash string, op Op, err error) {
	k := newHintKey(x.log, slot)
	at, none, forgotten := x.hints.get(k)
	if none {
		return "", Op{}, store.ErrNotFound
	}
	if at.number != 0 {
		if e, ok := x.guess(g, at); ok {
			if op, ok := Parse(e.Payload); ok && op.Key.Slot() == slot {
				return e.Hash(), op, nil
			}
		}
	}
	record, err := g.Get(x.slotKey(slot))
	if err != nil {
		return "", Op{}, err
	}
	w, err := decodeWinner(record)
	if err != nil {
		return "", Op{}, err
	}
	e, err := x.at(g, w)
	if err != nil {
		return w.hash, Op{}, err
	}
	x.hints.found(k, newHint(w.number, w.hash), forgotten)
	op, _ = Parse(e.Payload)
	return w.hash, op, nil
}

// guess returns the entry to which a hint points, if it exists.
func (x Index) guess(g blocks.Getter, at hint) (*entry.Entry, bool) {
	record, err := g.Get(store.Key(blocks.Entries(x.log), at.number))
	if err != nil {
		return nil, false
	}
	b, err := blocks.DecodeEntry(record)
	if err != nil || newHint(at.number, b.Hash) != at {
		return nil, false
	}
	e, err := entry.Decode(b)
	return e, err == nil
}

func (x Index) item(g blocks.Getter, w winner) (Item, error) {
	e, err := x.at(g, w)
	if err != nil {
		return Item{Hash: w.hash}, err
	}
	op, _ := Parse(e.Payload)
	return Item{w.hash, op.Key, op.Value}, nil
}

// Items yields the live keys with their values, the newest first, after a
// position or, with nil, from the start. An item whose entry is damaged is
// yielded with its error, and the loop continues.
func (x Index) Items(ctx context.Context, s *store.Store, after *entry.Position) iter.Seq2[Item, error] {
	return x.items(ctx, s, oplog.Descend(ctx, s, x.live(), after), after)
}

// Oldest is Items in ascending order.
func (x Index) Oldest(ctx context.Context, s *store.Store) iter.Seq2[Item, error] {
	return x.items(ctx, s, oplog.Ascend(ctx, s, x.live()), nil)
}

// items yields the items of refs, except the one at a position.
func (x Index) items(ctx context.Context, s *store.Store, refs iter.Seq2[oplog.Ref, error], but *entry.Position) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		g := blocks.Reading(ctx, s)
		for ref, err := range refs {
			if err != nil {
				yield(Item{}, err)
				return
			}
			if but != nil && ref.Position == *but {
				continue
			}
			if !yield(x.item(g, winner{number: ref.Number, hash: ref.Hash})) {
				return
			}
		}
	}
}
