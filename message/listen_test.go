package message

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/test/loopback"
)

// heard is what a listener received, and how it ended.
type heard struct {
	messages []*Message
	err      error
}

// listenFor listens until n messages arrived, or until the end if n is 0.
func listenFor(ctx context.Context, d *daemon, f Filter, n int) heard {
	var h heard
	for m, err := range d.Listen(ctx, f) {
		if err != nil {
			h.err = err
			continue
		}
		if h.messages = append(h.messages, m); len(h.messages) == n {
			break
		}
	}
	return h
}

// listening starts a listener for new messages. It returns when the listener
// receives, for which it stores probes. The channels carry the messages and the
// final error.
func listening(t *testing.T, ctx context.Context, d *daemon, f Filter) (<-chan *Message, <-chan error) {
	t.Helper()
	messages, end := make(chan *Message, 10_000), make(chan error, 1)
	probe := direct("probe", NewID(), "probe")
	if f.Topic != "" {
		probe.Topics = []string{f.Topic}
	}
	if f.From != "" {
		probe.From = f.From
	}
	running := make(chan struct{})
	go func() {
		var last error
		started := false
		for m, err := range d.Listen(ctx, f) {
			switch {
			case err != nil:
				last = err
			case string(m.Data) != "probe":
				messages <- m
			case !started:
				started = true
				close(running)
			}
		}
		close(messages)
		end <- last
	}()
	for {
		select {
		case <-running:
			return messages, end
		case <-end:
			t.Fatal("the listener ended at once")
		case <-testContext(t).Done():
			t.Fatal("the listener hears nothing")
		default:
			p := *probe
			p.ID = NewID()
			must(t, d.box.add(t.Context(), &p))
		}
	}
}

// wantEnd waits until a listener ends without an error.
func wantEnd(t *testing.T, end <-chan error) {
	t.Helper()
	select {
	case err := <-end:
		if err != nil {
			t.Errorf("the listener ended with %v", err)
		}
	case <-testContext(t).Done():
		t.Fatal("the listener does not end")
	}
}

func TestEachListenerGetsEveryMessageOnceAndInOrder(t *testing.T) {
	const senders, each, old = 4, 100, 60
	b := newDaemon(t, setup{})
	for i := range old {
		must(t, b.box.add(t.Context(), direct("before", fmt.Sprint(i), "old")))
	}
	ctx := testContext(t)
	var lives []<-chan *Message
	for range 3 {
		live, _ := listening(t, ctx, b, Filter{})
		lives = append(lives, live)
	}
	var wg sync.WaitGroup
	for range senders {
		a := newDaemon(t, setup{})
		wg.Go(func() {
			for i := range each {
				deliver(t, a, b, "", fmt.Sprint(i))
			}
		})
	}
	wg.Go(func() {
		for i := range old {
			must(t, b.Remove(ctx, fmt.Sprint(i)))
		}
	})
	wg.Wait()
	var want []uint64
	for _, m := range stored(t, b) {
		if string(m.Data) != "probe" {
			want = append(want, m.Number)
		}
	}
	if len(want) != senders*each {
		t.Fatalf("%d are stored", len(want))
	}
	for _, live := range lives {
		var got []uint64
		for range want {
			select {
			case m := <-live:
				got = append(got, m.Number)
			case <-ctx.Done():
				t.Fatalf("only %d came", len(got))
			}
		}
		if !slices.Equal(got, want) {
			t.Error("a listener got others, or in another order")
		}
		if len(live) > 0 {
			t.Errorf("a listener got %d more", len(live))
		}
	}
}

func TestSlowListenerLosesNothing(t *testing.T) {
	a, b := newDaemon(t, setup{}), newDaemon(t, setup{})
	deliver(t, a, b, "", "0")
	texts := []string{"0"}
	var got []string
	for m, err := range b.Listen(testContext(t), Filter{Since: SinceAll}) {
		must(t, err)
		got = append(got, string(m.Data))
		if len(got) == 1 { // while the listener handles the first message
			for i := range 300 {
				deliver(t, a, b, "", fmt.Sprint(i+1))
				texts = append(texts, fmt.Sprint(i+1))
			}
		}
		if len(got) == len(texts) {
			break
		}
	}
	if !slices.Equal(got, texts) {
		t.Errorf("got %d of %d, or in another order", len(got), len(texts))
	}
}

