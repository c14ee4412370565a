package oplog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// Stored yields all entries after a number, including unauthorized ones, in the
// order of their arrival. A replica can join them one by one in this order. A
// damaged entry yields an error, after which the loop may continue. Any other
// error ends it.
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

// Arrived is like Stored, but yields only authorized entries, which are
// durable, and stops at the first error. It omits entries that a rebuild found
// lost.
func (l *Log) Arrived(ctx context.Context, after uint64) iter.Seq2[Arrival, error] {
	return func(yield func(Arrival, error) bool) {
		// The summary that an update reads is durable when the update ends.
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
			var reason string
			if err == nil {
				reason, err = l.Unauthorized(ctx, a.Hash)
			} else if a.Number > 0 {
				lost, hasErr := l.store.Has(ctx, l.lostKey(a.Number))
				if lost {
					continue
				}
				err = errors.Join(err, hasErr)
			}
			if err == nil && reason != "" {
				continue
			}
			if !yield(a, err) || err != nil {
				return
			}
		}
	}
}

// Arrival is an entry with its number in the order of arrival at this replica.
// Numbers rise and never change.
type Arrival struct {
	Number  uint64
	Hash    string       // "" if even the hash is damaged
	Entry   *entry.Entry // nil if the entry is damaged
	Revoked bool         // the entry is no longer authorized; only from [Log.Updates]
}

// Updates is like Arrived, but continues with later arrivals, without a gap,
// until the context is done, the log is dropped ([ErrDropped]) or the loop
// ends. When the access list changes, it yields the entries that become
// authorized or unauthorized again, with their old numbers.
func (l *Log) Updates(ctx context.Context, after uint64) iter.Seq2[Arrival, error] {
	return l.Follow(ctx, after, func(uint64) {})
}

// Follow is like Updates, but calls caughtUp whenever it has yielded everything
// in the log. last is the number of the log's last entry.
func (l *Log) Follow(ctx context.Context, after uint64, caughtUp func(last uint64)) iter.Seq2[Arrival, error] {
	return func(yield func(Arrival, error) bool) {
		index := l.follow()
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
			numbers, end := l.revisionsSince(index)
			for _, number := range numbers {
				if number > after {
					continue // it is still to come
				}
				if a, err := l.revised(ctx, number); !yield(a, err) || err != nil {
					return
				}
			}
			index = end
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

// revisions holds the numbers of entries that became authorized or
// unauthorized, in the order of the changes, as far back as a follower needs
// them ([Log.Updates]).
type revisions struct {
	followers int
	numbers   []uint64
	before    int // number of changes before the first in numbers
}

// end returns the index after the last change.
func (f *revisions) end() int { return f.before + len(f.numbers) }

// follow returns the index of the next change. Changes from there on are held
// until unfollow.
func (l *Log) follow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revisions.followers++
	return l.revisions.end()
}

func (l *Log) unfollow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.revisions.followers--; l.revisions.followers == 0 {
		l.revisions.before, l.revisions.numbers = l.revisions.end(), nil
	}
}

// addRevisions adds changes that are stored. The caller holds l.mu.
func (l *Log) addRevisions(numbers []uint64) {
	if l.revisions.followers == 0 {
		l.revisions.before += len(numbers)
		return
	}
	l.revisions.numbers = append(l.revisions.numbers, numbers...)
}

// revisionsSince returns the changes from an index on, and the index after the
// last.
func (l *Log) revisionsSince(index int) (numbers []uint64, end int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revisions.numbers[index-l.revisions.before:], l.revisions.end()
}

// revised returns the entry with a number as it is now.
func (l *Log) revised(ctx context.Context, number uint64) (Arrival, error) {
	g := blocks.Reading(ctx, l.store)
	e, err := l.byNumber(g, number)
	if err != nil {
		return Arrival{Number: number}, err
	}
	reason, err := l.unauthorized(g, e.Hash())
	return Arrival{Number: number, Hash: e.Hash(), Entry: e, Revoked: reason != ""}, err
}
