// Package sim is many replicas of databases in one process, on virtual time, with
// all chance from one seed.
//
// # What is real
//
// The databases ([orbit.Orbit]), their replication ([replicate.Replicator]), the
// negotiation of protocols, and what a power loss leaves of a disk
// ([storetest.Disk]).
//
// # What is simulated
//
// What replication works with: the host, pubsub, bitswap, and the links between
// peers. A link has a latency, which is another one for each message, loses,
// repeats and reorders what pubsub sends, and can be cut, which its ends notice
// one after the other, and later. A stream holds no more than a window, and what
// is sent on it comes in order. Peers that speak as JavaScript does know no
// other protocols than heads.
//
// There is no gossip: a message goes to all subscribers that are known for a
// second, from peer to peer. Peers do not find each other: who is linked with
// whom is drawn. There is no list of addresses, no relay, and no delay of a disk.
//
// # A history
//
// A history is drawn from its seed: who has which database, what is written where
// and when, which links are cut, which replicas are restarted or lose power, and
// what hostile peers do. In the end all is healed, and all honest replicas must
// agree, about all that anybody was told is written.
//
// # The same seed, the same history
//
// Time goes on when nothing runs ([testing/synctest]), and no two events happen at
// once: what follows from one has come to rest before the next. Chance is
// never drawn in turn, but made of what it is for and when, so that it does not
// matter who comes first of those that run at the same time. A history is told
// by the sum of its events, each with its time. One goroutine runs at a time, and
// garbage is collected in between.
//
// Go has chance of its own: which case of a select is taken where several are
// ready, and the order of a map. Now and then a large history depends on that,
// and goes on otherwise: a seed that failed and does not is to be tried again
// (go test -count).
package sim
