// Package replicate keeps the databases of an [orbit.Orbit] in sync with their
// replicas at other peers: daemons, and @orbitdb/core 1 to 4 in browsers and
// Node.js. It needs a libp2p host. JavaScript needs a pubsub router and bitswap
// as well.
//
// # Protocol with JavaScript and earlier daemons
//
// A peer that has a database open subscribes to the topic that is the address
// of the database. Peers that see each other's subscription exchange their
// heads (package heads). A peer publishes each new entry on the topic. On
// receiving an entry by either route, this peer fetches the missing ancestors
// and the identities of their writers, and only then adds the entry to its log.
// It asks daemons to transfer them over a stream (package reconcile), and
// fetches what no daemon transfers with bitswap, as JavaScript does.
//
// This peer subscribes to a topic when a connected peer that does not speak the
// inventory protocol is subscribed to it, and leaves it a minute after the last
// one left. A subscription counts once the protocols of the peer are known, the
// index is complete, and the database is replicated.
//
// # Protocol between daemons
//
// Two daemons have one link, which is a session of package inventory. It tells
// which databases both have, and the states of those. The daemon with the lower
// peer ID begins the link, and begins another one when it ends. No topic, and
// no pubsub router, is needed.
//
// A database whose states differ catches up: the schedule of the link lets this
// peer ask the other one for a transfer, eight databases at a time, until the
// states agree. The pauses between runs in vain double up to eight minutes. A
// change at the peer shortens them to five seconds. The other daemon does the
// same.
//
// A change of a log is told to all daemons that have the database. Eight of
// those whose states differ are sent the new entries as well, if there are at
// most 64 with 128 KiB. Nobody is sent what it sent. The others catch up.
//
// # Transfers
//
// One peer at a time transfers entries of a database: it holds the transfer
// slot. If other peers wait for the slot, the holder loses it after ten
// seconds, or after five seconds in which nothing arrives. The entries that
// were joined stay; the next holder is asked for the rest. Bitswap waits during
// a transfer, for at most a minute.
//
// # Rest
//
// The replica of a database runs while a subscriber has the database open, an
// exchange or a transfer runs, blocks are requested, a link lets it catch up,
// or somebody follows its status or its events. Otherwise it rests: it is an
// item of the index, has no goroutine, timer or topic, and its database may be
// let go ([orbit.Orbit]). The refusals and the peers of 4096 such databases are
// remembered.
//
// A replica rests after five seconds with nothing to do, and at most 512
// replicas with nothing to do run. A database that is not here is requested for
// two minutes from connected peers; then its replica rests until a peer has the
// database.
//
// With a plain pubsub router ([PubSub]), all topics are followed and no replica
// rests.
//
// # Discovery
//
// [Config].Discovery finds peers of one database each ten seconds, and
// advertises one as often, after 64 at the start. Databases that are not here
// come first. No search is made for a database that a connected peer has open.
//
// # Beyond JavaScript
//
//   - An entry that arrived by pubsub is forwarded once it is part of the log
//     here, not before ([router.Router.Follow]). So all ancestors of an
//     announced or exchanged head are here. Pending entries are on disk: an
//     entry whose ancestors are missing does not delay others, and a restart
//     resumes the work.
//   - This peer exchanges heads with peers that had the database open before,
//     and repeats the exchange with all peers: soon after a change, rarely when
//     nothing happens. So it gets what pubsub lost.
//   - Heads that arrived from one peer are announced to the others, unless the
//     topic had them already.
//   - A request that no peer answers is repeated at growing intervals, and at
//     once when another peer opens the database.
//   - A changeable access list is replicated along with its database. The list
//     and the entries travel separately and arrive in any order; a change of
//     either recomputes which entries are authorized (see
//     [orbit.AccessController]). An entry whose writer is not on the list is
//     offered to the log again when the list changes. If two admins change the
//     list concurrently, the admin whose change was overwritten restores it.
//   - Two daemons are in sync when their states agree: those that the link tells
//     ([inventory.State]), or that a session does ([reconcile.State]). A
//     JavaScript peer is in sync when its heads equal the heads here. A status
//     says when the peer told its state.
//
// # Low disk space
//
// While free disk space is below the floor (package space), entries of other
// peers are neither requested nor joined, and databases that are not here are
// not fetched. Databases that are here are still readable, announced and
// served, and accept local writes. Rejected data is not recorded; once there is
// space, this peer requests what is missing and exchanges heads with all peers
// again.
//
// # Full database
//
// While a quota of a database is exhausted ([orbit.Quotas]), no peer is asked
// for its entries and no peer is in sync. Heads are exchanged as usual, the
// existing entries are readable and served, and local entries are announced.
// Replication resumes when a head of a peer is accepted again; it is tried at
// once when storage is freed.
//
// Pending entries have a bound as well (package oplog). If some were abandoned,
// all peers are asked for their heads again as soon as the remaining ones were
// joined. So a log of any size arrives, even from peers that send the newest
// entry first.
//
// # Bounds
//
// Data from peers stays within the bounds of the packages heads, router and
// oplog, and within a memory budget: 128 MiB for what arrived and is not joined
// yet, and a few batches for each of at most 16 peers that transfer. Each peer
// has a quota of the memory budget, of the concurrent exchanges, and of the
// identities that are requested, so that no peer blocks the others. An exchange
// takes at most half a minute. A peer whose transfers are useless is asked less
// and less often. The want list is requested in small portions, the newest CIDs
// among the first, and each request times out by itself, so that CIDs that no
// peer has do not delay CIDs that some peer has. Of a rejected entry, only the
// CID is kept.
//
// # Cost
//
// Concurrent work that peers cause:
//
//	                                    per peer   in total
//	exchanges of heads begun by peers   128        1024
//	exchanges of heads begun here       8          64
//	sessions in which peers request     16         256
//	sessions in which this peer does    4          16
//	comparisons of states               8          64
//	bytes of heads and entries          24 MiB     128 MiB
//	requested identities                8          256
//
// Each daemon has one link, and begins at most 32 at once and then one a
// second. Per link, 8 databases catch up and 8 join entries at a time.
//
// Streams beyond these limits are reset, messages are dropped, and requests
// wait, to be served before later streams and messages. The cost of an exchange
// is in package heads, that of a session in package reconcile, and that of an
// entry in [orbit.Database.Join]. A block is decoded once on its way in (see
// [orbit.Candidate]). A pubsub message contains one entry; it is hashed,
// decoded, joined and held until its ancestors are here, for at most 30
// seconds. If an author published 256 useless entries within a minute, further
// ones are ignored for the rest of it. A session ends when the peer transferred
// more than 256 useless blocks in excess of the useful ones.
//
// In memory, for all databases: 65 536 CIDs of entries seen on topics, 4096 CIDs
// of identities that no peer sent, and 4096 statuses of replicas that rest. Per
// database that rests: some 80 bytes in the index. Per link: what package
// inventory holds; some 100 bytes for each database that differs or changed at
// the peer; and 1024 CIDs of entries that the peer sent. Per connected peer that
// speaks no inventory: 32 768 subscriptions.
//
// Per replica that runs: five goroutines; the states of 256 peers, and of all
// connected peers beyond that which have the database open; 65 536 CIDs on the
// want list; 16 384 CIDs that were requested in vain; 32 refusals; 32 heads
// pending authorization, of at most 64 KiB each; and, while they may be needed,
// 5 MiB of refused entries. These heads and entries are held decoded, which
// takes about twice the size of their blocks. On disk, peers cause nothing but
// what is joined.
//
// A change of a log costs one read of its state, and a look-up in each link. A
// peer that connects costs a look-up in the index for each of its topics.
//
// # Stored keys
//
//	paused/<hash>   a database that is here and not replicated
//	wanted/<hash>   a database that is replicated and not here yet; the value is
//	                what it will be opened with, see options.go
package replicate

