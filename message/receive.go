package message

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/space"
)

// Protocol is the stream protocol of direct messages. The sender writes a
// [pb.Message], the recipient answers with a [pb.Receipt], and so on; an
// unsigned varint with the length precedes each.
const Protocol protocol.ID = "/npp/message/1.0.0"

const (
	// envelopeBytes bounds the bytes of a message besides its data.
	envelopeBytes = 1024

	// peerStreams is how many inbound streams one peer may have open. The
	// sender of this package uses maxStreams.
	peerStreams = 2 * maxStreams
	// allStreams is how many inbound streams all peers may have open together.
	allStreams = 2048
	// smallFrame is the size that a stream may buffer without a reservation.
	smallFrame = 4 << 10
	// framesPerPeer is how many larger messages of one peer may be in memory at
	// a time. allBuffer is the budget of all peers in bytes.
	framesPerPeer = 2
	allBuffer     = 2 * framesPerPeer * (maxMessageBytes + envelopeBytes)

	// idlePeers is how many peers without an open stream keep their rate
	// limiter.
	idlePeers = 1024
)

// writeFrame writes m, preceded by its length, with one call of Write.
func writeFrame(w io.Writer, m proto.Message) error {
	b := protowire.AppendVarint(nil, uint64(proto.Size(m)))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// inboundPeer is what a peer that sends to this daemon uses.
type inboundPeer struct {
	streams int
	rate    *rate.Limiter
	buffer  *semaphore.Weighted
}

// inboundLimiter bounds the streams, the rate and the memory of inbound
// messages, per peer and in total.
type inboundLimiter struct {
	perSecond uint64
	maxFrame  int // bytes
	now       func() time.Time
	buffer    *semaphore.Weighted

	mu      sync.Mutex
	streams int
	byPeer  map[peer.ID]*inboundPeer
}

func newInboundLimiter(l Limits, now func() time.Time) *inboundLimiter {
	return &inboundLimiter{
		perSecond: l.MaxPerSecond,
		maxFrame:  int(l.MaxMessageBytes) + envelopeBytes,
		now:       now,
		buffer:    semaphore.NewWeighted(allBuffer),
		byPeer:    make(map[peer.ID]*inboundPeer),
	}
}

// admit counts another stream of p. It returns nil if p or all peers together
// have too many.
func (gs *inboundLimiter) admit(p peer.ID) *inboundPeer {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.byPeer[p]
	if gs.streams == allStreams || g != nil && g.streams == peerStreams {
		return nil
	}
	if g == nil {
		g = &inboundPeer{
			rate:   rate.NewLimiter(rate.Limit(gs.perSecond), int(2*gs.perSecond)),
			buffer: semaphore.NewWeighted(int64(framesPerPeer * gs.maxFrame)),
		}
		gs.byPeer[p] = g
	}
	g.streams++
	gs.streams++
	return g
}

func (gs *inboundLimiter) leave(g *inboundPeer) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g.streams--
	gs.streams--
	if len(gs.byPeer) <= idlePeers+allStreams {
		return
	}
	for p, g := range gs.byPeer {
		if g.streams == 0 && g.rate.TokensAt(gs.now()) >= float64(g.rate.Burst()) {
			delete(gs.byPeer, p)
		}
	}
}

// reserve waits until n more bytes of g fit into the memory budget.
func (gs *inboundLimiter) reserve(ctx context.Context, g *inboundPeer, n int) (release func(), err error) {
	if n <= smallFrame {
		return func() {}, nil
	}
	if err := g.buffer.Acquire(ctx, int64(n)); err != nil {
		return nil, err
	}
	if err := gs.buffer.Acquire(ctx, int64(n)); err != nil {
		g.buffer.Release(int64(n))
		return nil, err
	}
	return func() {
		gs.buffer.Release(int64(n))
		g.buffer.Release(int64(n))
	}, nil
}

// handle serves a stream that a peer opened.
func (s *Service) handle(st network.Stream) {
	p := st.Conn().RemotePeer()
	g := s.inbound.admit(p)
	if g == nil {
		st.Reset()
		return
	}
	defer s.inbound.leave(g)
	if !s.begin() {
		st.Reset()
		return
	}
	defer s.running.Done()
	defer context.AfterFunc(s.ctx, func() { st.Reset() })()

	switch err := s.serve(st, p, g); {
	case err == nil, errors.Is(err, io.EOF):
		st.Close()
	default:
		log.Debugw("message stream ended", "peer", p, "err", err)
		st.Reset()
	}
}

