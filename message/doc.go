// Package message sends messages to peers, says truthfully what became of
// them, and keeps what arrives until its reader has seen it.
//
// # Sending
//
// [Service.Send] opens a libp2p stream to the recipient (a relayed connection
// will do), sends the message and waits for the receipt, which the recipient's
// daemon writes once the message is on its disk. There are four outcomes:
//
//   - delivered: the recipient's daemon has stored it;
//   - published: the recipient is known not to speak this protocol, and peers
//     that are subscribed to the pubsub topic named after the recipient's peer ID
//     were handed the message. Nobody acknowledges that, and anyone can read it;
//   - unknown: the message left, and no receipt came back. Sending it again
//     under the same ID is safe: it is stored once;
//   - an error: it was not delivered, and the error says why.
//
// Nothing goes by pubsub to a peer that says it speaks the protocol, that ever
// answered a message, or that sent one which is still stored.
//
// A sender uses at most eight streams per recipient, fewer to one that takes
// fewer, one message at a time on each, and queues the rest: libp2p resets what
// goes beyond its own limits, unseen by the sender.
//
// # Receiving
//
// Messages come by stream, from the peer that the connection proves, and by
// pubsub, on the topic of our own peer ID and on those that are being listened
// to. All go into one log on disk, in the order of their arrival;
// [Service.Listen] reads it from wherever the reader wants, so a reader that is
// slow, or not there, loses nothing.
//
// A direct message is stored once per sender and ID, for as long as it is
// stored. A pubsub message is stored once per author and sequence number, for
// as long as it is stored and, within the bounds of [ReplayWindow], for that
// time after its arrival, over restarts.
//
// # Limits
//
// Each peer has a share of the store ([Limits]), and so has pubsub as a whole.
// A direct message that does not fit is refused, and its sender told so. What
// is acknowledged goes only by the rules of retention, or by [Service.Remove].
// A pubsub message pushes out older ones, first of its own author's share of a
// quarter, then of pubsub's. What comes by pubsub faster than it can be stored
// is dropped, and counted, beyond 64 MiB.
//
// Direct messages cost
//
//   - a stream: a peer has 16, all peers have 2048, others are reset. One that is idle
//     ends after a minute;
//   - a message: at most [Limits].MaxMessageBytes and 1 KiB around it; a larger one is
//     not read into memory. One of up to 4 KiB is held for each stream, and of larger
//     ones as many bytes as two of the largest of a peer, and 64 MiB of all peers, for
//     30 seconds and until they are stored;
//   - [Limits].MaxPerSecond messages of a peer a second: each is decoded once and takes
//     one transaction of three reads and five records. One that is stored already takes
//     two reads. On disk, a message counts as its record and 256 bytes. No signature is
//     checked, as the connection proves the sender;
//   - of peers that sent something, 3072 are remembered for their rate, and others while
//     it recovers.
//
// A message of pubsub costs a look-up of its ID before it is passed on (what the router
// takes, package router says). Up to 8192 of a topic wait, and 64 MiB of all topics. Up
// to 256, of about 1 MiB, share a transaction, in which each costs as much as a direct
// one. A message that pushes out others costs some ten reads and writes for each, of
// which there is at most one for each 256 bytes of the message. For [ReplayWindow],
// three records stay of each that was removed, of at most one for each 256 bytes of
// [Limits].PubsubBytes.
//
// While the disk is almost full (package space), nothing is stored: the sender of
// a direct message is told that, and may send it again; a pubsub message counts as
// dropped. What is stored can be read and removed.
package message
