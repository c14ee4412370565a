package replicate

import (
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// random draws numbers from a source, or from math/rand/v2 if the source is
// nil.
type random struct {
	mu     sync.Mutex
	source rand.Source
}

// below returns a number from 0 to n-1.
func (r *random) below(n int64) int64 {
	if r.source == nil {
		return rand.Int64N(n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return rand.New(r.source).Int64N(n)
}

// reader returns a reader of the source, or nil if the source is nil.
func (r *random) reader() io.Reader {
	if r.source == nil {
		return nil
	}
	return r
}

// Read implements [io.Reader]. It never fails.
func (r *random) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range b {
		b[i] = byte(r.source.Uint64() >> (i % 8 * 8))
	}
	return len(b), nil
}

// shuffle permutes n items that swap swaps.
func (r *random) shuffle(n int, swap func(i, j int)) {
	for i := n - 1; i > 0; i-- {
		swap(i, int(r.below(int64(i+1))))
	}
}

// around returns a duration from 3/4 d to 5/4 d, so that what starts at the
// same time does not continue at the same times.
func (r *random) around(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(r.below(int64(d/2)+1))
}

// doubled returns a pause that was doubled so many times, most at most.
func doubled(d time.Duration, times int, most time.Duration) time.Duration {
	return min(d<<min(times, 20), most)
}
