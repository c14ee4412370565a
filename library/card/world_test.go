package card

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/multiformats/go-multistream"
)

// world is hosts without a network, for tests in the time of a bubble.
type world struct {
	latency time.Duration // of opening a stream

	mu     sync.Mutex
	hosts  map[peer.ID]*node
	opened []opened
	open   int // streams that are being opened
	most   int // of them at a time
	pairs  map[[2]peer.ID]int
	twice  bool // two from the same peer to the same at a time
	tasks  sync.WaitGroup
}

// opened is a stream that was opened.
type opened struct {
	from, to peer.ID
	after    time.Duration // since the world began
}

type node struct {
	host.Host // nil: what is not there
	w         *world
	id        peer.ID
	bus       event.Bus

	connectedness, identified, updated event.Emitter

	handlers map[protocol.ID]network.StreamHandler // guarded by w.mu
	links    map[peer.ID]*link                     // guarded by w.mu
}

// link is one end of a connection.
type link struct {
	network.Conn // nil: what is not there
	from, to     *node
	streams      map[*stream]bool // guarded by w.mu
}

func (l *link) RemotePeer() peer.ID { return l.to.id }

func newWorld() *world {
	return &world{hosts: make(map[peer.ID]*node), pairs: make(map[[2]peer.ID]int)}
}

func (w *world) node(id peer.ID) *node {
	n := &node{
		w: w, id: id, bus: eventbus.NewBus(),
		handlers: make(map[protocol.ID]network.StreamHandler), links: make(map[peer.ID]*link),
	}
	n.connectedness, _ = n.bus.Emitter(new(event.EvtPeerConnectednessChanged)) // fails for no type
	n.identified, _ = n.bus.Emitter(new(event.EvtPeerIdentificationCompleted))
	n.updated, _ = n.bus.Emitter(new(event.EvtPeerProtocolsUpdated))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[id] = n
	return n
}

func connect(a, b *node) {
	join(a, b)
	a.identify(b)
	b.identify(a)
}

// join connects without identification.
func join(a, b *node) {
	a.w.mu.Lock()
	a.links[b.id] = &link{from: a, to: b, streams: make(map[*stream]bool)}
	b.links[a.id] = &link{from: b, to: a, streams: make(map[*stream]bool)}
	a.w.mu.Unlock()
	a.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: b.id, Connectedness: network.Connected})
	b.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: a.id, Connectedness: network.Connected})
}

// identify has n know what other speaks.
func (n *node) identify(other *node) {
	n.w.mu.Lock()
	l := n.links[other.id]
	spoken := slices.Collect(maps.Keys(other.handlers))
	n.w.mu.Unlock()
	n.identified.Emit(event.EvtPeerIdentificationCompleted{Peer: other.id, Conn: l, Protocols: spoken})
}

func disconnect(a, b *node) {
	a.w.mu.Lock()
	var lost []*stream
	for _, l := range []*link{a.links[b.id], b.links[a.id]} {
		lost = slices.AppendSeq(lost, maps.Keys(l.streams))
	}
	delete(a.links, b.id)
	delete(b.links, a.id)
	a.w.mu.Unlock()
	for _, s := range lost {
		s.Reset()
	}
	a.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: b.id, Connectedness: network.NotConnected})
	b.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: a.id, Connectedness: network.NotConnected})
}

func (n *node) ID() peer.ID                    { return n.id }
func (n *node) EventBus() event.Bus            { return n.bus }
func (n *node) Network() network.Network       { return swarm{n: n} }
func (n *node) Peerstore() peerstore.Peerstore { return known{n: n} }

func (n *node) SetStreamHandler(p protocol.ID, h network.StreamHandler) {
	n.change(func() { n.handlers[p] = h }, event.EvtPeerProtocolsUpdated{Peer: n.id, Added: []protocol.ID{p}})
}

func (n *node) RemoveStreamHandler(p protocol.ID) {
	n.change(func() { delete(n.handlers, p) }, event.EvtPeerProtocolsUpdated{Peer: n.id, Removed: []protocol.ID{p}})
}

// change changes what a node speaks, and tells those who are connected.
func (n *node) change(do func(), e event.EvtPeerProtocolsUpdated) {
	n.w.mu.Lock()
	do()
	var to []*node
	for _, l := range n.links {
		to = append(to, l.to)
	}
	n.w.mu.Unlock()
	for _, other := range to {
		other.updated.Emit(e)
		other.identify(n)
	}
}

// NewStream implements [host.Host].
func (n *node) NewStream(ctx context.Context, id peer.ID, ps ...protocol.ID) (network.Stream, error) {
	noDial, _ := network.GetNoDial(ctx)
	limited, _ := network.GetAllowLimitedConn(ctx)
	if !noDial || !limited {
		return nil, errors.New("the stream might dial, or must be direct")
	}
	w := n.w
	w.mu.Lock()
	w.opened = append(w.opened, opened{n.id, id, time.Since(epoch)})
	w.open++
	w.most = max(w.most, w.open)
	pair := [2]peer.ID{n.id, id}
	w.pairs[pair]++
	w.twice = w.twice || w.pairs[pair] > 1
	w.mu.Unlock()
	select {
	case <-time.After(w.latency):
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	w.pairs[pair]--
	there := n.links[id]
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case there == nil:
		return nil, errors.New("connection failed")
	}
	handle := there.to.handlers[ps[0]]
	if handle == nil {
		return nil, multistream.ErrNotSupported[protocol.ID]{Protos: ps}
	}
	ourRead, theirWrite := net.Pipe()
	theirRead, ourWrite := net.Pipe()
	both := new(bool)
	ours := &stream{w: w, link: there, in: ourRead, out: ourWrite, reset: both}
	theirs := &stream{w: w, link: there.to.links[n.id], in: theirRead, out: theirWrite, reset: both}
	there.streams[ours], theirs.link.streams[theirs] = true, true
	w.tasks.Go(func() { handle(theirs) })
	return ours, nil
}

