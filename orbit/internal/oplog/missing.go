package oplog

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// MaxMissing is the largest number of hashes that [Log.Missing] returns.
const MaxMissing = 1000

// Missing returns the hashes of entries to fetch, sorted. These are the parents
// of pending entries that are neither in the log nor pending, and the pending
// entries whose evicted blocks are needed next. If there are more than
// [MaxMissing], each call returns a random selection. The cost does not grow
// with the number of pending entries. If an entry lacks more than 64 parents,
// some become missing later. The parent that a pending entry waits for is
// always missing unless it is pending itself.
//
// Callers offer these entries to the log until none is missing. An invalid
// entry may be refused once more as long as it is not the parent that the entry
// which needs it waits for.
func (l *Log) Missing(ctx context.Context) ([]string, error) {
	sum, err := l.readSummary(blocks.Reading(ctx, l.store))
	if err != nil || sum.Missing == 0 {
		return nil, err
	}
	var missing []string
	from := uint64(rand.IntN(missingNumbers))
	for _, part := range []struct{ from, to uint64 }{{from, missingNumbers}, {0, from}} {
		for r, err := range l.store.Ascend(ctx, l.key("missing"), part.from) {
			if err != nil {
				return nil, err
			}
			if r.Number >= part.to || len(missing) == MaxMissing {
				break
			}
			missing = append(missing, r.Name)
		}
	}
	slices.Sort(missing)
	return missing, nil
}

// MissingOf returns those of the given hashes that are missing; see
// [Log.Missing].
func (l *Log) MissingOf(ctx context.Context, hashes []string) (missing []string, err error) {
	g := blocks.Reading(ctx, l.store)
	sum, err := l.readSummary(g)
	if err != nil || sum.Missing == 0 {
		return nil, err
	}
	for _, hash := range hashes {
		n, err := l.need(g, sum, hash)
		if err != nil {
			return nil, err
		}
		if n != nil {
			missing = append(missing, hash)
		}
	}
	return missing, nil
}

// missingNumbers is the number of distinct numbers in the series of missing
// hashes.
const missingNumbers = 1 << 16

// missingKey returns the key of a missing hash. Its number depends on a secret
// of the log: otherwise a peer could choose hashes that sort before others at
// any start of a page.
func (l *Log) missingKey(sum *summary, hash string) string {
	digest := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(hash), sum.Secret))
	return store.NamedKey(l.key("missing"), uint64(binary.BigEndian.Uint16(digest[:])), hash)
}

// need is the record of a missing hash: the pending entry that needs it, and
// the peer and the order of that entry.
type need struct {
	by    string
	from  string
	order uint64
}

func (n need) encode() []byte {
	return append(binary.AppendUvarint([]byte(n.by), n.order), n.from...)
}

func decodeNeed(record []byte) (n need, ok bool) {
	if len(record) < block.HashLen || !block.ValidHash(string(record[:block.HashLen])) {
		return n, false
	}
	order, size := binary.Uvarint(record[block.HashLen:])
	return need{string(record[:block.HashLen]), string(record[block.HashLen+max(0, size):]), order}, size > 0
}

// need returns why a hash is missing, or nil if it is not.
func (l *Log) need(g blocks.Getter, sum *summary, hash string) (*need, error) {
	if sum.Missing == 0 || !block.ValidHash(hash) {
		return nil, nil
	}
	record, err := g.Get(l.missingKey(sum, hash))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n, ok := decodeNeed(record)
	if !ok {
		return nil, l.damaged(l.missingKey(sum, hash))
	}
	return &n, nil
}

// require makes a hash missing because a pending entry needs it, unless an
// entry with that hash is pending. The log must not contain such an entry.
func (l *Log) require(tx *store.Tx, sum *summary, hash string, pe *pendingEntry) error {
	if n, err := l.need(tx, sum, hash); err != nil || n != nil {
		return err
	}
	if ok, err := tx.Has(l.pendingKey(hash)); err != nil || ok {
		return err
	}
	return l.setMissing(tx, sum, hash, pe)
}

