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
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/store"
)

var (
	// ErrDropped is returned for a database that is dropped or tombstoned.
	ErrDropped = oplog.ErrDropped
	// ErrInUse is returned for an access database that cannot be dropped
	// because another database needs it.
	ErrInUse = errors.New("in use as the access controller")
)

// Drop deletes a database: its entries, pending ones included, its index, its
// record in the catalog, its manifest and its access list. It also deletes an
// access database that was opened with it. Drop does not delete what another
// database needs, nor identities, which any database may name. A database that
// controls the access of another one is not dropped ([ErrInUse]); a damaged one
// is.
//
// Drop first passes all blocks that it will delete to save, if that is not nil,
// at most 256 of them or 4 MiB at a time. save stores those that must remain,
// such as pinned blocks, elsewhere. If save fails, nothing is deleted.
//
// From the start of the drop, the database is tombstoned: it can be neither
// opened nor written ([ErrDropped]). Then it leaves the catalog at once, and
// its entries are deleted many at a time. Iterations over its updates end with
// ErrDropped, reads by those who still hold it may find entries missing, and
// the same database can be created anew, empty. Drop returns when everything is
// deleted. If ctx is done or the Orbit is closed before that, either the
// database is unchanged and usable, or it is gone and the rest is deleted in
// the background, now or by the next [New]. After any other error, Drop can be
// called again; [ErrUnknown] means that nothing is left.
func (o *Orbit) Drop(ctx context.Context, address string, save func(ctx context.Context, bs []block.Block) error) error {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return err
	}
	err = o.remove(ctx, hash, save)
	if errors.Is(err, ErrUnknown) {
		// It may have been dropped before without its entries being
		// deleted yet.
		if rest, restErr := o.droppedLogs(ctx, hash); len(rest) > 0 || restErr != nil {
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

// droppingPrefix is the prefix of the keys of dropped logs, by their number.
const droppingPrefix = "dropping"

// droppedLog is the record of a log whose entries are to be deleted.
type droppedLog struct {
	Number uint64 `json:"number"`
	With   string `json:"with"`            // CID of the database that was dropped
	Whole  bool   `json:"whole,omitempty"` // no entry is damaged or missing
}

func (d droppedLog) key() string { return droppingPrefix + "/" + strconv.FormatUint(d.Number, 36) }

// droppedLogs returns the dropped logs of a database, or of all databases if
// with is "".
func (o *Orbit) droppedLogs(ctx context.Context, with string) (list []droppedLog, err error) {
	for e, err := range o.store.Scan(ctx, droppingPrefix) {
		if err != nil {
			return nil, err
		}
		var d droppedLog
		if json.Unmarshal(e.Value, &d) != nil || d.key() != e.Key {
			// The key contains everything except whether the log is
			// whole.
			number, err := strconv.ParseUint(strings.TrimPrefix(e.Key, droppingPrefix+"/"), 36, 64)
			if err != nil {
				return nil, fmt.Errorf("number of a dropped log: %w", err)
			}
			d = droppedLog{Number: number}
		}
		if with == "" || d.With == with {
			list = append(list, d)
		}
	}
	return list, nil
}

// resumeDrops deletes the rest of dropped databases.
func (o *Orbit) resumeDrops(ctx context.Context) {
	if err := o.deleteDropped(ctx, ""); err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) {
		log.Warnw("delete the rest of dropped databases", "err", err)
	}
}

// finish deletes the rest of a database in the background and waits for the
// end.
func (o *Orbit) finish(ctx context.Context, hash string) error {
	done := make(chan error, 1)
	o.goBackground(func(ctx context.Context) { done <- o.deleteDropped(ctx, hash) })
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

// deleteDropped deletes the dropped logs of a database, or of all databases if
// with is "". It may run concurrently with itself.
func (o *Orbit) deleteDropped(ctx context.Context, with string) error {
	rest, err := o.droppedLogs(ctx, with)
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

// tombstoned is a database that is being dropped.
type tombstoned struct {
	hash   string
	number uint64
	admins uint64   // number of the access database, or 0
	open   *replica // nil if the database is not open
	whole  bool
}

// remove removes a database, and the databases that go with it, from the
// catalog.
func (o *Orbit) remove(ctx context.Context, hash string, save func(context.Context, []block.Block) error) (err error) {
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

	databases, named, err := o.tombstone(ctx, hash)
	if err != nil {
		return err
	}
	reopen := true // whether the tombstoned databases can be used again
	defer func() {
		for _, d := range databases {
			if d.open != nil && reopen {
				d.open.log.Thaw()
			}
		}
		o.opened.release(databases)
	}()
	for _, d := range databases {
		if d.open == nil {
			continue
		}
		if err := d.open.log.Freeze(ctx); err != nil {
			return err
		}
	}
	if err := o.saveBlocks(ctx, databases, named, save); err != nil {
		return err
	}

	o.making.Lock()
	defer o.making.Unlock()
	if o.ctx.Err() != nil {
		return ErrClosed
	}
	// Another database may need some of these blocks by now.
	_, unneeded, err := o.removable(ctx, hash)
	if err != nil {
		return err
	}
	named = slices.DeleteFunc(named, func(hash string) bool { return !slices.Contains(unneeded, hash) })
	err = o.store.Update(ctx, func(tx *store.Tx) error {
		for _, d := range databases {
			left := droppedLog{Number: d.number, With: hash, Whole: d.whole}
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
			if d.admins != 0 {
				if err := tx.Delete(controlledKey(d.admins, d.hash)); err != nil {
					return err
				}
			}
			if err := oplog.Clear(tx, d.number); err != nil {
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
	// If the transaction may not be durable, it may also be: the database
	// is either gone, or opens again later.
	reopen = false
	for _, d := range databases {
		o.opened.drop(d.hash)
		var a *account
		if d.open != nil {
			d.open.log.Drop()
			a = d.open.account
		}
		o.hints.Drop(d.number)
		o.ledger.drop(d.number, a)
	}
	return err
}

// tombstone marks a database, and those that go with it, so that they cannot be
// opened any more. Open ones remain usable.
func (o *Orbit) tombstone(ctx context.Context, hash string) ([]tombstoned, []string, error) {
	o.making.Lock()
	defer o.making.Unlock()
	if o.ctx.Err() != nil {
		return nil, nil, ErrClosed
	}
	databases, named, err := o.removable(ctx, hash)
	if err != nil {
		return nil, nil, err
	}
	o.opened.tombstone(databases)
	return databases, named, nil
}

// removable returns the databases that go with a dropped one, starting with
// itself, and the CIDs of their manifests and access lists that no other
// database needs. The caller holds o.making.
func (o *Orbit) removable(ctx context.Context, hash string) (databases []tombstoned, named []string, err error) {
	r, err := o.record(ctx, hash)
	if err != nil {
		return nil, nil, err
	}
	databases, named = []tombstoned{{hash: hash, number: r.Number, admins: r.Admins}}, []string{hash}
	mayShare, err := o.mayShare(ctx, hash, r)
	if err != nil {
		return nil, nil, err
	}
	users := make(map[string][]string) // databases by their access controller, as CIDs
	for e, err := range o.store.Scan(ctx, catalogPrefix) {
		if err != nil {
			return nil, nil, err
		}
		if other, err := decodeRecord(e.Value); err == nil && !mayShare(other) {
			continue
		}
		user := hashOf(e)
		access, err := o.storedAccess(ctx, user)
		if err != nil {
			return nil, nil, err
		}
		users[access] = append(users[access], user)
	}
	if list := users[hash]; len(list) > 0 {
		return nil, nil, fmt.Errorf("%w of %s", ErrInUse, manifest.Address(list[0]))
	}
	// A database whose manifest is unknown may need any block.
	needed := func(access string) bool {
		for _, user := range slices.Concat(users[access], users[""]) {
			if !slices.ContainsFunc(databases, func(d tombstoned) bool { return d.hash == user }) {
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
		if errors.Is(err, ErrUnknown) { // a fixed access list
			return databases, append(named, access), nil
		}
		if err != nil {
			return nil, nil, err
		}
		if !r.Access {
			return databases, named, nil // it was opened by itself
		}
		databases, named = append(databases, tombstoned{hash: access, number: r.Number}), append(named, access)
	}
}

// mayShare returns a function that reports, by the record of another database,
// whether that may need a database, its access database, or their access lists.
// Only manifests tell for certain; reading all of them takes long.
func (o *Orbit) mayShare(ctx context.Context, hash string, r record) (func(record) bool, error) {
	writers := r.Writers
	if r.Admins != 0 {
		access, err := o.storedAccess(ctx, hash)
		if err != nil {
			return nil, err
		}
		var inner record
		if access != "" {
			inner, err = o.record(ctx, access)
		}
		if err != nil && !errors.Is(err, ErrUnknown) {
			return nil, err
		}
		writers, r.Fixed = inner.Writers, inner.Fixed
	}
	return func(other record) bool {
		switch {
		case !r.Fixed || !other.described(): // a record is incomplete
			return true
		case other.Fixed:
			return other.Writers == writers
		}
		return other.Admins == r.Number || other.Admins == r.Admins
	}, nil
}

// storedAccess returns the CID of a database's access controller, or "" if its
// manifest is damaged or not stored.
func (o *Orbit) storedAccess(ctx context.Context, hash string) (string, error) {
	m, err := o.storedManifest(ctx, hash)
	if err != nil || m == nil {
		return "", err
	}
	_, access, err := m.Access()
	if err != nil {
		return "", nil
	}
	return access, nil
}

// storedManifest returns the manifest of a database, or nil if it is damaged or
// not stored.
func (o *Orbit) storedManifest(ctx context.Context, hash string) (*manifest.Manifest, error) {
	b, err := blocks.Get(blocks.Reading(ctx, o.store), hash)
	if errors.Is(err, blocks.ErrNotFound) || errors.Is(err, blocks.ErrDamaged) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := manifest.Decode(b)
	if err != nil {
		return nil, nil
	}
	return &m, nil
}

// saveBlocks passes all blocks that belong to databases to save, and records
// which of these are whole.
func (o *Orbit) saveBlocks(ctx context.Context, databases []tombstoned, named []string, save func(context.Context, []block.Block) error) error {
	if save == nil {
		save = func(context.Context, []block.Block) error { return nil }
	}
	var batch []block.Block // few and small
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
		if err := save(ctx, batch); err != nil {
			return err
		}
	}
	for i, d := range databases {
		var err error
		if databases[i].whole, err = oplog.Export(ctx, o.store, d.number, save); err != nil {
			return err
		}
	}
	return nil
}
