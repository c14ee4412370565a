package replicate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/boxo/exchange"
	"github.com/ipfs/go-cid"
	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/sync/singleflight"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/heads"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
)

var log = logging.Logger("npp/replicate")

var (
	// ErrNotReplicated says that a database is not replicated.
	ErrNotReplicated = errors.New("database is not replicated")
	// ErrClosed says that the Replicator is closed.
	ErrClosed = errors.New("replication has ended")
)

// Bounds of all databases together.
const (
	maxExchanges   = 64        // that run because of us
	maxServed      = 1024      // that run because of others
	maxSessions    = 256       // in which others ask for entries
	maxShipping    = 16        // in which others are asked, each of which holds a few batches
	maxStates      = 64        // in which others are asked for their state
	maxHeldBytes   = 128 << 20 // of entries that came and are not joined yet
	maxIdentities  = 256       // that are asked for at once
	heardRemember  = 1 << 16   // entries
	unsentRemember = 4096      // identities
	refusedPerBase = 32        // refusals that are remembered of a database
)

// What of that each peer may have.
const (
	exchangesOfOne  = 8
	servedOfOne     = 128 // a JavaScript peer begins one for each of its databases at once
	sessionsOfOne   = 16
	shippingOfOne   = 4
	statesOfOne     = 8
	heldBytesOfOne  = 24 << 20
	identitiesOfOne = 8
)

// Router is what replication needs of a pubsub router; see [router.Router].
type Router interface {
	Follow(topic string, take router.TakeFunc) (stop func(), err error)
	Announce(ctx context.Context, topic string, data []byte) error
	OnSubscription(func(p peer.ID, topic string, on bool))
	ListPeers(topic string) []peer.ID
	Unmeshed(topic string) []peer.ID
}

// Exchange is where blocks of other peers come from: bitswap.
type Exchange interface {
	NewSession(context.Context) exchange.Fetcher
}

// Config is what a [Replicator] works with. It owns none of it.
type Config struct {
	Orbit    *orbit.Orbit
	Store    *store.Store // for the Replicator alone
	Host     host.Host
	Router   Router   // nil where pubsub is switched off: then only others begin exchanges
	Exchange Exchange // nil where there is none: then nothing but heads arrives
	// Disk is that of the databases. While it is almost full, nothing is accepted from
	// other peers. Default: it always has room.
	Disk *space.Disk
	// Reads tells whether a peer reads heads as the package heads does, so that it
	// can be sent heads of any size. Default: none does.
	Reads func(peer.ID) bool
	// Rand is where chance comes from: how long to wait, what to ask for first.
	// Default: that of math/rand/v2.
	Rand rand.Source
}

// Replicator replicates the databases of an Orbit. Its methods may be called
// concurrently.
type Replicator struct {
	cfg        Config
	ctx        context.Context // ends at Close
	stop       context.CancelFunc
	tasks      sync.WaitGroup
	exchanges  *shares
	served     *shares
	sessions   *shares // in which peers ask
	shipping   *shares // in which they are asked
	states     *shares // in which they are asked for their state
	held       *shares // bytes
	identities *shares
	asking     singleflight.Group            // for identities
	unsent     *lru.Cache[string, time.Time] // identities that nobody sent, and when
	heard      *lru.Cache[string, time.Time] // entries, behind the addresses of their databases
	mute       *unidentified
	random     *chance

	mu       sync.RWMutex
	closed   bool
	replicas map[string]*replica // by address
	paused   map[string]bool     // addresses that are not replicated
	wanted   sync.Map            // hash of a block → the *replica that asks for it
}

// The keys of the store: what is not replicated of what is here, and what is
// replicated and not here yet.
const (
	pausedPrefix = "paused"
	wantedPrefix = "wanted"
)

func key(prefix, address string) string {
	hash, _ := manifest.ParseAddress(address) // which was checked
	return prefix + "/" + hash
}

