// Package swarm lists the peers that a libp2p host is connected to, connects to
// others by any way that works, and keeps chosen peers connected.
//
// # Peers and events
//
// [Swarm.Peers] returns the host's present connections. [Swarm.Watch] returns a
// list of peers and the connects and disconnects that follow it. List and
// events of a watch are derived from one record, which follows the host's event
// bus. A change is applied to the record and to each watcher's queue under one
// lock, so the events neither miss nor repeat a change of the list. Events
// concern peers, not connections: a second connection to a peer is not an
// event, and neither is a connection that is replaced or closed before the host
// announces it. A relayed connection counts.
//
// # Connecting
//
// [Swarm.Connect] tries the following in this order, as far as needed: an open
// connection; the given addresses and those in the peerstore; the routing
// system; and the relays that the host is connected to. It stages the dials
// itself, on the host's network, because Connect of a routed host looks up
// addresses on its own and does not report them. While further stages may
// follow, a stage gets half of the remaining time.
//
// # Keeping
//
// A kept peer is stored before [Swarm.Keep] returns, protected in the
// connection manager, and added to kubo's peering service. The peering service
// waits some ten seconds before its first try, does not use relays, and gives
// up after a relayed connection was lost. Therefore each kept peer also has a
// keeper in this package, which connects at once and by all ways, and again
// after each loss.
//
// # Cost
//
// A connection of another peer costs a read of the peerstore, a record while it
// lasts, and an event for each watcher. A watcher's queue has up to 65 536
// events; beyond that, the watch ends with [ErrTooSlow]. A peer's latency is
// measured on request only, at most once in 30 seconds, for at most 10 seconds,
// and for 64 peers at a time. [Swarm.Peers] takes time in proportion to the
// peers and their topics.
//
// [ParseTarget] reads at most 1024 bytes. [Swarm.Connect] uses 32 addresses of
// those that the routing system finds, dials through 8 relays, and starts three
// times at most; the number of given addresses is up to the caller. Up to 1000
// peers are kept, with 16 addresses each, in one record per peer, which is
// written when a peer is reached at a new address. 16 of them are dialled at a
// time. The delay between two tries grows from seconds to minutes, even if the
// peer hangs up at once.
package swarm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/routing"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/internal/task"
	"github.com/newpieceplease/npp/store"
)

var log = logging.Logger("npp")

var (
	// ErrSelf means that the peer is this host itself.
	ErrSelf = errors.New("the peer is this node itself")

	// ErrClosed means that the Swarm is closed.
	ErrClosed = errors.New("swarm is closed")
)

// Config configures a [Swarm].
type Config struct {
	// Host is the libp2p host. The Swarm does not own it.
	Host host.Host

	// Routing finds addresses of peers. Default: none.
	Routing routing.PeerRouting

	// Store holds the kept peers, below the prefix "keep". The Swarm does not
	// own it.
	Store *store.Store

	// Peering receives the kept peers. Default: none.
	Peering Peering

	// Pinned are the peers that the operator's configuration keeps. They are
	// listed as such and otherwise not touched.
	Pinned []peer.AddrInfo

	// Protocol is the protocol that [Peer.NPP] reports. Default: none.
	Protocol protocol.ID

	// Topics lists the pubsub topics of peers. Default: none.
	Topics Topics
}

// Peering is kubo's peering service, peering.PeeringService of boxo.
type Peering interface {
	AddPeer(peer.AddrInfo)
	RemovePeer(peer.ID)
	ListPeers() []peer.AddrInfo
}

// Topics is the part of a pubsub router that a Swarm needs: the topics to which
// both this peer and another one are subscribed, sorted.
type Topics interface {
	SharedTopics(peer.ID) []string
}

// Swarm manages a host's peers. Its methods may be called concurrently.
type Swarm struct {
	cfg     Config
	net     network.Network
	events  event.Subscription
	tasks   *task.Group
	ctx     context.Context // of tasks: done after Close
	closing sync.Once
	dials   chan struct{} // holds a token for each dial of a keeper
	pings   chan struct{} // holds a token for each ping

	keeping sync.Mutex // serialises changes of the kept peers; held during writes to the store

	mu        sync.Mutex // guards the following fields; never held across a blocking call
	closed    bool
	connected map[peer.ID]bool // as announced to the watchers
	watchers  map[*watcher]struct{}
	measured  map[peer.ID]*measurement
	kept      map[peer.ID]*keeper
	pinned    map[peer.ID]peer.AddrInfo // never changes
}

