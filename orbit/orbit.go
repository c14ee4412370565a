package orbit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	logging "github.com/ipfs/go-log/v2"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/manifest"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

var log = logging.Logger("npp/orbit")

// Types of databases.
const (
	TypeDocuments = "documents"
	TypeKeyValue  = "keyvalue"
	TypeEvents    = "events"
)

// DefaultIndexBy is the field of a document that holds its key where nothing
// else was said.
const DefaultIndexBy = "_id"

// MaxName is the longest name of a database, in bytes.
const MaxName = 1024

var (
	// ErrUnknown says that there is no such database here.
	ErrUnknown = errors.New("unknown database")
	// ErrAmbiguous says that several databases have the name.
	ErrAmbiguous = errors.New("several databases have that name")
	// ErrType says that a database is not of the type that is needed.
	ErrType = errors.New("wrong type of database")
	// ErrNotAllowed says that an identity may not write to a database.
	ErrNotAllowed = errors.New("not allowed to write")
	// ErrUnavailable says that a block that is needed is not here.
	ErrUnavailable = errors.New("block is not available")
	// ErrClosed says that the Orbit is closed.
	ErrClosed = store.ErrClosed
	// ErrInvalid says that what was asked for cannot be.
	ErrInvalid = errors.New("invalid")
)

// Source is where blocks come from that are not in the store, such as a node's
// block store.
type Source interface {
	Get(ctx context.Context, c cid.Cid) (ipfsblocks.Block, error)
}

// Config is what an Orbit works with.
type Config struct {
	// Store is for the Orbit alone. Whoever opened it closes it, after the
	// Orbit.
	Store *store.Store
	// Keystore has the keys of the identity, or gets them: secp256k1 keys are
	// made where a name is unknown, in a store without databases only.
	Keystore identity.Keystore
	// RootKey and SigningKey are names in Keystore. Defaults: "orbitdb-root",
	// "orbitdb-signing".
	RootKey, SigningKey string
	// Source has further blocks. Default: none.
	Source Source
	// Announce is told of the blocks that were stored, after they were.
	// Default: nobody is.
	Announce func(context.Context, ...ipfsblocks.Block) error
}

// Orbit is the databases of one identity in one store. Its methods may be
// called concurrently.
type Orbit struct {
	config     Config
	store      *store.Store
	signer     *identity.Signer
	identities *lru.Cache[string, *identity.Identity]

	ctx  context.Context // done when closed
	stop context.CancelFunc

	mu   sync.Mutex
	open map[string]*Database // by the hash of the manifest
}

// identityCache is how many verified identities are kept in memory.
const identityCache = 1024

// New returns an Orbit on a store. It opens no database.
func New(ctx context.Context, c Config) (*Orbit, error) {
	c.RootKey = cmp.Or(c.RootKey, "orbitdb-root")
	c.SigningKey = cmp.Or(c.SigningKey, "orbitdb-signing")
	o := &Orbit{config: c, store: c.Store, open: make(map[string]*Database)}
	o.identities, _ = lru.New[string, *identity.Identity](identityCache) // fails for sizes below 1
	o.ctx, o.stop = context.WithCancel(context.Background())
	if err := o.makeKeys(ctx); err != nil {
		return nil, fmt.Errorf("OrbitDB identity: %w", err)
	}
	var err error
	if o.signer, err = identity.Load(c.Keystore, c.RootKey, c.SigningKey); err != nil {
		return nil, fmt.Errorf("OrbitDB identity: %w", err)
	}
	o.identities.Add(o.signer.Hash(), o.signer.Identity)
	return o, o.Keep(ctx, o.signer.Block())
}

// makeKeys makes the keys that are missing. Where there are databases, the
// root key is not replaced: with another, none of them could be written any more.
func (o *Orbit) makeKeys(ctx context.Context) error {
	for _, name := range []string{o.config.RootKey, o.config.SigningKey} {
		ok, err := o.config.Keystore.Has(name)
		if err != nil {
			return fmt.Errorf("key %q: %w", name, err)
		}
		if ok {
			continue
		}
		if name == o.config.RootKey {
			for _, err := range o.store.Scan(ctx, catalogPrefix) {
				if err != nil {
					return err
				}
				return fmt.Errorf("key %q is gone from the keystore, and the databases here were made with it", name)
			}
		}
		if err := identity.Generate(o.config.Keystore, name); err != nil {
			return fmt.Errorf("key %q: %w", name, err)
		}
	}
	return nil
}

