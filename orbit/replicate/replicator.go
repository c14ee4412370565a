package replicate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/boxo/exchange"
	"github.com/ipfs/go-cid"
	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/sync/singleflight"

	"github.com/newpieceplease/npp/internal/admission"
	"github.com/newpieceplease/npp/internal/task"
	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/heads"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
)

var log = logging.Logger("npp/replicate")

var (
	// ErrNotReplicated means that a database is not replicated.
	ErrNotReplicated = errors.New("database is not replicated")
	// ErrClosed means that the Replicator is closed.
	ErrClosed = errors.New("replication has ended")
)

// Bounds of all databases together.
const (
	maxExchanges   = 64        // exchanges that this side began
	maxServed      = 1024      // exchanges that peers began
	maxSessions    = 256       // sessions in which peers request entries
	maxTransfers   = 16        // sessions in which this side does, each of which holds a few batches
	maxStates      = 64        // sessions in which this side requests a state
	memoryBudget   = 128 << 20 // bytes of entries that arrived and are not joined yet
	maxIdentities  = 256       // requested identities
	seenRemember   = 1 << 16   // entries
	unsentRemember = 4096      // identities
)

// The quota of each peer.
const (
	exchangesOfOne  = 8
	servedOfOne     = 128 // a JavaScript peer begins one for each of its databases at once
	sessionsOfOne   = 16
	transfersOfOne  = 4
	statesOfOne     = 8
	budgetOfOne     = 24 << 20
	identitiesOfOne = 8
)

// Exchange is where blocks of other peers come from: bitswap.
type Exchange interface {
	NewSession(context.Context) exchange.Fetcher
}

// Config is what a [Replicator] uses. The Replicator closes none of it.
type Config struct {
	Orbit    *orbit.Orbit
	Store    *store.Store // for the Replicator alone
	Host     host.Host
	Router   Router   // nil if pubsub is off: then only peers begin exchanges
	Exchange Exchange // nil without one: then only heads arrive, and what daemons transfer
	// Disk is the disk of the databases. While its free space is low, data from
	// other peers is rejected. Default: space is never low.
	Disk *space.Disk
	// Discovery finds peers that have a database open, and is told which are
	// open here. Default: none, so only connected peers are found.
	Discovery discovery.Discovery
	// LargeHeads reports whether a peer reads heads as package heads does, so
	// that it can be sent heads of any size. Default: no peer does.
	LargeHeads func(peer.ID) bool
	// Rand is the source of randomness, for tests: for pauses, for the order of
	// requests, and for the nonces of package inventory. Default: math/rand/v2,
	// and crypto/rand for the nonces.
	Rand rand.Source
	// Phrase returns how findings advise an operation, such as the command for
	// it. Default: the operation, followed by the arguments.
	Phrase func(o Operation, args ...string) string
}

// Replicator replicates the databases of an Orbit. Its methods may be called
// concurrently.
type Replicator struct {
	cfg            Config
	tasks          *task.Group
	exchanges      *admission.Quota
	served         *admission.Quota
	sessions       *admission.Quota
	transfers      *admission.Quota
	states         *admission.Quota
	budget         *admission.Quota // the memory budget
	identities     *admission.Quota
	requests       singleflight.Group            // for identities
	unsent         *lru.Cache[string, time.Time] // identities that no peer sent, and when they were requested
	seen           *lru.Cache[string, time.Time] // address and CID of entries, and when their topics had them
	identification *identification
	random         *random

	index    *index
	rested   *lru.Cache[string, Status] // by address: the last status of a replica that rests, if it says more than that of a new one
	links    *links
	interest *interest
	urgent   chan string // addresses of databases whose peers are searched for first
	changes  changes

	mu        sync.RWMutex
	replicas  map[string]*replica      // those that run, by address
	ending    map[string]chan struct{} // by address: closed when a replica that no longer runs has ended
	paused    map[string]bool          // addresses that are not replicated
	wanted    map[string]bool          // addresses of databases that are replicated and not here yet
	rest      wait.Flag                // set when a replica started
	declined  wait.Flag                // set when data was rejected for lack of disk space
	loaded    chan struct{}            // closed when the index is complete
	requested sync.Map                 // CID of a block → the *replica that requests it
}

// The keys of the store: databases that are here and not replicated, and
// databases that are replicated and not here yet.
const (
	pausedPrefix = "paused"
	wantedPrefix = "wanted"
)

