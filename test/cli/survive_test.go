package cli

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

// deliveries records the fate of each message by its ID. The content of a
// message is its ID.
type deliveries struct {
	mu        sync.Mutex
	fate      map[string]string // status, or empty without an answer
	delivered chan struct{}     // receives a value per delivered message
}

func newDeliveries() *deliveries {
	return &deliveries{fate: map[string]string{}, delivered: make(chan struct{}, 1<<16)}
}

// send sends a message and reports whether it was delivered.
func (l *deliveries) send(m *mailer, to, id string) bool {
	s, err := m.send(url.Values{"arg": {to}, "id": {id}, "deadline": {"1m"}}, []byte(strconv.Quote(id)))
	ok := s.Status == "delivered" && err == nil
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fate[id] = s.Status
	if ok {
		l.delivered <- struct{}{}
	}
	return ok
}

// with returns the IDs of the messages with one of the fates.
func (l *deliveries) with(fates ...string) (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, fate := range l.fate {
		for _, f := range fates {
			if fate == f {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// check compares the fates with what the recipient has stored.
func (l *deliveries) check(t *testing.T, recipient *harness.Node) {
	t.Helper()
	count := map[string]int{}
	for _, m := range stored(t, recipient) {
		count[m.ID]++
		if _, ok := l.fate[m.ID]; !ok {
			t.Errorf("message %s was never sent", m.ID)
		}
		if string(m.Message) != strconv.Quote(m.ID) {
			t.Errorf("message %s has become %s", m.ID, m.Message)
		}
	}
	for id, fate := range l.fate {
		want := 1
		if fate == "failed" {
			want = 0
		}
		if count[id] != want {
			t.Errorf("message %s was %q and is stored %d times", id, fate, count[id])
		}
	}
}

// Either daemon is killed while sixteen senders are active. A message that was
// reported as delivered is in the recipient's store once. So is a message
// without an answer, or with an unknown fate, once it is sent again under its
// ID. A message that was reported as failed is not there.
func TestDeliveredSurvivesKill(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"test", "test,pebbleds"} {
		for _, victim := range []string{"recipient", "sender"} {
			t.Run(profile+"/"+victim, func(t *testing.T) {
				t.Parallel()
				harness.Repeat(t, func(t *testing.T) { sendAndKill(t, profile, victim) })
			})
		}
	}
}

// sendAndKill kills one of two daemons, created with kubo's profiles, a few
// times.
func sendAndKill(t *testing.T, profile, victim string) {
	const (
		rounds  = 4
		senders = 16
	)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	a, b := withProfile(t, profile).Start(), withProfile(t, profile).Start()
	a.Connect(b)
	killed, other := b, a
	if victim == "sender" {
		killed, other = a, b
	}
	l := newDeliveries()
	again := 0
	for round := range rounds {
		lost := len(l.with("failed"))
		m := newMailer(t, a)
		var running sync.WaitGroup
		for sender := range senders {
			running.Go(func() {
				for n := 0; l.send(m, b.PeerID(), fmt.Sprintf("%d-%d-%d", round, sender, n)); n++ {
				}
			})
		}
		ended := make(chan struct{})
		go func() {
			running.Wait()
			close(ended)
		}()
		for range 1 + random.IntN(400) {
			select {
			case <-l.delivered:
			case <-ended:
				t.Fatalf("no message is delivered any more: %v", l.fate)
			}
		}
		if now := len(l.with("failed", "unknown", "")); now > lost {
			t.Errorf("before the kill, %d messages were not delivered: %v", now-lost, l.fate)
		}
		killed.Kill()
		<-ended
		killed.Start()
		killed.Connect(other)
		m = newMailer(t, a)
		for _, id := range l.with("unknown", "") {
			if !l.send(m, b.PeerID(), id) {
				t.Errorf("message %s was sent again and is %q", id, l.fate[id])
			}
			again++
		}
		l.check(t, b)
	}
	t.Logf("%d messages delivered, %d of them sent again; %d failed", len(l.with("delivered")), again, len(l.with("failed")))
}

// withProfile returns a node with npp on a new repo with kubo's profiles.
func withProfile(t *testing.T, profiles string) *harness.Node {
	t.Helper()
	n := harness.Bare(t, harness.NPP(t))
	n.MustRun("init", "--profile="+profiles)
	return n
}

// A thousand messages that wait for one peer at the same time are all
// delivered, even to a peer whose resource manager resets streams early. The
// peer is stopped while they accumulate. If connections to it end meanwhile,
// the undelivered messages are sent again.
func TestThousandSendsAtOnceAreDelivered(t *testing.T) {
	t.Parallel()
	const (
		many    = 1000
		lasting = 20 * time.Second // a connection to a stopped peer lasts longer
	)
	a := harness.New(t).Start()
	b := harness.New(t).Set("Swarm.ResourceMgr.MaxMemory", "1GiB").Start()
	a.Connect(b)
	m, l := newMailer(t, a), newDeliveries()
	l.send(m, b.PeerID(), "first")
	b.Daemon().Signal(syscall.SIGSTOP)
	stopped := time.Now()
	var running sync.WaitGroup
	for n := range many {
		running.Go(func() { l.send(m, b.PeerID(), strconv.Itoa(n)) })
	}
	eventually(t, "a thousand sends at work", func() bool {
		active := strings.Count(rpc(t, a, "diag/cmds", nil), `"Active":true,"Command":"npp/send"`)
		return active == many || time.Since(stopped) > lasting
	})
	b.Daemon().Signal(syscall.SIGCONT)
	gathered := time.Since(stopped)
	running.Wait()
	missed := l.with("failed", "unknown", "")
	if len(missed) > 0 && gathered < lasting {
		t.Errorf("%d of %d were not delivered: %v", len(missed), 1+many, l.fate)
	}
	for _, id := range missed {
		if !l.send(m, b.PeerID(), id) {
			t.Errorf("message %s was sent again and is %q", id, l.fate[id])
		}
	}
	l.check(t, b)
}

// Messages that have arrived, by either way, survive the daemon.
func TestMessagesSurviveARestart(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"test", "test,pebbleds"} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			a, b := harness.New(t).Start(), withProfile(t, profile).Start()
			a.Connect(b)
			listener := b.Spawn("npp", "listen", "--since=all", "--enc=json")
			a.MustRun("npp", "send", b.PeerID(), "direct")
			a.MustRun("npp", "send", "--topic", b.PeerID(), "published")
			listener.Expect("direct")
			listener.Expect("published")
			before := b.MustRun("npp", "messages", "ls", "--enc=json")
			b.Stop()
			b.Start()
			if after := b.MustRun("npp", "messages", "ls", "--enc=json"); after != before || len(stored(t, b)) != 2 {
				t.Errorf("before:\n%safter:\n%s", before, after)
			}
			listener = b.Spawn("npp", "listen", "--since=all", "--enc=json")
			for _, line := range lines(before) {
				if got := listener.Expect(`"id"`); got != line {
					t.Errorf("listen says %s, want %s", got, line)
				}
			}
		})
	}
}
