package orbit

import (
	"fmt"
	"runtime"
	"sync"
	"weak"

	lru "github.com/hashicorp/golang-lru/v2"
)

// keptOpen is the number of databases that stay open although nobody holds
// them.
const keptOpen = 128

// opened are the open databases, by the CIDs of their manifests. It holds those
// that were used last. Any other is open as long as somebody holds a [Database]
// or its log, because a log must be open only once.
type opened struct {
	mu       sync.Mutex // held briefly, never during a read
	replicas map[string]weak.Pointer[replica]
	recent   *lru.Cache[string, *replica]
	dropping map[string]bool // tombstoned databases
	repaired string          // a database that is rebuilt although it does not open, or ""
	onOpened func(*Database) // may be nil
	closed   bool
}

func newOpened() *opened {
	o := &opened{replicas: make(map[string]weak.Pointer[replica]), dropping: make(map[string]bool)}
	o.recent, _ = lru.New[string, *replica](keptOpen) // fails for sizes below 1
	return o
}

// get returns a database, or nil if it is not open. The error says that it
// cannot be opened now.
func (o *opened) get(hash string) (*Database, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return nil, ErrClosed
	case o.dropping[hash]:
		return nil, ErrDropped
	}
	if r := o.replicas[hash].Value(); r != nil {
		o.recent.Add(hash, r)
		return r.current.Load(), nil
	}
	if o.repaired == hash {
		return nil, fmt.Errorf("%w: its index is being rebuilt", ErrDamaged)
	}
	return nil, nil
}

// set makes a database the one that get returns.
func (o *opened) set(hash string, db *Database) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	first := db.current.Swap(db) == nil
	if first {
		o.replicas[hash] = weak.Make(db.replica)
		runtime.AddCleanup(db.replica, o.forget, hash)
	}
	o.recent.Add(hash, db.replica)
	if o.onOpened != nil {
		o.onOpened(db)
	}
	if first && db.early != nil {
		db.orbit.tellChanged(db, *db.early)
	}
}

// forget removes the entry of a database that nobody holds.
func (o *opened) forget(hash string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.replicas[hash].Value() == nil {
		delete(o.replicas, hash)
	}
}

// drop removes a database that was dropped.
func (o *opened) drop(hash string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.replicas, hash)
	o.recent.Remove(hash)
}

// close lets go of all databases. None can be opened any more.
func (o *opened) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	clear(o.replicas)
	o.recent.Purge()
}

// tombstone prevents databases from being opened, and adds the logs of open ones.
func (o *opened) tombstone(databases []tombstoned) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, d := range databases {
		o.dropping[d.hash] = true
		databases[i].open = o.replicas[d.hash].Value()
	}
}

// release undoes tombstone.
func (o *opened) release(databases []tombstoned) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range databases {
		delete(o.dropping, d.hash)
	}
}

// repair prevents a database that does not open from being opened while it is
// rebuilt. "" ends that.
func (o *opened) repair(hash string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.repaired = hash
}

// locks are mutexes by name.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	sync.Mutex
	users int // who hold it or wait for it
}

// lock locks the mutex with a name. It returns a function that unlocks it.
func (l *locks) lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = make(map[string]*lock)
	}
	one := l.held[name]
	if one == nil {
		one = &lock{}
		l.held[name] = one
	}
	one.users++
	l.mu.Unlock()
	one.Lock()
	return func() {
		one.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(l.held, name)
		}
	}
}
