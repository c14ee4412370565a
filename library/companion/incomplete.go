package companion

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/newpieceplease/npp/store"
)

const incompletePrefix = "partial"

// incomplete is the set of the incomplete databases, in memory and on disk. Its
// members are the hashes of their addresses.
type incomplete struct {
	store *store.Store

	mu     sync.Mutex
	hashes map[string]bool
}

func loadIncomplete(ctx context.Context, s *store.Store) (*incomplete, error) {
	i := &incomplete{store: s, hashes: make(map[string]bool)}
	for e, err := range s.Scan(ctx, incompletePrefix) {
		if err != nil {
			return nil, err
		}
		i.hashes[strings.TrimPrefix(e.Key, incompletePrefix+"/")] = true
	}
	return i, nil
}

func (i *incomplete) has(hash string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hashes[hash]
}

func (i *incomplete) list() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Collect(maps.Keys(i.hashes))
}

// set adds or removes a member. An error of the store leaves the change in
// memory.
func (i *incomplete) set(ctx context.Context, hash string, member bool) error {
	i.mu.Lock()
	changed := i.hashes[hash] != member
	if member {
		i.hashes[hash] = true
	} else {
		delete(i.hashes, hash)
	}
	i.mu.Unlock()
	key := incompletePrefix + "/" + hash
	switch {
	case !changed:
		return nil
	case member:
		return i.store.Put(ctx, key, []byte("1"))
	}
	return i.store.Delete(ctx, key)
}
