package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// The topics that are shared with a peer are those to which both are
// subscribed, whoever subscribed first.
func TestSharedTopicsAreThoseOfBoth(t *testing.T) {
	a, hostA := newRouter(t, Options{})
	b, hostB := newRouter(t, Options{})
	subscribe := func(r *Router, topic string) *Subscription {
		sub, err := r.Subscribe(topic, nil)
		must(t, err)
		t.Cleanup(sub.Cancel)
		return sub
	}
	shares := func(want ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("they share %v", want), func() bool { return slices.Equal(a.SharedTopics(hostB.ID()), want) })
	}
	subscribe(a, "1")
	subscribe(b, "1")
	subscribe(b, "theirs")
	subscribe(a, "ours")
	last := subscribe(b, "2")
	loopback.Connect(t, hostA, hostB)
	shares("1")
	subscribe(a, "2")
	shares("1", "2")
	last.Cancel()
	shares("1")
	must(t, hostA.Network().ClosePeer(hostB.ID()))
	shares()
}

func TestAnnouncementIsNotTooLarge(t *testing.T) {
	a, _ := newRouter(t, Options{})
	if err := a.Announce(t.Context(), topic, make([]byte, MaxMessageBytes+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// asked is a discovery service that finds nobody, and tells what it was asked
// for.
type asked struct{ advertised, searched chan string }

func (a asked) Advertise(_ context.Context, ns string, _ ...discovery.Option) (time.Duration, error) {
	a.advertised <- ns
	return time.Hour, nil
}

func (a asked) FindPeers(_ context.Context, ns string, _ ...discovery.Option) (<-chan peer.AddrInfo, error) {
	a.searched <- ns
	none := make(chan peer.AddrInfo)
	close(none)
	return none, nil
}

// Gossipsub neither advertises nor searches for topics that are only followed.
func TestFollowedTopicsAreLeftToFollowers(t *testing.T) {
	a := asked{make(chan string, 64), make(chan string, 64)}
	r, _ := newRouter(t, Options{Discovery: a})
	for i := range 16 {
		follow(t, r, fmt.Sprint("followed", i), takeAll)
	}
	follow(t, r, "both", takeAll)
	for _, topic := range []string{"both", "subscribed"} {
		sub, err := r.Subscribe(topic, nil)
		must(t, err)
		defer sub.Cancel()
	}
	_, err := r.PubSub().Subscribe("foreign") //nolint:staticcheck // as `ipfs pubsub sub` does
	must(t, err)
	const rounds = 2
	counts := make(map[string]int)
	for counts["foreign"] < 1+rounds || counts["subscribed"] < 1+rounds || counts["both"] < rounds {
		var ns string
		select {
		case ns = <-a.advertised:
		case ns = <-a.searched:
		case <-testContext(t).Done():
			t.Fatalf("asked for %v", counts)
		}
		topic, ok := strings.CutPrefix(ns, namespacePrefix)
		if !ok || strings.HasPrefix(topic, "followed") {
			t.Fatalf("asked for %q", ns)
		}
		counts[topic]++
	}
}

// Pubsub keeps nothing of a topic that is not followed any more.
func TestTopicThatIsNotFollowedAnyMoreIsForgotten(t *testing.T) {
	r, _ := newRouter(t, Options{SupportsBursts: patient})
	stop, err := r.Follow("topic", func(context.Context, *pubsub.Message) bool { return true })
	must(t, err)
	stop()
	handle, err := r.PubSub().Join("topic")
	must(t, err)
	// A topic that `ipfs pubsub` uses stays.
	sub, err := handle.Subscribe()
	must(t, err)
	defer sub.Cancel()
	stop, err = r.Follow("topic", func(context.Context, *pubsub.Message) bool { return true })
	must(t, err)
	stop()
	if !slices.Contains(r.GetTopics(), "topic") {
		t.Error("the subscription of another user has ended")
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
