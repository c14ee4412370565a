// Package space reports whether a disk has enough free space, so that a daemon
// stops writing before the disk is full.
//
// # Reason
//
// A full disk costs more than the failed write. After a failed write, leveldb
// (kubo's default datastore) rejects all writes until it is reopened, and
// pebble ends the process. Neither happens while some space stays free.
//
// # Two limits
//
// [Disk] compares the free bytes with two limits:
//
//   - the floor: with less free space, data from other peers is refused
//     ([Disk.CheckIncoming]). The default is 1 % of the disk, but at least 512
//     MiB and at most 5 GiB;
//   - the reserve: with less free space, the owner's writes are refused too
//     ([Disk.CheckWrite]). It is a quarter of the floor, at most 128 MiB.
//
// Reads and deletions need no check. They use the reserve, as do the few bytes
// that a daemon records about itself.
//
// Once refused, data from peers is accepted again when the free space exceeds
// the floor by a sixteenth. Otherwise each small change around the floor would
// restart all transfers. [Disk.AwaitIncoming] waits for that moment.
//
// # Cost
//
// A check takes a lock. The operating system is asked at most every 250 ms, in
// which a fast link receives about 30 MB. The owner's writes may be faster, so
// they are counted: when they may have used up the free space, the operating
// system is asked again. Goroutines run only while a caller waits or a context
// is guarded, and one of any number of waiters asks for all.
//
// If the free space cannot be read, the disk is treated as one with enough of
// it, and [Disk.State] returns the error.
package space
