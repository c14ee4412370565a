// Package reconcile finds the entries that one peer has of a log and another
// lacks, and transfers them in order. Daemons use this protocol with each
// other, in addition to those of JavaScript (packages heads and bitswap).
//
// # Protocol
//
// The protocol ID is [Protocol]. One side, the client, sends requests, and the
// other side answers. A request is a dag-cbor list, preceded by its length as a
// varint. The first item is the kind of request:
//
//	0, address        selects the database. This is always the first request.
//	                  The answer is an empty list. If the peer has not opened
//	                  the database, it resets the stream instead
//	1, hashes         requests blocks, such as manifest, access controller and
//	                  identities. The answer is batches of those that exist.
//	                  OrbitDB's blocks are not secret: bitswap serves them too
//	2, paths          requests nodes of the tree over the order of the log
//	                  (package oplog). The answer is a list that contains, for
//	                  each node, its count and sum, and either its children
//	                  (digit, count, sum) or, if it has few entries or is a
//	                  leaf, hashes and whether there are more
//	3, path, hash     requests the hashes of a subtree that follow the hash. The
//	                  answer is hashes and whether there are more
//	4, items          requests entries. An item is a path, which stands for all
//	                  entries of the subtree, or a hash. The answer is batches
//	5                 requests the state of the replica. The answer is the count
//	                  and sum of the root of the tree, those of the access
//	                  database (0 and zeros if the list is fixed), and whether
//	                  no authorization is being decided
//
// Lists of hashes and items contain hashes as the 32 bytes of their SHA-256.
//
// A batch is a sequence of dag-cbor blocks, compressed with zstd because
// entries repeat the same hashes. Parents precede their descendants, and the
// identity of a writer precedes the first entry that names it. An empty frame
// ends the answer.
//
// Requests are answered one after the other. A slow reader slows down the
// sender through the stream's flow control. The sender holds at most one batch,
// and reads on in the log when that is sent.
//
// # Comparison
//
// The client descends, oldest first, from the root of the tree to the nodes of
// the peer that differ from its own. A subtree of which it has nothing is
// transferred whole; in a subtree with few entries, it compares hashes. Ten
// entries among a hundred thousand cost a few kilobytes and two answers,
// because the comparison starts with the nodes above the client's newest entry.
// There is no state per peer: after an interrupted transfer, the next
// comparison, with that peer or another, finds only the rest.
//
// Two replicas are in sync if their states are equal ([State]): the roots of
// their trees and those of their access databases. Heads do not suffice,
// because authorization also depends on the access list.
//
// Unauthorized entries are not in the tree. They are sent before the entries
// that name them. Another replica may authorize some of them, in which case the
// difference remains. So no subtree is transferred whole to a log that has
// unauthorized entries.
//
// # Trust
//
// No statement of a peer is trusted. The entries that it sends are offered to
// the log like any others, which verifies them. Its statements about the tree
// only determine which entries are requested. Each frame has a maximum size and
// must make progress within a deadline. The caller must bound the number of
// frames of an answer, according to the value of what they contain.
//
// # Cost
//
// Nothing is written to disk. A session costs the side that answers:
//
//   - one request at a time, of at most 64 KiB of memory;
//   - for at most 64 blocks (1), a lookup and a read each;
//   - for at most 64 nodes (2), a read each, and the reads of 16 children or of
//     49 keys of the order;
//   - for hashes (3), a lookup of one entry and at most 1025 keys of the order;
//   - for at most 1024 items (4), a read of each entry and of its identity, of
//     at most twice as many entries as the log and the request contain. If the
//     log has unauthorized entries, also a lookup for each parent of an entry;
//     at most twice the number of those entries, plus 16,384, are sent. It
//     holds one batch of at most 3 MiB until the peer has received it, and
//     16,384 hashes of sent blocks.
//
// The client holds one answer of at most 256 KiB, or one batch of at most 3 MiB
// both compressed and uncompressed, and hashes each block of it once. A
// comparison reads one node of its own for each node in an answer, and looks up
// each hash in it. It ends with [ErrFruitless] after 32,768 nodes without a
// difference, visits about 65,536 entries of one node, and holds 4096 items of
// a part and those of one node.
package reconcile

import (
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/orbit/block"
)

// Protocol and Earlier are the protocol IDs. Peers use the newest that both
// speak. [Earlier] lacks request 5.
const (
	Protocol protocol.ID = "/npp/orbitdb/reconcile/1.1.0"
	Earlier  protocol.ID = "/npp/orbitdb/reconcile/1.0.0"
)

// Bounds.
const (
	maxRequest = 64 << 10  // bytes
	maxAnswer  = 256 << 10 // bytes of an answer without batches
	maxFrame   = 3 << 20   // bytes of a compressed batch
	maxBatch   = 3 << 20   // bytes of an uncompressed batch
	maxBlocks  = 64        // blocks in a request
	maxPaths   = 64        // paths in a request
	maxItems   = 1024      // items in a request
	maxHashes  = 1024      // hashes in an answer
	fewHashes  = 48        // entries up to which a node is answered with hashes

	batchEntries = 128              // entries in a batch
	batchBytes   = 256 << 10        // after which a batch takes no further entry
	batchBlocks  = 2 * batchEntries // entries and identities in a batch
)

// A batch still fits when the largest block and an identity are added to it.
const _ = uint(maxBatch - batchBytes - block.MaxSize)

// Bounds of a comparison.
const (
	maxWanted      = 1 << 12 // items in a part
	maxFruitless   = 1 << 15 // nodes compared in a row without result
	maxNodeEntries = 1 << 16 // entries visited in one node
)

// Deadlines.
const (
	answerWithin  = 15 * time.Second // for the next part of an answer
	requestWithin = 30 * time.Second // for the next part of a request, or the next request
	takenWithin   = time.Minute      // for the client to receive the next part of an answer
)
