package message

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"
	"github.com/multiformats/go-multistream"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/swarm"
)

const (
	// maxLanes is how many streams are open to one recipient at a time.
	maxLanes = 8
	// laneIdle is how long an unused stream is kept: less than the recipient's idleTimeout.
	laneIdle = 20 * time.Second
	// retryPause is the pause before a message whose receipt was lost is sent again.
	retryPause = 100 * time.Millisecond
	// exchanges is how often a message is sent before its fate is given up as unknown.
	exchanges = 4
	// maxReceipt bounds a receipt.
	maxReceipt = 4 << 10
)

// Status is what became of a message.
type Status string

// What may become of a message.
const (
	Delivered Status = "delivered" // on the recipient's disk
	Published Status = "published" // handed to subscribers of a topic, without a receipt
	Unknown   Status = "unknown"   // sent, and no receipt came
	Failed    Status = "failed"    // not delivered
)

// Errors of [Service.Send].
var (
	ErrTooLarge    = errors.New("the message is too large")
	ErrTooFast     = errors.New("the recipient takes no more messages for now")
	ErrRefused     = errors.New("the recipient refused the message")
	ErrUnknownFate = errors.New("no receipt came back")
	ErrNoProtocol  = errors.New("the recipient does not speak " + string(Protocol))
	ErrSelf        = errors.New("the recipient is this peer itself")
)

// errOpenStream tells that there is a connection, or was until now.
var errOpenStream = errors.New("open a stream")

// Letter is a message to be sent.
type Letter struct {
	To      peer.AddrInfo // addresses are optional
	ID      string        // empty: a fresh one
	Data    []byte
	Private bool // never by pubsub
}

// Outcome is what became of a letter.
type Outcome struct {
	ID     string
	To     peer.ID
	Status Status
	Via    Via
	Took   time.Duration // from the first byte sent to the receipt; without connecting
	Route  swarm.Route   // how the recipient was reached
	// Published only: the peers that are subscribed to the topic, and whether
	// the recipient is one of them.
	Subscribers         []peer.ID
	RecipientSubscribed bool
}

// Send sends a letter and returns once its fate is known, or when ctx is done.
// The outcome is filled in as far as it is known, also beside an error.
func (s *Service) Send(ctx context.Context, l Letter) (Outcome, error) {
	if l.ID == "" {
		l.ID = NewID()
	}
	out := Outcome{ID: l.ID, To: l.To.ID, Status: Failed}
	if !s.begin() {
		return out, ErrClosed
	}
	defer s.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	switch err := checkID(l.ID); {
	case err != nil:
		return out, err
	case len(l.Data) == 0:
		return out, ErrEmpty
	case uint64(len(l.Data)) > s.limits.MaxMessageBytes:
		return out, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(l.Data), s.limits.MaxMessageBytes)
	case l.To.ID == s.host.ID():
		return out, ErrSelf
	}
	spoke, err := s.box.spoke(ctx, l.To.ID)
	if err != nil {
		return out, err
	}
	err = s.sendDirect(ctx, l, &out)
	if !errors.Is(err, ErrNoProtocol) {
		if out.Status == Delivered && !spoke {
			if err := s.box.noteSpoke(ctx, l.To.ID); err != nil {
				log.Warnw("that a peer speaks our protocol could not be noted", "peer", l.To.ID, "err", err)
			}
		}
		return out, err
	}
	if spoke || l.Private {
		return out, err
	}
	topic := l.To.ID.String()
	out.Via = Pubsub
	out.Subscribers, err = s.Publish(ctx, topic, l.Data)
	if err != nil {
		return out, fmt.Errorf("%w, and by pubsub: %w", ErrNoProtocol, err)
	}
	out.Status = Published
	out.RecipientSubscribed = slices.Contains(out.Subscribers, l.To.ID)
	return out, nil
}

