package orbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	logging "github.com/ipfs/go-log/v2"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/keyed"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/space"
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
	ErrNotAllowed = oplog.ErrNotAllowed
	// ErrUnavailable says that a block that is needed is not here.
	ErrUnavailable = errors.New("block is not available")
	// ErrClosed says that the Orbit is closed.
	ErrClosed = store.ErrClosed
	// ErrInvalid says that what was asked for cannot be.
	ErrInvalid = errors.New("invalid")
)

// UnavailableError is [ErrUnavailable] of a block.
type UnavailableError struct {
	Hash string
	Err  error // why, or nil
}

func (e *UnavailableError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%v: %s", ErrUnavailable, e.Hash)
	}
	return fmt.Sprintf("%v: %s: %v", ErrUnavailable, e.Hash, e.Err)
}

// Unwrap returns [ErrUnavailable] and the cause.
func (e *UnavailableError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

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
	// Disk is that of Store. While too little of it is free, what the owner writes is
	// refused with [space.ErrFull]. Default: it always has room.
	Disk *space.Disk
	// Quotas bound what others may have stored. Default: none.
	Quotas Quotas
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
	checked    *lru.Cache[string, error] // what [entry.Entry.Check] said, by hash
	hints      *keyed.Hints
	ledger     *ledger

	ctx        context.Context // done when closed
	stop       context.CancelFunc
	beginning  sync.Mutex // of background work, and of its end
	background sync.WaitGroup

	rebuilding sync.Mutex // also held while a database is dropped

	mu       sync.Mutex
	open     map[string]*Database // by the hash of the manifest
	dropping map[string]bool      // those that are about to be dropped, by the same
	onOpened func(*Database)      // may be nil
}

// So many verified identities, and so many checks of entries, are kept in memory.
const (
	identityCache = 1024
	checkCache    = 4096
)

// New returns an Orbit on a store. It opens no database.
func New(ctx context.Context, c Config) (*Orbit, error) {
	c.RootKey = cmp.Or(c.RootKey, "orbitdb-root")
	c.SigningKey = cmp.Or(c.SigningKey, "orbitdb-signing")
	o := &Orbit{config: c, store: c.Store, hints: keyed.NewHints(), ledger: newLedger(c.Quotas), open: make(map[string]*Database), dropping: make(map[string]bool)}
	o.identities, _ = lru.New[string, *identity.Identity](identityCache) // fails for sizes below 1
	o.checked, _ = lru.New[string, error](checkCache)
	o.ctx, o.stop = context.WithCancel(context.Background())
	if err := o.makeKeys(ctx); err != nil {
		return nil, fmt.Errorf("OrbitDB identity: %w", err)
	}
	var err error
	if o.signer, err = identity.Load(c.Keystore, c.RootKey, c.SigningKey); err != nil {
		return nil, fmt.Errorf("OrbitDB identity: %w", err)
	}
	o.identities.Add(o.signer.Hash(), o.signer.Identity)
	if err := o.Keep(ctx, o.signer.Block()); err != nil {
		return o, err
	}
	o.begin(o.loadUsage)
	o.begin(o.resumeDrops)
	return o, nil
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
	if err := o.config.Disk.CheckWrite(sizeOf(bs)); err != nil {
		return err
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

// sizeOf returns how many bytes blocks have.
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

// OnOpened has f called for each database that is open now, and each that is
// opened later, for the first time or with other options. f must be quick, and
// must not open any.
func (o *Orbit) OnOpened(f func(*Database)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.onOpened = f
	for _, db := range o.open {
		f(db)
	}
}

// Identity returns the identity that writes.
func (o *Orbit) Identity() *identity.Identity { return o.signer.Identity }

// Close closes the databases, and ends loops over updates. Writes that run are
// finished.
func (o *Orbit) Close() error {
	o.beginning.Lock()
	o.stop()
	o.beginning.Unlock()
	o.mu.Lock()
	clear(o.open)
	o.mu.Unlock()
	o.background.Wait()
	return nil
}

// begin runs work in the background, unless the Orbit is closed. Close waits for
// it, and the context is done then.
func (o *Orbit) begin(work func(context.Context)) {
	o.beginning.Lock()
	defer o.beginning.Unlock()
	if o.ctx.Err() == nil {
		o.background.Go(func() { work(o.ctx) })
	}
}

// Block returns a block that is stored: of a database, or an identity.
func (o *Orbit) Block(ctx context.Context, hash string) (block.Block, error) {
	b, err := blocks.Get(blocks.Reading(ctx, o.store), hash)
	if errors.Is(err, blocks.ErrNotFound) {
		err = &UnavailableError{Hash: hash}
	}
	return b, err
}

// block returns the block with a hash from the store, or from the source. A
// block from the source is not stored.
func (o *Orbit) block(ctx context.Context, hash string) (block.Block, error) {
	b, err := blocks.Get(blocks.Reading(ctx, o.store), hash)
	if !errors.Is(err, blocks.ErrNotFound) {
		return b, err
	}
	if b, ok := atHand(ctx, hash); ok {
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

// check is [entry.Entry.Check] of an entry whose block has its hash, by the identity
// that it names: it says the same whenever it is asked.
func (o *Orbit) check(e *entry.Entry, i *identity.Identity) error {
	if fault, ok := o.checked.Get(e.Hash()); ok {
		return fault
	}
	fault := e.Check(i)
	o.checked.Add(e.Hash(), fault)
	return fault
}

// IdentityOf returns the verified identity with a hash, such as an entry names,
// if its block is here ([ErrUnavailable]).
func (o *Orbit) IdentityOf(ctx context.Context, hash string) (*identity.Identity, error) {
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
