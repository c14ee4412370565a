package orbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/manifest"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

// Access says who may write to a new database. The zero Access is the own
// identity alone.
type Access struct {
	// Write lists the IDs of identities, or has manifest.Anyone. Default: the
	// own ID. With Managed, these are the admins.
	Write []string
	// Managed makes the list one that can be changed (access controller
	// "orbitdb"): admins grant and revoke.
	Managed bool
}

// Options are what a new database is made of.
type Options struct {
	Type    string // TypeEvents if empty
	IndexBy string // documents only: DefaultIndexBy if empty
	Access  Access
	Meta    value.Value // nil for none
}

// Create opens the database that the name and the options make, and makes it
// if it is new. The same name, type, access and meta make the same database
// everywhere.
func (o *Orbit) Create(ctx context.Context, name string, opts Options) (*Database, error) {
	p, err := o.plan(name, opts)
	if err != nil {
		return nil, err
	}
	o.mu.Lock() // or what is kept might go with another database before it is used
	defer o.mu.Unlock()
	if err := o.Keep(ctx, p.list); err != nil {
		return nil, err
	}
	if p.access != nil {
		if _, err := o.create(ctx, *p.access, OpenOptions{access: true}); err != nil {
			return nil, err
		}
	}
	return o.create(ctx, p.manifest, OpenOptions{IndexBy: opts.IndexBy, made: true})
}

// AddressOf returns the address of the database that [Orbit.Create] would make of
// a name and options.
func (o *Orbit) AddressOf(name string, opts Options) (string, error) {
	p, err := o.plan(name, opts)
	if err != nil {
		return "", err
	}
	return addressOf(p.manifest)
}

// plan is what a database is made of.
type plan struct {
	manifest manifest.Manifest
	access   *manifest.Manifest // of its list of writers, where that can be changed
	list     block.Block        // the writers, or the admins
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
	if access, p.list, err = manifest.AccessList(opts.Access.Write).Address(); err != nil {
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
		return fmt.Errorf("%w: only %s have a field to index by, not %s", ErrInvalid, TypeDocuments, opts.Type)
	}
	return nil
}

// create opens the database of a manifest. The caller holds o.mu.
func (o *Orbit) create(ctx context.Context, m manifest.Manifest, opts OpenOptions) (*Database, error) {
	b, err := m.Block()
	if err != nil {
		return nil, err
	}
	if err := o.Keep(ctx, b); err != nil {
		return nil, err
	}
	db, err := o.openLocked(ctx, b.Hash, opts)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", manifest.Address(b.Hash), err)
	}
	return db, nil
}

// OpenOptions are what an address does not tell.
type OpenOptions struct {
	// Type is the type as which the database is opened, where its manifest says
	// events, or names a type that is not known here: JavaScript makes such
	// databases. Default: the type that was given here last, or that of the
	// manifest. That of the manifest undoes another one.
	Type string
	// IndexBy is the field of documents that holds their key. Default: what
	// was said here last, or DefaultIndexBy.
	IndexBy string

	access bool // it is opened as the access controller of another one
	made   bool // it is one that Create makes
}

// Open opens the database with an address, and keeps it from now on. Its
// manifest must be in the store or the source, or the error is [ErrUnavailable].
// While it is about to be dropped, the error is [ErrDropped].
//
// One that is damaged is not opened ([oplog.ErrDamaged]); see [Orbit.Rebuild].
//
// With another type than before ([OpenOptions]), Open rebuilds the index of the
// database, which takes as long as [Orbit.Rebuild] does, and waits for a rebuild
// or drop of any other database. It goes on when ctx is done. Where it is
// interrupted all the same, the database is damaged until it is rebuilt, and has
// the new type then.
func (o *Orbit) Open(ctx context.Context, address string, opts OpenOptions) (*Database, error) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	var db *Database
	if opts.Type == "" {
		o.mu.Lock()
		defer o.mu.Unlock()
		db, err = o.openLocked(ctx, hash, opts)
	} else {
		db, err = o.openAs(ctx, hash, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", address, err)
	}
	return db, nil
}

