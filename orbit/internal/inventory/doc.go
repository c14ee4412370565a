// Package inventory is the exchange between two daemons about all of their
// databases: which ones both have, which of those differ, and live changes.
//
// # Promise
//
// Both sides of a session know which databases both have, however and whenever
// each side adds and removes some. Of each, a side hears a [State] that is at
// least as new as the last [Session.Tell] of the other side.
//
// An address is the right to read. A peer that lacks a database learns nothing
// from which it could compute or confirm its address, and cannot make the other
// side believe that it has the database. It learns how many databases the other
// side claims, and how often. A peer that has a database learns whether the
// other side has it too.
//
// # Protocol
//
// The protocol ID is [Protocol]. There is one stream, on which both sides send
// frames. A frame is a dag-cbor list, preceded by its length as a varint. The
// first item is the kind of frame:
//
//	0, nonce, size      hello, the first frame of each side: 16 random bytes,
//	                    and the number of binary digits of the number of its
//	                    databases
//	1, tags             claims databases. The claims of each side are numbered
//	                    from 0, in their order
//	2, number, matches  answers the claims of the peer below a number. A match
//	                    is two items: the number of a claim, and the sender's
//	                    tag of the same database followed by its state. The
//	                    sender lacks those that are not listed
//	3, number, states   confirms the matches of the peer below a number. A
//	                    state is two items: the number of a claim, and the
//	                    sender's state. The sender's states of those that are
//	                    not listed are equal to those in the matches
//	4, channel, state, entries
//	                    tells a new state, and some of the entries that are
//	                    new. An entry is the whole block
//	5, channels         ends channels: the sender has the databases no longer
//	6, channels         asks for states, which the receiver tells
//
// A frame has at most 256 KiB, 2048 tags, 1024 matches, states or channels, and
// 128 entries. Numbers ascend within a frame, and are at most 2³¹. Frames of
// other kinds are skipped, so a later version can add some.
//
// The key of a session is the SHA-256 of the text "npp inventory 1.0.0" and, for
// the side with the lower peer ID and then for the other, of the length of its
// ID as a varint, its ID and its nonce. A tag is the first half of the
// HMAC-SHA-256 with that key of a byte and the [Key] of the database. The byte
// is 0 in tags that the side with the lower ID sends, and 1 in those of the
// other. A side never receives a tag that it must send, and both nonces are new
// in each session. So tags that are reflected, or replayed from another session
// or another pair of peers, prove nothing. The claimant checks the tag of each
// match; a wrong one ends the session.
//
// After the hellos, the side with the smaller size claims all of its databases;
// if the sizes are equal, the side with the lower ID. The other side computes
// the tags of its own databases in one pass over its catalog. Later, a side
// claims what it adds. So the cost on the wire depends on the smaller side.
//
// A matched claim is a channel, which stands for the database from then on. It
// is written as twice the number of the claim, plus one if the receiver of the
// frame made the claim. If the claims of both sides crossed, a database has two
// channels. It is common until both end. The match of a later claim of the same
// side replaces the channel. A frame of a channel that has ended is ignored,
// because the frames of both sides cross. If a database was removed after its
// claim, the claimant ends the channel when the match arrives. The end of a
// channel precedes a claim of the same database.
//
// A side reads its states after it opens the channels and before it sends them,
// and sends later changes after them. Therefore no change is lost between.
//
// # Trust
//
// The states of a peer are its statements. Entries are blocks whose hash was
// computed here; the caller joins them to a log, which verifies them.
//
// # Cost
//
// 10,000 databases in common of which 100 differ take 520 KiB on the wire in
// both directions together; 3 of one side and 100,000 of the other take less
// than 300 bytes. Without changes, a session sends nothing.
//
// A session has two goroutines, and a third one during passes. It holds
//
//   - 150 bytes for each database that both have, and 24 more until its match is
//     confirmed;
//   - 5 KiB of buffers, and while a frame arrives, at most 256 KiB;
//   - 32 bytes for each database that it claims until that is answered, and for
//     each database that is removed meanwhile;
//   - at most 32,768 claims of the peer that are not answered, 16 bytes each
//     before the pass and 40 afterwards. More of them end the session;
//   - if the peer reads slowly, the last state of each common database, 20 bytes
//     for each for which it asked, and at most 1 MiB of entries. Beyond that, states are told without entries. It
//     never makes [Session.Tell] wait.
//
// A pass computes one HMAC for each database of the catalog; 100,000 take 26 ms.
// It answers all claims that arrived before it. A session makes at most 8 passes
// at once and then one a second. [Passes] lets those of all sessions run one at
// a time and at most half of the time. For each match, the state is read and two
// HMACs are computed; for each entry, one SHA-256.
//
// A peer must take each frame and send the rest of each frame within a minute,
// and make progress within two minutes with what it owes: its hello, answers to
// claims, and confirmations of matches. Otherwise the session ends with
// [ErrSilent].
//
// The caller bounds how many sessions a peer opens, and how often.
package inventory

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/orbit/block"
)

