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
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/swarm"
)

const (
	// maxStreams is how many streams to one recipient are open at a time.
	maxStreams = 8
	// widenAfter is how many consecutive receipts it takes to try one stream
	// more to a recipient that accepted fewer.
	widenAfter = 64
	// maxAttempts is how often a message is sent before its outcome is unknown.
	maxAttempts = 4
	// maxReceipt is the largest size of a receipt.
	maxReceipt = 4 << 10
)

// Status is the outcome of a message in a word.
type Status string

// The values of Status.
const (
	Delivered Status = "delivered" // on the recipient's disk
	Published Status = "published" // sent to the subscribers of a topic, without a receipt
	Unknown   Status = "unknown"   // sent, without a receipt
	Failed    Status = "failed"    // not delivered
)

// Errors of [Service.Send].
var (
	ErrTooLarge    = errors.New("the message is too large")
	ErrTooFast     = errors.New("the recipient accepts no more messages for now")
	ErrRefused     = errors.New("the recipient refused the message")
	ErrNoRoom      = errors.New("full") // with ErrRefused: the message may be sent again later
	ErrUnknownFate = errors.New("no receipt arrived")
	ErrNoProtocol  = errors.New("the recipient does not speak " + string(Protocol))
	ErrSelf        = errors.New("the recipient is this peer itself")
)

// errOpenStream means that the peer is connected, or was until now.
var errOpenStream = errors.New("open a stream")

// Outgoing is a message to be sent.
type Outgoing struct {
	To         peer.AddrInfo // addresses are optional
	ID         string        // empty: a fresh one
	Data       []byte
	DirectOnly bool // never publish it
}

// Outcome is the outcome of an outgoing message.
type Outcome struct {
	ID     string
	To     peer.ID
	Status Status
	Via    Via
	Took   time.Duration // from the first byte sent to the receipt, without connecting
	Route  swarm.Route   // how the recipient was reached
	// Published only: the peers that are subscribed to the topic, and whether
	// the recipient is one of them.
	Subscribers         []peer.ID
	RecipientSubscribed bool

	answered bool // the recipient sent a receipt on a new stream, with any status
}

