package replicate

import "sync"

// changes wakes everyone who waits for the next change of something. A waiter
// calls next before it reads the state, so that it misses no change. The zero
// value is ready to use.
type changes struct {
	mu sync.Mutex
	c  chan struct{} // nil while nobody waits
}

// next returns a channel that is closed at the next change.
func (c *changes) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c == nil {
		c.c = make(chan struct{})
	}
	return c.c
}

// notify wakes all waiters. The change is visible by then.
func (c *changes) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c != nil {
		close(c.c)
		c.c = nil
	}
}

// signal leaves a token in a channel that holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
