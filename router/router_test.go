package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/newpieceplease/npp/test/loopback"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is when a test gives up. Passing tests do not wait for it.
const patience = time.Minute

const topic = "band"

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func patient(peer.ID) bool { return true }

func acceptAll(peer.ID, []byte) bool { return true }

func newRouter(t *testing.T, o Options) (*Router, host.Host) {
	t.Helper()
	h := loopback.Host(t)
	return newRouterOn(t, h, o), h
}

func newRouterOn(t *testing.T, h host.Host, o Options) *Router {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r, err := New(ctx, h, o)
	must(t, err)
	return r
}

// link connects two hosts and waits until from knows that to is subscribed.
func link(t *testing.T, from *Router, h host.Host, to host.Host) {
	t.Helper()
	loopback.Connect(t, h, to)
	eventually(t, "the subscription is known", func() bool { return slices.Contains(from.ListPeers(topic), to.ID()) })
}

func subscribe(t *testing.T, r *Router, accept AcceptFunc) *Subscription {
	t.Helper()
	sub, err := r.Subscribe(topic, accept)
	must(t, err)
	t.Cleanup(sub.Cancel)
	return sub
}

func TestBurstArrivesCompleteInOrderAndUnpacedIfSubscribersSupportBursts(t *testing.T) {
	for _, floodsub := range []bool{false, true} {
		t.Run(fmt.Sprint("floodsub ", floodsub), func(t *testing.T) {
			a, ha := newRouter(t, Options{SupportsBursts: patient, Floodsub: floodsub})
			b, hb := newRouter(t, Options{SupportsBursts: patient, Floodsub: floodsub})
			sub := subscribe(t, b, acceptAll)
			link(t, a, ha, hb)
			a.pace.SetBurst(0) // others are refused
			const n = 1000
			for i := range n {
				must(t, a.Publish(testContext(t), topic, []byte(fmt.Sprint(i))))
			}
			for i := range n {
				m, err := sub.Next(testContext(t))
				must(t, err)
				if string(m.Data) != fmt.Sprint(i) {
					t.Fatalf("%s came instead of %d", m.Data, i)
				}
			}
			if a.Drops() != (Drops{}) || b.Drops() != (Drops{}) {
				t.Errorf("dropped %v and %v", a.Drops(), b.Drops())
			}
		})
	}
}

