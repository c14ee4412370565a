// Package library manages a musician's library: pieces, practice counts, a
// profile, and companions, whose libraries are replicated here.
//
// # Databases
//
// A library has four OrbitDB databases: the three of the OrbitDB tutorial, so
// that its readers and JavaScript apps can use them, and one for practice
// counts.
//
//	pieces      documents, key "hash"  the pieces; see package piece
//	user        keyvalue               the owner: "username", "nodeId" (the peer ID),
//	                                   "pieces" and "practice" (the addresses of those
//	                                   databases), and fields that the owner adds
//	companions  keyvalue               the companions: the address of a companion's user
//	                                   database, and the content of that database
//	practice    keyvalue               practice counts
//
// The daemon's identity may write to them, and grants write access to others,
// since the access lists are changeable. Earlier versions created databases
// with fixed access lists; those remain in use under their addresses.
//
// # Practice counts
//
// The current OrbitDB has no counter type, so a count is the sum of keyvalue
// items. The key is "<hash of the piece>/<ID of an identity>". The value is how
// often that identity practised the piece, as an integer. An identity changes
// only its own key, and only to a larger value. The count of a piece is the sum
// over all identities in the practice databases of the owner and of all
// companions. No update is lost when several devices count at the same time or
// offline, because they write different keys. An app on @orbitdb/core adds to a
// count by
//
//	const key = `${piece.hash}/${orbitdb.identity.id}`
//	await practice.put(key, (await practice.get(key) ?? 0) + 1)
//
// and reads it by adding up the values that [all] returns for the piece. All
// spellings of a hash count for the same piece.
//
// # Companions
//
// The user, pieces and practice databases of a companion are replicated here,
// and the daemon reconnects to it. The companions database lists the
// companions, whichever writer added them. Package companion owns the databases
// of companions: it opens and drops them, and knows which are complete.
//
// A peer announces the address of its user database on its card (package card).
// A user database is followed once it is complete, unless it has the peer ID of
// another peer. A message that offers a database, {"userDb": "<address>"} as
// the tutorial's app sends it, is stored as an offer. It opens nothing before
// the peer is added as a companion.
//
// # Names
//
// A companion is identified by the name that it had when it was added. If its
// current name differs, or if two companions have the same name, the name is
// refused as an error. A connected peer that is not a companion is displayed
// with the name on its card. That name does not identify the peer, because the
// peer chose it.
//
// # The catalog
//
// The catalog has the pieces of the owner and of all companions. Their search
// index is in memory (package piece). Pieces with the same CID are one piece
// with several owners. If their documents differ, the catalog shows the owner's
// own document, or else that of the companion with the smallest peer ID. A
// query reports databases that are damaged, not here, or incomplete, and
// searches the others.
//
// # An almost full disk
//
// While the disk has too little free space (package space), no data from peers
// is stored: no libraries, followers or offers. This resumes without help once
// there is space. With even less space, no files are added and the databases
// are not written.
//
// # Cost
//
// In addition to the costs in the packages card, companion, message and
// replicate, input from peers costs:
//
//   - a card: a lookup, and one record on disk when the peer starts or stops
//     following this daemon or changes its name. At most 1000 followers are
//     stored ([MaxFollowers]). A full list is scanned for one to replace. The
//     name is in memory while the peer is connected;
//   - a message: one of up to 4 KiB is parsed as JSON. An offer is one record
//     on disk. At most 1000 offers are stored ([MaxOffers]), and each new one
//     scans them;
//   - a user database of a companion: four keys are read, with values of up to
//     4 KiB. A text of up to 1 KiB is decoded as a peer ID. The record of a
//     companion changes at most once per hour;
//   - pieces and practice counts of a companion: each item is read once after a
//     start, and once per change. In memory they use at most 64 MiB per
//     companion, and 512 MiB for all ([MaxCompanions]). Items beyond that are
//     not found by a search. On disk, the databases of a companion are within
//     its quota ([orbit.Quotas]).
//
// A search takes time proportional to the number of pieces in memory (package
// piece). Up to 4096 events are buffered per watcher. Package sheet bounds the
// inspection of files. The size of a pinned file is bounded by the disk alone.
//
// # What is stored
//
//	follower/<peer ID>   a follower
//	offer/<peer ID>      the last offer of a peer
//	offers               the time up to which messages were scanned for offers
//	kept/<peer ID>       a companion that is a kept peer only because it is a companion
//
// The records of package companion are in the same store.
package library