func key(prefix, address string) string {
	hash, _ := manifest.ParseAddress(address) // the address is valid
	return prefix + "/" + hash
}

// New starts to replicate all databases of the Orbit that were not closed with
// [Replicator.CloseDatabase], and all databases that the Orbit opens from now
// on. It opens none of them.
func New(ctx context.Context, cfg Config) (*Replicator, error) {
	r := &Replicator{
		cfg:        cfg,
		tasks:      task.NewGroup(),
		exchanges:  admission.NewQuota(maxExchanges, exchangesOfOne),
		served:     admission.NewQuota(maxServed, servedOfOne),
		sessions:   admission.NewQuota(maxSessions, sessionsOfOne),
		transfers:  admission.NewQuota(maxTransfers, transfersOfOne),
		states:     admission.NewQuota(maxStates, statesOfOne),
		budget:     admission.NewQuota(memoryBudget, budgetOfOne),
		identities: admission.NewQuota(maxIdentities, identitiesOfOne),
		random:     &random{source: cfg.Rand},
		index:      newIndex(cfg.Orbit.Fingerprint),
		changes:    newChanges(),
		replicas:   make(map[string]*replica),
		ending:     make(map[string]chan struct{}),
		paused:     make(map[string]bool),
		wanted:     make(map[string]bool),
		rest:       wait.NewFlag(),
		declined:   wait.NewFlag(),
		loaded:     make(chan struct{}),
		urgent:     make(chan string, maxUrgent),
	}
	r.seen, _ = lru.New[string, time.Time](seenRemember) // fails for sizes below 1
	r.unsent, _ = lru.New[string, time.Time](unsentRemember)
	r.rested, _ = lru.New[string, Status](restedRemember)
	r.links, r.interest = newLinks(r), newInterest(r)
	for prefix, addresses := range map[string]map[string]bool{pausedPrefix: r.paused, wantedPrefix: r.wanted} {
		for e, err := range cfg.Store.Scan(ctx, prefix) {
			if err != nil {
				return nil, fmt.Errorf("replication: %w", err)
			}
			addresses[manifest.Address(strings.TrimPrefix(e.Key, prefix+"/"))] = true
		}
	}
	var err error
	if r.identification, err = newIdentification(cfg.Host, r.identified, r.disconnected); err != nil {
		return nil, fmt.Errorf("replication: %w", err)
	}
	cfg.Orbit.OnOpened(r.opened)
	cfg.Orbit.OnChanged(r.changed)
	r.handle()
	for _, run := range []func(){r.load, func() { r.identification.follow(r.tasks.Context()) }, r.tellChanges, r.retryAlways, r.restAlways, r.discover} {
		r.tasks.Go(run)
	}
	return r, nil
}

// handle sets the functions that the host and the router call.
func (r *Replicator) handle() {
	h := r.cfg.Host
	h.SetStreamHandlerMatch(headsHandler, r.speaks, r.serve)
	h.SetStreamHandler(reconcile.Protocol, r.serveSession)
	h.SetStreamHandler(reconcile.Earlier, r.serveSession)
	h.SetStreamHandler(inventory.Protocol, r.links.accept)
	if r.cfg.Router != nil {
		r.cfg.Router.OnSubscription(r.interest.subscription)
	}
}

// headsHandler is the name under which the host has the handler of all heads
// exchanges.
const headsHandler = "/orbitdb/heads"

// load fills the index, and begins what needs all of it.
func (r *Replicator) load() {
	ctx := r.tasks.Context()
	for address := range r.wanted {
		r.replicates(address)
	}
	for d, err := range r.cfg.Orbit.Databases(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				log.Errorw("list of databases", "err", err)
			}
			break
		}
		if !r.isPaused(d.Address) {
			r.replicates(d.Address)
		}
	}
	close(r.loaded)
	r.interest.decideAll()
	for _, p := range r.cfg.Host.Network().Peers() {
		r.links.begin(p)
	}
}

// replicates adds a database to those that are replicated.
func (r *Replicator) replicates(address string) {
	k, ok := keyOf(address)
	if !ok || !r.index.add(k) {
		return
	}
	r.links.added(k)
	r.interest.added(k)
	if r.seesFollowed() {
		if _, release := r.acquire(address); release != nil {
			release()
		}
	}
}

// seesFollowed reports whether the router tells the subscriptions of peers to
// followed topics alone. All topics are followed then.
func (r *Replicator) seesFollowed() bool { return r.cfg.Router != nil && !r.cfg.Router.SeesAll() }

