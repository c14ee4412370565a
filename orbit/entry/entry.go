// Package entry implements the entries of OrbitDB's oplog in the format of
// @orbitdb/core 1 to 4: their encoding, signatures, validity and order.
//
// # Format
//
// An entry is a dag-cbor block of
//
//	v         2
//	id        the log's ID: the address of the database
//	key       the writer's signing public key, hex
//	sig       the signature, hex
//	next      CIDs of the log's heads at the time of writing, newest first
//	          (the newest 512 of them)
//	refs      CIDs of up to 16 older entries, newest first
//	clock     { id: key, time: 1 + the largest time of the heads }
//	payload   the operation: any value
//	identity  CID of the writer's identity block
//
// The signature covers the encoding of the entry without key, sig and identity.
// JavaScript verifies it against its own encoding of the decoded entry. The
// same entry in another encoding, or with additional fields, therefore has a
// valid signature and another CID.
//
// # Validity
//
// There are three classes of blocks:
//
//   - Malformed blocks ([ErrMalformed]) cannot be part of a log in JavaScript
//     either: they are not dag-cbor, lack a field, or have an id that is not a
//     text, a payload that is not a value, or a next or refs that is not a list
//     of CIDs. They are never part of a log. A block that is one byte string
//     ([ErrEncrypted]) is what JavaScript makes of an entry with
//     encryption.replication. It shows neither signature nor parents, and
//     anybody can make such a block.
//   - Invalid entries ([Entry.Check]) may be part of a log in JavaScript, but
//     must not be authorized. Valid entries may descend from them, so they stay
//     in the graph. An entry is invalid if its encoding is not canonical, it
//     has a field that is not signed, or its key, sig or identity has another
//     form (anybody could make such copies of valid entries); if its version is
//     not 2; if its key is not the key of its identity (anybody could claim any
//     identity); if the id of its clock is not the key, or the time of its
//     clock is not a number, negative, or a BigInt; if next or refs is an empty
//     text or empty bytes; or if an item is nested deeper than a value may be.
//   - All other entries are valid. The access controller decides whether they
//     are authorized.
//
// Any other time is valid, as in JavaScript, whose numbers are floats. This
// includes large times, since the writer was allowed to write, and times with a
// fraction. An honest writer may have such a time: it continues from the
// largest time that it knows, and JavaScript also knows the times of entries
// that are valid nowhere else.
//
// # Order
//
// Entries are ordered by time, then by the text of the clock's id, then by CID.
// JavaScript compares the first two only. The order of entries that are equal
// in both, from two devices with one key, is undefined there.
//
// Times rise from an entry to its descendants, unless a writer is dishonest or
// the time has reached 2⁵³, where a float no longer changes by one. JavaScript
// traverses the log from the heads, so it treats a descendant as newer even
// then. Here such an entry has the time of its latest ancestor as its [Rank],
// with a depth that continues from it.
//
// # Cost
//
// A block from a peer has at most [block.MaxSize] bytes; a larger one is
// malformed and not read. [Decode] takes time proportional to the size, plus
// that of a value for the payload (see package value), and encodes the entry
// once more for comparison. The entry holds its block and a copy of each field.
// A block of the largest size names about 40 000 CIDs in next and refs; package
// oplog bounds the work for each parent. [Entry.Check] encodes the entry once
// more, hashes that encoding, and verifies one signature, the only one of an
// entry. [Split] hashes each block once and holds no copy. Nothing is written
// to disk.
package entry

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/probe"
	"github.com/newpieceplease/npp/orbit/value"
)

// Version is the supported version of the format.
const Version = 2

// MaxRefs is the maximum number of refs in an entry.
const MaxRefs = 16

// MaxNext is the maximum number of heads that an entry names. JavaScript names
// all heads, but anybody can give a log with open access more heads than an
// entry can name.
const MaxNext = 512

