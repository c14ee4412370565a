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
// behind as many as there are heads, or to none where it names more than 32.
//
// An entry that comes before its parents (the entries that it names in next and
// refs) waits on disk, has no effect, and is neither head nor counted.
// [Log.Missing] says which hashes are to be fetched. When the parents have come, the
// waiting entries follow, a bounded number to a transaction.
//
// # What waits
//
// JavaScript sends the newest entry first, so all of a log but its oldest entry may
// wait. What may wait has a bound in bytes ([Config].Waiting), and beyond it, blocks
// are evicted. A waiting entry whose block was evicted keeps its hash and the hashes
// of its next, so the ancestors of a head are fetched down to those that are in the
// log, whatever the bound. Then the evicted blocks are fetched again, oldest first.
// Where even the hashes exceed the bound, the entries that came first, which are the
// newest ones, are given up, and come again with the heads that a peer offers
// ([Stats].GivenUp says so).
//
// What is evicted or given up is always of the peer that has the largest share of
// what waits. An entry is of the peer that offered it, or of the peer whose waiting
// entry needs it.
//
// What a peer makes us do by an entry that waits is bounded: one record for the
// entry, one for its block, one or two for the parent that it waits for and one for
// each of 64 parents that are missing; and as much again when it enters the log or is
// evicted. An entry with more parents has them looked up 64 at a time.
//
// # What counts
//
// An entry is invalid if its signature, its key or its encoding are wrong
// ([entry.Entry.Check]): that never changes. Of the valid ones, the access list
// says which count, and it may change ([Access], [Log.Revise]). An entry that
// does not count is refused when it comes, unless an entry waits for it: then it
// is part of the graph, to be sent and named, but it is in no order, in no
// state, and never a head.
//
// What counts is a function of the entries and of the access list alone. So
// nothing that is stored of an entry's effect is final: each valid entry that
// does not count is listed by its writer, and each entry that no anchor descends
// from is marked as loose. A change of the access list queues the entries whose
// effect it may change; an entry that names a loose one queues that. The queue is
// on disk, is worked off from the newest entry to the oldest, a bounded number to
// a transaction, and goes on after a crash.
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
//	access                           the access list by which the log counts
//	fault/<hash>                     why an entry does not count
//	idle/<hash of ID>/<hash>         a valid entry that does not count, by its writer
//	loose/<hash>                     an entry from which no anchor descends
//	below/<hash>                     largest rank below an invalid entry
//	revise/<number>                  mark of an entry whose effect is to be decided
//	heads/<page>                     the heads, where there are many
//	head/<hash>                      the page of such a head
//	lost/<number>                    hash, if known, of an entry found lost
//	wait/<hash>                      a waiting entry: who offered it, its parents
//	parents/<hash>/<n>               further parents of it, 64 to a record
//	wake/<hash>                      an entry that waits for the hash, and how many others do
//	waiters/<hash>/<hash>            one of those others
//	ready/<n>                        hash of an entry that came and that others wait for
//	missing/<number>/<hash>          a hash to be fetched, and the entry that needs it
//	held/<peer>/<n>                  the block of a waiting entry
//	evicted/<peer>/<n>               the hash of one whose block was evicted
//	share/<peer>                     what waits of the entries that a peer offered
//	shares/<bytes>/<peer>            the peers in the order of their shares
//	wrote/<hash of ID>               bytes of the entries that came of a writer
//	brought/<peer>                   bytes of the entries that came from a peer
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
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
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
	// the number of live keys changed. It may be called again for the same entry.
	Apply(tx *store.Tx, e *entry.Entry, at Ref) (keys int, err error)
	// Retract takes back the effect of an entry that ceased to count, and returns
	// by how much the number of live keys changed. Where other entries have to be
	// applied again, it notes the slot of the entry as lapsed.
	Retract(tx *store.Tx, e *entry.Entry, at Ref) (keys int, err error)
	// Slot returns what an entry is an operation on, or "".
	Slot(e *entry.Entry) string
	// Lapsed returns up to n slots whose newest entry has to be applied again.
	Lapsed(ctx context.Context, s *store.Store, n int) ([]string, error)
	// Restored says that a slot is not lapsed any more.
	Restored(tx *store.Tx, slot string) error
	// Failed tells that changes which were applied may not have been stored, or
	// that some were retracted.
	Failed()
	// Prefixes are the parts of the log's namespace that the state has to
	// itself.
	Prefixes() []string
}

