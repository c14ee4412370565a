// Package swarm knows the peers that a libp2p host is connected to, finds the
// way to others, and keeps the connections that it is asked to keep.
//
// # Peers and events
//
// [Swarm.Peers] reads the host's connections as they are. [Swarm.Watch] gives
// a list and the connects and disconnects that follow it. Both the list and
// the events of a watch come from one record, which the host's event bus
// feeds: a peer's state changes there and in every watcher's queue under one
// lock, so nothing is lost or doubled between the list and the stream. The
// events are those of peers, not of connections: a second connection to a peer
// is no event, and neither is a connection that is replaced, or closed again,
// before the host came to announce it. A connection over a relay counts.
//
// # Finding the way
//
// [Swarm.Connect] tries, in this order and only as far as needed: an open
// connection; the addresses given and those in the peerstore; the routing
// system; and the relays that the host is connected to. It stages the dials
// itself, on the host's network, because Connect of a routed host looks up
// addresses on its own and reports nothing of it. As long as there is something
// left to try, a stage gets half of the time that is left.
//
// # Keeping
//
// A kept peer is written to the store before [Swarm.Keep] returns, protected
// in the connection manager, and given to kubo's peering service. That service
// first tries after some ten seconds, knows no relays, and stops trying after
// a relayed connection dropped; so each kept peer also has a keeper here that
// connects at once and in all ways, and again after each loss.
//
// # Cost
//
// A connection of another peer costs one look at the peerstore, an entry of the record
// while it lasts, and an event for each watcher: 65 536 wait for one, which ends with
// [ErrTooSlow] beyond. Its latency is measured when somebody asks, at most once in 30
// seconds, of 64 peers at a time and within 10 seconds each. [Swarm.Peers] takes the
// time of all peers, and of all topics times the peers on each.
//
// [ParseTarget] reads at most 1024 bytes. [Swarm.Connect] takes 32 addresses of what the
// routing system finds, dials through 8 relays, and starts three times at most; addresses
// given are as many as the caller gives. 1000 peers are kept, with 16 addresses each, in
// one record on disk for each peer, which is written when a peer is reached at an address
// that is new. 16 of them are dialled at a time; the pause between two tries grows from
// some seconds to some minutes, also where a peer hangs up at once.
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

	"github.com/newpieceplease/npp/store"
)

var log = logging.Logger("npp")

var (
	// ErrSelf says that the peer is this host itself.
	ErrSelf = errors.New("the peer is this node itself")

	// ErrClosed says that the Swarm was closed.
	ErrClosed = errors.New("swarm is closed")
)

// Config says what a [Swarm] works on.
type Config struct {
	// Host is the libp2p host. The Swarm does not own it.
	Host host.Host

	// Routing finds addresses of peers. Default: none.
	Routing routing.PeerRouting

	// Store holds the kept peers, below the prefix "keep". The Swarm does not
	// own it.
	Store *store.Store

	// Peering is told of the kept peers. Default: none.
	Peering Peering

	// Pinned are the peers that the operator's configuration keeps. They are
	// shown as such and otherwise left alone.
	Pinned []peer.AddrInfo

	// Protocol is the protocol that [Peer.NPP] reports. Default: none.
	Protocol protocol.ID

	// Topics knows which peers share pubsub topics with us. Default: none.
	Topics Topics
}

// Peering is kubo's peering service, peering.PeeringService of boxo.
type Peering interface {
	AddPeer(peer.AddrInfo)
	RemovePeer(peer.ID)
	ListPeers() []peer.AddrInfo
}

// Topics is what a Swarm needs of a pubsub router: the topics that we are
// subscribed to, and the peers subscribed to a topic.
type Topics interface {
	GetTopics() []string
	ListPeers(topic string) []peer.ID
}

// Swarm is the view of a host's peers. Its methods may be called concurrently.
type Swarm struct {
	cfg     Config
	net     network.Network
	events  event.Subscription
	ctx     context.Context // ends at Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	closing sync.Once
	dials   chan struct{} // holds a token for each dial of a keeper
	pings   chan struct{} // holds a token for each ping

	keeping sync.Mutex // serialises what changes the kept peers; held across writes to the store

	mu        sync.Mutex // guards what follows; never held across a call that may wait
	closed    bool
	connected map[peer.ID]bool // as announced to the watchers
	watchers  map[*watcher]struct{}
	measured  map[peer.ID]*measurement
	kept      map[peer.ID]*keeper
	pinned    map[peer.ID]peer.AddrInfo // does not change
}

// New starts a Swarm: it subscribes to the host's events, reads the kept peers
// from the store and begins to keep them in the background. It does not dial.
// The context is that of the start; the Swarm runs until [Swarm.Close].
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
	s.ctx, s.cancel = context.WithCancel(context.Background())

	// Subscribed first, so whoever leaves after this look is announced.
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

// Close ends all watches and stops keeping: nothing of the Swarm runs
// afterwards, and the host, which stays open, protects and peers with nobody
// on its behalf. What is kept stays in the store.
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
		s.cancel()
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

// Peer is a connected peer, as seen over its best connection: a direct one
// before a relayed one, then the oldest.
type Peer struct {
	ID        peer.ID
	Addr      ma.Multiaddr      // of the remote end; nil if the peer just left
	Latency   time.Duration     // as measured by [Swarm.Measure]; 0 if none was in the last 30 seconds
	Measured  time.Time         // when Latency was measured; zero if Latency is 0
	Direction network.Direction // who opened the connection
	Agent     string            // as the peer calls itself; "" if unknown
	Since     time.Time         // start of the oldest open connection
	Relayed   bool              // there is no direct connection
	Kept      Kept
	NPP       bool     // speaks Config.Protocol
	Topics    []string // shared with us, sorted
}

// Peers returns the peers that are connected now, by any way, sorted by ID.
func (s *Swarm) Peers() []Peer {
	ids := slices.DeleteFunc(s.net.Peers(), func(id peer.ID) bool { return !s.isConnected(id) })
	return s.describeAll(ids)
}

// Count returns how many peers are connected now.
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
	shared := s.sharedTopics()
	peers := make([]Peer, 0, len(ids))
	for _, id := range ids {
		p := s.describe(id)
		p.Topics = shared[id]
		peers = append(peers, p)
	}
	return peers
}

// describe leaves Topics to the caller: a router may take its time to answer.
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
	p.NPP = s.cfg.Protocol != "" && s.speaks(id, s.cfg.Protocol)
	return p
}

// sharedTopics maps the peers to the topics that they share with us, sorted.
func (s *Swarm) sharedTopics() map[peer.ID][]string {
	shared := make(map[peer.ID][]string)
	if s.cfg.Topics == nil {
		return shared
	}
	topics := s.cfg.Topics.GetTopics()
	slices.Sort(topics)
	for _, topic := range topics {
		for _, id := range s.cfg.Topics.ListPeers(topic) {
			shared[id] = append(shared[id], topic)
		}
	}
	return shared
}

func (s *Swarm) speaks(id peer.ID, proto protocol.ID) bool {
	known, err := s.cfg.Host.Peerstore().SupportsProtocols(id, proto)
	return err == nil && len(known) > 0
}

func (s *Swarm) isConnected(id peer.ID) bool {
	return s.net.Connectedness(id) != network.NotConnected
}

// conn returns the best open connection to a peer, nil if there is none.
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