// Close ends all replication. The databases stay open.
func (r *Replicator) Close() error {
	r.tasks.Stop()
	h := r.cfg.Host
	h.RemoveStreamHandler(headsHandler)
	h.RemoveStreamHandler(reconcile.Protocol)
	h.RemoveStreamHandler(reconcile.Earlier)
	h.RemoveStreamHandler(inventory.Protocol)
	if r.cfg.Router != nil {
		r.cfg.Router.OnSubscription(nil)
	}
	r.tasks.Wait()
	return nil
}

func (r *Replicator) isPaused(address string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.paused[address]
}

// opened replicates a database that was opened, unless it is paused.
func (r *Replicator) opened(db *orbit.Database) {
	address := db.Address()
	if r.isPaused(address) {
		return
	}
	r.replicates(address)
	k, _ := keyOf(address)
	if r.index.changed(k) && len(r.links.telling(k)) > 0 {
		r.changes.add(k, change{db: db, after: math.MaxUint64, opened: true})
	}
	r.mu.Lock()
	rp := r.replicas[address]
	if rp != nil && rp.isOther(db) {
		// The database was dropped, and created again with the same address.
		r.stop(rp)
		rp = nil
	}
	r.mu.Unlock()
	if rp != nil {
		rp.setDatabase(db)
	}
}

// identified notes that the protocols of a peer are known, or that they are not
// to be known.
func (r *Replicator) identified(p peer.ID) {
	r.interest.decide(p)
	r.links.begin(p)
}

// find returns the running replica of an address, or nil.
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
		all := decodeOptions(before) // options of an earlier call hold until they are overwritten
		all.Type, all.IndexBy = cmp.Or(opts.Type, all.Type), cmp.Or(opts.IndexBy, all.IndexBy)
		return tx.Put(key(wantedPrefix, address), encodeOptions(all))
	})
	if err != nil {
		return err
	}
	r.setWanted(address, true)
	r.replicates(address)
	r.searchSoon(address)
	return r.ask(address)
}

// ask makes exchanges of a replicated database with all peers due now.
func (r *Replicator) ask(address string) error {
	rp, release := r.acquire(address)
	if rp == nil {
		return ErrClosed
	}
	defer release()
	rp.ask()
	return nil
}

// CompareNow exchanges heads of a replicated database now with the peers that
// have it open. It does not wait; see [Replicator.Status].
func (r *Replicator) CompareNow(address string) {
	r.ask(address) // fails for a database that is not replicated
}

// adopt replicates a database that is here, and its access database.
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
		r.setWanted(db.Address(), false)
		r.opened(db)
		if err := r.ask(db.Address()); err != nil {
			return err
		}
	}
	return nil
}

func (r *Replicator) setWanted(address string, on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if on {
		r.wanted[address] = true
	} else {
		delete(r.wanted, address)
	}
}

