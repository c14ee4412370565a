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
// # The same seed, the same plan
//
// A seed determines the plan of a history exactly: the peers and their keys, the
// links and their latency and loss, the databases and their writers, and each
// operation with its time. In every run of a seed, each operation of the plan begins
// at its time, and makes the same choices where what it finds is the same.
//
// The events that follow from the plan are nearly always the same as well, but that
// is not promised. Virtual time advances only when no goroutine can run
// ([testing/synctest]), no two events happen at once, and a random number is a hash
// of its purpose and the virtual time, so that it does not depend on the order in
// which goroutines run. Three decisions of the Go runtime remain: the case that a
// select takes when several are ready, the order of a map, and the goroutine that
// runs next when the operating system has interrupted the process. The last one
// depends on the load of the machine. A run that went on otherwise is a history of
// the same plan, and all that a history must fulfil holds for it too.
//
// So a failure of a seed is seen again by running the seed again, on an idle machine
// nearly always at the first try: each history runs in a process of its own with one
// goroutine at a time, and garbage is collected between events. The log shows the
// sum of a history's events. Two runs with the same sum had the same events at the
// same times.
//
// # By hand
//
//	NPP_SIM_SEEDS=5000 go test ./orbit/internal/sim -run TestHistories -timeout 0
//	NPP_SOAK=1h NPP_SIM_SEED=1000 go test ./orbit/internal/sim -run TestHistories -timeout 0
//	NPP_SIM_SEED=17 NPP_SIM_TRACE=1 go test ./orbit/internal/sim -run TestSeed
//	NPP_SIM_REPLICAS=40 NPP_SIM_OPERATIONS=1000 go test ./orbit/internal/sim -run TestSeed
package sim
