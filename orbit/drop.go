package orbit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/keyed"
	"github.com/newpieceplease/npp/orbit/manifest"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/store"
)

var (
	// ErrDropped says that a database is dropped, or about to be.
	ErrDropped = oplog.ErrDropped
	// ErrInUse says that a database cannot be dropped because another one that
	// is here needs it.
	ErrInUse = errors.New("in use as the access controller")
)

// Drop removes a database from the store: its entries, its index and what
// waits, its place in the catalog, its manifest and its list of writers. A list
// of writers that is a database of its own and came with it goes the same way.
// What another database here needs stays, and so do the identities of writers,
// whoever else may name them. A database that is the access controller of
// another one here is not dropped ([ErrInUse]); one that is damaged is.
//
// All blocks that are to be deleted are given to keep first, if it is not nil,
// at most 256 of them or 4 MiB at a time. It stores elsewhere what is to stay,
// such as blocks that are pinned. If it fails, nothing is deleted.
//
// From the beginning, the database cannot be opened nor written ([ErrDropped]).
// Then it is gone at once, and what is left of it is deleted many entries at a
// time. Loops over its updates end with ErrDropped, what is read through those
// who still have it may be missing, and the same database can be made anew,
// empty. Drop returns when all is deleted. Where ctx is done before, or the Orbit
// is closed, the database is either whole and can be used as before, or is gone
// and the rest is deleted in the background, now or by the next [New]. After any
// other error, Drop can be called again; [ErrUnknown] says that nothing is left.
func (o *Orbit) Drop(ctx context.Context, address string, keep func(ctx context.Context, bs []block.Block) error) error {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return err
	}
	err = o.remove(ctx, hash, keep)
	if errors.Is(err, ErrUnknown) {
		// It may be that it was dropped before, and the rest is still here.
		if rest, restErr := o.dropped(ctx, hash); len(rest) > 0 || restErr != nil {
			err = restErr
		}
	}
	if err == nil {
		err = o.finish(ctx, hash)
	}
	if err != nil {
		return fmt.Errorf("drop %s: %w", address, err)
	}
	return nil
}

// droppingPrefix is where the logs are that are to be deleted, by their number.
const droppingPrefix = "dropping"

// dropped is a log that is to be deleted.
type dropped struct {
	Number uint64 `json:"number"`
	With   string `json:"with"`            // hash of the database that was to be dropped
	Whole  bool   `json:"whole,omitempty"` // no entry is damaged or gone
}

func (d dropped) key() string { return droppingPrefix + "/" + strconv.FormatUint(d.Number, 36) }

// dropped returns the logs that are left of a database, or of any with "".
func (o *Orbit) dropped(ctx context.Context, with string) (list []dropped, err error) {
	for e, err := range o.store.Scan(ctx, droppingPrefix) {
		if err != nil {
			return nil, err
		}
		var d dropped
		if json.Unmarshal(e.Value, &d) != nil || d.key() != e.Key {
			// The key says enough, but for whether it is whole.
			number, err := strconv.ParseUint(strings.TrimPrefix(e.Key, droppingPrefix+"/"), 36, 64)
			if err != nil {
				return nil, fmt.Errorf("number of a dropped log: %w", err)
			}
			d = dropped{Number: number}
		}
		if with == "" || d.With == with {
			list = append(list, d)
		}
	}
	return list, nil
}

// resumeDrops deletes what is left of dropped databases.
func (o *Orbit) resumeDrops(ctx context.Context) {
	if err := o.deleteDropped(ctx, ""); err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) {
		log.Warnw("delete what is left of dropped databases", "err", err)
	}
}

