// Package router is the daemon's pubsub router: gossipsub with kubo's settings,
// queues that hold a burst, validation rules for the topics of this module,
// bounds on what peers cost, and counters of lost messages. A node has one
// router.
//
// # Validation
//
// Stock kubo (0.40 and later) validates every message with one validator, which
// remembers the highest sequence number of each author and ignores lower ones.
// Messages are validated concurrently, so in a burst a later message may
// overtake an earlier one, which is then lost without a trace. IPNS, for which
// the rule was made, tolerates that; a conversation does not. This router
// therefore has three rules:
//
//   - A topic that is subscribed to or published to through this package: a
//     message is valid if the subscriber accepts it ([AcceptFunc]), in any
//     order of the sequence numbers. Authors may choose them at random.
//   - A followed topic ([Router.Follow]): a message is forwarded after the
//     follower has accepted it, which may take a while.
//   - Every other topic, those of `ipfs pubsub sub` included: kubo's rule with
//     kubo's records, so `ipfs pubsub reset` works for them.
//
// # Announcements
//
// Pubsub tells each new peer all topics of this peer in one RPC, and peers
// reset the stream if it is too large. This router writes subscriptions in RPCs
// of at most 60 KiB, so any number of topics may be open.
//
// A followed topic is that of a database, and its name is the address, which is
// the right to read the database. Therefore a peer is told of a followed topic
// only while it is subscribed to the topic itself, or as soon as it subscribes,
// and it is told of the end if it was told of the begin. Two peers that follow
// this rule do not learn of each other from pubsub; they need another way to
// find what both have. A peer that publishes to a topic without a subscription
// does not see the followers.
//
// Topics that are subscribed to in another way are told to all peers, also if
// they are followed. Pubsub does not report a subscription of `ipfs pubsub sub`
// to a topic that is followed already, so such a topic stays a followed one.
//
// Everything else follows gossipsub and the operator's configuration.
//
// # Cost
//
// Each input from a peer costs time and memory as listed here. Nothing is
// written to disk, except kubo's record of each author on topics of kubo's
// rule.
//
//   - An RPC has at most 1 MiB, of which subscriptions and control messages
//     have at most 512 KiB (gossipsub's limits). 32 RPCs of all peers wait to
//     be handled, and one RPC of each peer is being read.
//   - A message costs a lookup of its ID and, one message after the other, a
//     check of its signature, which takes time in proportion to its size.
//     Before that, at most [Limits].PeerBytes of one peer's messages and
//     AllBytes of all are held; others are dropped and counted. A message of a
//     topic without a subscription costs neither. Gossipsub remembers the ID of
//     a message for two minutes, and a valid message for five seconds.
//   - A message is queued for each peer to which it is forwarded. At most
//     PeerBytes are queued for one peer and AllBytes for all; a message in
//     several queues counts once. Beyond that, the stream of a peer is reset,
//     see [Drops].Streams. For each peer, one message is copied while it is
//     being written, for at most 30 seconds.
//   - A request for messages (IWANT, some 40 bytes for each) queues them again:
//     only those of the last five seconds, and each at most three times per
//     peer.
//   - A subscription costs its topic and some 256 bytes while it lasts.
//     Subscriptions to topics that are not open here may take 8 MiB per peer
//     and 32 MiB in total, and in any case 64 KiB per peer: 26 000, 106 000 and
//     200 addresses of databases. Further ones are ignored: that peer receives
//     no messages of the topic until it subscribes again.
//   - A peer is told once of each followed topic that it subscribes to, in RPCs
//     of at most 60 KiB, and again only after the topic was left and followed
//     again. An RPC that it does not read within 30 seconds resets the stream.
//   - When a peer opens a stream, pubsub visits every topic that any peer
//     subscribed to. A peer may open 16 streams at once, and one a second
//     afterwards.
//   - A new peer receives the list of the public topics, and of the followed
//     topics that it is subscribed to.
package router