// sendDirect sends a letter by stream, again and again under the same ID where
// the receipt is lost.
func (s *Service) sendDirect(ctx context.Context, l Letter, out *Outcome) error {
	out.Via = Direct
	msg := &pb.Message{
		Id:   l.ID,
		From: []byte(s.host.ID()),
		To:   []byte(l.To.ID),
		Sent: s.now().UnixNano(),
		Data: l.Data,
	}
	// lost is why the last receipt did not come, nil while nothing was sent
	var lost error
	giveUp := func(err error) error {
		if lost == nil {
			return err
		}
		out.Status = Unknown
		return fmt.Errorf("%w: %w", ErrUnknownFate, lost)
	}
	for tries := 0; tries < exchanges; {
		ln, err := s.lanes.take(ctx, l.To.ID, func(ctx context.Context) error {
			route, err := s.swarm.Connect(ctx, l.To)
			out.Route = route
			return err
		})
		switch {
		case errors.Is(err, errOpenStream):
			tries++
			if tries == exchanges || pause(ctx, retryPause) != nil {
				return giveUp(err)
			}
			continue
		case err != nil:
			return giveUp(err)
		}
		if out.Route.Addr == nil {
			conn := ln.stream.Conn()
			out.Route = swarm.Route{Peer: l.To.ID, Addr: conn.RemoteMultiaddr(), Relayed: conn.Stat().Limited}
		}
		start := time.Now()
		receipt, err := ln.exchange(ctx, msg)
		out.Took = time.Since(start)
		s.lanes.give(ln, err == nil)
		switch {
		case errors.As(err, new(multistream.ErrNotSupported[protocol.ID])):
			return giveUp(ErrNoProtocol)
		case err != nil:
			lost = err
			tries++
			if pause(ctx, retryPause) != nil {
				return giveUp(err)
			}
			continue
		}
		switch receipt.GetStatus() {
		case pb.Receipt_STORED:
			out.Status = Delivered
			return nil
		case pb.Receipt_TOO_FAST:
			if pause(ctx, time.Duration(receipt.GetRetryAfter())) != nil {
				return fmt.Errorf("%w: %.200q", ErrTooFast, receipt.GetReason())
			}
		case pb.Receipt_FULL:
			return fmt.Errorf("%w: full: %.200q", ErrRefused, receipt.GetReason())
		case pb.Receipt_TOO_LARGE:
			return fmt.Errorf("%w for the recipient: %d bytes, its limit is %d", ErrTooLarge, len(l.Data), receipt.GetLimit())
		default:
			return fmt.Errorf("%w: %.200q", ErrRefused, receipt.GetReason())
		}
	}
	return giveUp(lost)
}

// pause waits, unless ctx is done or will be before that.
func pause(ctx context.Context, d time.Duration) error {
	d = max(d, time.Millisecond)
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return context.DeadlineExceeded
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lane is a stream to a recipient, for one message at a time.
type lane struct {
	peer   peer.ID
	stream network.Stream
	in     msgio.ReadCloser
	idle   *time.Timer // closes the stream when nobody takes it
}

// exchange sends a message and waits for its receipt.
func (l *lane) exchange(ctx context.Context, m *pb.Message) (*pb.Receipt, error) {
	defer context.AfterFunc(ctx, func() { l.stream.Reset() })()
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(frameTimeout)
	}
	if err := l.stream.SetDeadline(end); err != nil {
		return nil, err
	}
	// a recipient that refuses may stop reading: its receipt says why
	writeErr := writeFrame(l.stream, m)
	frame, err := l.in.ReadMsg()
	if err != nil {
		return nil, errors.Join(ctx.Err(), writeErr, err)
	}
	defer l.in.ReleaseMsg(frame)
	var r pb.Receipt
	if err := proto.Unmarshal(frame, &r); err != nil {
		return nil, fmt.Errorf("decode receipt: %w", err)
	}
	if r.GetId() != m.GetId() && r.GetStatus() == pb.Receipt_STORED {
		return nil, fmt.Errorf("the receipt is for another message: %.80q", r.GetId())
	}
	return &r, nil
}

