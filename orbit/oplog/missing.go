package oplog

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
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
		by, err := l.neededBy(g, sum, hash)
		if err != nil {
			return nil, err
		}
		if by != "" {
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

// neededBy returns the waiting entry because of which a hash is missing, or "" if
// it is not.
func (l *Log) neededBy(g blocks.Getter, sum *summary, hash string) (by string, err error) {
	if sum.Missing == 0 || !block.ValidHash(hash) {
		return "", nil
	}
	record, err := g.Get(l.missingKey(sum, hash))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return string(record), err
}

// need notes that a waiting entry needs a hash, unless an entry with that hash is in
// the log or waits.
func (l *Log) need(tx *store.Tx, sum *summary, hash, by string) error {
	if was, err := l.neededBy(tx, sum, hash); err != nil || was != "" {
		return err
	}
	if ok, err := l.has(tx, hash); err != nil || ok {
		return err
	}
	if ok, err := tx.Has(l.waitKey(hash)); err != nil || ok {
		return err
	}
	return l.setMissing(tx, sum, hash, by)
}

// needAll is need for the parents of a waiting entry.
func (l *Log) needAll(tx *store.Tx, sum *summary, w *waiter) error {
	for _, hash := range w.parents {
		if err := l.need(tx, sum, hash, w.hash); err != nil {
			return err
		}
	}
	return nil
}

// setMissing notes that a hash is missing, where it is not noted yet.
func (l *Log) setMissing(tx *store.Tx, sum *summary, hash, by string) error {
	if sum.Secret == 0 {
		sum.Secret = rand.Uint64() | 1
	}
	sum.Missing++
	return tx.Put(l.missingKey(sum, hash), []byte(by))
}

// found notes that a hash is missing no more.
func (l *Log) found(tx *store.Tx, sum *summary, hash string) error {
	if by, err := l.neededBy(tx, sum, hash); err != nil || by == "" {
		return err
	}
	sum.Missing--
	return tx.Delete(l.missingKey(sum, hash))
}

// needNoMore notes that a waiting entry needs hashes no more. One that another
// entry waits for is needed by that.
func (l *Log) needNoMore(tx *store.Tx, sum *summary, w *waiter, hashes []string) error {
	for _, hash := range hashes {
		if by, err := l.neededBy(tx, sum, hash); err != nil {
			return err
		} else if by != w.hash {
			continue
		}
		if err := l.found(tx, sum, hash); err != nil {
			return err
		}
		if err := l.needForDependant(tx, sum, hash); err != nil {
			return err
		}
	}
	return nil
}

// needForDependant notes that a hash is needed by an entry that waits for it, if
// there is one. An entry with the hash must neither be in the log nor wait.
func (l *Log) needForDependant(tx *store.Tx, sum *summary, hash string) error {
	some, err := l.dependants(tx, hash, 1)
	if err != nil || len(some) == 0 {
		return err
	}
	return l.setMissing(tx, sum, hash, some[0])
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