// openAs opens a database as one of a type, and rebuilds its index where that
// has changed.
func (o *Orbit) openAs(ctx context.Context, hash string, opts OpenOptions) (*Database, error) {
	o.rebuilding.Lock()
	defer o.rebuilding.Unlock()
	o.mu.Lock()
	db, err := o.openLocked(ctx, hash, opts)
	o.mu.Unlock()
	stale := db != nil && db.keys.stale.Load()
	if !stale || err != nil && !errors.Is(err, oplog.ErrDamaged) {
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

// openLocked is Open for the holder of o.mu. One that is damaged is returned
// with [oplog.ErrDamaged].
func (o *Orbit) openLocked(ctx context.Context, hash string, opts OpenOptions) (*Database, error) {
	if o.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if o.dropping[hash] {
		return nil, ErrDropped
	}
	if db := o.open[hash]; db != nil {
		// Until it is rebuilt, its record may have another type.
		changing := opts.Type != "" && db.keys.stale.Load()
		if opts.fits(db.kind, db.indexBy) && !changing {
			return db, nil
		}
		return o.reopened(ctx, db, hash, opts)
	}
	m, access, needed, err := o.describe(ctx, hash)
	if err != nil {
		return nil, err
	}
	// Its list of writers may be here now: it is not to be left alone.
	ctx = context.WithoutCancel(ctx)
	if err := o.Keep(ctx, needed...); err != nil {
		return nil, err
	}
	record, stale, err := o.register(ctx, hash, m, opts)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(ctx, o, hash, m, record, access)
	db.keys.stale.Store(stale)
	if err == nil {
		o.opened(hash, db)
	}
	return db, err
}

// opened makes a database one that is open. The caller holds o.mu.
func (o *Orbit) opened(hash string, db *Database) {
	o.open[hash] = db
	if o.onOpened != nil {
		o.onOpened(db)
	}
}

// reopened returns an open database as one of another type, or as one whose
// documents have their key in another field. The caller holds o.mu.
func (o *Orbit) reopened(ctx context.Context, db *Database, hash string, opts OpenOptions) (*Database, error) {
	r, stale, err := o.register(ctx, hash, db.manifest, opts)
	if stale && (err == nil || errors.Is(err, store.ErrNotDurable)) {
		// The database gets the type of its record with the rebuild.
		db.keys.stale.Store(true)
		return db, err
	}
	if err != nil {
		return nil, err
	}
	return o.become(db, hash, r), nil
}

// become returns an open database with the type and the index field of its
// record. The caller holds o.mu.
func (o *Orbit) become(db *Database, hash string, r record) *Database {
	if r.kind() == db.kind && r.IndexBy == db.indexBy {
		return db
	}
	// The log is the same: there must be one only.
	db = db.clone()
	db.kind, db.indexBy = r.kind(), r.IndexBy
	o.opened(hash, db)
	return db
}

// describe returns the manifest and the access controller of a database, and
// the blocks that they are in. The caller holds o.mu.
func (o *Orbit) describe(ctx context.Context, hash string) (m manifest.Manifest, a *AccessController, needed []block.Block, err error) {
	b, err := o.block(ctx, hash)
	if err != nil {
		return m, nil, nil, err
	}
	if m, err = manifest.Decode(b); err != nil {
		return m, nil, nil, err
	}
	if err := checkAccess(m); err != nil {
		return m, nil, nil, err
	}
	if a, needed, err = o.openAccess(ctx, m); err != nil {
		return m, nil, nil, fmt.Errorf("access controller: %w", err)
	}
	return m, a, append(needed, b), nil
}

// AccessTypeError says that a database has an access controller of a type which
// an app brought along: who may write to it cannot be told. It is [ErrInvalid].
type AccessTypeError struct{ Type string }

func (e *AccessTypeError) Error() string {
	return fmt.Sprintf("its access controller is of type %.40q, which npp does not know", e.Type)
}

// Unwrap returns [ErrInvalid].
func (e *AccessTypeError) Unwrap() error { return ErrInvalid }

// checkAccess returns an [AccessTypeError] unless the type of a database's access
// controller is known. The type is the first part of its address, as in
// JavaScript; what follows may be anything.
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

// Rebuild makes the index of a database anew from its entries, and returns
// those that were lost. Meanwhile, the database cannot be written.
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

// rebuild rebuilds the index of a database, which is not open if it was damaged,
// and returns the database with the type of its record. The caller holds
// o.rebuilding.
func (o *Orbit) rebuild(ctx context.Context, hash string, db *Database) (*Database, []Lost, error) {
	r, err := o.record(ctx, hash)
	if err != nil {
		return db, nil, err
	}
	db.keys.on.Store(hasKeys(r.kind()))
	o.hints.Clear()
	lost, err := db.rebuild(ctx)
	if err != nil {
		return db, lost, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open[hash] == nil {
		o.opened(hash, db)
	}
	return o.become(db, hash, r), lost, nil
}

// openDamaged returns a database of the catalog, damaged or not.
func (o *Orbit) openDamaged(ctx context.Context, hash string) (*Database, error) {
	if _, err := o.record(ctx, hash); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	db, err := o.openLocked(ctx, hash, OpenOptions{})
	if db != nil && errors.Is(err, oplog.ErrDamaged) {
		err = nil
	}
	return db, err
}