// outbox holds the lanes to all recipients.
type outbox struct {
	host host.Host

	mu     sync.Mutex
	closed bool
	peers  map[peer.ID]*recipient
}

// recipient is the part of the outbox for one peer.
type recipient struct {
	turns chan struct{} // holds a token for each lane in use
	users int           // those who hold a token or wait for one
	idle  []*lane
}

func newOutbox(h host.Host) *outbox {
	return &outbox{host: h, peers: make(map[peer.ID]*recipient)}
}

// take waits for its turn and returns a lane to p: one that is open already,
// or a new one, after connect has seen to the connection.
func (o *outbox) take(ctx context.Context, p peer.ID, connect func(context.Context) error) (*lane, error) {
	o.mu.Lock()
	r := o.peers[p]
	if r == nil {
		r = &recipient{turns: make(chan struct{}, maxLanes)}
		o.peers[p] = r
	}
	r.users++
	o.mu.Unlock()

	select {
	case r.turns <- struct{}{}:
	case <-ctx.Done():
		o.leave(p, r)
		return nil, fmt.Errorf("wait for a stream to %s: %w", p, ctx.Err())
	}
	o.mu.Lock()
	for len(r.idle) > 0 {
		last := len(r.idle) - 1
		ln := r.idle[last]
		r.idle = r.idle[:last]
		if ln.idle.Stop() && !ln.stream.Conn().IsClosed() {
			o.mu.Unlock()
			return ln, nil
		}
		ln.stream.Reset()
	}
	o.mu.Unlock()

	ln, err := o.open(ctx, p, connect)
	if err != nil {
		<-r.turns
		o.leave(p, r)
		return nil, err
	}
	return ln, nil
}

func (o *outbox) open(ctx context.Context, p peer.ID, connect func(context.Context) error) (*lane, error) {
	if err := connect(ctx); err != nil {
		return nil, err
	}
	ctx = network.WithAllowLimitedConn(network.WithNoDial(ctx, "npp message"), "npp message")
	st, err := o.host.NewStream(ctx, p, Protocol)
	if errors.As(err, new(multistream.ErrNotSupported[protocol.ID])) {
		return nil, ErrNoProtocol
	}
	if err != nil {
		return nil, fmt.Errorf("%w to %s: %w", errOpenStream, p, err)
	}
	return &lane{peer: p, stream: st, in: msgio.NewVarintReaderSize(st, maxReceipt)}, nil
}

// give returns a lane. One that is no good is closed.
func (o *outbox) give(ln *lane, good bool) {
	o.mu.Lock()
	r := o.peers[ln.peer]
	if good && !o.closed {
		r.idle = append(r.idle, ln)
		ln.idle = time.AfterFunc(laneIdle, func() { o.expire(ln) })
	} else {
		ln.stream.Reset()
	}
	o.mu.Unlock()
	<-r.turns
	o.leave(ln.peer, r)
}

// expire closes a lane that nobody took.
func (o *outbox) expire(ln *lane) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.peers[ln.peer]
	if r == nil {
		return
	}
	i := slices.Index(r.idle, ln)
	if i < 0 {
		return
	}
	r.idle = slices.Delete(r.idle, i, i+1)
	ln.stream.Close()
	o.forget(ln.peer, r)
}

func (o *outbox) leave(p peer.ID, r *recipient) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.users--
	o.forget(p, r)
}

// forget drops a recipient that nobody writes to.
func (o *outbox) forget(p peer.ID, r *recipient) {
	if r.users == 0 && len(r.idle) == 0 {
		delete(o.peers, p)
	}
}

// close closes the idle lanes; those in use are closed when they are given back.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for p, r := range o.peers {
		for _, ln := range r.idle {
			ln.idle.Stop()
			ln.stream.Close()
		}
		r.idle = nil
		o.forget(p, r)
	}
}