// NoState is the state of a database whose entries are all there is.
type NoState struct{}

// Apply does nothing.
func (NoState) Apply(*store.Tx, *entry.Entry, Ref) (int, error) { return 0, nil }

// Retract does nothing.
func (NoState) Retract(*store.Tx, *entry.Entry, Ref) (int, error) { return 0, nil }

// Slot returns "".
func (NoState) Slot(*entry.Entry) string { return "" }

// Lapsed returns none.
func (NoState) Lapsed(context.Context, *store.Store, int) ([]string, error) { return nil, nil }

// Restored does nothing.
func (NoState) Restored(*store.Tx, string) error { return nil }

// Failed does nothing.
func (NoState) Failed() {}

// Prefixes returns none.
func (NoState) Prefixes() []string { return nil }

// Config is what a log is opened with.
type Config struct {
	// State gets the entries as they come. Default: NoState.
	State State
	// Access is the access list until the first [Log.Revise].
	Access Access
	// Writer returns the ID of the identity that a valid entry of the log names.
	Writer func(g blocks.Getter, e *entry.Entry) (id string, err error)
	// Waiting is how many bytes waiting entries may take: with less than 4 MiB, the
	// largest entries cannot wait. Default: [DefaultWaiting].
	Waiting uint64
	// Quota bounds what others may have stored in the log. Default: no bound.
	Quota Quota
}

// DefaultWaiting is how many bytes the waiting entries of a log may take: those of
// some 100 000 entries of usual size that come newest first.
const DefaultWaiting = 256 << 20

// Log is a log in a store. Its methods may be called concurrently; there must
// be one Log only for a number.
type Log struct {
	store  *store.Store
	number uint64
	id     string
	config Config

	initial      *sets       // of the configuration
	isInitial    atomic.Bool // no access list is stored
	cachedAccess atomic.Pointer[accessCache]
	revising     sync.Mutex // one Revise at a time

	looked looked // of hashes that waiting entries name

	mu      sync.Mutex
	changed chan struct{} // closed at the next change
	flips   flips
	frozen  bool // nothing may be written
	dropped bool
}

// ErrOutdated says that a log was written when verdicts did not change. It is
// [ErrDamaged], and [Log.Rebuild] brings it up to date.
var ErrOutdated = fmt.Errorf("%w: its index is of an earlier version", ErrDamaged)

// Open opens the log of a number, which has the ID, or begins it.
func Open(ctx context.Context, s *store.Store, number uint64, id string, c Config) (*Log, error) {
	if c.State == nil {
		c.State = NoState{}
	}
	c.Waiting = cmp.Or(c.Waiting, DefaultWaiting)
	if c.Quota == nil {
		c.Quota = noQuota{}
	}
	l := &Log{store: s, number: number, id: id, config: c, initial: c.Access.sets(), changed: make(chan struct{})}
	sum, err := l.readSummary(blocks.Reading(ctx, s))
	if err != nil {
		return l, err
	}
	if sum.Rebuild != 0 {
		return l, fmt.Errorf("%w of %s: its index is half rebuilt", ErrDamaged, id)
	}
	if sum.outdated {
		return l, fmt.Errorf("%w: %s", ErrOutdated, id)
	}
	if sum.unmeasured {
		if sum, err = l.measure(ctx); err != nil {
			return l, err
		}
	}
	c.Quota.Stored(sum.Bytes, sum.Pending)
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
	Entries uint64           // that count
	Faults  uint64           // that do not
	Waiting uint64           // that wait for others, so they are not part of the log yet
	Bytes   uint64           // of the blocks of all entries that are part of the log
	Pending uint64           // bytes that the waiting entries take, about
	Keys    uint64           // live keys of the state
	Last    uint64           // number of the entry that came last
	Clock   float64          // largest time of the heads
	Heads   []entry.Position // newest first, at most [MaxHeads]

	HeadCount uint64 // heads
	Revision  uint64 // rises when an entry that was here comes to count, or ceases to
	Revising  uint64 // entries whose effect is being decided anew
	Missing   uint64 // hashes that are to be fetched; see [Log.Missing]
	GivenUp   uint64 // rises when a waiting entry is forgotten for want of room, to be offered again
}

