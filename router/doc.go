// Package router is the daemon's one pubsub router: gossipsub as kubo sets it up, with
// queues that hold a burst, rules of its own for npp's topics, bounds on what peers
// cost, and counts of what it drops.
//
// # Validation
//
// Stock kubo (0.40 and later) runs every message of every topic through one validator,
// which remembers the highest sequence number of each author and ignores lower ones.
// Validation is concurrent, so in a burst a later message overtakes an earlier one, and
// the earlier one is lost without a trace. IPNS, for which the rule was made, does not
// mind; people who talk to each other do. Therefore npp's topics follow rules of their
// own:
//
//   - A topic that is subscribed to or published to through this package: a message
//     is valid if the subscriber accepts it ([AcceptFunc]), whatever the order of the
//     sequence numbers. Authors that choose them at random are heard.
//   - A topic that is followed ([Router.Follow]): a message is passed on to others once
//     the follower has taken it, which may take a while.
//   - Every other topic, those of `ipfs pubsub sub` included: kubo's rule with kubo's
//     records, so that `ipfs pubsub reset` works on them.
//
// The rest is gossipsub's and the operator's configuration.
//
// # What peers cost
//
// Each input of a peer, and its cost in time and memory. Nothing of it is written to
// disk here, but for kubo's record of each author on topics that are not npp's.
//
//   - An RPC has at most 1 MiB, of which subscriptions and control messages have at
//     most 512 KiB (gossipsub's limits). 32 RPCs of all peers await their turn, and one
//     of each peer is being read.
//   - A message costs a look-up of its ID, and a check of its signature, which takes time
//     in proportion to its size, one message after the other. Until then, at most
//     [Limits].PeerBytes of one peer's messages and AllBytes of all are held; others are
//     dropped and counted. A message of a topic that is not subscribed to costs neither.
//     Gossipsub remembers the ID of a message for two minutes, and a valid message for
//     five seconds.
//   - A message is queued for each peer that it is passed on to. A peer that does not
//     read has at most PeerBytes queued, all peers have AllBytes, with a message that
//     is queued for several counted once. Beyond that the stream of a peer is reset; see
//     [Drops].Streams. One message for each peer is held in a buffer of its own while it
//     is being written, for at most 30 seconds.
//   - A request for messages (IWANT, some 40 bytes for each) has them queued again: of
//     the last five seconds, each three times for a peer at most.
//   - A subscription costs its topic and some 256 bytes for as long as it lasts. Of
//     topics that are not open here, a peer has at most 4 MiB, all peers have 32 MiB, and
//     each has 64 KiB in any case. Others are ignored: that peer is not sent messages of
//     the topic until it subscribes again.
//   - A stream that a peer opens makes pubsub look at every topic that it knows of any
//     peer. A peer opens at most 16 at once, and one a second later on.
//   - A connection is greeted with the topics that are subscribed to: at most TopicBytes.
//     That is less than what stock peers accept, which discard the streams of a peer with
//     more topics and do not hear it any more. Therefore no more topics are opened
//     ([TopicLimitError]).
package router