// requireAll makes the parents of a pending entry missing. The entry waits only
// for the first; the others become missing so that they are fetched at the same
// time. A parent that was looked up recently is skipped.
func (l *Log) requireAll(tx *store.Tx, sum *summary, pe *pendingEntry) error {
	for i, hash := range pe.parents {
		if i > 0 {
			if l.lookedUp.add(hash) {
				continue
			}
			if ok, err := l.has(tx, hash); err != nil {
				return err
			} else if ok {
				continue
			}
		}
		if err := l.require(tx, sum, hash, pe); err != nil {
			return err
		}
	}
	return nil
}

// hashCache is a set of hashes that were looked up. It is cleared when it is
// full.
type hashCache struct {
	mu     sync.Mutex
	hashes map[string]bool
}

// maxLookedUp is the capacity of a hashCache: the parents of some hundred
// entries.
const maxLookedUp = 4096

// add adds a hash and reports whether it was there before.
func (l *hashCache) add(hash string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hashes[hash] {
		return true
	}
	if len(l.hashes) == maxLookedUp {
		l.hashes = nil
	}
	if l.hashes == nil {
		l.hashes = make(map[string]bool)
	}
	l.hashes[hash] = true
	return false
}

func (l *hashCache) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hashes = nil
}

// setMissing makes a hash missing because of a pending entry. The hash must not
// be missing yet.
func (l *Log) setMissing(tx *store.Tx, sum *summary, hash string, pe *pendingEntry) error {
	if sum.Secret == 0 {
		sum.Secret = rand.Uint64() | 1
	}
	sum.Missing++
	return tx.Put(l.missingKey(sum, hash), need{pe.hash, pe.from, pe.order}.encode())
}

// setFound undoes setMissing.
func (l *Log) setFound(tx *store.Tx, sum *summary, hash string) error {
	sum.Missing--
	return tx.Delete(l.missingKey(sum, hash))
}

// unrequire ends a pending entry's need of hashes. A hash that has a dependant
// becomes missing because of that.
func (l *Log) unrequire(tx *store.Tx, sum *summary, pe *pendingEntry, hashes []string) error {
	for _, hash := range hashes {
		if n, err := l.need(tx, sum, hash); err != nil {
			return err
		} else if n == nil || n.by != pe.hash {
			continue
		}
		if err := l.setFound(tx, sum, hash); err != nil {
			return err
		}
		if err := l.requireForDependant(tx, sum, hash); err != nil {
			return err
		}
	}
	return nil
}

// requireForDependant makes a hash missing because of one of its dependants, if
// it has any. An entry with the hash must be neither in the log nor pending.
func (l *Log) requireForDependant(tx *store.Tx, sum *summary, hash string) error {
	l.lookedUp.clear()
	some, err := l.dependants(tx, hash, 1)
	if err != nil || len(some) == 0 {
		return err
	}
	pe, err := l.mustPending(tx, some[0])
	if err != nil {
		return err
	}
	return l.setMissing(tx, sum, hash, pe)
}

// Bounds of one refetch.
const (
	refetchEntries    = 64 // entries that are visited
	refetchDependants = 4  // dependants of each entry
	refetchPart       = 8  // 1/refetchPart of the bound on pending bytes
)

// refetch makes an entry missing whose block was evicted and whose parents are
// in the log now. Unless the entry was missing before, refetch does the same
// for some entries that descend from it.
func (l *Log) refetch(tx *store.Tx, sum *summary, pe *pendingEntry) error {
	if n, err := l.need(tx, sum, pe.hash); err != nil || n != nil {
		return err
	}
	size := uint64(0)
	queue := []*pendingEntry{pe}
	for n := 0; n < len(queue) && n < refetchEntries; n++ {
		pe := queue[n]
		if !pe.held {
			if size += pe.size; n > 0 && size > l.pendingLimit(sum)/refetchPart {
				return nil
			}
			if n, err := l.need(tx, sum, pe.hash); err != nil {
				return err
			} else if n == nil {
				if err := l.setMissing(tx, sum, pe.hash, pe); err != nil {
					return err
				}
			}
		}
		hashes, err := l.dependants(tx, pe.hash, refetchDependants)
		if err != nil {
			return err
		}
		for _, hash := range hashes {
			next, err := l.mustPending(tx, hash)
			if err != nil {
				return err
			}
			queue = append(queue, next)
		}
	}
	return nil
}
