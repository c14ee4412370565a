// Package sim simulates many replicas of databases in one process, in virtual
// time, with all randomness derived from one seed.
//
// # Real parts
//
// The databases ([orbit.Orbit]), their replication ([replicate.Replicator]),
// the negotiation of protocols, and the state of a disk after a power loss
// ([storetest.Disk]).
//
// # Simulated parts
//
// The host, pubsub, bitswap, and the links between peers. A link has a latency
// that varies per message. It loses, duplicates and reorders pubsub messages.
// It can be cut; its ends notice that later, and at different times. A stream
// buffers at most one window, and delivers its data in order. Peers that behave
// like JavaScript know no protocol but the heads exchange, and earlier daemons do
// not know package inventory. Both follow the topics of all their databases.
//
// Pubsub has no gossip: a message goes to all subscribers that joined at least
// a second ago, from peer to peer. There is no peer discovery: the links are
// drawn. There is no address book, no relay, and no disk latency.
//
// # Histories
//
// A history is drawn from its seed: which peer has which database, what is
// written where and when, which links are cut, which replicas are restarted or
// lose power, and what hostile peers do. In the end everything is healed. Then
// all honest replicas must agree, and must have each entry whose writer was
// told that it is on disk. After a quiet time, a replica of a daemon runs only if
// a peer that does not speak package inventory has the database open, or the
// database that it controls, or if a hostile daemon claims to have another state.
//
// In a history with many databases, each daemon has most of some hundreds. A
// JavaScript-like peer, an earlier daemon and a hostile peer have a few of them.
//
// # The same seed, the same plan
//
// A seed determines the plan of a history exactly: the peers and their keys,
// the links with their latency and loss, the databases and their writers, and
// each operation with its time. In every run of a seed, each operation of the
// plan begins at its time, and makes the same choices if it finds the same
// state.
//
// The events that follow from the plan are mostly the same as well, but that is
// not guaranteed. Virtual time advances only when no goroutine can run
// ([testing/synctest]), no two events happen at once, and a random number is a
// hash of its purpose and the virtual time, so it does not depend on the order
// in which goroutines run. Three decisions of the Go runtime remain: the case
// that a select takes when several are ready, the order of a map, and the
// goroutine that runs next after the operating system interrupted the process.
// The last one depends on the load of the machine. A run that diverges is
// another history of the same plan, and must fulfil the same conditions.
//
// To reproduce the failure of a seed, run the seed again: on an idle machine, the
// first attempts nearly always succeed. Each history runs in a process of
// its own with one goroutine at a time, and garbage is collected between
// events. The log shows the sum of the events of a history. Two runs with the
// same sum had the same events at the same times.
//
// # Manual runs
//
//	NPP_SIM_SEEDS=5000 go test ./orbit/internal/sim -run TestHistories -timeout 0
//	NPP_SOAK=1h NPP_SIM_SEED=1000 go test ./orbit/internal/sim -run TestHistories -timeout 0
//	NPP_SIM_SEED=17 NPP_SIM_TRACE=1 go test ./orbit/internal/sim -run TestSeed
//	NPP_SIM_MANY=100 go test ./orbit/internal/sim -run TestManyHistories -timeout 0
//	NPP_SIM_SEED=17 NPP_SIM_DATABASES=1000 go test ./orbit/internal/sim -run TestManySeed
//	NPP_SIM_REPLICAS=40 NPP_SIM_OPERATIONS=1000 go test ./orbit/internal/sim -run TestSeed
package sim
