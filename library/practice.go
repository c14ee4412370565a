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
	// MaxPractice is the most that is added to a count at once.
	MaxPractice = 1_000_000

	// maxCount is the highest count: beyond it, JavaScript has no whole numbers.
	maxCount = 1<<53 - 1

	// slotSize is what a count takes beside its key, about, in bytes.
	slotSize = 100
)

// Count is how often a piece was practised.
type Count struct {
	Own uint64 // by whoever writes to one's own store
	All uint64 // by all in one's own store and in those of one's companions

	// More is set where All may be too low: counts of a companion are not all here or not
	// read yet.
	More bool
}

// counts is what a practice store has, in memory.
type counts struct {
	mu    sync.RWMutex
	slots map[string]map[string]uint64 // by canonical hash, and by key of the store
	full  bool                         // some found no room
	rooms piece.Budgets
}

func newCounts(rooms ...*piece.Budget) *counts {
	return &counts{slots: make(map[string]map[string]uint64), rooms: rooms}
}

// practiceKey is the key of the count of an identity.
func practiceKey(hash, identity string) string { return hash + "/" + identity }

// set takes what is at a key of the store, or nil.
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
	size := slotSize + len(hash) + len(text)
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.slots[hash]
	_, known := of[text]
	switch {
	case n == 0:
		if known {
			c.rooms.Release(size)
		}
		delete(of, text)
		if len(of) == 0 {
			delete(c.slots, hash)
		}
		return
	case !known && !c.rooms.Reserve(size):
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
			c.rooms.Release(slotSize + len(hash) + len(text))
		}
	}
	clear(c.slots)
	c.full = false
}

// isFull reports whether some counts found no room.
func (c *counts) isFull() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.full
}

// of returns the count of a piece in the store.
func (c *counts) of(canonical string) (sum uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, n := range c.slots[canonical] {
		sum = min(sum+n, maxCount)
	}
	return sum
}

// Practised returns how often a piece was practised, whether anybody has it or not.
func (l *Library) Practised(ctx context.Context, hash string) (Count, error) {
	troubles, err := l.practiceReady(ctx)
	if err != nil {
		return Count{}, err
	}
	total := l.count(piece.Canonical(hash), l.collections())
	total.More = len(troubles) > 0
	return total, nil
}

// count adds up what is known of a piece. What is one's own is that of this
// identity and of one's devices that may write to the store.
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

// Practise counts that a piece was practised n times more, from 1 to
// [MaxPractice], and returns the new count once it is on disk.
func (l *Library) Practise(ctx context.Context, hash string, n uint64) (Count, error) {
	if n < 1 || n > MaxPractice {
		return Count{}, fmt.Errorf("%w: practised %d times, must be from 1 to %d", ErrInvalid, n, MaxPractice)
	}
	kv, err := l.keyValue(ctx, practiceAt)
	if err != nil {
		return Count{}, err
	}
	troubles, err := l.practiceReady(ctx)
	if err != nil {
		return Count{}, err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	// The number of another spelling of the hash stays where it is.
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
	total.More = len(troubles) > 0
	return total, nil
}
