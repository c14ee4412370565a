package router

import (
	"testing"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
)

func (r *Router) awaited() int {
	r.GetTopics() // all arrived messages have been validated
	r.validating.mu.Lock()
	defer r.validating.mu.Unlock()
	return r.validating.bytes
}

// Messages that a peer sends faster than they are validated are bounded.
// Messages of other peers are accepted meanwhile, and no message counts after
// it was validated.
func TestMessagesThatAwaitValidationAreHeldToABound(t *testing.T) {
	const bound, size, sent = 2 * mib, mib / 4, 20
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	b, hb := newRouter(t, Options{SupportsBursts: patient, Limits: Limits{PeerBytes: bound}})
	c, hc := newRouter(t, Options{SupportsBursts: patient})
	entered, release := make(chan struct{}, 100), make(chan struct{})
	sub := subscribe(t, b, func(_ peer.ID, _ []byte) bool {
		entered <- struct{}{}
		<-release
		return true
	})
	link(t, a, ha, hb)
	link(t, c, hc, hb)
	must(t, a.Publish(testContext(t), topic, make([]byte, size)))
	<-entered // and validation is blocked
	for range sent - 1 {
		must(t, a.Publish(testContext(t), topic, make([]byte, size)))
	}
	eventually(t, "all came", func() bool { return b.awaited() > bound-size-1000 && b.Drops().Validation == sent-1-(bound-1)/size })
	must(t, c.Publish(testContext(t), topic, []byte("from another")))
	eventually(t, "it has room", func() bool {
		b.validating.mu.Lock()
		defer b.validating.mu.Unlock()
		return b.validating.byPeer[hc.ID()] > 0
	})
	if n := b.awaited(); n > bound+1000 {
		t.Errorf("%d bytes await validation", n)
	}
	close(release)
	for range 1 + (bound-1)/size + 1 {
		_, err := sub.Next(testContext(t))
		must(t, err)
	}
	if n := b.awaited(); n != 0 || len(b.validating.messages) != 0 || len(b.validating.byPeer) != 0 {
		t.Errorf("%d bytes await validation", n)
	}
}

// signed returns a message of a peer.
func signed(t *testing.T, p *rawPeer, topic string, seqno byte) *pb.Message {
	t.Helper()
	m := &pb.Message{Topic: &topic, Data: []byte("x"), From: []byte(p.ID()), Seqno: []byte{seqno}}
	b, err := proto.Marshal(m)
	must(t, err)
	m.Signature, err = p.Peerstore().PrivKey(p.ID()).Sign(append([]byte(pubsub.SignPrefix), b...))
	must(t, err)
	return m
}

func TestNothingAwaitsValidationThatIsNotValidated(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	subscribe(t, a, acceptAll)
	p := newRawPeer(t, pubsub.GossipSubID_v11, topic)
	s := p.join(t, a, ha)
	sub := subscribeTo(t, a, "last")
	other := "no topic of ours"
	named := topic
	for _, m := range []*pb.Message{
		{Topic: &other, Data: []byte("x"), From: []byte(p.ID()), Seqno: []byte{1}},
		{Topic: &named, Data: []byte("without a signature"), From: []byte(p.ID()), Seqno: []byte{2}},
		{Topic: &named, Data: []byte("with a wrong one"), From: []byte(p.ID()), Seqno: []byte{3}, Signature: []byte("wrong")},
		{Topic: &named, Data: []byte("as of ourselves"), From: []byte(ha.ID()), Seqno: []byte{4}, Signature: []byte("wrong")},
		signed(t, p, "band", 5), signed(t, p, "band", 5), signed(t, p, "last", 6),
	} {
		send(t, s, &pb.RPC{Publish: []*pb.Message{m}})
	}
	_, err := sub.Next(testContext(t))
	must(t, err)
	if n := a.awaited(); n != 0 || len(a.validating.messages) != 0 {
		t.Errorf("%d bytes await validation", n)
	}
}

func TestAllMessagesThatAwaitValidationShareABound(t *testing.T) {
	w := newValidationBudget(Limits{PeerBytes: 1000, AllBytes: 1500}, func(string) bool { return true })
	var all []*pb.Message
	for _, from := range []peer.ID{"a", "b"} {
		var messages []*pb.Message
		for range 10 {
			messages = append(messages, &pb.Message{Data: make([]byte, 198)})
		}
		size := proto.Size(messages[0])
		admitted, dropped := w.admit(from, messages)
		if want := map[peer.ID]int{"a": 1000 / size, "b": 1500/size - 1000/size}[from]; len(admitted) != want || dropped != 10-want {
			t.Errorf("%d messages of %s are admitted and %d dropped, want %d", len(admitted), from, dropped, want)
		}
		all = append(all, admitted...)
	}
	for _, m := range all {
		w.done(m)
		w.done(m) // which changes nothing
	}
	if w.bytes != 0 || len(w.byPeer) != 0 {
		t.Errorf("%d bytes are counted", w.bytes)
	}
}
