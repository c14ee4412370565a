// Package reconcile finds what one peer has of a log and another lacks, and
// ships it in order: the way in which daemons replicate with each other, beside
// that of JavaScript (packages heads and bitswap).
//
// # Protocol
//
// Its name is [Protocol]. One side, the client, asks; the other answers. A
// request is a list of dag-cbor, with its length in front as a varint; its first
// item says what it is:
//
//	0, address        what follows is about this database. Always the first one.
//	                  The answer is an empty list, or there is none and the
//	                  stream is reset: the peer has not opened the database
//	1, hashes         blocks, such as manifest, access controller and identities.
//	                  The answer is batches of those that are there. Blocks of
//	                  OrbitDB have no secrets: bitswap serves them, too
//	2, paths          nodes of the tree over the order of the log (package oplog).
//	                  The answer is a list, for each of them its count, its sum,
//	                  and either its children (digit, count, sum) or, of few
//	                  entries or few times, hashes, and whether there are more
//	3, path, hash     the hashes behind a path that come behind this one. The
//	                  answer is hashes, and whether there are more
//	4, items          entries. An item is a path, for all that is behind it, or a
//	                  hash. The answer is batches
//	5                 the state of the replica. The answer is count and sum of the
//	                  root of the tree, those of the access database (0 and zeros
//	                  where the list is fixed), and whether all effects are decided
//
// In lists of hashes, and as items, hashes are the 32 bytes of their SHA-256.
//
// A batch is blocks of dag-cbor one after the other, parents before what is on
// top of them, each writer's identity before the first entry that names it; all
// of it compressed with zstd, since entries name the same ones over and over. A
// frame without bytes is the end of an answer.
//
// Requests are answered one after the other. Who reads slowly is sent slowly:
// the stream holds back the sender, which keeps no more than a batch, and reads the
// log on when that is gone.
//
// # Comparing
//
// The client goes from the root of the tree, oldest first, to where the peer's nodes
// differ from its own: what it has nothing of, it takes whole; of few entries, it
// goes by the hashes. Ten entries among a hundred thousand cost a few kilobytes and
// two answers, since it begins with the nodes above its newest entry. Nothing is
// remembered of a peer: a transfer that breaks off goes on where it was, with
// that peer or another, since the next comparison finds only the rest.
//
// Two replicas are in step if their states are equal ([State]): the roots of their
// trees and those of their access databases. Heads do not tell that, since what
// counts depends on the access list, too.
//
// Entries without effect are in no tree. They are shipped before the entries that
// name them. Where a log has some, another replica may count them: they are a
// difference that stays. So in such a log nothing is taken whole.
//
// # Trust
//
// Nothing that a peer says is believed. What it ships is offered to the log as
// anything else, which verifies it; what it says of its tree decides only what is
// asked for. Each frame has a bound, and more of it comes within a deadline; how many
// frames an answer has is for who reads them to bound, by what they are worth.
//
// # Cost
//
// Nothing here is written to disk. A session of the side that answers costs
//
//   - a request of at most 64 KiB in memory, one at a time;
//   - for at most 64 blocks (1): a look-up and a read each;
//   - for at most 64 nodes (2): a read of each, and of 16 children or 49 keys of the
//     order;
//   - for hashes (3): a look-up of an entry, and at most 1025 keys of the order;
//   - for at most 1024 items (4): a read of each entry and of its identity, at most
//     twice as many entries as the log and the request have. Where the log has entries
//     without effect, also a look-up for each parent of an entry, and of those entries
//     at most twice as many as there are, and 16 384, are sent. A batch of at most 3 MiB
//     is held until the peer has taken it, and 16 384 hashes of what was sent.
//
// The side that asks holds one answer of at most 256 KiB, or one batch of at most 3 MiB,
// packed and as it is read, whose blocks are each hashed once. A comparison reads one
// node of its own for each node that an answer names, and looks up each entry that one
// names. It ends with [ErrNothing] after 32 768 nodes without a difference, looks at
// some 65 536 entries of one node, and holds 4096 items of a part and those of one node.
package reconcile

import (
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/orbit/block"
)

// Protocol is the name of the protocol. A peer that speaks several versions is
// asked for the newest that both do. [Earlier] has no request 5.
const (
	Protocol protocol.ID = "/npp/orbitdb/reconcile/1.1.0"
	Earlier  protocol.ID = "/npp/orbitdb/reconcile/1.0.0"
)

// Bounds.
const (
	maxRequest = 64 << 10  // bytes
	maxAnswer  = 256 << 10 // bytes, of one that is no batch
	maxFrame   = 3 << 20   // bytes of a batch as it is sent
	maxBatch   = 3 << 20   // bytes of a batch as it is read
	maxHashes  = 64        // of blocks in a request
	maxPaths   = 64        // in a request
	maxItems   = 1024      // in a request
	maxNames   = 1024      // hashes in an answer
	fewNames   = 48        // entries whose hashes are sent rather than their nodes

	batchEntries = 128              // that a batch has at most
	batchBytes   = 256 << 10        // behind which it has no further one
	batchBlocks  = 2 * batchEntries // with an identity for each
)

// A batch with the largest of blocks and an identity still fits.
const _ = uint(maxBatch - batchBytes - block.MaxSize)

// Bounds of a comparison.
const (
	maxWanted = 1 << 12 // items of a part of it
	maxVain   = 1 << 15 // nodes that are looked at and have nothing
	maxNamed  = 1 << 16 // entries of a node that are looked at
)

// Deadlines.
const (
	answerWithin  = 15 * time.Second // something more of an answer comes
	requestWithin = 30 * time.Second // something more of a request comes, or the next one
	takenWithin   = time.Minute      // something more of an answer is taken
)
