package oplog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// Range chooses entries. The zero Range is all of them.
//
// Bounds are hashes of entries of the log. An upper bound is one in the graph,
// as in JavaScript: LTE is the entry and what it was written on top of, LT the
// latter alone; what other writers wrote meanwhile is left out. A lower bound
// is one in the order of the log.
type Range struct {
	GT, GTE string
	LT, LTE string
	// Behind is an upper bound in the order of the log, and not part of the
	// range: with that of the last entry of a page, the next page begins.
	Behind string
	// Amount is how many entries there are at most; 0 is no limit. They are the
	// newest; with a lower and no upper bound, they are those next to the lower
	// bound.
	Amount int
}

// ErrRange says that a range cannot be.
var ErrRange = errors.New("invalid range")

// maxPage is the largest amount next to a lower bound: so many are held in
// memory.
const maxPage = 1 << 17

func (r Range) check() error {
	switch {
	case r.GT != "" && r.GTE != "":
		return fmt.Errorf("%w: both gt and gte", ErrRange)
	case r.LT != "" && r.LTE != "":
		return fmt.Errorf("%w: both lt and lte", ErrRange)
	case r.Behind != "" && r.LT+r.LTE != "":
		return fmt.Errorf("%w: behind with lt or lte", ErrRange)
	case r.Amount > maxPage && r.GT+r.GTE != "":
		return fmt.Errorf("%w: amount %d with a lower bound, at most %d", ErrRange, r.Amount, maxPage)
	case r.Amount < 0:
		return fmt.Errorf("%w: amount %d", ErrRange, r.Amount)
	}
	return nil
}

// Ref is where an entry is.
type Ref struct {
	entry.Position
	Number uint64
}

// Iterate yields the entries of a range that count, newest first, and ends with
// the first error. A page costs about the same from anywhere in the log.
func (l *Log) Iterate(ctx context.Context, r Range) iter.Seq2[*entry.Entry, error] {
	return l.entries(ctx, l.refs(ctx, r))
}

// Ascend yields all entries that count, oldest first, and ends with the first
// error.
func (l *Log) Ascend(ctx context.Context) iter.Seq2[*entry.Entry, error] {
	return l.entries(ctx, Ascend(ctx, l.store, l.key("order")))
}

// entries yields the entries at refs, and ends with the first error.
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
		var low, high, behind *entry.Entry
		var at [3]entry.Position
		for i, bound := range []struct {
			hash  string
			entry **entry.Entry
		}{{r.GT + r.GTE, &low}, {r.LT + r.LTE, &high}, {r.Behind, &behind}} {
			if bound.hash == "" {
				continue
			}
			var err error
			if *bound.entry, err = l.Get(ctx, bound.hash); err == nil {
				at[i], err = l.Position(ctx, *bound.entry)
			}
			if err != nil {
				yield(Ref{}, err)
				return
			}
		}
		lowest, from := at[0], at[2]
		if low != nil && high == nil && behind == nil && r.Amount > 0 {
			l.above(ctx, lowest, r, yield)
			return
		}
		refs := l.descend(ctx, nil)
		switch {
		case high != nil:
			refs = l.cone(ctx, high, r.LT == "")
		case behind != nil:
			refs = l.descend(ctx, &from)
		}
		count := 0
		for ref, err := range refs {
			if err != nil {
				yield(Ref{}, err)
				return
			}
			if behind != nil && ref.Hash == behind.Hash() {
				continue
			}
			if low != nil {
				if c := ref.Compare(lowest); c < 0 || c == 0 && r.GT != "" {
					return
				}
			}
			if count++; !yield(ref, nil) || count == r.Amount {
				return
			}
		}
	}
}

// above yields the entries next above a lower bound, newest first.
func (l *Log) above(ctx context.Context, low entry.Position, r Range, yield func(Ref, error) bool) {
	var page []Ref
	for ref, err := range l.ascend(ctx, low) {
		if err != nil {
			yield(Ref{}, err)
			return
		}
		if r.GT != "" && ref.Position == low {
			continue
		}
		if page = append(page, ref); len(page) == r.Amount {
			break
		}
	}
	for _, ref := range slices.Backward(page) {
		if !yield(ref, nil) {
			return
		}
	}
}

// cone yields what an entry was written on top of, newest first, and before it
// the entry itself if that is included. It goes from entry to entry by what
// they name, and always on from the newest.
func (l *Log) cone(ctx context.Context, top *entry.Entry, included bool) iter.Seq2[Ref, error] {
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

// frontier is what a walk through the graph comes to next.
type frontier struct {
	log   *Log
	get   blocks.Getter
	nodes []node          // oldest first
	seen  map[uint64]bool // numbers of entries
}

type node struct {
	Ref
	next []string
}

// add adds entries, and instead of one that does not count what it names.
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
		fault, err := f.log.fault(f.get, hash)
		if err != nil {
			return err
		}
		if fault != "" {
			hashes = slices.Concat(hashes, e.Next)
			continue
		}
		p, err := PositionOf(f.get, f.log.number, e)
		if err != nil {
			return err
		}
		n := node{Ref{p, at.Number}, e.Next}
		i, _ := slices.BinarySearchFunc(f.nodes, n, func(a, b node) int { return a.Compare(b.Position) })
		f.nodes = slices.Insert(f.nodes, i, n)
	}
	return nil
}

