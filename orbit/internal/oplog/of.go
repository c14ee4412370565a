package oplog

// Of returns the log of an *orbit.Database. Package orbit sets it. It gives the
// packages that implement replication the log, which the exported API of orbit
// does not contain.
var Of func(database any) *Log
