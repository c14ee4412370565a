package message

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-msgio"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/swarm"
	"github.com/newpieceplease/npp/test/loopback"
)

func readFrame(r io.Reader, m proto.Message) error {
	b, err := msgio.NewVarintReaderSize(r, maxMessageBytes+envelopeBytes).ReadMsg()
	if err != nil {
		return err
	}
	return proto.Unmarshal(b, m)
}

func TestDeliveredIsWithTheRecipientAsItWasSent(t *testing.T) {
	onBoth(t, func(t *testing.T, ds datastore.Batching) {
		a, b := newDaemon(t, setup{}), newDaemon(t, setup{ds: ds})
		before := time.Now()
		out := deliver(t, a, b, "", `{"piece":"Gymnopédie"}`)
		if out.Via != Direct || out.To != b.info.ID || out.Took <= 0 || out.Route.Addr == nil || out.Route.Relayed {
			t.Errorf("outcome %+v", out)
		}
		ms := stored(t, b)
		if len(ms) != 1 {
			t.Fatalf("%d messages are stored", len(ms))
		}
		m := ms[0]
		if m.ID != out.ID || m.From != a.info.ID || string(m.Data) != `{"piece":"Gymnopédie"}` || m.Via != Direct ||
			string(m.Seqno) != out.ID || len(m.Topics) != 1 || m.Topics[0] != b.info.ID.String() ||
			m.Sent.Before(before) || m.Received.Before(m.Sent) {
			t.Errorf("stored %+v", m)
		}
		deliver(t, a, b, "", "over the same stream")
		checkBooks(t, b.box)
	})
}

func TestDeliveredSurvivesPowerLossOfTheRecipient(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	disk := storetest.NewDisk()
	a, b := newDaemon(t, setup{}), newDaemon(t, setup{ds: disk, limits: func(l *Limits) { l.MaxPerSecond = 1e6 }})
	var mu sync.Mutex
	var delivered []string
	var wg sync.WaitGroup
	for sender := range 4 {
		wg.Go(func() {
			for i := range 30 {
				text := fmt.Sprintf("%d/%d", sender, i)
				if out, err := a.Send(testContext(t), Outgoing{To: b.info, Data: []byte(text)}); err != nil || out.Status != Delivered {
					t.Errorf("send %s: %s, %v", text, out.Status, err)
					return
				}
				mu.Lock()
				delivered = append(delivered, text)
				acknowledged := delivered
				found := disk.PowerLoss(rng)
				if i%2 == 0 {
					found = disk.PowerLoss(nil)
				}
				mu.Unlock()
				box := newMailbox(store.New(found, "/messages"), b.limits, time.Now)
				have := map[string]int{}
				for _, m := range contents(t, box) {
					have[string(m.Data)]++
				}
				for _, text := range acknowledged {
					if have[text] != 1 {
						t.Errorf("delivered %s is found %d times", text, have[text])
					}
				}
				checkBooks(t, box)
			}
		})
	}
	wg.Wait()
}

func TestDiskFullIsToldAndARetryIsStoredOnce(t *testing.T) {
	for _, failure := range []storetest.Failure{storetest.Once, storetest.Applied, storetest.Lasting} {
		for operation := 1; operation <= 4; operation++ {
			t.Run(fmt.Sprintf("failure %d at operation %d", failure, operation), func(t *testing.T) {
				disk := storetest.NewDisk()
				a, b := newDaemon(t, setup{}), newDaemon(t, setup{ds: disk})
				disk.FailAfter(operation, failure)
				failed := 0
				for i := range 3 {
					out, err := a.Send(testContext(t), Outgoing{To: b.info, ID: fmt.Sprint("id", i), Data: []byte{byte('0' + i)}})
					switch {
					case err == nil && out.Status == Delivered:
					case errors.Is(err, ErrRefused) && out.Status == Failed:
						failed++
					default:
						t.Fatalf("send: %s, %v", out.Status, err)
					}
				}
				if failed == 0 {
					t.Error("no sender was told")
				}
				disk.FailAfter(0, failure)
				for i := range 3 {
					deliver(t, a, b, fmt.Sprint("id", i), string(rune('0'+i)))
				}
				wantStored(t, b, "0", "1", "2")
				box := newMailbox(store.New(disk.PowerLoss(nil), "/messages"), b.limits, time.Now)
				if n := len(contents(t, box)); n != 3 {
					t.Errorf("%d messages after the power failed", n)
				}
				checkBooks(t, box)
			})
		}
	}
}

