// Package admission bounds what other peers may use: amounts that they hold at
// a time, such as streams or bytes, and the rate of what they do.
package admission

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// Quota bounds an amount that peers hold at a time, of each peer and of all
// together. Its methods may be called concurrently.
type Quota struct {
	all  *semaphore.Weighted
	each int64

	mu    sync.Mutex
	peers map[peer.ID]*holder
}

// holder is a peer that holds some of the amount or waits for it.
type holder struct {
	part    *semaphore.Weighted
	held    int64
	waiting int
}

// NewQuota returns a quota of which all peers together may hold all, and each
// of them up to each.
func NewQuota(all, each int64) *Quota {
	return &Quota{all: semaphore.NewWeighted(all), each: each, peers: make(map[peer.ID]*holder)}
}

// enter counts a call for a peer.
func (q *Quota) enter(p peer.ID) *holder {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.peers[p]
	if h == nil {
		h = &holder{part: semaphore.NewWeighted(q.each)}
		q.peers[p] = h
	}
	h.waiting++
	return h
}

// leave ends a call that took n.
func (q *Quota) leave(p peer.ID, h *holder, n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h.waiting--
	h.held += n
	if h.waiting == 0 && h.held == 0 {
		delete(q.peers, p)
	}
}

// TryAcquire takes n for a peer. It reports false if the quota of the peer or
// that of all is used up, or other calls wait for it.
func (q *Quota) TryAcquire(p peer.ID, n int64) bool {
	h := q.enter(p)
	if h.part.TryAcquire(n) {
		if q.all.TryAcquire(n) {
			q.leave(p, h, n)
			return true
		}
		h.part.Release(n)
	}
	q.leave(p, h, 0)
	return false
}

// Acquire is TryAcquire, but waits until it can take n or ctx is done. The call
// that waits longest is served first, among those of a peer and then among all.
// An n of 0 is taken at once.
func (q *Quota) Acquire(ctx context.Context, p peer.ID, n int64) error {
	if n == 0 {
		return nil
	}
	h := q.enter(p)
	err := h.part.Acquire(ctx, n)
	if err == nil {
		if err = q.all.Acquire(ctx, n); err == nil {
			q.leave(p, h, n)
			return nil
		}
		h.part.Release(n)
	}
	q.leave(p, h, 0)
	return err
}

// Release returns n of what was taken for a peer.
func (q *Quota) Release(p peer.ID, n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n == 0 {
		return
	}
	h := q.peers[p]
	q.all.Release(n)
	h.part.Release(n)
	h.held -= n
	if h.waiting == 0 && h.held == 0 {
		delete(q.peers, p)
	}
}

// Held returns what all peers hold together.
func (q *Quota) Held() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	var held int64
	for _, h := range q.peers {
		held += h.held
	}
	return held
}

// HeldBy returns what a peer holds.
func (q *Quota) HeldBy(p peer.ID) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if h := q.peers[p]; h != nil {
		return h.held
	}
	return 0
}

// Rates bounds how often each peer may do something. It remembers a peer until
// its burst is available again, so a peer gains nothing from connecting anew.
// Its methods may be called concurrently.
type Rates struct {
	limit    rate.Limit
	burst    int
	remember int
	most     int

	mu    sync.Mutex
	peers map[peer.ID]*rate.Limiter
	prune int // number of peers at which those with a full burst are forgotten
}

// NewRates returns rates of limit per second with bursts of up to burst. Peers
// beyond the number remember are forgotten once their burst is available again.
// Beyond the number most, a new peer is refused until another one is forgotten.
func NewRates(limit rate.Limit, burst, remember, most int) *Rates {
	return &Rates{
		limit: limit, burst: burst, remember: remember, most: most,
		peers: make(map[peer.ID]*rate.Limiter), prune: remember,
	}
}

// Take counts an event of a peer at a time. It returns 0 if the event is
// allowed. Otherwise it counts nothing and returns how long the peer should
// wait.
func (r *Rates) Take(p peer.ID, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.peers[p]
	if l == nil {
		if len(r.peers) >= r.prune {
			r.forget(now)
		}
		if len(r.peers) >= r.most {
			return time.Duration(float64(time.Second) / float64(r.limit))
		}
		l = rate.NewLimiter(r.limit, r.burst)
		r.peers[p] = l
	}
	event := l.ReserveN(now, 1)
	delay := event.DelayFrom(now)
	if delay > 0 {
		event.CancelAt(now)
	}
	return delay
}

// forget removes the peers for which a new limiter would be the same. The next
// look at all peers is due when their number has doubled or reached its bound,
// so below the bound the cost of an event does not grow with it.
func (r *Rates) forget(now time.Time) {
	for p, l := range r.peers {
		if l.TokensAt(now) >= float64(r.burst) {
			delete(r.peers, p)
		}
	}
	r.prune = min(max(r.remember, 2*len(r.peers)), r.most)
}
