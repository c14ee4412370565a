// Package plugin is npp inside a kubo node: it reads the configuration, gives
// the node its pubsub router, starts npp's services with the daemon and stops
// them before the node goes.
//
// kubo loads a plugin in every process, also for `ipfs version`, runs its fx
// options for every node, also for `ipfs add` without a daemon, and calls Start
// in a daemon only, once the node is up and before the API answers. So Init
// does no more than read its configuration, keeping an error for Start (an
// error from Init would also stop `ipfs config`, with which to repair it), the
// fx options do nothing without a host, and everything begins in Start. It ends in
// an fx OnStop hook, while the node is alive; when Close is called the host
// and the datastore are closed already.
//
// # Cost
//
// The configuration is the owner's, and read once in each process, in proportion to its
// size. A key that is not known is an error. What peers cost is
// bounded by the services that are started with it: [Config].Messages bounds messages
// (package message), Databases what databases store of others (package orbit), and Disk
// all that is written (package space). The largest values that are taken are 16 MiB for
// a message, 1 TiB for what waits in a database, and [space.MaxFreeBytes] for free
// space. The API is not read here (package commands).
package plugin

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/boxo/peering"
	logging "github.com/ipfs/go-log/v2"
	"github.com/ipfs/kubo/core"
	kuboplugin "github.com/ipfs/kubo/plugin"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"go.uber.org/fx"

	"github.com/newpieceplease/npp/internal/version"
	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/swarm"
)

var log = logging.Logger("npp")

// The namespaces of npp in the repo's datastore.
const (
	messagesNamespace = "/npp/messages"
	swarmNamespace    = "/npp/swarm"
	orbitNamespace    = "/npp/orbit"

	replicateNamespace = "/npp/replicate"
	libraryNamespace   = "/npp/library"
)

// Version is the version of npp.
var Version = version.String()

// Plugins is what kubo's loader looks for.
var Plugins = []kuboplugin.Plugin{theOne}

// theOne is the process's plugin; kubo's loader has no other way to hand it to
// the commands.
var theOne = &Plugin{}

// Errors of [Current].
var (
	// ErrDisabled says that kubo did not load the plugin in this process.
	ErrDisabled = errors.New("npp is disabled by Plugins.Plugins.npp.Disabled")
	// ErrNotRunning says that this process is no daemon.
	ErrNotRunning = errors.New("no daemon is running")
	// ErrStopping says that the daemon is about to end.
	ErrStopping = errors.New("the daemon is stopping")
	// ErrOffline says that the daemon runs without a network.
	ErrOffline = errors.New("the daemon is running with --offline")
)

// Current is the running daemon of this process, or one of the errors above.
func Current() (*Daemon, error) { return theOne.current() }

// Plugin implements kubo's plugin interfaces.
type Plugin struct {
	config    Config
	configErr error

	mu         sync.Mutex
	loaded     bool
	router     *router.Router
	orbitStore *store.Store
	daemon     *Daemon
	state      error // why there is no daemon
}

var (
	_ kuboplugin.PluginFx             = (*Plugin)(nil)
	_ kuboplugin.PluginDaemonInternal = (*Plugin)(nil)
)

// Name is the plugin's name in the operator's configuration.
func (*Plugin) Name() string { return "npp" }

// Version implements the interface of kubo's plugins.
func (*Plugin) Version() string { return Version }

// Init reads the configuration.
func (p *Plugin) Init(env *kuboplugin.Environment) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded = true
	p.state = ErrNotRunning
	p.config, p.configErr = parseConfig(env.Config)
	return nil
}

// Options gives each node its pubsub router, the databases' blocks and the hook
// that stops npp.
func (p *Plugin) Options(info core.FXNodeInfo) ([]fx.Option, error) {
	return append(info.FXOptions,
		fx.Decorate(p.decoratePubsub),
		fx.Decorate(p.decorateBlocks),
		fx.Decorate(p.decorateDiscovery),
		fx.Invoke(p.stopFirst),
	), nil
}

// stopIn names what must outlive npp: hooks stop in the reverse order of their
// making, and what is named here is made before.
type stopIn struct {
	fx.In

	Lifecycle fx.Lifecycle
	Host      host.Host               `optional:"true"`
	PubSub    *pubsub.PubSub          `optional:"true"`
	Peering   *peering.PeeringService `optional:"true"`
}

