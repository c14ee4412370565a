package card

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/internal/task"
)

var log = logging.Logger("npp/library")

const (
	// exchangeTimeout bounds the duration of an exchange.
	exchangeTimeout = 10 * time.Second

	// largerIDDelay is how long the peer with the larger peer ID waits for a
	// card before it initiates an exchange.
	largerIDDelay = 3 * time.Second

	// exchangeInterval is the minimum time between two exchanges that this side
	// initiates with a peer. It stays within the peer's rate limit.
	exchangeInterval = peerInterval

	// maxWorkers bounds the number of concurrent exchanges that this side
	// initiates.
	maxWorkers = 16

	// maxPeers is the number of connected peers that are tracked.
	maxPeers = 4096

	// eventBuffer is the number of buffered host events. The event bus blocks
	// when the buffer is full. Handling an event takes microseconds.
	eventBuffer = 1024
)

// retryDelays are the delays after each failed exchange in a row.
var retryDelays = []time.Duration{2 * time.Second, 10 * time.Second, time.Minute}

var (
	// ErrNoProtocol is returned when the peer does not support the protocol.
	ErrNoProtocol = errors.New("peer does not speak " + string(Protocol))
	// ErrNotConnected is returned when there is no connection to the peer.
	ErrNotConnected = errors.New("peer is not connected")
	// ErrClosed is returned after the Exchanger was closed.
	ErrClosed = errors.New("card exchanger is closed")
)

// Config configures an [Exchanger].
type Config struct {
	// Host is the libp2p host. The Exchanger does not own it.
	Host host.Host

	// Own returns the card to send to a peer. If it fails, the exchange fails.
	// It is called once per exchange, possibly for several peers at a time, and
	// must return quickly.
	Own func(to peer.ID) (Card, error)

	// Received is called with each received card before the response is sent.
	// Calls do not overlap. It must return quickly, and must call neither
	// [Exchanger.Exchange] nor [Exchanger.Close]. It may be nil.
	Received func(from peer.ID, c Card)
}

// Exchanger sends the own card to connected peers that support the protocol,
// and holds the cards received from them. It never dials. Its methods may be
// called concurrently.
type Exchanger struct {
	cfg     Config
	events  event.Subscription
	tasks   *task.Group
	ctx     context.Context // of tasks: done after Close
	closing sync.Once
	inbound inbound

	receiveSlot chan struct{} // holds a token while a card is stored and Received runs

	mu      sync.Mutex // guards the fields below; never held across a blocking call
	closed  bool
	version int // of the own card
	peers   map[peer.ID]*remotePeer
	queue   []*remotePeer // peers for the workers, first in, first out
	workers int
}

// remotePeer is a connected peer.
type remotePeer struct {
	id          peer.ID
	supported   bool         // whether the peer supports the protocol
	conn        network.Conn // the connection that was identified last
	card        *Card        // the last card received, or nil
	sentVersion int          // version of the own card that the peer has

	next      time.Time // of the next exchange, zero if none is scheduled
	timer     *time.Timer
	queued    bool
	busy      bool      // a worker is exchanging cards with the peer
	lastBegun time.Time // when a worker last began an exchange
	failures  int       // of workers in a row
}

// New starts an Exchanger on a host. It runs until [Exchanger.Close].
func New(cfg Config) (*Exchanger, error) {
	if cfg.Host == nil || cfg.Own == nil {
		return nil, errors.New("card: Config needs Host and Own")
	}
	if cfg.Received == nil {
		cfg.Received = func(peer.ID, Card) {}
	}
	events, err := cfg.Host.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerProtocolsUpdated), new(event.EvtPeerConnectednessChanged),
	}, eventbus.BufSize(eventBuffer), eventbus.Name("npp/card"))
	if err != nil {
		return nil, fmt.Errorf("subscribe to connection events: %w", err)
	}
	x := &Exchanger{
		cfg:     cfg,
		events:  events,
		inbound: newInbound(),
		tasks:   task.NewGroup(),

		receiveSlot: make(chan struct{}, 1),

		version: 1,
		peers:   make(map[peer.ID]*remotePeer),
	}
	x.ctx = x.tasks.Context()
	x.tasks.Go(x.handleEvents)
	cfg.Host.SetStreamHandler(Protocol, x.handle)

	// The subscription began before this scan, so it reports peers that
	// disconnect after the scan.
	for _, id := range cfg.Host.Network().Peers() {
		if negotiate.Speaks(cfg.Host, id, Protocol) {
			x.setSupported(id, nil)
		}
	}
	return x, nil
}

