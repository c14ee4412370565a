package router

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// maxFrame is the largest RPC with its length, in bytes. The bounds of
	// [Limits] are checked after an RPC was queued, so they leave space for
	// one.
	maxFrame = pubsub.DefaultMaxMessageSize + binary.MaxVarintLen32

	drainWithin = time.Second     // for the queue of a reset stream to become empty
	greetWithin = 3 * time.Second // for a peer to open a new stream after a reset
	staleAfter  = time.Minute     // after which a queue without a stream was discarded by pubsub
)

// outbound is the host that pubsub runs on. It bounds the bytes that pubsub has
// queued for peers; pubsub bounds only the number of RPCs, each of up to 1 MiB.
//
// The tracer reports which RPCs enter a queue, and the streams that pubsub
// opens through outbound report which RPCs left it. If a bound is exceeded,
// outbound resets the stream; pubsub then discards the queue and opens another
// stream.
//
// At that moment pubsub also forgets the peer's subscriptions, and the peer
// does not repeat them on its own stream, which is still open. Therefore
// outbound resets that stream, too: the peer opens another one and begins it
// with its subscriptions. The new outbound stream waits for that. Otherwise the
// peer might learn of the reset too late and forget this peer's subscriptions
// after it received them again.
//
// After a few attempts within ten minutes, pubsub opens no further stream as
// long as the peer stays connected. outbound disconnects such a peer.
type outbound struct {
	host.Host
	in     *inbound
	limits Limits
	lost   func(messages int)   // counts messages that were queued and not sent
	serves func(p peer.ID) bool // reports whether pubsub has a queue for a peer
	resets atomic.Uint64        // streams that were reset

	mu     sync.Mutex
	queues map[peer.ID]*sendQueue
	held   map[*pb.Message]*heldMessage
	bytes  int // of all queues; a message in several queues counts once
}

// heldMessage is a message in one or more queues, which share its memory.
type heldMessage struct {
	queues int
	size   int
}

// sendQueue mirrors pubsub's queue for a peer. [outbound.mu] guards it.
type sendQueue struct {
	peer     peer.ID
	created  time.Time
	frames   []frame            // queued or being written
	bytes    int                // of frames
	early    int                // size of an RPC that was written before the tracer reported it
	stream   *outStream         // nil until it is open
	begun    bool               // data was written to the stream
	cancel   context.CancelFunc // cancels the opening of the stream; nil unless one is being opened
	greeted  chan struct{}      // closed when the peer has opened a new stream; nil if none is expected
	unread   bool               // the stream was reset because the peer did not read
	released bool               // pubsub discards the queue, and its frames no longer count
	drained  chan struct{}      // closed when a reset stream has no frames left
}

// frame is an RPC as it is written, with its length.
type frame struct {
	size     int
	messages []*pb.Message
	own      int // size without the messages
}

func newOutbound(h host.Host, in *inbound, limits Limits, lost func(int)) *outbound {
	return &outbound{
		Host:   h,
		in:     in,
		limits: limits,
		lost:   lost,
		queues: make(map[peer.ID]*sendQueue),
		held:   make(map[*pb.Message]*heldMessage),
	}
}

// queued records an RPC that pubsub has put into the queue for a peer. Pubsub's
// event loop calls it, so no other RPC is queued before it returns.
func (o *outbound) queued(rpc *pubsub.RPC, p peer.ID) {
	size := protowire.SizeBytes(proto.Size(&rpc.RPC))
	o.mu.Lock()
	q := o.queue(p)
	switch {
	case q.released:
		o.lost(len(rpc.GetPublish()))
	case q.early == size:
		q.early = 0
	default:
		o.push(q, size, rpc.GetPublish())
	}
	o.mu.Unlock()
	o.enforce(q)
}

// queue returns the queue for a peer, and creates it if needed. The caller
// holds o.mu.
func (o *outbound) queue(p peer.ID) *sendQueue {
	if q := o.queues[p]; q != nil {
		return q
	}
	now := time.Now()
	maps.DeleteFunc(o.queues, func(_ peer.ID, q *sendQueue) bool {
		stale := q.stream == nil && q.cancel == nil && now.Sub(q.created) > staleAfter
		if stale {
			o.release(q)
		}
		return stale
	})
	q := &sendQueue{peer: p, created: now}
	o.queues[p] = q
	return q
}