// Send sends a message and returns when its outcome is known or ctx is done.
// The outcome contains what is known, also if the error is not nil. If the
// recipient asks for a slower rate, Send waits and tries again for up to a
// minute.
func (s *Service) Send(ctx context.Context, l Outgoing) (Outcome, error) {
	if l.ID == "" {
		l.ID = NewID()
	}
	out := Outcome{ID: l.ID, To: l.To.ID, Status: Failed}
	end, ok := s.tasks.Begin()
	if !ok {
		return out, ErrClosed
	}
	defer end()
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
	err := s.sendDirect(ctx, l, &out)
	if out.answered {
		if err := s.box.recordProtocol(ctx, l.To.ID); err != nil {
			log.Warnw("that a peer speaks our protocol could not be noted", "peer", l.To.ID, "err", err)
		}
	}
	// A daemon that shuts down refuses the protocol shortly before it
	// disconnects.
	if !errors.Is(err, ErrNoProtocol) || l.DirectOnly || negotiate.Speaks(s.host, l.To.ID, Protocol) {
		return out, err
	}
	if spoke, noted := s.box.spokeProtocol(ctx, l.To.ID); spoke || noted != nil {
		return out, errors.Join(err, noted)
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

// sendDirect sends a message by stream. It sends it again under the same ID if
// the receipt is lost.
func (s *Service) sendDirect(ctx context.Context, l Outgoing, out *Outcome) error {
	out.Via = Direct
	msg := &pb.Message{
		Id:   l.ID,
		From: []byte(s.host.ID()),
		To:   []byte(l.To.ID),
		Sent: s.now().UnixNano(),
		Data: l.Data,
	}
	// lost is why the last receipt did not arrive; nil if nothing was sent.
	// slowed is the last refusal because of the rate.
	var lost, slowed error
	undelivered := func(err error) error {
		switch {
		case lost == nil && slowed != nil && ctx.Err() != nil:
			return slowed
		case lost == nil:
			return err
		}
		out.Status = Unknown
		return fmt.Errorf("%w: %w", ErrUnknownFate, lost)
	}
	var paced time.Duration
	for tries := 0; tries < maxAttempts; {
		ss, err := s.streams.take(ctx, l.To.ID, func(ctx context.Context) error {
			var err error
			out.Route, err = s.swarm.Connect(ctx, l.To)
			return err
		})
		switch {
		case errors.Is(err, errOpenStream):
			tries++
			if tries == maxAttempts || wait.Within(ctx, s.times.retry) != nil {
				return undelivered(err)
			}
			continue
		case err != nil:
			return undelivered(err)
		}
		if out.Route.Addr == nil {
			conn := ss.stream.Conn()
			out.Route = swarm.Route{Peer: l.To.ID, Addr: conn.RemoteMultiaddr(), Relayed: conn.Stat().Limited}
		}
		start := time.Now()
		first := !ss.answered
		receipt, err := ss.exchange(ctx, msg, s.times.exchange)
		out.Took = time.Since(start)
		s.streams.give(ss)
		switch {
		case negotiate.Refused(err):
			return undelivered(ErrNoProtocol)
		case err != nil:
			lost = err
			tries++
			if wait.Within(ctx, s.times.retry) != nil {
				return undelivered(err)
			}
			continue
		}
		out.answered = out.answered || first
		switch receipt.GetStatus() {
		case pb.Receipt_STORED:
			out.Status = Delivered
			return nil
		case pb.Receipt_TOO_FAST:
			delay := max(time.Duration(receipt.GetRetryAfter()), time.Millisecond)
			slowed = fmt.Errorf("%w: %.200q", ErrTooFast, receipt.GetReason())
			if delay > s.times.pacing-paced || wait.Within(ctx, delay) != nil {
				return undelivered(slowed)
			}
			paced += delay
		case pb.Receipt_FULL:
			return fmt.Errorf("%w: %w: %.200q", ErrRefused, ErrNoRoom, receipt.GetReason())
		case pb.Receipt_TOO_LARGE:
			return fmt.Errorf("%w for the recipient: %d bytes, its limit is %d", ErrTooLarge, len(l.Data), receipt.GetLimit())
		case pb.Receipt_INVALID:
			return fmt.Errorf("%w: %.200q", ErrRefused, receipt.GetReason())
		default:
			return undelivered(fmt.Errorf("%w: %.200q", ErrRefused, receipt.GetReason()))
		}
	}
	return undelivered(lost)
}

// sendStream is a stream to a recipient. It carries one message at a time.
type sendStream struct {
	peer     peer.ID
	stream   network.Stream
	in       msgio.ReadCloser
	answered bool // a receipt arrived on it
	state    streamState
	idle     *time.Timer // closes the stream after a while without use
}

func newSendStream(p peer.ID, st network.Stream) *sendStream {
	return &sendStream{peer: p, stream: st, in: msgio.NewVarintReaderSize(st, maxReceipt)}
}

// streamState is the state of a stream after an exchange.
type streamState int

const (
	streamUsable streamState = iota
	streamSpent              // not usable; the other streams are not affected
	streamBroken             // not usable; the recipient or the network broke it
)

// exchange sends a message and waits for its receipt.
func (l *sendStream) exchange(ctx context.Context, m *pb.Message, patience time.Duration) (*pb.Receipt, error) {
	stop := context.AfterFunc(ctx, func() { l.stream.Reset() })
	end := time.Now().Add(patience)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	r, err := l.ask(m, end)
	switch {
	case !stop():
		l.state, err = streamSpent, ctx.Err()
	case err != nil:
		l.state = streamBroken
	case r.GetId() != m.GetId(): // a refusal of a message that was not read
		l.state = streamSpent
	}
	if r != nil {
		l.answered = true
		return r, nil
	}
	return nil, err
}

func (l *sendStream) ask(m *pb.Message, end time.Time) (*pb.Receipt, error) {
	if err := l.stream.SetDeadline(end); err != nil {
		return nil, err
	}
	// If this fails, the recipient may have stopped reading, and its receipt
	// states the reason.
	_ = writeFrame(l.stream, m)
	frame, err := l.in.ReadMsg()
	if err != nil {
		return nil, err
	}
	defer l.in.ReleaseMsg(frame)
	var r pb.Receipt
	if err := proto.Unmarshal(frame, &r); err != nil {
		return nil, fmt.Errorf("decode receipt: %w", err)
	}
	if r.GetId() != m.GetId() && (r.GetId() != "" || r.GetStatus() == pb.Receipt_STORED) {
		return nil, fmt.Errorf("the receipt is for another message: %.80q", r.GetId())
	}
	return &r, nil
}

// streamPool holds the streams to all recipients.
type streamPool struct {
	host host.Host
	idle time.Duration // how long an unused stream stays open

	mu     sync.Mutex
	closed bool
	peers  map[peer.ID]*recipient
}

// recipient holds the streams to one peer.
type recipient struct {
	slots    chan struct{} // a token for each stream in use, and for each one withheld
	users    int           // holders of a token, and those that wait for one
	idle     []*sendStream
	withheld int // tokens taken out of use because the recipient accepts fewer streams
	streak   int // consecutive receipts since withheld last changed
}

// settle returns how many tokens to take back after a stream was used or could
// not be opened. Each stream that breaks before it carried a receipt withholds
// one token, but the last one stays; widenAfter consecutive receipts return
// one.
func (r *recipient) settle(state streamState, worked bool) int {
	switch {
	case state == streamUsable && r.withheld > 0:
		if r.streak++; r.streak < widenAfter {
			return 1
		}
		r.streak = 0
		r.withheld--
		return 2
	case state == streamBroken && !worked && r.withheld < maxStreams-1:
		r.streak = 0
		r.withheld++
		return 0
	}
	return 1
}

func newStreamPool(h host.Host, idle time.Duration) *streamPool {
	return &streamPool{host: h, idle: idle, peers: make(map[peer.ID]*recipient)}
}

// take waits for a token and returns a stream to p: an open one if there is
// any, or a new one after connect has made sure that p is connected.
func (o *streamPool) take(ctx context.Context, p peer.ID, connect func(context.Context) error) (*sendStream, error) {
	o.mu.Lock()
	r := o.peers[p]
	if r == nil {
		r = &recipient{slots: make(chan struct{}, maxStreams)}
		o.peers[p] = r
	}
	r.users++
	o.mu.Unlock()

	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		o.mu.Lock()
		defer o.mu.Unlock()
		o.leave(p, r)
		return nil, fmt.Errorf("wait for a stream to %s: %w", p, ctx.Err())
	}
	if ss := o.reuse(r); ss != nil {
		return ss, nil
	}
	ss, err := o.open(ctx, p, connect)
	if err != nil {
		state := streamSpent
		if errors.Is(err, errOpenStream) && ctx.Err() == nil {
			state = streamBroken
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.pass(p, r, state, false)
		return nil, err
	}
	return ss, nil
}

// reuse returns an idle stream, or nil.
func (o *streamPool) reuse(r *recipient) *sendStream {
	for {
		o.mu.Lock()
		last := len(r.idle) - 1
		if last < 0 {
			o.mu.Unlock()
			return nil
		}
		ss := r.idle[last]
		r.idle = r.idle[:last]
		alive := ss.idle.Stop()
		o.mu.Unlock()
		if alive && !ss.stream.Conn().IsClosed() {
			return ss
		}
		ss.stream.Reset()
	}
}

func (o *streamPool) open(ctx context.Context, p peer.ID, connect func(context.Context) error) (*sendStream, error) {
	if err := connect(ctx); err != nil {
		return nil, err
	}
	ctx = network.WithAllowLimitedConn(network.WithNoDial(ctx, "npp message"), "npp message")
	st, err := o.host.NewStream(ctx, p, Protocol)
	if negotiate.Refused(err) {
		return nil, ErrNoProtocol
	}
	if err != nil {
		return nil, fmt.Errorf("%w to %s: %w", errOpenStream, p, err)
	}
	return newSendStream(p, st), nil
}

// give returns a stream to the pool. An unusable stream is closed. If it broke
// after it had worked, the idle streams to the same peer are closed as well.
func (o *streamPool) give(ss *sendStream) {
	var closing []*sendStream
	o.mu.Lock()
	r := o.peers[ss.peer]
	if ss.state == streamUsable && !o.closed {
		r.idle = append(r.idle, ss)
		ss.idle = time.AfterFunc(o.idle, func() { o.expire(ss) })
	} else {
		closing = append(closing, ss)
	}
	if ss.state == streamBroken && ss.answered {
		closing = append(closing, r.idle...)
		r.idle = nil
	}
	o.pass(ss.peer, r, ss.state, ss.answered)
	o.mu.Unlock()
	reset(closing)
}

// pass returns a token. The caller holds the lock.
func (o *streamPool) pass(p peer.ID, r *recipient, state streamState, worked bool) {
	for range r.settle(state, worked) {
		<-r.slots
	}
	o.leave(p, r)
}

// leave counts one user less and deletes a recipient that is not in use. The
// caller holds the lock.
func (o *streamPool) leave(p peer.ID, r *recipient) {
	r.users--
	o.forget(p, r)
}

func (o *streamPool) forget(p peer.ID, r *recipient) {
	if r.users == 0 && len(r.idle) == 0 {
		delete(o.peers, p)
	}
}

// expire closes a stream that nobody used.
func (o *streamPool) expire(ss *sendStream) {
	o.mu.Lock()
	r := o.peers[ss.peer]
	if r == nil {
		o.mu.Unlock()
		return
	}
	i := slices.Index(r.idle, ss)
	if i >= 0 {
		r.idle = slices.Delete(r.idle, i, i+1)
		o.forget(ss.peer, r)
	}
	o.mu.Unlock()
	if i >= 0 {
		ss.stream.Close()
	}
}

// close closes the idle streams. Streams in use are closed when they are
// returned.
func (o *streamPool) close() {
	var closing []*sendStream
	o.mu.Lock()
	o.closed = true
	for p, r := range o.peers {
		closing = append(closing, r.idle...)
		r.idle = nil
		o.forget(p, r)
	}
	o.mu.Unlock()
	reset(closing)
}

// reset resets streams. It runs without the lock because Reset may wait for the
// connection.
func reset(streams []*sendStream) {
	for _, ss := range streams {
		if ss.idle != nil {
			ss.idle.Stop()
		}
		ss.stream.Reset()
	}
}