func TestLostReceiptIsMadeUpForOnAFreshStream(t *testing.T) {
	onBoth(t, func(t *testing.T, ds datastore.Batching) {
		a, b := newDaemon(t, setup{}), newDaemon(t, setup{ds: ds})
		var losses, streams atomic.Int32
		b.interpose(func(st network.Stream) network.Stream {
			streams.Add(1)
			return mute{st, func() bool { return losses.Add(-1) >= 0 }}
		})
		losses.Store(2)
		deliver(t, a, b, "", "hello")
		if n := streams.Load(); n != 3 {
			t.Errorf("%d streams, want 3", n)
		}
		wantStored(t, b, "hello")
		eventually(t, "those without a receipt are closed", func() bool { return openStreams(a, b) == 1 })
	})
}

// openStreams returns the number of message streams from one daemon to another.
func openStreams(from, to *daemon) (n int) {
	for _, c := range from.host.Network().ConnsToPeer(to.host.ID()) {
		for _, st := range c.GetStreams() {
			if st.Protocol() == Protocol {
				n++
			}
		}
	}
	return n
}

func TestLostReceiptsAreUnknownAndTheSameIDIsStoredOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, ds datastore.Batching) {
		a, b := newDaemon(t, setup{}), newDaemon(t, setup{ds: ds})
		var losses atomic.Int32
		b.interpose(func(st network.Stream) network.Stream {
			return mute{st, func() bool { return losses.Add(-1) >= 0 }}
		})
		losses.Store(maxAttempts)
		out := wantOutcome(t, a, Outgoing{To: b.info, Data: []byte("hello")}, Unknown, ErrUnknownFate)
		wantStored(t, b, "hello")
		deliver(t, a, b, out.ID, "hello")
		wantStored(t, b, "hello")
	})
}

func TestRecipientThatDiesBeforeItsReceiptIsUnknownAndStoresOnce(t *testing.T) {
	ds, key := storetest.NewDisk(), newKey(t)
	a, b := newDaemon(t, setup{}), newDaemon(t, setup{ds: ds, key: key})
	b.interpose(func(st network.Stream) network.Stream {
		return mute{st, func() bool {
			b.host.Network().Close()
			return true
		}}
	})
	out := wantOutcome(t, a, Outgoing{To: b.info, Data: []byte("hello")}, Unknown, ErrUnknownFate)
	b.stop()
	b = newDaemon(t, setup{ds: ds, key: key})
	wantStored(t, b, "hello")
	deliver(t, a, b, out.ID, "hello")
	wantStored(t, b, "hello")
}

func TestRecipientThatRestartsBetweenTwoSendsIsReached(t *testing.T) {
	ds, key := storetest.NewDisk(), newKey(t)
	a, b := newDaemon(t, setup{}), newDaemon(t, setup{ds: ds, key: key})
	deliver(t, a, b, "", "before")
	b.stop()
	b = newDaemon(t, setup{ds: ds, key: key})
	deliver(t, a, b, "", "after")
	wantStored(t, b, "before", "after")
}

func TestStreamsThatBrokeTogetherWhileIdleAreRecoveredFrom(t *testing.T) {
	a, b := newDaemon(t, setup{}), newDaemon(t, setup{})
	var mu sync.Mutex
	var streams []network.Stream
	arrived := make(chan struct{}, maxStreams)
	let := make(chan struct{})
	b.interpose(func(st network.Stream) network.Stream {
		mu.Lock()
		streams = append(streams, st)
		mu.Unlock()
		arrived <- struct{}{}
		<-let
		return st
	})
	var wg sync.WaitGroup
	for i := range maxStreams {
		wg.Go(func() { deliver(t, a, b, "", fmt.Sprint(i)) })
	}
	for range maxStreams {
		<-arrived // concurrently, so that all stay open
	}
	close(let)
	wg.Wait()
	b.host.SetStreamHandler(Protocol, b.handle)
	for _, st := range streams {
		st.Reset()
	}
	eventually(t, "the streams are gone", func() bool { return inboundStreams(b) == 0 })
	deliver(t, a, b, "", "after")
	wantStored(t, b, "0", "1", "2", "3", "4", "5", "6", "7", "after")
}