import "time"

// Durations. All but the bounds vary at random around these values.
const (
	seenFor          = 2 * time.Minute        // an entry that was seen on its topic is not forwarded or announced again
	forwardWithin    = 30 * time.Second       // an entry from pubsub is forwarded, or never
	identityWithin   = 15 * time.Second       // bounds the request for an identity
	obtainWithin     = 10 * time.Second       // a request for a manifest or access controller is repeated
	requestFor       = 10 * time.Second       // a request without an answer fails
	requestBriefly   = time.Second            // the same, while other requests wait
	repeatAfter      = 3 * time.Second        // nothing arrived: all requests are repeated
	retryMin         = 2 * time.Second        // between attempts to fetch what no peer sent
	retryMax         = 5 * time.Minute        //
	failMin          = 250 * time.Millisecond // between failed exchanges with a peer
	idleMin          = 30 * time.Second       // between exchanges with a peer that is in sync
	idleMax          = 8 * time.Minute        //
	confirmAfter     = 10 * time.Second       // from a change, or an exchange with a peer that is not in sync, to the next exchange
	recheckAfter     = 250 * time.Millisecond // from the session of a peer that was not in sync to the next exchange
	announceAfter    = 200 * time.Millisecond // from a change to the announcement of heads
	refreshEvery     = 2 * time.Second        // between exchanges of an access list with a peer
	refreshWithin    = 10 * time.Second       // bounds the refresh of an access list
	offencesFor      = time.Minute            // the interval in which the useless entries of an author are counted
	unsentFor        = 30 * time.Second       // an identity that no peer sent is not requested again
	repairAfter      = time.Second            // from a change of the access list to the restoration of what it overwrote
	largeEvery       = 5 * time.Second        // between announcements of heads that are too large for streams
	resubscribeAfter = time.Second            // between exchanges with a peer that closes and opens the database
	roundGap         = 100 * time.Millisecond // between rounds of fetching
	slotFor          = 10 * time.Second       // the transfer slot, while other peers wait for it
	slotStall        = 5 * time.Second        // nothing was transferred: other peers get the slot, bitswap starts
	transferStall    = 30 * time.Second       // nothing useful was transferred: the session ends
	bitswapAfter     = time.Minute            // from the start of a transfer until bitswap fetches as well
	statusEvery      = 100 * time.Millisecond // between two statuses that Follow yields
)

// Bounds per database.
const (
	maxHeads          = 4096     // heads that are exchanged
	maxAnnounced      = 16       // heads that are announced at once
	maxLarge          = 4        // heads too large for streams that are announced at once
	maxLive           = 64       // local entries that are announced at once
	maxOffences       = 256      // useless entries of an author within offencesFor
	maxPeers          = 256      // remembered peers
	maxRefreshed      = 3        // peers with which the access list is refreshed at once
	maxUnauthorized   = 32       // heads pending authorization
	unauthorizedBytes = 64 << 10 // of each
	maxRefusals       = 32       // remembered refusals
	maxShown          = 64       // items of a kind in a status
	watchQueue        = 256      // events that wait for a watcher
)
