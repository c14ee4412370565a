package oplog

import (
	"context"

	"github.com/newpieceplease/npp/orbit/blocks"
)

// revisions are the numbers of the entries whose effect changed while they were here, in
// the order of the changes, as far back as somebody follows them ([Log.Updates]).
type revisions struct {
	followers int
	numbers   []uint64
	before    int // how many there were before the first of those
}

// end is the place behind the last flip.
func (f *revisions) end() int { return f.before + len(f.numbers) }

// follow returns the place from which on flips are kept, until unfollow.
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

// addRevisions adds flips that are on disk. The caller holds l.mu.
func (l *Log) addRevisions(numbers []uint64) {
	if l.revisions.followers == 0 {
		l.revisions.before += len(numbers)
		return
	}
	l.revisions.numbers = append(l.revisions.numbers, numbers...)
}

// revisionsSince returns the flips from a place on, and the place behind them.
func (l *Log) revisionsSince(place int) (numbers []uint64, end int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revisions.numbers[place-l.revisions.before:], l.revisions.end()
}

// revised returns the entry of a number with its present effect.
func (l *Log) revised(ctx context.Context, number uint64) (Arrival, error) {
	g := blocks.Reading(ctx, l.store)
	e, err := l.numbered(g, number)
	if err != nil {
		return Arrival{Number: number}, err
	}
	reason, err := l.unauthorized(g, e.Hash())
	return Arrival{Number: number, Hash: e.Hash(), Entry: e, Lost: reason != ""}, err
}