func inboundStreams(d *daemon) int64 { return d.inbound.streams.Held() }

// gauge counts the open streams.
type gauge struct {
	network.Stream
	now, most *atomic.Int32
	once      *sync.Once
}

func (g gauge) done()        { g.once.Do(func() { g.now.Add(-1) }) }
func (g gauge) Close() error { g.done(); return g.Stream.Close() }
func (g gauge) Reset() error { g.done(); return g.Stream.Reset() }

func TestThousandSendsAtOnceAreDeliveredOnFewStreams(t *testing.T) {
	fewStreams := func(n int) []libp2p.Option {
		limits := rcmgr.PartialLimitConfig{Protocol: map[protocol.ID]rcmgr.ResourceLimits{
			Protocol: {Streams: rcmgr.LimitVal(n), StreamsInbound: rcmgr.LimitVal(n)},
		}}.Build(rcmgr.DefaultLimits.AutoScale())
		rm, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits), rcmgr.WithMetricsDisabled())
		must(t, err)
		return []libp2p.Option{libp2p.ResourceManager(rm)}
	}
	for _, test := range []struct {
		name string
		host []libp2p.Option
		most int32
	}{
		{"usual", nil, maxStreams},
		{"recipient takes 3 streams", fewStreams(3), 3},
		{"recipient takes 1 stream", fewStreams(1), 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newDaemon(t, setup{})
			b := newDaemon(t, setup{host: test.host, limits: func(l *Limits) { l.MaxPerSecond = 1e6 }})
			var now, most atomic.Int32
			b.interpose(func(st network.Stream) network.Stream {
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				return gauge{st, &now, &most, new(sync.Once)}
			})
			texts := shortTexts(1000)
			var wg sync.WaitGroup
			for _, text := range texts {
				wg.Go(func() {
					if out, err := a.Send(testContext(t), Outgoing{To: b.info, Data: []byte(text)}); err != nil || out.Status != Delivered {
						t.Errorf("send %s: %s, %v", text, out.Status, err)
					}
				})
			}
			wg.Wait()
			wantStored(t, b, texts...)
			if n := most.Load(); n > test.most {
				t.Errorf("%d streams at a time, want at most %d", n, test.most)
			}
		})
	}
}

func TestTwoThatConnectAndSendAtTheSameTimeBothArrive(t *testing.T) {
	for range 20 {
		a, b := newDaemon(t, setup{}), newDaemon(t, setup{})
		var wg sync.WaitGroup
		wg.Go(func() { deliver(t, a, b, "", "from a") })
		wg.Go(func() { deliver(t, b, a, "", "from b") })
		wg.Wait()
		wantStored(t, a, "from b")
		wantStored(t, b, "from a")
		a.stop()
		b.stop()
	}
}

func TestTooFastIsPaced(t *testing.T) {
	var clock atomic.Int64 // of the recipient
	a := newDaemon(t, setup{})
	b := newDaemon(t, setup{
		now:    func() time.Time { return time.Unix(1e9, clock.Load()) },
		limits: func(l *Limits) { l.MaxPerSecond = 100 },
	})
	texts := shortTexts(230)
	for _, text := range texts[:200] { // an available burst
		deliver(t, a, b, "", text)
	}
	if n := b.refused.Load(); n != 0 {
		t.Errorf("of a burst that is free, %d were told to wait", n)
	}
	var paced sync.WaitGroup
	paced.Go(func() {
		for _, text := range texts[200:] {
			deliver(t, a, b, "", text)
		}
	})
	eventually(t, "it was told to wait", func() bool { return b.refused.Load() > 0 })
	clock.Store(int64(time.Minute))
	paced.Wait()
	wantStored(t, b, texts...)
}

func TestTooFastBeyondTheDeadlineIsTold(t *testing.T) {
	stopped := time.Unix(1e9, 0)
	a := newDaemon(t, setup{times: func(p *times) { p.pacing = time.Millisecond }})
	b := newDaemon(t, setup{now: func() time.Time { return stopped }, limits: func(l *Limits) { l.MaxPerSecond = 1 }})
	c := newDaemon(t, setup{})
	deliver(t, a, b, "", "1")
	deliver(t, a, b, "", "2")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	out, err := a.Send(ctx, Outgoing{To: b.info, Data: []byte("3")})
	if out.Status != Failed || !errors.Is(err, ErrTooFast) {
		t.Errorf("with a deadline: %s, %v", out.Status, err)
	}
	wantOutcome(t, a, Outgoing{To: b.info, Data: []byte("3")}, Failed, ErrTooFast)
	deliver(t, c, b, "", "others are not paced")
	wantStored(t, b, "1", "2", "others are not paced")
}

