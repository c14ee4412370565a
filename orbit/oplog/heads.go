package oplog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/store"
)

// A log has few heads, as a rule, and its summary has them. Of a log with more
// than maxInline, they are records of their own, so that an entry costs the same
// however many heads there are; they move back once there are few.
const (
	maxInline = 32
	fewHeads  = 8
)

// MaxHeads is how many heads [Log.Heads] returns.
const MaxHeads = 4096

// apart reports whether the heads are records of their own.
func (s *summary) apart() bool { return s.HeadCount > uint64(len(s.Heads)) }

func (l *Log) headsSeries() string            { return l.key("heads") }
func (l *Log) headAt(p entry.Position) string { return PositionKey(l.headsSeries(), p) }
func (l *Log) headKey(hash string) string     { return l.key("head/" + hash) }

// heads yields the heads, newest first.
func (l *Log) heads(tx *store.Tx, sum *summary) iter.Seq2[entry.Position, error] {
	if !sum.apart() {
		return listed(sum.Heads)
	}
	return positions(tx.Descend(l.headsSeries()), l.headsSeries())
}

// storedHeads is heads outside of a transaction.
func (l *Log) storedHeads(ctx context.Context) iter.Seq2[entry.Position, error] {
	return func(yield func(entry.Position, error) bool) {
		sum, err := l.readSummary(blocks.Reading(ctx, l.store))
		if err != nil {
			yield(entry.Position{}, err)
			return
		}
		l.headsOf(ctx, sum)(yield)
	}
}

// headsOf yields the heads of a summary that is stored.
func (l *Log) headsOf(ctx context.Context, sum *summary) iter.Seq2[entry.Position, error] {
	if !sum.apart() {
		return listed(sum.Heads)
	}
	return positions(l.store.Descend(ctx, l.headsSeries(), math.MaxUint64), l.headsSeries())
}

func listed(list []entry.Position) iter.Seq2[entry.Position, error] {
	return func(yield func(entry.Position, error) bool) {
		for _, p := range list {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// positions yields the positions that the names of records are.
func positions(records iter.Seq2[store.Record, error], series string) iter.Seq2[entry.Position, error] {
	return func(yield func(entry.Position, error) bool) {
		for r, err := range records {
			var p entry.Position
			if err == nil {
				var ok bool
				if p, ok = position(r.Number, r.Name); !ok {
					err = fmt.Errorf("%w: record %d/%s of %s", ErrDamaged, r.Number, r.Name, series)
				}
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

// first returns up to n of the positions that a sequence begins with.
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

// isHead reports whether an entry is a head.
func (l *Log) isHead(tx *store.Tx, sum *summary, hash string) (bool, error) {
	if !sum.apart() {
		return slices.ContainsFunc(sum.Heads, func(h entry.Position) bool { return h.Hash == hash }), nil
	}
	return tx.Has(l.headKey(hash))
}

// setHead makes an entry a head, or none.
func (l *Log) setHead(tx *store.Tx, sum *summary, p entry.Position, head bool) error {
	is, err := l.isHead(tx, sum, p.Hash)
	switch {
	case err != nil || is == head:
		return err
	case head:
		return l.addHead(tx, sum, p)
	default:
		return l.removeHead(tx, sum, p)
	}
}

func (l *Log) addHead(tx *store.Tx, sum *summary, p entry.Position) error {
	apart := sum.apart()
	sum.HeadCount++
	if apart {
		return l.putHead(tx, p)
	}
	i, _ := slices.BinarySearchFunc(sum.Heads, p, descending)
	sum.Heads = slices.Insert(sum.Heads, i, p)
	if len(sum.Heads) <= maxInline {
		return nil
	}
	for _, h := range sum.Heads {
		if err := l.putHead(tx, h); err != nil {
			return err
		}
	}
	sum.Heads = nil
	return nil
}

func (l *Log) putHead(tx *store.Tx, p entry.Position) error {
	if err := tx.Put(l.headAt(p), nil); err != nil {
		return err
	}
	return tx.Put(l.headKey(p.Hash), []byte(l.headAt(p)))
}

// removeHead takes a head from the heads.
func (l *Log) removeHead(tx *store.Tx, sum *summary, p entry.Position) error {
	sum.HeadCount--
	if len(sum.Heads) > 0 {
		sum.Heads = slices.DeleteFunc(sum.Heads, func(h entry.Position) bool { return h.Hash == p.Hash })
		return nil
	}
	for _, key := range []string{l.headAt(p), l.headKey(p.Hash)} {
		if err := tx.Delete(key); err != nil {
			return err
		}
	}
	return l.gatherHeads(tx, sum)
}

// gatherHeads moves the heads into the summary once there are few.
func (l *Log) gatherHeads(tx *store.Tx, sum *summary) error {
	if sum.HeadCount > fewHeads {
		return nil
	}
	few, err := first(fewHeads, positions(tx.Descend(l.headsSeries()), l.headsSeries()))
	if err != nil {
		return err
	}
	for _, p := range few {
		for _, key := range []string{l.headAt(p), l.headKey(p.Hash)} {
			if err := tx.Delete(key); err != nil {
				return err
			}
		}
	}
	sum.Heads = few
	return nil
}

// coverHead makes an entry none of the heads, if it is one: an entry that names
// it came to count.
func (l *Log) coverHead(tx *store.Tx, sum *summary, hash string) error {
	if !sum.apart() {
		if i := slices.IndexFunc(sum.Heads, func(h entry.Position) bool { return h.Hash == hash }); i >= 0 {
			return l.removeHead(tx, sum, sum.Heads[i])
		}
		return nil
	}
	record, err := tx.Get(l.headKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, key := range []string{string(record), l.headKey(hash)} {
		if err := tx.Delete(key); err != nil {
			return err
		}
	}
	sum.HeadCount--
	return l.gatherHeads(tx, sum)
}

// named returns the heads that the next entry names, newest first: the newest
// [entry.MaxNext] of them, and the newest entry written here, if it is a head.
func (l *Log) named(tx *store.Tx, sum *summary) ([]entry.Position, error) {
	if !sum.apart() {
		return sum.Heads, nil
	}
	list, err := first(entry.MaxNext, l.heads(tx, sum))
	if err != nil || len(sum.Own) == 0 {
		return list, err
	}
	own := sum.Own[0]
	if is, err := l.isHead(tx, sum, own.Hash); err != nil || !is || slices.Contains(list, own) {
		return list, err
	}
	list[len(list)-1] = own
	return list, nil
}
