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

// fakeNetwork connects hosts in memory, for tests in synctest bubbles.
type fakeNetwork struct {
	latency time.Duration // to open a stream

	mu          sync.Mutex
	hosts       map[peer.ID]*fakeHost
	opened      []opened
	opening     int // streams that are being opened
	maxOpening  int // maximum of opening
	pairs       map[[2]peer.ID]int
	overlapping bool // whether two streams from one host to another were open at a time
	tasks       sync.WaitGroup
}

// opened records the opening of a stream.
type opened struct {
	from, to peer.ID
	after    time.Duration // since the epoch
}

type fakeHost struct {
	host.Host // nil: its other methods are not used
	net       *fakeNetwork
	id        peer.ID
	bus       event.Bus

	connectedness, identified, updated event.Emitter

	handlers map[protocol.ID]network.StreamHandler // guarded by net.mu
	links    map[peer.ID]*fakeConn                 // guarded by net.mu
}

// fakeConn is one end of a connection.
type fakeConn struct {
	network.Conn // nil: its other methods are not used
	from, to     *fakeHost
	streams      map[*fakeStream]bool // guarded by net.mu
}

func (l *fakeConn) RemotePeer() peer.ID { return l.to.id }

func newFakeNetwork() *fakeNetwork {
	return &fakeNetwork{hosts: make(map[peer.ID]*fakeHost), pairs: make(map[[2]peer.ID]int)}
}

func (f *fakeNetwork) node(id peer.ID) *fakeHost {
	n := &fakeHost{
		net: f, id: id, bus: eventbus.NewBus(),
		handlers: make(map[protocol.ID]network.StreamHandler), links: make(map[peer.ID]*fakeConn),
	}
	n.connectedness, _ = n.bus.Emitter(new(event.EvtPeerConnectednessChanged)) // the type is valid, so no error
	n.identified, _ = n.bus.Emitter(new(event.EvtPeerIdentificationCompleted))
	n.updated, _ = n.bus.Emitter(new(event.EvtPeerProtocolsUpdated))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts[id] = n
	return n
}

func connect(a, b *fakeHost) {
	connectOnly(a, b)
	a.identify(b)
	b.identify(a)
}

// connectOnly connects two hosts without identification.
func connectOnly(a, b *fakeHost) {
	a.net.mu.Lock()
	a.links[b.id] = &fakeConn{from: a, to: b, streams: make(map[*fakeStream]bool)}
	b.links[a.id] = &fakeConn{from: b, to: a, streams: make(map[*fakeStream]bool)}
	a.net.mu.Unlock()
	a.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: b.id, Connectedness: network.Connected})
	b.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: a.id, Connectedness: network.Connected})
}

// identify reports the protocols of other to n.
func (n *fakeHost) identify(other *fakeHost) {
	n.net.mu.Lock()
	l := n.links[other.id]
	spoken := slices.Collect(maps.Keys(other.handlers))
	n.net.mu.Unlock()
	n.identified.Emit(event.EvtPeerIdentificationCompleted{Peer: other.id, Conn: l, Protocols: spoken})
}

func disconnect(a, b *fakeHost) {
	a.net.mu.Lock()
	var lost []*fakeStream
	for _, l := range []*fakeConn{a.links[b.id], b.links[a.id]} {
		lost = slices.AppendSeq(lost, maps.Keys(l.streams))
	}
	delete(a.links, b.id)
	delete(b.links, a.id)
	a.net.mu.Unlock()
	for _, s := range lost {
		s.Reset()
	}
	a.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: b.id, Connectedness: network.NotConnected})
	b.connectedness.Emit(event.EvtPeerConnectednessChanged{Peer: a.id, Connectedness: network.NotConnected})
}

func (n *fakeHost) ID() peer.ID                    { return n.id }
func (n *fakeHost) EventBus() event.Bus            { return n.bus }
func (n *fakeHost) Network() network.Network       { return fakeSwarm{n: n} }
func (n *fakeHost) Peerstore() peerstore.Peerstore { return fakePeerstore{n: n} }

func (n *fakeHost) SetStreamHandler(p protocol.ID, h network.StreamHandler) {
	n.change(func() { n.handlers[p] = h }, event.EvtPeerProtocolsUpdated{Peer: n.id, Added: []protocol.ID{p}})
}

func (n *fakeHost) RemoveStreamHandler(p protocol.ID) {
	n.change(func() { delete(n.handlers, p) }, event.EvtPeerProtocolsUpdated{Peer: n.id, Removed: []protocol.ID{p}})
}

// change changes the protocols of a host and notifies its peers.
func (n *fakeHost) change(do func(), e event.EvtPeerProtocolsUpdated) {
	n.net.mu.Lock()
	do()
	var to []*fakeHost
	for _, l := range n.links {
		to = append(to, l.to)
	}
	n.net.mu.Unlock()
	for _, other := range to {
		other.updated.Emit(e)
		other.identify(n)
	}
}

