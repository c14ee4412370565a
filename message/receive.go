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

// Protocol is the stream protocol of direct messages: [pb.Message] and
// [pb.Receipt] in turns, each preceded by its length.
const Protocol protocol.ID = "/npp/message/1.0.0"

const (
	// envelopeBytes is what a message may take besides its data.
	envelopeBytes = 1024

	// peerStreams is how many streams one peer may have open to us; our own
	// sender uses maxLanes.
	peerStreams = 2 * maxLanes
	// allStreams is how many streams all peers together may have open to us.
	allStreams = 2048
	// smallFrame is what a stream may buffer without asking.
	smallFrame = 4 << 10
	// framesPerPeer is how many larger messages of one peer may be on their way
	// in at a time, and allBuffer bounds the memory for those of all.
	framesPerPeer = 2
	allBuffer     = 2 * framesPerPeer * (maxMessageBytes + envelopeBytes)

	// idleGuests is how many peers without an open stream are remembered, for
	// the sake of their rate.
	idleGuests = 1024
)

// writeFrame writes m, preceded by its length, in one piece.
func writeFrame(w io.Writer, m proto.Message) error {
	b := protowire.AppendVarint(nil, uint64(proto.Size(m)))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// guest is a peer that sends to us.
type guest struct {
	streams int
	rate    *rate.Limiter
	buffer  *semaphore.Weighted
}

// guests keeps the account of who uses how much.
type guests struct {
	perSecond uint64
	maxFrame  int // bytes
	now       func() time.Time
	buffer    *semaphore.Weighted

	mu      sync.Mutex
	streams int
	byPeer  map[peer.ID]*guest
}

func newGuests(l Limits, now func() time.Time) *guests {
	return &guests{
		perSecond: l.MaxPerSecond,
		maxFrame:  int(l.MaxMessageBytes) + envelopeBytes,
		now:       now,
		buffer:    semaphore.NewWeighted(allBuffer),
		byPeer:    make(map[peer.ID]*guest),
	}
}

// enter admits another stream of p, or returns nil.
func (gs *guests) enter(p peer.ID) *guest {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.byPeer[p]
	if gs.streams == allStreams || g != nil && g.streams == peerStreams {
		return nil
	}
	if g == nil {
		g = &guest{
			rate:   rate.NewLimiter(rate.Limit(gs.perSecond), int(2*gs.perSecond)),
			buffer: semaphore.NewWeighted(int64(framesPerPeer * gs.maxFrame)),
		}
		gs.byPeer[p] = g
	}
	g.streams++
	gs.streams++
	return g
}

func (gs *guests) leave(g *guest) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g.streams--
	gs.streams--
	if len(gs.byPeer) <= idleGuests+allStreams {
		return
	}
	for p, g := range gs.byPeer {
		if g.streams == 0 && g.rate.TokensAt(gs.now()) >= float64(g.rate.Burst()) {
			delete(gs.byPeer, p)
		}
	}
}

// reserve waits until n more bytes of g may be in memory.
func (gs *guests) reserve(ctx context.Context, g *guest, n int) (release func(), err error) {
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
	g := s.guests.enter(p)
	if g == nil {
		st.Reset()
		return
	}
	defer s.guests.leave(g)
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

// serve answers message after message until the peer closes its side, an idle
// minute has passed, or something is wrong.
func (s *Service) serve(st network.Stream, p peer.ID, g *guest) error {
	in := msgio.NewVarintReaderSize(st, s.guests.maxFrame)
	for {
		if err := st.SetReadDeadline(time.Now().Add(s.times.idle)); err != nil {
			return err
		}
		size, err := in.NextMsgLen()
		if err != nil {
			return err
		}
		if size > s.guests.maxFrame {
			return s.refuseTooLarge(st)
		}
		ctx, cancel := context.WithTimeout(s.ctx, s.times.frame)
		release, err := s.guests.reserve(ctx, g, size)
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
func (s *Service) serveOne(st network.Stream, in msgio.Reader, p peer.ID, g *guest) error {
	if err := st.SetDeadline(time.Now().Add(s.times.frame)); err != nil {
		return err
	}
	frame, err := in.ReadMsg()
	if err != nil {
		return err
	}
	defer in.ReleaseMsg(frame)
	receipt := s.receive(frame, p, g)
	// storing has a time of its own
	if err := st.SetDeadline(time.Now().Add(s.times.frame)); err != nil {
		return err
	}
	return writeFrame(st, receipt)
}

// receive takes an encoded [pb.Message] from p, or says why not.
func (s *Service) receive(frame []byte, p peer.ID, g *guest) *pb.Receipt {
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
	case errors.Is(err, space.ErrFull): // how full, and where, is not for others
		return refuse(pb.Receipt_FULL, "the recipient's disk is full")
	case errors.Is(err, ErrIDReused):
		return refuse(pb.Receipt_INVALID, err.Error())
	default:
		log.Errorw("a message could not be stored", "peer", p, "id", m.GetId(), "err", err)
		return refuse(pb.Receipt_FAILED, "the recipient could not store it")
	}
}

// refuseTooLarge answers a message that is not read. What the sender goes on
// writing is thrown away for a while, lest it miss the receipt.
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
