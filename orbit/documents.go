package orbit

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/keyed"
	"github.com/newpieceplease/npp/orbit/value"
)

// ErrNotFound says that a database has no such key.
var ErrNotFound = keyed.ErrNotFound

// Item is a key with its value, and the hash of the entry that put it.
type Item = keyed.Item

// Page chooses keys of a database.
type Page struct {
	// Amount is how many there are at most; 0 is no limit.
	Amount int
	// Behind is the hash of an entry: the page has what was put before it.
	// That is how to go on behind the last item of a page.
	Behind string
}

// keyedView is what documents and keyvalue share.
type keyedView struct{ db *Database }

// Get returns the item with a key, or [ErrNotFound]. The key is any value that
// [value.Of] takes.
func (v keyedView) Get(ctx context.Context, key any) (Item, error) {
	k, err := value.Of(key)
	if err != nil {
		return Item{}, fmt.Errorf("key: %w", err)
	}
	v.db.warm()
	item, err := v.db.keys.Get(blocks.Reading(ctx, v.db.orbit.store), k)
	return item, v.wrap(err)
}

// Iterate yields items, the one put last first. One whose entry is damaged has
// its error, which names it, and the loop may go on.
func (v keyedView) Iterate(ctx context.Context, p Page) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		var behind *entry.Position
		if p.Behind != "" {
			e, err := v.db.log.Get(ctx, p.Behind)
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
			if count++; !yield(item, v.wrap(err)) || count == p.Amount {
				return
			}
		}
	}
}

// All yields all items, the one put last last.
func (v keyedView) All(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for item, err := range v.db.keys.Oldest(ctx, v.db.orbit.store) {
			if !yield(item, v.wrap(err)) {
				return
			}
		}
	}
}

// Query yields the items whose value matches, the one put last first.
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
	if errors.Is(err, blocks.ErrDamaged) && v.db.log.Dropped() {
		return fmt.Errorf("%w: %s", ErrDropped, v.db.address)
	}
	if errors.Is(err, blocks.ErrDamaged) {
		return fmt.Errorf("%w of %s", err, v.db.address)
	}
	return err
}

// Documents is a database of documents, each with its key in one of its
// fields ([Database.IndexBy]).
type Documents struct{ keyedView }

// Documents returns the database as one of documents, or [ErrType].
func (db *Database) Documents() (*Documents, error) {
	if err := db.is(TypeDocuments); err != nil {
		return nil, err
	}
	return &Documents{keyedView{db}}, nil
}

// Put puts a document, which replaces the one with its key, and returns the
// hash of the entry when it is on disk. The document is a map or struct, or
// anything else that [value.Of] makes a map of, with a key that is not false,
// 0, "" or null.
func (d *Documents) Put(ctx context.Context, doc any) (string, error) {
	payload, err := d.put(doc)
	if err != nil {
		return "", err
	}
	return d.db.appendOne(ctx, always, payload)
}

// PutMany puts documents, an entry for each, many to a transaction, and returns
// how many are on disk. It ends with the first error; those before it are put.
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
		return nil, fmt.Errorf("%w: document without a %q, its key: %.80s", ErrInvalid, d.db.indexBy, v)
	}
	return keyed.Put(key, v), nil
}

// Delete deletes the document with a key, or returns [ErrNotFound].
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

// KeyValue is a database of values with keys.
type KeyValue struct{ keyedView }

// KeyValue returns the database as one of keys and values, or [ErrType].
func (db *Database) KeyValue() (*KeyValue, error) {
	if err := db.is(TypeKeyValue); err != nil {
		return nil, err
	}
	return &KeyValue{keyedView{db}}, nil
}

// Pair is a key and a value to put.
type Pair struct{ Key, Value any }

// Put puts a value at a key, and returns the hash of the entry when it is on
// disk. Both are anything that [value.Of] takes.
func (kv *KeyValue) Put(ctx context.Context, key, val any) (string, error) {
	payload, err := putPair(Pair{key, val})
	if err != nil {
		return "", err
	}
	return kv.db.appendOne(ctx, always, payload)
}

// PutMany puts values, as [Documents.PutMany] does.
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

// Delete deletes a key. As in JavaScript, it is no error if there is none, and
// writes an entry all the same.
func (kv *KeyValue) Delete(ctx context.Context, key any) (string, error) {
	k, err := value.Of(key)
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	return kv.db.appendOne(ctx, always, keyed.Delete(k))
}
