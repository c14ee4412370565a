package replicate

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// shares is an amount that peers have together, and of which each may have a
// part only.
type shares struct {
	all, each int64

	mu     sync.Mutex
	used   int64
	by     map[peer.ID]int64
	change chan struct{} // closed when something is given back
}

func newShares(all, each int64) *shares {
	return &shares{all: all, each: each, by: make(map[peer.ID]int64), change: make(chan struct{})}
}

// tryAcquire takes n for a peer, if that is there.
func (s *shares) tryAcquire(p peer.ID, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(p, n)
}

func (s *shares) take(p peer.ID, n int64) bool {
	if s.used+n > s.all || s.by[p]+n > s.each {
		return false
	}
	s.used += n
	s.by[p] += n
	return true
}

// acquire waits until it can take n for a peer.
func (s *shares) acquire(ctx context.Context, p peer.ID, n int64) error {
	for {
		s.mu.Lock()
		ok, change := s.take(p, n), s.change
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// release gives back.
func (s *shares) release(p peer.ID, n int64) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
	if s.by[p] -= n; s.by[p] == 0 {
		delete(s.by, p)
	}
	close(s.change)
	s.change = make(chan struct{})
}

var errBusy = errors.New("too much of the peer is being worked on")

// reading counts what is read of a peer as its share.
type reading struct {
	s     *shares
	peer  peer.ID
	from  io.Reader
	taken int64
}

func (r *reading) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	if n > 0 {
		if !r.s.tryAcquire(r.peer, int64(n)) {
			return 0, errBusy
		}
		r.taken += int64(n)
	}
	return n, err
}

func (r *reading) release() {
	r.s.release(r.peer, r.taken)
	r.taken = 0
}
