package replicate

import (
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
)

// index has the databases that are replicated: those that are here and not
// paused, and those that are not here yet. It is all that a resting database
// takes in memory, some 80 bytes. It implements [inventory.Catalog].
//
// A known state is the state of the database as long as no change of its log
// was noted. A change that happens while the state is read makes it unknown
// again.
type index struct {
	fingerprint func(ctx context.Context, address string) ([32]byte, error)
	shards      [indexShards]indexShard
}

// indexShards bounds the time for which a walk over the index locks a part of
// it.
const indexShards = 256

type indexShard struct {
	mu  sync.Mutex
	all map[inventory.Key]indexed
}

// indexed is a database of an index.
type indexed struct {
	state   inventory.State
	known   bool   // state is the state
	changes uint32 // how often the log changed
}

func newIndex(fingerprint func(ctx context.Context, address string) ([32]byte, error)) *index {
	x := &index{fingerprint: fingerprint}
	for i := range x.shards {
		x.shards[i].all = make(map[inventory.Key]indexed)
	}
	return x
}

// keyOf returns the key of an address, which is false for a text that is not
// an address.
func keyOf(address string) (k inventory.Key, ok bool) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return k, false
	}
	digest, err := block.Digest(hash)
	return digest, err == nil
}

func addressOf(k inventory.Key) string { return manifest.Address(block.OfDigest(k)) }

func (x *index) shard(k inventory.Key) *indexShard { return &x.shards[k[0]] }

// add adds a database, and reports whether it is new.
func (x *index) add(k inventory.Key) bool {
	s := x.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.all[k]; ok {
		return false
	}
	s.all[k] = indexed{}
	return true
}

func (x *index) remove(k inventory.Key) {
	s := x.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, k)
}

func (x *index) has(k inventory.Key) bool {
	s := x.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.all[k]
	return ok
}

// changed notes that the log of a database changed. It returns the state before,
// if that was known.
func (x *index) changed(k inventory.Key) (before inventory.State, known bool) {
	s := x.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.all[k]
	if !ok {
		return before, false
	}
	before, known = d.state, d.known
	d.known = false
	d.changes++
	s.all[k] = d
	return before, known
}

// Len implements [inventory.Catalog].
func (x *index) Len() (n int) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		n += len(s.all)
		s.mu.Unlock()
	}
	return n
}

// Keys implements [inventory.Catalog]. A database that is added or removed
// meanwhile may be missing.
func (x *index) Keys() iter.Seq[inventory.Key] { return x.keysFrom(0) }

// keysFrom is Keys, but begins with a shard.
func (x *index) keysFrom(first int) iter.Seq[inventory.Key] {
	return func(yield func(inventory.Key) bool) {
		var keys []inventory.Key
		for i := range x.shards {
			s := &x.shards[(first+i)%indexShards]
			keys = keys[:0]
			s.mu.Lock()
			for k := range s.all {
				keys = append(keys, k)
			}
			s.mu.Unlock()
			slices.SortFunc(keys, inventory.Key.Compare)
			for _, k := range keys {
				if !yield(k) {
					return
				}
			}
		}
	}
}

// renew reads the state of a database anew, and reports whether it is another
// one than before. The access list may have changed without a change of the log.
func (x *index) renew(ctx context.Context, k inventory.Key) (state inventory.State, differs bool) {
	s := x.shard(k)
	s.mu.Lock()
	before := s.all[k].state
	s.mu.Unlock()
	x.changed(k)
	state = x.State(ctx, k)
	return state, state != before
}

// State implements [inventory.Catalog]. It is zero for a database that is not
// here, or whose state cannot be read.
func (x *index) State(ctx context.Context, k inventory.Key) inventory.State {
	s := x.shard(k)
	s.mu.Lock()
	d, ok := s.all[k]
	s.mu.Unlock()
	if d.known || !ok {
		return d.state
	}
	fingerprint, err := x.fingerprint(ctx, addressOf(k))
	if err != nil {
		return inventory.State{}
	}
	state := inventory.State(fingerprint[:len(d.state)])
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.all[k]; ok && now.changes == d.changes {
		now.state, now.known = state, true
		s.all[k] = now
	}
	return state
}
