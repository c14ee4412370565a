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
// ready, the order of a map, and who goes on where the machine takes the processor
// away. Each history has a process of its own, the same when it is seen again, and
// the code that is tried here leaves little to such chance: now and then, on a busy
// machine, a large history goes on otherwise all the same (go test -count).
//
// # By hand
//
//	NPP_SIM_SEEDS=5000 go test ./test/sim -run TestHistories -timeout 0
//	NPP_SIM_SEED=17 NPP_SIM_TRACE=1 go test ./test/sim -run TestSeed
//	NPP_SIM_REPLICAS=40 NPP_SIM_OPERATIONS=1000 go test ./test/sim -run TestSeed
package sim
