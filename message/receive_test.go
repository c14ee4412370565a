package message

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/test/loopback"
)

// openTo opens a stream without the client of this package.
func openTo(t testing.TB, from host.Host, to *daemon) network.Stream {
	t.Helper()
	must(t, from.Connect(testContext(t), to.info))
	st, err := from.NewStream(testContext(t), to.info.ID, Protocol)
	must(t, err)
	must(t, st.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { st.Reset() })
	return st
}

func frameOf(t testing.TB, m *pb.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, writeFrame(&b, m))
	return b.Bytes()
}

func TestWhatIsNotAMessageForUsIsRefusedWithTheReason(t *testing.T) {
	b := newDaemon(t, setup{limits: func(l *Limits) { l.MaxMessageBytes = 100_000 }})
	honest := newDaemon(t, setup{})
	h := loopback.Host(t)
	message := func(change func(*pb.Message)) []byte {
		m := &pb.Message{Id: "id", From: []byte(h.ID()), To: []byte(b.info.ID), Data: []byte("x")}
		change(m)
		return frameOf(t, m)
	}
	garbage := bytes.Repeat([]byte{0xff}, 20)
	for _, test := range []struct {
		name   string
		frame  []byte
		status pb.Receipt_Status
		goesOn bool // the stream can carry the next message
	}{
		{"from another peer", message(func(m *pb.Message) { m.From = []byte(honest.info.ID) }), pb.Receipt_INVALID, true},
		{"from nobody", message(func(m *pb.Message) { m.From = nil }), pb.Receipt_INVALID, true},
		{"for another peer", message(func(m *pb.Message) { m.To = []byte(honest.info.ID) }), pb.Receipt_INVALID, true},
		{"for nobody", message(func(m *pb.Message) { m.To = nil }), pb.Receipt_INVALID, true},
		{"empty", message(func(m *pb.Message) { m.Data = nil }), pb.Receipt_INVALID, true},
		{"no ID", message(func(m *pb.Message) { m.Id = "" }), pb.Receipt_INVALID, true},
		{"ID with a slash", message(func(m *pb.Message) { m.Id = "../state" }), pb.Receipt_INVALID, true},
		{"long ID", message(func(m *pb.Message) { m.Id = string(bytes.Repeat([]byte("a"), 65)) }), pb.Receipt_INVALID, true},
		{"ID that is no UTF-8", bytes.Replace(message(func(m *pb.Message) {}), []byte("id"), []byte{0xff, 0xfe}, 1), pb.Receipt_INVALID, true},
		{"garbage", append(protowire.AppendVarint(nil, uint64(len(garbage))), garbage...), pb.Receipt_INVALID, true},
		{"nothing", []byte{0}, pb.Receipt_INVALID, true},
		{"too large within the frame", message(func(m *pb.Message) { m.Data = make([]byte, 100_001) }), pb.Receipt_TOO_LARGE, true},
		{"too large", message(func(m *pb.Message) { m.Data = make([]byte, 3_000_000) }), pb.Receipt_TOO_LARGE, false},
		{"said to be too large", protowire.AppendVarint(nil, 1<<20), pb.Receipt_TOO_LARGE, false},
		{"said to be huge", protowire.AppendVarint(nil, 1<<63-1), pb.Receipt_TOO_LARGE, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			st := openTo(t, h, b)
			refused := b.refused.Load()
			wrote := make(chan struct{})
			go func() {
				defer close(wrote)
				st.Write(test.frame)
			}()
			var r pb.Receipt
			must(t, readFrame(st, &r))
			<-wrote
			if r.Status != test.status || r.Reason == "" || test.status == pb.Receipt_TOO_LARGE && r.Limit != 100_000 {
				t.Errorf("receipt %v", &r)
			}
			if b.refused.Load() != refused+1 {
				t.Error("it is not counted")
			}
			if !test.goesOn {
				return
			}
			must(t, writeFrame(st, &pb.Message{Id: "bad", From: []byte(h.ID()), To: []byte(b.info.ID)}))
			must(t, readFrame(st, &r))
		})
	}
	for name, bytes := range map[string][]byte{
		"truncated":              message(func(*pb.Message) {})[:10],
		"length without end":     bytes.Repeat([]byte{0x80}, 20),
		"length beyond 63 bits":  binary.AppendUvarint(nil, 1<<63),
		"length not the minimal": {0x81, 0x00},
	} {
		t.Run(name, func(t *testing.T) {
			st := openTo(t, h, b)
			st.Write(bytes)
			st.CloseWrite()
			if rest, err := io.ReadAll(st); len(rest) > 0 {
				t.Errorf("answered %x, %v", rest, err)
			}
		})
	}
	deliver(t, honest, b, "id", "honest")
	wantStored(t, b, "honest")
	eventually(t, "all streams of the peer are gone", func() bool {
		h.Network().ClosePeer(b.info.ID)
		return inboundStreams(b) == 1
	})
}

