package oplog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// number reads the value of a record in the order.
func number(value []byte) (uint64, bool) {
	number, n := binary.Uvarint(value)
	return number, n == len(value) && n > 0
}

// PositionKey returns the key of a record in a series that is in the order of
// the log.
func PositionKey(series string, p entry.Position) string {
	number, name := place(p)
	return store.NamedKey(series, number, name)
}

// place returns number and name of a record: the time, and <clock id>.<hash>.
// Where the rank is not just a whole number, the number is the next lower one
// that there is, and the rank is in front of the name, behind a ~ that sorts
// behind all clock IDs, which are hex.
func place(p entry.Position) (number uint64, name string) {
	number = math.MaxUint64
	if p.Time < 1<<64 {
		number = uint64(p.Time)
	}
	name = p.ID + "." + p.Hash
	if p.Depth > 0 || float64(number) != p.Time {
		name = rankText(p.Rank) + name
	}
	return number, name
}

// rankText is a rank, in texts that sort as ranks do.
func rankText(r entry.Rank) string {
	return fmt.Sprintf("~%016x.%016x.", math.Float64bits(r.Time), r.Depth)
}

const rankLen = 35

func parseRank(text string) (r entry.Rank, ok bool) {
	var bits uint64
	if _, err := fmt.Sscanf(text, "~%016x.%016x.", &bits, &r.Depth); err != nil {
		return r, false
	}
	r.Time = math.Float64frombits(bits)
	return r, bits <= math.Float64bits(math.MaxFloat64) && rankText(r) == text
}

// position is the inverse of place.
func position(number uint64, name string) (p entry.Position, ok bool) {
	p.Time, ok = float64(number), true
	rest := name
	if strings.HasPrefix(name, "~") && len(name) > rankLen {
		p.Rank, ok = parseRank(name[:rankLen])
		rest = name[rankLen:]
	}
	p.ID, p.Hash, _ = strings.Cut(rest, ".")
	if !ok || !block.ValidHash(p.Hash) {
		return p, false
	}
	placed, at := place(p)
	return p, placed == number && at == name
}

// PositionOf returns the place in the order of an entry of the log of a number.
func PositionOf(g blocks.Getter, log uint64, e *entry.Entry) (entry.Position, error) {
	text, err := g.Get(raisedKey(log, e.Hash()))
	if errors.Is(err, store.ErrNotFound) {
		return e.Position(e.Rank()), nil
	}
	if err != nil {
		return entry.Position{}, err
	}
	r, ok := parseRank(string(text))
	if !ok {
		return entry.Position{}, fmt.Errorf("%w: rank of %s", ErrDamaged, e.Hash())
	}
	return e.Position(r), nil
}

func raisedKey(log uint64, hash string) string { return blocks.LogPrefix(log) + "/raised/" + hash }

// Position returns the place in the order of an entry of the log.
func (l *Log) Position(ctx context.Context, e *entry.Entry) (entry.Position, error) {
	return PositionOf(blocks.Reading(ctx, l.store), l.number, e)
}

// Descend yields the records of a series that is in the order of the log,
// newest first, from a position or, with nil, the newest. The value of each is
// the number of an entry.
func Descend(ctx context.Context, s *store.Store, series string, from *entry.Position) iter.Seq2[Ref, error] {
	if from == nil {
		return readRefs(s.Descend(ctx, series, math.MaxUint64), series)
	}
	number, name := place(*from)
	return readRefs(s.DescendFrom(ctx, series, number, name), series)
}

// Ascend is Descend, oldest first.
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
			ref.Position, ok = position(r.Number, r.Name)
			if ref.Number, known = number(r.Value); !ok || !known {
				yield(Ref{}, fmt.Errorf("%w: record %d/%s of %s", ErrDamaged, r.Number, r.Name, series))
				return
			}
			if !yield(ref, nil) {
				return
			}
		}
	}
}
