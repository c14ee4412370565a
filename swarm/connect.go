package swarm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	libp2pswarm "github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/internal/wait"
)

const (
	// connectTimeout applies to a Connect whose context has no deadline.
	connectTimeout = time.Minute

	// maxRelays is how many relays Connect tries.
	maxRelays = 8

	// maxTries is how often Connect starts again if the two peers may have
	// dialled each other at the same time. Such a dial fails within
	// crossedSoon; crossedPause is the longest delay before the next try.
	maxTries     = 3
	crossedSoon  = time.Second
	crossedPause = 200 * time.Millisecond

	// maxFound is how many addresses Connect uses of those that routing finds.
	maxFound = 32
)

// Way is how a connection was obtained.
type Way string

// The ways that [Swarm.Connect] tries, in this order.
const (
	WayOpen    Way = "open connection"
	WayGiven   Way = "given address"
	WayKnown   Way = "known address"
	WayRouting Way = "routing"
	WayRelay   Way = "relay"
)

// Route says how a peer was reached.
type Route struct {
	Peer    peer.ID
	Addr    ma.Multiaddr // of the remote end of the connection
	Relayed bool
	Took    time.Duration
	Way     Way
	Tried   []Attempt // earlier attempts, which failed
}

// Attempt is a failed attempt of Connect.
type Attempt struct {
	Way  Way
	Addr ma.Multiaddr // nil if the attempt was not a dial
	Err  error
	Took time.Duration // of the whole stage, whose addresses are dialled together
}

// ConnectError means that Connect could not reach a peer. It wraps the errors
// of all attempts.
type ConnectError struct {
	Peer  peer.ID
	Tried []Attempt
	Cause error // the context's error if it ended before all was tried
}

// Error lists the attempts, one per line.
func (e *ConnectError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "connect to %s: all ways failed", e.Peer)
	if e.Cause != nil {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	for _, a := range e.Tried {
		fmt.Fprintf(&b, "\n  %s", a.Way)
		if a.Addr != nil {
			fmt.Fprintf(&b, " %s", a.Addr)
		}
		fmt.Fprintf(&b, ": %v", a.Err)
	}
	return b.String()
}

// Unwrap returns Cause and the errors of the attempts.
func (e *ConnectError) Unwrap() []error {
	var errs []error
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	for _, a := range e.Tried {
		errs = append(errs, a.Err)
	}
	return errs
}

var (
	errNothingKnown = errors.New("no address of the peer is known")
	errNoRouting    = errors.New("there is no routing system")
	errNothingNew   = errors.New("found no address that was not tried already")
	errWrongPeer    = errors.New("the answer is about another peer")
	errNoRelay      = errors.New("no connected peer is a relay")
)

