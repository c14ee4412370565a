package router

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"net"
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
	// [Limits] are enforced when an RPC has been queued, so they leave room for one.
	maxFrame = pubsub.DefaultMaxMessageSize + binary.MaxVarintLen32

	drainWithin = time.Second     // the queue of a stream that was reset is empty
	greetWithin = 3 * time.Second // a peer whose stream was reset has opened another
	staleAfter  = time.Minute     // pubsub has discarded a queue for which it opened no stream
)

// outbound is the host that pubsub runs on. It bounds the bytes that pubsub has
// queued for peers: pubsub bounds the number of RPCs alone, each of up to 1 MiB.
//
// outbound learns from the tracer which RPCs enter a queue, and from the streams
// that pubsub opens through it which RPCs left. Where a bound is exceeded, it
// resets the stream, and pubsub discards the queue and opens another stream.
//
// Pubsub also forgets then what the peer is subscribed to, though the peer will
// not say it again on its own, open stream. Therefore that stream is reset, too,
// so that the peer opens another one, which begins with its subscriptions. Our
// next stream waits for that: a peer that learns late of the reset forgets our
// subscriptions, and must do so before it gets them again.
//
// After a few tries within ten minutes, pubsub opens no stream any more as long as
// the peer stays connected. Such a peer is disconnected.
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
	bytes  int // of all queues, with each message once
}

// heldMessage is a message in one queue or several, which share its memory.
type heldMessage struct {
	queues int
	size   int
}

// sendQueue is what is known of pubsub's queue for a peer. [outbound.mu] guards it.
type sendQueue struct {
	peer     peer.ID
	created  time.Time
	frames   []frame            // in the queue or being written
	bytes    int                // of frames
	early    int                // size of an RPC that was written before the tracer told of it
	stream   *outStream         // nil until it is open
	begun    bool               // something was written to the stream
	cancel   context.CancelFunc // ends the opening of the stream; nil where none is opened
	greeted  chan struct{}      // closed when the peer has opened a stream anew; nil where that is not awaited
	unread   bool               // the peer did not read, and the stream was reset
	released bool               // pubsub discards the queue, and nothing of it is counted any more
	drained  chan struct{}      // closed when a stream that was reset has no frames any more
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

// queued takes an RPC that pubsub has put into the queue for a peer. It is called
// from pubsub's event loop, so nothing else is queued before it returns.
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

// queue returns the queue for a peer, a new one if there is none. The caller holds
// o.mu.
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

// written takes that an RPC of a size has left its queue. Pubsub writes urgent RPCs
// first, so it need not be the oldest of the queue. The caller holds o.mu.
func (o *outbound) written(q *sendQueue, size int) {
	if q.released {
		return
	}
	i := 0
	for i < len(q.frames) && q.frames[i].size != size {
		i++
	}
	if i == len(q.frames) {
		q.early = size // or the greeting, which is in no queue
		return
	}
	o.pop(q, i)
	if len(q.frames) == 0 && q.drained != nil {
		close(q.drained)
	}
}

// release ends the count of a queue that pubsub discards. The caller holds o.mu.
func (o *outbound) release(q *sendQueue) {
	for len(q.frames) > 0 {
		o.pop(q, 0)
	}
	q.released = true
}

// enforce resets streams until the bounds hold. It waits until the writer of such a
// stream has emptied the queue, for which it needs neither the peer nor the loop.
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
		case <-late.C: // the transport does not heed deadlines
		}
		late.Stop()
		o.mu.Lock()
		o.release(over)
		o.mu.Unlock()
	}
}

// over returns the queue that is to be discarded, or nil: the one that grew, if it
// is too large, or the largest where all are. The caller holds o.mu.
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

// reset resets the stream of a peer that does not read. It returns a channel that is
// closed when the writer has emptied the queue. Without a stream there is no writer,
// and it returns nil: the peer is disconnected, and pubsub discards the queue when
// opening a stream fails. The caller holds o.mu.
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
	go q.stream.Stream.Reset() // which may wait for the connection
	drained := make(chan struct{})
	if len(q.frames) > 0 && q.begun {
		q.drained = drained
	} else { // before it begins, the writer waits for the loop
		close(drained)
	}
	return drained
}

// didNotRead takes that a stream is reset because its peer does not read. The caller
// holds o.mu.
func (o *outbound) didNotRead(q *sendQueue) {
	q.unread = true
	o.resets.Add(1)
	log.Warnw("pubsub stream reset: the peer does not read", "peer", q.peer, "bytes", q.bytes)
}

// closed takes that pubsub has discarded the queue for a peer and forgotten its
// subscriptions. It is called from pubsub's event loop.
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

// greeted takes that a peer has opened a stream.
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
		delete(o.queues, p) // pubsub has discarded that one
		q = o.queue(p)
	}
	if q.unread {
		o.release(q)
		o.mu.Unlock()
		go o.Network().ClosePeer(p) // it may have connected again
		return nil, errUnread
	}
	q.cancel = cancel
	greeted := q.greeted
	o.mu.Unlock()
	if greeted != nil {
		late := time.NewTimer(greetWithin)
		select {
		case <-greeted:
		case <-late.C: // some wait for our stream
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
	q.stream = &outStream{Stream: s, o: o, q: q}
	return q.stream, nil
}

// outStream is a stream to which pubsub writes RPCs, each with one call. When it was
// reset because the peer does not read, it discards them.
type outStream struct {
	network.Stream
	o *outbound
	q *sendQueue
}

// SetWriteDeadline implements [network.Stream].
func (s *outStream) SetWriteDeadline(t time.Time) error {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	s.q.begun = true
	if s.q.unread {
		return nil
	}
	return s.Stream.SetWriteDeadline(t)
}

// Write implements [network.Stream].
func (s *outStream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	if err != nil && !s.q.unread {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			s.o.didNotRead(s.q)
			s.o.release(s.q)
		}
		return n, err
	}
	s.o.written(s.q, len(b))
	return len(b), nil
}
