// Package oplog stores the operation log of an OrbitDB database: a graph of
// entries that several writers append to and that replicas join.
//
// # The log
//
// An entry is part of the log when all of its parents are, which are the
// entries that it names in next and refs. So the log is closed under both at
// any time, even after a crash. JavaScript fetches all parents before it joins
// an entry, and can therefore join any entry of the log. Heads are the
// authorized entries that no other authorized entry descends from. An appended
// entry names all heads in next, newest first. Its refs are the 16 entries that
// follow, in the order of the log, after as many of the newest entries as there
// are heads. It has no refs if it names more than 32 heads.
//
// # Pending entries
//
// An entry that arrives before its parents is pending. It is stored, but it
// affects neither state, heads nor counts. [Log.Missing] returns the hashes to
// fetch. When the last parent has arrived, the entry and its dependants enter
// the log, a bounded number in one transaction.
//
// JavaScript sends the newest entry first, so all of a log except its oldest
// entry may be pending at once. [Config] bounds the bytes of pending entries.
// Beyond the bound, blocks are evicted. An entry whose block was evicted keeps
// its hash and the hashes in next, so the ancestors of a head can be fetched
// down to those that are in the log, whatever the bound. Then the evicted
// blocks are fetched again, oldest first. If even the hashes exceed the bound,
// the entries that arrived first, which are the newest, are abandoned. They
// return with the heads that a peer offers; [Stats] counts them.
//
// Each pending entry is charged to the peer that offered it, or to the peer
// whose pending entry needs it. Blocks are always evicted, and entries
// abandoned, at the expense of the peer that is charged most.
//
// The work that a peer causes with a pending entry is bounded: one record for
// the entry, one for its block, one or two for the parent that it waits for,
// and one for each of 64 missing parents. The same applies when the entry
// enters the log or is evicted. The parents of an entry that has more are
// looked up 64 at a time.
//
// # Authorization
//
// An entry is invalid if its signature, its key or its encoding is wrong
// ([entry.Entry.Check]). That never changes. Which of the valid entries are
// authorized depends on the access list ([Access]), which may change
// ([Log.Revise]). An entry that is not an anchor is refused when it arrives,
// unless a pending entry needs it. An unauthorized entry that enters the log
// because of that is part of the graph and can be sent to peers and named by
// other entries, but it is not in the order, does not affect the state, and is
// never a head.
//
// Authorization is a function of the entries and the access list alone, so no
// stored decision is final. Each valid entry that is not authorized is listed
// under its writer, and each entry that is neither an anchor nor an ancestor of
// one is marked as unanchored. A change of the access list queues the entries
// that it may affect. A new entry queues those of its parents that are
// unanchored. The revision queue is stored, is processed from the newest entry
// to the oldest, a bounded number in one transaction, and continues after a
// crash. Until it is empty, the heads may contain ancestors of other heads, or
// lack entries whose descendants were revoked.
//
// # Stored keys
//
// Keys are below log/<number of the log> in the store. Some contain older words
// for the terms of this package:
//
//	summary                          counts, heads and the newest entries
//	entry/<number>                   the entries, in the order of arrival
//	order/<time>/<clock id>.<hash>   number of an authorized entry
//	tree/<path>                      number of entries in a subtree of the order,
//	                                 and the sum of their hashes
//	raised/<hash>                    rank of an entry, if it differs from its clock
//	access                           the access list
//	fault/<hash>                     why an entry is not authorized
//	idle/<hash of ID>/<hash>         a valid entry that is not authorized, by writer
//	loose/<hash>                     an unanchored entry
//	below/<hash>                     largest rank of an invalid entry's ancestors
//	revise/<number>                  revision queue: why to decide on an entry again
//	heads/<page>                     the heads, if there are many
//	head/<hash>                      the page of such a head
//	lost/<number>                    hash, if known, of an entry that a rebuild found lost
//	wait/<hash>                      a pending entry: its peer and its parents
//	parents/<hash>/<n>               further parents of it, 64 in a record
//	wake/<hash>                      a dependant of the hash, and the number of others
//	waiters/<hash>/<hash>            one of those others
//	ready/<n>                        ready queue: hash of an entry that arrived and
//	                                 has dependants
//	missing/<number>/<hash>          a missing hash, and the pending entry that needs it
//	held/<peer>/<n>                  the block of a pending entry
//	evicted/<peer>/<n>               the hash of a pending entry without block
//	share/<peer>                     what the pending entries of a peer are charged
//	shares/<bytes>/<peer>            the peers, sorted by that charge
//	wrote/<hash of ID>               bytes of the entries of a writer
//	brought/<peer>                   bytes of the entries that a peer offered
//
// The time in an order key is a whole number. If the rank of the entry is more
// than that, it precedes the clock ID.
//
// # Cost
//
// A change of the log and of the state derived from it ([State]) is one
// transaction. Its cost is the same at a hundred entries and at a million,
// except for one node of the tree for each hex digit of the clock. By comparing
// nodes, two replicas find what one of them lacks without reading what both
// have ([Log.Node]).
package oplog
