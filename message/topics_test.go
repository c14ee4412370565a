package message

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/test/loopback"
)

// connectTopics connects two daemons and waits until each knows that the other
// is subscribed to the topic.
func connectTopics(t *testing.T, a, b *daemon, topic string) {
	t.Helper()
	must(t, a.host.Connect(testContext(t), b.info))
	eventually(t, "they know of each other's subscriptions", func() bool {
		return slices.Contains(a.router.ListPeers(topic), b.info.ID) &&
			(!slices.Contains(a.router.GetTopics(), topic) || slices.Contains(b.router.ListPeers(topic), a.info.ID))
	})
}

// author is a peer that writes pubsub messages by hand.
type author struct {
	t    *testing.T
	host host.Host
	to   network.Stream
}

func newAuthor(t *testing.T, to *daemon, opts ...libp2p.Option) *author {
	t.Helper()
	h := loopback.Host(t, opts...)
	must(t, h.Connect(testContext(t), to.info))
	st, err := h.NewStream(testContext(t), to.info.ID, pubsub.FloodSubID)
	must(t, err)
	return &author{t, h, st}
}

func (a *author) publish(topic string, seqno []byte, data string) {
	a.t.Helper()
	m := &pubsubpb.Message{From: []byte(a.host.ID()), Data: []byte(data), Seqno: seqno, Topic: &topic}
	b, err := proto.Marshal(m)
	must(a.t, err)
	m.Signature, err = a.host.Peerstore().PrivKey(a.host.ID()).Sign(append([]byte(pubsub.SignPrefix), b...))
	must(a.t, err)
	a.send(m)
}

func (a *author) send(m *pubsubpb.Message) {
	a.t.Helper()
	b, err := proto.Marshal(&pubsubpb.RPC{Publish: []*pubsubpb.Message{m}})
	must(a.t, err)
	_, err = a.to.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
	must(a.t, err)
}

func awaitMessage(t *testing.T, what string, messages <-chan *Message) *Message {
	t.Helper()
	select {
	case m := <-messages:
		return m
	case <-testContext(t).Done():
		t.Fatalf("%s did not come", what)
		return nil
	}
}

func TestBurstOfAThousandArrivesWholeAndOnce(t *testing.T) {
	test := func(t *testing.T, b *daemon) {
		a := newDaemon(t, setup{pubsub: true})
		messages, _ := listening(t, testContext(t), b, Filter{Topic: "band"})
		connectTopics(t, a, b, "band")
		texts := shortTexts(1000)
		for _, text := range texts {
			subscribers, err := a.Publish(testContext(t), "band", []byte(text))
			must(t, err)
			if len(subscribers) != 1 || subscribers[0] != b.info.ID {
				t.Fatalf("subscribers are %s", subscribers)
			}
		}
		got := map[string]int{}
		for range texts {
			m := awaitMessage(t, fmt.Sprintf("all but %d", len(got)), messages)
			if m.From != a.info.ID || m.Via != Pubsub || len(m.Topics) != 1 || m.Topics[0] != "band" || len(m.Seqno) != 8 || !m.Sent.IsZero() {
				t.Fatalf("message %+v", m)
			}
			got[string(m.Data)]++
		}
		for _, text := range texts {
			if got[text] != 1 {
				t.Errorf("%s came %d times", text, got[text])
			}
		}
		if st, err := b.Stats(t.Context()); err != nil || st.PubsubBytes == 0 || st.RefusedPubsub != 0 || st.Dropped.Subscriber+st.Dropped.Validation+st.Dropped.Outbound != 0 {
			t.Errorf("stats %+v, %v", st, err)
		}
	}
	t.Run("disk", func(t *testing.T) { test(t, newDaemon(t, setup{pubsub: true})) })
	t.Run("leveldb", func(t *testing.T) {
		ds := openLevelDB(t, t.TempDir())
		t.Cleanup(func() { ds.Close() })
		test(t, newDaemon(t, setup{pubsub: true, ds: ds}))
	})
}

func TestMessagesWithRandomSequenceNumbersAreStored(t *testing.T) {
	b := newDaemon(t, setup{pubsub: true})
	messages, _ := listening(t, testContext(t), b, Filter{})
	a := newAuthor(t, b)
	var seqno [8]byte
	for i := range 100 {
		rand.Read(seqno[:])
		a.publish(b.info.ID.String(), seqno[:], fmt.Sprint(i))
	}
	a.publish(b.info.ID.String(), []byte{1, 2, 3}, "short")
	a.publish(b.info.ID.String(), nil, "none")
	got := map[string]bool{}
	for range 102 {
		m := awaitMessage(t, "a message", messages)
		if m.From != a.host.ID() {
			t.Fatalf("message %+v", m)
		}
		got[string(m.Data)] = true
	}
	if len(got) != 102 {
		t.Errorf("%d different messages came", len(got))
	}
}

