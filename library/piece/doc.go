// Package piece defines the documents that describe pieces of sheet music, the
// spellings of their hashes, and an index in memory to search them.
//
// # Documents
//
// A piece is a document in an OrbitDB database that is indexed by the field
// "hash". The app of the OrbitDB tutorial writes "hash", "instrument" and
// fields of its own. This package adds the other fields, each where its value
// is known:
//
//	hash        text     CID of the file
//	instrument  text     such as "Piano"
//	title       text
//	composer    text
//	type        text     media type of the file, such as "application/pdf"
//	name        text     name of the file when it was added
//	size        integer  of the file, in bytes
//
// # Hashes
//
// A CID has several spellings: version 0, and version 1 in any multibase. A
// document retains the spelling with which it was written. Pieces with the same
// CID are the same piece ([Canonical]).
//
// # Cost
//
// A document from a peer may be as large as an entry. [Of] reads its fields. A
// document whose hash is longer than [MaxHash] bytes is not a piece. A longer
// text is never decoded as a CID, which would take quadratic time. An [Index]
// has at most [MaxIndexed] pieces and stays within its [Budget]s. For each
// piece it stores the hash, at most twice, and 256 bytes of each of four texts.
// A piece that exceeds a budget costs one lookup. [Index.Search] and
// [Index.Prefixed] scan all pieces, and compare each with the query. This
// package writes nothing to disk.
package piece