func TestTooLargeForTheRecipientIsToldToTheSender(t *testing.T) {
	a := newDaemon(t, setup{limits: func(l *Limits) { l.MaxMessageBytes = 16 << 20; l.PeerBytes = 64 << 20 }})
	b := newDaemon(t, setup{limits: func(l *Limits) { l.MaxMessageBytes = 1000 }})
	for _, size := range []int{1001, 1 << 20, 16 << 20} {
		wantOutcome(t, a, Outgoing{To: b.info, Data: make([]byte, size)}, Failed, ErrTooLarge)
		deliver(t, a, b, "", fmt.Sprint(size))
	}
	deliver(t, a, b, "", string(make([]byte, 1000)))
}

func TestLargestMessageArrives(t *testing.T) {
	largest := func(l *Limits) { l.MaxMessageBytes = maxMessageBytes }
	a, b := newDaemon(t, setup{limits: largest}), newDaemon(t, setup{limits: largest})
	deliver(t, a, b, "", string(make([]byte, maxMessageBytes)))
	if n := len(stored(t, b)[0].Data); n != maxMessageBytes {
		t.Errorf("%d bytes arrived", n)
	}
}

func TestIDForOtherDataIsRefused(t *testing.T) {
	a, b := newDaemon(t, setup{}), newDaemon(t, setup{})
	deliver(t, a, b, "id", "first")
	deliver(t, a, b, "id", "first")
	wantOutcome(t, a, Outgoing{To: b.info, ID: "id", Data: []byte("second")}, Failed, ErrRefused)
	wantStored(t, b, "first")
}

func TestIDsOfOnePeerAreNotTakenByAnother(t *testing.T) {
	a, b, hostile := newDaemon(t, setup{}), newDaemon(t, setup{}), newDaemon(t, setup{})
	deliver(t, hostile, b, "id", "mine")
	deliver(t, a, b, "id", "honest")
	wantStored(t, b, "mine", "honest")
	checkBooks(t, b.box)
	must(t, b.Remove(t.Context(), "id")) // the oldest
	wantStored(t, b, "honest")
	must(t, b.Remove(t.Context(), "id"))
	wantErr(t, b.Remove(t.Context(), "id"), ErrNotFound)
	checkBooks(t, b.box)
}

func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func TestSlowStreamsEnd(t *testing.T) {
	b := newDaemon(t, setup{times: func(p *times) { p.idle, p.frame = 50*time.Millisecond, 50*time.Millisecond }})
	h := loopback.Host(t)
	frame := frameOf(t, &pb.Message{Id: "id", From: []byte(h.ID()), To: []byte(b.info.ID), Data: make([]byte, 10_000)})
	for name, sent := range map[string][]byte{
		"nothing":             nil,
		"a byte of a length":  {0x80},
		"a length":            frame[:2],
		"a byte of a message": frame[:3],
		"all but a byte":      frame[:len(frame)-1],
		"too large a length":  protowire.AppendVarint(nil, 1<<40),
	} {
		t.Run(name, func(t *testing.T) {
			st := openTo(t, h, b)
			_, err := st.Write(sent)
			must(t, err)
			if _, err := io.ReadAll(st); timedOut(err) {
				t.Error("the stream stays open")
			}
		})
	}
	t.Run("receipts are not read", func(t *testing.T) {
		st := openTo(t, h, b)
		bad := bytes.Repeat(frameOf(t, &pb.Message{Id: "id"}), 1000)
		for {
			if _, err := st.Write(bad); err != nil {
				if timedOut(err) {
					t.Error("the stream stays open")
				}
				break
			}
		}
	})
	eventually(t, "the streams are gone", func() bool { return inboundStreams(b) == 0 })
	wantStored(t, b)
}

