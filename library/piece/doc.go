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
package piece
