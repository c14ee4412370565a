package oplog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/store"
)

// below is the largest rank of the entries that one descends from: of the valid
// ones that it names and, where it names an invalid one, of those below that.
// The access list has no part in it, so a rank never changes.
type below struct {
	some bool
	rank entry.Rank // where there are some
}

func (b *below) raise(rank entry.Rank) {
	if !b.some || rank.Compare(b.rank) > 0 {
		b.some, b.rank = true, rank
	}
}

// below returns what is below an entry that names these.
func (l *Log) below(tx *store.Tx, sum *summary, next []string) (b below, err error) {
	heads := make(map[string]entry.Rank, len(sum.Heads))
	for _, h := range sum.Heads {
		heads[h.Hash] = h.Rank
	}
	seen := make(map[string]bool, len(next))
	for _, hash := range next {
		if seen[hash] {
			continue
		}
		seen[hash] = true
		if rank, ok := heads[hash]; ok {
			b.raise(rank)
			continue
		}
		if err := l.raise(tx, sum, &b, hash); err != nil && !gone(err) {
			return b, err
		}
	}
	return b, nil
}

// raise raises the rank to that of an entry of the log, or of what is below it if
// it is invalid.
func (l *Log) raise(tx *store.Tx, sum *summary, b *below, hash string) error {
	if sum.Faults > 0 {
		record, err := tx.Get(l.belowKey(hash))
		switch {
		case errors.Is(err, store.ErrNotFound): // it is valid
		case err != nil || len(record) == 0:
			return err
		default:
			rank, ok := parseRank(string(record))
			if !ok {
				return fmt.Errorf("%w of %s: rank below %s", ErrDamaged, l.id, hash)
			}
			b.raise(rank)
			return nil
		}
	}
	e, err := l.get(tx, hash)
	if err != nil {
		return err
	}
	p, err := PositionOf(tx, l.number, e)
	if err == nil {
		b.raise(p.Rank)
	}
	return err
}

func (l *Log) belowKey(hash string) string { return l.key("below/" + hash) }

// putBelow stores what is below an invalid entry.
func (l *Log) putBelow(tx *store.Tx, hash string, b below) error {
	var record []byte
	if b.some {
		record = []byte(rankText(b.rank))
	}
	return tx.Put(l.belowKey(hash), record)
}

// distinct returns the hashes, each once.
func distinct(hashes []string) []string {
	if len(hashes) < 2 {
		return hashes
	}
	seen := make(map[string]bool, len(hashes))
	return slices.DeleteFunc(slices.Clone(hashes), func(h string) bool {
		was := seen[h]
		seen[h] = true
		return was
	})
}