func TestThousandStreamsOfAPeerAreBoundedAndAffectNoOtherPeer(t *testing.T) {
	unlimited := libp2p.ResourceManager(&network.NullResourceManager{})
	b := newDaemon(t, setup{host: []libp2p.Option{unlimited}})
	hostile := loopback.Host(t, unlimited)
	honest := newDaemon(t, setup{})
	must(t, hostile.Connect(testContext(t), b.info))
	// Each stream announces a large message, which reserves memory.
	sent := append(protowire.AppendVarint(nil, uint64(b.limits.maxFrame())), 'x')
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 50 {
				st, err := hostile.NewStream(testContext(t), b.info.ID, Protocol)
				if err == nil {
					st.Write(sent)
				}
			}
		})
	}
	for i := range 20 {
		deliver(t, honest, b, "", fmt.Sprint(i))
		deliver(t, honest, b, "", string(bytes.Repeat([]byte{'0'}, smallFrame+i)))
		if n := b.inbound.streams.HeldBy(hostile.ID()); n > peerStreams {
			t.Errorf("%d streams of the peer are served", n)
		}
	}
	wg.Wait()
	deliver(t, honest, b, "", "after")
	if n := b.inbound.streams.HeldBy(hostile.ID()); n != peerStreams {
		t.Errorf("%d streams of the peer are served, want %d", n, peerStreams)
	}
	if n, most := b.inbound.memory.HeldBy(hostile.ID()), framesPerPeer*int64(b.limits.maxFrame()); n != most {
		t.Errorf("the peer holds %d bytes of memory, want %d", n, most)
	}
	hostile.Close()
	eventually(t, "the streams are gone", func() bool { return inboundStreams(b) <= maxStreams })
}

func TestInboundPeersAreBoundedAndKeepTheirRate(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := DefaultLimits()
	l.MaxPerSecond = 1
	in := newInbound(l)
	fast := peer.ID("fast")
	if in.rates.Take(fast, now) > 0 || in.rates.Take(fast, now) > 0 {
		t.Fatal("no burst")
	}
	for i := range 3 * ratedPeers {
		in.rates.Take(peer.ID(fmt.Sprint(i)), now)
	}
	if in.rates.Take(fast, now) == 0 {
		t.Error("a peer that comes back gets a fresh rate")
	}
	for i := 1; ; i++ {
		if !in.streams.TryAcquire(peer.ID(fmt.Sprint("all", i)), 1) {
			if i != allStreams+1 {
				t.Errorf("stream %d is refused", i)
			}
			break
		}
	}
}

func TestPeerThatFillsItsQuotaIsToldAndOthersAreNotAffected(t *testing.T) {
	limits := func(l *Limits) { l.MaxMessageBytes, l.PeerBytes, l.StoreBytes = 10_000, 30_000, 70_000 }
	a, c, e := newDaemon(t, setup{}), newDaemon(t, setup{}), newDaemon(t, setup{})
	b := newDaemon(t, setup{limits: limits})
	text := func(i int) string { return fmt.Sprintf("%8000d", i) }
	for i := range 3 {
		deliver(t, a, b, "", text(i))
	}
	out := wantOutcome(t, a, Outgoing{To: b.info, Data: []byte(text(3))}, Failed, ErrRefused)
	for i := range 3 {
		deliver(t, c, b, "", text(10+i))
	}
	deliver(t, e, b, "", text(20))
	deliver(t, e, b, "", text(21))
	wantOutcome(t, e, Outgoing{To: b.info, Data: []byte(text(22))}, Failed, ErrRefused) // the store is full
	checkBooks(t, b.box)
	must(t, b.Remove(t.Context(), stored(t, b)[0].ID))
	deliver(t, a, b, out.ID, text(3))
	checkBooks(t, b.box)
	if st, err := b.Stats(t.Context()); err != nil || st.Refused != 2 || st.DirectBytes == 0 || st.PubsubBytes != 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
}

func TestDropOldestDeletesMessagesOfTheSenderOnly(t *testing.T) {
	a, c := newDaemon(t, setup{}), newDaemon(t, setup{})
	b := newDaemon(t, setup{limits: func(l *Limits) {
		l.MaxMessageBytes, l.PeerBytes, l.WhenPeerFull = 10_000, 30_000, DropOldest
	}})
	text := func(i int) string { return fmt.Sprintf("%8000d", i) }
	deliver(t, c, b, "", "the oldest of all")
	for i := range 7 {
		deliver(t, a, b, "", text(i))
	}
	wantStored(t, b, "the oldest of all", text(4), text(5), text(6))
	checkBooks(t, b.box)
	if st, err := b.Stats(t.Context()); err != nil || st.Expired != 4 {
		t.Errorf("stats %+v, %v", st, err)
	}
}

