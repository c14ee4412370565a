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
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/multiformats/go-multistream"
)

var log = logging.Logger("npp/library")

const (
	// patience is what an exchange may take.
	patience = 10 * time.Second

	// grace is how long the side with the larger peer ID waits for the card of
	// the other one before it begins itself.
	grace = 3 * time.Second

	// gap is at least between the exchanges that we begin with a peer, so that
	// it takes them all.
	gap = peerPause

	// maxWorkers is with how many peers we begin exchanges at a time.
	maxWorkers = 16

	// maxPeers is how many peers are dealt with.
	maxPeers = 4096

	// eventBuffer is how many of the host's events wait for us; the bus stalls
	// when it is full. Handling one takes microseconds.
	eventBuffer = 1024
)

// pauses are those between the attempts to show a peer the card.
var pauses = []time.Duration{2 * time.Second, 10 * time.Second, time.Minute}

var (
	// ErrNoProtocol says that the peer does not speak the protocol.
	ErrNoProtocol = errors.New("peer does not speak " + string(Protocol))
	// ErrNotConnected says that there is no connection to the peer.
	ErrNotConnected = errors.New("peer is not connected")
	// ErrClosed says that the Exchanger was closed.
	ErrClosed = errors.New("card exchanger is closed")
)

// Config says what an [Exchanger] works on.
type Config struct {
	// Host is the libp2p host. The Exchanger does not own it.
	Host host.Host

	// Own returns the card to show a peer, or why there is none to show: then the
	// exchange fails. It is called in each exchange, for several peers at a time, and
	// must be quick.
	Own func(to peer.ID) (Card, error)

	// Received is told of each card that was received, one call after the
	// other, before it is answered. It must be quick, and call neither
	// [Exchanger.Exchange] nor [Exchanger.Close]. Default: nothing.
	Received func(from peer.ID, c Card)
}

// Exchanger shows the own card to the connected peers that speak the protocol,
// and remembers theirs. It never dials. Its methods may be called concurrently.
type Exchanger struct {
	cfg     Config
	events  event.Subscription
	ctx     context.Context // ends at Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	closing sync.Once
	guests  guests

	receiving chan struct{} // holds a token while a card is noted and Received is told

	mu      sync.Mutex // guards what follows; never held across a call that may wait
	closed  bool
	version int // of the own card
	peers   map[peer.ID]*contact
	queue   []*contact // whom the workers are to deal with, in this order
	workers int
}

// contact is a connected peer.
type contact struct {
	id     peer.ID
	speaks bool         // the protocol
	conn   network.Conn // the latest that was identified
	card   *Card        // the last one received
	shown  int          // version of our card that it has

	at       time.Time // of the next exchange, zero for none
	timer    *time.Timer
	queued   bool
	busy     bool      // a worker deals with it
	began    time.Time // when a worker last did
	failures int       // of the workers in a row
}

// New starts an Exchanger on a host. It runs until [Exchanger.Close].
func New(cfg Config) (*Exchanger, error) {
	if cfg.Host == nil || cfg.Own == nil {
		return nil, errors.New("card: there is no host or no own card")
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
		cfg:    cfg,
		events: events,
		guests: guests{byPeer: make(map[peer.ID]*guest)},

		receiving: make(chan struct{}, 1),

		version: 1,
		peers:   make(map[peer.ID]*contact),
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	x.tasks.Go(x.follow)
	cfg.Host.SetStreamHandler(Protocol, x.handle)

	// Subscribed first, so whoever leaves after this look is announced.
	for _, id := range cfg.Host.Network().Peers() {
		if known, err := cfg.Host.Peerstore().SupportsProtocols(id, Protocol); err == nil && len(known) > 0 {
			x.meet(id, nil)
		}
	}
	return x, nil
}

// Close ends all exchanges. Nothing of the Exchanger runs afterwards.
func (x *Exchanger) Close() error {
	var err error
	x.closing.Do(func() {
		x.mu.Lock()
		x.closed = true
		for id := range x.peers {
			x.forget(id)
		}
		x.mu.Unlock()
		x.cancel()
		x.cfg.Host.RemoveStreamHandler(Protocol)
		err = x.events.Close()
		x.tasks.Wait()
	})
	return err
}

// Cards returns the last card of each peer that is connected now.
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

// Card returns the last card of a peer, if it is connected and showed one.
func (x *Exchanger) Card(id peer.ID) (Card, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.peers[id]; c != nil && c.card != nil {
		return *c.card, true
	}
	return Card{}, false
}

// Tell says that the own card changed. It is shown to the connected peers in
// the background, once for all calls that come together.
func (x *Exchanger) Tell() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.version++
	now := time.Now()
	for _, c := range x.peers {
		c.failures = 0
		x.plan(c, now)
	}
}

