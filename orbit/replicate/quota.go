package replicate

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/wait"
)

// quota limits the use of a resource, in total and per peer.
type quota struct {
	all, each int64

	mu       sync.Mutex
	used     int64             // the sum of by
	by       map[peer.ID]int64 // positive amounts
	released wait.Change
}

func newQuota(all, each int64) *quota {
	return &quota{all: all, each: each, by: make(map[peer.ID]int64)}
}

// tryAcquire takes n for a peer and reports whether n was available.
func (q *quota) tryAcquire(p peer.ID, n int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used+n > q.all || q.by[p]+n > q.each {
		return false
	}
	q.used += n
	q.by[p] += n
	return true
}

// acquire takes n for a peer, and waits until n is available. Its error is that of
// the context.
func (q *quota) acquire(ctx context.Context, p peer.ID, n int64) error {
	for {
		released := q.released.Next()
		if q.tryAcquire(p, n) {
			return nil
		}
		select {
		case <-released:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// release gives back n of a peer.
func (q *quota) release(p peer.ID, n int64) {
	if n == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used -= n
	if q.by[p] -= n; q.by[p] == 0 {
		delete(q.by, p)
	}
	q.released.Announce()
}

var errBusy = errors.New("the memory budget of the peer is exhausted")

// budgetReader charges what it reads to the memory budget of a peer.
type budgetReader struct {
	budget *quota
	peer   peer.ID
	from   io.Reader
	taken  int64
}

// Read implements [io.Reader]. It fails once the budget is exhausted.
func (r *budgetReader) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	if n > 0 {
		if !r.budget.tryAcquire(r.peer, int64(n)) {
			return 0, errBusy
		}
		r.taken += int64(n)
	}
	return n, err
}

// release gives the budget back.
func (r *budgetReader) release() {
	r.budget.release(r.peer, r.taken)
	r.taken = 0
}