func (r *Replicator) isWanted(address string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.wanted[address]
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

// withAccess returns a database and its access database, if any.
func withAccess(db *orbit.Database) []*orbit.Database {
	if inner := db.Access().Database(); inner != nil {
		return []*orbit.Database{inner, db}
	}
	return []*orbit.Database{db}
}

// CloseDatabase ends the replication of a database until [Replicator.Open]. Its
// entries stay. A database that is not here yet is forgotten. The access
// database of a replicated database cannot be closed ([orbit.ErrInUse]).
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

// pause ends the replication of a database, and of its access database unless
// another database uses the same one. It returns the addresses of those that
// are here.
func (r *Replicator) pause(ctx context.Context, address string) (ended []string, err error) {
	if !r.isReplicated(address) {
		return nil, fmt.Errorf("%w: %s", ErrNotReplicated, address)
	}
	if r.guards(ctx, address, address) {
		return nil, fmt.Errorf("%w of a database that is replicated: %s", orbit.ErrInUse, address)
	}
	r.setPaused(address, true)
	r.setWanted(address, false)
	r.end(address)
	if _, err := r.cfg.Orbit.Resolve(ctx, address); errors.Is(err, orbit.ErrUnknown) {
		r.setPaused(address, false) // it never arrived
		return nil, nil
	}
	ended = []string{address}
	db, err := r.cfg.Orbit.Open(ctx, address, orbit.OpenOptions{})
	if err != nil {
		return ended, nil // it is damaged, so its access database is not known
	}
	if inner := db.Access().Database(); inner != nil && !r.guards(ctx, inner.Address(), address) {
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

// guards reports whether a database is the access database of a replicated
// database other than the given one.
func (r *Replicator) guards(ctx context.Context, access, other string) bool {
	for d, err := range r.cfg.Orbit.Databases(ctx) {
		if err != nil {
			return true
		}
		if d.Access || d.Address == other || r.isPaused(d.Address) {
			continue
		}
		if g, err := r.cfg.Orbit.Glance(ctx, d.Address); err == nil && g.Access == access {
			return true
		}
	}
	return false
}

// end stops a database from being replicated, and waits for the end of its
// replica.
func (r *Replicator) end(address string) {
	if k, ok := keyOf(address); ok {
		r.index.remove(k)
		r.links.removed(k)
	}
	r.mu.Lock()
	rp := r.replicas[address]
	if rp != nil {
		r.stop(rp)
	}
	ending := r.ending[address]
	r.rested.Remove(address)
	r.mu.Unlock()
	if ending != nil {
		<-ending
	}
}

// Drop ends the replication of a database and deletes it; see
// [orbit.Orbit.Drop]. If the database is still here after an error, it is
// replicated as before.
func (r *Replicator) Drop(ctx context.Context, address string, keep func(context.Context, []block.Block) error) error {
	_, err := r.pause(ctx, address)
	replicated := err == nil
	if err != nil && !errors.Is(err, ErrNotReplicated) {
		return err
	}
	err = r.cfg.Orbit.Drop(ctx, address, keep)
	if errors.Is(err, orbit.ErrUnknown) && replicated {
		err = nil // it never arrived
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
	return r.forgetGone(after)
}

// forgetGone forgets that databases were closed that are not here any more: a
// database that arrives later with the same address is replicated.
func (r *Replicator) forgetGone(ctx context.Context) error {
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

// isReplicated reports whether a database is replicated.
func (r *Replicator) isReplicated(address string) bool {
	k, ok := keyOf(address)
	return ok && r.index.has(k)
}

// speaks reports whether a protocol is the heads exchange of a replicated
// database.
func (r *Replicator) speaks(p protocol.ID) bool {
	address, ok := heads.Address(p)
	return ok && r.isReplicated(address)
}

// serve answers an exchange of heads that a peer began.
func (r *Replicator) serve(s network.Stream) {
	end, ok := r.tasks.Begin()
	if !ok {
		s.Reset()
		return
	}
	defer end()
	p := s.Conn().RemotePeer()
	if !r.served.TryAcquire(p, 1) {
		s.Reset()
		return
	}
	address, _ := heads.Address(s.Protocol())
	rp, release := r.acquire(address)
	if rp == nil {
		r.served.Release(p, 1)
		s.Reset()
		return
	}
	defer release()
	defer context.AfterFunc(rp.ctx, func() { s.Reset() })()
	select {
	case <-rp.tried:
	case <-rp.ctx.Done():
	}
	rp.serve(s)
}

// Providers returns the peers that probably have a block which is requested:
// those that have its database open.
func (r *Replicator) Providers(c cid.Cid) []peer.ID {
	hash, ok := block.HashOf(c)
	if !ok {
		return nil
	}
	rp, ok := r.requested.Load(hash)
	if !ok {
		return nil
	}
	return rp.(*replica).openAt()
}

// see reports whether the topic of a database did not have an entry for
// seenFor, and notes that it has it now.
func (r *Replicator) see(address, hash string) bool {
	now := time.Now()
	if last, ok := r.seen.Get(address + hash); ok && now.Sub(last) <= seenFor {
		return false
	}
	r.seen.Add(address+hash, now)
	return true
}

// forget undoes see.
func (r *Replicator) forget(address, hash string) { r.seen.Remove(address + hash) }

// disconnected notes that a peer disconnected.
func (r *Replicator) disconnected(p peer.ID) {
	r.interest.forget(p)
	for _, rp := range r.running() {
		rp.peers.disconnected(p)
	}
}

// Running returns the addresses of the databases whose replicas run, in order.
func (r *Replicator) Running() (addresses []string) {
	for _, rp := range r.running() {
		addresses = append(addresses, rp.address)
	}
	return addresses
}

// running returns the replicas that run, in order.
func (r *Replicator) running() []*replica {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Values(r.replicas), func(a, b *replica) int { return a.key.Compare(b.key) })
}