func TestListenStartsWhereItIsAsked(t *testing.T) {
	c := newClock()
	b := newDaemon(t, setup{now: c.now})
	for i := range 5 {
		must(t, b.box.add(t.Context(), direct("a", fmt.Sprint(i), fmt.Sprint(i))))
		c.add(time.Second)
	}
	for _, test := range []struct {
		since Since
		want  string
	}{
		{SinceAll, "[0 1 2 3 4]"},
		{SinceTime(time.Unix(1e9+2, 0)), "[2 3 4]"},
		{SinceTime(time.Unix(1e9+2, 1)), "[3 4]"},
		{SinceTime(time.Unix(1, 0)), "[0 1 2 3 4]"},
		{SinceTime(time.Unix(1e9+100, 0)), "[]"},
		{SinceID("2"), "[3 4]"},
		{SinceID("4"), "[]"},
		{SinceNow, "[]"},
	} {
		var listed []string
		for m, err := range b.List(t.Context(), Filter{Since: test.since}) {
			must(t, err)
			listed = append(listed, string(m.Data))
		}
		if got := fmt.Sprint(listed); got != test.want {
			t.Errorf("List(%+v) = %s, want %s", test.since, got, test.want)
		}
		if len(listed) == 0 {
			continue
		}
		var got []string
		for _, m := range listenFor(testContext(t), b, Filter{Since: test.since}, len(listed)).messages {
			got = append(got, string(m.Data))
		}
		if !slices.Equal(got, listed) {
			t.Errorf("Listen(%+v) = %s, want %s", test.since, got, listed)
		}
	}
	wantErr(t, listenFor(testContext(t), b, Filter{Since: SinceID("nosuch")}, 1).err, ErrNotFound)
	wantErr(t, listenFor(testContext(t), b, Filter{Since: SinceID("a/b")}, 1).err, ErrBadID)
}

func TestListenFiltersBySender(t *testing.T) {
	a, b, c := newDaemon(t, setup{}), newDaemon(t, setup{}), newDaemon(t, setup{})
	deliver(t, a, b, "", "a1")
	deliver(t, c, b, "", "c1")
	deliver(t, a, b, "", "a2")
	deliver(t, c, b, "", "c2")
	h := listenFor(testContext(t), b, Filter{Since: SinceAll, From: c.info.ID}, 2)
	if h.err != nil || string(h.messages[0].Data) != "c1" || string(h.messages[1].Data) != "c2" {
		t.Errorf("%+v", h)
	}
	n, err := b.RemoveAll(t.Context(), Filter{Since: SinceAll, From: a.info.ID}, time.Now().Add(time.Hour))
	if n != 2 || err != nil {
		t.Errorf("removed %d, %v", n, err)
	}
	wantStored(t, b, "c1", "c2")
	checkBooks(t, b.box)
}

func TestRemoveAllStopsAtItsTime(t *testing.T) {
	c := newClock()
	b := newDaemon(t, setup{now: c.now})
	for i := range 2*sweepBatch + 10 {
		c.set(time.Unix(1e9+int64(i), 0))
		must(t, b.box.add(t.Context(), direct("a", fmt.Sprint(i), "x")))
	}
	n, err := b.RemoveAll(t.Context(), Filter{Since: SinceAll}, time.Unix(1e9+2*sweepBatch+3, 0))
	if n != 2*sweepBatch+3 || err != nil || len(stored(t, b)) != 7 {
		t.Errorf("removed %d, %v; %d are left", n, err, len(stored(t, b)))
	}
	n, err = b.RemoveAll(t.Context(), Filter{}, time.Unix(1e10, 0))
	if n != 0 || err != nil {
		t.Errorf("removed %d since now, %v", n, err)
	}
}

// Messages that a failing disk did not remove are not reported as removed.
func TestRemoveTellsWhatWasRemovedOnAFailingDisk(t *testing.T) {
	for _, failure := range []storetest.Failure{storetest.Once, storetest.Lasting} {
		// A batch is a commit and a sync. The disk fails at the commit of each.
		for batches := range 3 {
			disk := storetest.NewDisk()
			b := newDaemon(t, setup{ds: disk})
			const all = 2*sweepBatch + 10
			for i := range all {
				must(t, b.box.add(t.Context(), direct("a", fmt.Sprint(i), "x")))
			}
			disk.FailAfter(2*batches+1, failure)
			n, err := b.RemoveAll(t.Context(), Filter{Since: SinceAll}, time.Now().Add(time.Hour))
			wantErr(t, err, syscall.ENOSPC)
			if left := len(stored(t, b)); n != batches*sweepBatch || left != all-n {
				t.Errorf("the disk fails (%v) after %d batches: told %d, %d of %d are left", failure, batches, n, left, all)
			}
			disk.FailAfter(1, failure)
			wantErr(t, b.Remove(t.Context(), fmt.Sprint(all-1)), syscall.ENOSPC)
			disk.FailAfter(0, failure)
			must(t, b.Remove(t.Context(), fmt.Sprint(all-1)))
			checkBooks(t, b.box)
			b.stop()
		}
	}
}