func TestAbsurdRetryAfterIsNotBelieved(t *testing.T) {
	a := newDaemon(t, setup{times: func(p *times) { p.pacing = 20 * time.Millisecond }})
	for _, after := range []int64{math.MaxInt64, math.MinInt64, -1, 0} {
		h := answering(t, func(_ int, m *pb.Message) *pb.Receipt {
			return &pb.Receipt{Id: m.GetId(), Status: pb.Receipt_TOO_FAST, RetryAfter: after}
		})
		wantOutcome(t, a, Outgoing{To: loopback.Info(h), Data: []byte("x")}, Failed, ErrTooFast)
	}
}

func TestTooFastAfterALostReceiptIsUnknown(t *testing.T) {
	a := newDaemon(t, setup{})
	h := answering(t, func(n int, m *pb.Message) *pb.Receipt {
		if n == 1 {
			return nil
		}
		return &pb.Receipt{Id: m.GetId(), Status: pb.Receipt_TOO_FAST, RetryAfter: math.MaxInt64}
	})
	wantOutcome(t, a, Outgoing{To: loopback.Info(h), Data: []byte("x")}, Unknown, ErrUnknownFate)
}

func TestReceiptForAnotherMessageIsNone(t *testing.T) {
	a := newDaemon(t, setup{})
	for _, status := range []pb.Receipt_Status{pb.Receipt_STORED, pb.Receipt_FULL} {
		h := answering(t, func(n int, m *pb.Message) *pb.Receipt {
			return &pb.Receipt{Id: "another", Status: status}
		})
		wantOutcome(t, a, Outgoing{To: loopback.Info(h), Data: []byte("x")}, Unknown, ErrUnknownFate)
	}
	h := answering(t, func(n int, m *pb.Message) *pb.Receipt {
		if n == 1 {
			return &pb.Receipt{Status: pb.Receipt_STORED}
		}
		return &pb.Receipt{Id: m.GetId(), Status: pb.Receipt_STORED}
	})
	out, err := a.Send(testContext(t), Outgoing{To: loopback.Info(h), Data: []byte("x")})
	if err != nil || out.Status != Delivered {
		t.Errorf("after the right receipt: %s, %v", out.Status, err)
	}
}

func TestReceiptIsBounded(t *testing.T) {
	a := newDaemon(t, setup{})
	h := answering(t, func(n int, m *pb.Message) *pb.Receipt {
		return &pb.Receipt{Id: m.GetId(), Status: pb.Receipt_STORED, Reason: string(make([]byte, maxReceipt))}
	})
	wantOutcome(t, a, Outgoing{To: loopback.Info(h), Data: []byte("x")}, Unknown, msgio.ErrMsgTooLarge)
}

func TestRefusalsAreTold(t *testing.T) {
	a := newDaemon(t, setup{})
	for status, want := range map[pb.Receipt_Status]error{
		pb.Receipt_FULL:       ErrRefused,
		pb.Receipt_TOO_LARGE:  ErrTooLarge,
		pb.Receipt_INVALID:    ErrRefused,
		pb.Receipt_FAILED:     ErrRefused,
		pb.Receipt_UNKNOWN:    ErrRefused,
		pb.Receipt_Status(99): ErrRefused,
	} {
		h := answering(t, func(_ int, m *pb.Message) *pb.Receipt {
			return &pb.Receipt{Id: m.GetId(), Status: status, Reason: "why"}
		})
		wantOutcome(t, a, Outgoing{To: loopback.Info(h), Data: []byte("x")}, Failed, want)
	}
}

