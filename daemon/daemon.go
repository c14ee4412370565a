// Package daemon composes npp: peers, messages, OrbitDB databases, their
// replication, and the library. It runs on a libp2p host, a datastore, a block
// store and bitswap, and imports nothing of kubo; package plugin runs it inside
// a kubo node. The example of the package is a complete program.
//
// # Composition
//
// [New] starts the parts in this order, and [Daemon.Close] closes them in the
// reverse order, so that a part always outlives those that use it:
//
//	part                    uses                          namespace
//	swarm.Swarm             host, routing, peering        /npp/swarm
//	message.Service         swarm, router                 /npp/messages
//	orbit.Orbit             keystore, block store         /npp/orbit
//	replicate.Replicator    databases, router, exchange   /npp/replicate
//	library.Library         all of the above, files       /npp/library
//	Blocks                  replicator, library
//
// New stops at the first error of the swarm or of the messages. The other parts
// may fail: the daemon runs without the part that failed and those that use it,
// and [Daemon.Orbit], [Daemon.Replicator] and [Daemon.Library] return the
// reason. New dials no peer and waits for nothing but the datastore.
//
// The namespace of a part is opened just before the part starts, and closed
// just after it. Close waits for each part to end before it closes the next
// one. Contexts from [Daemon.UntilClosed] end last, when no part runs any more.
// The host, the router, the datastore, the block store and the exchange belong
// to the caller and must work until Close returns.
//
// A node's bitswap serves the blocks of databases, and requests blocks from
// peers that the daemon knows. As bitswap is created first, a [Blocks] connects
// the two.
//
// # What is stored
//
// A namespace belongs to one part, whose package documents the keys below it
// (packages swarm, message, orbit, replicate, library). The datastore must
// write a batch as a whole. The keystore holds the keys of the OrbitDB identity
// under the names npp-orbitdb-root and npp-orbitdb-signing. New generates them
// if there is no database yet.
//
// # Locks
//
// New sets the fields of a Daemon, and nothing changes them until Close, so a
// Daemon has no lock. A Blocks has an atomic pointer to the running daemon.
// Parts have their own locks. A part calls only parts that started before it,
// so the locks of two parts are always taken in the reverse of the order above.
//
// # Cost
//
// The daemon reads nothing from peers itself. [Settings] bounds what its parts
// store on behalf of peers; the documentation of each part bounds the rest.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"

	"github.com/newpieceplease/npp/internal/version"
	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/swarm"
)

var log = logging.Logger("npp")

// Version is the version of npp.
var Version = version.String()

// Namespaces of the datastore.
const (
	SwarmNamespace     = "/npp/swarm"
	MessagesNamespace  = "/npp/messages"
	DatabasesNamespace = "/npp/orbit"
	ReplicateNamespace = "/npp/replicate"
	LibraryNamespace   = "/npp/library"
)

// Names of the keys of the OrbitDB identity in the keystore.
const (
	rootKey    = "npp-orbitdb-root"
	signingKey = "npp-orbitdb-signing"
)

// ErrStopping means that the end of the daemon interrupted an operation.
var ErrStopping = errors.New("the daemon is stopping")

// Config is what a [Daemon] runs on. Fields without a default are required. The
// Daemon owns none of them.
type Config struct {
	// Settings are the limits. The zero value means DefaultSettings.
	Settings Settings

	// Host is the libp2p host.
	Host host.Host

	// Routing finds addresses of peers. Default: none.
	Routing routing.PeerRouting

	// Router is the host's pubsub router, made by NewRouter. If it is nil,
	// pubsub is off: messages go to npp peers only, topics are refused, and
	// databases are replicated with daemons only.
	Router *router.Router

	// Peering is told of kept peers. Default: none.
	Peering swarm.Peering

	// Peers are kept by the owner's configuration. The daemon lists them with
	// the kept peers and does nothing else with them.
	Peers []peer.AddrInfo

	// Datastore holds all that the daemon stores but files.
	Datastore datastore.Batching

	// Directory is where Datastore is on disk. The daemon watches the free
	// space there. Default: no disk is watched.
	Directory string

	// Keystore holds the keys of the OrbitDB identity.
	Keystore identity.Keystore

	// Blocks serves the blocks of Datastore's databases.
	Blocks *Blocks

	// Blockstore is the node's block store, from Blocks.Overlay.
	Blockstore blockstore.Blockstore

	// Exchange, usually bitswap, fetches blocks and is notified of new ones. It
	// must be an exchange.SessionExchange to fetch. Default: nothing is fetched
	// from databases of peers.
	Exchange exchange.Interface

	// Files are the node's files.
	Files Files

	// Pins are the node's pins. Default: no block is pinned.
	Pins Pins

	// Advice returns what in the owner's configuration keeps peers away, one
	// sentence each with a remedy. Default: nothing.
	Advice func() ([]string, error)
}

