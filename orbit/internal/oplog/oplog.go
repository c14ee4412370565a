package oplog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

var (
	// ErrNotFound means that the log contains no such entry.
	ErrNotFound = errors.New("no such entry in the log")
	// ErrDamaged means that a stored record is corrupt or gone. [Log.Rebuild]
	// repairs everything except lost entries.
	ErrDamaged = errors.New("damaged log")
)

// Config is the configuration of a log.
type Config struct {
	// State receives the authorized entries. Default: NoState.
	State State
	// Access is the access list until the first [Log.Revise].
	Access Access
	// Writer returns the ID of the identity that signed a valid entry of the
	// log.
	Writer func(g blocks.Getter, e *entry.Entry) (id string, err error)
	// MaxPending bounds the bytes of pending entries. With less than 4 MiB, the
	// largest entries cannot be pending. Default: [DefaultMaxPending].
	MaxPending uint64
	// Quota bounds the bytes of entries from peers. Default: no bound.
	Quota Quota
	// Changed is called after each change of the log or of its pending entries,
	// with the number of the last entry before the change. Calls come in order.
	// One call may tell of concurrent changes together. It must be quick and
	// must not use the log. Default: none.
	Changed func(after uint64)
}

// DefaultMaxPending is the default bound on the bytes of pending entries. It
// suffices for about 100,000 entries of usual size that arrive newest first.
const DefaultMaxPending = 256 << 20

// Log is a log in a store. Its methods may be called concurrently. There must
// be at most one Log for a number.
type Log struct {
	store  *store.Store
	number uint64
	id     string
	config Config

	initial      *accessSets // from the configuration
	isInitial    atomic.Bool // no access list is stored
	cachedAccess atomic.Pointer[accessCache]
	revising     sync.Mutex // held by Revise

	lookedUp hashCache // parents of pending entries
	changed  wait.Change
	told     told

	mu        sync.Mutex
	revisions revisions
	frozen    bool // the log cannot be written
	dropped   bool
}

// ErrOutdated means that an earlier version wrote the index of the log, in
// which an access list could not change. It is an [ErrDamaged], and
// [Log.Rebuild] updates the index.
var ErrOutdated = fmt.Errorf("%w: its index is of an earlier version", ErrDamaged)

// Open opens the log with a number and an ID, or creates it.
func Open(ctx context.Context, s *store.Store, number uint64, id string, c Config) (*Log, error) {
	if c.State == nil {
		c.State = NoState{}
	}
	c.MaxPending = cmp.Or(c.MaxPending, DefaultMaxPending)
	if c.Quota == nil {
		c.Quota = unlimited{}
	}
	if c.Changed == nil {
		c.Changed = func(uint64) {}
	}
	l := &Log{store: s, number: number, id: id, config: c, initial: c.Access.sets()}
	sum, err := l.readSummary(blocks.Reading(ctx, s))
	if err != nil {
		return l, err
	}
	l.told.last = sum.Numbers
	if sum.Rebuild != 0 {
		return l, fmt.Errorf("%w of %s: a rebuild of its index was interrupted", ErrDamaged, id)
	}
	if sum.outdated {
		return l, fmt.Errorf("%w: %s", ErrOutdated, id)
	}
	if sum.unmeasured {
		if sum, err = l.measure(ctx); err != nil {
			return l, err
		}
	}
	c.Quota.Stored(sum.Bytes, sum.PendingBytes)
	root, err := l.Node(ctx, "")
	if err == nil && root.Count != sum.Authorized {
		err = l.buildTree(ctx)
	}
	if err != nil {
		return l, err
	}
	last := uint64(0)
	for r, err := range s.Descend(ctx, blocks.Entries(number), math.MaxUint64) {
		if err != nil {
			return l, err
		}
		last = r.Number
		break
	}
	if last == sum.Numbers {
		return l, nil
	}
	if lost, err := s.Has(ctx, l.lostKey(sum.Numbers)); err != nil || lost && last < sum.Numbers {
		return l, err
	}
	return l, fmt.Errorf("%w of %s: the summary ends at entry %d, the log at %d", ErrDamaged, id, sum.Numbers, last)
}

// ID returns the ID of the log, which is the address of its database.
func (l *Log) ID() string { return l.id }

func (l *Log) key(rest string) string { return blocks.LogPrefix(l.number) + "/" + rest }

// Stats are statistics of a log.
type Stats struct {
	Entries      uint64           // authorized entries
	Unauthorized uint64           // unauthorized entries
	Pending      uint64           // pending entries, which are not part of the log yet
	Bytes        uint64           // size of the blocks of all entries of the log
	PendingBytes uint64           // approximate bytes of pending entries
	Keys         uint64           // live keys of the state
	Last         uint64           // number of the entry that arrived last
	Clock        float64          // largest time of the heads
	Heads        []entry.Position // newest first, at most [MaxHeads]

	HeadCount uint64 // all heads
	Revision  uint64 // rises when an entry of the log becomes authorized or unauthorized
	Revising  uint64 // entries whose authorization is being decided again
	Missing   uint64 // missing hashes; see [Log.Missing]
	Abandoned uint64 // rises when a pending entry is abandoned, which peers must offer again
}

