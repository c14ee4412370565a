package orbit

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/value"
)

// ErrNotFound is returned for a key that the database does not have.
var ErrNotFound = keyed.ErrNotFound

// Item is a key with its value and the CID of the entry that set it.
type Item struct {
	Hash  string
	Key   value.Value
	Value value.Value
}

// Page selects items of a database.
type Page struct {
	// Limit is the maximum number of items; 0 means no limit.
	Limit int
	// After is the CID of an entry. The page begins with the next older
	// item. To continue after a page, pass the CID of its last item.
	After string
}

// keyedView implements what documents and keyvalue databases have in common.
type keyedView struct{ db *Database }

// Get returns the item with a key, or [ErrNotFound]. The key is any data that
// [value.Of] accepts.
func (v keyedView) Get(ctx context.Context, key any) (Item, error) {
	k, err := value.Of(key)
	if err != nil {
		return Item{}, fmt.Errorf("key: %w", err)
	}
	v.db.warm()
	item, err := v.db.keys.Get(blocks.Reading(ctx, v.db.orbit.store), k)
	return Item(item), v.wrap(err)
}

// Iterate yields items, newest first. An item whose entry is damaged is yielded
// with an error that names the entry, and the loop continues.
func (v keyedView) Iterate(ctx context.Context, p Page) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		var behind *entry.Position
		if p.After != "" {
			e, err := v.db.log.Get(ctx, p.After)
			var position entry.Position
			if err == nil {
				position, err = v.db.log.Position(ctx, e)
			}
			if err != nil {
				yield(Item{}, err)
				return
			}
			behind = &position
		}
		count := 0
		for item, err := range v.db.keys.Items(ctx, v.db.orbit.store, behind) {
			if count++; !yield(Item(item), v.wrap(err)) || count == p.Limit {
				return
			}
		}
	}
}

// All yields all items, oldest first.
func (v keyedView) All(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for item, err := range v.db.keys.Oldest(ctx, v.db.orbit.store) {
			if !yield(Item(item), v.wrap(err)) {
				return
			}
		}
	}
}

// Query yields the items whose values match, newest first.
func (v keyedView) Query(ctx context.Context, match func(value.Value) (bool, error)) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for item, err := range v.Iterate(ctx, Page{}) {
			ok := err != nil
			if err == nil {
				ok, err = match(item.Value)
			}
			if (ok || err != nil) && !yield(item, err) {
				return
			}
		}
	}
}

func (v keyedView) wrap(err error) error {
	if errors.Is(err, ErrDamagedBlock) && v.db.log.Dropped() {
		return fmt.Errorf("%w: %s", ErrDropped, v.db.address)
	}
	if errors.Is(err, ErrDamagedBlock) {
		return fmt.Errorf("%w of %s", err, v.db.address)
	}
	return err
}

// Documents is a database of documents, each with its key in one of its fields
// ([Database.IndexBy]).
type Documents struct{ keyedView }

// Documents returns the database as a database of documents, or [ErrType].
func (db *Database) Documents() (*Documents, error) {
	if err := db.checkType(TypeDocuments); err != nil {
		return nil, err
	}
	return &Documents{keyedView{db}}, nil
}

// Put stores a document, replacing the one with the same key, and returns the
// CID of the entry when it is on disk. The document is a map, a struct, or
// other data of which [value.Of] makes a map, and its key must not be false, 0,
// "" or null.
func (d *Documents) Put(ctx context.Context, doc any) (string, error) {
	payload, err := d.put(doc)
	if err != nil {
		return "", err
	}
	return d.db.appendOne(ctx, noCheck, payload)
}

// PutMany stores documents, one entry for each and many in a transaction, and
// returns the number of documents on disk. It stops at the first error; the
// documents before it are stored.
func (d *Documents) PutMany(ctx context.Context, docs iter.Seq[any]) (int, error) {
	return appendMany(ctx, d.db, docs, d.put)
}

func (d *Documents) put(doc any) (value.Value, error) {
	v, err := value.Of(doc)
	if err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	key := v.Field(d.db.indexBy)
	if key == nil || !key.Truthy() {
		return nil, fmt.Errorf("%w: document without its key %q: %.80s", ErrInvalid, d.db.indexBy, v)
	}
	return keyed.Put(key, v), nil
}

// Delete deletes the document with a key and returns the CID of the entry, or
// returns [ErrNotFound].
func (d *Documents) Delete(ctx context.Context, key any) (string, error) {
	k, err := value.Of(key)
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	return d.db.appendOne(ctx, func(g blocks.Getter) error {
		_, err := d.db.keys.Get(g, k)
		return d.wrap(err)
	}, keyed.Delete(k))
}

// KeyValue is a database of keys and values.
type KeyValue struct{ keyedView }

// KeyValue returns the database as a database of keys and values, or [ErrType].
func (db *Database) KeyValue() (*KeyValue, error) {
	if err := db.checkType(TypeKeyValue); err != nil {
		return nil, err
	}
	return &KeyValue{keyedView{db}}, nil
}

// Pair is a key with a value.
type Pair struct{ Key, Value any }

// Put stores a value at a key and returns the CID of the entry when it is on
// disk. Both are any data that [value.Of] accepts.
func (kv *KeyValue) Put(ctx context.Context, key, val any) (string, error) {
	payload, err := putPair(Pair{key, val})
	if err != nil {
		return "", err
	}
	return kv.db.appendOne(ctx, noCheck, payload)
}

// PutMany stores pairs; see [Documents.PutMany].
func (kv *KeyValue) PutMany(ctx context.Context, pairs iter.Seq[Pair]) (int, error) {
	return appendMany(ctx, kv.db, pairs, putPair)
}

func putPair(p Pair) (value.Value, error) {
	k, err := value.Of(p.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	v, err := value.Of(p.Value)
	if err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	return keyed.Put(k, v), nil
}

// Delete deletes a key and returns the CID of the entry. As in JavaScript, it
// writes an entry even if there is no such key.
func (kv *KeyValue) Delete(ctx context.Context, key any) (string, error) {
	k, err := value.Of(key)
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	return kv.db.appendOne(ctx, noCheck, keyed.Delete(k))
}
