// Package plugin runs npp inside a kubo node: it reads kubo's configuration,
// gives the node its pubsub router and the blocks of databases, starts a
// [daemon.Daemon] with the node, and closes it before the node ends.
//
// # Lifecycle
//
// kubo loads a plugin in every process, even for `ipfs version`. It applies fx
// options to every node, even to that of an offline `ipfs add`. It calls Start
// only in a daemon, when the node runs and before the API answers. Therefore
//
//   - Init decodes the configuration and does no I/O. It keeps an error for
//     Start, as an error of Init would end every command, even the `ipfs
//     config` that corrects the error;
//   - the fx options add the blocks of databases to every node, and a router to
//     nodes with a host;
//   - Start starts the daemon;
//   - an fx OnStop hook closes the daemon while the node is alive. When kubo
//     calls Close, the host and the datastore are closed already.
//
// # Cost
//
// Peers reach nothing in this package but the files and blocks of the node. The
// configuration is decoded once in each process; an unknown key is an error.
// Its settings bound what peers cost, see [daemon.Settings]. The API belongs to
// package commands.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ipfs/boxo/peering"
	logging "github.com/ipfs/go-log/v2"
	"github.com/ipfs/kubo/core"
	kuboplugin "github.com/ipfs/kubo/plugin"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"go.uber.org/fx"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/router"
)

var log = logging.Logger("npp")

// Plugins is read by kubo's plugin loader.
var Plugins = []kuboplugin.Plugin{instance}

// instance is the plugin of this process. kubo's loader has no way to pass it
// to the commands.
var instance = &Plugin{}

// Errors of [Current], besides [daemon.ErrStopping].
var (
	// ErrDisabled means that kubo did not load the plugin in this process.
	ErrDisabled = errors.New("npp is disabled by Plugins.Plugins.npp.Disabled")
	// ErrNotRunning means that this process is not a daemon.
	ErrNotRunning = errors.New("no daemon is running")
	// ErrOffline means that the daemon runs without a network.
	ErrOffline = errors.New("the daemon is running with --offline")
)

// Current returns the running daemon of this process. The error is one of those
// above if there is none.
func Current() (*daemon.Daemon, error) { return instance.current() }

// Plugin implements kubo's plugin interfaces.
type Plugin struct {
	settings    daemon.Settings
	settingsErr error

	mu     sync.Mutex
	loaded bool
	router *router.Router
	blocks *daemon.Blocks
	daemon *daemon.Daemon
	state  error // why daemon is nil
}

var (
	_ kuboplugin.PluginFx             = (*Plugin)(nil)
	_ kuboplugin.PluginDaemonInternal = (*Plugin)(nil)
)

// Name is the plugin's name in kubo's configuration.
func (*Plugin) Name() string { return "npp" }

// Version implements [kuboplugin.Plugin].
func (*Plugin) Version() string { return daemon.Version }

// Init decodes the configuration.
func (p *Plugin) Init(env *kuboplugin.Environment) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded = true
	p.state = ErrNotRunning
	p.settings, p.settingsErr = parseConfig(env.Config)
	return nil
}

// Options gives each node its router, the blocks of databases, and the hook
// that closes the daemon.
func (p *Plugin) Options(info core.FXNodeInfo) ([]fx.Option, error) {
	return append(info.FXOptions,
		fx.Provide(p.provideBlocks),
		fx.Decorate(p.decoratePubsub),
		fx.Decorate(decorateBlocks),
		fx.Decorate(decorateDiscovery),
		fx.Invoke(p.stopFirst),
	), nil
}

// stopIn lists what must outlive the daemon. fx runs OnStop hooks in the
// reverse order of their registration, and these are constructed, with their
// hooks, before stopFirst is called.
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

// Start starts the daemon on a node.
func (p *Plugin) Start(node *core.IpfsNode) error {
	if p.settingsErr != nil {
		return fmt.Errorf("npp: %w", p.settingsErr)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if node.PeerHost == nil {
		p.state = ErrOffline
		return nil
	}
	c, err := daemonConfig(node, p.settings, p.router, p.blocks)
	if err != nil {
		return fmt.Errorf("npp: %w", err)
	}
	d, err := daemon.New(node.Context(), c)
	if err != nil {
		return fmt.Errorf("npp: %w", err)
	}
	p.daemon = d
	return nil
}

// Close closes the daemon of a node whose hooks did not run.
func (p *Plugin) Close() error { return p.stop() }

func (p *Plugin) stop() error {
	p.mu.Lock()
	d := p.daemon
	if d != nil {
		p.daemon, p.state = nil, daemon.ErrStopping
	}
	p.mu.Unlock()
	if d == nil {
		return nil
	}
	return d.Close()
}

func (p *Plugin) current() (*daemon.Daemon, error) {
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
