package orbit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
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

// ledger accounts for the bytes of each database and applies the quotas.
type ledger struct {
	quotas Quotas
	freed  wait.Change

	mu       sync.Mutex
	accounts map[uint64]*account // by the number of the log
	groups   map[string]string   // by the address of the database
	used     map[string]uint64   // by the group; "" for none
	all      uint64              // of all limited accounts
	waiting  uint64              // the part of all that is pending
}

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
		quotas: q, accounts: make(map[uint64]*account), groups: make(map[string]string), used: make(map[string]uint64),
	}
}

// account holds the bytes that one database uses. It implements the quota of
// its log.
type account struct {
	ledger  *ledger
	address string

	// Guarded by the ledger's mutex.
	group            string
	access           *account // of its access database, or nil
	entries, waiting uint64
	limited          bool   // quotas apply
	accessVersion    uint64 // version of the access list that limited depends on; 0 until the database is opened
	dropped          bool
}

// account returns the account of a log, creating it if necessary.
func (l *ledger) account(number uint64, address string) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[number]
	if a == nil {
		a = &account{ledger: l, address: address, group: l.groups[address]}
		l.accounts[number] = a
	}
	return a
}

// change changes an account, unless its database was dropped.
func (a *account) change(change func()) {
	l := a.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.dropped {
		return
	}
	before := l.all - l.waiting
	l.count(a, -1)
	change()
	l.count(a, 1)
	if l.all-l.waiting < before {
		l.freed.Announce()
	}
}

// count adds an account to the sums, or subtracts it. The caller holds l.mu.
func (l *ledger) count(a *account, sign int) {
	if !a.limited || a.dropped {
		return
	}
	used, waiting := a.entries+a.waiting, a.waiting
	if sign < 0 {
		used, waiting = -used, -waiting
	}
	l.all += used
	l.waiting += waiting
	if l.used[a.group] += used; l.used[a.group] == 0 {
		delete(l.used, a.group)
	}
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
	if a.group != "" {
		of, bytes = "this companion", left(l.quotas.Group, l.used[a.group]-used)
	}
	if all := left(l.quotas.All, l.all-used); all < bytes {
		of, bytes = "all databases of others", all
	}
	return of, bytes
}

// Stored implements [oplog.Quota].
func (a *account) Stored(entries, waiting uint64) {
	a.change(func() { a.entries, a.waiting = entries, waiting })
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

// setAccess records the account of the access database, and adds it to the same
// group.
func (a *account) setAccess(access *account) {
	var group string
	a.change(func() { a.access, group = access, a.group })
	if group != "" {
		access.change(func() { access.group = group })
	}
}

// drop removes the account of a dropped database.
func (l *ledger) drop(number uint64) {
	l.mu.Lock()
	a := l.accounts[number]
	delete(l.accounts, number)
	l.mu.Unlock()
	if a != nil {
		a.change(func() { a.entries, a.waiting, a.dropped = 0, 0, true })
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

// loadUsage reads the usage of the databases that are not open.
func (o *Orbit) loadUsage(ctx context.Context) {
	for e, err := range o.store.Scan(ctx, catalogPrefix) {
		if err == nil {
			err = o.loadUsageOf(ctx, strings.TrimPrefix(e.Key, catalogPrefix+"/"), e.Value)
		}
		if err != nil && ctx.Err() == nil {
			log.Warnw("the usage of a database is not counted until it is open", "key", e.Key, "err", err)
		}
	}
}

func (o *Orbit) loadUsageOf(ctx context.Context, hash string, value []byte) error {
	r, err := decodeRecord(value)
	if err != nil {
		return err
	}
	a := o.ledger.account(r.Number, manifest.Address(hash))
	if a.limitedBy() > 0 { // it is open, and its usage is up to date
		return nil
	}
	used, err := oplog.Look(ctx, o.store, r.Number)
	if err != nil {
		return err
	}
	limited := o.limits(r.Made, o.fixedWriters(ctx, hash))
	a.change(func() {
		if a.accessVersion == 0 {
			a.entries, a.waiting, a.limited = used.Bytes, used.PendingBytes, limited
		}
	})
	return nil
}

// fixedWriters returns the access list of a database, or nil if it can be
// changed or is unknown.
func (o *Orbit) fixedWriters(ctx context.Context, hash string) []string {
	list, err := o.storedAccess(ctx, hash)
	if err != nil || list == "" {
		return nil
	}
	b, err := blocks.Get(blocks.Reading(ctx, o.store), list)
	if err != nil {
		return nil
	}
	writers, err := manifest.DecodeAccessList(b)
	if err != nil {
		return nil
	}
	return writers
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
	var accounts []*account
	for _, a := range l.accounts {
		if a.address != address {
			continue
		}
		if accounts = append(accounts, a); a.access != nil {
			accounts = append(accounts, a.access)
		}
	}
	l.mu.Unlock()
	for _, a := range accounts {
		a.change(func() { a.group = group })
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
	u := Usage{Entries: a.entries, Pending: a.waiting, Limited: a.limited, Quota: math.MaxUint64, Group: a.group}
	switch {
	case a.limited && a.group != "":
		u.Quota, u.Grouped = l.quotas.Group, l.used[a.group]
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
