package orbit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/store"
)

var (
	// ErrQuotaFull is returned for an entry that a database refuses because a
	// quota is used up.
	ErrQuotaFull = errors.New("quota is used up")
	// ErrPeerQuotaFull is returned for an entry that a database refuses because
	// its writer, or the peer that offered it, has used up its part of a
	// quota.
	ErrPeerQuotaFull = errors.New("writer quota or peer quota is used up")
)

// Quotas bound the data of others that is stored here, in bytes of blocks. On
// disk, entries take about 1.5 times as much. Quotas apply neither to databases
// that only the own identity may write, nor to databases created here unless
// anybody may write them. Writes of the own identity are never refused. A quota
// of 0 is unlimited.
//
// Where anybody may write, each writer and each peer that offers entries has
// its part of the quota: at most four times the free rest of the quota. A
// single writer gets four fifths, which leaves the rest to others. An entry
// that another one needs is accepted regardless of the parts.
type Quotas struct {
	Database uint64 // for each database that is not in a group
	Group    uint64 // for all databases of a group together; see [Orbit.SetGroup]
	All      uint64 // for all databases together
	// Pending is the part of that which the pending entries of one database
	// may use. All databases together have four times as much. Default:
	// [DefaultPending].
	Pending uint64
}

// DefaultPending is the default of [Quotas.Pending]: the bytes of about 100 000
// entries of usual size that arrive newest first.
const DefaultPending = oplog.DefaultMaxPending

// ledger accounts for the bytes of each database and applies the quotas. Of a
// database that is not open, it holds what the sums contain of it, and nothing
// if no quota applies.
type ledger struct {
	quotas Quotas
	freed  wait.Change

	mu      sync.Mutex
	counted map[uint64]bytesOf // databases to which quotas apply, by the number of the log
	groupOf map[uint64]string  // by the same; only those in a group
	groups  map[string]string  // by the address of the database
	used    map[string]uint64  // by the group; "" for none
	all     uint64             // of all in counted
	waiting uint64             // the part of all that is pending
	newer   map[uint64]bool    // databases that were opened or dropped since New; nil once loadUsage has ended
}

// bytesOf are the bytes of a database.
type bytesOf struct{ entries, waiting uint64 }

func newLedger(q Quotas) *ledger {
	for _, bytes := range []*uint64{&q.Database, &q.Group, &q.All} {
		if *bytes == 0 {
			*bytes = math.MaxUint64
		}
	}
	if q.Pending == 0 {
		q.Pending = DefaultPending
	}
	return &ledger{
		quotas: q, counted: make(map[uint64]bytesOf), groupOf: make(map[uint64]string),
		groups: make(map[string]string), used: make(map[string]uint64), newer: make(map[uint64]bool),
	}
}

// account holds the bytes that an open database uses. It implements the quota
// of its log.
type account struct {
	ledger *ledger
	number uint64

	// Guarded by the ledger's mutex.
	bytesOf
	limited       bool   // quotas apply
	accessVersion uint64 // version of the access list that limited depends on; 0 at first
	dropped       bool
}

// account returns the account of a database that is being opened.
func (l *ledger) account(number uint64, address string) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &account{ledger: l, number: number}
	a.bytesOf, a.limited = l.counted[number]
	l.touch(number)
	if group := l.groups[address]; group != "" {
		l.setGroup(number, group)
	}
	return a
}

// touch records that what loadUsage has read of a database may be old. The
// caller holds l.mu.
func (l *ledger) touch(number uint64) {
	if l.newer != nil {
		l.newer[number] = true
	}
}

// change changes an account, unless its database was dropped.
func (a *account) change(change func()) {
	l := a.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.dropped {
		return
	}
	change()
	l.set(a.number, a.bytesOf, a.limited)
}

// set replaces what the sums contain of a database. The caller holds l.mu.
func (l *ledger) set(number uint64, to bytesOf, limited bool) {
	before := l.all - l.waiting
	l.count(number, -1)
	if delete(l.counted, number); limited {
		l.counted[number] = to
	}
	l.count(number, 1)
	if l.all-l.waiting < before {
		l.freed.Announce()
	}
}

// count adds what is counted of a database to the sums, or subtracts it. The
// caller holds l.mu.
func (l *ledger) count(number uint64, sign int) {
	u, group := l.counted[number], l.groupOf[number]
	used, waiting := u.entries+u.waiting, u.waiting
	if sign < 0 {
		used, waiting = -used, -waiting
	}
	l.all += used
	l.waiting += waiting
	if l.used[group] += used; l.used[group] == 0 {
		delete(l.used, group)
	}
}

