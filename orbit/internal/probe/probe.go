// Package probe tells tests how often an expensive step is done. Nothing else
// uses it; without a test that watches, a step costs one atomic load more.
package probe

import "sync/atomic"

var decoded atomic.Pointer[func(hash string)]

// WatchDecodes calls f with the CID of each block that is decoded as an entry,
// until stop is called. f may be called concurrently. There is one watcher at a
// time in a process.
func WatchDecodes(f func(hash string)) (stop func()) {
	decoded.Store(&f)
	return func() { decoded.Store(nil) }
}

// Decoded says that the block with a CID is decoded as an entry.
func Decoded(hash string) {
	if f := decoded.Load(); f != nil {
		(*f)(hash)
	}
}