func (l *Log) orderKey(p entry.Position) string { return PositionKey(l.key("order"), p) }

// descend yields where the entries that count are, newest first, from a
// position or the newest.
func (l *Log) descend(ctx context.Context, from *entry.Position) iter.Seq2[Ref, error] {
	return Descend(ctx, l.store, l.key("order"), from)
}

func (l *Log) ascend(ctx context.Context, from entry.Position) iter.Seq2[Ref, error] {
	series := l.key("order")
	number, name := place(from)
	return readRefs(l.store.AscendFrom(ctx, series, number, name), series)
}

// Stored yields all entries, those without effect included, in the order in
// which they came, from behind a number on, and ends with the last. That is
// an order in which a replica can join them one by one. One that is damaged has
// an error, and the loop may go on; any other error ends it.
func (l *Log) Stored(ctx context.Context, after uint64) iter.Seq2[Arrival, error] {
	return func(yield func(Arrival, error) bool) {
		if after == math.MaxUint64 {
			return
		}
		for r, err := range l.store.Ascend(ctx, blocks.Entries(l.number), after+1) {
			if err != nil {
				yield(Arrival{}, err)
				return
			}
			b, err := blocks.DecodeEntry(r.Value)
			a := Arrival{Number: r.Number, Hash: b.Hash}
			if err == nil {
				a.Entry, err = entry.Decode(b)
			} else {
				err = fmt.Errorf("%w of %s", err, l.id)
			}
			if !yield(a, err) {
				return
			}
		}
	}
}

// Arrived is Stored for the entries that count, and ends with the first error.
// What it yields stays: it is on disk. It leaves out what a rebuild has found
// lost.
func (l *Log) Arrived(ctx context.Context, after uint64) iter.Seq2[Arrival, error] {
	return func(yield func(Arrival, error) bool) {
		// What an update sees is on disk after it.
		var last uint64
		err := l.store.Update(ctx, func(tx *store.Tx) error {
			sum, err := l.readSummary(tx)
			if err == nil {
				last = sum.Numbers
			}
			return err
		})
		if err != nil {
			yield(Arrival{}, err)
			return
		}
		for a, err := range l.Stored(ctx, after) {
			if a.Number > last {
				return
			}
			var fault string
			if err == nil {
				fault, err = l.Fault(ctx, a.Hash)
			} else if a.Number > 0 {
				lost, hasErr := l.store.Has(ctx, l.lostKey(a.Number))
				if lost {
					continue
				}
				err = errors.Join(err, hasErr)
			}
			if err == nil && fault != "" {
				continue
			}
			if !yield(a, err) || err != nil {
				return
			}
		}
	}
}

// Arrival is an entry with its place in the order of arrival here. Numbers
// rise, and never change.
type Arrival struct {
	Number uint64
	Hash   string       // "" where even that is damaged
	Entry  *entry.Entry // nil where it is damaged
	Lost   bool         // it counted, and ceased to; only of [Log.Updates]
}

// Updates is Arrived, but goes on with what comes later, without a gap, until
// the context is done, the log is dropped ([ErrDropped]) or the loop is left. It
// also yields, once more and with their old numbers, the entries whose effect
// changes meanwhile because the access list does.
func (l *Log) Updates(ctx context.Context, after uint64) iter.Seq2[Arrival, error] {
	return l.Follow(ctx, after, func(uint64) {})
}

// Follow is Updates, and calls caughtUp each time that all that the log has was
// yielded, with the number of the log's last entry.
func (l *Log) Follow(ctx context.Context, after uint64, caughtUp func(last uint64)) iter.Seq2[Arrival, error] {
	return func(yield func(Arrival, error) bool) {
		flips := l.follow()
		defer l.unfollow()
		for {
			changed := l.Changed()
			now, err := l.readSummary(blocks.Reading(ctx, l.store))
			if err != nil {
				yield(Arrival{}, err)
				return
			}
			for a, err := range l.Arrived(ctx, after) {
				if !yield(a, err) || err != nil {
					return
				}
				after = a.Number
			}
			numbers, end := l.flipsSince(flips)
			for _, number := range numbers {
				if number > after {
					continue // it is still to come
				}
				if a, err := l.flipped(ctx, number); !yield(a, err) || err != nil {
					return
				}
			}
			flips = end
			if l.Dropped() {
				yield(Arrival{}, fmt.Errorf("%w: %s", ErrDropped, l.id))
				return
			}
			caughtUp(max(after, now.Numbers))
			select {
			case <-changed:
			case <-ctx.Done():
				yield(Arrival{}, ctx.Err())
				return
			}
		}
	}
}
