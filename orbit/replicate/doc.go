// Package replicate keeps the databases of an [orbit.Orbit] in step with those
// of other peers, as @orbitdb/core 1 to 4 does and with such peers in browsers
// and Node.js, over a libp2p host, a pubsub router and bitswap.
//
// # Protocol
//
// A peer that has a database open is subscribed to the topic that is its
// address. Peers that see each other subscribe exchange their heads (package
// heads). A new entry is published on the topic. Whoever gets an entry from
// either gets what it is on top of, and the identities of the writers, and makes
// it part of its log once all of that is there. Another daemon is asked to ship
// that over a stream (package reconcile); what nobody ships is fetched by bitswap,
// as JavaScript does.
//
// One peer ships at a time. Where others wait, its turn ends after ten seconds, or
// when nothing comes for five: what was joined stays, and the next one is asked for
// the rest. Bitswap waits meanwhile, for a minute at most.
//
// # What is done beyond JavaScript
//
//   - An entry that came by pubsub is passed on to others when it is part of the
//     log here, not before ([router.Router.Follow]): a head that is announced, or
//     shown, has its whole closure here. Entries wait on disk, so what is missing
//     of one head keeps no other waiting, and a restart goes on where it was.
//   - Peers that had the database open before we did are asked at once; and all
//     again from time to time, soon after a change and rarely when nothing
//     happens, for what pubsub lost.
//   - Heads that came from one peer are announced to the others, unless they
//     were heard on the topic.
//   - What nobody sends is asked for again, less and less often, and at once when
//     another peer opens the database.
//   - An access list that can be changed is replicated with the database. The list
//     and the entries come by different ways, in any order; what counts is computed
//     anew when either changes (see [orbit.AccessController]). An entry whose writer
//     is not on the list is offered again when the list changes. What admins changed
//     at once is merged by the one whose change was overwritten.
//   - Daemons are in step when their states agree ([reconcile.State]); a JavaScript
//     peer is when its heads are ours.
//
// # A disk that is almost full
//
// While too little of the disk is free (package space), entries of other peers are
// neither asked for nor joined, and databases that are not here are not fetched. What
// is here is shown, announced and served as before, and so is what is written here.
// Nothing is remembered of what was turned away: when there is room, what is missing is
// asked for, and all peers are asked for their heads again.
//
// # A database that is full
//
// Where a quota of the database is used up ([orbit.Quotas]), no peer is asked for its
// entries and none is in step; heads are exchanged as usual, what is here is shown and
// served, and what is written here is announced. Once a head of a peer is taken again,
// all goes on; it is tried at once when something was freed.
//
// Entries that wait are bounded as well (package oplog). Where some were given up, all
// peers are asked for their heads again as soon as what remained is joined, so a log of
// any size arrives from peers that send the newest entry first.
//
// # Bounds
//
// What a peer sends is held to the bounds of the packages heads, router and oplog,
// and costs no memory for long: what came and is not joined yet has at most 128
// MiB, and some on its way for each of at most 16 peers that ship. Of that, of
// exchanges that go on, and of identities that are asked for, each peer has a
// share, so that none keeps the others waiting. Each exchange ends within half a
// minute. Whose shipments are of no use is asked for them less and less often.
// What is missing is asked for a little at a time, what was wanted last among the
// first, and given up one by one, so that what nobody has is not in the way of
// what somebody has. What is not taken is known by its hash alone.
//
// # Cost
//
// Of what a peer begins or sends, there are at once:
//
//	                                    of a peer   of all peers
//	exchanges of heads that it begins   128         1024
//	exchanges of heads with it          8           64
//	sessions in which it asks           16          256
//	sessions in which it is asked       4           16
//	exchanges of states with it         8           64
//	bytes of heads and entries          24 MiB      128 MiB
//	identities that are asked for       8           256
//
// Streams beyond that are reset, messages dropped, and requests wait. An exchange costs
// as much as package heads says, a session as much as package reconcile says, and an
// entry as much as [orbit.Database.Join] does. A message of pubsub is one entry, which is hashed, joined
// and held until its ancestors are here, 30 seconds at most. Of an author who published
// 256 entries of no worth in a minute, no more are joined. A peer that ships more than
// 256 blocks of no use besides as many as are of use ends its session.
//
// In memory stay, of all databases, 65 536 hashes of entries that were heard and 4096 of
// identities that nobody sent; of each database, 256 peers and those beyond that are
// connected and have it open, with each of which heads are exchanged; 65 536 hashes that
// are wanted and 16 384 that were asked for in vain, 32 refusals, 32 refused heads of at most
// 64 KiB, and, while they may be needed, 5 MiB of entries without effect. On disk,
// peers cause nothing but what is joined.
//
// # What is stored
//
//	paused/<hash>   a database that is here and not replicated
//	wanted/<hash>   one that is replicated and not here; the value is the field of
//	                documents that holds their key, if that was said
package replicate

