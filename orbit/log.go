package orbit

import (
	"context"
	"iter"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

func init() {
	oplog.Of = func(database any) *oplog.Log { return database.(*Database).log }
}

var (
	// ErrNoEntry is returned for an entry that is not part of a database.
	ErrNoEntry = oplog.ErrNotFound
	// ErrOtherDatabase is returned for an entry of another database.
	ErrOtherDatabase = oplog.ErrOtherLog
	// ErrRange is returned for an invalid [Range].
	ErrRange = oplog.ErrRange
	// ErrDamaged is returned for a database with a damaged index, which
	// [Orbit.Rebuild] repairs.
	ErrDamaged = oplog.ErrDamaged
	// ErrDamagedBlock is returned for a block whose bytes do not match its CID.
	ErrDamagedBlock = blocks.ErrDamaged
)

// Range selects entries. The zero Range selects all of them.
//
// The bounds are CIDs of entries. As in JavaScript, an upper bound is one in
// the graph: LTE selects the entry and its ancestors, LT its ancestors, and
// both leave out concurrent entries of other writers. A lower bound is one in
// the order of the log.
type Range struct {
	GT, GTE string
	LT, LTE string
	// After is an upper bound in the order of the log, which is not part of the
	// range. To continue after a page, pass the CID of its last entry.
	After string
	// Limit is the maximum number of entries; 0 means no limit. The range has
	// the newest entries or, with a lower and no upper bound, those next to the
	// lower bound.
	Limit int
}

// Arrival is an entry with its number in the order of arrival at this replica.
// Numbers rise and never change.
type Arrival struct {
	Number  uint64
	Hash    string       // "" if the entry is damaged and its CID unknown
	Entry   *entry.Entry // nil if the entry is damaged
	Revoked bool         // the entry is no longer authorized; see [Database.Updates]
}

// Lost is an entry that a rebuild could not read.
type Lost struct {
	Number uint64
	Hash   string // "" if the CID is unknown
}

// Stats are the counts of a database.
type Stats struct {
	Entries      uint64   // authorized entries
	Unauthorized uint64   // entries that are part of the log but not authorized
	Pending      uint64   // pending entries
	Missing      uint64   // missing entries, which pending ones need
	Keys         uint64   // live keys of a documents or keyvalue database
	Last         uint64   // number of the entry that arrived last
	Clock        float64  // largest time of the heads
	Heads        []string // CIDs, newest first, at most 4096
}

// Stats returns the counts of the database.
func (db *Database) Stats(ctx context.Context) (Stats, error) {
	s, err := db.log.Stats(ctx)
	stats := Stats{
		Entries: s.Entries, Unauthorized: s.Unauthorized, Pending: s.Pending, Missing: s.Missing,
		Keys: s.Keys, Last: s.Last, Clock: s.Clock, Heads: make([]string, len(s.Heads)),
	}
	for i, head := range s.Heads {
		stats.Heads[i] = head.Hash
	}
	return stats, err
}

// Entry returns the entry with a CID, whether or not it is authorized. It
// returns [ErrNoEntry] if the entry is not part of the log, and
// [ErrDamagedBlock].
func (db *Database) Entry(ctx context.Context, hash string) (*entry.Entry, error) {
	return db.log.Get(ctx, hash)
}

// Missing returns CIDs of missing entries, at most 1000. Fetch and join them
// until none is missing; package replicate does. If there are more, each call
// returns other ones.
func (db *Database) Missing(ctx context.Context) ([]string, error) {
	return db.log.Missing(ctx)
}

// Iterate yields the authorized entries of a range, newest first, and ends with
// the first error.
func (db *Database) Iterate(ctx context.Context, r Range) iter.Seq2[*entry.Entry, error] {
	return db.log.Iterate(ctx, oplog.Range{
		GT: r.GT, GTE: r.GTE, LT: r.LT, LTE: r.LTE, After: r.After, Limit: r.Limit,
	})
}

// Arrived yields the authorized entries in order of arrival, after the entry
// with the given number, and ends with the first error.
func (db *Database) Arrived(ctx context.Context, after uint64) iter.Seq2[Arrival, error] {
	return arrivals(db.log.Arrived(ctx, after))
}

// Stored yields all entries of the log, authorized or not, in order of arrival,
// after the entry with the given number. In this order, another replica can
// join them one by one. A damaged entry is yielded with an error, and the loop
// continues; any other error ends it.
func (db *Database) Stored(ctx context.Context, after uint64) iter.Seq2[Arrival, error] {
	return arrivals(db.log.Stored(ctx, after))
}

// Updates yields the authorized entries in order of arrival, after the entry
// with the given number: 0 for all entries, or the number of the last one seen,
// which remains valid after a restart. It then waits for new entries and yields
// them without a gap, until the context is done, the Orbit is closed
// ([ErrClosed]) or the database is dropped ([ErrDropped]). It also yields,
// again and with their old numbers, entries that become authorized or cease to
// be when the access list changes.
func (db *Database) Updates(ctx context.Context, after uint64) iter.Seq2[Arrival, error] {
	return db.Follow(ctx, after, func(uint64) {})
}

// Follow is Updates. It calls caughtUp with the number of the last entry each
// time all present entries were yielded.
func (db *Database) Follow(ctx context.Context, after uint64, caughtUp func(last uint64)) iter.Seq2[Arrival, error] {
	return func(yield func(Arrival, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(db.orbit.ctx, func() { cancel(ErrClosed) })()
		for a, err := range db.log.Follow(ctx, after, caughtUp) {
			if err != nil && context.Cause(ctx) == ErrClosed {
				err = ErrClosed
			}
			if !yield(newArrival(a), err) {
				return
			}
		}
	}
}

func newArrival(a oplog.Arrival) Arrival {
	return Arrival{Number: a.Number, Hash: a.Hash, Entry: a.Entry, Revoked: a.Revoked}
}

func arrivals(seq iter.Seq2[oplog.Arrival, error]) iter.Seq2[Arrival, error] {
	return func(yield func(Arrival, error) bool) {
		for a, err := range seq {
			if !yield(newArrival(a), err) {
				return
			}
		}
	}
}