func TestConcurrentPublishersLoseNothing(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	b, hb := newRouter(t, Options{SupportsBursts: patient})
	sub := subscribe(t, b, acceptAll)
	link(t, a, ha, hb)
	const publishers, each = 8, 50
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				if err := a.Publish(testContext(t), topic, []byte(fmt.Sprint(p, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := map[string]bool{}
	for range publishers * each {
		m, err := sub.Next(testContext(t))
		must(t, err)
		got[string(m.Data)] = true
	}
	if len(got) != publishers*each {
		t.Errorf("%d came", len(got))
	}
}

func TestImpatientSubscribersArePaced(t *testing.T) {
	for name, ask := range map[string]func(peer.ID) bool{
		"not known": nil,
		"not npp":   func(peer.ID) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			a, ha := newRouter(t, Options{SupportsBursts: ask})
			b, hb := newRouter(t, Options{})
			sub := subscribe(t, b, acceptAll)
			link(t, a, ha, hb)
			a.pace.SetBurst(0) // others are refused
			if err := a.Publish(testContext(t), topic, []byte("x")); err == nil {
				t.Error("published without asking the limiter")
			}
			a.pace.SetBurst(1)
			must(t, a.Publish(testContext(t), topic, []byte("y")))
			if m, err := sub.Next(testContext(t)); err != nil || string(m.Data) != "y" {
				t.Errorf("%v, %v", m, err)
			}
		})
	}
}

func TestPublishEndsWithItsContext(t *testing.T) {
	a, _ := newRouter(t, Options{})
	a.publish <- struct{}{} // another publish that does not end
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Publish(ctx, topic, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	<-a.publish
	must(t, a.Publish(t.Context(), topic, []byte("x")))
}

func TestTooLargeIsRefusedAndTheLargestArrives(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	b, hb := newRouter(t, Options{SupportsBursts: patient})
	sub := subscribe(t, b, acceptAll)
	link(t, a, ha, hb)
	if err := a.Publish(t.Context(), topic, make([]byte, MaxMessageBytes+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error is %v", err)
	}
	must(t, a.Publish(t.Context(), topic, make([]byte, MaxMessageBytes)))
	if m, err := sub.Next(testContext(t)); err != nil || len(m.Data) != MaxMessageBytes {
		t.Errorf("%d bytes came, %v", len(m.GetData()), err)
	}
}

// seqnos is where kubo's validator stores the highest sequence number of each
// author.
type seqnos struct {
	mu sync.Mutex
	m  map[peer.ID][]byte
}

func (s *seqnos) Get(_ context.Context, p peer.ID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[p], nil
}

func (s *seqnos) Put(_ context.Context, p peer.ID, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[p] = b
	return nil
}

func message(from peer.ID, topic string, seqno []byte) *pubsub.Message {
	return &pubsub.Message{Message: &pubsubpb.Message{From: []byte(from), Seqno: seqno, Topic: &topic, Data: []byte("x")}}
}

func TestOtherTopicsFollowTheStockRule(t *testing.T) {
	stock := pubsub.NewBasicSeqnoValidator(&seqnos{m: make(map[peer.ID][]byte)}, slog.New(slog.DiscardHandler))
	r, h := newRouter(t, Options{DefaultValidator: stock})
	validate := func(topic string, seqno ...byte) pubsub.ValidationResult {
		return r.validate(t.Context(), "peer", message("author", topic, seqno))
	}
	high, low := []byte{0, 0, 0, 0, 0, 0, 0, 9}, []byte{0, 0, 0, 0, 0, 0, 0, 5}
	for _, step := range []struct {
		seqno []byte
		want  pubsub.ValidationResult
	}{
		{high, pubsub.ValidationAccept},
		{low, pubsub.ValidationIgnore},
		{[]byte{1}, pubsub.ValidationReject}, // the default validator would panic
		{append(high, 1), pubsub.ValidationReject},
		{nil, pubsub.ValidationIgnore},
	} {
		if got := validate("stock", step.seqno...); got != step.want {
			t.Errorf("sequence number %x: %v, want %v", step.seqno, got, step.want)
		}
	}

	// A subscribed topic: the order does not matter, the subscriber decides.
	var refuse atomic.Bool
	sub := subscribe(t, r, func(author peer.ID, seqno []byte) bool {
		if author != "author" {
			t.Errorf("asked about %s", author)
		}
		return !refuse.Load()
	})
	var random [12]byte
	for range 10 {
		for i := range random {
			random[i] = byte(rand.Uint32())
		}
		if got := validate(topic, random[:]...); got != pubsub.ValidationAccept {
			t.Errorf("a random sequence number: %v", got)
		}
	}
	refuse.Store(true)
	if got := validate(topic, low...); got != pubsub.ValidationIgnore {
		t.Errorf("what the subscriber refuses: %v", got)
	}
	if got := r.validate(t.Context(), "peer", message(h.ID(), topic, low)); got != pubsub.ValidationAccept {
		t.Errorf("our own message: %v", got)
	}
	if got := validate("stock", low...); got != pubsub.ValidationIgnore {
		t.Errorf("another topic meanwhile: %v", got)
	}
	second := subscribe(t, r, acceptAll)
	sub.Cancel()
	if got := validate(topic, low...); got != pubsub.ValidationAccept {
		t.Errorf("with one of two subscriptions: %v", got)
	}
	second.Cancel()
	if got := validate(topic, low...); got != pubsub.ValidationIgnore {
		t.Errorf("after the last subscription: %v", got)
	}

	release := r.use(topic, nil)
	if got := validate(topic, low...); got != pubsub.ValidationAccept {
		t.Errorf("while we publish: %v", got)
	}
	release()
	if got := validate(topic, low...); got != pubsub.ValidationIgnore {
		t.Errorf("after we published: %v", got)
	}
	if len(r.used) != 0 {
		t.Errorf("%d topics are ours", len(r.used))
	}
}

func TestSubscriptionBesideIpfsPubsub(t *testing.T) {
	r, h := newRouter(t, Options{SupportsBursts: patient})
	stock, err := r.PubSub().Join(topic)
	must(t, err)
	defer stock.Close()
	theirs, err := stock.Subscribe()
	must(t, err)
	defer theirs.Cancel()
	ours := subscribe(t, r, acceptAll)
	must(t, r.Publish(t.Context(), topic, []byte("x")))
	for _, next := range []func(context.Context) (*pubsub.Message, error){theirs.Next, ours.Next} {
		if m, err := next(testContext(t)); err != nil || m.GetFrom() != h.ID() {
			t.Errorf("%v, %v", m, err)
		}
	}
	ours.Cancel()
	if !slices.Contains(r.GetTopics(), topic) {
		t.Error("the other subscription went, too")
	}
}

func TestDropsAreCounted(t *testing.T) {
	t.Run("subscriber too slow", func(t *testing.T) {
		r, _ := newRouter(t, Options{})
		slow, err := r.PubSub().Subscribe(topic, pubsub.WithBufferSize(1)) //nolint:staticcheck
		must(t, err)
		defer slow.Cancel()
		for range 5 {
			must(t, r.Publish(testContext(t), topic, []byte("x")))
		}
		eventually(t, "four are counted", func() bool { return r.Drops() == Drops{Subscriber: 4} })
	})
	t.Run("validation queue full", func(t *testing.T) {
		a, ha := newRouter(t, Options{SupportsBursts: patient})
		b, hb := newRouter(t, Options{Extra: []pubsub.Option{pubsub.WithValidateQueueSize(1), pubsub.WithValidateWorkers(1)}})
		entered, release := make(chan struct{}, 100), make(chan struct{})
		sub := subscribe(t, b, func(peer.ID, []byte) bool {
			entered <- struct{}{}
			<-release
			return true
		})
		link(t, a, ha, hb)
		const n = 20
		for range n {
			must(t, a.Publish(testContext(t), topic, []byte("x")))
		}
		<-entered
		eventually(t, "all but two are counted", func() bool { return b.Drops() == Drops{Validation: n - 2} })
		close(release)
		for range 2 {
			_, err := sub.Next(testContext(t))
			must(t, err)
		}
	})
	t.Run("outbound queue full", func(t *testing.T) {
		r, hr := newRouter(t, Options{SupportsBursts: patient, Extra: []pubsub.Option{pubsub.WithPeerOutboundQueueSize(1)}})
		newRawPeer(t, pubsub.FloodSubID, topic).join(t, r, hr) // it never reads
		for r.Drops().Outbound == 0 {
			must(t, r.Publish(testContext(t), topic, make([]byte, MaxMessageBytes)))
		}
	})
}

func TestRouterThatCannotStartIsAnError(t *testing.T) {
	h := loopback.Host(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := New(ctx, h, Options{Floodsub: true, Extra: []pubsub.Option{pubsub.WithValidateQueueSize(0)}}); err == nil {
		t.Error("an option of the operator is ignored")
	}
}