func TestCancelledWhileQueuedIsNotSent(t *testing.T) {
	a := newDaemon(t, setup{})
	arrived := make(chan struct{}, maxStreams)
	var sent atomic.Int32
	h := loopback.Host(t)
	h.SetStreamHandler(Protocol, func(st network.Stream) {
		defer st.Reset()
		var m pb.Message
		if readFrame(st, &m) == nil {
			sent.Add(1)
			arrived <- struct{}{}
			readFrame(st, &m) // until the sender resets it
		}
	})
	busy, stopBusy := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range maxStreams {
		wg.Go(func() {
			out, err := a.Send(busy, Outgoing{To: loopback.Info(h), Data: []byte("x")})
			if out.Status != Unknown || !errors.Is(err, ErrUnknownFate) || !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled on its way: %s, %v", out.Status, err)
			}
		})
	}
	for range maxStreams {
		<-arrived
	}
	queued, stopQueued := context.WithCancel(t.Context())
	wg.Go(func() {
		out, err := a.Send(queued, Outgoing{To: loopback.Info(h), Data: []byte("x")})
		if out.Status != Failed || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while queued: %s, %v", out.Status, err)
		}
		stopBusy()
	})
	eventually(t, "it is queued", func() bool { return users(a, h.ID()) == maxStreams+1 })
	stopQueued()
	wg.Wait()
	if n := sent.Load(); n != maxStreams {
		t.Errorf("%d were sent", n)
	}
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	if len(a.streams.peers) > 0 {
		t.Errorf("%d recipients are left in the stream pool", len(a.streams.peers))
	}
}

func users(d *daemon, p peer.ID) int {
	d.streams.mu.Lock()
	defer d.streams.mu.Unlock()
	if r := d.streams.peers[p]; r != nil {
		return r.users
	}
	return 0
}

func TestIdleStreamIsClosedAndForgotten(t *testing.T) {
	a := newDaemon(t, setup{times: func(p *times) { p.streamIdle = time.Millisecond }})
	b := newDaemon(t, setup{})
	for range 50 { // sometimes a stream is taken just when it expires
		deliver(t, a, b, "", "x")
	}
	eventually(t, "the stream is closed", func() bool { return inboundStreams(b) == 0 })
	eventually(t, "the recipient is forgotten", func() bool {
		a.streams.mu.Lock()
		defer a.streams.mu.Unlock()
		return len(a.streams.peers) == 0
	})
}

func TestWhatCannotBeSentIsToldAtOnce(t *testing.T) {
	a, b := newDaemon(t, setup{}), newDaemon(t, setup{})
	x := []byte("x")
	wantOutcome(t, a, Outgoing{To: b.info}, Failed, ErrEmpty)
	wantOutcome(t, a, Outgoing{To: b.info, ID: "ü", Data: x}, Failed, ErrBadID)
	wantOutcome(t, a, Outgoing{To: b.info, Data: make([]byte, a.limits.MaxMessageBytes+1)}, Failed, ErrTooLarge)
	wantOutcome(t, a, Outgoing{To: a.info, Data: x}, Failed, ErrSelf)
	wantStored(t, b)
	b.stop()
	out, err := a.Send(testContext(t), Outgoing{To: b.info, Data: x})
	var connect *swarm.ConnectError
	if out.Status != Failed || out.ID == "" || !errors.As(err, &connect) {
		t.Errorf("to a peer that is gone: %+v, %v", out, err)
	}
	a.stop()
	wantOutcome(t, a, Outgoing{To: b.info, Data: x}, Failed, ErrClosed)
}

func TestRelayedConnectionWillDo(t *testing.T) {
	relay := loopback.Host(t, libp2p.EnableRelayService(), libp2p.ForceReachabilityPublic())
	a := newDaemon(t, setup{})
	b := newDaemon(t, setup{host: []libp2p.Option{libp2p.NoListenAddrs, libp2p.EnableRelay()}})
	loopback.Connect(t, b.host, relay)
	_, err := client.Reserve(testContext(t), b.host, loopback.Info(relay))
	must(t, err)
	through := ma.StringCast(fmt.Sprintf("%s/p2p/%s/p2p-circuit", relay.Addrs()[0], relay.ID()))
	b.info.Addrs = []ma.Multiaddr{through}
	if out := deliver(t, a, b, "", "first"); !out.Route.Relayed {
		t.Errorf("it went by %s", out.Route.Addr)
	}
	if out := deliver(t, a, b, "", "over the same stream"); !out.Route.Relayed {
		t.Errorf("it went by %s", out.Route.Addr)
	}
	wantStored(t, b, "first", "over the same stream")
}
