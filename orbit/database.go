package orbit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
)

// Database is a database of any type. [Database.Documents], [Database.KeyValue]
// and [Database.Events] return the view for its type.
type Database struct {
	*replica
	kind    string // the type as which the database is open
	indexBy string
	plain   bool // plain values are written even if apps encrypt theirs
}

// replica is what is open once for each database, whatever the type as which it
// is open: a log must be open only once.
type replica struct {
	orbit    *Orbit
	number   uint64 // of the log
	address  string
	manifest manifest.Manifest
	controls atomic.Uint32 // whether the database is the access database of another one
	access   *AccessController
	keys     *index
	log      *oplog.Log
	account  *account
	made     bool          // the database was made here
	revised  atomic.Uint64 // version of the access list that the log applies; see [AccessController.rights]
	warming  sync.Once
	granting sync.Mutex // serializes changes of capabilities

	current atomic.Pointer[Database] // which Open returns; nil until the log is open
	early   *uint64                  // last entry before the first change until then, if any
}

// openDatabase returns a damaged database together with [ErrDamaged].
func openDatabase(ctx context.Context, o *Orbit, hash string, m manifest.Manifest, r record, a *AccessController) (*Database, error) {
	db := &Database{kind: r.kind(), indexBy: r.IndexBy, replica: &replica{
		orbit:    o,
		number:   r.Number,
		address:  manifest.Address(hash),
		manifest: m,
		access:   a,
		keys:     o.newIndex(r.Number, r.kind()),
		account:  o.ledger.account(r.Number, manifest.Address(hash)),
		made:     r.Made,
	}}
	if r.Access {
		db.controls.Store(isAccess)
	}
	rights, at, err := a.rights(ctx)
	if err != nil {
		return db, err
	}
	db.limit(rights, at)
	if a.managed != nil {
		o.ledger.setAccess(r.Number, a.managed.number)
		// A log of an earlier version may have authorized entries of
		// any of them.
		rights.Writers = rights.Known
	}
	config := oplog.Config{State: db.keys, Access: rights, Writer: o.writerOf, MaxPending: o.ledger.quotas.Pending, Quota: db.account, Changed: db.changed}
	db.log, err = oplog.Open(ctx, o.store, r.Number, db.address, config)
	if errors.Is(err, oplog.ErrOutdated) {
		log.Infow("bring index up to date", "database", db.address)
		if _, err = db.rebuild(ctx); err == nil {
			db.log, err = oplog.Open(ctx, o.store, r.Number, db.address, config)
		}
	}
	if err != nil {
		return db, err
	}
	if err := db.log.Resume(ctx); err != nil {
		return db, err
	}
	return db, db.sync(ctx)
}

// limit records whether quotas apply to the database, given a version of its
// access list.
func (db *Database) limit(rights oplog.Access, at uint64) {
	if db.account.limitedBy() != at {
		db.account.limit(db.orbit.limits(db.made, rights.Writers), at)
	}
}

// writerOf returns the ID of the identity that an entry names, using stored
// blocks only.
func (o *Orbit) writerOf(g blocks.Getter, e *entry.Entry) (string, error) {
	if i, ok := o.identities.Get(e.Identity); ok {
		return i.ID, nil
	}
	b, err := blocks.Get(g, e.Identity)
	if err != nil {
		return "", fmt.Errorf("identity of %s: %w", e.Hash(), err)
	}
	i, err := identity.Decode(b)
	if err != nil {
		return "", fmt.Errorf("identity of %s: %w", e.Hash(), err)
	}
	o.identities.Add(e.Identity, i)
	return i.ID, nil
}

// sync applies the current access list to the log.
func (db *Database) sync(ctx context.Context) error {
	if db.access.managed == nil {
		return nil
	}
	rights, at, err := db.access.rights(ctx)
	if err != nil || db.revised.Load() == at {
		return err
	}
	if err := db.log.Revise(ctx, rights); err != nil {
		return err
	}
	db.revised.Store(at)
	return nil
}

// syncControlled applies the access list to the databases whose access database
// this is, if any.
func (db *Database) syncControlled(ctx context.Context) error {
	if is, err := db.isAccess(ctx); err != nil || !is {
		return err
	}
	var errs []error
	for other, err := range db.controlled(ctx) {
		if err == nil {
			err = other.sync(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("apply the access list of %s: %w", db.address, err))
			continue
		}
		other.log.Tell() // its access list changed, even if no entry of it did
	}
	return errors.Join(errs...)
}

// The values of replica.controls. It is unknown at first.
const (
	isAccess  = 1
	notAccess = 2
)