// setGroup adds a database to a group. The caller holds l.mu.
func (l *ledger) setGroup(number uint64, group string) {
	l.count(number, -1)
	if delete(l.groupOf, number); group != "" {
		l.groupOf[number] = group
	}
	l.count(number, 1)
}

// Limits implements [oplog.Quota].
func (a *account) Limits() (all, waiting uint64) {
	l := a.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if !a.limited {
		return math.MaxUint64, math.MaxUint64
	}
	_, all = l.tightest(a)
	together := l.quotas.Pending
	if together <= math.MaxUint64/pendingTogether {
		together *= pendingTogether
	}
	waiting = left(together, l.waiting-a.waiting)
	return all, max(min(waiting, l.quotas.Pending), min(pendingLeast, l.quotas.Pending))
}

// All databases together may have pendingTogether times the pending bytes of
// one. Each database may use pendingLeast, whatever others use, so that an
// entry of the largest size fits.
const (
	pendingTogether = 4
	pendingLeast    = 4 << 20
)

// left returns the unused part of a quota.
func left(quota, used uint64) uint64 { return quota - min(quota, used) }

// tightest returns the quota that leaves the fewest bytes to an account, and
// these bytes, including those that the account uses. The caller holds l.mu.
func (l *ledger) tightest(a *account) (of string, bytes uint64) {
	used := a.entries + a.waiting
	of, bytes = "this database", l.quotas.Database
	if group := l.groupOf[a.number]; group != "" {
		of, bytes = "this companion", left(l.quotas.Group, l.used[group]-used)
	}
	if all := left(l.quotas.All, l.all-used); all < bytes {
		of, bytes = "all databases of others", all
	}
	return of, bytes
}

// Stored implements [oplog.Quota].
func (a *account) Stored(entries, waiting uint64) {
	a.change(func() { a.bytesOf = bytesOf{entries, waiting} })
}

// full returns the error for an entry that exceeds a quota.
func (a *account) full() error {
	l := a.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	of, bytes := l.tightest(a)
	return fmt.Errorf("%w: the quota of %s leaves %d bytes here, of which %d are used", ErrQuotaFull, of, bytes, a.entries+a.waiting)
}

// limit records whether quotas apply to a database, given a version of its
// access list.
func (a *account) limit(limited bool, at uint64) {
	a.change(func() { a.limited, a.accessVersion = limited, at })
}

func (a *account) limitedBy() uint64 {
	a.ledger.mu.Lock()
	defer a.ledger.mu.Unlock()
	return a.accessVersion
}

// setAccess adds the access database of a database to the same group.
func (l *ledger) setAccess(number, access uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if group := l.groupOf[number]; group != "" {
		l.setGroup(access, group)
	}
}

// drop removes a dropped database. Its account is nil if it is not open.
func (l *ledger) drop(number uint64, a *account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.touch(number)
	l.set(number, bytesOf{}, false)
	delete(l.groupOf, number)
	if a != nil {
		a.bytesOf, a.dropped = bytesOf{}, true
	}
}

// limits reports whether quotas apply to a database.
func (o *Orbit) limits(made bool, writers []string) bool {
	switch {
	case slices.Contains(writers, Anyone):
		return true
	case made:
		return false
	}
	return len(writers) == 0 || slices.ContainsFunc(writers, func(id string) bool { return id != o.signer.ID })
}

// limitsRecord is limits by the record of a database. If the access list can be
// changed, a quota applies until the database is open, unless it was made here.
func (o *Orbit) limitsRecord(r record) bool {
	switch {
	case r.Writers == Anyone:
		return true
	case r.Made:
		return false
	}
	return !r.Fixed || r.Writers != shortID(o.signer.ID)
}

// loadUsage reads the usage of the databases that are not open, and completes
// the records of earlier versions.
func (o *Orbit) loadUsage(ctx context.Context) {
	var incomplete []string
	for e, err := range o.store.Scan(ctx, catalogPrefix) {
		hash := hashOf(e)
		var r record
		if err == nil {
			r, err = decodeRecord(e.Value)
		}
		if err == nil && !r.described() {
			if err = o.describeStored(ctx, hash, &r); r.described() {
				incomplete = append(incomplete, hash)
			}
		}
		if err == nil {
			err = o.loadUsageOf(ctx, hash, r)
		}
		if err == nil && len(incomplete) == completedAtOnce {
			err = o.completeRecords(ctx, incomplete)
			incomplete = nil
		}
		if err != nil && ctx.Err() == nil {
			log.Warnw("the usage of a database is not counted until it is open", "key", e.Key, "err", err)
		}
	}
	if err := o.completeRecords(ctx, incomplete); err != nil && ctx.Err() == nil {
		log.Warnw("complete the catalog", "err", err)
	}
	o.ledger.mu.Lock()
	defer o.ledger.mu.Unlock()
	o.ledger.newer = nil
}

