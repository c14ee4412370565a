package oplog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
)

// Range selects entries. The zero Range selects all of them.
//
// Bounds are hashes of entries in the log. As in JavaScript, an upper bound is
// a bound in the graph: LTE selects the entry and its ancestors, LT only its
// ancestors, and both omit the entries that other writers wrote concurrently. A
// lower bound is a bound in the order of the log.
type Range struct {
	GT, GTE string
	LT, LTE string
	// After is an exclusive upper bound in the order of the log. The hash of
	// the last entry of a page selects the next page.
	After string
	// Limit is the largest number of entries; 0 means no limit. The newest
	// entries of the range are selected or, if the range has only a lower
	// bound, those next to that bound.
	Limit int
}

// ErrRange means that a range is contradictory or too large.
var ErrRange = errors.New("invalid range")

// maxPage is the largest limit of a range with a lower bound, because that many
// positions are held in memory.
const maxPage = 1 << 17

func (r Range) check() error {
	switch {
	case r.GT != "" && r.GTE != "":
		return fmt.Errorf("%w: both gt and gte", ErrRange)
	case r.LT != "" && r.LTE != "":
		return fmt.Errorf("%w: both lt and lte", ErrRange)
	case r.After != "" && r.LT+r.LTE != "":
		return fmt.Errorf("%w: both after and lt or lte", ErrRange)
	case r.Limit > maxPage && r.GT+r.GTE != "":
		return fmt.Errorf("%w: limit %d with a lower bound, at most %d", ErrRange, r.Limit, maxPage)
	case r.Limit < 0:
		return fmt.Errorf("%w: limit %d", ErrRange, r.Limit)
	}
	return nil
}

// Ref is the position of an entry in the order of the log, and its number.
type Ref struct {
	entry.Position
	Number uint64
}

// Iterate yields the authorized entries of a range, newest first, and stops at
// the first error. A page costs about the same anywhere in the log.
func (l *Log) Iterate(ctx context.Context, r Range) iter.Seq2[*entry.Entry, error] {
	return l.entries(ctx, l.refs(ctx, r))
}

// Ascend yields all authorized entries, oldest first, and stops at the first
// error.
func (l *Log) Ascend(ctx context.Context) iter.Seq2[*entry.Entry, error] {
	return l.entries(ctx, Ascend(ctx, l.store, l.key("order")))
}

// entries yields the entries at refs, and stops at the first error.
func (l *Log) entries(ctx context.Context, refs iter.Seq2[Ref, error]) iter.Seq2[*entry.Entry, error] {
	return func(yield func(*entry.Entry, error) bool) {
		g := blocks.Reading(ctx, l.store)
		for ref, err := range refs {
			var e *entry.Entry
			if err == nil {
				e, err = l.at(g, ref.Number, ref.Hash)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (l *Log) refs(ctx context.Context, r Range) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		if err := r.check(); err != nil {
			yield(Ref{}, err)
			return
		}
		b, err := l.bounds(ctx, r)
		if err != nil {
			yield(Ref{}, err)
			return
		}
		if b.low != nil && b.high == nil && b.after == nil && r.Limit > 0 {
			l.nextAbove(ctx, *b.low, r, yield)
			return
		}
		refs := l.descend(ctx, b.after)
		if b.high != nil {
			refs = l.ancestors(ctx, b.high, r.LT == "")
		}
		count := 0
		for ref, err := range refs {
			if err != nil {
				yield(Ref{}, err)
				return
			}
			if b.after != nil && ref.Hash == b.after.Hash {
				continue
			}
			if b.low != nil {
				if c := ref.Compare(*b.low); c < 0 || c == 0 && r.GT != "" {
					return
				}
			}
			if count++; !yield(ref, nil) || count == r.Limit {
				return
			}
		}
	}
}

// bounds are the bounds of a range. A bound that the range lacks is nil.
type bounds struct {
	low, after *entry.Position
	high       *entry.Entry
}

func (l *Log) bounds(ctx context.Context, r Range) (b bounds, err error) {
	if b.low, err = l.bound(ctx, r.GT+r.GTE); err != nil {
		return b, err
	}
	if b.after, err = l.bound(ctx, r.After); err != nil {
		return b, err
	}
	if hash := r.LT + r.LTE; hash != "" {
		b.high, err = l.Get(ctx, hash)
	}
	return b, err
}

// bound returns the position of an entry, or nil if hash is "".
func (l *Log) bound(ctx context.Context, hash string) (*entry.Position, error) {
	if hash == "" {
		return nil, nil
	}
	e, err := l.Get(ctx, hash)
	if err != nil {
		return nil, err
	}
	p, err := l.Position(ctx, e)
	return &p, err
}

// nextAbove yields the entries next to a lower bound, newest first.
func (l *Log) nextAbove(ctx context.Context, low entry.Position, r Range, yield func(Ref, error) bool) {
	var page []Ref
	for ref, err := range l.ascend(ctx, low) {
		if err != nil {
			yield(Ref{}, err)
			return
		}
		if r.GT != "" && ref.Position == low {
			continue
		}
		if page = append(page, ref); len(page) == r.Limit {
			break
		}
	}
	for _, ref := range slices.Backward(page) {
		if !yield(ref, nil) {
			return
		}
	}
}

// ancestors yields the authorized ancestors of an entry, newest first, and the
// entry itself before them if included is set. It follows next, and always
// continues from the newest entry that it found.
func (l *Log) ancestors(ctx context.Context, top *entry.Entry, included bool) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		f := frontier{log: l, get: blocks.Reading(ctx, l.store), seen: make(map[uint64]bool)}
		hashes := top.Next
		if included {
			hashes = []string{top.Hash()}
		}
		for {
			if err := f.add(hashes); err != nil {
				yield(Ref{}, err)
				return
			}
			if len(f.nodes) == 0 {
				return
			}
			newest := f.nodes[len(f.nodes)-1]
			f.nodes = f.nodes[:len(f.nodes)-1]
			if !yield(newest.Ref, nil) {
				return
			}
			hashes = newest.next
		}
	}
}

// frontier holds the entries that a walk through the graph visits next.
type frontier struct {
	log   *Log
	get   blocks.Getter
	nodes []frontierNode  // oldest first
	seen  map[uint64]bool // numbers of entries
}

type frontierNode struct {
	Ref
	next []string
}

// add adds entries to the frontier. In place of an unauthorized entry, it adds
// the parents in next.
func (f *frontier) add(hashes []string) error {
	for len(hashes) > 0 {
		hash := hashes[0]
		hashes = hashes[1:]
		at, err := f.log.locate(f.get, hash)
		if err != nil {
			return err
		}
		if f.seen[at.Number] {
			continue
		}
		f.seen[at.Number] = true
		e, err := f.log.at(f.get, at.Number, hash)
		if err != nil {
			return err
		}
		reason, err := f.log.unauthorized(f.get, hash)
		if err != nil {
			return err
		}
		if reason != "" {
			hashes = slices.Concat(hashes, e.Next)
			continue
		}
		p, err := PositionOf(f.get, f.log.number, e)
		if err != nil {
			return err
		}
		n := frontierNode{Ref{p, at.Number}, e.Next}
		i, _ := slices.BinarySearchFunc(f.nodes, n, func(a, b frontierNode) int { return a.Compare(b.Position) })
		f.nodes = slices.Insert(f.nodes, i, n)
	}
	return nil
}
