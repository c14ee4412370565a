package sim

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
)

// database is a database of a history.
type database struct {
	name    string
	kind    string
	guard   guard
	creator *replica
	admins  []*replica // of a managed database: the creator and another replica, which may be the same
	writers []*replica // of a database with a fixed access list
	address string
	written map[string]bool // CIDs of entries whose writers were told that they are on disk
	orphans int             // entries of hostile peers that may stay pending for ever
}

// guard says who may write to a database.
type guard int

const (
	open    guard = iota // anybody
	fixed                // the identities on a fixed access list
	managed              // the identities on a changeable access list
)

func (b *database) mayWrite(r *replica) bool {
	return b.guard == open || b.guard == fixed && slices.Contains(b.writers, r)
}

// needs reports whether a replica must have the database, because it
// administers it or is on its access list.
func (b *database) needs(r *replica) bool {
	return slices.Contains(b.admins, r) || slices.Contains(b.writers, r) && b.guard == fixed
}

// create creates the database at its creator.
func (b *database) create() error {
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

// write writes a random entry to the database, and returns its CID.
func write(db *orbit.Database, chance digest) (string, error) {
	ctx, rng := context.Background(), chance.rng()
	key, val := fmt.Sprint("key ", rng.IntN(12)), fmt.Sprintf("%x", rng.Uint64())
	if rng.IntN(40) == 0 {
		val = string(slices.Repeat([]byte(val), 5000)) // too large for a stream to JavaScript
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

// order returns the CIDs of all authorized entries, in order.
func order(db *orbit.Database) (hashes []string, err error) {
	for e, err := range db.Iterate(context.Background(), orbit.Range{}) {
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, e.Hash())
	}
	return hashes, nil
}

// state returns the items of the database, in order.
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
