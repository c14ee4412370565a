package sim

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
)

// base is a database of a history.
type base struct {
	name    string
	kind    string
	guard   guard
	creator *replica
	admins  []*replica // of one that is managed: the creator and another one, or the same
	writers []*replica // of a fixed list
	address string
	written map[string]bool // hashes of entries whose writers were told that they are on disk
	orphans int             // entries that hostile peers may have made wait for ever
}

// guard is who may write to a database.
type guard int

const (
	open    guard = iota // anybody
	fixed                // who is in its list
	managed              // who is granted to
)

func (b *base) mayWrite(r *replica) bool {
	return b.guard == open || b.guard == fixed && slices.Contains(b.writers, r)
}

// create makes the database at its creator.
func (b *base) create() error {
	opts := orbit.Options{Type: b.kind}
	switch b.guard {
	case open:
		opts.Access.Write = []string{manifest.Anyone}
	case fixed:
		for _, r := range b.writers {
			opts.Access.Write = append(opts.Access.Write, r.orbit.Identity().ID)
		}
	case managed:
		opts.Access.Managed = true
		for _, r := range b.admins {
			if id := r.orbit.Identity().ID; !slices.Contains(opts.Access.Write, id) {
				opts.Access.Write = append(opts.Access.Write, id)
			}
		}
	}
	db, err := b.creator.orbit.Create(context.Background(), b.name, opts)
	if err != nil {
		return err
	}
	b.address = db.Address()
	return nil
}

// write writes something to the database, and returns the hash of its entry.
func write(db *orbit.Database, chance digest) (string, error) {
	ctx, rng := context.Background(), chance.rng()
	key, val := fmt.Sprint("key ", rng.IntN(12)), fmt.Sprintf("%x", rng.Uint64())
	if rng.IntN(40) == 0 {
		val = string(slices.Repeat([]byte(val), 5000)) // a large one, which no stream to JavaScript carries
	}
	switch db.Type() {
	case orbit.TypeEvents:
		ev, err := db.Events()
		if err != nil {
			return "", err
		}
		return ev.Add(ctx, val)
	case orbit.TypeDocuments:
		d, err := db.Documents()
		if err != nil {
			return "", err
		}
		if _, err := d.Get(ctx, key); err == nil && rng.IntN(4) == 0 {
			return d.Delete(ctx, key)
		}
		return d.Put(ctx, map[string]any{orbit.DefaultIndexBy: key, "text": val})
	}
	kv, err := db.KeyValue()
	if err != nil {
		return "", err
	}
	if rng.IntN(4) == 0 {
		return kv.Delete(ctx, key)
	}
	return kv.Put(ctx, key, val)
}

// order returns the hashes of all entries that count, and state what the database
// holds.
func order(db *orbit.Database) (hashes []string, err error) {
	for e, err := range db.Iterate(context.Background(), orbit.Range{}) {
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, e.Hash())
	}
	return hashes, nil
}

func state(db *orbit.Database) (state []string, err error) {
	var items iter.Seq2[orbit.Item, error]
	switch db.Type() {
	case orbit.TypeEvents:
		return nil, nil
	case orbit.TypeDocuments:
		d, err := db.Documents()
		if err != nil {
			return nil, err
		}
		items = d.All(context.Background())
	default:
		kv, err := db.KeyValue()
		if err != nil {
			return nil, err
		}
		items = kv.All(context.Background())
	}
	for i, err := range items {
		if err != nil {
			return nil, err
		}
		state = append(state, fmt.Sprint(i.Hash, i.Key, i.Value))
	}
	return state, nil
}