// finish deletes what is left of a database in the background, and waits for
// that.
func (o *Orbit) finish(ctx context.Context, hash string) error {
	done := make(chan error, 1)
	o.begin(func(ctx context.Context) { done <- o.deleteDropped(ctx, hash) })
	select {
	case err := <-done:
		if err != nil && o.ctx.Err() != nil {
			return ErrClosed
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-o.ctx.Done():
		return ErrClosed
	}
}

// deleteDropped deletes the logs that are left of a database, or of any with "".
// It may run more than once at a time.
func (o *Orbit) deleteDropped(ctx context.Context, with string) error {
	rest, err := o.dropped(ctx, with)
	if err != nil {
		return err
	}
	for _, d := range rest {
		if err := oplog.Delete(ctx, o.store, d.Number, d.Whole, keyed.Index{}.Prefixes()...); err != nil {
			return err
		}
		if err := o.store.Update(ctx, func(tx *store.Tx) error { return tx.Delete(d.key()) }); err != nil {
			return err
		}
	}
	return nil
}

// condemned is a database that is to be dropped.
type condemned struct {
	hash   string
	number uint64
	log    *oplog.Log // nil if it is not open
	whole  bool
}

// remove takes a database out of the catalog, with what came with it.
func (o *Orbit) remove(ctx context.Context, hash string, keep func(context.Context, []block.Block) error) (err error) {
	o.rebuilding.Lock()
	defer o.rebuilding.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(o.ctx, func() { cancel(ErrClosed) })()
	defer func() {
		if err != nil && context.Cause(ctx) == ErrClosed {
			err = ErrClosed
		}
	}()

	databases, named, err := o.close(ctx, hash)
	if err != nil {
		return err
	}
	reopen := true // whether what is condemned can be used again
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, d := range databases {
			delete(o.dropping, d.hash)
			if d.log != nil && reopen {
				d.log.Thaw()
			}
		}
	}()
	for _, d := range databases {
		if d.log == nil {
			continue
		}
		if err := d.log.Freeze(ctx); err != nil {
			return err
		}
	}
	if err := o.offer(ctx, databases, named, keep); err != nil {
		return err
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ctx.Err() != nil {
		return ErrClosed
	}
	// What was not needed may be by now.
	_, unneeded, err := o.condemn(ctx, hash)
	if err != nil {
		return err
	}
	named = slices.DeleteFunc(named, func(hash string) bool { return !slices.Contains(unneeded, hash) })
	err = o.store.Update(ctx, func(tx *store.Tx) error {
		for _, d := range databases {
			left := dropped{Number: d.number, With: hash, Whole: d.whole}
			record, err := json.Marshal(left)
			if err != nil {
				return err
			}
			if err := tx.Put(left.key(), record); err != nil {
				return err
			}
			if err := tx.Delete(catalogKey(d.hash)); err != nil {
				return err
			}
			if err := oplog.Forget(tx, d.number); err != nil {
				return err
			}
		}
		for _, hash := range named {
			if err := blocks.Delete(tx, hash); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotDurable) {
		return err
	}
	// What may not be durable may be there all the same: then the database is
	// gone, and else it can be opened again.
	reopen = false
	for _, d := range databases {
		delete(o.open, d.hash)
		if d.log != nil {
			d.log.Drop()
		}
		o.hints.Drop(d.number)
		o.ledger.drop(d.number)
	}
	return err
}

// close condemns a database: what it returns cannot be opened any more, but
// that which is open can be used.
func (o *Orbit) close(ctx context.Context, hash string) ([]condemned, []string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ctx.Err() != nil {
		return nil, nil, ErrClosed
	}
	databases, named, err := o.condemn(ctx, hash)
	if err != nil {
		return nil, nil, err
	}
	for i, d := range databases {
		o.dropping[d.hash] = true
		if db := o.open[d.hash]; db != nil {
			databases[i].log = db.log
		}
	}
	return databases, named, nil
}

// condemn returns the databases that go with one, itself first, and the hashes
// of their manifests and lists of writers that no other one needs. The caller
// holds o.mu.
func (o *Orbit) condemn(ctx context.Context, hash string) (databases []condemned, named []string, err error) {
	r, err := o.record(ctx, hash)
	if err != nil {
		return nil, nil, err
	}
	databases, named = []condemned{{hash: hash, number: r.Number}}, []string{hash}
	users := make(map[string][]string) // hashes of databases, by that of the access controller
	for e, err := range o.store.Scan(ctx, catalogPrefix) {
		if err != nil {
			return nil, nil, err
		}
		user := strings.TrimPrefix(e.Key, catalogPrefix+"/")
		access, err := o.storedAccess(ctx, user)
		if err != nil {
			return nil, nil, err
		}
		users[access] = append(users[access], user)
	}
	if list := users[hash]; len(list) > 0 {
		return nil, nil, fmt.Errorf("%w of %s", ErrInUse, manifest.Address(list[0]))
	}
	// Of a database whose manifest is not known, anything may be needed.
	needed := func(access string) bool {
		for _, user := range slices.Concat(users[access], users[""]) {
			if !slices.ContainsFunc(databases, func(d condemned) bool { return d.hash == user }) {
				return true
			}
		}
		return false
	}
	for access := hash; ; {
		if access, err = o.storedAccess(ctx, access); err != nil {
			return nil, nil, err
		}
		if access == "" || needed(access) {
			return databases, named, nil
		}
		r, err := o.record(ctx, access)
		if errors.Is(err, ErrUnknown) { // it is a list
			return databases, append(named, access), nil
		}
		if err != nil {
			return nil, nil, err
		}
		if !r.Access {
			return databases, named, nil // it came by itself
		}
		databases, named = append(databases, condemned{hash: access, number: r.Number}), append(named, access)
	}
}

// storedAccess returns the hash of a database's access controller, or "" if its
// manifest is not in the store or damaged.
func (o *Orbit) storedAccess(ctx context.Context, hash string) (string, error) {
	b, err := blocks.Get(blocks.Reading(ctx, o.store), hash)
	if errors.Is(err, blocks.ErrNotFound) || errors.Is(err, blocks.ErrDamaged) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	m, err := manifest.Decode(b)
	if err != nil {
		return "", nil
	}
	_, access, err := m.Access()
	if err != nil {
		return "", nil
	}
	return access, nil
}

// offer gives keep all blocks that go with databases, and notes which of these
// are whole.
func (o *Orbit) offer(ctx context.Context, databases []condemned, named []string, keep func(context.Context, []block.Block) error) error {
	if keep == nil {
		keep = func(context.Context, []block.Block) error { return nil }
	}
	var batch []block.Block // of few, which are small
	for _, hash := range named {
		b, err := blocks.Get(blocks.Reading(ctx, o.store), hash)
		if errors.Is(err, blocks.ErrNotFound) || errors.Is(err, blocks.ErrDamaged) {
			continue
		}
		if err != nil {
			return err
		}
		batch = append(batch, b)
	}
	if len(batch) > 0 {
		if err := keep(ctx, batch); err != nil {
			return err
		}
	}
	for i, d := range databases {
		var err error
		if databases[i].whole, err = oplog.Offer(ctx, o.store, d.number, keep); err != nil {
			return err
		}
	}
	return nil
}