// New starts a Swarm. It subscribes to the host's events, reads the kept peers
// from the store and starts to keep them connected in the background. It does
// not dial. The context applies to the start only; the Swarm runs until
// [Swarm.Close].
func New(ctx context.Context, cfg Config) (*Swarm, error) {
	s := &Swarm{
		cfg:       cfg,
		net:       cfg.Host.Network(),
		dials:     make(chan struct{}, maxKeeperDials),
		pings:     make(chan struct{}, maxPings),
		connected: make(map[peer.ID]bool),
		watchers:  make(map[*watcher]struct{}),
		measured:  make(map[peer.ID]*measurement),
		kept:      make(map[peer.ID]*keeper),
		pinned:    make(map[peer.ID]peer.AddrInfo),
	}
	for _, info := range cfg.Pinned {
		s.pinned[info.ID] = info
	}
	kept, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	s.events, err = cfg.Host.EventBus().Subscribe(new(event.EvtPeerConnectednessChanged),
		eventbus.BufSize(eventBuffer), eventbus.Name("npp/swarm"))
	if err != nil {
		return nil, fmt.Errorf("subscribe to connection events: %w", err)
	}
	s.tasks = task.NewGroup()
	s.ctx = s.tasks.Context()

	// The subscription exists already, so a later disconnect is announced.
	for _, id := range s.net.Peers() {
		if s.isConnected(id) {
			s.connected[id] = true
			logConnect(id)
		}
	}
	s.tasks.Go(s.follow)
	s.keeping.Lock()
	defer s.keeping.Unlock()
	listed := s.listPeering()
	for _, info := range kept {
		s.startKeeper(info, listed)
	}
	return s, nil
}

// Close ends all watches and stops keeping peers. Afterwards no goroutine of
// the Swarm runs, and the host has none of its protections and peering entries.
// The records of the kept peers stay in the store.
func (s *Swarm) Close() error {
	var err error
	s.closing.Do(func() {
		s.keeping.Lock()
		s.mu.Lock()
		s.closed = true
		for w := range s.watchers {
			s.dismiss(w, nil)
		}
		kept := s.kept
		s.kept = make(map[peer.ID]*keeper)
		s.mu.Unlock()
		s.tasks.Stop()
		listed := s.listPeering()
		for _, k := range kept {
			s.stopKeeper(k, listed)
		}
		s.keeping.Unlock()

		err = s.events.Close()
		s.tasks.Wait()
	})
	return err
}

// Peer is a connected peer. It describes the best connection: a direct one if
// there is any, and the oldest of those.
type Peer struct {
	ID        peer.ID
	Addr      ma.Multiaddr      // of the remote end; nil if the peer just disconnected
	Latency   time.Duration     // measured by [Swarm.Measure] within the last 30 seconds, or 0
	Measured  time.Time         // when Latency was measured; zero if Latency is 0
	Direction network.Direction // who opened the connection
	Agent     string            // the peer's own claim; "" if unknown
	Since     time.Time         // when the oldest open connection was opened
	Relayed   bool              // there is no direct connection
	Kept      Kept
	NPP       bool     // the peer speaks Config.Protocol
	Topics    []string // topics that both peers are subscribed to, sorted
}

// Peers returns the connected peers, sorted by ID.
func (s *Swarm) Peers() []Peer {
	ids := slices.DeleteFunc(s.net.Peers(), func(id peer.ID) bool { return !s.isConnected(id) })
	return s.describeAll(ids)
}

// Count returns the number of connected peers.
func (s *Swarm) Count() int {
	n := 0
	for _, id := range s.net.Peers() {
		if s.isConnected(id) {
			n++
		}
	}
	return n
}

func (s *Swarm) describeAll(ids []peer.ID) []Peer {
	slices.Sort(ids)
	peers := make([]Peer, 0, len(ids))
	for _, id := range ids {
		p := s.describe(id)
		if s.cfg.Topics != nil {
			p.Topics = s.cfg.Topics.SharedTopics(id)
		}
		peers = append(peers, p)
	}
	return peers
}

// describe does not set Topics: a peer may have many.
func (s *Swarm) describe(id peer.ID) Peer {
	p := Peer{ID: id, Kept: s.keptBy(id)}
	if conn := s.conn(id); conn != nil {
		p.Addr = conn.RemoteMultiaddr()
		p.Direction = conn.Stat().Direction
		p.Relayed = relayed(conn)
	}
	for _, conn := range s.net.ConnsToPeer(id) {
		if opened := conn.Stat().Opened; !conn.IsClosed() && (p.Since.IsZero() || opened.Before(p.Since)) {
			p.Since = opened
		}
	}
	ps := s.cfg.Host.Peerstore()
	p.Latency, p.Measured = s.latencyOf(id)
	if agent, err := ps.Get(id, "AgentVersion"); err == nil {
		p.Agent, _ = agent.(string)
	}
	p.NPP = s.cfg.Protocol != "" && negotiate.Speaks(s.cfg.Host, id, s.cfg.Protocol)
	return p
}

func (s *Swarm) isConnected(id peer.ID) bool {
	return s.net.Connectedness(id) != network.NotConnected
}

// conn returns the best open connection to a peer, or nil.
func (s *Swarm) conn(id peer.ID) network.Conn {
	conns := slices.DeleteFunc(s.net.ConnsToPeer(id), network.Conn.IsClosed)
	if len(conns) == 0 {
		return nil
	}
	return slices.MinFunc(conns, func(a, b network.Conn) int {
		switch ra, rb := relayed(a), relayed(b); {
		case ra == rb:
			return a.Stat().Opened.Compare(b.Stat().Opened)
		case ra:
			return 1
		default:
			return -1
		}
	})
}

func relayed(conn network.Conn) bool {
	return conn.Stat().Limited || isCircuit(conn.RemoteMultiaddr())
}

func isCircuit(addr ma.Multiaddr) bool {
	_, err := addr.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}
