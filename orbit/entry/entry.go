// Package entry is the entries of OrbitDB's oplog in the format of
// @orbitdb/core 1 to 4: how they are encoded, signed, named and ordered, and
// which of them count.
//
// # Format
//
// An entry is a dag-cbor block of
//
//	v         2
//	id        the log's ID: the address of the database
//	key       the writer's signing public key, hex
//	sig       its signature, hex
//	next      hashes of the log's heads when it was written, newest first
//	          (the newest 512 of them)
//	refs      hashes of up to 16 entries before those, newest first
//	clock     { id: key, time: 1 + the largest time of the heads }
//	payload   the operation: any value
//	identity  hash of the writer's identity block
//
// What is signed is the encoding of the entry without key, sig and identity.
// JavaScript verifies the signature of a re-encoding of what it decoded, so the
// same entry, differently encoded or with fields added, has a signature that
// holds and another hash.
//
// # What counts
//
// There are three classes of blocks:
//
//   - One that JavaScript cannot have in a log either is [ErrMalformed]: it is
//     no dag-cbor, lacks a field, or has an id that is no text, a payload that
//     is no value, or a next or refs that is no list of hashes. It is never
//     part of a log. A block of one byte string is what JavaScript makes of an
//     entry with encryption.replication, and is [ErrEncrypted]: it shows neither
//     its signature nor its parents. Anybody can make such a block.
//   - One that JavaScript may have in a log, and that must not count, has a
//     fault ([Entry.Check]). Honest entries may have been written on top of it,
//     so it stays in the graph, but has no effect. Its faults are:
//     an encoding that is not canonical, a field that is not signed, a key, sig
//     or identity of another form (anybody could make such copies of honest
//     entries); a version other than 2; a key that is not its identity's
//     (anybody could claim any identity); a clock whose id is not the key, or
//     whose time is no number, a negative one, or a BigInt; an empty text or
//     empty bytes as next or refs; items nested deeper than values are.
//   - All others count, if the access controller lets their writer write.
//
// Any other time counts, as in JavaScript, whose numbers are floats: a large
// one, for its writer was allowed to write, and one with a fraction. An honest
// writer may well have one: it goes on from the largest that it knows, and
// JavaScript knows those of entries which count nowhere else.
//
// # Order
//
// Entries are ordered by time, then the text of the clock's id, then their
// hash. JavaScript has the first two, and leaves the order of entries that
// agree in both, from two devices with one key, to chance.
//
// Clocks rise from an entry to those on top of it, but where a writer is not
// honest or time stands still, which it does at 2⁵³, where a float no longer
// changes by one. JavaScript goes from the heads down, and so has what is on
// top as the newer one all the same. Here such an entry has the [Rank] of what
// it is on top of, and a depth that counts on from there.
//
// # Cost
//
// A block of another peer has at most [block.MaxSize] bytes; a larger one is malformed
// and not read. [Decode] takes time in proportion to the size, and that of a value for
// the payload (see package value), and encodes the entry once more to compare the two.
// The entry holds its block and a copy of each field. next and refs name some 40 000
// hashes in a block of the largest size: what is done for each parent is for the
// package oplog to bound. [Entry.Check] encodes the entry once more, hashes that, and
// verifies one signature, which is the only one of an entry. [Split] hashes each block
// once, and holds no copy. Nothing is written to disk.
package entry

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/probe"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/orbit/value/dagcbor"
)

// Version is the version of the format.
const Version = 2

// MaxRefs is how many references an entry has at most.
const MaxRefs = 16

// MaxNext is how many heads an entry names at most. JavaScript names all; but
// a log that anybody may write can be given so many that no entry could.
const MaxNext = 512

// MaxSize is the largest entry that is written, in bytes of its block.
// JavaScript peers are sent an entry as a message of gossipsub, which carries
// no more than a mebibyte with all that is around it.
const MaxSize = 1<<20 - 4<<10