// Close cancels all exchanges and waits for the goroutines of the Exchanger.
func (x *Exchanger) Close() error {
	var err error
	x.closing.Do(func() {
		x.mu.Lock()
		x.closed = true
		for id := range x.peers {
			x.remove(id)
		}
		x.mu.Unlock()
		x.tasks.Stop()
		x.cfg.Host.RemoveStreamHandler(Protocol)
		err = x.events.Close()
		x.tasks.Wait()
	})
	return err
}

// Cards returns the last card of each connected peer.
func (x *Exchanger) Cards() map[peer.ID]Card {
	x.mu.Lock()
	defer x.mu.Unlock()
	cards := make(map[peer.ID]Card)
	for id, c := range x.peers {
		if c.card != nil {
			cards[id] = *c.card
		}
	}
	return cards
}

// Card returns the last card of a peer, if the peer is connected and sent one.
func (x *Exchanger) Card(id peer.ID) (Card, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.peers[id]; c != nil && c.card != nil {
		return *c.card, true
	}
	return Card{}, false
}

// Announce sends the own card, which changed, to the connected peers in the
// background. Calls in quick succession are coalesced.
func (x *Exchanger) Announce() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.version++
	now := time.Now()
	for _, c := range x.peers {
		c.failures = 0
		x.schedule(c, now)
	}
}

// Exchange exchanges cards with a connected peer and returns the peer's card.
// The error wraps [ErrNotConnected], [ErrNoProtocol], [ErrClosed] or what the
// context or the stream returns.
func (x *Exchanger) Exchange(ctx context.Context, id peer.ID) (Card, error) {
	end, ok := x.tasks.Begin()
	if !ok {
		return Card{}, ErrClosed
	}
	defer end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(x.ctx, cancel)()
	c, err := x.exchange(ctx, id)
	if err != nil && x.ctx.Err() != nil {
		return Card{}, ErrClosed
	}
	return c, err
}

