package library

import (
	"context"
	"sync"

	"github.com/newpieceplease/npp/library/companion"
	"github.com/newpieceplease/npp/orbit"
)

// latch tells when a database was loaded into memory. It is closed while the
// database is being read, and open once it was read or reading failed.
type latch struct {
	mu     sync.Mutex
	opened chan struct{}   // closed when the latch opens; nil before reading begins
	err    error           // why the database cannot be read
	db     *orbit.Database // nil before reading begins
	last   uint64          // number of the last entry that was read
}

// begin closes the latch: the database is about to be read, possibly again.
func (l *latch) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened == nil || isClosed(l.opened) {
		l.opened = make(chan struct{})
	}
	l.err = nil
}

// reading sets the database that is being read.
func (l *latch) reading(db *orbit.Database) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.db, l.last = db, 0
}

// readTo opens the latch: the database was read up to the entry with a number.
func (l *latch) readTo(last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = last
	l.open(nil)
}

// end opens the latch: reading has ended with an error, or with nil.
func (l *latch) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open(err)
}

// fail opens the latch with an error, unless the database was read.
func (l *latch) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened == nil || !isClosed(l.opened) || l.err != nil {
		l.open(err)
	}
}

// reset returns the latch to its initial state. Calls of wait return
// ErrNotHere.
func (l *latch) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open(companion.ErrNotHere)
	l.opened, l.db = nil, nil
}

// open opens the latch. The caller holds l.mu.
func (l *latch) open(err error) {
	l.err = err
	if l.opened != nil && !isClosed(l.opened) {
		close(l.opened)
	}
}

// wait waits until the latch is open, and returns why the database cannot be
// read. It does not wait if reading did not begin.
func (l *latch) wait(ctx context.Context) error {
	l.mu.Lock()
	opened := l.opened
	if opened == nil {
		defer l.mu.Unlock()
		if l.err == nil {
			return companion.ErrNotHere
		}
		return l.err
	}
	l.mu.Unlock()
	select {
	case <-opened:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// isRead reports whether the database was read without an error.
func (l *latch) isRead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opened != nil && isClosed(l.opened) && l.err == nil
}

// database returns the database that is being read or was read, or nil.
func (l *latch) database() *orbit.Database {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.db
}

// address returns the address of that database, or "".
func (l *latch) address() string {
	if db := l.database(); db != nil {
		return db.Address()
	}
	return ""
}

// isUpToDate reports whether all entries of the database with an address were
// read.
func (l *latch) isUpToDate(ctx context.Context, address string) bool {
	l.mu.Lock()
	db, last := l.db, l.last
	l.mu.Unlock()
	if db == nil || db.Address() != address || !l.isRead() {
		return false
	}
	stats, err := db.Stats(ctx)
	return err == nil && last >= stats.Last
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