// Connect makes sure that target is connected, directly or over a relay, and
// returns how. target needs an ID; its addresses are tried in addition to those
// that the host knows. Connect fails when ctx is done, or after a minute if ctx
// has no deadline. The error wraps [ErrSelf] or [ErrClosed], or is a
// [*ConnectError].
func (s *Swarm) Connect(ctx context.Context, target peer.AddrInfo) (Route, error) {
	if err := s.check(target.ID); err != nil {
		return Route{}, fmt.Errorf("connect to %s: %w", target.ID, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancel = context.WithTimeout(ctx, connectTimeout)
		defer cancel()
	}
	start := time.Now()
	for try := 1; ; try++ {
		c := &connecting{
			Swarm:  s,
			id:     target.ID,
			start:  start,
			ways:   make(map[string]Way),
			failed: make(map[string]bool),
		}
		conn, way := c.find(ctx, target.Addrs)
		switch {
		case conn != nil:
			return Route{
				Peer:    c.id,
				Addr:    conn.RemoteMultiaddr(),
				Relayed: relayed(conn),
				Took:    time.Since(start),
				Way:     way,
				Tried:   c.attempts,
			}, nil
		case s.ctx.Err() != nil:
			return Route{}, fmt.Errorf("connect to %s: %w", target.ID, ErrClosed)
		case try == maxTries || !c.crossed() || wait.For(ctx, rand.N(crossedPause)) != nil:
			return Route{}, &ConnectError{Peer: c.id, Tried: c.attempts, Cause: ctx.Err()}
		}
	}
}

// crossed reports whether the two peers may have dialled each other at the same
// time. The handshake fails if both sides believe that they opened the TCP
// connection. A new try after a random delay succeeds.
func (c *connecting) crossed() bool {
	return slices.ContainsFunc(c.attempts, func(a Attempt) bool {
		op, dial := errors.AsType[*net.OpError](a.Err)
		unreachable := dial && op.Op == "dial"
		return a.Addr != nil && !isCircuit(a.Addr) && !unreachable && a.Took < crossedSoon
	})
}

// check returns an error for a peer that can be neither connected nor kept.
func (s *Swarm) check(id peer.ID) error {
	switch {
	case s.ctx.Err() != nil:
		return ErrClosed
	case id == s.cfg.Host.ID():
		return ErrSelf
	default:
		return id.Validate()
	}
}

// connecting is the state of one Connect.
type connecting struct {
	*Swarm
	id       peer.ID
	start    time.Time
	attempts []Attempt
	ways     map[string]Way  // the source of each address, by the bytes of the address
	failed   map[string]bool // addresses among the attempts
}

func (c *connecting) find(ctx context.Context, given []ma.Multiaddr) (network.Conn, Way) {
	if conn := c.conn(c.id); conn != nil {
		return conn, WayOpen
	}
	// An explicit request tries addresses that failed before. Addresses that
	// fail from here on are not dialled again in later stages.
	if net, ok := c.net.(*libp2pswarm.Swarm); ok {
		net.Backoff().Clear(c.id)
	}
	relays := c.relays()
	if conn, way := c.dialAddresses(ctx, given, c.cfg.Routing != nil || len(relays) > 0); conn != nil {
		return conn, way
	}
	if conn, way := c.dialFound(ctx, len(relays) > 0); conn != nil {
		return conn, way
	}
	if conn, way := c.dialRelays(ctx, relays); conn != nil {
		return conn, way
	}
	// The peer may have connected to this host meanwhile.
	return c.conn(c.id), WayOpen
}

// dialAddresses dials the given addresses and those that the host or the record
// of a kept peer contains.
func (c *connecting) dialAddresses(ctx context.Context, given []ma.Multiaddr, more bool) (network.Conn, Way) {
	ctx, cancel := stageContext(ctx, more)
	defer cancel()
	ps := c.cfg.Host.Peerstore()
	ps.AddAddrs(c.id, c.keptAddrs(c.id), peerstore.TempAddrTTL)
	known := ps.Addrs(c.id)
	if len(given)+len(known) == 0 {
		c.fail(WayKnown, nil, errNothingKnown, time.Now())
		return nil, ""
	}
	way := WayKnown
	if len(given) > 0 {
		way = WayGiven
		c.findNamedRelays(ctx, given)
		ps.AddAddrs(c.id, given, peerstore.TempAddrTTL)
	}
	c.note(WayGiven, given)
	c.note(WayKnown, known)
	return c.dial(ctx, way)
}

// findNamedRelays looks up relays that are named without an address, as in
// /p2p/<relay>/p2p-circuit. If it finds none, the dial reports the error.
func (c *connecting) findNamedRelays(ctx context.Context, addrs []ma.Multiaddr) {
	if c.cfg.Routing == nil {
		return
	}
	ps := c.cfg.Host.Peerstore()
	for _, addr := range addrs {
		relay, rest := ma.SplitFirst(addr)
		if relay == nil || relay.Protocol().Code != ma.P_P2P || !isCircuit(rest) {
			continue
		}
		id := peer.ID(relay.RawValue())
		if c.isConnected(id) || len(ps.Addrs(id)) > 0 {
			continue
		}
		if info, err := c.cfg.Routing.FindPeer(ctx, id); err == nil && info.ID == id {
			ps.AddAddrs(id, info.Addrs[:min(len(info.Addrs), maxFound)], peerstore.TempAddrTTL)
		}
	}
}

// dialFound dials the addresses that the routing system finds.
func (c *connecting) dialFound(ctx context.Context, more bool) (network.Conn, Way) {
	start := time.Now()
	if c.cfg.Routing == nil {
		c.fail(WayRouting, nil, errNoRouting, start)
		return nil, ""
	}
	ctx, cancel := stageContext(ctx, more)
	defer cancel()
	lookup, cancel := stageContext(ctx, true)
	defer cancel()
	info, err := c.cfg.Routing.FindPeer(lookup, c.id)
	if err == nil && info.ID != c.id {
		err = errWrongPeer
	}
	found := slices.DeleteFunc(info.Addrs, func(addr ma.Multiaddr) bool {
		_, tried := c.ways[string(addr.Bytes())]
		return tried
	})
	if err == nil && len(found) == 0 {
		err = errNothingNew
	}
	if err != nil {
		c.fail(WayRouting, nil, err, start)
		return nil, ""
	}
	found = found[:min(len(found), maxFound)]
	c.cfg.Host.Peerstore().AddAddrs(c.id, found, peerstore.TempAddrTTL)
	c.note(WayRouting, found)
	return c.dial(ctx, WayRouting)
}

// dialRelays dials the peer through connected relays. A reservation of the peer
// is a guess, so the addresses are removed from the peerstore if none works.
func (c *connecting) dialRelays(ctx context.Context, relays []ma.Multiaddr) (network.Conn, Way) {
	guesses := slices.DeleteFunc(relays, func(addr ma.Multiaddr) bool {
		_, tried := c.ways[string(addr.Bytes())]
		return tried
	})
	if len(guesses) == 0 {
		if len(relays) == 0 {
			c.fail(WayRelay, nil, errNoRelay, time.Now())
		}
		return nil, ""
	}
	ps := c.cfg.Host.Peerstore()
	ps.AddAddrs(c.id, guesses, peerstore.TempAddrTTL)
	c.note(WayRelay, guesses)
	conn, way := c.dial(ctx, WayRelay)
	if conn == nil {
		ps.SetAddrs(c.id, guesses, 0)
	}
	return conn, way
}

// relays returns the addresses of the peer through the relays that are directly
// connected, nearest first.
func (c *connecting) relays() []ma.Multiaddr {
	type relay struct {
		conn    network.Conn
		latency time.Duration
	}
	var relays []relay
	for _, id := range c.net.Peers() {
		if id == c.id || !negotiate.Speaks(c.cfg.Host, id, proto.ProtoIDv2Hop) {
			continue
		}
		if conn := c.Swarm.conn(id); conn != nil && !relayed(conn) {
			latency := c.cfg.Host.Peerstore().LatencyEWMA(id)
			if latency == 0 {
				latency = math.MaxInt64
			}
			relays = append(relays, relay{conn, latency})
		}
	}
	slices.SortFunc(relays, func(a, b relay) int { return cmp.Compare(a.latency, b.latency) })
	addrs := make([]ma.Multiaddr, 0, maxRelays)
	for _, r := range relays[:min(len(relays), maxRelays)] {
		addr, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{
			ID:    r.conn.RemotePeer(),
			Addrs: []ma.Multiaddr{r.conn.RemoteMultiaddr()},
		})
		if err == nil {
			addrs = append(addrs, addr[0].Encapsulate(anyRelay))
		}
	}
	return addrs
}