func TestReplayedPubsubMessageIsNotStoredAgain(t *testing.T) {
	ds, key, authorKey := storetest.NewDisk(), newKey(t), newKey(t)
	// hear publishes to a daemon that has just started, and returns what it
	// received.
	hear := func(then func(*daemon), want int, texts ...string) (got []string) {
		b := newDaemon(t, setup{ds: ds, key: key, pubsub: true})
		defer b.stop()
		a := newAuthor(t, b, libp2p.Identity(authorKey))
		defer a.host.Close()
		messages, _ := listening(t, testContext(t), b, Filter{})
		for _, text := range texts {
			a.publish(b.info.ID.String(), []byte("seqno "+text), text)
		}
		for len(got) < want {
			got = append(got, string(awaitMessage(t, "a message", messages).Data))
		}
		a.publish(b.info.ID.String(), []byte("end "+texts[len(texts)-1]), "end")
		for m := awaitMessage(t, "the end", messages); string(m.Data) != "end"; m = awaitMessage(t, "the end", messages) {
			got = append(got, string(m.Data))
		}
		then(b)
		return got
	}
	remove := func(b *daemon) {
		_, err := b.RemoveAll(t.Context(), Filter{Since: SinceAll}, time.Now().Add(time.Hour))
		must(t, err)
	}
	keep := func(*daemon) {}
	for _, step := range []struct {
		then  func(*daemon)
		texts []string
		want  []string
	}{
		{keep, []string{"1", "2"}, []string{"1", "2"}},
		{remove, []string{"1", "2", "3"}, []string{"3"}},
		{keep, []string{"3", "1", "2", "4"}, []string{"4"}},
	} {
		got := hear(step.then, len(step.want), step.texts...)
		slices.Sort(got)
		if !slices.Equal(got, step.want) {
			t.Errorf("of %s it heard %s, want %s", step.texts, got, step.want)
		}
	}
}

func TestForgedPubsubMessagesAreNotStored(t *testing.T) {
	b := newDaemon(t, setup{pubsub: true})
	messages, _ := listening(t, testContext(t), b, Filter{})
	a := newAuthor(t, b)
	topic := b.info.ID.String()
	victim := loopback.Host(t)
	a.send(&pubsubpb.Message{From: []byte(victim.ID()), Data: []byte("unsigned"), Seqno: []byte{1}, Topic: &topic})
	a.send(&pubsubpb.Message{From: []byte(victim.ID()), Data: []byte("badly signed"), Seqno: []byte{2}, Topic: &topic, Signature: make([]byte, 64)})
	a.send(&pubsubpb.Message{From: []byte(b.info.ID), Data: []byte("as ourselves"), Seqno: []byte{3}, Topic: &topic, Signature: make([]byte, 64)})
	a.publish(topic, []byte{4}, "true")
	if m := awaitMessage(t, "the true one", messages); string(m.Data) != "true" {
		t.Errorf("heard %q", m.Data)
	}
}

func TestOwnMessagesAreNotStored(t *testing.T) {
	a, b := newDaemon(t, setup{pubsub: true}), newDaemon(t, setup{pubsub: true})
	heardByA, _ := listening(t, testContext(t), a, Filter{Topic: "band"})
	heardByB, _ := listening(t, testContext(t), b, Filter{Topic: "band"})
	connectTopics(t, a, b, "band")
	_, err := a.Publish(testContext(t), "band", []byte("from a"))
	must(t, err)
	if m := awaitMessage(t, "a's message", heardByB); string(m.Data) != "from a" {
		t.Errorf("b heard %q", m.Data)
	}
	_, err = b.Publish(testContext(t), "band", []byte("from b"))
	must(t, err)
	if m := awaitMessage(t, "b's message", heardByA); string(m.Data) != "from b" {
		t.Errorf("a heard %q", m.Data)
	}
}

func TestPublishWithoutSubscribersIsAnError(t *testing.T) {
	a := newDaemon(t, setup{pubsub: true})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := a.Publish(ctx, "band", []byte("x"))
	wantErr(t, err, ErrNobody)
	_, err = a.Publish(ctx, "band", nil)
	wantErr(t, err, ErrEmpty)
	for _, topic := range []string{"", string(make([]byte, maxTopicLength+1))} {
		if _, err := a.Publish(ctx, topic, []byte("x")); err == nil {
			t.Errorf("a topic of %d bytes is taken", len(topic))
		}
		if h := listenFor(ctx, a, Filter{Topic: topic}, 1); topic != "" && h.err == nil {
			t.Errorf("a topic of %d bytes is subscribed to", len(topic))
		}
	}
	_, err = newDaemon(t, setup{}).Publish(ctx, "band", []byte("x"))
	wantErr(t, err, ErrNoPubsub)
}

