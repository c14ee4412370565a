package orbit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/manifest"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/orbit/value"
)

// Lost is an entry that a rebuild could not read.
type Lost = oplog.Lost

// Range chooses entries; see [oplog.Range].
type Range = oplog.Range

// Database is a database of any type: what all of them have.
// [Database.Documents], [Database.KeyValue] and [Database.Events] are what each
// type has.
type Database struct {
	orbit    *Orbit
	address  string
	manifest manifest.Manifest
	kind     string // the type as which it is open
	indexBy  string
	guards   atomic.Bool // it is the access database of another one
	access   *AccessController
	keys     *index
	log      *oplog.Log
	account  *account
	made     bool          // it was made here
	counted  atomic.Uint64 // the access list by which the log counts, as [AccessController.rights] numbers it
	plain    bool          // what is written may be plain where apps encrypt
	warming  sync.Once
	granting sync.Mutex // one change of a capability at a time
}

// openDatabase returns the database also where it is damaged, with
// [oplog.ErrDamaged].
func openDatabase(ctx context.Context, o *Orbit, hash string, m manifest.Manifest, r record, a *AccessController) (*Database, error) {
	db := &Database{
		orbit:    o,
		address:  manifest.Address(hash),
		manifest: m,
		kind:     r.kind(),
		indexBy:  r.IndexBy,
		access:   a,
		keys:     o.newIndex(r.Number, r.kind()),
		account:  o.ledger.account(r.Number, manifest.Address(hash)),
		made:     r.Made,
	}
	rights, at, err := a.rights(ctx)
	if err != nil {
		return db, err
	}
	db.limit(rights, at)
	if a.managed != nil {
		db.account.guard(a.managed.account)
		// A log of an earlier version may count what any of them wrote.
		rights.Writers = rights.Known
	}
	config := oplog.Config{State: db.keys, Access: rights, Writer: o.writerOf, Waiting: o.ledger.quotas.Waiting, Quota: db.account}
	db.log, err = oplog.Open(ctx, o.store, r.Number, db.address, config)
	if errors.Is(err, oplog.ErrOutdated) {
		log.Infow("bring index up to date", "database", db.address)
		if _, err = db.rebuild(ctx); err == nil {
			db.log, err = oplog.Open(ctx, o.store, r.Number, db.address, config)
		}
	}
	if err != nil {
		return db, err
	}
	if err := db.log.Wake(ctx); err != nil {
		return db, err
	}
	return db, db.sync(ctx)
}

// limit notes whether quotas hold for the database, by its access list as numbered.
func (db *Database) limit(rights oplog.Access, at uint64) {
	if db.account.limitedAt() != at {
		db.account.limit(db.orbit.limits(db.made, rights.Writers), at)
	}
}

// writerOf returns the ID of the identity that an entry names, from the store.
func (o *Orbit) writerOf(g blocks.Getter, e *entry.Entry) (string, error) {
	if i, ok := o.identities.Get(e.Identity); ok {
		return i.ID, nil
	}
	b, err := blocks.Get(g, e.Identity)
	if err != nil {
		return "", fmt.Errorf("identity of %s: %w", e.Hash(), err)
	}
	i, err := identity.Decode(b)
	if err != nil {
		return "", fmt.Errorf("identity of %s: %w", e.Hash(), err)
	}
	o.identities.Add(e.Identity, i)
	return i.ID, nil
}

// sync has the log count by the present access list.
func (db *Database) sync(ctx context.Context) error {
	if db.access.managed == nil {
		return nil
	}
	rights, at, err := db.access.rights(ctx)
	if err != nil || db.counted.Load() == at {
		return err
	}
	if err := db.log.Revise(ctx, rights); err != nil {
		return err
	}
	db.counted.Store(at)
	return nil
}

// syncGuarded has the databases that are open and whose access database this is
// count by what it says now.
func (db *Database) syncGuarded(ctx context.Context) error {
	var errs []error
	for _, other := range db.guarded() {
		if err := other.sync(ctx); err != nil {
			errs = append(errs, fmt.Errorf("access list of %s: %w", other.address, err))
		}
	}
	return errors.Join(errs...)
}

// guarded returns the databases that are open and whose access database this is.
func (db *Database) guarded() (list []*Database) {
	db.orbit.mu.Lock()
	defer db.orbit.mu.Unlock()
	for _, other := range db.orbit.open {
		if other.access.managed != nil && other.access.managed.log == db.log {
			list = append(list, other)
		}
	}
	return list
}