// New starts to replicate all databases of the Orbit that were not closed with
// [Replicator.CloseDatabase], and those that it opens from now on.
func New(ctx context.Context, cfg Config) (*Replicator, error) {
	r := &Replicator{
		cfg:        cfg,
		exchanges:  newShares(maxExchanges, exchangesOfOne),
		served:     newShares(maxServed, servedOfOne),
		sessions:   newShares(maxSessions, sessionsOfOne),
		shipping:   newShares(maxShipping, shippingOfOne),
		states:     newShares(maxStates, statesOfOne),
		held:       newShares(maxHeldBytes, heldBytesOfOne),
		identities: newShares(maxIdentities, identitiesOfOne),
		random:     &chance{source: cfg.Rand},
		replicas:   make(map[string]*replica),
		paused:     make(map[string]bool),
	}
	r.heard, _ = lru.New[string, time.Time](heardRemember) // fails for sizes below 1
	r.unsent, _ = lru.New[string, time.Time](unsentRemember)
	r.ctx, r.stop = context.WithCancel(context.Background())
	var wanted []string
	for prefix, take := range map[string]func(address string){
		pausedPrefix: func(a string) { r.paused[a] = true },
		wantedPrefix: func(a string) { wanted = append(wanted, a) },
	} {
		for e, err := range cfg.Store.Scan(ctx, prefix) {
			if err != nil {
				return nil, fmt.Errorf("replication: %w", err)
			}
			take(manifest.Address(strings.TrimPrefix(e.Key, prefix+"/")))
		}
	}
	var err error
	if r.mute, err = newUnidentified(cfg.Host, r.disconnected); err != nil {
		return nil, fmt.Errorf("replication: %w", err)
	}
	r.begin(r.mute.follow)
	cfg.Host.SetStreamHandlerMatch("/orbitdb/heads", r.speaks, r.serve)
	cfg.Host.SetStreamHandler(reconcile.Protocol, r.serveSession)
	cfg.Host.SetStreamHandler(reconcile.Earlier, r.serveSession)
	if cfg.Router != nil {
		cfg.Router.OnSubscription(r.subscription)
	}
	cfg.Orbit.OnOpened(r.opened)
	for _, address := range wanted {
		r.replica(address, nil)
	}
	r.begin(r.openAll)
	return r, nil
}

// openAll opens what is replicated and not open yet.
func (r *Replicator) openAll(ctx context.Context) {
	for d, err := range r.cfg.Orbit.Databases(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				log.Errorw("list of databases", "err", err)
			}
			return
		}
		if d.Access || r.isPaused(d.Address) {
			continue
		}
		if _, err := r.cfg.Orbit.Open(ctx, d.Address, orbit.OpenOptions{}); err != nil && ctx.Err() == nil {
			log.Errorw("open database", "address", d.Address, "err", err)
		}
	}
}

// Close ends all replication. The databases stay open.
func (r *Replicator) Close() error {
	r.mu.Lock()
	r.closed = true
	r.stop()
	r.mu.Unlock()
	r.cfg.Host.RemoveStreamHandler("/orbitdb/heads")
	r.cfg.Host.RemoveStreamHandler(reconcile.Protocol)
	r.cfg.Host.RemoveStreamHandler(reconcile.Earlier)
	if r.cfg.Router != nil {
		r.cfg.Router.OnSubscription(nil)
	}
	r.tasks.Wait()
	return nil
}

// begin runs a task that Close waits for, unless the Replicator is closed.
func (r *Replicator) begin(task func(context.Context)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !r.closed {
		r.tasks.Go(func() { task(r.ctx) })
	}
}

// enter reports whether a task may begin that Close waits for until it is done.
func (r *Replicator) enter() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !r.closed {
		r.tasks.Add(1)
	}
	return !r.closed
}

func (r *Replicator) isPaused(address string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.paused[address]
}

// opened begins to replicate a database that was opened, unless it is paused.
func (r *Replicator) opened(db *orbit.Database) {
	if !r.isPaused(db.Address()) {
		r.replica(db.Address(), db)
	}
}