// Keep stores blocks that are no entries, such as identities, unless they are
// there.
func (o *Orbit) Keep(ctx context.Context, bs ...block.Block) error {
	g := blocks.Reading(ctx, o.store)
	bs = slices.DeleteFunc(slices.Clone(bs), func(b block.Block) bool {
		_, err := blocks.Get(g, b.Hash)
		return err == nil
	})
	if len(bs) == 0 {
		return nil
	}
	err := o.store.Update(ctx, func(tx *store.Tx) error {
		for _, b := range bs {
			if err := blocks.Put(tx, b); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		o.announce(ctx, bs...)
	}
	return err
}

func (o *Orbit) announce(ctx context.Context, bs ...block.Block) {
	if o.config.Announce == nil {
		return
	}
	list := make([]ipfsblocks.Block, 0, len(bs))
	for _, b := range bs {
		if ipfs, err := b.IPFS(); err == nil {
			list = append(list, ipfs)
		}
	}
	if err := o.config.Announce(ctx, list...); err != nil {
		log.Debugw("announce", "blocks", len(list), "err", err)
	}
}

// Identity returns the identity that writes.
func (o *Orbit) Identity() *identity.Identity { return o.signer.Identity }

// Close closes the databases, and ends loops over updates. Writes that run are finished.
func (o *Orbit) Close() error {
	o.stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.open)
	return nil
}

// block returns the block with a hash from the store, or from the source. A
// block from the source is not stored.
func (o *Orbit) block(ctx context.Context, hash string) (block.Block, error) {
	b, err := blocks.Get(blocks.Reading(ctx, o.store), hash)
	if errors.Is(err, blocks.ErrNotFound) {
		if b, ok := atHand(ctx, hash); ok {
			return b, nil
		}
	}
	if !errors.Is(err, blocks.ErrNotFound) || o.config.Source == nil {
		if errors.Is(err, blocks.ErrNotFound) {
			err = fmt.Errorf("%w: %s", ErrUnavailable, hash)
		}
		return b, err
	}
	c, err := block.ParseHash(hash)
	if err != nil {
		return block.Block{}, err
	}
	found, err := o.config.Source.Get(ctx, c)
	if err != nil {
		return block.Block{}, fmt.Errorf("%w: %s: %w", ErrUnavailable, hash, err)
	}
	b = block.Block{Hash: hash, Data: found.RawData()}
	return b, b.Check()
}

// identity returns the verified identity with a hash.
func (o *Orbit) identity(ctx context.Context, hash string) (*identity.Identity, error) {
	if i, ok := o.identities.Get(hash); ok {
		return i, nil
	}
	b, err := o.block(ctx, hash)
	if err != nil {
		return nil, err
	}
	i, err := identity.Decode(b)
	if err == nil {
		o.identities.Add(hash, i)
	}
	return i, err
}

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
	opts.Type = cmp.Or(opts.Type, TypeEvents)
	if err := checkNew(name, opts); err != nil {
		return nil, err
	}
	if len(opts.Access.Write) == 0 {
		opts.Access.Write = []string{o.signer.ID}
	}
	access, list, err := manifest.Writers(opts.Access.Write).Address()
	if err != nil {
		return nil, err
	}
	if err := o.Keep(ctx, list); err != nil {
		return nil, err
	}
	if opts.Access.Managed {
		inner, err := o.create(ctx, manifest.Manifest{Name: name, Type: TypeKeyValue, AccessController: access}, "")
		if err != nil {
			return nil, err
		}
		access = inner.address
	}
	return o.create(ctx, manifest.Manifest{Name: name, Type: opts.Type, AccessController: access, Meta: opts.Meta}, opts.IndexBy)
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

func (o *Orbit) create(ctx context.Context, m manifest.Manifest, indexBy string) (*Database, error) {
	b, err := m.Block()
	if err != nil {
		return nil, err
	}
	if err := o.Keep(ctx, b); err != nil {
		return nil, err
	}
	return o.Open(ctx, manifest.Address(b.Hash), OpenOptions{IndexBy: indexBy})
}

// OpenOptions are what an address does not tell.
type OpenOptions struct {
	// IndexBy is the field of documents that holds their key. Default: what
	// was said here last, or DefaultIndexBy.
	IndexBy string
}

// Open opens the database with an address, and keeps it from now on. Its
// manifest must be in the store or the source, or the error is [ErrUnavailable].
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

func (o *Orbit) openLocked(ctx context.Context, hash string, opts OpenOptions) (*Database, error) {
	if o.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if db := o.open[hash]; db != nil && (opts.IndexBy == "" || opts.IndexBy == db.indexBy) {
		return db, nil
	}
	b, err := o.block(ctx, hash)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Decode(b)
	if err != nil {
		return nil, err
	}
	acl, needed, err := o.openAccess(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("access controller: %w", err)
	}
	if err := o.Keep(ctx, append(needed, b)...); err != nil {
		return nil, err
	}
	record, err := o.register(ctx, hash, m, opts)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(ctx, o, hash, m, record, acl)
	if err != nil {
		return nil, err
	}
	o.open[hash] = db
	return db, nil
}

// Rebuild makes the index of a database anew from its entries, and returns how
// many were lost.
func (o *Orbit) Rebuild(ctx context.Context, address string) ([]Lost, error) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	record, err := o.record(ctx, hash)
	if err != nil {
		return nil, err
	}
	b, err := o.block(ctx, hash)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Decode(b)
	if err != nil {
		return nil, err
	}
	acl, _, err := o.openAccess(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("access controller: %w", err)
	}
	db := newDatabase(o, hash, m, record, acl)
	delete(o.open, hash)
	return db.rebuild(ctx)
}