// push adds an RPC to a queue. The caller holds o.mu.
func (o *outbound) push(q *sendQueue, size int, messages []*pb.Message) {
	f := frame{size: size, messages: messages, own: size}
	for _, m := range messages {
		h := o.held[m]
		if h == nil {
			h = &heldMessage{size: proto.Size(m)}
			o.held[m] = h
			o.bytes += h.size
		}
		h.queues++
		f.own -= h.size
	}
	o.bytes += f.own
	q.frames = append(q.frames, f)
	q.bytes += size
}

// pop removes a frame from a queue. The caller holds o.mu.
func (o *outbound) pop(q *sendQueue, i int) {
	f := q.frames[i]
	if i == 0 {
		q.frames[0] = frame{}
		q.frames = q.frames[1:]
	} else {
		q.frames = append(q.frames[:i], q.frames[i+1:]...)
	}
	q.bytes -= f.size
	o.bytes -= f.own
	for _, m := range f.messages {
		h := o.held[m]
		if h.queues--; h.queues == 0 {
			delete(o.held, m)
			o.bytes -= h.size
		}
	}
	if q.unread {
		o.lost(len(f.messages))
	}
}

// written records that an RPC of the given size has left its queue. Pubsub
// writes urgent RPCs first, so it is not always the oldest. The caller holds
// o.mu.
func (o *outbound) written(q *sendQueue, size int) {
	if q.released {
		return
	}
	i := 0
	for i < len(q.frames) && q.frames[i].size != size {
		i++
	}
	if i == len(q.frames) {
		q.early = size // or the initial RPC with the subscriptions, which is in no queue
		return
	}
	o.pop(q, i)
	if len(q.frames) == 0 && q.drained != nil {
		close(q.drained)
	}
}

// release removes all frames of a queue that pubsub discards. The caller holds
// o.mu.
func (o *outbound) release(q *sendQueue) {
	for len(q.frames) > 0 {
		o.pop(q, 0)
	}
	q.released = true
}

// enforce resets streams until the bounds hold. It waits until the writer of a
// reset stream has emptied the queue; the writer depends neither on the peer
// nor on pubsub's event loop.
func (o *outbound) enforce(q *sendQueue) {
	for {
		o.mu.Lock()
		over := o.over(q)
		if over == nil {
			o.mu.Unlock()
			return
		}
		drained := o.reset(over)
		o.mu.Unlock()
		if drained == nil {
			continue
		}
		late := time.NewTimer(drainWithin)
		select {
		case <-drained:
		case <-late.C: // the transport ignores deadlines
		}
		late.Stop()
		o.mu.Lock()
		o.release(over)
		o.mu.Unlock()
	}
}

// over returns the queue to be discarded, or nil: the queue that grew, if it
// exceeds the bound of a peer, or the largest queue, if all together exceed
// theirs. The caller holds o.mu.
func (o *outbound) over(grown *sendQueue) *sendQueue {
	if !grown.unread && grown.bytes > o.limits.PeerBytes-maxFrame {
		return grown
	}
	if o.bytes <= o.limits.AllBytes-maxFrame {
		return nil
	}
	var largest *sendQueue
	for _, q := range o.queues {
		if !q.unread && q.bytes > 0 && (largest == nil || q.bytes > largest.bytes) {
			largest = q
		}
	}
	return largest
}

// reset resets the stream of a peer that does not read. It returns a channel
// that is closed when the writer has emptied the queue. If there is no stream,
// it disconnects the peer and returns nil; pubsub discards the queue when it
// fails to open a stream. The caller holds o.mu.
func (o *outbound) reset(q *sendQueue) <-chan struct{} {
	o.didNotRead(q)
	if q.stream == nil {
		if q.cancel != nil {
			q.cancel()
		}
		go o.Network().ClosePeer(q.peer)
		return nil
	}
	q.stream.Stream.SetWriteDeadline(time.Unix(1, 0))
	go q.stream.Stream.Reset() // may wait for the connection
	drained := make(chan struct{})
	if len(q.frames) > 0 && q.begun {
		q.drained = drained
	} else { // a writer that has not begun waits for the event loop
		close(drained)
	}
	return drained
}

