package replicate

import (
	"math/rand/v2"
	"sync"
	"time"
)

// chance is random numbers from a source, or where that is nil from that of
// math/rand/v2.
type chance struct {
	mu     sync.Mutex
	source rand.Source
}

// below returns a number from 0 to n-1.
func (c *chance) below(n int64) int64 {
	if c.source == nil {
		return rand.Int64N(n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return rand.New(c.source).Int64N(n)
}

// around returns a duration around d, so that what begins together does not go
// on together.
func (c *chance) around(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(c.below(int64(d/2)+1))
}
