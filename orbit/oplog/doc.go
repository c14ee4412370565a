// Package oplog is the log of operations under an OrbitDB database: a graph of
// entries that several writers append to and that replicas join.
//
// # The log
//
// An entry is part of the log when all that it names in next and refs is; the
// log is closed under both at any moment, also after a crash. JavaScript, which
// fetches both before it joins an entry, can therefore join whatever it is
// offered. Heads are the entries that no other names in next. An appended
// entry names all of them, newest first, and refers to the 16 newest entries
// behind as many as there are heads, or to none where it names more than 32.
//
// An entry that comes before its parents (the entries that it names in next and
// refs) waits on disk, has no effect, and is neither head nor counted.
// [Log.Missing] says which hashes are to be fetched. When the parents have come, the
// waiting entries follow, a bounded number to a transaction.
//
// # What waits
//
// JavaScript sends the newest entry first, so all of a log but its oldest entry may
// wait. What may wait has a bound in bytes ([Config].Waiting), and beyond it, blocks
// are evicted. A waiting entry whose block was evicted keeps its hash and the hashes
// of its next, so the ancestors of a head are fetched down to those that are in the
// log, whatever the bound. Then the evicted blocks are fetched again, oldest first.
// Where even the hashes exceed the bound, the entries that came first, which are the
// newest ones, are given up, and come again with the heads that a peer offers
// ([Stats].GivenUp says so).
//
// What is evicted or given up is always of the peer that has the largest share of
// what waits. An entry is of the peer that offered it, or of the peer whose waiting
// entry needs it.
//
// What a peer makes us do by an entry that waits is bounded: one record for the
// entry, one for its block, one or two for the parent that it waits for and one for
// each of 64 parents that are missing; and as much again when it enters the log or is
// evicted. An entry with more parents has them looked up 64 at a time.
//
// # What counts
//
// An entry is invalid if its signature, its key or its encoding are wrong
// ([entry.Entry.Check]): that never changes. Of the valid ones, the access list
// says which count, and it may change ([Access], [Log.Revise]). An entry that
// does not count is refused when it comes, unless an entry waits for it: then it
// is part of the graph, to be sent and named, but it is in no order, in no
// state, and never a head.
//
// What counts is a function of the entries and of the access list alone. So
// nothing that is stored of an entry's effect is final: each valid entry that
// does not count is listed by its writer, and each entry that no anchor descends
// from is marked as loose. A change of the access list queues the entries whose
// effect it may change; an entry that names a loose one queues that. The queue is
// on disk, is worked off from the newest entry to the oldest, a bounded number to
// a transaction, and goes on after a crash.
//
// # What is stored
//
// Below log/<number of the log> in the store:
//
//	summary                          counts, heads and the newest entries
//	entry/<number>                   the entries, in the order of arrival
//	order/<time>/<clock id>.<hash>   number of an entry that counts
//	tree/<path>                      how many entries of the order are behind a
//	                                 path, and the sum of their hashes
//	raised/<hash>                    rank of an entry, where its clock does not tell
//	access                           the access list by which the log counts
//	fault/<hash>                     why an entry does not count
//	idle/<hash of ID>/<hash>         a valid entry that does not count, by its writer
//	loose/<hash>                     an entry from which no anchor descends
//	below/<hash>                     largest rank below an invalid entry
//	revise/<number>                  mark of an entry whose effect is to be decided
//	heads/<page>                     the heads, where there are many
//	head/<hash>                      the page of such a head
//	lost/<number>                    hash, if known, of an entry found lost
//	wait/<hash>                      a waiting entry: who offered it, its parents
//	parents/<hash>/<n>               further parents of it, 64 to a record
//	wake/<hash>                      an entry that waits for the hash, and how many others do
//	waiters/<hash>/<hash>            one of those others
//	ready/<n>                        hash of an entry that came and that others wait for
//	missing/<number>/<hash>          a hash to be fetched, and the entry that needs it
//	held/<peer>/<n>                  the block of a waiting entry
//	evicted/<peer>/<n>               the hash of one whose block was evicted
//	share/<peer>                     what waits of the entries that a peer offered
//	shares/<bytes>/<peer>            the peers in the order of their shares
//	wrote/<hash of ID>               bytes of the entries that came of a writer
//	brought/<peer>                   bytes of the entries that came from a peer
//
// The time in an order key is a whole number; where the rank is more than that,
// it is in front of the clock ID.
//
// A change of the log and of the state that follows from it ([State]) is one
// transaction. Each costs the same at a hundred entries and at a million, but for
// a node of the tree for each hex digit of the clock. The nodes of two replicas
// tell what one of them lacks without a look at what both have ([Log.Node]).
package oplog