// MaxSize is the size of the largest entry that is written, in bytes of its
// block. JavaScript peers receive entries as gossipsub messages, which carry at
// most a mebibyte including their envelope.
const MaxSize = 1<<20 - 4<<10

var (
	// ErrMalformed is returned for a block that is not an entry.
	ErrMalformed = errors.New("malformed entry")
	// ErrEncrypted is returned for a block that may be an entry which only
	// the holders of a key can read. It wraps [ErrMalformed].
	ErrEncrypted = fmt.Errorf("%w: it is encrypted as a whole (encryption.replication)", ErrMalformed)
	// ErrInvalid is returned for an invalid entry.
	ErrInvalid = errors.New("invalid entry")
	// ErrTooLarge is returned for an entry that would exceed [MaxSize].
	ErrTooLarge = errors.New("entry is too large")
)

// Clock is a Lamport clock.
type Clock struct {
	ID   string  // key of the writer
	Time float64 // 0 or more; 1 in the first entry of a log
}

// Rank is the part of a position that rises from ancestors to descendants. It
// is compared first.
type Rank struct {
	Time  float64 // of the entry's clock, or a larger one of an ancestor
	Depth uint64  // length of the longest chain of ancestors with this time
}

// Compare returns -1, 0 or 1.
func (r Rank) Compare(q Rank) int {
	return cmp.Or(cmp.Compare(r.Time, q.Time), cmp.Compare(r.Depth, q.Depth))
}

// Position is the place of an entry in the order of its log.
type Position struct {
	Rank
	ID   string // of the clock
	Hash string
}

// Compare returns -1 if p is older than q, 0 if they are equal, and 1 if p is
// newer.
func (p Position) Compare(q Position) int {
	return cmp.Or(
		p.Rank.Compare(q.Rank),
		strings.Compare(p.ID, q.ID),
		strings.Compare(p.Hash, q.Hash),
	)
}

// Entry is a decoded entry. It must not be modified. An invalid entry may lack
// the fields after Refs.
type Entry struct {
	Block    block.Block
	LogID    string
	Next     []string
	Refs     []string
	Key      string
	Sig      string
	Clock    Clock
	Payload  value.Value
	Identity string // CID of the identity's block

	invalid string // why the entry is invalid, if its encoding shows it
}

// Hash returns the CID of the entry.
func (e *Entry) Hash() string { return e.Block.Hash }

// Rank returns the rank of an entry whose parents have the given ranks.
func (e *Entry) Rank(parents ...Rank) Rank {
	r := Rank{Time: e.Clock.Time}
	for _, p := range parents {
		if r.Compare(p) <= 0 {
			r = Rank{p.Time, p.Depth + 1}
		}
	}
	return r
}

// Position returns the position of an entry with a rank.
func (e *Entry) Position(r Rank) Position { return Position{r, e.Clock.ID, e.Block.Hash} }

// Parents returns the CIDs of the entry's parents: next, then refs.
func (e *Entry) Parents() []string { return slices.Concat(e.Next, e.Refs) }

// New returns a signed entry. heads are the positions of the log's heads,
// newest first. New returns [ErrTooLarge] if the entry exceeds [MaxSize].
func New(
	s *identity.Signer, logID string, payload value.Value, heads []Position, refs []string,
) (*Entry, error) {
	if payload == nil {
		return nil, fmt.Errorf("%w: no payload", ErrMalformed)
	}
	heads = heads[:min(len(heads), MaxNext)]
	e := &Entry{
		LogID:    logID,
		Key:      s.PublicKey,
		Next:     make([]string, len(heads)),
		Refs:     refs,
		Clock:    Clock{ID: s.PublicKey, Time: 1},
		Payload:  payload,
		Identity: s.Hash(),
	}
	for i, h := range heads {
		e.Next[i] = h.Hash
		e.Clock.Time = max(e.Clock.Time, h.Time+1)
	}
	var err error
	if e.Sig, err = s.Sign(e.signed()); err != nil {
		return nil, err
	}
	data := e.encode()
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d, of which the value may have about %d",
			ErrTooLarge, len(data), MaxSize, MaxSize-len(data)+len(payload))
	}
	e.Block = block.New(data)
	return e, nil
}

