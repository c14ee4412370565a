// Package wait lets goroutines wait for events and for times.
package wait

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Change announces changes to any number of waiters. Its zero value is ready
// for use, by several goroutines at a time.
//
// A waiter that must not miss a change calls Next before it reads the state
// that changes.
type Change struct {
	mu   sync.Mutex
	next chan struct{}
}

// Next returns a channel that is closed by the next call of Announce.
func (c *Change) Next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}

// Announce wakes all waiters.
func (c *Change) Announce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}

// Flag wakes one waiter, which receives from it. A flag that is set before a
// waiter receives is not lost, and setting it twice counts once.
type Flag chan struct{}

// NewFlag returns a flag that is not set.
func NewFlag() Flag { return make(Flag, 1) }

// Set sets the flag. It never blocks.
func (f Flag) Set() {
	select {
	case f <- struct{}{}:
	default:
	}
}

// For waits for a duration. It returns the error of ctx if that is done first.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Within is [For], but returns [context.DeadlineExceeded] at once if the
// deadline of ctx is earlier than the end of the wait.
func Within(ctx context.Context, d time.Duration) error {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return context.DeadlineExceeded
	}
	return For(ctx, d)
}

// Backoff computes the delays between repeated attempts. They double from First
// to Max, and each is a random time between half of that and all of it.
type Backoff struct {
	First, Max time.Duration

	last time.Duration
}

// Next returns the delay before the next attempt.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(2*b.last, b.First), b.Max)
	return b.last/2 + rand.N(b.last/2)
}

// Reset makes the next delay the first one.
func (b *Backoff) Reset() { b.last = 0 }
