package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	pubsub "github.com/libp2p/go-libp2p-pubsub"

	"github.com/newpieceplease/npp/test/loopback"
)

// wantRefused tries to open a topic in both ways, and returns the error.
func wantRefused(t *testing.T, r *Router, topic string) *TopicLimitError {
	t.Helper()
	_, err := r.Subscribe(topic, acceptAll)
	if !errors.Is(err, ErrTooManyTopics) {
		t.Errorf("subscribing: %v", err)
	}
	_, err = r.Follow(topic, takeAll)
	var limit *TopicLimitError
	if !errors.Is(err, ErrTooManyTopics) || !errors.As(err, &limit) {
		t.Fatalf("following: %v", err)
	}
	if r.follows(topic) || r.used[topic] != nil || slices.Contains(r.GetTopics(), topic) {
		t.Errorf("something of %s is left", topic)
	}
	return limit
}

// wantFreed waits until a topic has been closed.
func wantFreed(t *testing.T, limit *TopicLimitError) {
	t.Helper()
	select {
	case <-limit.Freed:
	case <-testContext(t).Done():
		t.Fatal("no topic was freed")
	}
}

func TestNoMoreTopicsAreOpenedThanTheLimit(t *testing.T) {
	r, _ := newRouter(t, Options{Limits: Limits{Topics: 3}})
	stopFirst, err := r.Follow("first", takeAll)
	must(t, err)
	second := subscribeTo(t, r, "second")
	other, err := r.PubSub().Subscribe("third") //nolint:staticcheck // as `ipfs pubsub sub` does
	must(t, err)

	limit := wantRefused(t, r, "fourth")
	if limit.Topics != 3 {
		t.Errorf("%d topics are open", limit.Topics)
	}
	select {
	case <-limit.Freed:
		t.Error("a topic is freed")
	default:
	}
	subscribeTo(t, r, "second").Cancel() // it is open
	subscribeTo(t, r, "third").Cancel()
	must(t, r.Publish(testContext(t), "fourth", []byte("x"))) // which opens no topic
	wantRefused(t, r, "fourth")

	for topic, end := range map[string]func(){"first": stopFirst, "second": second.Cancel, "third": other.Cancel} {
		limit := wantRefused(t, r, "fourth")
		end()
		wantFreed(t, limit)
		stop, err := r.Follow("fourth", takeAll)
		must(t, err)
		limit = wantRefused(t, r, topic)
		stop()
		wantFreed(t, limit)
		follow(t, r, topic, takeAll)
	}

	// `ipfs pubsub sub` is never refused
	fourth, err := r.PubSub().Subscribe("fourth") //nolint:staticcheck
	must(t, err)
	defer fourth.Cancel()
	if limit := wantRefused(t, r, "fifth"); limit.Topics != 4 {
		t.Errorf("%d topics are open", limit.Topics)
	}
}

// A topic counts before pubsub accepts messages of it.
func TestTopicIsOpenBeforeItIsJoined(t *testing.T) {
	s := newTopicSet(Limits{}.withDefaults())
	must(t, s.open(topic))
	if !s.has(topic) || s.isJoined(topic) {
		t.Error("opened")
	}
	s.join(topic)
	s.close(topic)
	if !s.has(topic) || !s.isJoined(topic) {
		t.Error("joined")
	}
	s.leave(topic)
	if s.has(topic) || s.isJoined(topic) || s.bytes != 0 {
		t.Error("left")
	}
}

func TestTopicsAreNoLongerThanTheLimit(t *testing.T) {
	r, _ := newRouter(t, Options{Limits: Limits{TopicBytes: 1000}})
	long := strings.Repeat("x", 900)
	stop, err := r.Follow(long, takeAll)
	must(t, err)
	follow(t, r, "short", takeAll)
	limit := wantRefused(t, r, strings.Repeat("y", 100))
	stop()
	wantFreed(t, limit)
	follow(t, r, strings.Repeat("y", 900), takeAll)
	wantRefused(t, r, long)
}

// Peers reset the streams of a peer with too many topics and never receive its
// messages. All topics that a router opens are announced, and no others are
// opened.
func TestStockPeerSeesAsManyTopicsAsAreOpened(t *testing.T) {
	a, ha := newRouter(t, Options{})
	topicOf := func(n int) string { return fmt.Sprintf("/orbitdb/zdpu%045d", n) } // as long as the address of a database
	open := 0
	for ; ; open++ {
		stop, err := a.Follow(topicOf(open), takeAll)
		if errors.Is(err, ErrTooManyTopics) {
			break
		}
		must(t, err)
		defer stop()
	}
	if open != 7000 {
		t.Errorf("%d topics are open", open)
	}
	hs := loopback.Host(t)
	stock, err := pubsub.NewGossipSub(t.Context(), hs)
	must(t, err)
	loopback.Connect(t, ha, hs)
	for n := range open {
		eventually(t, "the topic is seen", func() bool { return slices.Contains(stock.ListPeers(topicOf(n)), ha.ID()) })
	}
	// The RPC has space for some topics of `ipfs pubsub sub`.
	if a.topics.bytes > pubsub.DefaultMaxControlMessageSize-16<<10 {
		t.Errorf("the topics take %d bytes", a.topics.bytes)
	}
	hs.Close() // so that no peer is told of 7000 closed topics
	eventually(t, "the stock peer is gone", func() bool { return len(a.PubSub().ListPeers("")) == 0 })
}
