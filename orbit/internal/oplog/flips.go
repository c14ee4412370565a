package oplog

import (
	"context"

	"github.com/newpieceplease/npp/orbit/internal/blocks"
)

// flips are the numbers of the entries whose effect changed while they were here, in
// the order of the changes, as far back as somebody follows them ([Log.Updates]).
type flips struct {
	followers int
	numbers   []uint64
	before    int // how many there were before the first of those
}

// end is the place behind the last flip.
func (f *flips) end() int { return f.before + len(f.numbers) }

// follow returns the place from which on flips are kept, until unfollow.
func (l *Log) follow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flips.followers++
	return l.flips.end()
}

func (l *Log) unfollow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flips.followers--; l.flips.followers == 0 {
		l.flips.before, l.flips.numbers = l.flips.end(), nil
	}
}

// noteFlips adds flips that are on disk. The caller holds l.mu.
func (l *Log) noteFlips(numbers []uint64) {
	if l.flips.followers == 0 {
		l.flips.before += len(numbers)
		return
	}
	l.flips.numbers = append(l.flips.numbers, numbers...)
}

// flipsSince returns the flips from a place on, and the place behind them.
func (l *Log) flipsSince(place int) (numbers []uint64, end int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flips.numbers[place-l.flips.before:], l.flips.end()
}

// flipped returns the entry of a number with its present effect.
func (l *Log) flipped(ctx context.Context, number uint64) (Arrival, error) {
	g := blocks.Reading(ctx, l.store)
	e, err := l.numbered(g, number)
	if err != nil {
		return Arrival{Number: number}, err
	}
	fault, err := l.fault(g, e.Hash())
	return Arrival{Number: number, Hash: e.Hash(), Entry: e, Lost: fault != ""}, err
}