// Stats returns the counts of the log.
func (l *Log) Stats(ctx context.Context) (Stats, error) {
	s, heads, err := l.storedHeads(blocks.Reading(ctx, l.store))
	if err != nil {
		return Stats{}, err
	}
	st := Stats{
		Entries: s.Counting, Faults: s.Faults, Waiting: s.Waiting, Keys: s.Keys, Last: s.Numbers,
		HeadCount: s.HeadCount, Revision: s.Revision, Revising: s.Queue, Heads: heads[:min(len(heads), MaxHeads)],
		Bytes: s.Bytes, Pending: s.Pending, Missing: s.Missing, GivenUp: s.GivenUp,
	}
	if len(heads) > 0 {
		st.Clock = heads[0].Time
	}
	return st, nil
}

// Heads returns the positions of the heads, newest first: at most [MaxHeads].
func (l *Log) Heads(ctx context.Context) ([]entry.Position, error) {
	_, heads, err := l.storedHeads(blocks.Reading(ctx, l.store))
	return heads[:min(len(heads), MaxHeads)], err
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
// or none, and returns them when they are on disk. The error is [ErrNotAllowed]
// where the identity of s is not on the access list.
func (l *Log) Append(ctx context.Context, s *identity.Signer, payloads ...value.Value) ([]*entry.Entry, error) {
	return l.AppendIf(ctx, s, func(blocks.Getter) error { return nil }, payloads...)
}

// AppendIf is Append, but writes nothing and returns the error of check if that
// has one. check sees all ancestors of the new entries.
func (l *Log) AppendIf(ctx context.Context, s *identity.Signer, check func(blocks.Getter) error, payloads ...value.Value) ([]*entry.Entry, error) {
	var entries []*entry.Entry
	err := l.update(ctx, func(tx *store.Tx, sum *summary) error {
		if err := check(tx); err != nil {
			return err
		}
		lists, err := l.access(tx, sum)
		if err != nil {
			return err
		}
		if !has(lists.writers, s.ID) {
			return fmt.Errorf("%w to %s: identity %s", ErrNotAllowed, l.id, s.ID)
		}
		entries = make([]*entry.Entry, 0, len(payloads))
		for _, p := range payloads {
			sum.covered = sum.apart()
			heads, err := l.named(tx, sum)
			if err != nil {
				return err
			}
			refs, err := l.references(tx, sum, lists, len(heads))
			if err != nil {
				return err
			}
			e, err := entry.New(s, l.id, p, heads, refs)
			if err != nil {
				return err
			}
			if err := l.insert(tx, sum, e, s.ID, nil); err != nil {
				return err
			}
			sum.Own = sum.Newest[:1:1] // its clock is larger than those of all heads
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// references returns what the next entry refers to: the newest entries behind as
// many as it names heads, but for those of writers that are not on the access list.
// JavaScript cannot join an entry that refers to one of those. An entry that names
// more than maxInline heads refers to none: that many would have to be passed by.
func (l *Log) references(tx *store.Tx, sum *summary, lists *sets, heads int) (refs []string, err error) {
	if heads > maxInline {
		return []string{}, nil
	}
	want := int(min(uint64(heads+entry.MaxRefs), sum.Counting))
	newest := sum.Newest
	if len(newest) < want {
		series := l.key("order")
		if newest, err = first(max(want, sum.keep()), positions(tx.Descend(series), series)); err != nil {
			return nil, err
		}
		if len(newest) < want {
			return nil, fmt.Errorf("%w of %s: its order has too few entries", ErrDamaged, l.id)
		}
		sum.Newest = newest[:min(len(newest), sum.keep())]
	}
	refs = []string{}
	for _, p := range newest[min(heads, want):want] {
		if lists.former() {
			e, err := l.get(tx, p.Hash)
			if gone(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			writer, err := l.config.Writer(tx, e)
			if err != nil {
				return nil, err
			}
			if !has(lists.writers, writer) {
				continue
			}
		}
		refs = append(refs, p.Hash)
	}
	return refs, nil
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
	touched, revised := false, false
	var flipped []uint64
	var bytes, pending uint64
	err := l.store.Update(ctx, func(tx *store.Tx) error {
		if err := l.refusal(); err != nil {
			return err
		}
		sum, err := l.readSummary(tx)
		if err != nil {
			return err
		}
		numbers, revision := sum.Numbers, sum.Revision
		defer func() { touched, revised = sum.Numbers != numbers, sum.Revision != revision }()
		flipped = nil
		defer func() { flipped = sum.flipped }()
		if err := change(tx, sum); err != nil {
			return err
		}
		bytes, pending = sum.Bytes, sum.Pending
		return l.writeSummary(tx, sum)
	})
	if err == nil {
		l.config.Quota.Stored(bytes, pending)
	} else {
		l.looked.forget()
	}
	if err != nil && touched || revised {
		l.config.State.Failed()
	}
	// What may not be durable may be there all the same.
	if err == nil || errors.Is(err, store.ErrNotDurable) {
		l.mu.Lock()
		l.noteFlips(flipped)
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

// insert makes an entry part of the log, all of whose parents are. writer is the
// ID of its identity, and fault why it is invalid, or nil.
func (l *Log) insert(tx *store.Tx, sum *summary, e *entry.Entry, writer string, fault error) error {
	sum.Numbers++
	sum.Bytes += uint64(len(e.Block.Data))
	if err := blocks.PutEntry(tx, blocks.Location{Log: l.number, Number: sum.Numbers}, e.Block); err != nil {
		return err
	}
	return l.index(tx, sum, e, sum.Numbers, writer, fault)
}

// index adds an entry that is stored to all that follows from it.
func (l *Log) index(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string, fault error) error {
	p, err := l.rank(tx, sum, e, fault)
	if err != nil {
		return err
	}
	if fault != nil {
		sum.Faults++
		if err := tx.Put(l.faultKey(e.Hash()), []byte(fault.Error())); err != nil {
			return err
		}
		return l.setLoose(tx, e.Hash(), true)
	}
	lists, err := l.access(tx, sum)
	if err != nil {
		return err
	}
	if !lists.anchors(e.Hash(), writer) {
		if err := l.deny(tx, sum, e.Hash(), writer); err != nil {
			return err
		}
		return l.setLoose(tx, e.Hash(), true)
	}
	if err := l.anchor(tx, sum, e.Next); err != nil {
		return err
	}
	if err := l.setHead(tx, sum, p, true); err != nil {
		return err
	}
	return l.count(tx, sum, e, p, number)
}

// rank returns the place of an entry in the order, and stores what it takes to
// find it again.
func (l *Log) rank(tx *store.Tx, sum *summary, e *entry.Entry, fault error) (p entry.Position, err error) {
	rank := e.Rank()
	// Where all entries count, and the rank is larger than that of the newest one,
	// those below do not matter.
	newer := sum.Counting == 0 || len(sum.Newest) > 0 && rank.Compare(sum.Newest[0].Rank) > 0
	if sum.Faults > 0 || fault != nil || !newer {
		b, err := l.below(tx, sum, e.Next)
		if err != nil {
			return p, err
		}
		if fault != nil {
			return p, l.putBelow(tx, e.Hash(), b)
		}
		if b.some {
			rank = e.Rank(b.rank)
		}
	}
	if rank != e.Rank() {
		err = tx.Put(raisedKey(l.number, e.Hash()), []byte(rankText(rank)))
	}
	return e.Position(rank), err
}

// anchor notes that an anchor descends from entries.
func (l *Log) anchor(tx *store.Tx, sum *summary, hashes []string) error {
	if sum.covered && sum.Doubtful == 0 {
		return nil // heads have an anchor
	}
	for _, hash := range distinct(hashes) {
		if err := l.coverHead(tx, sum, hash); err != nil {
			return err
		}
		if sum.Faults+sum.Queue == 0 {
			continue
		}
		decide := sum.Doubtful > 0
		if !decide {
			var err error
			if decide, err = tx.Has(l.looseKey(hash)); err != nil {
				return err
			}
		}
		if !decide {
			continue
		}
		if err := l.enqueue(tx, sum, hash, anchored); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// count adds an entry to all that follows from those that count, but for the
// heads.
func (l *Log) count(tx *store.Tx, sum *summary, e *entry.Entry, p entry.Position, number uint64) error {
	sum.add(p)
	if err := tx.Put(l.orderKey(p), binary.AppendUvarint(nil, number)); err != nil {
		return err
	}
	time, _ := place(p)
	if err := l.grow(tx, time, p.Hash); err != nil {
		return err
	}
	keys, err := l.config.State.Apply(tx, e, Ref{p, number})
	sum.Keys += uint64(keys)
	return err
}

// damaged is the error of a stored record that is garbled.
func (l *Log) damaged(key string) error { return fmt.Errorf("%w of %s: %s", ErrDamaged, l.id, key) }

// gone reports whether an error is that an entry of the log is lost: a rebuild
// goes on without it.
func gone(err error) bool { return errors.Is(err, blocks.ErrDamaged) || errors.Is(err, ErrNotFound) }