// dial dials all addresses of the peer that are in the peerstore.
func (c *connecting) dial(ctx context.Context, stage Way) (network.Conn, Way) {
	start := time.Now()
	conn, err := c.net.DialPeer(ctx, c.id)
	if err == nil {
		return conn, c.wayOf(conn, stage)
	}
	dialed, ok := errors.AsType[*libp2pswarm.DialError](err)
	if ok && len(dialed.DialErrors) > 0 {
		for _, e := range dialed.DialErrors {
			way, known := c.ways[string(e.Address.Bytes())]
			if !known { // resolved from a DNS name
				way = stage
			}
			c.fail(way, e.Address, e.Cause, start)
		}
		if dialed.Skipped > 0 {
			c.fail(stage, nil, fmt.Errorf("%d more failed", dialed.Skipped), start)
		}
		return nil, ""
	}
	if ok {
		err = dialed.Cause
	} else if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in %s: %w", time.Since(start).Round(time.Millisecond), err)
	}
	for addr, way := range c.ways {
		c.fail(way, ma.Cast([]byte(addr)), err, start)
	}
	return nil, ""
}

func (c *connecting) wayOf(conn network.Conn, stage Way) Way {
	if conn.Stat().Direction == network.DirInbound {
		return WayOpen
	}
	if way, ok := c.ways[string(conn.RemoteMultiaddr().Bytes())]; ok {
		return way
	}
	return stage
}

// note records the source of addresses that are not recorded yet.
func (c *connecting) note(way Way, addrs []ma.Multiaddr) {
	for _, addr := range addrs {
		key := string(addr.Bytes())
		if _, ok := c.ways[key]; !ok {
			c.ways[key] = way
		}
	}
}

// fail adds a failed attempt. It keeps only the first one for each address.
func (c *connecting) fail(way Way, addr ma.Multiaddr, err error, start time.Time) {
	if addr != nil {
		key := string(addr.Bytes())
		if c.failed[key] {
			return
		}
		c.failed[key] = true
	}
	c.attempts = append(c.attempts, Attempt{Way: way, Addr: addr, Err: err, Took: time.Since(start)})
}

// stageContext returns a context for a stage. It has half of the remaining time
// if further stages may follow.
func stageContext(ctx context.Context, more bool) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || !more {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}