// isAccess reports whether the database is the access database of another one.
// It looks that up once.
func (db *Database) isAccess(ctx context.Context) (bool, error) {
	if c := db.controls.Load(); c != 0 {
		return c == isAccess, nil
	}
	if db.access.managed != nil || db.manifest.Type != TypeKeyValue {
		return false, nil
	}
	for _, err := range db.orbit.store.Scan(ctx, controlledSeries(db.number)) {
		if err == nil {
			db.controls.Store(isAccess)
		}
		return err == nil, err
	}
	db.controls.CompareAndSwap(0, notAccess) // another database may be opened now
	return db.controls.Load() == isAccess, nil
}

// controlled opens the databases whose access database this is, one after the
// other. It leaves out those that do not open.
func (db *Database) controlled(ctx context.Context) iter.Seq2[*Database, error] {
	return func(yield func(*Database, error) bool) {
		o, series := db.orbit, controlledSeries(db.number)
		for e, err := range o.store.Scan(ctx, series) {
			if err != nil {
				yield(nil, err)
				return
			}
			hash := strings.TrimPrefix(e.Key, series+"/")
			other, err := o.openKnown(ctx, hash)
			if err != nil {
				if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrDropped) {
					log.Warnw("a database does not follow its access list until it opens", "database", manifest.Address(hash), "err", err)
				}
				continue
			}
			if !yield(other, nil) {
				return
			}
		}
	}
}

// changed tells [Orbit.OnChanged] of a change of the log. Until the database is
// open, only openDatabase changes the log, and setOpen tells of that.
func (r *replica) changed(after uint64) {
	db := r.current.Load()
	switch {
	case db != nil:
		r.orbit.tellChanged(db, after)
	case r.early == nil:
		r.early = &after
	}
}

// clone returns a copy that shares the log, to be modified before others use
// it.
func (db *Database) clone() *Database {
	c := *db
	return &c
}

// warm starts loading the hints of the keys. Not every open database is used,
// so the first use calls warm.
func (db *Database) warm() {
	db.warming.Do(func() {
		db.orbit.goBackground(func(ctx context.Context) {
			if err := db.keys.Warm(ctx, db.orbit.store); err != nil {
				log.Debugw("warm", "database", db.address, "err", err)
			}
		})
	})
}

func (db *Database) rebuild(ctx context.Context) ([]Lost, error) {
	lost, err := db.log.Rebuild(ctx, func(e *entry.Entry) (writer string, invalid, err error) {
		i, invalid, err := db.check(ctx, e, nil)
		if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDamagedBlock) {
			return "", err, nil // the writer is no longer known
		}
		if i != nil {
			writer = i.ID
		}
		return writer, invalid, err
	})
	db.revised.Store(0)
	list := make([]Lost, len(lost))
	for i, l := range lost {
		list[i] = Lost{Number: l.Number, Hash: l.Hash}
	}
	if err != nil {
		return list, err
	}
	db.keys.stale.Store(false)
	return list, db.sync(ctx)
}

// checkType returns [ErrType] unless the database is open as the given type,
// and [ErrDamaged] while its index is rebuilt for that type.
func (db *Database) checkType(kind string) error {
	if db.kind != kind {
		return fmt.Errorf("%w: %s is %s, not %s", ErrType, db.address, db.kind, kind)
	}
	if db.keys.stale.Load() {
		return fmt.Errorf("%w of %s: its index is being rebuilt", ErrDamaged, db.address)
	}
	return nil
}

// Address returns the address of the database.
func (db *Database) Address() string { return db.address }

// Name returns the name of the database.
func (db *Database) Name() string { return db.manifest.Name }

// Type returns the type as which the database is open: the type of its
// manifest, or the one that was passed to [Orbit.Open].
func (db *Database) Type() string { return db.kind }

// ManifestType returns the type that the manifest names.
func (db *Database) ManifestType() string { return db.manifest.Type }

// Meta returns the meta of the manifest, or nil.
func (db *Database) Meta() value.Value { return db.manifest.Meta }

// IndexBy returns the field of documents that contains their key, or "" for
// other types.
func (db *Database) IndexBy() string { return db.indexBy }

// Access returns the access controller of the database.
func (db *Database) Access() *AccessController { return db.access }

// Writable reports whether the own identity may write to the database.
func (db *Database) Writable(ctx context.Context) (bool, error) {
	rights, _, err := db.access.rights(ctx)
	return err == nil && rights.MayWrite(db.orbit.signer.ID), err
}

