package orbit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/manifest"
	"github.com/newpieceplease/npp/orbit/oplog"
)

var (
	// ErrFull says that a database takes nothing of others because a quota is used
	// up.
	ErrFull = errors.New("quota is used up")
	// ErrShareFull says that an entry is not taken because its writer, or the peer
	// that offered it, has used up its share of the quota.
	ErrShareFull = errors.New("share of the quota is used up")
)

// Quotas bound what others may have stored here, in bytes of blocks: on disk, entries
// take about half as much again. No quota holds for databases that only the own
// identity may write, nor for those made here unless anybody may write them. What the
// own identity writes is never refused. A quota that is 0 is none.
//
// Where anybody may write, each writer, and each peer that offers entries, has a share
// of the quota: at most four times as much as is left free. One of them alone gets four
// fifths, and what is left is for others. An entry that another one needs is taken
// whatever the shares say.
type Quotas struct {
	Database uint64 // for each database that is in no group
	Group    uint64 // for all databases of a group together; see [Orbit.SetGroup]
	All      uint64 // for all databases together
	// Waiting is how much of that the entries of one database may take that wait for
	// others. Default: [oplog.DefaultWaiting]. All databases together have four times
	// as much.
	Waiting uint64
}

// ledger knows what the databases take, and holds them to the quotas.
type ledger struct {
	quotas Quotas

	mu       sync.Mutex
	accounts map[uint64]*account // by the numbers of their logs
	groups   map[string]string   // by the addresses of databases
	used     map[string]uint64   // by the groups; "" for none
	all      uint64              // of all accounts that are limited
	waiting  uint64              // of that, what waits
	freed    chan struct{}       // closed when something was freed
}

func newLedger(q Quotas) *ledger {
	for _, bytes := range []*uint64{&q.Database, &q.Group, &q.All} {
		if *bytes == 0 {
			*bytes = math.MaxUint64
		}
	}
	if q.Waiting == 0 {
		q.Waiting = oplog.DefaultWaiting
	}
	return &ledger{
		quotas: q, freed: make(chan struct{}),
		accounts: make(map[uint64]*account), groups: make(map[string]string), used: make(map[string]uint64),
	}
}

// account is what one database takes. It is the quota of its log.
type account struct {
	ledger  *ledger
	address string

	// Guarded by the ledger.
	group            string
	access           *account // of its access database, or nil
	entries, waiting uint64
	limited          bool   // quotas hold for it
	at               uint64 // the access list by which that is so; 0: it was not opened yet
	dropped          bool
}

// account returns the account of a log, which is made where there is none.
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
		close(l.freed)
		l.freed = make(chan struct{})
	}
}

// count adds an account to the sums, or takes it from them. The caller holds l.mu.
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

// Room implements [oplog.Quota].
func (a *account) Room() (all, waiting uint64) {
	l := a.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if !a.limited {
		return math.MaxUint64, math.MaxUint64
	}
	_, all = l.tightest(a)
	together := l.quotas.Waiting
	if together <= math.MaxUint64/waitingTogether {
		together *= waitingTogether
	}
	waiting = left(together, l.waiting-a.waiting)
	return all, max(min(waiting, l.quotas.Waiting), min(waitingLeast, l.quotas.Waiting))
}

// All databases together have so many times what may wait in one. Each has some
// bytes, however much waits in others: an entry of the largest size fits.
const (
	waitingTogether = 4
	waitingLeast    = 4 << 20
)

// left returns how much of a quota is not used.
func left(quota, used uint64) uint64 { return quota - min(quota, used) }

// tightest returns what the quota is for that leaves the least to an account, and how
// much it leaves, what the account uses included. The caller holds l.mu.
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

// full is the error of an entry for which there is no room.
func (a *account) full() error {
	l := a.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	of, bytes := l.tightest(a)
	return fmt.Errorf("%w: that of %s has room for %d bytes here, of which %d are used", ErrFull, of, bytes, a.entries+a.waiting)
}

