// Package piece is a piece of sheet music as a library keeps it: its shape as a
// document, the many ways to write its hash, and an index in memory in which it
// is found.
//
// # Shape
//
// A piece is a document of an OrbitDB database whose key is the field "hash".
// That, "instrument" and all else that an app put there is what the OrbitDB
// tutorial's app keeps; the rest is ours, and is there where it is known:
//
//	hash        text     CID of the file
//	instrument  text     whom it is for, such as "Piano"
//	title       text
//	composer    text
//	type        text     media type of the file, such as "application/pdf"
//	name        text     name of the file when it was added
//	size        integer  of the file, in bytes
//
// # Hashes
//
// The same CID may be written in several ways: version 0 and 1, and version 1 in
// any multibase. A document keeps the one that it was given; pieces whose CIDs
// are the same are the same piece ([Canonical]).
//
// # Cost
//
// A document of another peer is as large as an entry may be. [Of] reads its fields. A
// document whose hash has more than [MaxHash] bytes is no piece, and a longer text is not
// decoded as a CID, which takes the square of the length. An [Index] holds at most
// [MaxIndexed] pieces and what its [Room]s have room for: of a piece the hash, twice at
// most, and 256 bytes of each of four texts. A piece that finds no room costs a look-up.
// [Index.Search] and [Index.Prefixed] look at each piece: that takes time in proportion to
// the pieces, and of those that are found to the length of the query. Nothing is written
// to disk.
package piece