// Decode decodes the entry of a block. It does not verify the block's hash. Its
// error wraps [ErrMalformed], and also [ErrEncrypted] if the entry may be
// encrypted.
func Decode(b block.Block) (*Entry, error) {
	probe.Decoded(b.Hash)
	e := &Entry{Block: b}
	if err := e.decode(); err != nil {
		if isByteString(b.Data) {
			return nil, fmt.Errorf("%w: %s", ErrEncrypted, b.Hash)
		}
		return nil, fmt.Errorf("%w %s: %v", ErrMalformed, b.Hash, err)
	}
	return e, nil
}

// Check returns nil if the entry is valid, and otherwise an error that wraps
// [ErrInvalid] and states the reason. i is the identity that the entry names,
// or nil if it names none.
func (e *Entry) Check(i *identity.Identity) error {
	reason := e.invalid
	switch {
	case reason != "":
	case i == nil || i.Hash() != e.Identity || i.PublicKey != e.Key:
		reason = "its key is not that of its identity"
	case e.Clock.ID != e.Key:
		reason = "its clock is not that of its key"
	default:
		if err := i.Verify(e.signed(), e.Sig); err != nil {
			reason = err.Error()
		}
	}
	if reason != "" {
		return fmt.Errorf("%w: %s: %s", ErrInvalid, e.Block.Hash, reason)
	}
	return nil
}

// signed returns the bytes that the signature covers.
func (e *Entry) signed() []byte {
	b := make([]byte, 0, e.sizeHint())
	b = dagcbor.AppendMap(b, 6)
	b = e.appendVersionAndID(b)
	b = e.appendLinksAndClock(b)
	return e.appendPayload(b)
}

func (e *Entry) encode() []byte {
	b := make([]byte, 0, e.sizeHint()+400)
	b = dagcbor.AppendMap(b, 9)
	b = e.appendVersionAndID(b)
	b = appendField(b, "key", e.Key)
	b = appendField(b, "sig", e.Sig)
	b = e.appendLinksAndClock(b)
	b = e.appendPayload(b)
	return appendField(b, "identity", e.Identity)
}

func (e *Entry) sizeHint() int {
	return 256 + (block.HashLen+2)*(len(e.Next)+len(e.Refs)) + len(e.Payload)
}

func (e *Entry) appendVersionAndID(b []byte) []byte {
	b = dagcbor.AppendText(b, "v")
	b = dagcbor.AppendUint(b, Version)
	return appendField(b, "id", e.LogID)
}

func (e *Entry) appendLinksAndClock(b []byte) []byte {
	b = dagcbor.AppendText(b, "next")
	b = appendHashes(b, e.Next)
	b = dagcbor.AppendText(b, "refs")
	b = appendHashes(b, e.Refs)
	b = dagcbor.AppendText(b, "clock")
	b = dagcbor.AppendMap(b, 2)
	b = appendField(b, "id", e.Clock.ID)
	b = dagcbor.AppendText(b, "time")
	b, _ = dagcbor.AppendFloat(b, e.Clock.Time) // it is finite
	return b
}

func (e *Entry) appendPayload(b []byte) []byte {
	b = dagcbor.AppendText(b, "payload")
	return append(b, e.Payload...)
}

func appendField(b []byte, name, text string) []byte {
	return dagcbor.AppendText(dagcbor.AppendText(b, name), text)
}

func appendHashes(b []byte, hashes []string) []byte {
	b = dagcbor.AppendArray(b, len(hashes))
	for _, h := range hashes {
		b = dagcbor.AppendText(b, h)
	}
	return b
}