// NewStream implements [host.Host].
func (n *fakeHost) NewStream(ctx context.Context, id peer.ID, ps ...protocol.ID) (network.Stream, error) {
	noDial, _ := network.GetNoDial(ctx)
	limited, _ := network.GetAllowLimitedConn(ctx)
	if !noDial || !limited {
		return nil, errors.New("the stream may dial, or may not use a limited connection")
	}
	f := n.net
	f.mu.Lock()
	f.opened = append(f.opened, opened{n.id, id, time.Since(epoch)})
	f.opening++
	f.maxOpening = max(f.maxOpening, f.opening)
	pair := [2]peer.ID{n.id, id}
	f.pairs[pair]++
	f.overlapping = f.overlapping || f.pairs[pair] > 1
	f.mu.Unlock()
	select {
	case <-time.After(f.latency):
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opening--
	f.pairs[pair]--
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
	ours := &fakeStream{net: f, link: there, in: ourRead, out: ourWrite, reset: both}
	theirs := &fakeStream{net: f, link: there.to.links[n.id], in: theirRead, out: theirWrite, reset: both}
	there.streams[ours], theirs.link.streams[theirs] = true, true
	f.tasks.Go(func() { handle(theirs) })
	return ours, nil
}

// count returns the number of streams that one host opened to another, "" for
// any.
func (f *fakeNetwork) count(from, to peer.ID) int { return len(f.times(from, to)) }

// times returns when they were opened.
func (f *fakeNetwork) times(from, to peer.ID) (ts []time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.opened {
		if (from == "" || o.from == from) && (to == "" || o.to == to) {
			ts = append(ts, o.after)
		}
	}
	return ts
}

// maxAtOnce returns the maximum number of streams that were being opened at a
// time.
func (f *fakeNetwork) maxAtOnce() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.maxOpening
}

// epoch is the start time of every bubble.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

type fakeSwarm struct {
	network.Network // nil: its other methods are not used
	n               *fakeHost
}

func (s fakeSwarm) Connectedness(p peer.ID) network.Connectedness {
	s.n.net.mu.Lock()
	defer s.n.net.mu.Unlock()
	if s.n.links[p] == nil {
		return network.NotConnected
	}
	return network.Limited
}

func (s fakeSwarm) Peers() []peer.ID {
	s.n.net.mu.Lock()
	defer s.n.net.mu.Unlock()
	return slices.Collect(maps.Keys(s.n.links))
}

type fakePeerstore struct {
	peerstore.Peerstore // nil: its other methods are not used
	n                   *fakeHost
}

func (k fakePeerstore) SupportsProtocols(p peer.ID, ps ...protocol.ID) ([]protocol.ID, error) {
	k.n.net.mu.Lock()
	defer k.n.net.mu.Unlock()
	other := k.n.net.hosts[p]
	return slices.DeleteFunc(slices.Clone(ps), func(p protocol.ID) bool { return other.handlers[p] == nil }), nil
}

// fakeStream is one end of an unbuffered stream.
type fakeStream struct {
	network.Stream // nil: its other methods are not used
	net            *fakeNetwork
	link           *fakeConn
	in, out        net.Conn
	reset          *bool // whether either end was reset; guarded by net.mu
}

func (s *fakeStream) Conn() network.Conn { return s.link }

func (s *fakeStream) Read(b []byte) (int, error) {
	n, err := s.in.Read(b)
	return n, s.readError(err)
}

func (s *fakeStream) Write(b []byte) (int, error) {
	n, err := s.out.Write(b)
	return n, s.readError(err)
}

func (s *fakeStream) readError(err error) error {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if err != nil && *s.reset {
		return network.ErrReset
	}
	return err
}

func (s *fakeStream) SetDeadline(t time.Time) error {
	return errors.Join(s.in.SetDeadline(t), s.out.SetDeadline(t))
}

func (s *fakeStream) CloseWrite() error { return s.out.Close() }

func (s *fakeStream) Close() error {
	s.net.mu.Lock()
	delete(s.link.streams, s)
	s.net.mu.Unlock()
	return errors.Join(s.in.Close(), s.out.Close())
}

func (s *fakeStream) Reset() error {
	s.net.mu.Lock()
	if !s.gone() {
		*s.reset = true
	}
	s.net.mu.Unlock()
	return s.Close()
}

// gone reports whether this end is closed. The caller holds net.mu.
func (s *fakeStream) gone() bool { return !s.link.streams[s] }

// openStreams returns the number of open streams.
func (f *fakeNetwork) openStreams() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.hosts {
		for _, l := range h.links {
			n += len(l.streams)
		}
	}
	return n
}

// recorder supplies the own card of an Exchanger and records the received ones.
type recorder struct {
	mu       sync.Mutex
	own      Card
	received []receipt
	busy     bool
	overlap  bool // whether calls of Received overlapped
	slow     time.Duration
	err      error // returned instead of the own card
}

type receipt struct {
	from peer.ID
	card Card
}

func (b *recorder) ownCard(peer.ID) (Card, error) { return b.card(), b.cardError() }

func (b *recorder) card() Card {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.own
}

// cardError returns the error of the own card.
func (b *recorder) cardError() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *recorder) set(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own.Username = name
}

func (b *recorder) record(from peer.ID, c Card) {
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

// names returns the usernames received from a peer.
func (b *recorder) names(from peer.ID) (names []string) {
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
	*recorder
	host host.Host
}

func newDaemon(t testing.TB, h host.Host, name string) *daemon {
	t.Helper()
	d := &daemon{recorder: &recorder{own: Card{Username: name}}, host: h}
	x, err := New(Config{Host: h, Own: d.ownCard, Received: d.record})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	d.Exchanger = x
	return d
}

func (f *fakeNetwork) daemon(t testing.TB, id peer.ID) (*daemon, *fakeHost) {
	n := f.node(id)
	return newDaemon(t, n, string(id)), n
}

// wantCards checks the usernames on the cards of the connected peers.
func (d *daemon) wantCards(t testing.TB, want map[peer.ID]string) {
	t.Helper()
	have := make(map[peer.ID]string)
	for id, c := range d.Cards() {
		have[id] = c.Username
	}
	if !maps.Equal(have, want) {
		t.Errorf("cards of %s are %q, want %q", string(d.host.ID()), have, want)
	}
}
