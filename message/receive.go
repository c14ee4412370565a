package message

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/internal/admission"
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

	// ratedPeers is how many peers keep their rate limiter after it has
	// recovered, and maxRatedPeers how many have one.
	ratedPeers    = 3072
	maxRatedPeers = 64 << 10
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

// inbound bounds what peers may send: the streams that they have open, the
// bytes of larger messages in memory, and the rate of messages.
type inbound struct {
	streams *admission.Quota
	memory  *admission.Quota
	rates   *admission.Rates
}

// maxFrame is the largest size of an encoded message, in bytes.
func (l Limits) maxFrame() int { return int(l.MaxMessageBytes) + envelopeBytes }

func newInbound(l Limits) inbound {
	return inbound{
		streams: admission.NewQuota(allStreams, peerStreams),
		memory:  admission.NewQuota(allBuffer, framesPerPeer*int64(l.maxFrame())),
		rates:   admission.NewRates(rate.Limit(l.MaxPerSecond), int(2*l.MaxPerSecond), ratedPeers, maxRatedPeers),
	}
}

// reserve waits until n more bytes of p fit into the memory budget.
func (in inbound) reserve(ctx context.Context, p peer.ID, n int) (release func(), err error) {
	if n <= smallFrame {
		return func() {}, nil
	}
	if err := in.memory.Acquire(ctx, p, int64(n)); err != nil {
		return nil, err
	}
	return func() { in.memory.Release(p, int64(n)) }, nil
}

// handle serves a stream that a peer opened.
func (s *Service) handle(st network.Stream) {
	p := st.Conn().RemotePeer()
	if !s.inbound.streams.TryAcquire(p, 1) {
		st.Reset()
		return
	}
	defer s.inbound.streams.Release(p, 1)
	end, ok := s.tasks.Begin()
	if !ok {
		st.Reset()
		return
	}
	defer end()
	defer context.AfterFunc(s.ctx, func() { st.Reset() })()

	switch err := s.serve(st, p); {
	case err == nil, errors.Is(err, io.EOF):
		st.Close()
	default:
		log.Debugw("message stream ended", "peer", p, "err", err)
		st.Reset()
	}
}

// serve answers messages until the peer closes its side, the stream was idle
// for a minute, or an error occurs.
func (s *Service) serve(st network.Stream, p peer.ID) error {
	in := msgio.NewVarintReaderSize(st, s.limits.maxFrame())
	for {
		if err := st.SetReadDeadline(time.Now().Add(s.times.idle)); err != nil {
			return err
		}
		size, err := in.NextMsgLen()
		if err != nil {
			return err
		}
		if size > s.limits.maxFrame() {
			return s.refuseTooLarge(st)
		}
		ctx, cancel := context.WithTimeout(s.ctx, s.times.frame)
		release, err := s.inbound.reserve(ctx, p, size)
		cancel()
		if err != nil {
			return err
		}
		err = s.serveOne(st, in, p)
		release()
		if err != nil {
			return err
		}
	}
}

// serveOne reads one message, stores it and writes the receipt.
func (s *Service) serveOne(st network.Stream, in msgio.Reader, p peer.ID) error {
	if err := st.SetDeadline(time.Now().Add(s.times.frame)); err != nil {
		return err
	}
	frame, err := in.ReadMsg()
	if err != nil {
		return err
	}
	defer in.ReleaseMsg(frame)
	receipt := s.receive(frame, p)
	// The time for storing the message does not count.
	if err := st.SetDeadline(time.Now().Add(s.times.frame)); err != nil {
		return err
	}
	return writeFrame(st, receipt)
}

// receive stores an encoded [pb.Message] from p and returns the receipt.
func (s *Service) receive(frame []byte, p peer.ID) *pb.Receipt {
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
	if wait := s.inbound.rates.Take(p, s.now()); wait > 0 {
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
