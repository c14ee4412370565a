package oplog

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// MaxMissing is how many hashes [Log.Missing] returns.
const MaxMissing = 1000

// Missing returns hashes of entries that are to be fetched, in their order: of
// parents of waiting entries that neither are in the log nor wait, and of waiting
// entries whose blocks were evicted and whose turn it is. Where there are more than
// [MaxMissing], it returns some at random, others with each call. The cost does not
// grow with what waits. Of an entry with more than 64 parents that are missing, some
// are listed later. An entry that waits for another one always has that listed,
// unless that one waits itself.
//
// The hashes are to be offered until none is missing. An invalid entry may be
// refused once more while that which needs it is not the first to be looked at.
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

// MissingOf returns those of some hashes that are to be fetched; see [Log.Missing].
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

// missingNumbers is how many numbers the series of missing hashes has.
const missingNumbers = 1 << 16

// missingKey is where it is noted that a hash is missing. Its number depends on a
// secret of the log, or a peer could choose hashes that stand in front of others
// wherever a page begins.
func (l *Log) missingKey(sum *summary, hash string) string {
	digest := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(hash), sum.Secret))
	return store.NamedKey(l.key("missing"), uint64(binary.BigEndian.Uint16(digest[:])), hash)
}

// need is what is stored of a missing hash: the waiting entry that needs it, and of that
// the peer and the order.
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

// require notes that a waiting entry needs a hash, unless an entry with that hash
// waits. None with that hash is in the log.
func (l *Log) require(tx *store.Tx, sum *summary, hash string, w *waiter) error {
	if n, err := l.need(tx, sum, hash); err != nil || n != nil {
		return err
	}
	if ok, err := tx.Has(l.waitKey(hash)); err != nil || ok {
		return err
	}
	return l.setMissing(tx, sum, hash, w)
}

// requireAll notes that a waiting entry needs its parents. All but the first, for which
// it waits, are noted so that they are fetched at the same time: where one was looked at
// a while ago, it is not again.
func (l *Log) requireAll(tx *store.Tx, sum *summary, w *waiter) error {
	for i, hash := range w.parents {
		if i > 0 {
			if l.looked.at(hash) {
				continue
			}
			if ok, err := l.has(tx, hash); err != nil {
				return err
			} else if ok {
				continue
			}
		}
		if err := l.require(tx, sum, hash, w); err != nil {
			return err
		}
	}
	return nil
}

// looked is hashes that were looked at. It forgets all once it has many.
type looked struct {
	mu     sync.Mutex
	hashes map[string]bool
}

// maxLooked is how many hashes are remembered: those that some hundred entries name.
const maxLooked = 4096

// at reports whether a hash was looked at before.
func (l *looked) at(hash string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hashes[hash] {
		return true
	}
	if len(l.hashes) == maxLooked {
		l.hashes = nil
	}
	if l.hashes == nil {
		l.hashes = make(map[string]bool)
	}
	l.hashes[hash] = true
	return false
}

func (l *looked) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hashes = nil
}

// setMissing notes that a hash is missing because of a waiting entry, where that is not
// noted yet.
func (l *Log) setMissing(tx *store.Tx, sum *summary, hash string, w *waiter) error {
	if sum.Secret == 0 {
		sum.Secret = rand.Uint64() | 1
	}
	sum.Missing++
	return tx.Put(l.missingKey(sum, hash), need{w.hash, w.from, w.order}.encode())
}

// setFound undoes setMissing.
func (l *Log) setFound(tx *store.Tx, sum *summary, hash string) error {
	sum.Missing--
	return tx.Delete(l.missingKey(sum, hash))
}

// requireNoMore notes that a waiting entry needs hashes no more. One that another
// entry waits for is needed by that.
func (l *Log) requireNoMore(tx *store.Tx, sum *summary, w *waiter, hashes []string) error {
	for _, hash := range hashes {
		if n, err := l.need(tx, sum, hash); err != nil {
			return err
		} else if n == nil || n.by != w.hash {
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

// requireForDependant notes that a hash is needed by an entry that waits for it, if
// there is one. An entry with the hash must neither be in the log nor wait.
func (l *Log) requireForDependant(tx *store.Tx, sum *summary, hash string) error {
	l.looked.forget()
	some, err := l.dependants(tx, hash, 1)
	if err != nil || len(some) == 0 {
		return err
	}
	w, err := l.mustWaiter(tx, some[0])
	if err != nil {
		return err
	}
	return l.setMissing(tx, sum, hash, w)
}

// The entries that wait for a hash are its dependants. The first of them stands in
// the record of the hash, with the number of the others, since most have one only.
type dependants struct {
	first  string // or ""
	others uint64
}

func (l *Log) wakeKey(hash string) string        { return l.key("wake/" + hash) }
func (l *Log) dependantsPrefix(of string) string { return l.key("waiters/" + of) }
func (l *Log) dependantKey(of, by string) string { return l.dependantsPrefix(of) + "/" + by }
func (d dependants) encode() []byte              { return append(binary.AppendUvarint(nil, d.others), d.first...) }
func (d dependants) none() bool                  { return d == dependants{} }

func (l *Log) dependantsOf(g blocks.Getter, hash string) (d dependants, err error) {
	record, err := g.Get(l.wakeKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	others, n := binary.Uvarint(record)
	if d = (dependants{string(record[max(0, n):]), others}); n <= 0 || d.first != "" && !block.ValidHash(d.first) {
		return d, l.damaged(l.wakeKey(hash))
	}
	return d, nil
}

// dependants returns up to n entries that wait for a hash.
func (l *Log) dependants(tx *store.Tx, hash string, n int) (list []string, err error) {
	d, err := l.dependantsOf(tx, hash)
	if err != nil {
		return nil, err
	}
	if d.first != "" {
		list = append(list, d.first)
	}
	if d.others == 0 {
		return list, nil
	}
	prefix := l.dependantsPrefix(hash)
	for r, err := range tx.Scan(prefix) {
		if err != nil || len(list) >= n {
			return list, err
		}
		list = append(list, strings.TrimPrefix(r.Key, prefix+"/"))
	}
	return list, nil
}

// depend notes that an entry waits for a hash.
func (l *Log) depend(tx *store.Tx, on, hash string) error {
	d, err := l.dependantsOf(tx, on)
	if err != nil {
		return err
	}
	if d.none() {
		d.first = hash
	} else {
		d.others++
		if err := tx.Put(l.dependantKey(on, hash), nil); err != nil {
			return err
		}
	}
	return tx.Put(l.wakeKey(on), d.encode())
}

// release undoes depend.
func (l *Log) release(tx *store.Tx, on, hash string) error {
	d, err := l.dependantsOf(tx, on)
	if err != nil {
		return err
	}
	switch {
	case d.first == hash:
		d.first = ""
	case d.others == 0:
		return l.damaged(l.wakeKey(on))
	default:
		d.others--
		if err := tx.Delete(l.dependantKey(on, hash)); err != nil {
			return err
		}
	}
	if d.none() {
		return tx.Delete(l.wakeKey(on))
	}
	return tx.Put(l.wakeKey(on), d.encode())
}
