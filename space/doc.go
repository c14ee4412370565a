// Package space tells whether a disk has room, so that a daemon stops writing
// before the disk is full.
//
// # Why before
//
// A full disk costs more than the write that failed. After one, leveldb (kubo's
// default datastore) accepts no further writes until it is opened anew, and
// pebble ends the process. Neither happens while some space stays free.
//
// # Two limits
//
// [Disk] compares the free bytes with two limits:
//
//   - the floor: with less free space, nothing is accepted from other peers
//     ([Disk.CheckIncoming]). By default it is 1 % of the disk, but at least
//     512 MiB and at most 5 GiB;
//   - the reserve: with less free space, the owner's writes are refused too
//     ([Disk.CheckWrite]). It is a quarter of the floor, at most 128 MiB.
//
// Reading, serving and deleting need neither check: the reserve is what they
// use, and so do the few bytes that a daemon notes about itself.
//
// Data from peers is accepted again once the free space exceeds the floor by a
// sixteenth: a disk that is filled and emptied around its floor must not start
// every transfer anew each time. [Disk.AwaitIncoming] waits for that moment.
//
// # Cost
//
// A check takes the time of a lock. The operating system is asked at most every
// 250 ms, in which a fast link brings about 30 MB. The owner's writes may be faster
// than that, so they are counted: when they may have used up the room, it is asked
// again. Nothing runs in the background but what somebody waits for or guards, and of
// any number of waiters one asks for all.
//
// Where the free space cannot be read, the disk counts as one with room, and
// [Disk.State] has the error.
package space
