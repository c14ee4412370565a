// Package inventory is the exchange between two daemons about all of their
// databases: which both have, which of those differ, and live changes.
package inventory

import (
	"context"
	"errors"
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

// State is a digest of the state of a replica. It is zero if the database is
// not here or its authorization is being decided; zero equals nothing.
type State [16]byte

// Catalog is the set of databases that are replicated here. Its methods are
// called concurrently, and must not call a [Session].
//
// A change of the catalog precedes the [Session.Add] or [Session.Remove] that
// tells of it, and State is at least as new as each [Session.Tell] before.
type Catalog interface {
	Len() int
	Keys() iter.Seq[Key]
	State(ctx context.Context, k Key) State // may read the disk
}

// Handler learns what the peer has. The calls of one session come one at a
// time, in order, and must return quickly. They may call the session.
//
// A call that begins before [Session.Remove] may end after it.
type Handler interface {
	// Common is called when both sides have a database.
	Common(k Key, theirs State)
	// Changed is called when the replica of the peer changed. The entries are
	// blocks, some of what is new; they may be shared with other calls.
	Changed(k Key, theirs State, entries []block.Block)
	// Gone is called when the peer has the database no longer.
	Gone(k Key)
}

// Config is what the sessions of a process share.
type Config struct {
	Catalog Catalog
	Handler Handler
	Passes  *Passes
}

// Bounds.
const (
	maxFrame   = 256 << 10 // bytes
	maxTags    = 2048      // in an offer
	maxMatches = 1024      // in a match
	maxStates  = 1024      // in a frame of states
	maxGone    = 1024      // channels in a frame
	maxEntries = 128       // in a change

	maxOpen    = 32768   // offers of a side that are not answered
	maxNumber  = 1 << 31 // offers of a side in a session
	maxPayload = maxFrame - 2048
	maxQueued  = 1 << 20 // bytes of entries that wait for the peer to read

	firstPasses = 8 // at once; afterwards one each passEvery
	passEvery   = time.Second
)

// Deadlines.
const (
	frameWithin  = time.Minute     // for the rest of a frame
	takenWithin  = time.Minute     // for the peer to receive a frame
	answerWithin = 2 * time.Minute // for progress of what the peer owes
)