// clone returns the same database, to be changed before anybody else has it.
func (db *Database) clone() *Database {
	c := &Database{
		orbit: db.orbit, address: db.address, manifest: db.manifest, kind: db.kind, indexBy: db.indexBy,
		access: db.access, keys: db.keys, log: db.log, account: db.account, made: db.made, plain: db.plain,
	}
	c.guards.Store(db.guards.Load())
	return c
}

// warm begins to make what uses keys quicker. Not all that is open is used, so
// it waits for the first use.
func (db *Database) warm() {
	db.warming.Do(func() {
		db.orbit.begin(func(ctx context.Context) {
			if err := db.keys.Warm(ctx, db.orbit.store); err != nil {
				log.Debugw("warm", "database", db.address, "err", err)
			}
		})
	})
}

func (db *Database) rebuild(ctx context.Context) ([]Lost, error) {
	lost, err := db.log.Rebuild(ctx, func(e *entry.Entry) (writer string, fault, err error) {
		i, fault, err := db.check(ctx, e)
		if errors.Is(err, ErrUnavailable) || errors.Is(err, blocks.ErrDamaged) {
			return "", err, nil // its writer is not known any more
		}
		if i != nil {
			writer = i.ID
		}
		return writer, fault, err
	})
	db.counted.Store(0)
	if err != nil {
		return lost, err
	}
	db.keys.stale.Store(false)
	return lost, db.sync(ctx)
}

// is returns [ErrType] unless the database is open as one of the type, and
// [oplog.ErrDamaged] while its index is made anew for that type.
func (db *Database) is(kind string) error {
	if db.kind != kind {
		return fmt.Errorf("%w: %s is %s, not %s", ErrType, db.address, db.kind, kind)
	}
	if db.keys.stale.Load() {
		return fmt.Errorf("%w of %s: its index is being rebuilt", oplog.ErrDamaged, db.address)
	}
	return nil
}

// Address returns the address of the database.
func (db *Database) Address() string { return db.address }

// Name returns the name of the database.
func (db *Database) Name() string { return db.manifest.Name }

// Type returns the type as which the database is open: that of its manifest, or
// another one that was given to [Orbit.Open].
func (db *Database) Type() string { return db.kind }

// ManifestType returns the type that the manifest of the database names.
func (db *Database) ManifestType() string { return db.manifest.Type }

// Meta returns what the manifest has as meta, or nil.
func (db *Database) Meta() value.Value { return db.manifest.Meta }

// IndexBy returns the field of documents that holds their key, or "".
func (db *Database) IndexBy() string { return db.indexBy }

// Access returns who may write to the database.
func (db *Database) Access() *AccessController { return db.access }

// Writable reports whether the own identity may write to the database.
func (db *Database) Writable(ctx context.Context) (bool, error) {
	rights, _, err := db.access.rights(ctx)
	return err == nil && rights.MayWrite(db.orbit.signer.ID), err
}

// Log returns the log under the database. What is written goes through the
// database.
func (db *Database) Log() *oplog.Log { return db.log }

// Iterate yields the entries of the log that count, newest first.
func (db *Database) Iterate(ctx context.Context, r Range) iter.Seq2[*entry.Entry, error] {
	return db.log.Iterate(ctx, r)
}

// Updates yields the entries that count in the order in which they came here,
// from behind a number on: 0 for all, or that of the last one seen, also before
// a restart. It goes on with what comes later, without a gap, until the context
// is done, the Orbit closed or the database dropped.
func (db *Database) Updates(ctx context.Context, after uint64) iter.Seq2[oplog.Arrival, error] {
	return db.Follow(ctx, after, func(uint64) {})
}

