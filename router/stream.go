package router

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// maxAnnouncement bounds an RPC with subscriptions, in bytes without its
	// length. Peers with default settings accept it: those with
	// go-libp2p-pubsub accept 512 KiB, and those with rust-libp2p 64 KiB.
	maxAnnouncement = 60 << 10

	// writeWithin is the time for an RPC to be written, as in pubsub.
	writeWithin = 30 * time.Second
)

// outStream is a stream to which pubsub writes each RPC with one call. After a
// reset because the peer does not read, it discards them.
//
// It writes only those subscriptions that the peer may know, and spreads them
// over RPCs of at most maxAnnouncement. It tells the peer of further ones as
// soon as the peer may know them.
type outStream struct {
	network.Stream
	o *outbound
	q *sendQueue

	writing sync.Mutex // held while RPCs are written
	begun   bool       // pubsub has written its first RPC, which contains its extensions; guarded by writing

	mu      sync.Mutex
	told    map[string]bool // topics that the peer knows this peer to be subscribed to
	pending map[string]bool // topics that it is to be told of
	telling bool            // a goroutine will do so
}

func newOutStream(s network.Stream, o *outbound, q *sendQueue) *outStream {
	return &outStream{Stream: s, o: o, q: q, told: make(map[string]bool), pending: make(map[string]bool)}
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
func (s *outStream) Write(rpc []byte) (int, error) {
	err := s.writeRPC(rpc)
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	if err := s.failed(err); err != nil {
		return 0, err
	}
	s.o.written(s.q, len(rpc))
	return len(rpc), nil
}

func (s *outStream) writeRPC(rpc []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	frames, err := s.announceable(rpc)
	if err != nil {
		return err
	}
	if err := s.send(frames); err != nil {
		return err
	}
	s.begun = true
	return s.sendPending()
}

// failed returns the error of a write, or nil if the stream had been reset
// because the peer does not read. The caller holds o.mu.
func (s *outStream) failed(err error) error {
	if err == nil || s.q.unread {
		return nil
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		s.o.didNotRead(s.q)
		s.o.release(s.q)
	}
	return err
}

// send writes frames. The caller holds writing.
func (s *outStream) send(frames [][]byte) error {
	for _, frame := range frames {
		if err := s.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
			return err
		}
		if _, err := s.Stream.Write(frame); err != nil {
			return err
		}
	}
	return nil
}

// announceable returns the frames to be written for an RPC of pubsub.
func (s *outStream) announceable(rpc []byte) ([][]byte, error) {
	subscriptions, rest, err := parseRPC(rpc)
	if err != nil {
		return nil, err
	}
	if len(subscriptions) == 0 {
		return [][]byte{rpc}, nil
	}
	var kept [][]byte
	for _, field := range subscriptions {
		var sub pb.RPC_SubOpts
		if err := proto.Unmarshal(fieldBytes(field), &sub); err != nil {
			return nil, err
		}
		if len(field) <= maxAnnouncement && s.mayWrite(sub.GetTopicid(), sub.GetSubscribe()) {
			kept = append(kept, field)
		}
	}
	return framesOf(bytes.Join(rest, nil), kept), nil
}

// mayWrite reports whether the peer is to be told of a subscription or of its
// end, and records that it is.
func (s *outStream) mayWrite(topic string, on bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, pending := s.told[topic], s.pending[topic]
	delete(s.pending, topic)
	if !on {
		delete(s.told, topic)
		return known
	}
	if !known && !pending && !s.o.in.topics.isPublic(topic) && !s.o.in.isSubscribed(s.q.peer, topic) {
		return false
	}
	if name, ok := s.o.in.topics.open(topic); ok {
		topic = name
	}
	s.told[topic] = true
	return true
}

// tell tells the peer of a subscription unless it knows of it. The subscription
// does not end before tell returns, so that its end is written later.
func (s *outStream) tell(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told[topic] {
		return
	}
	s.pending[topic] = true
	if !s.telling {
		s.telling = true
		go s.tellPending()
	}
}

func (s *outStream) tellPending() {
	s.writing.Lock()
	var err error
	if s.begun { // otherwise Write tells them
		err = s.sendPending()
	}
	s.writing.Unlock()
	s.o.mu.Lock()
	err = s.failed(err)
	s.o.mu.Unlock()
	if err != nil {
		s.Stream.Reset()
	}
}

// sendPending tells the peer of the pending subscriptions. The caller holds
// writing.
func (s *outStream) sendPending() error {
	return s.send(framesOf(nil, s.takePending()))
}

// takePending returns the pending subscriptions as fields of an RPC.
func (s *outStream) takePending() (subscriptions [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	yes := true
	for topic := range s.pending {
		s.told[topic] = true
		sub, err := proto.Marshal(&pb.RPC_SubOpts{Subscribe: &yes, Topicid: &topic})
		if field := appendField(nil, sub); err == nil && len(field) <= maxAnnouncement {
			subscriptions = append(subscriptions, field)
		}
	}
	clear(s.pending)
	s.telling = false
	return subscriptions
}

// subscriptionsField is the number of the field subscriptions in [pb.RPC].
const subscriptionsField = 1

// parseRPC returns the fields of an RPC that follows its length.
func parseRPC(frame []byte) (subscriptions, rest [][]byte, err error) {
	_, n := protowire.ConsumeVarint(frame)
	if n < 0 {
		return nil, nil, protowire.ParseError(n)
	}
	for b := frame[n:]; len(b) > 0; b = b[n:] {
		var number protowire.Number
		if number, _, n = protowire.ConsumeField(b); n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		if number == subscriptionsField {
			subscriptions = append(subscriptions, b[:n])
		} else {
			rest = append(rest, b[:n])
		}
	}
	return subscriptions, rest, nil
}

// fieldBytes returns the value of a field of bytes.
func fieldBytes(field []byte) []byte {
	_, _, n := protowire.ConsumeTag(field)
	b, _ := protowire.ConsumeBytes(field[n:])
	return b
}

func appendField(b, subscription []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, subscriptionsField, protowire.BytesType), subscription)
}

// framesOf spreads subscriptions over RPCs. The first one begins with the other
// fields: a peer expects extensions in the first RPC of a stream.
func framesOf(rest []byte, subscriptions [][]byte) (frames [][]byte) {
	rpc := rest
	for _, field := range subscriptions {
		if len(rpc) > 0 && len(rpc)+len(field) > maxAnnouncement {
			frames = append(frames, protowire.AppendBytes(nil, rpc))
			rpc = nil
		}
		rpc = append(rpc, field...)
	}
	if len(rpc) > 0 {
		frames = append(frames, protowire.AppendBytes(nil, rpc))
	}
	return frames
}
