package router

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/test/loopback"
)

func takeAll(context.Context, *pubsub.Message) bool { return true }

func follow(t *testing.T, r *Router, topic string, take ForwardFunc) {
	t.Helper()
	stop, err := r.Follow(topic, take)
	must(t, err)
	t.Cleanup(stop)
}

// A message is forwarded to peers behind a follower after the follower accepted
// it, and never otherwise.
func TestFollowerPassesOnWhatItTook(t *testing.T) {
	a, hostA := newRouter(t, Options{SupportsBursts: patient, TellFollowed: true})
	b, hostB := newRouter(t, Options{SupportsBursts: patient, TellFollowed: true})
	c, hostC := newRouter(t, Options{SupportsBursts: patient, TellFollowed: true})
	release := make(chan struct{})
	follow(t, b, topic, func(ctx context.Context, m *pubsub.Message) bool {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return string(m.GetData()) != "refused"
	})
	got := make(chan string, 2)
	follow(t, c, topic, func(_ context.Context, m *pubsub.Message) bool {
		got <- string(m.GetData())
		return true
	})
	link(t, b, hostB, hostC)
	follow(t, a, topic, takeAll)
	link(t, a, hostA, hostB)
	link(t, b, hostB, hostA)
	eventually(t, "b passes on to c", func() bool { return len(b.Unmeshed(topic)) == 0 })
	must(t, a.Announce(t.Context(), topic, []byte("refused")))
	must(t, a.Announce(t.Context(), topic, []byte("taken")))
	select {
	case m := <-got:
		t.Fatalf("%q was passed on before it was taken", m)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	select {
	case m := <-got:
		if m != "taken" {
			t.Errorf("%q was passed on", m)
		}
	case <-testContext(t).Done():
		t.Fatal("nothing was passed on")
	}
}

func TestSubscriptionsAreToldOf(t *testing.T) {
	a, hostA := newRouter(t, Options{SupportsBursts: patient})
	b, hostB := newRouter(t, Options{SupportsBursts: patient, TellFollowed: true})
	type told struct {
		p     peer.ID
		topic string
		on    bool
	}
	news := make(chan told, 16)
	a.OnSubscription(func(p peer.ID, topic string, on bool) { news <- told{p, topic, on} })
	want := func(w told) {
		t.Helper()
		for {
			select {
			case got := <-news:
				if got == w {
					return
				}
			case <-testContext(t).Done():
				t.Fatalf("never told of %v", w)
			}
		}
	}
	follow(t, b, "before", takeAll)
	loopback.Connect(t, hostA, hostB)
	want(told{hostB.ID(), "before", true})
	stop, err := b.Follow("after", takeAll)
	must(t, err)
	want(told{hostB.ID(), "after", true})
	stop()
	want(told{hostB.ID(), "after", false})
}

func TestTopicCanBeFollowedAgain(t *testing.T) {
	a, _ := newRouter(t, Options{})
	for range 3 {
		stop, err := a.Follow(topic, takeAll)
		must(t, err)
		if _, err := a.Follow(topic, takeAll); err == nil {
			t.Error("it is followed twice at once")
		}
		if !a.topics.isFollowed(topic) {
			t.Error("it is not followed")
		}
		stop()
		stop()
	}
	if a.topics.isFollowed(topic) || len(a.topics.topics) != 0 {
		t.Error("it is still followed")
	}
}

func TestAnnouncementIsNotTooLarge(t *testing.T) {
	a, _ := newRouter(t, Options{})
	if err := a.Announce(t.Context(), topic, make([]byte, MaxMessageBytes+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// searches is a discovery that counts searches and finds no peer until it is
// released.
type searches struct {
	mu       sync.Mutex
	of       map[string]int
	running  atomic.Int32
	released chan struct{}
}

func (s *searches) Advertise(context.Context, string, ...discovery.Option) (time.Duration, error) {
	return time.Hour, nil
}

func (s *searches) FindPeers(_ context.Context, ns string, _ ...discovery.Option) (<-chan peer.AddrInfo, error) {
	s.mu.Lock()
	s.of[ns]++
	s.mu.Unlock()
	s.running.Add(1)
	found := make(chan peer.AddrInfo)
	go func() {
		<-s.released
		s.running.Add(-1)
		close(found)
	}()
	return found, nil
}

func TestFollowedTopicsAreLookedForSparingly(t *testing.T) {
	s := &searches{of: make(map[string]int), released: make(chan struct{})}
	d := newThrottledDiscovery(s, func(topic string) bool { return topic != "ours" })
	var wait []<-chan peer.AddrInfo
	find := func(topic string) {
		found, err := d.FindPeers(t.Context(), namespacePrefix+topic)
		must(t, err)
		wait = append(wait, found)
	}
	for i := range 100 {
		find(string(rune('a' + i)))
	}
	if n := s.running.Load(); n != maxSearches {
		t.Errorf("%d searches at once, want %d", n, maxSearches)
	}
	find("ours")
	find("ours")
	if n := s.of[namespacePrefix+"ours"]; n != 2 {
		t.Errorf("a topic that is not followed was looked for %d times, want 2", n)
	}
	close(s.released)
	for _, found := range wait {
		for range found {
		}
	}
	find("a")
	if n := s.of[namespacePrefix+"a"]; n != 1 {
		t.Errorf("a followed topic was looked for %d times within a moment", n)
	}
	find("z") // searched too early
	if n := s.of[namespacePrefix+"z"]; n != 1 {
		t.Errorf("a followed topic was looked for %d times", n)
	}
}

// Who registers late is told of the subscriptions that peers have already.
func TestEarlierSubscriptionsAreTold(t *testing.T) {
	a, hostA := newRouter(t, Options{})
	b, hostB := newRouter(t, Options{})
	subscribe(t, b, acceptAll)
	link(t, a, hostA, hostB)
	told := make(chan string, 1)
	a.OnSubscription(func(p peer.ID, topic string, on bool) {
		if p == hostB.ID() && on {
			told <- topic
		}
	})
	select {
	case got := <-told:
		if got != topic {
			t.Errorf("told of %q", got)
		}
	default:
		t.Error("the subscription is not told")
	}
}