// Follow is Updates, and calls caughtUp each time that all that is here was yielded,
// with the number of the last entry.
func (db *Database) Follow(ctx context.Context, after uint64, caughtUp func(last uint64)) iter.Seq2[oplog.Arrival, error] {
	return func(yield func(oplog.Arrival, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(db.orbit.ctx, func() { cancel(ErrClosed) })()
		for a, err := range db.log.Follow(ctx, after, caughtUp) {
			if err != nil && context.Cause(ctx) == ErrClosed {
				err = ErrClosed
			}
			if !yield(a, err) {
				return
			}
		}
	}
}

// append writes an entry for each payload, unless check has an error.
func (db *Database) append(ctx context.Context, check func(blocks.Getter) error, payloads ...value.Value) ([]*entry.Entry, error) {
	if db.orbit.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if hasKeys(db.kind) {
		db.warm()
	}
	size := 0
	for _, p := range payloads {
		size += len(p)
	}
	if err := db.orbit.config.Disk.CheckWrite(size); err != nil {
		return nil, err
	}
	if err := db.sync(ctx); err != nil {
		return nil, err
	}
	if err := db.checkPlain(ctx); err != nil {
		return nil, err
	}
	entries, err := db.log.AppendIf(ctx, db.orbit.signer, check, payloads...)
	if err != nil {
		return nil, err
	}
	if db.guards.Load() {
		if err := db.syncGuarded(ctx); err != nil {
			log.Errorw("after a change of the access list", "database", db.address, "err", err)
		}
	}
	db.orbit.announce(ctx, entryBlocks(entries)...)
	return entries, nil
}

// appendOne is append of one payload, and returns the hash of its entry.
func (db *Database) appendOne(ctx context.Context, check func(blocks.Getter) error, payload value.Value) (string, error) {
	entries, err := db.append(ctx, check, payload)
	if err != nil {
		return "", err
	}
	return entries[0].Hash(), nil
}

func always(blocks.Getter) error { return nil }

// A chunk of many payloads is one transaction.
const (
	chunkEntries = 256
	chunkBytes   = 512 << 10
)

// appendMany writes an entry for each item, whose payload payloadOf makes, a
// chunk at a time, and returns how many it wrote. It ends with the first error.
func appendMany[T any](ctx context.Context, db *Database, items iter.Seq[T], payloadOf func(T) (value.Value, error)) (int, error) {
	var chunk []value.Value
	done, size := 0, 0
	flush := func() error {
		if len(chunk) == 0 {
			return nil
		}
		_, err := db.append(ctx, always, chunk...)
		if err == nil {
			done += len(chunk)
		}
		chunk, size = chunk[:0], 0
		return err
	}
	for item := range items {
		p, err := payloadOf(item)
		if err != nil {
			err = errors.Join(err, flush())
			return done, err
		}
		if len(chunk) > 0 && (len(chunk) == chunkEntries || size+len(p) > chunkBytes) {
			if err := flush(); err != nil {
				return done, err
			}
		}
		chunk = append(chunk, p)
		size += len(p)
	}
	err := flush()
	return done, err
}

func entryBlocks(entries []*entry.Entry) []block.Block {
	bs := make([]block.Block, len(entries))
	for i, e := range entries {
		bs[i] = e.Block
	}
	return bs
}

// Joined is what became of a block that was offered to [Database.Join].
type Joined struct {
	Hash    string
	Outcome oplog.Outcome
	// Err is why the entry is refused, or why it is part of the graph without
	// effect. It wraps [entry.ErrMalformed], [entry.ErrFault], [ErrNotAllowed],
	// [oplog.ErrOtherLog], [ErrFull], [ErrShareFull], or [ErrUnavailable] where the
	// writer's identity is not here: it can be offered again, with the identity in
	// the source.
	Err error
}

// Join takes entries that other peers wrote, in any order, verifies them on all
// processors and makes those part of the database that count; see
// [oplog.Log.Join]. An error is one of the store; the blocks' own are in what
// it returns.
//
// An entry whose writer is not on the access list is refused with [ErrNotAllowed],
// unless an entry waits for it. It is to be offered again when the list has
// changed.
//
// One for which there is no room is refused with [ErrFull] or [ErrShareFull]. It is to
// be offered again when some was freed or a quota is raised; what is here goes on.
func (db *Database) Join(ctx context.Context, bs []block.Block) ([]Joined, error) {
	return db.join(ctx, NewCandidates(bs...), "", false)
}

// JoinFrom is Join of entries that a peer offered, whose ID is from, as text. Of what
// waits, and where anybody may write also of what is stored, each peer has a share.
func (db *Database) JoinFrom(ctx context.Context, from string, cs []Candidate) ([]Joined, error) {
	return db.join(ctx, cs, from, false)
}

// join is JoinFrom. Where the entries are trusted, those of writers that were once on
// the access list are taken as well.
func (db *Database) join(ctx context.Context, cs []Candidate, from string, trusted bool) ([]Joined, error) {
	if db.orbit.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if err := db.sync(ctx); err != nil {
		return nil, err
	}
	rights, at, err := db.access.rights(ctx)
	if err != nil {
		return nil, err
	}
	db.limit(rights, at)
	joined := make([]Joined, len(cs))
	candidates := make([]*oplog.Candidate, len(cs))
	parallel(len(cs), func(i int) {
		joined[i].Hash = cs[i].Hash()
		candidates[i], joined[i].Err = db.candidate(ctx, cs[i])
	})
	var offered []oplog.Candidate
	var places []int
	for i, c := range candidates {
		if c != nil {
			c.Trusted, c.From = trusted, from
			if c.Fault == nil && !rights.Anchors(cs[i].Hash(), c.Writer) {
				joined[i].Err = fmt.Errorf("%w to %s: identity %s", ErrNotAllowed, db.address, c.Writer)
			}
			offered = append(offered, *c)
			places = append(places, i)
		}
	}
	outcomes, err := db.log.Join(ctx, offered)
	var fresh []block.Block
	for n, i := range places {
		if n >= len(outcomes) {
			break
		}
		switch joined[i].Outcome = outcomes[n]; outcomes[n] {
		case oplog.NoRoom:
			joined[i].Outcome = oplog.Refused
		case oplog.Full:
			joined[i].Outcome, joined[i].Err = oplog.Refused, db.account.full()
		case oplog.ShareFull:
			joined[i].Outcome, joined[i].Err = oplog.Refused, fmt.Errorf("%w: entry %s by %s", ErrShareFull, cs[i].Hash(), offered[n].Writer)
		}
		if outcomes[n] != oplog.Joined {
			continue
		}
		fresh = append(fresh, cs[i].block)
		if identity := offered[n].Identity; identity.Hash != "" {
			fresh = append(fresh, identity)
		}
	}
	db.orbit.announce(ctx, fresh...)
	if db.guards.Load() && len(fresh) > 0 {
		err = errors.Join(err, db.syncGuarded(ctx))
	}
	return joined, err
}

// candidate verifies a candidate. The error is why it is invalid; without a
// candidate, it cannot be part of the log.
func (db *Database) candidate(ctx context.Context, offered Candidate) (*oplog.Candidate, error) {
	if err := offered.Err(); err != nil {
		return nil, err
	}
	e := offered.entry
	if e.LogID != db.address {
		return nil, fmt.Errorf("%w: %s is of %.80q", oplog.ErrOtherLog, e.Hash(), e.LogID)
	}
	i, fault, err := db.check(ctx, e)
	if err != nil {
		return nil, err
	}
	c := &oplog.Candidate{Entry: e, Fault: fault}
	if i != nil {
		c.Identity, c.Writer = i.Block(), i.ID
	}
	return c, fault
}

// check returns the identity of an entry's writer, if that is valid, and why the
// entry is invalid, or nil. The error is why that cannot be told.
func (db *Database) check(ctx context.Context, e *entry.Entry) (i *identity.Identity, fault, err error) {
	if e.Identity == "" { // names none that could be looked up
		return nil, e.Check(nil), nil
	}
	i, err = db.orbit.IdentityOf(ctx, e.Identity)
	if errors.Is(err, identity.ErrInvalid) || errors.Is(err, block.ErrMismatch) {
		return nil, fmt.Errorf("%w: %s: %w", entry.ErrFault, e.Hash(), err), nil
	}
	if err != nil {
		return nil, nil, err
	}
	return i, db.orbit.check(e, i), nil
}

// Verify checks the signatures of entries on all processors, so that a [Database.Join]
// of them that follows soon does not have to. Whose writer's identity is not here
// is left out.
func (db *Database) Verify(ctx context.Context, cs []Candidate) {
	parallel(len(cs), func(i int) {
		e := cs[i].entry
		if e == nil || e.Identity == "" {
			return
		}
		if who, err := db.orbit.IdentityOf(ctx, e.Identity); err == nil {
			db.orbit.check(e, who)
		}
	})
}

// parallel calls f with 0 to n-1, on all processors.
func parallel(n int, f func(int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
				runtime.Gosched() // what else waits for a processor waits for one of these alone
			}
		})
	}
	group.Wait()
}