func (o *Orbit) loadUsageOf(ctx context.Context, hash string, r record) error {
	l := o.ledger
	limited := o.limitsRecord(r)
	var used oplog.Glance
	if limited {
		var err error
		if used, err = oplog.Look(ctx, o.store, r.Number); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.groups) > 0 {
		if group := l.groups[manifest.Address(hash)]; group != "" {
			l.setGroup(r.Number, group)
			if r.Admins != 0 {
				l.setGroup(r.Admins, group)
			}
		}
	}
	if limited && !l.newer[r.Number] {
		l.set(r.Number, bytesOf{used.Bytes, used.PendingBytes}, true)
	}
	return nil
}

// completedAtOnce is the number of records that one transaction completes.
const completedAtOnce = 256

// completeRecords stores who may write to databases whose records lack it.
func (o *Orbit) completeRecords(ctx context.Context, hashes []string) error {
	if len(hashes) == 0 || o.config.Disk.CheckWrite(0) != nil {
		return nil
	}
	return o.store.Update(ctx, func(tx *store.Tx) error {
		for _, hash := range hashes {
			b, err := tx.Get(catalogKey(hash))
			if errors.Is(err, store.ErrNotFound) {
				continue // it was dropped
			}
			if err != nil {
				return err
			}
			r, err := decodeRecord(b)
			if err != nil || r.described() {
				continue
			}
			if err := o.describeStored(ctx, hash, &r); err != nil {
				return err
			}
			if err := putRecord(tx, hash, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// describeStored adds to a record who may write, as far as the stored blocks
// tell.
func (o *Orbit) describeStored(ctx context.Context, hash string, r *record) error {
	m, err := o.storedManifest(ctx, hash)
	if err != nil || m == nil {
		return err
	}
	kind, access, err := m.Access()
	if err != nil {
		return nil // it does not open
	}
	if kind == manifest.AccessOrbitDB {
		inner, err := o.record(ctx, access)
		if errors.Is(err, ErrUnknown) {
			return nil
		}
		r.Admins = inner.Number
		return err
	}
	b, err := blocks.Get(blocks.Reading(ctx, o.store), access)
	if errors.Is(err, blocks.ErrNotFound) || errors.Is(err, blocks.ErrDamaged) {
		return nil
	}
	if err != nil {
		return err
	}
	if list, err := manifest.DecodeAccessList(b); err == nil {
		r.Fixed, r.Writers = true, writersOf(list)
	}
	return nil
}

// SetGroup adds a database to a group, such as that of a companion, whether or
// not the database is here. All databases of a group have one quota. An empty
// group removes the database from its group.
func (o *Orbit) SetGroup(address, group string) {
	l := o.ledger
	l.mu.Lock()
	if group == "" {
		delete(l.groups, address)
	} else {
		l.groups[address] = group
	}
	l.mu.Unlock()
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return
	}
	r, err := o.record(o.ctx, hash)
	if err == nil && !r.described() {
		err = o.describeStored(o.ctx, hash, &r)
	}
	if err != nil {
		return // it is added when it is opened
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.groups[address] != group {
		return
	}
	l.setGroup(r.Number, group)
	if r.Admins != 0 {
		l.setGroup(r.Admins, group)
	}
}

// Freed returns a channel that is closed when space that counts toward a quota
// is freed.
func (o *Orbit) Freed() <-chan struct{} { return o.ledger.freed.Next() }

// Usage is the number of stored bytes of blocks, and their bound.
type Usage struct {
	Entries uint64
	Pending uint64 // pending entries
	Limited bool   // whether a quota applies
	Quota   uint64 // bound of Entries and Pending together; [math.MaxUint64] for none
	Group   string // of the database, or ""
	Grouped uint64 // used by all databases of the group
}

// Usage returns the usage of the database, and its quota or that of its group.
func (db *Database) Usage() Usage {
	a, l := db.account, db.orbit.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	u := Usage{Entries: a.entries, Pending: a.waiting, Limited: a.limited, Quota: math.MaxUint64, Group: l.groupOf[a.number]}
	switch {
	case a.limited && u.Group != "":
		u.Quota, u.Grouped = l.quotas.Group, l.used[u.Group]
	case a.limited:
		u.Quota = l.quotas.Database
	}
	return u
}

// Usage returns the usage of all databases to which quotas apply, and their
// quota.
func (o *Orbit) Usage() Usage {
	l := o.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return Usage{Entries: l.all - l.waiting, Pending: l.waiting, Limited: true, Quota: l.quotas.All}
}