func TestListenEndsWithItsContextAndWithoutErrorWhenTheServiceCloses(t *testing.T) {
	b := newDaemon(t, setup{})
	ctx, cancel := context.WithCancel(t.Context())
	_, cancelled := listening(t, ctx, b, Filter{})
	_, closed := listening(t, t.Context(), b, Filter{})
	cancel()
	wantErr(t, <-cancelled, context.Canceled)
	must(t, b.Close())
	wantEnd(t, closed)
	wantErr(t, listenFor(testContext(t), b, Filter{}, 1).err, ErrClosed)
}

func TestListenToATopicSubscribesWhileItRuns(t *testing.T) {
	b := newDaemon(t, setup{pubsub: true})
	own := b.info.ID.String()
	wantTopics := func(want ...string) {
		t.Helper()
		slices.Sort(want)
		eventually(t, fmt.Sprint("subscribed to ", want), func() bool {
			topics := b.router.GetTopics()
			slices.Sort(topics)
			return slices.Equal(topics, want)
		})
	}
	wantTopics(own)
	ctx1, cancel1 := context.WithCancel(t.Context())
	_, end1 := listening(t, ctx1, b, Filter{Topic: "band"})
	ctx2, cancel2 := context.WithCancel(t.Context())
	messages, end2 := listening(t, ctx2, b, Filter{Topic: "band"})
	ctx3, cancel3 := context.WithCancel(t.Context())
	_, end3 := listening(t, ctx3, b, Filter{Topic: own})
	wantTopics(own, "band")
	cancel1()
	<-end1
	wantTopics(own, "band")
	a := newAuthor(t, b)
	for i := range 3 { // the second listener still receives
		a.publish("band", []byte{byte(i)}, "x")
		awaitMessage(t, "a message", messages)
	}
	cancel2()
	<-end2
	wantTopics(own)
	cancel3()
	<-end3
	wantTopics(own)
	wantErr(t, listenFor(testContext(t), newDaemon(t, setup{}), Filter{Topic: "band"}, 1).err, ErrNoPubsub)
}

func TestCloseEndsEverythingAtOnceAndTwice(t *testing.T) {
	b := newDaemon(t, setup{pubsub: true})
	stranger := loopback.Host(t)
	hang := make(chan struct{}, 3*maxStreams)
	stranger.SetStreamHandler(Protocol, func(st network.Stream) {
		defer st.Reset()
		var m pb.Message
		if readFrame(st, &m) == nil {
			hang <- struct{}{}
			readFrame(st, &m)
		}
	})
	openTo(t, stranger, b).Write(protowire.AppendVarint(nil, 100)) // a message that does not arrive
	openTo(t, stranger, b).Write([]byte{0x80})
	eventually(t, "streams are open", func() bool { return inboundStreams(b) == 2 })
	_, end := listening(t, t.Context(), b, Filter{Topic: "band"})
	a := newDaemon(t, setup{})
	deliver(t, b, a, "", "leaves an idle stream")
	var wg sync.WaitGroup
	for range 3 * maxStreams {
		wg.Go(func() {
			if out, err := b.Send(testContext(t), Outgoing{To: loopback.Info(stranger), Data: []byte("x")}); err == nil {
				t.Errorf("send: %s", out.Status)
			}
		})
	}
	for range maxStreams {
		<-hang
	}
	for range 2 {
		wg.Go(func() {
			b.Close()
			if n := inboundStreams(b); n > 0 {
				t.Errorf("%d streams are open", n)
			}
			b.streams.mu.Lock()
			defer b.streams.mu.Unlock()
			if n := len(b.streams.peers); n > 0 {
				t.Errorf("%d recipients are left in the stream pool", n)
			}
		})
	}
	wg.Wait()
	wantEnd(t, end)
	eventually(t, "nothing is subscribed", func() bool { return len(b.router.GetTopics()) == 0 })
	if out, err := a.Send(testContext(t), Outgoing{To: b.info, Data: []byte("x")}); err == nil {
		t.Errorf("send to the closed: %s", out.Status)
	}
}

func TestCloseWhileMessagesComeAndGoLosesNothingDelivered(t *testing.T) {
	for range 10 {
		a, b := newDaemon(t, setup{}), newDaemon(t, setup{})
		var mu sync.Mutex
		var delivered []string
		var wg sync.WaitGroup
		first := make(chan struct{}, 1000)
		for i := range 50 {
			wg.Go(func() {
				text := fmt.Sprint(i)
				if out, _ := a.Send(testContext(t), Outgoing{To: b.info, Data: []byte(text)}); out.Status == Delivered {
					mu.Lock()
					delivered = append(delivered, text)
					mu.Unlock()
				}
				first <- struct{}{}
			})
		}
		<-first
		b.Close()
		a.Close()
		wg.Wait()
		have := map[string]bool{}
		for _, m := range stored(t, b) {
			have[string(m.Data)] = true
		}
		for _, text := range delivered {
			if !have[text] {
				t.Errorf("%s was delivered", text)
			}
		}
		a.stop()
		b.stop()
	}
}