// Stats returns statistics of the log.
func (l *Log) Stats(ctx context.Context) (Stats, error) {
	s, heads, err := l.storedHeads(blocks.Reading(ctx, l.store))
	if err != nil {
		return Stats{}, err
	}
	st := Stats{
		Entries: s.Authorized, Unauthorized: s.Unauthorized, Pending: s.Pending, Keys: s.Keys, Last: s.Numbers,
		HeadCount: s.HeadCount, Revision: s.Revision, Revising: s.Queue, Heads: heads[:min(len(heads), MaxHeads)],
		Bytes: s.Bytes, PendingBytes: s.PendingBytes, Missing: s.Missing, Abandoned: s.Abandoned,
	}
	if len(heads) > 0 {
		st.Clock = heads[0].Time
	}
	return st, nil
}

// Heads returns the positions of the heads, newest first, at most [MaxHeads].
func (l *Log) Heads(ctx context.Context) ([]entry.Position, error) {
	_, heads, err := l.storedHeads(blocks.Reading(ctx, l.store))
	return heads[:min(len(heads), MaxHeads)], err
}

// Has reports whether the log contains an entry with the hash.
func (l *Log) Has(ctx context.Context, hash string) (bool, error) {
	return l.has(blocks.Reading(ctx, l.store), hash)
}

func (l *Log) has(g blocks.Getter, hash string) (bool, error) {
	_, err := l.locate(g, hash)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// locate returns the location of the entry with a hash, or [ErrNotFound].
func (l *Log) locate(g blocks.Getter, hash string) (blocks.Location, error) {
	if !block.ValidHash(hash) {
		return blocks.Location{}, fmt.Errorf("%w: %.80q", ErrNotFound, hash)
	}
	at, err := blocks.Locate(g, hash)
	if errors.Is(err, blocks.ErrNotFound) || err == nil && at.Log != l.number {
		err = fmt.Errorf("%w: %.80q", ErrNotFound, hash)
	}
	return at, err
}

// Get returns the entry with a hash. The error is [ErrNotFound] if the log does
// not contain it and [blocks.ErrDamaged] if its record is damaged.
func (l *Log) Get(ctx context.Context, hash string) (*entry.Entry, error) {
	return l.get(blocks.Reading(ctx, l.store), hash)
}

func (l *Log) get(g blocks.Getter, hash string) (*entry.Entry, error) {
	at, err := l.locate(g, hash)
	if err != nil {
		return nil, err
	}
	return l.at(g, at.Number, hash)
}

// at returns the entry with a number and a hash.
func (l *Log) at(g blocks.Getter, number uint64, hash string) (*entry.Entry, error) {
	e, err := At(g, blocks.Location{Log: l.number, Number: number}, hash)
	if errors.Is(err, blocks.ErrDamaged) && l.Dropped() {
		return nil, fmt.Errorf("%w: %s", ErrDropped, l.id)
	}
	if err != nil {
		err = fmt.Errorf("%w of %s", err, l.id)
	}
	return e, err
}

// At returns the entry at a location, which has the hash. The error is
// [blocks.ErrDamaged] if the record is damaged or gone.
func At(g blocks.Getter, at blocks.Location, hash string) (*entry.Entry, error) {
	b, err := blocks.Entry(g, at, hash)
	if err != nil {
		return nil, err
	}
	return entry.Decode(b)
}

// Unauthorized returns why an entry of the log is not authorized, or "" if it
// is.
func (l *Log) Unauthorized(ctx context.Context, hash string) (string, error) {
	return l.unauthorized(blocks.Reading(ctx, l.store), hash)
}

// byNumber returns the entry with a number.
func (l *Log) byNumber(g blocks.Getter, number uint64) (*entry.Entry, error) {
	record, err := g.Get(store.Key(blocks.Entries(l.number), number))
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w: entry %d of %s is gone", blocks.ErrDamaged, number, l.id)
	}
	if err != nil {
		return nil, err
	}
	b, err := blocks.DecodeEntry(record)
	if err != nil {
		return nil, fmt.Errorf("%w of %s", err, l.id)
	}
	return entry.Decode(b)
}

func (l *Log) unauthorized(g blocks.Getter, hash string) (string, error) {
	reason, err := g.Get(l.reasonKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return string(reason), err
}

func (l *Log) reasonKey(hash string) string { return l.key("fault/" + hash) }

// mustGet returns the value of a key that exists unless the log is damaged.
func (l *Log) mustGet(tx *store.Tx, key string) ([]byte, error) {
	value, err := tx.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w of %s: %s is gone", ErrDamaged, l.id, key)
	}
	return value, err
}

// damaged returns the error for a corrupt record.
func (l *Log) damaged(key string) error { return fmt.Errorf("%w of %s: %s", ErrDamaged, l.id, key) }

// gone reports whether an error means that an entry of the log is lost. A
// rebuilt log works without it.
func gone(err error) bool { return errors.Is(err, blocks.ErrDamaged) || errors.Is(err, ErrNotFound) }