// append writes an entry for each payload, unless check returns an error.
func (db *Database) append(ctx context.Context, check func(blocks.Getter) error, payloads ...value.Value) ([]*entry.Entry, error) {
	if db.orbit.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if hasKeys(db.kind) {
		db.warm()
	}
	size := 0
	for _, p := range payloads {
		size += len(p)
	}
	if err := db.orbit.config.Disk.CheckWrite(size); err != nil {
		return nil, err
	}
	if err := db.sync(ctx); err != nil {
		return nil, err
	}
	if err := db.checkPlain(ctx); err != nil {
		return nil, err
	}
	entries, err := db.log.AppendIf(ctx, db.orbit.signer, check, payloads...)
	if err != nil {
		return nil, err
	}
	if err := db.syncControlled(ctx); err != nil {
		log.Errorw("apply the access list", "database", db.address, "err", err)
	}
	db.orbit.announce(ctx, entryBlocks(entries)...)
	return entries, nil
}

// appendOne writes one entry and returns its CID.
func (db *Database) appendOne(ctx context.Context, check func(blocks.Getter) error, payload value.Value) (string, error) {
	entries, err := db.append(ctx, check, payload)
	if err != nil {
		return "", err
	}
	return entries[0].Hash(), nil
}

func noCheck(blocks.Getter) error { return nil }

// The bounds of a transaction with many entries.
const (
	chunkEntries = 256
	chunkBytes   = 512 << 10
)

// appendMany writes an entry for each item, with the payload that payloadOf
// returns, several in a transaction. It returns the number of written entries,
// and stops at the first error.
func appendMany[T any](ctx context.Context, db *Database, items iter.Seq[T], payloadOf func(T) (value.Value, error)) (int, error) {
	var chunk []value.Value
	done, size := 0, 0
	flush := func() error {
		if len(chunk) == 0 {
			return nil
		}
		_, err := db.append(ctx, noCheck, chunk...)
		if err == nil {
			done += len(chunk)
		}
		chunk, size = chunk[:0], 0
		return err
	}
	for item := range items {
		p, err := payloadOf(item)
		if err != nil {
			err = errors.Join(err, flush())
			return done, err
		}
		if len(chunk) > 0 && (len(chunk) == chunkEntries || size+len(p) > chunkBytes) {
			if err := flush(); err != nil {
				return done, err
			}
		}
		chunk = append(chunk, p)
		size += len(p)
	}
	err := flush()
	return done, err
}

func entryBlocks(entries []*entry.Entry) []block.Block {
	bs := make([]block.Block, len(entries))
	for i, e := range entries {
		bs[i] = e.Block
	}
	return bs
}

// candidate verifies a candidate. The error states why the entry is invalid or,
// if the candidate is nil, why it cannot be part of the log.
func (db *Database) candidate(ctx context.Context, offered Candidate, attached Attached) (*oplog.Candidate, error) {
	if err := offered.Err(); err != nil {
		return nil, err
	}
	e := offered.entry
	if e.LogID != db.address {
		return nil, fmt.Errorf("%w: %s is of %.80q", ErrOtherDatabase, e.Hash(), e.LogID)
	}
	i, invalid, err := db.check(ctx, e, attached)
	if err != nil {
		return nil, err
	}
	c := &oplog.Candidate{Entry: e, Invalid: invalid}
	if i != nil {
		c.Identity, c.Writer = i.Block(), i.ID
	}
	return c, invalid
}

// check returns the identity of an entry's writer, if it is valid, and the
// reason why the entry is invalid, or nil. The error states why the entry
// cannot be checked.
func (db *Database) check(ctx context.Context, e *entry.Entry, attached Attached) (i *identity.Identity, invalid, err error) {
	if e.Identity == "" { // there is no identity to look up
		return nil, e.Check(nil), nil
	}
	i, err = db.orbit.identity(ctx, e.Identity, attached)
	if errors.Is(err, identity.ErrInvalid) || errors.Is(err, block.ErrMismatch) {
		return nil, fmt.Errorf("%w: %s: %w", entry.ErrInvalid, e.Hash(), err), nil
	}
	if err != nil {
		return nil, nil, err
	}
	return i, db.orbit.check(e, i), nil
}

// Verify verifies the signatures of entries on all processors and caches the
// results for a subsequent [Database.Join]. It skips entries whose writer's
// identity is missing.
func (db *Database) Verify(ctx context.Context, cs []Candidate) {
	parallel(len(cs), func(i int) {
		e := cs[i].entry
		if e == nil || e.Identity == "" {
			return
		}
		if who, err := db.orbit.IdentityOf(ctx, e.Identity); err == nil {
			db.orbit.check(e, who)
		}
	})
}

// parallel calls f with 0 to n-1 on all processors.
func parallel(n int, f func(int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
				runtime.Gosched() // other goroutines wait for one call at most
			}
		})
	}
	group.Wait()
}