func TestPeerWithoutTheProtocolGetsItByPubsub(t *testing.T) {
	a, b := newDaemon(t, setup{pubsub: true}), newDaemon(t, setup{pubsub: true})
	topic := b.info.ID.String()
	connectTopics(t, a, b, topic)
	b.host.RemoveStreamHandler(Protocol)
	eventually(t, "the other side knows", func() bool { return !negotiate.Speaks(a.host, b.info.ID, Protocol) })
	l := Outgoing{To: b.info, Data: []byte("hello")}
	out, err := a.Send(testContext(t), l)
	if err != nil || out.Status != Published || out.Via != Pubsub || !out.RecipientSubscribed || len(out.Subscribers) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	l.DirectOnly = true
	wantOutcome(t, a, l, Failed, ErrNoProtocol)
}

func TestPeerThatSpeaksTheProtocolNeverGetsItByPubsub(t *testing.T) {
	a, b := newDaemon(t, setup{pubsub: true}), newDaemon(t, setup{pubsub: true})
	topic := b.info.ID.String()
	connectTopics(t, a, b, topic)
	l := Outgoing{To: b.info, Data: []byte("hello")}

	// It announces the protocol, and stops at this moment.
	b.host.RemoveStreamHandler(Protocol)
	eventually(t, "the other side knows", func() bool { return !negotiate.Speaks(a.host, b.info.ID, Protocol) })
	must(t, a.host.Peerstore().AddProtocols(b.info.ID, Protocol))
	wantOutcome(t, a, l, Failed, ErrNoProtocol)

	// It spoke the protocol before: a refusal suffices.
	b.host.SetStreamHandler(Protocol, b.handle)
	deliver(t, a, b, "id", "first")
	must(t, a.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Delete(speaksKey(b.info.ID)) }))
	part := func() {
		b.host.Network().ClosePeer(a.info.ID)
		eventually(t, "the connection is gone", func() bool {
			return a.host.Network().Connectedness(b.info.ID) == network.NotConnected && inboundStreams(b) == 0
		})
	}
	part()
	wantOutcome(t, a, Outgoing{To: b.info, ID: "id", Data: []byte("other")}, Failed, ErrRefused)
	b.host.RemoveStreamHandler(Protocol)
	eventually(t, "the other side knows", func() bool { return !negotiate.Speaks(a.host, b.info.ID, Protocol) })
	part()
	wantOutcome(t, a, l, Failed, ErrNoProtocol)
	wantStored(t, b, "first")
}

func TestWhatComesFasterThanItIsStoredIsBoundedAndCounted(t *testing.T) {
	b := newDaemon(t, setup{pubsub: true})
	messages, _ := listening(t, testContext(t), b, Filter{})
	if !b.pubsubBudget.TryAcquire(pubsubBudgetBytes - 10_000) {
		t.Fatal("the intake is in use")
	}
	entered, release := make(chan struct{}), make(chan struct{})
	go b.store.Update(context.Background(), func(*store.Tx) error {
		close(entered)
		<-release
		return nil
	})
	<-entered // nothing can be stored now
	a := newAuthor(t, b)
	const n = 50
	for i := range n {
		a.publish(b.info.ID.String(), []byte{byte(i)}, string(make([]byte, 1000)))
	}
	const fit = 10_000 / (1000 + recordOverhead + 1)
	eventually(t, "the rest is counted", func() bool {
		st, err := b.Stats(t.Context())
		must(t, err)
		return st.Dropped.Subscriber == n-fit
	})
	close(release)
	for range fit {
		awaitMessage(t, "what was taken in", messages)
	}
	eventually(t, "the account is even", func() bool { return b.pubsubBudget.TryAcquire(10_000) })
}

func TestFloodOfPubsubFillsItsOwnQuotaOnly(t *testing.T) {
	b := newDaemon(t, setup{pubsub: true, limits: func(l *Limits) { l.PubsubBytes = 1 << 20 }})
	honest := newDaemon(t, setup{})
	deliver(t, honest, b, "", "before")
	a := newAuthor(t, b)
	for i := range 100 {
		a.publish(b.info.ID.String(), []byte{byte(i)}, fmt.Sprintf("%50000d", i))
	}
	eventually(t, "all are stored, or were", func() bool {
		st, err := b.Stats(t.Context())
		must(t, err)
		return int(st.Expired)+len(stored(t, b)) >= 100
	})
	deliver(t, honest, b, "", "after")
	st, err := b.Stats(t.Context())
	if err != nil || st.PubsubBytes > 1<<18 || st.Expired == 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	ms := slices.DeleteFunc(stored(t, b), func(m *Message) bool { return m.From != honest.info.ID })
	if len(ms) != 2 {
		t.Errorf("%d direct messages are left", len(ms))
	}
	checkBooks(t, b.box)
}
