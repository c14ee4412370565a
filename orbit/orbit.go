package orbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	logging "github.com/ipfs/go-log/v2"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
)

var log = logging.Logger("npp/orbit")

// The types of databases.
const (
	TypeDocuments = "documents"
	TypeKeyValue  = "keyvalue"
	TypeEvents    = "events"
)

// DefaultIndexBy is the default of [Options.IndexBy].
const DefaultIndexBy = "_id"

// MaxName is the length of the longest name of a database, in bytes.
const MaxName = 1024

var (
	// ErrUnknown is returned for a database that is not in the catalog.
	ErrUnknown = errors.New("unknown database")
	// ErrAmbiguous is returned for a name that several databases have.
	ErrAmbiguous = errors.New("several databases have that name")
	// ErrType is returned for an operation that the type of a database, or
	// of an access controller, does not support.
	ErrType = errors.New("wrong type of database")
	// ErrNotAllowed is returned where an identity may not write to a
	// database.
	ErrNotAllowed = oplog.ErrNotAllowed
	// ErrUnavailable is returned where a required block is neither stored
	// nor in the source; see [UnavailableError].
	ErrUnavailable = errors.New("block is not available")
	// ErrClosed is returned after the Orbit was closed.
	ErrClosed = store.ErrClosed
	// ErrInvalid is returned for invalid arguments, manifests and access
	// controllers.
	ErrInvalid = errors.New("invalid")
)

// UnavailableError names the block that caused [ErrUnavailable].
type UnavailableError struct {
	Hash string
	Err  error // cause, or nil
}

func (e *UnavailableError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%v: %s", ErrUnavailable, e.Hash)
	}
	return fmt.Sprintf("%v: %s: %v", ErrUnavailable, e.Hash, e.Err)
}

// Unwrap returns [ErrUnavailable] and the cause.
func (e *UnavailableError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

// Source supplies blocks that are not in the store. A node's block store
// implements it.
type Source interface {
	Get(ctx context.Context, c cid.Cid) (ipfsblocks.Block, error)
}

// Config is the configuration of an Orbit.
type Config struct {
	// Store is used by this Orbit alone. The caller closes it after the
	// Orbit.
	Store *store.Store
	// Keystore contains the keys of the identity. A missing key is
	// generated as secp256k1, but a root key only while the store has no
	// databases.
	Keystore identity.Keystore
	// RootKey and SigningKey are the names of the keys in Keystore. The
	// defaults are "orbitdb-root" and "orbitdb-signing".
	RootKey, SigningKey string
	// Source supplies further blocks. Default: none.
	Source Source
	// Disk is the disk of Store. While it is nearly full, the owner's
	// writes are refused with [space.ErrFull]. Default: no limit.
	Disk *space.Disk
	// Quotas bound the data that peers may have stored here. Default: none.
	Quotas Quotas
	// Announce is called with blocks after they are stored. Default: none.
	Announce func(context.Context, ...ipfsblocks.Block) error
}

// Orbit contains the databases of one identity in one store. Its methods may be
// called concurrently.
type Orbit struct {
	config     Config
	store      *store.Store
	signer     *identity.Signer
	identities *lru.Cache[string, *identity.Identity]
	checks     *lru.Cache[string, error] // results of [entry.Entry.Check] by CID
	hints      *keyed.Hints
	ledger     *ledger

	ctx          context.Context // done when closed
	stop         context.CancelFunc
	backgroundMu sync.Mutex // serializes the start of background work with Close
	background   sync.WaitGroup

	rebuilding sync.Mutex // held while a database is rebuilt or dropped

	opened  *opened
	opening locks        // by the hash of a manifest; that of an access database is locked last
	making  sync.RWMutex // held for reading while a database is opened, so that no drop deletes its blocks

	onChanged atomic.Pointer[func(db *Database, after uint64)]
}

// The sizes of the caches of verified identities and of checked entries.
const (
	identityCache = 1024
	checkCache    = 4096
)

// New returns an Orbit on a store. It opens no database.
func New(ctx context.Context, c Config) (*Orbit, error) {
	c.RootKey = cmp.Or(c.RootKey, "orbitdb-root")
	c.SigningKey = cmp.Or(c.SigningKey, "orbitdb-signing")
	o := &Orbit{config: c, store: c.Store, hints: keyed.NewHints(), ledger: newLedger(c.Quotas), opened: newOpened()}
	o.identities, _ = lru.New[string, *identity.Identity](identityCache) // fails for sizes below 1
	o.checks, _ = lru.New[string, error](checkCache)
	o.ctx, o.stop = context.WithCancel(context.Background())
	if err := o.makeKeys(ctx); err != nil {
		return nil, fmt.Errorf("OrbitDB identity: %w", err)
	}
	var err error
	if o.signer, err = identity.Load(c.Keystore, c.RootKey, c.SigningKey); err != nil {
		return nil, fmt.Errorf("OrbitDB identity: %w", err)
	}
	o.identities.Add(o.signer.Hash(), o.signer.Identity)
	if err := o.PutBlocks(ctx, o.signer.Block()); err != nil {
		return o, err
	}
	o.goBackground(o.loadUsage)
	o.goBackground(o.resumeDrops)
	return o, nil
}

// makeKeys generates missing keys. It does not generate a root key while there
// are databases, since none of them could be written with another key.
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
				return fmt.Errorf("key %q is missing from the keystore, and the databases here were made with it", name)
			}
		}
		if err := identity.Generate(o.config.Keystore, name); err != nil {
			return fmt.Errorf("key %q: %w", name, err)
		}
	}
	return nil
}

