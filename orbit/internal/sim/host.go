package sim

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	libp2phost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	msmux "github.com/multiformats/go-multistream"
)

// negotiateWithin bounds the negotiation of the protocol of a stream.
const negotiateWithin = 10 * time.Second

// host is the libp2p host of a running node.
type host struct {
	libp2phost.Host // nil: the rest is not simulated
	w               *world
	node            *node
	id              peer.ID
	ctx             context.Context // done when closed
	cancel          context.CancelFunc
	mux             *msmux.MultistreamMuxer[protocol.ID]
	bus             event.Bus
	connectedness   event.Emitter
	identified      event.Emitter
	pubsub          *pubsubRouter
	swap            *swap

	conns  map[peer.ID]*conn // guarded by w.mu
	closed bool              // guarded by w.mu
}

func newHost(n *node) *host {
	h := &host{w: n.w, node: n, id: n.id, mux: msmux.NewMultistreamMuxer[protocol.ID](), bus: eventbus.NewBus(), conns: make(map[peer.ID]*conn)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.connectedness, _ = h.bus.Emitter(new(event.EvtPeerConnectednessChanged)) // fails only without a type
	h.identified, _ = h.bus.Emitter(new(event.EvtPeerIdentificationCompleted))
	h.pubsub = newPubsubRouter(h)
	h.swap = newSwap(h)
	return h
}

// close ends all connections. The other ends notice it within a time.
func (h *host) close(within time.Duration) {
	h.cancel()
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if h.closed {
		return
	}
	for _, c := range h.conns {
		c.lose(within)
		c.drop(h)
	}
	h.closed = true
}

// connected handles a new connection, which may replace another one.
func (h *host) connected(c *conn, replaces bool) {
	p := c.other(h)
	if !replaces {
		h.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: p.id, Connectedness: network.Connected})
	}
	h.identified.Emit(event.EvtPeerIdentificationCompleted{Peer: p.id, Conn: view{conn: c, host: h}, Protocols: p.mux.Protocols()})
}

func (h *host) disconnected(p peer.ID) {
	h.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: p, Connectedness: network.NotConnected})
}

// changed tells the peers of changed topics and wants. The caller holds w.mu.
func (h *host) changed() {
	for _, c := range h.conns {
		c.talks[c.end(h)].changed()
	}
}

func (h *host) ID() peer.ID                    { return h.id }
func (h *host) EventBus() event.Bus            { return h.bus }
func (h *host) Network() network.Network       { return net{h: h} }
func (h *host) Peerstore() peerstore.Peerstore { return protocols{h: h} }

func (h *host) SetStreamHandler(p protocol.ID, handler network.StreamHandler) {
	h.SetStreamHandlerMatch(p, func(other protocol.ID) bool { return other == p }, handler)
}

func (h *host) SetStreamHandlerMatch(p protocol.ID, match func(protocol.ID) bool, handler network.StreamHandler) {
	if !h.node.speaks(p) {
		return
	}
	h.mux.AddHandlerWithFunc(p, match, func(p protocol.ID, s io.ReadWriteCloser) error {
		s.(*stream).SetProtocol(p)
		handler(s.(*stream))
		return nil
	})
}

func (h *host) RemoveStreamHandler(p protocol.ID) { h.mux.RemoveHandler(p) }

// negotiate serves a stream that a peer opened.
func (h *host) negotiate(s *stream) {
	s.SetDeadline(time.Now().Add(negotiateWithin))
	p, handle, err := h.mux.Negotiate(s)
	if err != nil {
		s.Reset()
		return
	}
	s.SetDeadline(time.Time{})
	handle(p, s)
}

// NewStream implements [libp2phost.Host].
func (h *host) NewStream(ctx context.Context, p peer.ID, ps ...protocol.ID) (network.Stream, error) {
	ps = slices.DeleteFunc(slices.Clone(ps), func(p protocol.ID) bool { return !h.node.speaks(p) })
	s, err := h.Network().NewStream(ctx, p)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	chosen, err := msmux.SelectOneOf(ps, s)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		s.Reset()
		return nil, err
	}
	return s, s.SetProtocol(chosen)
}

// net is the network of a host.
type net struct {
	network.Network // nil: the rest is not simulated
	h               *host
}

func (n net) Connectedness(p peer.ID) network.Connectedness {
	if len(n.ConnsToPeer(p)) > 0 {
		return network.Connected
	}
	return network.NotConnected
}

func (n net) Peers() []peer.ID {
	n.h.w.mu.Lock()
	defer n.h.w.mu.Unlock()
	return sortedKeys(n.h.conns)
}

func (n net) ConnsToPeer(p peer.ID) []network.Conn {
	n.h.w.mu.Lock()
	defer n.h.w.mu.Unlock()
	if c := n.h.conns[p]; c != nil {
		return []network.Conn{view{conn: c, host: n.h}}
	}
	return nil
}

func (n net) NewStream(_ context.Context, p peer.ID) (network.Stream, error) {
	n.h.w.mu.Lock()
	defer n.h.w.mu.Unlock()
	c := n.h.conns[p]
	if c == nil {
		return nil, network.ErrNoConn
	}
	s := newStream(n.h, c, c.key(n.h, "stream"))
	s.accept()
	return s, nil
}

// protocols is the peerstore of a host. It knows the present protocols of other
// hosts, as far as the node knows them itself.
type protocols struct {
	peerstore.Peerstore // nil: the rest is not simulated
	h                   *host
}

func (k protocols) GetProtocols(p peer.ID) ([]protocol.ID, error) {
	return slices.DeleteFunc(k.h.protocols(p), func(id protocol.ID) bool { return !k.h.node.speaks(id) }), nil
}

func (k protocols) SupportsProtocols(p peer.ID, ps ...protocol.ID) ([]protocol.ID, error) {
	known, err := k.GetProtocols(p)
	return slices.DeleteFunc(known, func(id protocol.ID) bool { return !slices.Contains(ps, id) }), err
}

// protocols returns the protocols of a connected peer.
func (h *host) protocols(p peer.ID) []protocol.ID {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if c := h.conns[p]; c != nil {
		return c.other(h).mux.Protocols()
	}
	return nil
}

// knows reports whether a connected peer speaks a protocol.
func (h *host) knows(p peer.ID, id protocol.ID) bool { return slices.Contains(h.protocols(p), id) }

// speaks reports whether a node knows a protocol.
func (n *node) speaks(p protocol.ID) bool {
	return n.unknown == "" || !strings.HasPrefix(string(p), n.unknown)
}
