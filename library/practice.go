package library

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

const (
	// MaxPractice is the largest number that is added to a count at once.
	MaxPractice = 1_000_000

	// maxCount is the largest count: JavaScript represents integers exactly up
	// to it.
	maxCount = 1<<53 - 1

	// countSize is the approximate memory of a count besides its key, in bytes.
	countSize = 100
)

// Count is the practice count of a piece.
type Count struct {
	Own uint64 // in the own practice database
	All uint64 // in the practice databases of the owner and of all companions

	// Incomplete is set if All may be too low, because a practice database of a
	// companion is not complete and read yet.
	Incomplete bool
}

// counts is the content of a practice database in memory.
type counts struct {
	mu      sync.RWMutex
	slots   map[string]map[string]uint64 // by canonical hash, then by database key
	full    bool                         // whether counts were left out
	budgets piece.Budgets
}

func newCounts(budgets ...*piece.Budget) *counts {
	return &counts{slots: make(map[string]map[string]uint64), budgets: budgets}
}

// practiceKey returns the key of the count of an identity.
func practiceKey(hash, identity string) string { return hash + "/" + identity }

// set sets the count with a database key to that of an item, which is nil for
// none.
func (c *counts) set(key value.Value, item *orbit.Item) {
	text, _ := key.Text()
	cut := strings.LastIndexByte(text, '/')
	if cut < 1 || len(text) > 2*piece.MaxHash {
		return
	}
	hash := piece.Canonical(text[:cut])
	var n uint64
	if item != nil && item.Value.Decode(&n) != nil {
		n = 0
	}
	size := countSize + len(hash) + len(text)
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.slots[hash]
	_, known := of[text]
	switch {
	case n == 0:
		if known {
			c.budgets.Release(size)
		}
		delete(of, text)
		if len(of) == 0 {
			delete(c.slots, hash)
		}
		return
	case !known && !c.budgets.Reserve(size):
		c.full = true
		return
	}
	if of == nil {
		of = make(map[string]uint64)
		c.slots[hash] = of
	}
	of[text] = min(n, maxCount)
}

// clear removes all counts.
func (c *counts) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for hash, of := range c.slots {
		for text := range of {
			c.budgets.Release(countSize + len(hash) + len(text))
		}
	}
	clear(c.slots)
	c.full = false
}

// isFull reports whether counts were left out because the memory is full.
func (c *counts) isFull() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.full
}

// of returns the count of a piece.
func (c *counts) of(canonical string) (sum uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, n := range c.slots[canonical] {
		sum = min(sum+n, maxCount)
	}
	return sum
}

// Practised returns the practice count of a hash, also of one that no library
// has.
func (l *Library) Practised(ctx context.Context, hash string) (Count, error) {
	problems, err := l.awaitCounts(ctx)
	if err != nil {
		return Count{}, err
	}
	total := l.count(piece.Canonical(hash), l.collections())
	total.Incomplete = len(problems) > 0
	return total, nil
}

// count adds up the counts of a piece in collections. The own count includes
// those of other devices that may write to the own database.
func (l *Library) count(canonical string, from []*collection) (n Count) {
	for _, c := range from {
		in := c.counts.of(canonical)
		if c == l.own {
			n.Own = in
		}
		n.All = min(n.All+in, maxCount)
	}
	return n
}

// Practise adds n, from 1 to [MaxPractice], to the practice count of a piece,
// and returns the new count once it is on disk.
func (l *Library) Practise(ctx context.Context, hash string, n uint64) (Count, error) {
	if n < 1 || n > MaxPractice {
		return Count{}, fmt.Errorf("%w: practised %d times, must be from 1 to %d", ErrInvalid, n, MaxPractice)
	}
	kv, err := l.keyValue(ctx, practiceAt)
	if err != nil {
		return Count{}, err
	}
	problems, err := l.awaitCounts(ctx)
	if err != nil {
		return Count{}, err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	// The count with another spelling of the hash stays separate.
	key := practiceKey(hash, l.cfg.Orbit.Identity().ID)
	var before uint64
	item, err := kv.Get(ctx, key)
	switch {
	case errors.Is(err, orbit.ErrNotFound):
	case err != nil:
		return Count{}, err
	case item.Value.Decode(&before) != nil:
		before = 0
	}
	if before > maxCount-n {
		return Count{}, fmt.Errorf("%w: a count of more than %d", ErrInvalid, uint64(maxCount))
	}
	if _, err := kv.Put(ctx, key, before+n); err != nil {
		return Count{}, err
	}
	if item, err = kv.Get(ctx, key); err != nil {
		return Count{}, err
	}
	l.own.counts.set(item.Key, &item)
	total := l.count(piece.Canonical(hash), l.collections())
	total.Incomplete = len(problems) > 0
	return total, nil
}