// Exchange exchanges cards with a connected peer now, and returns the peer's.
func (x *Exchanger) Exchange(ctx context.Context, id peer.ID) (Card, error) {
	if !x.begin() {
		return Card{}, ErrClosed
	}
	defer x.tasks.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(x.ctx, cancel)()
	c, err := x.exchange(ctx, id)
	if err != nil && x.ctx.Err() != nil {
		return Card{}, ErrClosed
	}
	return c, err
}

// begin counts a task that Close waits for, unless it is too late.
func (x *Exchanger) begin() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false
	}
	x.tasks.Add(1)
	return true
}

// exchange begins an exchange, and ends it.
func (x *Exchanger) exchange(ctx context.Context, id peer.ID) (Card, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := x.ask(ctx, id)
	switch {
	case err == nil:
		return c, nil
	case !x.connected(id):
		err = ErrNotConnected
	case refusedProtocol(err):
		err = ErrNoProtocol
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return Card{}, fmt.Errorf("exchange cards with %s: %w", id, err)
}

func (x *Exchanger) ask(ctx context.Context, id peer.ID) (Card, error) {
	s, err := x.cfg.Host.NewStream(network.WithAllowLimitedConn(network.WithNoDial(ctx, "npp card"), "npp card"), id, Protocol)
	if err != nil {
		return Card{}, err
	}
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	theirs, version, err := x.trade(s, id)
	if err == nil {
		err = x.receive(ctx, id, theirs)
	}
	if err != nil {
		s.Reset()
		return Card{}, err
	}
	s.Close()
	x.showed(id, version)
	return theirs, nil
}

// trade writes our card to a stream that we opened, and reads the peer's.
func (x *Exchanger) trade(s network.Stream, id peer.ID) (theirs Card, version int, err error) {
	frame, version, err := x.own(id)
	if err != nil {
		return Card{}, 0, err
	}
	_, writeErr := s.Write(frame)
	// where that fails, what is read tells why
	theirs, err = read(s)
	if err == nil {
		err = writeErr
	}
	return theirs, version, err
}

// own returns the own card as a frame, and its version: an earlier one when in
// doubt.
func (x *Exchanger) own(to peer.ID) (frame []byte, version int, err error) {
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

// refusedProtocol reports whether the peer refused the protocol, maybe on a
// stream that was written to before it agreed, because it spoke it lately.
func refusedProtocol(err error) bool {
	if errors.As(err, new(multistream.ErrNotSupported[protocol.ID])) {
		return true
	}
	reset, ok := errors.AsType[*network.StreamError](err)
	return ok && reset.Remote && reset.ErrorCode == network.StreamProtocolNegotiationFailed
}

// handle serves a stream that a peer opened.
func (x *Exchanger) handle(s network.Stream) {
	p := s.Conn().RemotePeer()
	if !x.begin() {
		s.Reset()
		return
	}
	defer x.tasks.Done()
	g := x.guests.enter(p)
	if g == nil {
		log.Debugw("too many card streams", "peer", p)
		s.Reset()
		return
	}
	defer x.guests.leave(g)
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	if err := x.serve(ctx, s, p); err != nil {
		log.Debugw("card exchange that was begun by", "peer", p, "err", err)
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
	frame, version, err := x.own(p)
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
		return fmt.Errorf("%w: more follows it", ErrInvalid)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("wait for the end: %w", err)
	}
	x.showed(p, version)
	return nil
}

// receive notes the card of a peer, and tells of it.
func (x *Exchanger) receive(ctx context.Context, from peer.ID, theirs Card) error {
	select {
	case x.receiving <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-x.receiving }()
	x.mu.Lock()
	if c := x.contact(from); c != nil {
		c.card = &theirs
	}
	x.mu.Unlock()
	log.Debugw("card", "peer", from, "username", theirs.Username, "user", theirs.User, "follows", theirs.Follows)
	x.cfg.Received(from, theirs)
	return nil
}

// showed notes which version of our card a peer got. If there is a later one, it
// is shown again: that may have got there before this one.
func (x *Exchanger) showed(to peer.ID, version int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.contact(to); c != nil {
		c.shown, c.failures = version, 0
		x.plan(c, time.Now())
	}
}

// follow takes the host's events, as fast as they come, until Close.
func (x *Exchanger) follow() {
	for e := range x.events.Out() {
		switch e := e.(type) {
		case event.EvtPeerIdentificationCompleted: // or updated
			if slices.Contains(e.Protocols, Protocol) {
				x.meet(e.Peer, e.Conn)
			} else {
				x.mute(e.Peer)
			}
		case event.EvtPeerProtocolsUpdated:
			switch {
			case slices.Contains(e.Added, Protocol):
				x.meet(e.Peer, nil)
			case slices.Contains(e.Removed, Protocol):
				x.mute(e.Peer)
			}
		case event.EvtPeerConnectednessChanged:
			if e.Connectedness == network.NotConnected {
				x.mu.Lock()
				x.forget(e.Peer)
				x.mu.Unlock()
			}
		}
	}
}

// meet notes that a peer speaks the protocol, as it said on a connection or,
// for nil, on any.
func (x *Exchanger) meet(id peer.ID, conn network.Conn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	c := x.contact(id)
	if c == nil || c.speaks && (conn == nil || conn == c.conn) {
		return
	}
	c.speaks, c.failures = true, 0
	if conn != nil {
		c.conn = conn
	}
	at := time.Now()
	if x.cfg.Host.ID() > id {
		at = at.Add(grace)
	}
	x.plan(c, at)
}

// mute notes that a peer does not speak the protocol, or no more.
func (x *Exchanger) mute(id peer.ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.peers[id]; c != nil {
		c.speaks, c.shown = false, 0
	}
}

func (x *Exchanger) connected(id peer.ID) bool {
	return x.cfg.Host.Network().Connectedness(id) != network.NotConnected
}

// contact returns a connected peer, which is remembered from now on, or nil. The
// caller holds x.mu.
func (x *Exchanger) contact(id peer.ID) *contact {
	c := x.peers[id]
	if c == nil && !x.closed && len(x.peers) < maxPeers && x.connected(id) {
		c = &contact{id: id}
		c.timer = time.AfterFunc(time.Hour, func() { x.due(c) })
		c.timer.Stop()
		x.peers[id] = c
	}
	return c
}

// forget drops a peer. The caller holds x.mu.
func (x *Exchanger) forget(id peer.ID) {
	c := x.peers[id]
	if c == nil {
		return
	}
	delete(x.peers, id)
	c.speaks, c.at = false, time.Time{}
	c.timer.Stop()
	if c.queued {
		x.queue = slices.DeleteFunc(x.queue, func(q *contact) bool { return q == c })
	}
}

// owes reports whether there is a reason to begin an exchange with a peer. The
// caller holds x.mu.
func (x *Exchanger) owes(c *contact) bool {
	return c.speaks && c.shown != x.version
}

// plan has a worker deal with a peer at a time, or earlier if that was planned,
// if there is a reason to then. The caller holds x.mu.
func (x *Exchanger) plan(c *contact, at time.Time) {
	if next := c.began.Add(gap); at.Before(next) {
		at = next
	}
	if c.busy || c.queued || !x.owes(c) || !c.at.IsZero() && !at.Before(c.at) {
		return
	}
	c.at = at
	c.timer.Reset(time.Until(at))
}

// due hands a peer to the workers, once its time has come.
func (x *Exchanger) due(c *contact) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.at.IsZero() {
		return
	}
	if rest := time.Until(c.at); rest > 0 {
		c.timer.Reset(rest)
		return
	}
	c.at, c.queued = time.Time{}, true
	x.queue = append(x.queue, c)
	if x.workers < maxWorkers {
		x.workers++
		x.tasks.Go(x.work)
	}
}

// work begins exchanges until there are no more to begin.
func (x *Exchanger) work() {
	for {
		c := x.next()
		if c == nil {
			return
		}
		_, err := x.exchange(x.ctx, c.id)
		if err != nil {
			log.Debugw("card exchange", "peer", c.id, "err", err)
		}
		x.settle(c, err)
	}
}

// next returns a peer to begin an exchange with, or nil: the worker is to end.
func (x *Exchanger) next() *contact {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.queue) > 0 {
		c := x.queue[0]
		x.queue = x.queue[1:]
		c.queued = false
		if x.owes(c) {
			c.busy, c.began = true, time.Now()
			return c
		}
	}
	x.workers--
	return nil
}

// settle plans what follows an exchange that a worker began.
func (x *Exchanger) settle(c *contact, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	c.busy = false
	now := time.Now()
	switch {
	case err == nil:
		x.plan(c, now)
	case c.failures < len(pauses):
		x.plan(c, now.Add(pauses[c.failures]))
		c.failures++
	}
}