// The catalog: what databases are here.
const (
	catalogPrefix = "database"
	lastNumberKey = "databases"
)

// record is a database in the catalog.
type record struct {
	Number  uint64 `json:"number"`
	Name    string `json:"name"`
	Type    string `json:"type"`
	IndexBy string `json:"indexBy,omitempty"`
}

func catalogKey(hash string) string { return catalogPrefix + "/" + hash }

func decodeRecord(b []byte) (r record, err error) {
	if err = json.Unmarshal(b, &r); err == nil && r.Number == 0 {
		err = errors.New("no number")
	}
	if err != nil {
		err = fmt.Errorf("catalog: %w", err)
	}
	return r, err
}

func (o *Orbit) record(ctx context.Context, hash string) (record, error) {
	b, err := o.store.Get(ctx, catalogKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return record{}, fmt.Errorf("%w: %s", ErrUnknown, manifest.Address(hash))
	}
	if err != nil {
		return record{}, err
	}
	return decodeRecord(b)
}

// register returns the record of a database, and makes or changes it where
// need be.
func (o *Orbit) register(ctx context.Context, hash string, m manifest.Manifest, opts OpenOptions) (record, error) {
	r, err := o.record(ctx, hash)
	if err == nil && (opts.IndexBy == "" || opts.IndexBy == r.IndexBy) {
		return r, nil
	}
	if err != nil && !errors.Is(err, ErrUnknown) {
		return r, err
	}
	err = o.store.Update(ctx, func(tx *store.Tx) error {
		if r.Number == 0 {
			var last uint64
			b, err := tx.Get(lastNumberKey)
			if err == nil {
				last, err = strconv.ParseUint(string(b), 10, 64)
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			r = record{Number: last + 1, Name: m.Name, Type: m.Type}
			if err := tx.Put(lastNumberKey, strconv.AppendUint(nil, r.Number, 10)); err != nil {
				return err
			}
		}
		if m.Type == TypeDocuments {
			r.IndexBy = cmp.Or(opts.IndexBy, r.IndexBy, DefaultIndexBy)
		}
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return tx.Put(catalogKey(hash), b)
	})
	return r, err
}

// Listed is a database of the catalog.
type Listed struct {
	Address string
	Name    string
	Type    string
	IndexBy string
}

// Databases yields the databases that are here, in the order of their addresses.
func (o *Orbit) Databases(ctx context.Context) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		for e, err := range o.store.Scan(ctx, catalogPrefix) {
			var r record
			if err == nil {
				r, err = decodeRecord(e.Value)
			}
			hash := strings.TrimPrefix(e.Key, catalogPrefix+"/")
			if !yield(Listed{manifest.Address(hash), r.Name, r.Type, r.IndexBy}, err) || err != nil {
				return
			}
		}
	}
}

// Find opens the database with an address or a name. Only one that is here is found ([ErrUnknown]), and a
// name must be that of one only ([ErrAmbiguous]).
func (o *Orbit) Find(ctx context.Context, addressOrName string) (*Database, error) {
	address := addressOrName
	if !strings.HasPrefix(address, "/") {
		var found []string
		for d, err := range o.Databases(ctx) {
			if err != nil {
				return nil, err
			}
			if d.Name == addressOrName {
				found = append(found, d.Address)
			}
		}
		found = o.withoutAccess(ctx, found)
		switch len(found) {
		case 0:
			return nil, fmt.Errorf("%w: %.80q", ErrUnknown, addressOrName)
		case 1:
			address = found[0]
		default:
			return nil, fmt.Errorf("%w: %.80q: %s", ErrAmbiguous, addressOrName, strings.Join(found, ", "))
		}
	}
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	if _, err := o.record(ctx, hash); err != nil {
		return nil, err
	}
	return o.Open(ctx, address, OpenOptions{})
}

// withoutAccess leaves out the databases that are the access controller of
// another one in the list: they have its name.
func (o *Orbit) withoutAccess(ctx context.Context, addresses []string) []string {
	if len(addresses) < 2 {
		return addresses
	}
	var access []string
	for _, a := range addresses {
		hash, err := manifest.ParseAddress(a)
		if err != nil {
			continue
		}
		if b, err := o.block(ctx, hash); err == nil {
			if m, err := manifest.Decode(b); err == nil {
				access = append(access, m.AccessController)
			}
		}
	}
	return slices.DeleteFunc(addresses, func(a string) bool { return slices.Contains(access, a) })
}