// limit notes whether quotas hold for a database, by its writers as numbered.
func (a *account) limit(limited bool, at uint64) {
	a.change(func() { a.limited, a.at = limited, at })
}

func (a *account) limitedAt() uint64 {
	a.ledger.mu.Lock()
	defer a.ledger.mu.Unlock()
	return a.at
}

// guard notes which account is that of the access database: it is in the same group.
func (a *account) guard(access *account) {
	var group string
	a.change(func() { a.access, group = access, a.group })
	if group != "" {
		access.change(func() { access.group = group })
	}
}

// drop forgets the account of a database that is gone.
func (l *ledger) drop(number uint64) {
	l.mu.Lock()
	a := l.accounts[number]
	delete(l.accounts, number)
	l.mu.Unlock()
	if a != nil {
		a.change(func() { a.entries, a.waiting, a.dropped = 0, 0, true })
	}
}

// limits reports whether quotas hold for a database.
func (o *Orbit) limits(made bool, writers []string) bool {
	switch {
	case slices.Contains(writers, manifest.Anyone):
		return true
	case made:
		return false
	}
	return len(writers) == 0 || slices.ContainsFunc(writers, func(id string) bool { return id != o.signer.ID })
}

// loadUsage reads what the databases take that are not open.
func (o *Orbit) loadUsage(ctx context.Context) {
	for e, err := range o.store.Scan(ctx, catalogPrefix) {
		if err == nil {
			err = o.loadUsageOf(ctx, strings.TrimPrefix(e.Key, catalogPrefix+"/"), e.Value)
		}
		if err != nil && ctx.Err() == nil {
			log.Warnw("what a database takes is not counted until it is open", "key", e.Key, "err", err)
		}
	}
}

func (o *Orbit) loadUsageOf(ctx context.Context, hash string, value []byte) error {
	r, err := decodeRecord(value)
	if err != nil {
		return err
	}
	a := o.ledger.account(r.Number, manifest.Address(hash))
	if a.limitedAt() > 0 { // it is open, and knows better
		return nil
	}
	entries, waiting, err := oplog.Usage(ctx, o.store, r.Number)
	if err != nil {
		return err
	}
	limited := o.limits(r.Made, o.fixedWriters(ctx, hash))
	a.change(func() {
		if a.at == 0 {
			a.entries, a.waiting, a.limited = entries, waiting, limited
		}
	})
	return nil
}

// fixedWriters returns the list of writers of a database, or nil where it can be
// changed or is not known.
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

// SetGroup puts a database in a group, such as that of a companion, whether it is here
// or not: all databases of a group have one quota. With "", it is in none.
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

// Freed returns a channel that is closed when some of what counts for a quota is gone.
func (o *Orbit) Freed() <-chan struct{} {
	o.ledger.mu.Lock()
	defer o.ledger.mu.Unlock()
	return o.ledger.freed
}

// Usage is what is stored, in bytes of blocks, and what may be.
type Usage struct {
	Entries uint64
	Waiting uint64 // entries that wait for others
	Limited bool   // a quota holds
	Quota   uint64 // for both together; [math.MaxUint64] for none
	Group   string // of the database, or ""
	Grouped uint64 // what the databases of the group take together
}

// Usage returns what the database takes, and its quota, or that of its group.
func (db *Database) Usage() Usage {
	a, l := db.account, db.orbit.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	u := Usage{Entries: a.entries, Waiting: a.waiting, Limited: a.limited, Quota: math.MaxUint64, Group: a.group}
	switch {
	case a.limited && a.group != "":
		u.Quota, u.Grouped = l.quotas.Group, l.used[a.group]
	case a.limited:
		u.Quota = l.quotas.Database
	}
	return u
}

// Usage returns what all databases take together for which quotas hold, and their
// quota.
func (o *Orbit) Usage() Usage {
	l := o.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return Usage{Entries: l.all - l.waiting, Waiting: l.waiting, Limited: true, Quota: l.quotas.All}
}