// serve answers messages until the peer closes its side, the stream was idle
// for a minute, or an error occurs.
func (s *Service) serve(st network.Stream, p peer.ID, g *inboundPeer) error {
	in := msgio.NewVarintReaderSize(st, s.inbound.maxFrame)
	for {
		if err := st.SetReadDeadline(time.Now().Add(s.times.idle)); err != nil {
			return err
		}
		size, err := in.NextMsgLen()
		if err != nil {
			return err
		}
		if size > s.inbound.maxFrame {
			return s.refuseTooLarge(st)
		}
		ctx, cancel := context.WithTimeout(s.ctx, s.times.frame)
		release, err := s.inbound.reserve(ctx, g, size)
		cancel()
		if err != nil {
			return err
		}
		err = s.serveOne(st, in, p, g)
		release()
		if err != nil {
			return err
		}
	}
}

// serveOne reads one message, stores it and writes the receipt.
func (s *Service) serveOne(st network.Stream, in msgio.Reader, p peer.ID, g *inboundPeer) error {
	if err := st.SetDeadline(time.Now().Add(s.times.frame)); err != nil {
		return err
	}
	frame, err := in.ReadMsg()
	if err != nil {
		return err
	}
	defer in.ReleaseMsg(frame)
	receipt := s.receive(frame, p, g)
	// The time for storing the message does not count.
	if err := st.SetDeadline(time.Now().Add(s.times.frame)); err != nil {
		return err
	}
	return writeFrame(st, receipt)
}

// receive stores an encoded [pb.Message] from p and returns the receipt.
func (s *Service) receive(frame []byte, p peer.ID, g *inboundPeer) *pb.Receipt {
	var m pb.Message
	refuse := func(status pb.Receipt_Status, reason string) *pb.Receipt {
		s.refused.Add(1)
		return &pb.Receipt{Id: m.GetId(), Status: status, Reason: reason}
	}
	if err := proto.Unmarshal(frame, &m); err != nil {
		m.Reset()
		return refuse(pb.Receipt_INVALID, "it is malformed")
	}
	if checkID(m.GetId()) != nil {
		m.Id = ""
		return refuse(pb.Receipt_INVALID, ErrBadID.Error())
	}
	switch {
	case peer.ID(m.GetFrom()) != p:
		return refuse(pb.Receipt_INVALID, "it is not from the peer that sent it")
	case peer.ID(m.GetTo()) != s.host.ID():
		return refuse(pb.Receipt_INVALID, "it is for another peer")
	case len(m.GetData()) == 0:
		return refuse(pb.Receipt_INVALID, "it is empty")
	case uint64(len(m.GetData())) > s.limits.MaxMessageBytes:
		r := refuse(pb.Receipt_TOO_LARGE, "it is too large")
		r.Limit = s.limits.MaxMessageBytes
		return r
	}
	now := s.now()
	turn := g.rate.ReserveN(now, 1)
	if wait := turn.DelayFrom(now); wait > 0 {
		turn.CancelAt(now)
		r := refuse(pb.Receipt_TOO_FAST, fmt.Sprintf("more than %d a second", s.limits.MaxPerSecond))
		r.RetryAfter = int64(wait)
		return r
	}
	msg := &Message{
		ID:     m.GetId(),
		From:   p,
		Data:   m.GetData(),
		Seqno:  []byte(m.GetId()),
		Topics: []string{s.host.ID().String()},
		Sent:   time.Unix(0, m.GetSent()),
		Via:    Direct,
	}
	switch err := s.box.add(s.ctx, msg); {
	case err == nil:
		return &pb.Receipt{Id: m.GetId(), Status: pb.Receipt_STORED}
	case errors.Is(err, ErrFull):
		return refuse(pb.Receipt_FULL, err.Error())
	case errors.Is(err, space.ErrFull): // The free space and the path are not for other peers.
		return refuse(pb.Receipt_FULL, "the recipient's disk is full")
	case errors.Is(err, ErrIDReused):
		return refuse(pb.Receipt_INVALID, err.Error())
	default:
		log.Errorw("a message could not be stored", "peer", p, "id", m.GetId(), "err", err)
		return refuse(pb.Receipt_FAILED, "the recipient could not store it")
	}
}

// refuseTooLarge answers a message that it does not read. It discards what the
// sender still writes, so that the sender reads the receipt before the reset.
func (s *Service) refuseTooLarge(st network.Stream) error {
	s.refused.Add(1)
	if err := st.SetDeadline(time.Now().Add(s.times.frame)); err != nil {
		return err
	}
	r := &pb.Receipt{Status: pb.Receipt_TOO_LARGE, Reason: "it is too large", Limit: s.limits.MaxMessageBytes}
	if err := writeFrame(st, r); err != nil {
		return err
	}
	if err := st.CloseWrite(); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, st, 2*maxMessageBytes)
	return err
}
