package oplog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/value/dagcbor"
	"github.com/newpieceplease/npp/store"
)

// maxUnder is how many hashes the record of what an entry is on top of takes
// from other records.
const maxUnder = 64

// under is what an entry is on top of: the entries that count among those it
// names and, where one of those does not count, what that one is on top of. Of
// these, only the largest rank and the heads are kept: whatever comes later is
// on top of them all, and what is no head will not become one again.
type under struct {
	some  bool
	rank  entry.Rank // the largest, where there are some
	heads []string   // of the log, when this was made
	more  []string   // entries that do not count, and are on top of more heads
}

func (u *under) raise(rank entry.Rank) {
	if !u.some || rank.Compare(u.rank) > 0 {
		u.some, u.rank = true, rank
	}
}

// below returns what an entry is on top of that names these. The rank may be
// too small unless it is to be ranked.
func (l *Log) below(tx *store.Tx, sum *summary, next []string, ranked bool) (u under, err error) {
	heads := make(map[string]entry.Rank, len(sum.Heads))
	for _, h := range sum.Heads {
		heads[h.Hash] = h.Rank
	}
	seen := make(map[string]bool, len(next))
	next = slices.Clip(next)
	for len(next) > 0 {
		hash := next[0]
		next = next[1:]
		if seen[hash] {
			continue
		}
		seen[hash] = true
		if rank, ok := heads[hash]; ok {
			u.raise(rank)
			u.heads = append(u.heads, hash)
			continue
		}
		fault := ""
		if sum.Faults > 0 {
			if fault, err = l.fault(tx, hash); err != nil {
				return u, err
			}
		}
		if fault == "" {
			if ranked {
				err = l.raise(tx, &u, hash)
			}
		} else {
			var other under
			if other, err = l.under(tx, hash); err == nil {
				u.add(hash, other, heads, seen)
			} else if errors.Is(err, store.ErrNotFound) {
				// It is lost, or came when there were no such records.
				var e *entry.Entry
				if e, err = l.get(tx, hash); err == nil {
					next = append(next, e.Next...)
				}
			}
		}
		if err != nil && !gone(err) {
			return u, err
		}
	}
	return u, nil
}

// raise raises the rank to that of an entry that counts.
func (l *Log) raise(tx *store.Tx, u *under, hash string) error {
	e, err := l.get(tx, hash)
	if err != nil {
		return err
	}
	p, err := PositionOf(tx, l.number, e)
	if err == nil {
		u.raise(p.Rank)
	}
	return err
}

// add adds what an entry that does not count is on top of, but for heads that
// are none any more: by its record, or where that is too much, by its hash. seen
// are the hashes that are done with.
func (u *under) add(hash string, other under, heads map[string]entry.Rank, seen map[string]bool) {
	if other.some {
		u.raise(other.rank)
	}
	var newHeads, newMore []string
	for _, hash := range other.heads {
		if _, ok := heads[hash]; ok && !seen[hash] {
			newHeads = append(newHeads, hash)
		}
	}
	for _, hash := range other.more {
		if !seen[hash] {
			newMore = append(newMore, hash)
		}
	}
	if len(u.heads)+len(u.more)+len(newHeads)+len(newMore) > maxUnder {
		u.more = append(u.more, hash)
		return
	}
	u.heads, u.more = append(u.heads, newHeads...), append(u.more, newMore...)
	for _, hash := range slices.Concat(newHeads, newMore) {
		seen[hash] = true
	}
}

// covered returns what is no head once an entry is on top of these.
func (l *Log) covered(tx *store.Tx, u under) (map[string]bool, error) {
	covered, seen := make(map[string]bool), make(map[string]bool)
	for {
		for _, hash := range u.heads {
			covered[hash] = true
		}
		if len(u.more) == 0 {
			return covered, nil
		}
		hash, more := u.more[0], u.more[1:]
		u = under{more: more}
		if seen[hash] {
			continue
		}
		seen[hash] = true
		other, err := l.under(tx, hash)
		if errors.Is(err, store.ErrNotFound) {
			err = fmt.Errorf("%w of %s: what is under %s is gone", ErrDamaged, l.id, hash)
		}
		if err != nil {
			return nil, err
		}
		u.heads, u.more = other.heads, append(slices.Clip(more), other.more...)
	}
}

func (l *Log) underKey(hash string) string { return l.key("under/" + hash) }

// under returns what an entry that does not count is on top of.
func (l *Log) under(tx *store.Tx, hash string) (u under, err error) {
	record, err := tx.Get(l.underKey(hash))
	if err != nil {
		return u, err
	}
	if u, err = decodeUnder(record); err != nil {
		err = fmt.Errorf("%w of %s: what is under %s: %v", ErrDamaged, l.id, hash, err)
	}
	return u, err
}

// encode returns the rank, or an empty text, and the lists.
func (u under) encode() []byte {
	b := dagcbor.AppendArray(nil, 3)
	rank := ""
	if u.some {
		rank = rankText(u.rank)
	}
	b = dagcbor.AppendText(b, rank)
	for _, list := range [][]string{u.heads, u.more} {
		b = dagcbor.AppendArray(b, len(list))
		for _, hash := range list {
			b = dagcbor.AppendText(b, hash)
		}
	}
	return b
}

func decodeUnder(record []byte) (u under, err error) {
	r := dagcbor.NewReader(record)
	if err := r.Tuple(3); err != nil {
		return u, err
	}
	rank, err := r.Text()
	if err != nil {
		return u, err
	}
	if rank != "" {
		if u.rank, u.some = parseRank(rank); !u.some {
			return u, errors.New("no rank")
		}
	}
	for _, list := range []*[]string{&u.heads, &u.more} {
		n, err := r.Array()
		if err != nil {
			return u, err
		}
		for range n {
			hash, err := r.Text()
			if err != nil {
				return u, err
			}
			if !block.ValidHash(hash) {
				return u, fmt.Errorf("%.80q is no hash", hash)
			}
			*list = append(*list, hash)
		}
	}
	return u, r.End()
}
