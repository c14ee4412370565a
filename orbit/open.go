package orbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

// Access defines who may write to a new database. The zero Access permits the
// own identity only.
type Access struct {
	// Write lists the IDs of identities, or contains [Anyone]. With
	// Managed, these are the admins. Default: the own ID.
	Write []string
	// Managed selects an access list that admins can change (access
	// controller "orbitdb").
	Managed bool
}

// Options define a new database.
type Options struct {
	Type    string // TypeEvents if empty
	IndexBy string // field of documents that contains their key; DefaultIndexBy if empty
	Access  Access
	Meta    value.Value // nil for none
}

// Create opens the database that a name and options define, and creates it if
// it is new. Equal name, type, access and meta define the same database on
// every peer.
func (o *Orbit) Create(ctx context.Context, name string, opts Options) (*Database, error) {
	p, err := o.plan(name, opts)
	if err != nil {
		return nil, err
	}
	o.making.RLock()
	defer o.making.RUnlock()
	attached := Attached{p.accessList.Hash: p.accessList}
	if p.access != nil {
		if _, err := o.create(ctx, *p.access, OpenOptions{Attached: attached, access: true}); err != nil {
			return nil, err
		}
	}
	return o.create(ctx, p.manifest, OpenOptions{Attached: attached, IndexBy: opts.IndexBy, made: true})
}

// AddressOf returns the address of the database that [Orbit.Create] would open
// for a name and options.
func (o *Orbit) AddressOf(name string, opts Options) (string, error) {
	p, err := o.plan(name, opts)
	if err != nil {
		return "", err
	}
	return addressOf(p.manifest)
}

// plan is the definition of a new database.
type plan struct {
	manifest   manifest.Manifest
	access     *manifest.Manifest // of the access database, if the access list can be changed
	accessList block.Block        // of the writers, or of the admins
}

func (o *Orbit) plan(name string, opts Options) (p plan, err error) {
	opts.Type = cmp.Or(opts.Type, TypeEvents)
	if err := checkNew(name, opts); err != nil {
		return p, err
	}
	if len(opts.Access.Write) == 0 {
		opts.Access.Write = []string{o.signer.ID}
	}
	var access string
	if access, p.accessList, err = manifest.AccessList(opts.Access.Write).Address(); err != nil {
		return p, err
	}
	if opts.Access.Managed {
		p.access = &manifest.Manifest{Name: name, Type: TypeKeyValue, AccessController: access}
		if access, err = addressOf(*p.access); err != nil {
			return p, err
		}
	}
	p.manifest = manifest.Manifest{Name: name, Type: opts.Type, AccessController: access, Meta: opts.Meta}
	return p, nil
}

func addressOf(m manifest.Manifest) (string, error) {
	b, err := m.Block()
	if err != nil {
		return "", err
	}
	return manifest.Address(b.Hash), nil
}

func checkNew(name string, opts Options) error {
	switch {
	case name == "" || len(name) > MaxName:
		return fmt.Errorf("%w: a name has 1 to %d bytes, not %d", ErrInvalid, MaxName, len(name))
	case strings.HasPrefix(name, "/"):
		return fmt.Errorf("%w: name %.80q begins like an address", ErrInvalid, name)
	case opts.Type != TypeDocuments && opts.Type != TypeKeyValue && opts.Type != TypeEvents:
		return fmt.Errorf("%w: type %.40q; there are %s, %s and %s", ErrInvalid, opts.Type, TypeDocuments, TypeKeyValue, TypeEvents)
	case opts.IndexBy != "" && opts.Type != TypeDocuments:
		return fmt.Errorf("%w: only %s have an index field, %s have none", ErrInvalid, TypeDocuments, opts.Type)
	}
	return nil
}

// create opens the database of a manifest. The caller holds o.making for
// reading.
func (o *Orbit) create(ctx context.Context, m manifest.Manifest, opts OpenOptions) (*Database, error) {
	b, err := m.Block()
	if err != nil {
		return nil, err
	}
	opts.Attached[b.Hash] = b
	db, err := o.openLocked(ctx, b.Hash, opts)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", manifest.Address(b.Hash), err)
	}
	return db, nil
}

