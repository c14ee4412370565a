// Package oplog is the log of operations under an OrbitDB database: a graph of
// entries that several writers append to and that replicas join.
//
// # The log
//
// An entry is part of the log when all that it names in next and refs is; the
// log is closed under both at any moment, also after a crash. JavaScript, which
// fetches both before it joins an entry, can therefore join whatever it is
// offered. Heads are the entries that no other names in next. An appended
// entry names all of them, newest first, and refers to the 16 newest entries
// behind as many as there are heads.
//
// An entry that comes before what it names waits on disk, has no effect, and is
// neither head nor counted. [Log.Missing] says what is waited for. When that
// comes, those that waited follow, a bounded number to a transaction.
//
// An entry that must have no effect (see [entry.Entry.Check], and the access
// controller) is refused, unless an entry that counts was written on top of it:
// then it is kept as part of the graph, to be sent and named, but it is in no
// order, in no state, and never a head.
//
// # What is stored
//
// Below log/<number of the log> in the store:
//
//	summary                          counts, heads and the newest entries
//	entry/<number>                   the entries, in the order of arrival
//	order/<time>/<clock id>.<hash>   number of an entry that counts
//	tree/<path>                      how many entries of the order are behind a
//	                                 path, and the sum of their hashes
//	raised/<hash>                    rank of an entry, where its clock does not tell
//	fault/<hash>                     why an entry does not count
//	under/<hash>                     what an entry that does not count is on top of
//	wait/<hash>                      an entry that waits, and its fault
//	parents/<hash>/<n>               hashes that such an entry names, 64 to a record
//	lost/<number>                    hash, if known, of an entry found lost
//	wake/<hash>                      the entries that wait for the hash
//	ready/<n>                        an entry whose wait may be over
//
// The parents of an entry are stored by themselves once it has been woken and
// waits for another of them, from that one on: wake and ready have its place
// behind the hash, so that each of very many parents costs little when it comes.
// What an entry is on top of is the entries that count among those it names and,
// through what does not count, behind them: the largest of their ranks, and
// those that were heads when it came.
//
// The time in an order key is a whole number; where the rank is more than that,
// it is in front of the clock ID.
//
// A change of the log and of the state that follows from it ([State]) is one
// transaction. Each costs the same at a hundred entries and at a million, but for
// a node of the tree for each hex digit of the clock. The nodes of two replicas
// tell what one of them lacks without a look at what both have ([Log.Node]).
package oplog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

var (
	// ErrNotFound says that the log has no such entry.
	ErrNotFound = errors.New("no such entry in the log")
	// ErrDamaged says that something stored is not what was stored.
	// [Log.Rebuild] mends all but lost entries.
	ErrDamaged = errors.New("damaged log")
)

// State is what follows from the entries of a log. It must not depend on the
// order in which they come.
type State interface {
	// Apply adds the effect of an entry that counts, and returns by how much
	// the number of live keys changed.
	Apply(tx *store.Tx, e *entry.Entry, at Ref) (keys int, err error)
	// Failed tells that changes which were applied may not have been stored.
	Failed()
	// Prefixes are the parts of the log's namespace that the state has to
	// itself.
	Prefixes() []string
}

// NoState is the state of a database whose entries are all there is.
type NoState struct{}

// Apply does nothing.
func (NoState) Apply(*store.Tx, *entry.Entry, Ref) (int, error) { return 0, nil }

// Failed does nothing.
func (NoState) Failed() {}

// Prefixes returns none.
func (NoState) Prefixes() []string { return nil }

// Log is a log in a store. Its methods may be called concurrently; there must
// be one Log only for a number.
type Log struct {
	store  *store.Store
	number uint64
	id     string
	state  State

	mu      sync.Mutex
	changed chan struct{} // closed at the next change
	frozen  bool          // nothing may be written
	dropped bool
}