// PutBlocks stores blocks that are not entries, such as identities, unless they
// are already stored.
func (o *Orbit) PutBlocks(ctx context.Context, bs ...block.Block) error {
	bs, err := o.notStored(ctx, bs)
	if err != nil || len(bs) == 0 {
		return err
	}
	err = o.store.Update(ctx, func(tx *store.Tx) error { return putBlocks(tx, bs) })
	if err == nil {
		o.announce(ctx, bs...)
	}
	return err
}

// notStored returns those of the blocks that are not stored, or an error if the
// disk is too full for them.
func (o *Orbit) notStored(ctx context.Context, bs []block.Block) ([]block.Block, error) {
	g := blocks.Reading(ctx, o.store)
	bs = slices.DeleteFunc(slices.Clone(bs), func(b block.Block) bool {
		_, err := blocks.Get(g, b.Hash)
		return err == nil
	})
	if len(bs) == 0 {
		return nil, nil
	}
	return bs, o.config.Disk.CheckWrite(sizeOf(bs))
}

func putBlocks(tx *store.Tx, bs []block.Block) error {
	for _, b := range bs {
		if err := blocks.Put(tx, b); err != nil {
			return err
		}
	}
	return nil
}

// sizeOf returns the total size of blocks in bytes.
func sizeOf(bs []block.Block) (size int) {
	for _, b := range bs {
		size += len(b.Data)
	}
	return size
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

// OnOpened registers a function that is called for each database that is open
// now, and for each [Database] that is made later: when a database is opened,
// also again after it was let go, or with other options. f must return quickly
// and must not open a database.
func (o *Orbit) OnOpened(f func(*Database)) {
	o.opened.mu.Lock()
	defer o.opened.mu.Unlock()
	o.opened.onOpened = f
	for _, p := range o.opened.replicas {
		if r := p.Value(); r != nil {
			f(r.current.Load())
		}
	}
}

// OnChanged registers a function that is called after each change of an open
// database: entries were appended, joined, or became pending, or the
// authorization of entries changed, also by a change of the access database. after
// is the number of the last entry before the change, or less ([Stats.Last]).
// Calls for one database come in order; one may tell of several changes. f must
// return quickly and must not call the Orbit or a database.
//
// A database that changes while it is opened, because work was left, is told of
// by OnOpened first.
func (o *Orbit) OnChanged(f func(db *Database, after uint64)) { o.onChanged.Store(&f) }

func (o *Orbit) tellChanged(db *Database, after uint64) {
	if f := o.onChanged.Load(); f != nil {
		(*f)(db, after)
	}
}

// Identity returns the identity that signs the entries of this Orbit.
func (o *Orbit) Identity() *identity.Identity { return o.signer.Identity }

// Close closes the databases and ends iterations over updates. It waits for
// running writes.
func (o *Orbit) Close() error {
	o.backgroundMu.Lock()
	o.stop()
	o.backgroundMu.Unlock()
	o.opened.close()
	o.background.Wait()
	return nil
}

// goBackground runs work in the background, unless the Orbit is closed. Close
// cancels the context and waits for the work.
func (o *Orbit) goBackground(work func(context.Context)) {
	o.backgroundMu.Lock()
	defer o.backgroundMu.Unlock()
	if o.ctx.Err() == nil {
		o.background.Go(func() { work(o.ctx) })
	}
}

// Block returns a stored block: a block of a database, or an identity.
func (o *Orbit) Block(ctx context.Context, hash string) (block.Block, error) {
	b, err := blocks.Get(blocks.Reading(ctx, o.store), hash)
	if errors.Is(err, blocks.ErrNotFound) {
		err = &UnavailableError{Hash: hash}
	}
	return b, err
}

// block returns the block with a CID from the store, from attached blocks, or
// from the source. It does not store a block from the latter two.
func (o *Orbit) block(ctx context.Context, hash string, attached Attached) (block.Block, error) {
	b, err := blocks.Get(blocks.Reading(ctx, o.store), hash)
	if !errors.Is(err, blocks.ErrNotFound) {
		return b, err
	}
	if b, ok := attached[hash]; ok {
		return b, nil
	}
	if o.config.Source == nil {
		return block.Block{}, &UnavailableError{Hash: hash}
	}
	c, err := block.ParseHash(hash)
	if err != nil {
		return block.Block{}, err
	}
	found, err := o.config.Source.Get(ctx, c)
	if err != nil {
		return block.Block{}, &UnavailableError{hash, err}
	}
	b = block.Block{Hash: hash, Data: found.RawData()}
	return b, b.Check()
}

// check returns the cached result of [entry.Entry.Check] for an entry and the
// identity that it names. The block of the entry must match its CID.
func (o *Orbit) check(e *entry.Entry, i *identity.Identity) error {
	if err, ok := o.checks.Get(e.Hash()); ok {
		return err
	}
	err := e.Check(i)
	o.checks.Add(e.Hash(), err)
	return err
}

// IdentityOf returns the verified identity with a CID, which an entry names. It
// returns [ErrUnavailable] if its block is missing.
func (o *Orbit) IdentityOf(ctx context.Context, hash string) (*identity.Identity, error) {
	return o.identity(ctx, hash, nil)
}

func (o *Orbit) identity(ctx context.Context, hash string, attached Attached) (*identity.Identity, error) {
	if i, ok := o.identities.Get(hash); ok {
		return i, nil
	}
	b, err := o.block(ctx, hash, attached)
	if err != nil {
		return nil, err
	}
	i, err := identity.Decode(b)
	if err == nil {
		o.identities.Add(hash, i)
	}
	return i, err
}

// CacheIdentity verifies the block of an identity and caches the identity for
// [Orbit.IdentityOf] and [Database.Join]. It does not store the block.
func (o *Orbit) CacheIdentity(b block.Block) error {
	i, err := identity.Decode(b)
	if err == nil {
		o.identities.Add(b.Hash, i)
	}
	return err
}