// OpenOptions define what an address does not determine.
type OpenOptions struct {
	// Type opens the database as another type than its manifest names. The
	// manifest must say events, or name an unknown type: JavaScript creates
	// such databases. The type of the manifest restores the original one.
	// Default: the type of the last Open, or that of the manifest.
	Type string
	// IndexBy is the field of documents that contains their key. Default:
	// the field of the last Open, or [DefaultIndexBy].
	IndexBy string
	// Attached are blocks that came with the address, such as the manifest.
	Attached Attached

	access bool // the database is opened as the access database of another one
	made   bool // Create makes the database
}

// Open opens the database with an address and records it in the catalog. Its
// manifest must be in the store or the source ([ErrUnavailable]). A database
// that is being dropped does not open ([ErrDropped]), nor does a damaged one
// ([ErrDamaged]); see [Orbit.Rebuild].
//
// If the type differs from the previous one ([OpenOptions]), Open rebuilds the
// index of the database. This takes as long as [Orbit.Rebuild], waits for the
// rebuild or drop of any other database, and continues after ctx is done. If it
// is interrupted nevertheless, the database is damaged until it is rebuilt,
// which gives it the new type.
func (o *Orbit) Open(ctx context.Context, address string, opts OpenOptions) (*Database, error) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	var db *Database
	if opts.Type == "" {
		db, err = o.openHash(ctx, hash, opts)
	} else {
		db, err = o.openAs(ctx, hash, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", address, err)
	}
	return db, nil
}

// openAs opens a database as a given type, and rebuilds its index if the type
// has changed.
func (o *Orbit) openAs(ctx context.Context, hash string, opts OpenOptions) (*Database, error) {
	o.rebuilding.Lock()
	defer o.rebuilding.Unlock()
	db, err := o.openHash(ctx, hash, opts)
	stale := db != nil && db.keys.stale.Load()
	if !stale || err != nil && !errors.Is(err, ErrDamaged) {
		return db, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(o.ctx, cancel)()
	db, lost, err := o.rebuild(ctx, hash, db)
	if len(lost) > 0 {
		log.Warnw("entries are lost", "database", db.address, "entries", len(lost))
	}
	return db, err
}

// openHash is Open without rebuilding. It returns a damaged database together
// with [ErrDamaged].
func (o *Orbit) openHash(ctx context.Context, hash string, opts OpenOptions) (*Database, error) {
	if db, err := o.opened.get(hash); err != nil || db != nil && opts.suit(db) {
		return db, err
	}
	o.making.RLock()
	defer o.making.RUnlock()
	return o.openLocked(ctx, hash, opts)
}

// openKnown opens a database if it is in the catalog.
func (o *Orbit) openKnown(ctx context.Context, hash string) (*Database, error) {
	if db, err := o.opened.get(hash); err != nil || db != nil {
		return db, err
	}
	if _, err := o.record(ctx, hash); err != nil {
		return nil, err
	}
	return o.openHash(ctx, hash, OpenOptions{})
}

// suit reports whether an open database satisfies the options.
func (opts OpenOptions) suit(db *Database) bool {
	// Until the database is rebuilt, its record may have another type.
	changing := opts.Type != "" && db.keys.stale.Load()
	return opts.matches(db.kind, db.indexBy) && !changing
}

// openLocked is openHash for a caller that holds o.making for reading.
func (o *Orbit) openLocked(ctx context.Context, hash string, opts OpenOptions) (*Database, error) {
	defer o.opening.lock(hash)()
	if o.ctx.Err() != nil {
		return nil, ErrClosed
	}
	db, err := o.opened.get(hash)
	switch {
	case err != nil || db != nil && opts.suit(db):
		return db, err
	case db != nil:
		return o.reopenAs(ctx, db, hash, opts)
	}
	m, access, needed, err := o.describe(ctx, hash, opts.Attached)
	if err != nil {
		return nil, err
	}
	// The access database may be open now. It must not remain without the
	// database.
	ctx = context.WithoutCancel(ctx)
	record, stale, err := o.register(ctx, hash, m, access, opts, needed...)
	if err != nil {
		return nil, err
	}
	db, err = openDatabase(ctx, o, hash, m, record, access)
	db.keys.stale.Store(stale)
	if err == nil {
		o.opened.set(hash, db)
	}
	return db, err
}

// reopenAs returns an open database with another type or another index field.
// The caller has locked its hash.
func (o *Orbit) reopenAs(ctx context.Context, db *Database, hash string, opts OpenOptions) (*Database, error) {
	r, stale, err := o.register(ctx, hash, db.manifest, db.access, opts)
	if stale && (err == nil || errors.Is(err, store.ErrNotDurable)) {
		// The rebuild gives the database the type of its record.
		db.keys.stale.Store(true)
		return db, err
	}
	if err != nil {
		return nil, err
	}
	return o.withRecord(db, hash, r), nil
}

// withRecord returns an open database with the type and index field of its
// record. The caller has locked its hash.
func (o *Orbit) withRecord(db *Database, hash string, r record) *Database {
	if r.kind() == db.kind && r.IndexBy == db.indexBy {
		return db
	}
	// A log must be open only once, so the new database shares it.
	db = db.clone()
	db.kind, db.indexBy = r.kind(), r.IndexBy
	o.opened.set(hash, db)
	return db
}

// describe returns the manifest and the access controller of a database, and
// their blocks. The caller holds o.making for reading.
func (o *Orbit) describe(ctx context.Context, hash string, attached Attached) (m manifest.Manifest, a *AccessController, needed []block.Block, err error) {
	b, err := o.block(ctx, hash, attached)
	if err != nil {
		return m, nil, nil, err
	}
	if m, err = manifest.Decode(b); err != nil {
		return m, nil, nil, err
	}
	if err := checkAccess(m); err != nil {
		return m, nil, nil, err
	}
	if a, needed, err = o.openAccess(ctx, m, attached); err != nil {
		return m, nil, nil, fmt.Errorf("access controller: %w", err)
	}
	return m, a, append(needed, b), nil
}

// AccessTypeError is returned for a database whose access controller is of an
// unknown type, which an app defines: it is unknown who may write to it. It
// wraps [ErrInvalid].
type AccessTypeError struct{ Type string }

func (e *AccessTypeError) Error() string {
	return fmt.Sprintf("its access controller is of type %.40q, which npp does not know", e.Type)
}

// Unwrap returns [ErrInvalid].
func (e *AccessTypeError) Unwrap() error { return ErrInvalid }

// checkAccess returns an [AccessTypeError] unless the type of a database's
// access controller is known. The type is the first part of its address, as in
// JavaScript; the rest may be anything.
func checkAccess(m manifest.Manifest) error {
	kind, _, err := m.Access()
	switch {
	case kind == manifest.AccessIPFS, kind == manifest.AccessOrbitDB:
		return err
	case kind == "" || !strings.HasPrefix(m.AccessController, "/"):
		return fmt.Errorf("%w: its access controller has no type: %.80q", ErrInvalid, m.AccessController)
	}
	return &AccessTypeError{kind}
}

// Rebuild rebuilds the index of a database from its entries, and returns the
// entries that were lost. The database cannot be written meanwhile.
func (o *Orbit) Rebuild(ctx context.Context, address string) ([]Lost, error) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	if err := o.config.Disk.CheckWrite(0); err != nil {
		return nil, err
	}
	o.rebuilding.Lock()
	defer o.rebuilding.Unlock()
	db, err := o.openDamaged(ctx, hash)
	if err != nil {
		return nil, err
	}
	_, lost, err := o.rebuild(ctx, hash, db)
	return lost, err
}

