package orbit

import "github.com/newpieceplease/npp/orbit/internal/oplog"

// KeptOpen is the number of databases that stay open although nobody holds them.
const KeptOpen = keptOpen

// Held returns the number of databases in the map of open ones.
func (o *Orbit) Held() int {
	o.opened.mu.Lock()
	defer o.opened.mu.Unlock()
	return len(o.opened.replicas)
}

// Log returns the log of a database.
func (db *Database) Log() *oplog.Log { return db.log }

// Number returns the number of the log of a database.
func (db *Database) Number() uint64 { return db.number }

// Forget lets go of the databases that nobody holds.
func (o *Orbit) Forget() {
	o.opened.mu.Lock()
	defer o.opened.mu.Unlock()
	o.opened.recent.Purge()
}

// Loading reports whether the usage of databases is still being read.
func (o *Orbit) Loading() bool {
	o.ledger.mu.Lock()
	defer o.ledger.mu.Unlock()
	return o.ledger.newer != nil
}