// replica returns the replica of an address, which begins if it is new, and
// gives it the database, if any. It returns nil if the Replicator is closed.
func (r *Replicator) replica(address string, db *orbit.Database) *replica {
	// What is written from now on is to be announced. An error is one that whoever
	// reads the log will have, too.
	var stats oplog.Stats
	if db != nil {
		stats, _ = oplog.Of(db).Stats(r.ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	rp := r.replicas[address]
	var after <-chan struct{}
	if rp != nil && db != nil && rp.database() != nil && oplog.Of(rp.database()) != oplog.Of(db) {
		// That one was dropped, and this is another with its address.
		rp.cancel()
		rp, after = nil, rp.done
	}
	if rp == nil {
		rp = newReplica(r, address)
		rp.after = after
		r.replicas[address] = rp
		r.tasks.Go(rp.run)
	}
	if db != nil {
		rp.setDatabase(db, stats.Last)
	}
	return rp
}

// find returns the replica of an address, or nil.
func (r *Replicator) find(address string) *replica {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.replicas[address]
}

// Open replicates the database with an address from now on, also after a
// restart. It does not wait: a database that is not here is fetched in the
// background; see [Replicator.Status].
func (r *Replicator) Open(ctx context.Context, address string, opts orbit.OpenOptions) error {
	if _, err := manifest.ParseAddress(address); err != nil {
		return err
	}
	db, err := r.cfg.Orbit.Open(ctx, address, opts)
	if err == nil {
		return r.adopt(ctx, db)
	}
	if !errors.Is(err, orbit.ErrUnavailable) {
		return err
	}
	err = r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		before, err := tx.Get(key(wantedPrefix, address))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		said := decodeWanted(before) // what was said before holds, unless it is said anew
		said.Type, said.IndexBy = cmp.Or(opts.Type, said.Type), cmp.Or(opts.IndexBy, said.IndexBy)
		return tx.Put(key(wantedPrefix, address), encodeWanted(said))
	})
	if err != nil {
		return err
	}
	rp := r.replica(address, nil)
	if rp == nil {
		return ErrClosed
	}
	rp.ask()
	return nil
}

// Ask has a database that is replicated compared now with those of the peers that have
// it open. It does not wait; see [Replicator.Status].
func (r *Replicator) Ask(address string) {
	if rp := r.find(address); rp != nil {
		rp.ask()
	}
}

// adopt makes a database that is here one that is replicated, and with it its
// list of writers.
func (r *Replicator) adopt(ctx context.Context, db *orbit.Database) error {
	all := withAccess(db)
	err := r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		for _, db := range all {
			for _, prefix := range []string{pausedPrefix, wantedPrefix} {
				if err := tx.Delete(key(prefix, db.Address())); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, db := range all {
		r.setPaused(db.Address(), false)
		rp := r.replica(db.Address(), db)
		if rp == nil {
			return ErrClosed
		}
		rp.ask()
	}
	return nil
}

func (r *Replicator) setPaused(address string, on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if on {
		r.paused[address] = true
	} else {
		delete(r.paused, address)
	}
}

// withAccess returns a database and that of its list of writers, if any.
func withAccess(db *orbit.Database) []*orbit.Database {
	if inner := db.Access().Database(); inner != nil {
		return []*orbit.Database{inner, db}
	}
	return []*orbit.Database{db}
}

// CloseDatabase ends the replication of a database until it is opened with
// [Replicator.Open]. What is here of it stays. Of one that is not here yet,
// nothing stays. The list of writers of one that is replicated is not closed
// ([orbit.ErrInUse]).
func (r *Replicator) CloseDatabase(ctx context.Context, address string) error {
	ended, err := r.pause(ctx, address)
	if err != nil {
		return err
	}
	err = r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		for _, a := range ended {
			if err := tx.Put(key(pausedPrefix, a), nil); err != nil {
				return err
			}
		}
		return tx.Delete(key(wantedPrefix, address))
	})
	if err != nil {
		r.resume(context.WithoutCancel(ctx), address)
	}
	return err
}

// pause ends the replication of a database for now, and of its list of writers
// unless that of another one is the same. It returns those of them that are here.
func (r *Replicator) pause(ctx context.Context, address string) (ended []string, err error) {
	if r.find(address) == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotReplicated, address)
	}
	if r.guards(address, address) {
		return nil, fmt.Errorf("%w of a database that is replicated: %s", orbit.ErrInUse, address)
	}
	r.setPaused(address, true)
	r.end(address)
	if _, err := r.cfg.Orbit.Resolve(ctx, address); errors.Is(err, orbit.ErrUnknown) {
		r.setPaused(address, false) // it never came
		return nil, nil
	}
	ended = []string{address}
	db, err := r.cfg.Orbit.Open(ctx, address, orbit.OpenOptions{})
	if err != nil {
		return ended, nil // a damaged one, whose list is not known
	}
	if inner := db.Access().Database(); inner != nil && !r.guards(inner.Address(), address) {
		r.setPaused(inner.Address(), true)
		r.end(inner.Address())
		ended = append(ended, inner.Address())
	}
	return ended, nil
}

// resume undoes pause.
func (r *Replicator) resume(ctx context.Context, address string) {
	r.setPaused(address, false)
	if err := r.Open(ctx, address, orbit.OpenOptions{}); err != nil {
		log.Errorw("replicate again", "address", address, "err", err)
	}
}

