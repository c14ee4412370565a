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
	if access, p.list, err = manifest.Writers(opts.Access.Write).Address(); err != nil {
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
func (o *Orbit) Open(ctx context.Context, address string, opts OpenOptions) (*Database, error) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	db, err := o.openLocked(ctx, hash, opts)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", address, err)
	}
	return db, nil
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
		if opts.IndexBy == "" || opts.IndexBy == db.indexBy {
			return db, nil
		}
		return o.reindexed(ctx, db, hash, opts)
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
	record, err := o.register(ctx, hash, m, opts)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(ctx, o, hash, m, record, access)
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

// reindexed returns an open database as one whose documents have their key in
// another field, if it is one of documents. The caller holds o.mu.
func (o *Orbit) reindexed(ctx context.Context, db *Database, hash string, opts OpenOptions) (*Database, error) {
	r, err := o.register(ctx, hash, db.manifest, opts)
	if err != nil || r.IndexBy == db.indexBy {
		return db, err
	}
	// The log is the same: there must be one only.
	db = &Database{
		orbit: o, address: db.address, manifest: db.manifest, indexBy: r.IndexBy,
		access: db.access, keys: db.keys, log: db.log, account: db.account, made: db.made,
	}
	o.opened(hash, db)
	return db, nil
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
	if a, needed, err = o.openAccess(ctx, m); err != nil {
		return m, nil, nil, fmt.Errorf("access controller: %w", err)
	}
	return m, a, append(needed, b), nil
}

// Rebuild makes the index of a database anew from its entries, and returns
// those that were lost. Meanwhile, the database cannot be written.
func (o *Orbit) Rebuild(ctx context.Context, address string) ([]Lost, error) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	o.rebuilding.Lock()
	defer o.rebuilding.Unlock()
	db, err := o.openDamaged(ctx, hash)
	if err != nil {
		return nil, err
	}
	o.hints.Clear()
	lost, err := db.rebuild(ctx)
	if err != nil {
		return lost, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open[hash] == nil {
		o.opened(hash, db)
	}
	return lost, nil
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
