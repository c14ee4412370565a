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
	// widenAfter is how many receipts in a row it takes to try one stream more
	// to a recipient that did not take as many.
	widenAfter = 64
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
	ErrNoRoom      = errors.New("full") // with ErrRefused: it may be sent again later
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

	met bool // the first receipt on a stream came, whatever it says
}

// Send sends a letter and returns once its fate is known, or when ctx is done.
// The outcome is filled in as far as it is known, also beside an error. A
// recipient that takes no more messages for now is tried again, for a minute at
// the most.
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
	err := s.sendDirect(ctx, l, &out)
	if out.met {
		if err := s.box.noteSpoke(ctx, l.To.ID); err != nil {
			log.Warnw("that a peer speaks our protocol could not be noted", "peer", l.To.ID, "err", err)
		}
	}
	// a daemon that stops refuses the protocol before it is gone
	if !errors.Is(err, ErrNoProtocol) || l.Private || s.speaks(l.To.ID) {
		return out, err
	}
	if spoke, noted := s.box.spoke(ctx, l.To.ID); spoke || noted != nil {
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

// speaks tells whether the peer says that it speaks our protocol.
func (s *Service) speaks(p peer.ID) bool {
	known, err := s.host.Peerstore().SupportsProtocols(p, Protocol)
	return err == nil && len(known) > 0
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
	// and slowed is the last refusal of what came too fast
	var lost, slowed error
	giveUp := func(err error) error {
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
	for tries := 0; tries < exchanges; {
		ln, err := s.lanes.take(ctx, l.To.ID, func(ctx context.Context) error {
			var err error
			out.Route, err = s.swarm.Connect(ctx, l.To)
			return err
		})
		switch {
		case errors.Is(err, errOpenStream):
			tries++
			if tries == exchanges || pause(ctx, s.times.retry) != nil {
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
		first := !ln.worked
		receipt, err := ln.exchange(ctx, msg, s.times.exchange)
		out.Took = time.Since(start)
		s.lanes.give(ln)
		switch {
		case refusedProtocol(err):
			return giveUp(ErrNoProtocol)
		case err != nil:
			lost = err
			tries++
			if pause(ctx, s.times.retry) != nil {
				return giveUp(err)
			}
			continue
		}
		out.met = out.met || first
		switch receipt.GetStatus() {
		case pb.Receipt_STORED:
			out.Status = Delivered
			return nil
		case pb.Receipt_TOO_FAST:
			wait := max(time.Duration(receipt.GetRetryAfter()), time.Millisecond)
			slowed = fmt.Errorf("%w: %.200q", ErrTooFast, receipt.GetReason())
			if wait > s.times.pacing-paced || pause(ctx, wait) != nil {
				return giveUp(slowed)
			}
			paced += wait
		case pb.Receipt_FULL:
			return fmt.Errorf("%w: %w: %.200q", ErrRefused, ErrNoRoom, receipt.GetReason())
		case pb.Receipt_TOO_LARGE:
			return fmt.Errorf("%w for the recipient: %d bytes, its limit is %d", ErrTooLarge, len(l.Data), receipt.GetLimit())
		case pb.Receipt_INVALID:
			return fmt.Errorf("%w: %.200q", ErrRefused, receipt.GetReason())
		default:
			return giveUp(fmt.Errorf("%w: %.200q", ErrRefused, receipt.GetReason()))
		}
	}
	return giveUp(lost)
}

// pause waits, unless ctx is done or will be before that.
func pause(ctx context.Context, d time.Duration) error {
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
	worked bool // it carried a receipt
	state  laneState
	idle   *time.Timer // closes the stream when nobody takes it
}

// refusedProtocol tells whether the recipient refused the protocol on a stream
// that was written to before it agreed, because it spoke the protocol lately.
func refusedProtocol(err error) bool {
	if errors.As(err, new(multistream.ErrNotSupported[protocol.ID])) {
		return true
	}
	reset, ok := errors.AsType[*network.StreamError](err)
	return ok && reset.Remote && reset.ErrorCode == network.StreamProtocolNegotiationFailed
}

func newLane(p peer.ID, st network.Stream) *lane {
	return &lane{peer: p, stream: st, in: msgio.NewVarintReaderSize(st, maxReceipt)}
}

// laneState says what a lane is good for after an exchange.
type laneState int

const (
	laneGood   laneState = iota
	laneSpent            // for nothing, which says nothing of other lanes
	laneBroken           // for nothing: the recipient, or what is between, broke it
)

// exchange sends a message and waits for its receipt.
func (l *lane) exchange(ctx context.Context, m *pb.Message, patience time.Duration) (*pb.Receipt, error) {
	stop := context.AfterFunc(ctx, func() { l.stream.Reset() })
	end := time.Now().Add(patience)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	r, err := l.ask(m, end)
	switch {
	case !stop():
		l.state, err = laneSpent, ctx.Err()
	case err != nil:
		l.state = laneBroken
	case r.GetId() != m.GetId(): // a refusal of what was not read
		l.state = laneSpent
	}
	if r != nil {
		l.worked = true
		return r, nil
	}
	return nil, err
}

func (l *lane) ask(m *pb.Message, end time.Time) (*pb.Receipt, error) {
	if err := l.stream.SetDeadline(end); err != nil {
		return nil, err
	}
	// where this fails, the recipient may have stopped reading: its receipt says why
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

// outbox holds the lanes to all recipients.
type outbox struct {
	host host.Host
	idle time.Duration // how long an unused lane is kept

	mu     sync.Mutex
	closed bool
	peers  map[peer.ID]*recipient
}

// recipient is the part of the outbox for one peer.
type recipient struct {
	turns    chan struct{} // holds a token for each lane in use, and those withheld
	users    int           // those who hold a token or wait for one
	idle     []*lane
	withheld int // tokens that keep the way narrow
	streak   int // receipts since the last lane was withheld or allowed
}

// settle says how many tokens to take back once a lane was used, or could not
// be opened. A recipient may take fewer streams than maxLanes: each that breaks
// before it carried anything is one less, as long as one is left, and
// widenAfter receipts are one more.
func (r *recipient) settle(state laneState, worked bool) int {
	switch {
	case state == laneGood && r.withheld > 0:
		if r.streak++; r.streak < widenAfter {
			return 1
		}
		r.streak = 0
		r.withheld--
		return 2
	case state == laneBroken && !worked && r.withheld < maxLanes-1:
		r.streak = 0
		r.withheld++
		return 0
	}
	return 1
}

func newOutbox(h host.Host, idle time.Duration) *outbox {
	return &outbox{host: h, idle: idle, peers: make(map[peer.ID]*recipient)}
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
		o.mu.Lock()
		defer o.mu.Unlock()
		o.leave(p, r)
		return nil, fmt.Errorf("wait for a stream to %s: %w", p, ctx.Err())
	}
	if ln := o.reuse(r); ln != nil {
		return ln, nil
	}
	ln, err := o.open(ctx, p, connect)
	if err != nil {
		state := laneSpent
		if errors.Is(err, errOpenStream) && ctx.Err() == nil {
			state = laneBroken
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.pass(p, r, state, false)
		return nil, err
	}
	return ln, nil
}

// reuse is an idle lane, or nil.
func (o *outbox) reuse(r *recipient) *lane {
	for {
		o.mu.Lock()
		last := len(r.idle) - 1
		if last < 0 {
			o.mu.Unlock()
			return nil
		}
		ln := r.idle[last]
		r.idle = r.idle[:last]
		alive := ln.idle.Stop()
		o.mu.Unlock()
		if alive && !ln.stream.Conn().IsClosed() {
			return ln
		}
		ln.stream.Reset()
	}
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
	return newLane(p, st), nil
}

// give returns a lane. One that is no good is closed, and if it was before,
// those that wait are thought to have broken together with it.
func (o *outbox) give(ln *lane) {
	var closing []*lane
	o.mu.Lock()
	r := o.peers[ln.peer]
	if ln.state == laneGood && !o.closed {
		r.idle = append(r.idle, ln)
		ln.idle = time.AfterFunc(o.idle, func() { o.expire(ln) })
	} else {
		closing = append(closing, ln)
	}
	if ln.state == laneBroken && ln.worked {
		closing = append(closing, r.idle...)
		r.idle = nil
	}
	o.pass(ln.peer, r, ln.state, ln.worked)
	o.mu.Unlock()
	reset(closing)
}

// pass ends a turn. The caller holds the lock.
func (o *outbox) pass(p peer.ID, r *recipient, state laneState, worked bool) {
	for range r.settle(state, worked) {
		<-r.turns
	}
	o.leave(p, r)
}

// leave counts a user less and drops a recipient that nobody writes to. The
// caller holds the lock.
func (o *outbox) leave(p peer.ID, r *recipient) {
	r.users--
	o.forget(p, r)
}

func (o *outbox) forget(p peer.ID, r *recipient) {
	if r.users == 0 && len(r.idle) == 0 {
		delete(o.peers, p)
	}
}

// expire closes a lane that nobody took.
func (o *outbox) expire(ln *lane) {
	o.mu.Lock()
	r := o.peers[ln.peer]
	if r == nil {
		o.mu.Unlock()
		return
	}
	i := slices.Index(r.idle, ln)
	if i >= 0 {
		r.idle = slices.Delete(r.idle, i, i+1)
		o.forget(ln.peer, r)
	}
	o.mu.Unlock()
	if i >= 0 {
		ln.stream.Close()
	}
}

// close closes the idle lanes; those in use are closed when they are given back.
func (o *outbox) close() {
	var closing []*lane
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

// reset closes lanes, without the lock: it may wait for the connection.
func reset(lanes []*lane) {
	for _, ln := range lanes {
		if ln.idle != nil {
			ln.idle.Stop()
		}
		ln.stream.Reset()
	}
}