import "time"

// Times. All but the bounds are around what is said here, at random.
const (
	heardFor       = 2 * time.Minute        // an entry that was heard on its topic is not passed on or announced again
	passOnWithin   = 30 * time.Second       // an entry that came by pubsub is passed on, or not at all
	identityWithin = 15 * time.Second       // an identity has come
	obtainWithin   = 10 * time.Second       // a manifest or list of writers has come, or is asked for anew
	stallAfter     = 10 * time.Second       // what was asked for did not come, and is given up for now
	nudgeAfter     = 3 * time.Second        // nothing came, all is asked for anew
	hurriedStall   = time.Second            // the same, while something else waits
	retryMin       = 2 * time.Second        // between tries to fetch what nobody sent
	retryMax       = 5 * time.Minute        //
	failMin        = 250 * time.Millisecond // between exchanges with a peer that fail
	idleMin        = 30 * time.Second       // between exchanges with a peer that is in step
	idleMax        = 8 * time.Minute        //
	confirmAfter   = 10 * time.Second       // of a change or of an exchange with a peer that is not in step
	againAfter     = 250 * time.Millisecond // of the session of a peer that was not in step, heads are exchanged
	headsAfter     = 200 * time.Millisecond // of a change, heads are announced
	refreshAfter   = 2 * time.Second        // between exchanges of a list of writers with a peer
	settleWithin   = 10 * time.Second       // what it takes of a list of writers has come
	blameFor       = time.Minute            // what a peer published of no worth is counted
	unsentFor      = 30 * time.Second       // an identity that nobody sent is not asked for again
	repairAfter    = time.Second            // of a change of the access list, what it overwrote is restored
	largeAfter     = 5 * time.Second        // between announcements of heads that streams do not carry
	resubscribed   = time.Second            // between exchanges with a peer that closes and opens
	roundGap       = 100 * time.Millisecond // between rounds of fetching
	turnFor        = 10 * time.Second       // a peer ships before others have their turn
	shipStall      = 5 * time.Second        // nothing was shipped: others have their turn, what is missing is fetched
	shipPatience   = 30 * time.Second       // nothing of use was shipped: that is all of the turn
	fetchAfter     = time.Minute            // of a turn, what is missing is fetched as well
	followPause    = 100 * time.Millisecond // between two statuses
)

// Bounds of a database.
const (
	maxHeads      = 4096     // that are shown
	maxAnnounced  = 16       // heads that are announced at once
	maxLarge      = 4        // heads that streams do not carry, announced at once
	maxLive       = 64       // entries of our own that are announced at once
	maxBlame      = 256      // entries of no worth that a peer may publish in a minute
	maxPartners   = 256      // peers that are remembered
	maxRefreshed  = 3        // peers whose list of writers is asked for at once
	maxDisputed   = 32       // refused heads that are offered again when the list of writers changes
	disputedBytes = 64 << 10 // of each
	maxShown      = 64       // things of a kind in a status
	watchQueue    = 256      // events that wait for a watcher
)
