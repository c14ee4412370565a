package oplog

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// ancestorRank is the largest rank of an entry's ancestors: of its valid
// parents in next and, for an invalid parent, of that parent's ancestors. It
// does not depend on the access list, so a rank never changes.
type ancestorRank struct {
	known bool
	rank  entry.Rank // if known
}

func (b *ancestorRank) raise(rank entry.Rank) {
	if !b.known || rank.Compare(b.rank) > 0 {
		b.known, b.rank = true, rank
	}
}

// rank returns the position of an entry in the order, and stores its rank if
// that differs from the clock.
func (l *Log) rank(tx *store.Tx, sum *summary, e *entry.Entry, invalid error) (p entry.Position, err error) {
	rank := e.Rank()
	// If all entries are authorized and the rank is larger than that of the
	// newest, the ancestors do not matter.
	newer := sum.Authorized == 0 || len(sum.Newest) > 0 && rank.Compare(sum.Newest[0].Rank) > 0
	if sum.Unauthorized > 0 || invalid != nil || !newer {
		b, err := l.ancestorRank(tx, sum, e.Next)
		if err != nil {
			return p, err
		}
		if invalid != nil {
			return p, l.putAncestorRank(tx, e.Hash(), b)
		}
		if b.known {
			rank = e.Rank(b.rank)
		}
	}
	if rank != e.Rank() {
		err = tx.Put(rankKey(l.number, e.Hash()), []byte(encodeRank(rank)))
	}
	return e.Position(rank), err
}

// ancestorRank returns the ancestor rank of an entry that names next.
func (l *Log) ancestorRank(tx *store.Tx, sum *summary, next []string) (b ancestorRank, err error) {
	heads := make(map[string]entry.Rank, len(sum.Heads))
	for _, h := range sum.Heads {
		heads[h.Hash] = h.Rank
	}
	for _, hash := range distinct(next) {
		if rank, ok := heads[hash]; ok {
			b.raise(rank)
			continue
		}
		if err := l.raiseTo(tx, sum, &b, hash); err != nil && !gone(err) {
			return b, err
		}
	}
	return b, nil
}

// raiseTo raises b to the rank of an entry of the log or, if that is invalid,
// to its ancestor rank.
func (l *Log) raiseTo(tx *store.Tx, sum *summary, b *ancestorRank, hash string) error {
	if sum.Unauthorized > 0 {
		record, err := tx.Get(l.ancestorRankKey(hash))
		switch {
		case errors.Is(err, store.ErrNotFound): // the entry is valid
		case err != nil || len(record) == 0:
			return err
		default:
			rank, ok := decodeRank(string(record))
			if !ok {
				return fmt.Errorf("%w of %s: ancestor rank of %s", ErrDamaged, l.id, hash)
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

func (l *Log) ancestorRankKey(hash string) string { return l.key("below/" + hash) }

// putAncestorRank stores the ancestor rank of an invalid entry.
func (l *Log) putAncestorRank(tx *store.Tx, hash string, b ancestorRank) error {
	var record []byte
	if b.known {
		record = []byte(encodeRank(b.rank))
	}
	return tx.Put(l.ancestorRankKey(hash), record)
}

// PositionOf returns the position of an entry in the order of the log with a
// number.
func PositionOf(g blocks.Getter, log uint64, e *entry.Entry) (entry.Position, error) {
	text, err := g.Get(rankKey(log, e.Hash()))
	if errors.Is(err, store.ErrNotFound) {
		return e.Position(e.Rank()), nil
	}
	if err != nil {
		return entry.Position{}, err
	}
	r, ok := decodeRank(string(text))
	if !ok {
		return entry.Position{}, fmt.Errorf("%w: rank of %s", ErrDamaged, e.Hash())
	}
	return e.Position(r), nil
}

func rankKey(log uint64, hash string) string { return blocks.LogPrefix(log) + "/raised/" + hash }

// Position returns the position of an entry in the order of the log.
func (l *Log) Position(ctx context.Context, e *entry.Entry) (entry.Position, error) {
	return PositionOf(blocks.Reading(ctx, l.store), l.number, e)
}

// encodeRank returns a rank as text that sorts as ranks do.
func encodeRank(r entry.Rank) string {
	return fmt.Sprintf("~%016x.%016x.", math.Float64bits(r.Time), r.Depth)
}

const rankLen = 35

func decodeRank(text string) (r entry.Rank, ok bool) {
	var bits uint64
	if _, err := fmt.Sscanf(text, "~%016x.%016x.", &bits, &r.Depth); err != nil {
		return r, false
	}
	r.Time = math.Float64frombits(bits)
	return r, bits <= math.Float64bits(math.MaxFloat64) && encodeRank(r) == text
}