// count is how many streams one node opened to another, "" for any.
func (w *world) count(from, to peer.ID) int { return len(w.times(from, to)) }

// times is when it did.
func (w *world) times(from, to peer.ID) (ts []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.opened {
		if (from == "" || o.from == from) && (to == "" || o.to == to) {
			ts = append(ts, o.after)
		}
	}
	return ts
}

// atOnce is the most streams that were being opened at a time.
func (w *world) atOnce() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most
}

// epoch is when every bubble begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

type swarm struct {
	network.Network // nil: what is not there
	n               *node
}

func (s swarm) Connectedness(p peer.ID) network.Connectedness {
	s.n.w.mu.Lock()
	defer s.n.w.mu.Unlock()
	if s.n.links[p] == nil {
		return network.NotConnected
	}
	return network.Limited
}

func (s swarm) Peers() []peer.ID {
	s.n.w.mu.Lock()
	defer s.n.w.mu.Unlock()
	return slices.Collect(maps.Keys(s.n.links))
}

type known struct {
	peerstore.Peerstore // nil: what is not there
	n                   *node
}

func (k known) SupportsProtocols(p peer.ID, ps ...protocol.ID) ([]protocol.ID, error) {
	k.n.w.mu.Lock()
	defer k.n.w.mu.Unlock()
	other := k.n.w.hosts[p]
	return slices.DeleteFunc(slices.Clone(ps), func(p protocol.ID) bool { return other.handlers[p] == nil }), nil
}

// stream is one end of a stream that holds nothing: a write waits for the reader.
type stream struct {
	network.Stream // nil: what is not there
	w              *world
	link           *link
	in, out        net.Conn
	reset          *bool // of both ends; guarded by w.mu
}

func (s *stream) Conn() network.Conn { return s.link }

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.in.Read(b)
	return n, s.why(err)
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.out.Write(b)
	return n, s.why(err)
}

func (s *stream) why(err error) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err != nil && *s.reset {
		return network.ErrReset
	}
	return err
}

func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.in.SetDeadline(t), s.out.SetDeadline(t))
}

func (s *stream) CloseWrite() error { return s.out.Close() }

func (s *stream) Close() error {
	s.w.mu.Lock()
	delete(s.link.streams, s)
	s.w.mu.Unlock()
	return errors.Join(s.in.Close(), s.out.Close())
}

func (s *stream) Reset() error {
	s.w.mu.Lock()
	if !s.gone() {
		*s.reset = true
	}
	s.w.mu.Unlock()
	return s.Close()
}

// gone reports whether this end was closed before. The caller holds w.mu.
func (s *stream) gone() bool { return !s.link.streams[s] }

// leaks says how many streams are open yet.
func (w *world) leaks() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.hosts {
		for _, l := range h.links {
			n += len(l.streams)
		}
	}
	return n
}

// book is what an Exchanger shows and receives.
type book struct {
	mu       sync.Mutex
	own      Card
	received []receipt
	busy     bool
	overlap  bool // two calls of Received at a time
	slow     time.Duration
	err      error // why there is no card to show
}

type receipt struct {
	from peer.ID
	card Card
}

func (b *book) ownCard(peer.ID) (Card, error) { return b.card(), b.none() }

func (b *book) card() Card {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.own
}

// none is why there is no card.
func (b *book) none() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *book) set(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own.Username = name
}

func (b *book) note(from peer.ID, c Card) {
	b.mu.Lock()
	b.overlap = b.overlap || b.busy
	b.busy = true
	b.received = append(b.received, receipt{from, c})
	b.mu.Unlock()
	time.Sleep(b.slow)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy = false
}

// names are those that were received of a peer.
func (b *book) names(from peer.ID) (names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.received {
		if r.from == from {
			names = append(names, r.card.Username)
		}
	}
	return names
}

// daemon is an Exchanger on a host.
type daemon struct {
	*Exchanger
	*book
	host host.Host
}

func newDaemon(t testing.TB, h host.Host, name string) *daemon {
	t.Helper()
	d := &daemon{book: &book{own: Card{Username: name}}, host: h}
	x, err := New(Config{Host: h, Own: d.ownCard, Received: d.note})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	d.Exchanger = x
	return d
}

func (w *world) daemon(t testing.TB, id peer.ID) (*daemon, *node) {
	n := w.node(id)
	return newDaemon(t, n, string(id)), n
}

// knows wants the names on the cards that a daemon has.
func (d *daemon) knows(t testing.TB, want map[peer.ID]string) {
	t.Helper()
	have := make(map[peer.ID]string)
	for id, c := range d.Cards() {
		have[id] = c.Username
	}
	if !maps.Equal(have, want) {
		t.Errorf("%s has the cards %q, want %q", string(d.host.ID()), have, want)
	}
}