// Protocol is the protocol ID.
const Protocol protocol.ID = "/npp/orbitdb/inventory/1.0.0"

// ErrProtocol means that a peer sent something that the protocol does not
// allow.
var ErrProtocol = errors.New("peer violates the protocol")

// ErrUnsupported means that a peer does not speak the protocol.
var ErrUnsupported = errors.New("peer does not speak the protocol")

// ErrSilent means that a peer owed a frame, or the rest of one, for too long.
var ErrSilent = errors.New("peer is silent")

// Key identifies a database. It is the SHA-256 in the CID of the manifest,
// which is as secret as the address.
type Key [32]byte

// Compare orders keys, as [cmp.Compare] does.
func (k Key) Compare(other Key) int { return bytes.Compare(k[:], other[:]) }

// State is a digest of the state of a replica. It is zero if the database is
// not here or its authorization is being decided; zero equals nothing.
type State [16]byte

// Catalog is the set of databases that are replicated here. Its methods are
// called concurrently. A session holds no lock meanwhile, so the caller may hold
// locks of the catalog while it calls a session.
//
// The catalog changes before [Session.Add] or [Session.Remove] tells of it, and
// State is at least as new as each earlier [Session.Tell].
type Catalog interface {
	Len() int
	// Keys yields each key once. Databases that are added or removed meanwhile
	// may be yielded or not.
	Keys() iter.Seq[Key]
	// State may read the disk.
	State(ctx context.Context, k Key) State
}

// Handler learns what the peer has. The calls of one session come one at a
// time, in order, and must return quickly. They may call the session.
//
// Nothing is called for what [Session.Remove] removes. A call that began before
// may end after it.
type Handler interface {
	// Common is called when both sides have a database.
	Common(k Key, theirs State)
	// Changed is called when the peer told the state of its replica again,
	// because it changed or because this side asked. The entries are blocks,
	// some of what is new; they may be shared with other calls.
	Changed(k Key, theirs State, entries []block.Block)
	// Gone is called when the peer has the database no longer.
	Gone(k Key)
}

// Config is what the sessions of a process share.
type Config struct {
	Catalog Catalog
	Handler Handler
	Passes  *Passes
	// Rand is the source of nonces, which never fails. Default: crypto/rand.
	Rand io.Reader
}

// Bounds of frames.
const (
	maxFrame    = 256 << 10     // bytes
	maxPayload  = maxFrame - 64 // bytes of the entries in a change, with their heads
	maxTags     = 2048
	maxMatches  = 1024
	maxStates   = 1024
	maxChannels = 1024 // channels
	maxEntries  = 128
)

// Bounds of a session.
const (
	maxNumber   = 1 << 31 // claims of a side
	maxOpen     = 1 << 15 // claims of a side that are not answered
	maxQueued   = 1 << 20 // bytes of entries that wait until the peer reads
	firstPasses = 8       // at once; then one each passEvery
	passEvery   = time.Second
)

// Deadlines.
const (
	frameWithin  = time.Minute     // for the rest of a frame
	takenWithin  = time.Minute     // for the peer to receive a frame
	answerWithin = 2 * time.Minute // for progress of what the peer owes
)