var (
	// ErrMalformed says that a block is no entry.
	ErrMalformed = errors.New("malformed entry")
	// ErrEncrypted says that a block may be an entry that only the holders of a
	// key can read. It is [ErrMalformed] as well.
	ErrEncrypted = fmt.Errorf("%w: it is encrypted as a whole (encryption.replication)", ErrMalformed)
	// ErrFault says that an entry has no effect, whoever wrote it.
	ErrFault = errors.New("entry has no effect")
	// ErrTooLarge says that an entry would have more than [MaxSize] bytes.
	ErrTooLarge = errors.New("entry is too large")
)

// Clock is a Lamport clock.
type Clock struct {
	ID   string  // key of the writer
	Time float64 // 0 or more; 1 in the first entry of a log
}

// Rank is what decides first in the order of a log. It is larger than that of
// all that an entry is on top of.
type Rank struct {
	Time  float64 // of the clock, or a larger one of what the entry is on top of
	Depth uint64  // how many entries with this time it is on top of
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

// Compare returns -1 where p is older than q, 0 where they are the same, 1
// where p is newer.
func (p Position) Compare(q Position) int {
	return cmp.Or(
		p.Rank.Compare(q.Rank),
		strings.Compare(p.ID, q.ID),
		strings.Compare(p.Hash, q.Hash),
	)
}

// Entry is a decoded entry. It must not be changed. One that has a fault may
// lack what follows Refs.
type Entry struct {
	Block    block.Block
	LogID    string
	Next     []string
	Refs     []string
	Key      string
	Sig      string
	Clock    Clock
	Payload  value.Value
	Identity string // hash of the identity's block

	fault string // why it does not count, whoever wrote it
}

// Hash returns the hash of the entry.
func (e *Entry) Hash() string { return e.Block.Hash }

// Rank returns the entry's rank, on top of entries with these.
func (e *Entry) Rank(below ...Rank) Rank {
	r := Rank{Time: e.Clock.Time}
	for _, b := range below {
		if r.Compare(b) <= 0 {
			r = Rank{b.Time, b.Depth + 1}
		}
	}
	return r
}

// Position returns the place of the entry in the order of its log, where it has
// a rank.
func (e *Entry) Position(r Rank) Position { return Position{r, e.Clock.ID, e.Block.Hash} }

// Parents returns the hashes that must be known before the entry is part of a
// log: next, then refs.
func (e *Entry) Parents() []string { return slices.Concat(e.Next, e.Refs) }

// New makes and signs an entry. heads are the positions of the log's heads,
// newest first.
func New(
	s *identity.Signer, logID string, payload value.Value, heads []Position, refs []string,
) (*Entry, error) {
	if payload == nil {
		return nil, fmt.Errorf("%w: it has no payload", ErrMalformed)
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
		return nil, fmt.Errorf("%w: %d bytes, at most %d, of which the value may have some %d",
			ErrTooLarge, len(data), MaxSize, MaxSize-len(data)+len(payload))
	}
	e.Block = block.New(data)
	return e, nil
}

// Decode reads an entry from its block. The block's hash is taken for granted.
// Its error wraps [ErrMalformed], and [ErrEncrypted] where that may be why.
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

// Check returns nil if the entry counts provided that its identity may write,
// and otherwise an error that wraps [ErrFault] and says why not. i is the
// identity that the entry names, or nil if it names none.
func (e *Entry) Check(i *identity.Identity) error {
	fault := e.fault
	switch {
	case fault != "":
	case i == nil || i.Hash() != e.Identity || i.PublicKey != e.Key:
		fault = "its key is not that of its identity"
	case e.Clock.ID != e.Key:
		fault = "its clock is not that of its key"
	default:
		if err := i.Verify(e.signed(), e.Sig); err != nil {
			fault = err.Error()
		}
	}
	if fault != "" {
		return fmt.Errorf("%w: %s: %s", ErrFault, e.Block.Hash, fault)
	}
	return nil
}

// signed returns what the signature is of.
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
	b, _ = dagcbor.AppendFloat(b, e.Clock.Time) // which is a number
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
