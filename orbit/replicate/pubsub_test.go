package replicate_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

func plain(n *node) { n.plain, n.mid = true, true }

// Two hosts replicate over plain pubsub routers, both ways, as they write, and
// also after one of them closed the database and opened it again.
func TestPlainPubSubReplicates(t *testing.T) {
	t.Parallel()
	fromA := make(chan heard, 64)
	a, b := newNodeAs(t, plain), newNodeAs(t, func(n *node) { n.plain, n.mid, n.heard = true, true, fromA })
	address := a.create("gigs", orbit.TypeEvents).Address()
	a.add(address, "before")
	b.open(address)
	b.connect(a)
	wantSame(t, address, 1, a, b)
	for i := range 5 {
		a.add(address, "from a")
		wantSame(t, address, 2+2*i, a, b)
		b.add(address, "from b")
		wantSame(t, address, 3+2*i, a, b)
	}
	arrived := 0
	for len(fromA) > 0 {
		if h := <-fromA; h.forwarded {
			arrived++
		}
	}
	if arrived < 5 {
		t.Errorf("%d entries of a arrived by pubsub", arrived)
	}
	must(t, b.CloseDatabase(t.Context(), address))
	eventually(t, "b has left the topic", func() bool { return len(a.pubsub.ListPeers(address)) == 0 && len(b.pubsub.GetTopics()) == 0 })
	a.add(address, "while it is closed")
	b.open(address)
	wantSame(t, address, 12, a, b)
}

// It replicates with a daemon's router as well, and forwards an entry once it
// has its ancestors.
func TestPlainPubSubForwardsBetweenOtherRouters(t *testing.T) {
	t.Parallel()
	a, middle, b := newNode(t), newNodeAs(t, plain), newNode(t)
	address := a.create("gigs", orbit.TypeEvents).Address()
	for _, n := range []*node{middle, b} {
		n.open(address)
	}
	middle.connect(a)
	b.connect(middle)
	b.database(address)
	a.add(address, numbered("a%d", 5)...)
	b.add(address, numbered("b%d", 5)...)
	wantSame(t, address, 10, a, middle, b)
}

// An entry that is not part of the log is not forwarded.
func TestPlainPubSubForwardsNoInvalidEntry(t *testing.T) {
	t.Parallel()
	evil, middle, b := newNodeAs(t, plain), newNodeAs(t, plain), newNodeAs(t, plain)
	address := middle.create("gigs", orbit.TypeEvents).Address()
	b.create("gigs", orbit.TypeEvents)
	evil.connect(middle)
	b.connect(middle)
	topic, err := evil.pubsub.Join(address)
	must(t, err)
	eventually(t, "all are subscribed", func() bool {
		return slices.Contains(evil.pubsub.ListPeers(address), middle.host.ID()) && slices.Contains(middle.pubsub.ListPeers(address), b.host.ID())
	})
	good := written(t, middle.signer(), address, "good", nil)
	forged := strings.Replace(string(good.Block.Data), "good", "evil", 1)
	must(t, topic.Publish(t.Context(), []byte(forged)))
	eventually(t, "it is refused", func() bool { return len(middle.refused(address)) == 1 })
	must(t, topic.Publish(t.Context(), good.Block.Data))
	wantSame(t, address, 1, middle, b)
	if refused := b.refused(address); len(refused) != 0 {
		t.Errorf("b has %v", refused)
	}
}

func TestPlainPubSubSaysThatATopicIsTaken(t *testing.T) {
	a := newNodeAs(t, plain)
	r := replicate.PubSub(a.pubsub)
	topic, err := a.pubsub.Join("taken")
	must(t, err)
	if _, err := r.Follow("taken", nil); err == nil || !strings.Contains(err.Error(), `"taken"`) {
		t.Error(err)
	}
	must(t, topic.Close())
	stop, err := r.Follow("taken", nil)
	must(t, err)
	stop()
	if err := r.Announce(t.Context(), "taken", nil); err == nil {
		t.Error("it publishes on a topic that is not followed")
	}
}