// didNotRead marks a queue whose stream is reset because the peer does not
// read. The caller holds o.mu.
func (o *outbound) didNotRead(q *sendQueue) {
	q.unread = true
	o.resets.Add(1)
	log.Warnw("pubsub stream reset: the peer does not read", "peer", q.peer, "bytes", q.bytes)
}

// closed records that pubsub has discarded the queue for a peer and forgotten
// its subscriptions. Pubsub's event loop calls it.
func (o *outbound) closed(p peer.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queues[p]
	if q == nil {
		return
	}
	delete(o.queues, p)
	o.release(q)
	if !q.unread || o.Network().Connectedness(p) != network.Connected {
		return
	}
	if in := o.in.stream(p); in != nil {
		o.queue(p).greeted = make(chan struct{})
		go in.Reset()
	}
	go func() {
		if !o.serves(p) && o.Network().Connectedness(p) == network.Connected {
			log.Warnw("peer disconnected: it did not read pubsub again and again", "peer", p)
			o.Network().ClosePeer(p)
		}
	}()
}

// SetStreamHandler implements [host.Host].
func (o *outbound) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	o.Host.SetStreamHandler(id, func(s network.Stream) {
		if !o.in.begin(s) {
			s.Reset()
			return
		}
		defer o.in.end(s)
		o.greeted(s.Conn().RemotePeer())
		handle(s)
	})
}

// subscribed tells a peer of the topics that it subscribed to. Pubsub's event
// loop calls it.
func (o *outbound) subscribed(p peer.ID, subs []*pb.RPC_SubOpts) {
	o.mu.Lock()
	var s *outStream
	if q := o.queues[p]; q != nil {
		s = q.stream
	}
	o.mu.Unlock()
	if s == nil {
		return // the first RPC of the stream will contain them
	}
	for _, sub := range subs {
		if t := o.in.topics.read(sub.GetTopicid()); sub.GetSubscribe() && t.joined {
			s.tell(t.name)
		}
	}
}

// tellAll tells all peers of a topic that pubsub is subscribed to and that has
// become public.
func (o *outbound) tellAll(topic string) {
	var streams []*outStream
	o.mu.Lock()
	for _, q := range o.queues {
		if q.stream != nil {
			streams = append(streams, q.stream)
		}
	}
	o.mu.Unlock()
	for _, s := range streams {
		s.tell(topic)
	}
}

// greeted records that a peer has opened a stream.
func (o *outbound) greeted(p peer.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if q := o.queues[p]; q != nil && q.greeted != nil {
		close(q.greeted)
		q.greeted = nil
	}
}

var errUnread = errors.New("too much is queued for the peer")

// NewStream implements [host.Host].
func (o *outbound) NewStream(ctx context.Context, p peer.ID, protocols ...protocol.ID) (network.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.mu.Lock()
	q := o.queue(p)
	if q.stream != nil || q.released {
		delete(o.queues, p) // pubsub has discarded it
		q = o.queue(p)
	}
	if q.unread {
		o.release(q)
		o.mu.Unlock()
		go o.Network().ClosePeer(p) // the peer may have connected again
		return nil, errUnread
	}
	q.cancel = cancel
	greeted := q.greeted
	o.mu.Unlock()
	if greeted != nil {
		late := time.NewTimer(greetWithin)
		select {
		case <-greeted:
		case <-late.C: // some peers wait for this peer's stream
		case <-ctx.Done():
		}
		late.Stop()
	}
	s, err := o.Host.NewStream(ctx, p, protocols...)
	o.mu.Lock()
	defer o.mu.Unlock()
	q.cancel = nil
	if err == nil && q.unread {
		go s.Reset()
		err = errUnread
	}
	if err != nil {
		o.release(q)
		return nil, err
	}
	q.stream = newOutStream(s, o, q)
	return q.stream, nil
}