// rebuild rebuilds the index of a database, which is not open if it was
// damaged, and returns the database with the type of its record. The caller
// holds o.rebuilding.
func (o *Orbit) rebuild(ctx context.Context, hash string, db *Database) (*Database, []Lost, error) {
	r, err := o.record(ctx, hash)
	if err != nil {
		return db, nil, err
	}
	unlock := o.opening.lock(hash)
	if db.current.Load() == nil {
		o.opened.repair(hash)
		defer o.opened.repair("")
	}
	unlock()
	db.keys.on.Store(hasKeys(r.kind()))
	o.hints.Clear()
	lost, err := db.rebuild(ctx)
	if err != nil {
		return db, lost, err
	}
	unlock = o.opening.lock(hash)
	if db.current.Load() == nil {
		o.opened.set(hash, db)
	}
	db = o.withRecord(db, hash, r)
	unlock()
	return db, lost, db.syncControlled(ctx)
}

// openDamaged returns a database of the catalog, whether or not it is damaged.
func (o *Orbit) openDamaged(ctx context.Context, hash string) (*Database, error) {
	if _, err := o.record(ctx, hash); err != nil {
		return nil, err
	}
	db, err := o.openHash(ctx, hash, OpenOptions{})
	if db != nil && errors.Is(err, ErrDamaged) {
		err = nil
	}
	return db, err
}
