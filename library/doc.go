// Package library is the app on top of the daemon: a musician's pieces, how often
// they were practised, a profile, and companions, whose libraries are followed.
//
// # Stores
//
// There are four OrbitDB databases, those of the OrbitDB tutorial and one more, so
// that its readers, and apps in JavaScript, know their way:
//
//	pieces      documents, key "hash"  the pieces; see package piece
//	user        keyvalue               about the owner: "username", "nodeId" (the
//	                                   peer ID), "pieces" and "practice" (the
//	                                   addresses of those stores), and what else
//	                                   the owner puts there
//	companions  keyvalue               the peers that are followed: the address of
//	                                   a peer's user store, with what that had in it
//	practice    keyvalue               how often pieces were practised
//
// The daemon's own identity may write to them, and others to which it grants that:
// their lists of writers can be changed. A daemon that made its stores before they
// could be keeps those, under the same addresses.
//
// # Practice counts
//
// OrbitDB has no counter any more, so a count is made of what it has. The value at
// the key "<hash of the piece>/<ID of an identity>" is how often that identity has
// practised the piece, a whole number. An identity changes no key but its own, and
// only to a higher number. The count of a piece is the sum over all identities in
// all stores that are known: one's own and those of one's companions. So whoever
// counts at the same time as others, on whatever device and however long it was
// away, loses nothing: no two write the same key. A page on @orbitdb/core counts by
//
//	const key = `${piece.hash}/${orbitdb.identity.id}`
//	await practice.put(key, (await practice.get(key) ?? 0) + 1)
//
// and reads by adding up what [all] has of the piece. A hash counts in whichever
// way it is written.
//
// # Companions
//
// A companion is a peer whose user store, pieces and practice counts are
// replicated here, and to which the connection is kept. What companions there are
// is what the store "companions" says, whoever wrote it.
//
// Which store is a peer's comes over a stream from that peer (package card). A user
// store is acted on once it was in step with its owner or, where the owner does not
// have it open, with another peer that has entries of it; see whole.go. A store that
// says that it is that of another peer is not followed. A message that offers a store,
// {"userDb": "<address>"} as the tutorial's app sends it, is remembered and opens
// nothing before it is taken up.
//
// # Names
//
// A companion goes by the name that it had when it was added. Where it calls itself
// otherwise now, or where two have the same name, that is an error and not a guess.
// A peer that is connected and no companion is shown with the name on its card. That
// name stands for no peer: the peer chose it.
//
// # The catalog
//
// All pieces of one's own and of one's companions are in memory as far as they are
// searched (package piece). A piece that several have is one, with all of them as
// its owners; where it differs, the document is one's own, or that of the companion
// whose peer ID comes first. A store that is damaged, not here yet or not whole yet is
// named, and keeps nothing else from being found.
//
// # A disk that is almost full
//
// While too little of the disk is free (package space), nothing new of other peers is
// stored: neither their libraries, nor that they follow this one, nor their offers.
// That goes on by itself once there is room. With still less free, files are not added
// and nothing is put into the stores.
//
// # Cost
//
// What a peer sends costs what the packages card, message and replicate say, and here:
//
//   - a card: a look-up, and one record on disk when it begins or ceases to follow this
//     library or changes its name. 1000 followers are remembered ([MaxFollowers]), and
//     each is looked at where one has to go. A name is in memory while the peer is
//     connected;
//   - a message: one of up to 4 KiB is read as JSON; an offer is one record on disk.
//     1000 offers are remembered ([MaxOffers]), and each is looked at when one comes;
//   - a user store of a companion: four keys are read, values of up to 4 KiB. A text is
//     decoded as a peer ID up to 1 KiB. What they name is acted on every two seconds at
//     most, and the record of a companion changes once an hour;
//   - pieces and practice counts of a companion: each item is read once after a start,
//     and once for each change. In memory they have at most 64 MiB of a companion and
//     512 MiB of all ([MaxCompanions]); what finds no room is not found by a search. On
//     disk, the stores of a companion have its quota ([orbit.Quotas]).
//
// A search takes the time of all pieces in memory (package piece). [EventPiece] and the
// other events wait for a watcher up to 4096. A file is looked at by package sheet; what
// a pinned file takes on disk is bounded by the disk alone.
//
// # What is stored
//
//	follower/<peer ID>   a peer that said it follows this one
//	offer/<peer ID>      the last offer of a peer
//	offers               when messages were looked at for offers last
//	brought/<hash>       a database that came only because a companion has it
//	partial/<hash>       a store of a companion that was not in step with a peer yet
//	kept/<peer ID>       a peer whose connection is kept for being a companion
package library