func (p *Plugin) stopFirst(in stopIn) {
	in.Lifecycle.Append(fx.Hook{OnStop: func(context.Context) error { return p.stop() }})
}

func (p *Plugin) setRouter(r *router.Router) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.router = r
}

// Start starts npp on a daemon's node.
func (p *Plugin) Start(node *core.IpfsNode) error {
	if p.configErr != nil {
		return fmt.Errorf("npp: %w", p.configErr)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if node.PeerHost == nil {
		p.state = ErrOffline
		return nil
	}
	d, err := start(node, p.config, p.router, p.orbitStore)
	if err != nil {
		return fmt.Errorf("npp: %w", err)
	}
	p.daemon = d
	return nil
}

// Close stops what the fx hook did not.
func (p *Plugin) Close() error { return p.stop() }

func (p *Plugin) stop() error {
	p.mu.Lock()
	d := p.daemon
	if d != nil {
		p.daemon, p.state = nil, ErrStopping
	}
	p.mu.Unlock()
	if d == nil {
		return nil
	}
	return d.close()
}

func (p *Plugin) current() (*Daemon, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.loaded:
		return nil, ErrDisabled
	case p.daemon == nil:
		return nil, p.state
	}
	return p.daemon, nil
}

// Daemon is npp in a running daemon.
type Daemon struct {
	Swarm    *swarm.Swarm
	Messages *message.Service

	node     *core.IpfsNode
	disk     *space.Disk // of the datastore
	started  time.Time
	stores   []*store.Store
	orbit    *orbit.Orbit
	orbitErr error // why orbit is nil

	library    *library.Library
	libraryErr error // why library is nil

	replicator    *replicate.Replicator
	replicatorErr error // why replicator is nil
}

// start brings npp up on a node. It dials nobody and waits for nothing but the
// datastore: the daemon's API waits for it.
func start(node *core.IpfsNode, c Config, r *router.Router, orbitStore *store.Store) (_ *Daemon, err error) {
	cfg, err := node.Repo.Config()
	if err != nil {
		return nil, err
	}
	if kind := datastoreType(cfg.Datastore.Spec, messagesNamespace); splitsBatches(kind) {
		log.Errorf("the repo's datastore (%s) may split a write that must be whole: what npp stored last can be lost or torn when the daemon is killed; use a repo with the default datastore, or with pebbleds", kind)
	}
	if pubsubOff(cfg) {
		log.Warn("Pubsub.Enabled is false: messages from peers without npp, and topics, are switched off")
		r = nil
	}
	d := &Daemon{node: node, started: time.Now()}
	d.disk = space.New(space.Config{
		Path:      datastoreDir(cfg.Datastore.Spec, orbitNamespace, node.Repo.Path()),
		FreeBytes: c.Disk.FreeBytes,
	})
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	open := func(namespace string) *store.Store {
		s := store.New(node.Repo.Datastore(), namespace)
		d.stores = append(d.stores, s)
		return s
	}
	sc := swarm.Config{
		Host:     node.PeerHost,
		Routing:  node.Routing,
		Store:    open(swarmNamespace),
		Pinned:   cfg.Peering.Peers,
		Protocol: message.Protocol,
	}
	if node.Peering != nil {
		sc.Peering = node.Peering
	}
	if r != nil {
		sc.Topics = r
	}
	begin := time.Now()
	if d.Swarm, err = swarm.New(node.Context(), sc); err != nil {
		return nil, err
	}
	d.Messages, err = message.New(message.Config{
		Host:   node.PeerHost,
		Swarm:  d.Swarm,
		Store:  open(messagesNamespace),
		Router: r,
		Limits: c.Messages,
		Disk:   d.disk,
	})
	if err != nil {
		return nil, err
	}
	d.stores = append(d.stores, orbitStore)
	d.openDatabases(node.Context(), node, r, orbitStore, c.Databases.quotas(), open)
	log.Infow("started", "took", time.Since(begin))
	return d, nil
}

func (d *Daemon) close() error {
	var errs []error
	if d.library != nil {
		errs = append(errs, d.library.Close())
	}
	if d.Messages != nil {
		errs = append(errs, d.Messages.Close())
	}
	if d.Swarm != nil {
		errs = append(errs, d.Swarm.Close())
	}
	if d.replicator != nil {
		errs = append(errs, d.replicator.Close())
	}
	if d.orbit != nil {
		errs = append(errs, d.orbit.Close())
	}
	for _, s := range d.stores {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