// guards reports whether a database is the list of writers of one that is
// replicated, other than one.
func (r *Replicator) guards(access, other string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for address, rp := range r.replicas {
		if db := rp.database(); address != other && db != nil && db.Access().Database() != nil && db.Access().Database().Address() == access {
			return true
		}
	}
	return false
}

// end stops a replica, and waits until it has.
func (r *Replicator) end(address string) {
	r.mu.Lock()
	rp := r.replicas[address]
	delete(r.replicas, address)
	r.mu.Unlock()
	if rp != nil {
		rp.cancel()
		<-rp.done
	}
}

// Drop ends the replication of a database and removes it; see [orbit.Orbit.Drop].
// One that stays after an error is replicated as before.
func (r *Replicator) Drop(ctx context.Context, address string, keep func(context.Context, []block.Block) error) error {
	_, err := r.pause(ctx, address)
	replicated := err == nil
	if err != nil && !errors.Is(err, ErrNotReplicated) {
		return err
	}
	err = r.cfg.Orbit.Drop(ctx, address, keep)
	if errors.Is(err, orbit.ErrUnknown) && replicated {
		err = nil // it never came
	}
	after := context.WithoutCancel(ctx)
	if err != nil {
		if _, here := r.cfg.Orbit.Resolve(after, address); replicated && here == nil {
			r.resume(after, address)
		}
		return err
	}
	if err := r.cfg.Store.Update(after, func(tx *store.Tx) error { return tx.Delete(key(wantedPrefix, address)) }); err != nil {
		return err
	}
	return r.forget(after)
}

// forget makes those databases that are not here any more ones that were never
// closed: one with the address of such a one that comes later is another one.
func (r *Replicator) forget(ctx context.Context) error {
	r.mu.RLock()
	paused := slices.Collect(maps.Keys(r.paused))
	r.mu.RUnlock()
	var gone []string
	for _, address := range paused {
		if _, err := r.cfg.Orbit.Resolve(ctx, address); errors.Is(err, orbit.ErrUnknown) {
			gone = append(gone, address)
		}
	}
	err := r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		for _, address := range gone {
			if err := tx.Delete(key(pausedPrefix, address)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, address := range gone {
		delete(r.paused, address)
	}
	return nil
}

// speaks tells whether a protocol is that of a database which is replicated.
func (r *Replicator) speaks(p protocol.ID) bool {
	address, ok := heads.Address(p)
	return ok && r.find(address) != nil
}

// serve answers an exchange that a peer began.
func (r *Replicator) serve(s network.Stream) {
	address, _ := heads.Address(s.Protocol())
	rp := r.find(address)
	if rp == nil || !r.enter() {
		s.Reset()
		return
	}
	defer r.tasks.Done()
	if !r.served.tryAcquire(s.Conn().RemotePeer(), 1) {
		s.Reset()
		return
	}
	defer context.AfterFunc(rp.ctx, func() { s.Reset() })()
	rp.served(s)
}

// subscription is told by the router, which waits.
func (r *Replicator) subscription(p peer.ID, topic string, on bool) {
	if rp := r.find(topic); rp != nil {
		rp.subscription(p, on)
	}
}

// Providers returns the peers that are likely to have a block which is asked
// for: those that have opened the database it is of.
func (r *Replicator) Providers(c cid.Cid) []peer.ID {
	hash, ok := block.HashOf(c)
	if !ok {
		return nil
	}
	rp, ok := r.wanted.Load(hash)
	if !ok {
		return nil
	}
	return rp.(*replica).subscribers()
}

// once reports whether an entry was not heard or announced on the topic of its
// database for a while, and notes that it is now.
func (r *Replicator) once(address, hash string) bool {
	now := time.Now()
	if last, ok := r.heard.Get(address + hash); ok && now.Sub(last) <= heardFor {
		return false
	}
	r.heard.Add(address+hash, now)
	return true
}

// unhear undoes once.
func (r *Replicator) unhear(address, hash string) { r.heard.Remove(address + hash) }

// disconnected is told by the host.
func (r *Replicator) disconnected(p peer.ID) {
	r.mu.RLock()
	all := slices.Collect(maps.Values(r.replicas))
	r.mu.RUnlock()
	for _, rp := range all {
		rp.disconnected(p)
	}
}
