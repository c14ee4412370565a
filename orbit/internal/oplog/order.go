package oplog

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/store"
)

// decodeNumber decodes the value of a record in the order.
func decodeNumber(value []byte) (uint64, bool) {
	number, n := binary.Uvarint(value)
	return number, n == len(value) && n > 0
}

// PositionKey returns the key of a record in a series that is sorted by
// position.
func PositionKey(series string, p entry.Position) string {
	number, name := encodePosition(p)
	return store.NamedKey(series, number, name)
}

// encodePosition returns the number and the name of a record in the order: the
// time, and <clock id>.<hash>. If the rank is more than a whole number, the
// number is the largest one below it, and the name begins with a ~ and the
// rank. The ~ sorts after all clock IDs, which are hex.
func encodePosition(p entry.Position) (number uint64, name string) {
	number = math.MaxUint64
	if p.Time < 1<<64 {
		number = uint64(p.Time)
	}
	name = p.ID + "." + p.Hash
	if p.Depth > 0 || float64(number) != p.Time {
		name = encodeRank(p.Rank) + name
	}
	return number, name
}

// decodePosition is the inverse of encodePosition.
func decodePosition(number uint64, name string) (p entry.Position, ok bool) {
	p.Time, ok = float64(number), true
	rest := name
	if strings.HasPrefix(name, "~") && len(name) > rankLen {
		p.Rank, ok = decodeRank(name[:rankLen])
		rest = name[rankLen:]
	}
	p.ID, p.Hash, _ = strings.Cut(rest, ".")
	if !ok || !block.ValidHash(p.Hash) {
		return p, false
	}
	placed, at := encodePosition(p)
	return p, placed == number && at == name
}

// Descend yields the records of a series that is sorted by position, newest
// first, from a position or, if that is nil, from the newest. The value of each
// record is the number of an entry.
func Descend(ctx context.Context, s *store.Store, series string, from *entry.Position) iter.Seq2[Ref, error] {
	if from == nil {
		return readRefs(s.Descend(ctx, series, math.MaxUint64), series)
	}
	number, name := encodePosition(*from)
	return readRefs(s.DescendFrom(ctx, series, number, name), series)
}

// Ascend is like Descend, but yields all records, oldest first.
func Ascend(ctx context.Context, s *store.Store, series string) iter.Seq2[Ref, error] {
	return readRefs(s.Ascend(ctx, series, 0), series)
}

func readRefs(records iter.Seq2[store.Record, error], series string) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		for r, err := range records {
			if err != nil {
				yield(Ref{}, err)
				return
			}
			var ref Ref
			var ok, known bool
			ref.Position, ok = decodePosition(r.Number, r.Name)
			if ref.Number, known = decodeNumber(r.Value); !ok || !known {
				yield(Ref{}, fmt.Errorf("%w: record %d/%s of %s", ErrDamaged, r.Number, r.Name, series))
				return
			}
			if !yield(ref, nil) {
				return
			}
		}
	}
}

// positions yields the positions that records of a series have in their names.
func positions(records iter.Seq2[store.Record, error], series string) iter.Seq2[entry.Position, error] {
	return func(yield func(entry.Position, error) bool) {
		for r, err := range records {
			var p entry.Position
			if err == nil {
				var ok bool
				if p, ok = decodePosition(r.Number, r.Name); !ok {
					err = fmt.Errorf("%w: record %d/%s of %s", ErrDamaged, r.Number, r.Name, series)
				}
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

// first returns the first n positions of a sequence, or all if it has fewer.
func first(n int, seq iter.Seq2[entry.Position, error]) (list []entry.Position, err error) {
	if n == 0 {
		return nil, nil
	}
	for p, err := range seq {
		if err != nil {
			return nil, err
		}
		if list = append(list, p); len(list) == n {
			break
		}
	}
	return list, nil
}

func (l *Log) orderKey(p entry.Position) string { return PositionKey(l.key("order"), p) }

// descend yields the positions of the authorized entries, newest first, from a
// position or, if that is nil, from the newest.
func (l *Log) descend(ctx context.Context, from *entry.Position) iter.Seq2[Ref, error] {
	return Descend(ctx, l.store, l.key("order"), from)
}

func (l *Log) ascend(ctx context.Context, from entry.Position) iter.Seq2[Ref, error] {
	series := l.key("order")
	number, name := encodePosition(from)
	return readRefs(l.store.AscendFrom(ctx, series, number, name), series)
}
