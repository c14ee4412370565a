package admission

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

const alice, bob, carol peer.ID = "alice", "bob", "carol"

func TestQuotaBoundsEachPeerAndAll(t *testing.T) {
	q := NewQuota(5, 3)
	if !q.TryAcquire(alice, 3) || q.TryAcquire(alice, 1) {
		t.Error("a peer does not get what it may hold, or gets more")
	}
	if q.Held() != 3 || q.HeldBy(alice) != 3 || q.HeldBy(bob) != 0 {
		t.Errorf("%d are held, %d by alice", q.Held(), q.HeldBy(alice))
	}
	if q.TryAcquire(bob, 3) || !q.TryAcquire(bob, 2) || q.TryAcquire(carol, 1) {
		t.Error("all together do not get what they may hold, or get more")
	}
	q.Release(alice, 3)
	if !q.TryAcquire(carol, 3) {
		t.Error("what was returned cannot be taken")
	}
	q.Release(bob, 2)
	q.Release(carol, 1)
	q.Release(carol, 2)
	if n := len(q.peers); n != 0 {
		t.Errorf("%d peers are remembered that hold nothing", n)
	}
}

// A peer that waits for its own quota does not keep others waiting, and what a
// cancelled call took is returned.
func TestAcquireWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQuota(4, 2)
		if err := q.Acquire(t.Context(), alice, 2); err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() { got <- q.Acquire(t.Context(), alice, 2) }()
		synctest.Wait()
		if err := q.Acquire(t.Context(), alice, 0); err != nil {
			t.Error(err)
		}
		if !q.TryAcquire(bob, 1) {
			t.Error("a peer keeps another one waiting")
		}
		if err := q.Acquire(t.Context(), bob, 1); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.Acquire(ctx, carol, 1); err == nil {
			t.Error("more than all is taken")
		}
		q.Release(alice, 2)
		if err := <-got; err != nil {
			t.Error(err)
		}
		q.Release(alice, 2)
		q.Release(bob, 2)
		if !q.TryAcquire(carol, 2) {
			t.Error("a cancelled call holds something")
		}
	})
}

func TestQuotaHoldsUnderConcurrency(t *testing.T) {
	q := NewQuota(3, 2)
	var mu sync.Mutex
	held := make(map[peer.ID]int)
	all := 0
	change := func(p peer.ID, n int) {
		mu.Lock()
		defer mu.Unlock()
		held[p] += n
		all += n
		if held[p] > 2 || all > 3 {
			t.Errorf("%s holds %d, all hold %d", p, held[p], all)
		}
	}
	var calls sync.WaitGroup
	for i := range 300 {
		calls.Go(func() {
			p := peer.ID(fmt.Sprint(i % 5))
			if err := q.Acquire(t.Context(), p, 1); err != nil {
				t.Error(err)
				return
			}
			change(p, 1)
			change(p, -1)
			q.Release(p, 1)
		})
	}
	calls.Wait()
	if n := len(q.peers); n != 0 {
		t.Errorf("%d peers are remembered that hold nothing", n)
	}
}

func TestRatesBoundEachPeer(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := NewRates(rate.Every(time.Second), 2, 10, 10)
	for i, want := range []time.Duration{0, 0, time.Second, time.Second} {
		if got := r.Take(alice, now); got != want {
			t.Errorf("event %d is allowed in %s, want %s", i, got, want)
		}
	}
	if got := r.Take(bob, now); got != 0 {
		t.Errorf("another peer is allowed in %s", got)
	}
	if got := r.Take(alice, now.Add(time.Second)); got != 0 {
		t.Errorf("after a second, an event is allowed in %s", got)
	}
}

// However many other peers come, a peer whose burst is used up is remembered;
// one whose burst is available again is not.
func TestRatesForgetOnlyPeersWithTheirFullBurst(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := NewRates(1, 2, 10, 2000)
	r.Take(alice, now)
	r.Take(alice, now)
	for i := range 1000 {
		r.Take(peer.ID(fmt.Sprint(i)), now)
	}
	if r.Take(alice, now) == 0 {
		t.Error("a peer that was forgotten has a fresh burst")
	}
	now = now.Add(time.Minute)
	for i := range 3000 {
		r.Take(peer.ID(fmt.Sprint("later", i)), now.Add(time.Duration(i)*time.Second))
	}
	if n := len(r.peers); n > 20 {
		t.Errorf("%d peers are remembered whose bursts are available", n)
	}
}

func TestRatesRefuseNewPeersBeyondTheirNumber(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := NewRates(1, 1, 2, 2)
	if r.Take(alice, now) != 0 || r.Take(bob, now) != 0 {
		t.Fatal("a peer is refused")
	}
	if got := r.Take(carol, now); got != time.Second {
		t.Errorf("a peer too many is told to wait for %s", got)
	}
	if got := r.Take(carol, now.Add(time.Second)); got != 0 {
		t.Errorf("once others have recovered, a peer is told to wait for %s", got)
	}
}
