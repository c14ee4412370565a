package orbit

import "github.com/newpieceplease/npp/orbit/internal/oplog"

// Log returns the log of a database.
func (db *Database) Log() *oplog.Log { return db.log }