// Daemon is a running npp. Its methods may be called concurrently.
type Daemon struct {
	Swarm    *swarm.Swarm
	Messages *message.Service

	cfg     Config
	disk    *space.Disk // of the datastore; nil if no disk is watched
	started time.Time
	ctx     context.Context // ends when Close has closed everything
	stores  []*store.Store
	closers []func() error // in the order of the start

	orbit         *orbit.Orbit
	orbitErr      error // why orbit is nil
	replicator    *replicate.Replicator
	replicatorErr error // why replicator is nil
	library       *library.Library
	libraryErr    error // why library is nil
}

// New starts a daemon. ctx is the context of the start; the daemon runs until
// [Daemon.Close].
func New(ctx context.Context, cfg Config) (*Daemon, error) {
	if cfg.Settings == (Settings{}) {
		cfg.Settings = DefaultSettings()
	}
	if err := cfg.Settings.Check(); err != nil {
		return nil, err
	}
	d := &Daemon{cfg: cfg, started: time.Now()}
	if cfg.Directory != "" {
		d.disk = space.New(space.Config{Path: cfg.Directory, FreeBytes: cfg.Settings.Disk.FreeBytes})
	}
	if err := d.start(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	log.Infow("started", "took", time.Since(d.started))
	return d, nil
}

// start starts the parts and lists what Close closes.
func (d *Daemon) start(ctx context.Context) error {
	var end context.CancelCauseFunc
	d.ctx, end = context.WithCancelCause(context.Background())
	d.onClose(func() error { end(ErrStopping); return nil })
	for _, start := range []func(context.Context) error{
		d.startSwarm,
		d.startMessages,
		d.startOrbit,
		d.startReplicator,
		d.startLibrary,
	} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	d.cfg.Blocks.connect(d)
	d.onClose(d.cfg.Blocks.disconnect)
	return nil
}

func (d *Daemon) onClose(f func() error) { d.closers = append(d.closers, f) }

// own adds a store to those that the daemon closes and whose failures it
// reports.
func (d *Daemon) own(s *store.Store) *store.Store {
	d.stores = append(d.stores, s)
	d.onClose(s.Close)
	return s
}

func (d *Daemon) open(namespace string) *store.Store {
	return d.own(store.New(d.cfg.Datastore, namespace))
}

func (d *Daemon) startSwarm(ctx context.Context) (err error) {
	c := swarm.Config{
		Host:     d.cfg.Host,
		Routing:  d.cfg.Routing,
		Store:    d.open(SwarmNamespace),
		Peering:  d.cfg.Peering,
		Pinned:   d.cfg.Peers,
		Protocol: message.Protocol,
	}
	if d.cfg.Router != nil {
		c.Topics = d.cfg.Router
	}
	if d.Swarm, err = swarm.New(ctx, c); err != nil {
		return err
	}
	d.onClose(d.Swarm.Close)
	return nil
}

func (d *Daemon) startMessages(context.Context) (err error) {
	d.Messages, err = message.New(message.Config{
		Host:   d.cfg.Host,
		Swarm:  d.Swarm,
		Store:  d.open(MessagesNamespace),
		Router: d.cfg.Router,
		Limits: d.cfg.Settings.Messages,
		Disk:   d.disk,
	})
	if err != nil {
		return err
	}
	d.onClose(d.Messages.Close)
	return nil
}

func (d *Daemon) startOrbit(ctx context.Context) error {
	c := orbit.Config{
		Store:      d.own(d.cfg.Blocks.store),
		Keystore:   d.cfg.Keystore,
		RootKey:    rootKey,
		SigningKey: signingKey,
		Source:     d.cfg.Blockstore,
		Quotas:     d.cfg.Settings.Databases.quotas(),
		Disk:       d.disk,
	}
	if d.cfg.Exchange != nil {
		c.Announce = d.cfg.Exchange.NotifyNewBlocks
	}
	o, err := orbit.New(ctx, c)
	if err != nil {
		log.Errorw("databases cannot be opened", "err", err)
		d.orbitErr = fmt.Errorf("databases: %w", err)
		d.replicatorErr, d.libraryErr = d.orbitErr, d.orbitErr
		return nil
	}
	d.orbit = o
	d.onClose(o.Close)
	return nil
}

func (d *Daemon) startReplicator(ctx context.Context) error {
	if d.orbit == nil {
		return nil
	}
	c := replicate.Config{
		Orbit:      d.orbit,
		Store:      d.open(ReplicateNamespace),
		Host:       d.cfg.Host,
		LargeHeads: speaksNPP(d.cfg.Host),
		Disk:       d.disk,
		Phrase:     phrase,
	}
	if d.cfg.Router != nil {
		c.Router = d.cfg.Router
	}
	if e, ok := d.cfg.Exchange.(replicate.Exchange); ok {
		c.Exchange = e
	}
	r, err := replicate.New(ctx, c)
	if err != nil {
		log.Errorw("databases are not replicated", "err", err)
		d.replicatorErr = err
		return nil
	}
	d.replicator = r
	d.onClose(r.Close)
	return nil
}

func (d *Daemon) startLibrary(ctx context.Context) error {
	if d.orbit == nil {
		return nil
	}
	c := library.Config{
		Orbit:      d.orbit,
		Host:       d.cfg.Host,
		Files:      diskFiles{d.cfg.Files, d.disk},
		Disk:       d.disk,
		Store:      d.open(LibraryNamespace),
		Swarm:      d.Swarm,
		Messages:   d.Messages,
		SaveBlocks: func() func(context.Context, []block.Block) error { return d.NewSaver().Save },
	}
	if d.replicator != nil {
		c.Replicator = d.replicator
	}
	l, err := library.New(ctx, c)
	if err != nil {
		log.Errorw("the library cannot be opened", "err", err)
		d.libraryErr = err
		return nil
	}
	d.library = l
	d.onClose(l.Close)
	return nil
}

// Close ends all that [New] started. It is called once.
func (d *Daemon) Close() error {
	var errs []error
	for len(d.closers) > 0 {
		last := len(d.closers) - 1
		errs = append(errs, d.closers[last]())
		d.closers = d.closers[:last]
	}
	return errors.Join(errs...)
}

// UntilClosed returns a copy of ctx that ends, with [ErrStopping] as its cause,
// at the latest when the daemon is closed.
func (d *Daemon) UntilClosed(ctx context.Context) context.Context {
	ctx, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(d.ctx, func() { end(context.Cause(d.ctx)) })
	context.AfterFunc(ctx, func() { stop() })
	return ctx
}

// ID returns the peer ID of the host.
func (d *Daemon) ID() peer.ID { return d.cfg.Host.ID() }

// Advice returns what in the owner's configuration keeps peers away, one
// sentence each with a remedy.
func (d *Daemon) Advice() ([]string, error) {
	if d.cfg.Advice == nil {
		return nil, nil
	}
	return d.cfg.Advice()
}

// Orbit returns the databases, or why there are none.
func (d *Daemon) Orbit() (*orbit.Orbit, error) { return d.orbit, d.orbitErr }

// Replicator returns the replication of the databases, or why there is none.
func (d *Daemon) Replicator() (*replicate.Replicator, error) { return d.replicator, d.replicatorErr }

// Library returns the library, or why there is none.
func (d *Daemon) Library() (*library.Library, error) { return d.library, d.libraryErr }

// providers returns the peers that are likely to have a block: those that have
// its database open, and the companions that have its piece.
func (d *Daemon) providers(c cid.Cid) (known []peer.ID) {
	if d.replicator != nil {
		known = d.replicator.Providers(c)
	}
	if d.library != nil {
		known = append(known, d.library.Providers(c)...)
	}
	return known
}