// Open opens the log of a number, which has the ID, or begins it. The state
// gets the entries as they come.
func Open(ctx context.Context, s *store.Store, number uint64, id string, state State) (*Log, error) {
	l := &Log{store: s, number: number, id: id, state: state, changed: make(chan struct{})}
	sum, err := l.readSummary(blocks.Reading(ctx, s))
	if err != nil {
		return l, err
	}
	if sum.Rebuild != 0 {
		return l, fmt.Errorf("%w of %s: its index is half rebuilt", ErrDamaged, id)
	}
	root, err := l.Node(ctx, "")
	if err == nil && root.Count != sum.Counting {
		err = l.plant(ctx)
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

// ID returns the ID of the log: the address of its database.
func (l *Log) ID() string { return l.id }

func (l *Log) key(rest string) string { return blocks.LogPrefix(l.number) + "/" + rest }

// Stats are counts of a log.
type Stats struct {
	Entries uint64  // that count
	Faults  uint64  // that do not
	Waiting uint64  // that are not part of the log yet
	Keys    uint64  // live keys of the state
	Last    uint64  // number of the entry that came last
	Clock   float64 // largest time of the heads
	Heads   []entry.Position
}

// Stats returns the counts of the log.
func (l *Log) Stats(ctx context.Context) (Stats, error) {
	s, err := l.readSummary(blocks.Reading(ctx, l.store))
	if err != nil {
		return Stats{}, err
	}
	st := Stats{Entries: s.Counting, Faults: s.Faults, Waiting: s.Waiting, Keys: s.Keys, Last: s.Numbers, Heads: s.Heads}
	for _, h := range s.Heads {
		st.Clock = max(st.Clock, h.Time)
	}
	return st, nil
}

// Heads returns the positions of the heads, newest first.
func (l *Log) Heads(ctx context.Context) ([]entry.Position, error) {
	s, err := l.readSummary(blocks.Reading(ctx, l.store))
	if err != nil {
		return nil, err
	}
	return s.Heads, nil
}

// Changed returns a channel that is closed at the next change of the log, also
// of what waits.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Has reports whether an entry with the hash is part of the log.
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

// locate returns where the entry with a hash is kept, or [ErrNotFound].
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

// Get returns the entry with a hash, [ErrNotFound], or [blocks.ErrDamaged].
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

// at returns the entry of a number, which has the hash.
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

// At returns the entry at a location, which has the hash, or
// [blocks.ErrDamaged], also where it is gone.
func At(g blocks.Getter, at blocks.Location, hash string) (*entry.Entry, error) {
	b, err := blocks.Entry(g, at, hash)
	if err != nil {
		return nil, err
	}
	return entry.Decode(b)
}

// Fault returns why an entry of the log does not count, or "".
func (l *Log) Fault(ctx context.Context, hash string) (string, error) {
	return l.fault(blocks.Reading(ctx, l.store), hash)
}

func (l *Log) faultKey(hash string) string { return l.key("fault/" + hash) }

func (l *Log) fault(g blocks.Getter, hash string) (string, error) {
	reason, err := g.Get(l.faultKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return string(reason), err
}

// Append writes an entry for each payload, one after the other and all of them
// or none, and returns them when they are on disk. s must be allowed to write.
func (l *Log) Append(ctx context.Context, s *identity.Signer, payloads ...value.Value) ([]*entry.Entry, error) {
	return l.AppendIf(ctx, s, func(blocks.Getter) error { return nil }, payloads...)
}

// AppendIf is Append, but writes nothing and returns the error of check if that
// has one. check sees all that the entries will be on top of. It may be called
// more than once.
func (l *Log) AppendIf(ctx context.Context, s *identity.Signer, check func(blocks.Getter) error, payloads ...value.Value) ([]*entry.Entry, error) {
	for range maxRefills {
		var entries []*entry.Entry
		err := l.update(ctx, func(tx *store.Tx, sum *summary) error {
			if err := check(tx); err != nil {
				return err
			}
			entries = make([]*entry.Entry, 0, len(payloads))
			for _, p := range payloads {
				refs, ok := sum.refs()
				if !ok {
					return errNewestUnknown
				}
				e, err := entry.New(s, l.id, p, sum.Heads, refs)
				if err != nil {
					return err
				}
				if err := l.insert(tx, sum, e, nil); err != nil {
					return err
				}
				entries = append(entries, e)
			}
			return nil
		})
		if err == nil {
			return entries, nil
		}
		if !errors.Is(err, errNewestUnknown) {
			return nil, err
		}
		if err := l.refill(ctx); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w of %s: its order has too few entries", ErrDamaged, l.id)
}

// maxRefills is how often the newest entries are looked up for an append. Once
// is enough, but where the log changes meanwhile.
const maxRefills = 64

// errNewestUnknown says that a summary has too few of the newest entries.
var errNewestUnknown = errors.New("the newest entries are not known")

// refill reads the newest entries into the summary again.
func (l *Log) refill(ctx context.Context) error {
	before, err := l.readSummary(blocks.Reading(ctx, l.store))
	if err != nil {
		return err
	}
	var newest []entry.Position
	for r, err := range l.descend(ctx, nil) {
		if err != nil {
			return err
		}
		if newest = append(newest, r.Position); len(newest) >= before.keep() {
			break
		}
	}
	return l.update(ctx, func(tx *store.Tx, sum *summary) error {
		if sum.Numbers == before.Numbers {
			sum.Newest = newest
		}
		return nil
	})
}

// update changes the log in a transaction, and tells those who wait for
// changes.
func (l *Log) update(ctx context.Context, change func(*store.Tx, *summary) error) error {
	return l.write(ctx, func(tx *store.Tx, sum *summary) error {
		if sum.Rebuild != 0 {
			return fmt.Errorf("%w of %s: its index is being rebuilt", ErrDamaged, l.id)
		}
		return change(tx, sum)
	})
}

// write is update, for a rebuild, too.
func (l *Log) write(ctx context.Context, change func(*store.Tx, *summary) error) error {
	touched := false
	err := l.store.Update(ctx, func(tx *store.Tx) error {
		if err := l.refusal(); err != nil {
			return err
		}
		sum, err := l.readSummary(tx)
		if err != nil {
			return err
		}
		before := sum.Numbers
		defer func() { touched = sum.Numbers != before }()
		if err := change(tx, sum); err != nil {
			return err
		}
		return l.writeSummary(tx, sum)
	})
	if err != nil && touched {
		l.state.Failed()
	}
	// What may not be durable may be there all the same.
	if err == nil || errors.Is(err, store.ErrNotDurable) {
		l.mu.Lock()
		l.signal()
		l.mu.Unlock()
	}
	return err
}

// signal tells those who wait for changes. The caller holds l.mu.
func (l *Log) signal() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// insert makes an entry part of the log, all of whose parents are. fault is why
// it does not count, or nil.
func (l *Log) insert(tx *store.Tx, sum *summary, e *entry.Entry, fault error) error {
	sum.Numbers++
	if err := blocks.PutEntry(tx, blocks.Location{Log: l.number, Number: sum.Numbers}, e.Block); err != nil {
		return err
	}
	return l.index(tx, sum, e, sum.Numbers, fault)
}

// index adds an entry that is stored to all that follows from it.
func (l *Log) index(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, fault error) error {
	rank := e.Rank()
	// Where it is larger than any here, those below do not matter.
	ranked := fault != nil || len(sum.Heads) > 0 && rank.Compare(sum.Heads[0].Rank) <= 0
	below, err := l.below(tx, sum, e.Next, ranked)
	if err != nil {
		return err
	}
	if fault != nil {
		sum.Faults++
		if err := tx.Put(l.underKey(e.Hash()), below.encode()); err != nil {
			return err
		}
		return tx.Put(l.faultKey(e.Hash()), []byte(fault.Error()))
	}
	if below.some {
		rank = e.Rank(below.rank)
	}
	if rank != e.Rank() {
		if err := tx.Put(raisedKey(l.number, e.Hash()), []byte(rankText(rank))); err != nil {
			return err
		}
	}
	covered, err := l.covered(tx, below)
	if err != nil {
		return err
	}
	p := e.Position(rank)
	sum.addHead(p, covered)
	sum.add(p)
	if err := tx.Put(l.orderKey(p), binary.AppendUvarint(nil, number)); err != nil {
		return err
	}
	time, _ := place(p)
	if err := l.grow(tx, time, p.Hash); err != nil {
		return err
	}
	keys, err := l.state.Apply(tx, e, Ref{p, number})
	sum.Keys += uint64(keys)
	return err
}

// gone reports whether an error is that an entry of the log is lost: a rebuild
// goes on without it.
func gone(err error) bool { return errors.Is(err, blocks.ErrDamaged) || errors.Is(err, ErrNotFound) }
