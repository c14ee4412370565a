// Package message sends messages to peers, reports their outcome, and stores
// received messages until the owner removes them.
//
// # Sending
//
// [Service.Send] opens a libp2p stream to the recipient, which may be reached
// over a relay, sends the message and waits for a receipt. The recipient's
// daemon writes the receipt after the message is on its disk. There are four
// outcomes:
//
//   - delivered: the recipient's daemon stored the message;
//   - published: the recipient does not speak this protocol, and the message
//     was sent to the subscribers of the pubsub topic that is named after the
//     recipient's peer ID. No subscriber acknowledges it, and any peer can read
//     it;
//   - unknown: the message was sent and no receipt arrived. A message may be
//     sent again under the same ID: the recipient stores it once;
//   - failed: the message was not delivered, and the error states the reason.
//
// A message is never published to the topic of a peer that announces the
// protocol, that answered a message before, or that sent a message which is
// still stored.
//
// A sender opens at most eight streams to a recipient, or fewer if the
// recipient accepts fewer. Each stream carries one message at a time; further
// messages wait in memory. libp2p resets streams beyond the recipient's limits
// without telling the sender why.
//
// # Receiving
//
// Direct messages arrive by stream; the connection proves their sender. Pubsub
// messages arrive on the topic of this daemon's peer ID and on the topics that
// listeners name; a signature proves their author. Both go into one log on disk
// in the order of arrival. [Service.Listen] reads the log from any position, so
// a slow or absent reader loses nothing.
//
// A direct message is stored once per sender and ID as long as it is stored. A
// pubsub message is stored once per author and sequence number as long as it is
// stored, and for [ReplayWindow] after its arrival, also over restarts.
//
// # Limits
//
// [Limits] bounds the stored bytes of each peer, and of pubsub as a whole. A
// direct message beyond the sender's quota is refused, and the sender receives
// the reason. An acknowledged message is deleted by the retention rules or by
// [Service.Remove] only. A pubsub message replaces older ones: first those of
// the same author, who may use a quarter of the pubsub quota, then the oldest
// of all. Pubsub messages that arrive faster than they can be stored are
// dropped and counted once 64 MiB of them are in memory.
//
// # Cost
//
// A direct message costs
//
//   - a stream: a peer may have 16 open, all peers 2048; further ones are
//     reset. An idle stream is closed after a minute;
//   - memory: at most [Limits].MaxMessageBytes and 1 KiB for the envelope; a
//     larger message is not read into memory. Each stream may buffer 4 KiB.
//     Larger messages share a budget of two maximal messages per peer and 64
//     MiB for all peers, and must arrive within 30 seconds;
//   - one transaction of three reads and five records, or two reads if the
//     message is already stored. A peer may send [Limits].MaxPerSecond messages
//     a second. On disk a message counts as its record and 256 bytes. No
//     signature is checked, because the connection proves the sender;
//   - a rate limiter for each of the last 3072 senders, and for further ones
//     until their rate has recovered.
//
// A pubsub message costs a lookup of its ID before it is forwarded; package
// router lists the router's own costs. Up to 8192 messages of a topic and 64
// MiB of all topics wait to be stored. Up to 256 messages, of about 1 MiB,
// share a transaction. A message that replaces others costs some ten reads and
// writes for each of them, of which there is at most one for each 256 bytes of
// the message. For [ReplayWindow], three records remain of each removed
// message, of at most one message for each 256 bytes of [Limits].PubsubBytes.
//
// While the disk is almost full (package space), nothing is stored: the sender
// of a direct message receives that reason and may send it again; a pubsub
// message counts as dropped. Stored messages can still be read and removed.
package message