// FuzzReceive passes frames of a peer to a service. No frame may harm it, and a
// stored message must equal the sent one.
func FuzzReceive(f *testing.F) {
	b := newDaemon(f, setup{limits: func(l *Limits) { l.MaxPerSecond, l.MaxMessageBytes = 1e6, 1000 }})
	p := peer.ID("a peer")
	seed := func(m *pb.Message) {
		frame, err := proto.Marshal(m)
		must(f, err)
		f.Add(frame)
	}
	seed(&pb.Message{Id: "id", From: []byte(p), To: []byte(b.info.ID), Data: []byte("x"), Sent: -1})
	seed(&pb.Message{Id: "id", From: []byte(p), To: []byte(b.info.ID), Data: make([]byte, 1001)})
	seed(&pb.Message{Id: "a/b", From: []byte("x"), To: []byte(b.info.ID)})
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, frame []byte) {
		b.inbound = newInbound(b.limits)
		r := b.receive(frame, p)
		var m pb.Message
		err := proto.Unmarshal(frame, &m)
		ms := stored(t, b)
		if r.Status != pb.Receipt_STORED {
			if len(ms) > 0 || r.Reason == "" || checkID(r.Id) != nil && r.Id != "" {
				t.Fatalf("receipt %v, %d stored", r, len(ms))
			}
			return
		}
		if err != nil || len(ms) != 1 || ms[0].ID != m.Id || !bytes.Equal(ms[0].Data, m.Data) || string(m.From) != string(p) || string(m.To) != string(b.info.ID) {
			t.Fatalf("stored %v, %v", ms, err)
		}
		must(t, b.Remove(t.Context(), m.Id))
		checkBooks(t, b.box)
	})
}

// pipe is a stream in memory: the peer's bytes, and the answer.
type pipe struct {
	network.Stream
	in  *bytes.Reader
	out bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error)      { return p.in.Read(b) }
func (p *pipe) Write(b []byte) (int, error)     { return p.out.Write(b) }
func (p *pipe) SetDeadline(time.Time) error     { return nil }
func (p *pipe) SetReadDeadline(time.Time) error { return nil }
func (p *pipe) CloseWrite() error               { return nil }

func TestTooLargeIsReadToTheEndSoThatItsSenderGetsTheReceipt(t *testing.T) {
	b := newDaemon(t, setup{limits: func(l *Limits) { l.MaxMessageBytes = 1000 }})
	st := &pipe{in: bytes.NewReader(append(protowire.AppendVarint(nil, 1<<20), make([]byte, 1<<20)...))}
	if err := b.serve(st, "a peer"); !errors.Is(err, io.EOF) || st.in.Len() > 0 {
		t.Errorf("%v, %d bytes are not read", err, st.in.Len())
	}
	var r pb.Receipt
	if err := readFrame(&st.out, &r); err != nil || r.Status != pb.Receipt_TOO_LARGE {
		t.Errorf("receipt %v, %v", &r, err)
	}
}

// FuzzServe passes whole streams to a service. It must end and write only
// receipts.
func FuzzServe(f *testing.F) {
	b := newDaemon(f, setup{limits: func(l *Limits) { l.MaxPerSecond, l.MaxMessageBytes = 1e6, 1000 }})
	p := peer.ID("a peer")
	one := frameOf(f, &pb.Message{Id: "id", From: []byte(p), To: []byte(b.info.ID), Data: []byte("x")})
	f.Add(bytes.Repeat(one, 3))
	f.Add(one[:5])
	f.Add(append(protowire.AppendVarint(nil, 1<<62), one...))
	f.Add([]byte{0, 0, 1, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		st := &pipe{in: bytes.NewReader(in)}
		if err := b.serve(st, p); errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("waited for memory that nobody else uses")
		}
		for st.out.Len() > 0 {
			must(t, readFrame(&st.out, &pb.Receipt{}))
		}
	})
}

// FuzzReceipt passes receipts to a sender. Anything but a receipt for its
// message must be an error.
func FuzzReceipt(f *testing.F) {
	for _, r := range []*pb.Receipt{{Id: "id", Status: pb.Receipt_STORED}, {Id: "other", Status: pb.Receipt_STORED}, {Status: pb.Receipt_TOO_LARGE}} {
		var b bytes.Buffer
		must(f, writeFrame(&b, r))
		f.Add(b.Bytes())
	}
	f.Add([]byte{0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, in []byte) {
		st := &pipe{in: bytes.NewReader(in)}
		ln := newSendStream("a peer", st)
		r, err := ln.exchange(t.Context(), &pb.Message{Id: "id"}, patience)
		switch {
		case err != nil:
			if r != nil || ln.state != streamBroken {
				t.Fatalf("%v, %v, state %d", r, err, ln.state)
			}
		case r.Id != "id" && (r.Id != "" || r.Status == pb.Receipt_STORED), r.Id != "id" && ln.state == streamUsable:
			t.Fatalf("receipt %v, state %d", r, ln.state)
		}
	})
}