// exchange runs one exchange within exchangeTimeout.
func (x *Exchanger) exchange(ctx context.Context, id peer.ID) (Card, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	c, err := x.initiate(ctx, id)
	switch {
	case err == nil:
		return c, nil
	case !x.connected(id):
		err = ErrNotConnected
	case negotiate.Refused(err):
		err = ErrNoProtocol
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return Card{}, fmt.Errorf("exchange cards with %s: %w", id, err)
}

func (x *Exchanger) initiate(ctx context.Context, id peer.ID) (Card, error) {
	s, err := x.cfg.Host.NewStream(network.WithAllowLimitedConn(network.WithNoDial(ctx, "npp card"), "npp card"), id, Protocol)
	if err != nil {
		return Card{}, err
	}
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	theirs, version, err := x.swapCards(s, id)
	if err == nil {
		err = x.receive(ctx, id, theirs)
	}
	if err != nil {
		s.Reset()
		return Card{}, err
	}
	s.Close()
	x.mu.Lock()
	if c := x.remote(id); c != nil {
		c.supported = true // proven, even if identify has failed
	}
	x.mu.Unlock()
	x.sent(id, version)
	return theirs, nil
}

// swapCards writes the own card to an outbound stream, and reads the peer's
// card.
func (x *Exchanger) swapCards(s network.Stream, id peer.ID) (theirs Card, version int, err error) {
	frame, version, err := x.ownFrame(id)
	if err != nil {
		return Card{}, 0, err
	}
	_, writeErr := s.Write(frame)
	// If the write fails, the read error has the reason.
	theirs, err = read(s)
	if err == nil {
		err = writeErr
	}
	return theirs, version, err
}

// ownFrame returns the own card as a frame, and its version. If the card
// changes during the call, the version is the earlier one.
func (x *Exchanger) ownFrame(to peer.ID) (frame []byte, version int, err error) {
	x.mu.Lock()
	version = x.version
	x.mu.Unlock()
	ours, err := x.cfg.Own(to)
	if err == nil {
		ours, err = ours.Check()
	}
	if err == nil {
		frame, err = encode(ours)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("own card: %w", err)
	}
	return frame, version, nil
}

// handle serves an inbound stream.
func (x *Exchanger) handle(s network.Stream) {
	p := s.Conn().RemotePeer()
	end, ok := x.tasks.Begin()
	if !ok {
		s.Reset()
		return
	}
	defer end()
	if !x.inbound.admit(p) {
		log.Debugw("too many card streams", "peer", p)
		s.Reset()
		return
	}
	defer x.inbound.release(p)
	ctx, cancel := context.WithTimeout(x.ctx, exchangeTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	if err := x.serve(ctx, s, p); err != nil {
		log.Debugw("inbound card exchange", "peer", p, "err", err)
		s.Reset()
		return
	}
	s.Close()
}

func (x *Exchanger) serve(ctx context.Context, s network.Stream, p peer.ID) error {
	theirs, err := read(s)
	if err != nil {
		return err
	}
	if err := x.receive(ctx, p, theirs); err != nil {
		return err
	}
	frame, version, err := x.ownFrame(p)
	if err != nil {
		return err
	}
	if _, err := s.Write(frame); err != nil {
		return err
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	switch n, err := s.Read(make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("%w: unexpected data after the card", ErrInvalid)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("wait for the end of the stream: %w", err)
	}
	x.sent(p, version)
	return nil
}

// receive stores the card of a peer and calls Received.
func (x *Exchanger) receive(ctx context.Context, from peer.ID, theirs Card) error {
	select {
	case x.receiveSlot <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-x.receiveSlot }()
	x.mu.Lock()
	if c := x.remote(from); c != nil {
		c.card = &theirs
	}
	x.mu.Unlock()
	log.Debugw("card", "peer", from, "username", theirs.Username, "user", theirs.User, "follows", theirs.Follows)
	x.cfg.Received(from, theirs)
	return nil
}

// sent records which version of the own card a peer received last. If a later
// version exists, another exchange is scheduled, also if the peer has that
// version: it may have received this older one after it.
func (x *Exchanger) sent(to peer.ID, version int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.remote(to); c != nil {
		c.sentVersion, c.failures = version, 0
		x.schedule(c, time.Now())
	}
}

// handleEvents handles the host's events until Close. It never blocks.
func (x *Exchanger) handleEvents() {
	for e := range x.events.Out() {
		switch e := e.(type) {
		case event.EvtPeerIdentificationCompleted: // also after an update
			if slices.Contains(e.Protocols, Protocol) {
				x.setSupported(e.Peer, e.Conn)
			} else {
				x.setUnsupported(e.Peer)
			}
		case event.EvtPeerProtocolsUpdated:
			switch {
			case slices.Contains(e.Added, Protocol):
				x.setSupported(e.Peer, nil)
			case slices.Contains(e.Removed, Protocol):
				x.setUnsupported(e.Peer)
			}
		case event.EvtPeerConnectednessChanged:
			if e.Connectedness == network.NotConnected {
				x.mu.Lock()
				x.remove(e.Peer)
				x.mu.Unlock()
			}
		}
	}
}

// setSupported records that a peer supports the protocol, as identified on
// conn, which is nil if the connection is unknown.
func (x *Exchanger) setSupported(id peer.ID, conn network.Conn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	c := x.remote(id)
	if c == nil || c.supported && (conn == nil || conn == c.conn) {
		return
	}
	c.supported, c.failures = true, 0
	if conn != nil {
		c.conn = conn
	}
	at := time.Now()
	if x.cfg.Host.ID() > id {
		at = at.Add(largerIDDelay)
	}
	x.schedule(c, at)
}

// setUnsupported records that a peer does not support the protocol.
func (x *Exchanger) setUnsupported(id peer.ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.peers[id]; c != nil {
		c.supported, c.sentVersion = false, 0
	}
}

func (x *Exchanger) connected(id peer.ID) bool {
	return x.cfg.Host.Network().Connectedness(id) != network.NotConnected
}

// remote returns the state of a connected peer, which it creates if necessary.
// It returns nil if the peer is not connected or cannot be tracked. The caller
// holds x.mu.
func (x *Exchanger) remote(id peer.ID) *remotePeer {
	c := x.peers[id]
	if c == nil && !x.closed && len(x.peers) < maxPeers && x.connected(id) {
		c = &remotePeer{id: id}
		c.timer = time.AfterFunc(time.Hour, func() { x.enqueue(c) })
		c.timer.Stop()
		x.peers[id] = c
	}
	return c
}

// remove removes the state of a peer. The caller holds x.mu.
func (x *Exchanger) remove(id peer.ID) {
	c := x.peers[id]
	if c == nil {
		return
	}
	delete(x.peers, id)
	c.supported, c.next = false, time.Time{}
	c.timer.Stop()
	if c.queued {
		x.queue = slices.DeleteFunc(x.queue, func(q *remotePeer) bool { return q == c })
	}
}

// outdated reports whether a peer lacks the current own card. The caller holds
// x.mu.
func (x *Exchanger) outdated(c *remotePeer) bool {
	return c.supported && c.sentVersion != x.version
}

// schedule schedules an exchange with an outdated peer at a time, unless an
// earlier one is scheduled. The caller holds x.mu.
func (x *Exchanger) schedule(c *remotePeer, at time.Time) {
	if next := c.lastBegun.Add(exchangeInterval); at.Before(next) {
		at = next
	}
	if c.busy || c.queued || !x.outdated(c) || !c.next.IsZero() && !at.Before(c.next) {
		return
	}
	c.next = at
	c.timer.Reset(time.Until(at))
}

// enqueue passes a peer to the workers when its scheduled time is reached.
func (x *Exchanger) enqueue(c *remotePeer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.next.IsZero() {
		return
	}
	if rest := time.Until(c.next); rest > 0 {
		c.timer.Reset(rest)
		return
	}
	c.next, c.queued = time.Time{}, true
	x.queue = append(x.queue, c)
	if x.workers < maxWorkers {
		x.workers++
		x.tasks.Go(x.work)
	}
}

// work runs exchanges until the queue is empty.
func (x *Exchanger) work() {
	for {
		c := x.dequeue()
		if c == nil {
			return
		}
		_, err := x.exchange(x.ctx, c.id)
		if err != nil {
			log.Debugw("card exchange", "peer", c.id, "err", err)
		}
		x.finish(c, err)
	}
}

// dequeue returns the next outdated peer. If there is none, it returns nil, and
// the worker ends.
func (x *Exchanger) dequeue() *remotePeer {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.queue) > 0 {
		c := x.queue[0]
		x.queue = x.queue[1:]
		c.queued = false
		if x.outdated(c) {
			c.busy, c.lastBegun = true, time.Now()
			return c
		}
	}
	x.workers--
	return nil
}

// finish schedules the next exchange after one that a worker ran.
func (x *Exchanger) finish(c *remotePeer, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	c.busy = false
	now := time.Now()
	switch {
	case err == nil:
		x.schedule(c, now)
	case c.failures < len(retryDelays):
		x.schedule(c, now.Add(retryDelays[c.failures]))
		c.failures++
	}
}
