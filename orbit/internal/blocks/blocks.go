// Package blocks stores OrbitDB's blocks and serves them to the rest of IPFS.
//
// The entries of a log are stored in order of arrival. Parents precede their
// descendants in that order, so entries can be read and sent in it; and each
// write appends, so a datastore with sorted keys does not rearrange anything.
// The CID of an entry maps to its number in the log:
//
//	log/<log>/entry/<number>   CID and bytes
//	block/<CID>                log and number of an entry, or the bytes of
//	                           any other block (manifest, access list,
//	                           identity)
//
// Each read verifies the bytes against the CID.
//
// [Overlay] adds the blocks to a node's block store, so that bitswap serves
// them. The block store does not list them: entries name each other by text, so
// a walk of a DAG would not find them, and garbage collection would delete
// them.
package blocks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/store"
)

// ErrNotFound is returned for a block that is not stored.
var ErrNotFound = store.ErrNotFound

// ErrDamaged is returned where the stored bytes are not those of the block.
var ErrDamaged = errors.New("damaged block")

// Location is the position of an entry in the store.
type Location struct {
	Log    uint64 // number of the log, from 1
	Number uint64 // of the entry in its log, in order of arrival, from 1
}

// Getter reads keys of a store: a transaction, or the committed state
// ([Reading]).
type Getter interface {
	Get(key string) ([]byte, error)
}

// Reading returns a Getter of the committed state.
func Reading(ctx context.Context, s *store.Store) Getter { return reading{ctx, s} }

type reading struct {
	ctx context.Context
	s   *store.Store
}

func (r reading) Get(key string) ([]byte, error) { return r.s.Get(r.ctx, key) }

// Entries returns the name of the series of a log's entries.
func Entries(log uint64) string { return LogPrefix(log) + "/entry" }

// LogPrefix returns the prefix of all keys of a log.
func LogPrefix(log uint64) string { return "log/" + strconv.FormatUint(log, 36) }

func blockKey(hash string) string { return "block/" + hash }

// Put stores a block that is not an entry.
func Put(tx *store.Tx, b block.Block) error {
	return tx.Put(blockKey(b.Hash), append([]byte{0}, b.Data...))
}

// PutEntry stores the block of an entry.
func PutEntry(tx *store.Tx, at Location, b block.Block) error {
	if err := tx.Put(store.Key(Entries(at.Log), at.Number), append([]byte(b.Hash), b.Data...)); err != nil {
		return err
	}
	return PutLocation(tx, at, b.Hash)
}

// PutLocation stores the location of an entry.
func PutLocation(tx *store.Tx, at Location, hash string) error {
	return tx.Put(blockKey(hash), binary.AppendUvarint(binary.AppendUvarint(nil, at.Log), at.Number))
}

// DeleteLocation deletes the location of an entry, unless it is in another log.
func DeleteLocation(tx *store.Tx, log uint64, hash string) error {
	record, err := tx.Get(blockKey(hash))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if at, ok := location(record); err != nil || !ok || at.Log != log {
		return err
	}
	return tx.Delete(blockKey(hash))
}

// Located yields the CIDs of the entries whose location is in a log, whether or
// not the entries exist. It reads the records of all blocks.
func Located(ctx context.Context, s *store.Store, log uint64) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		prefix := blockKey("")
		for r, err := range s.Scan(ctx, strings.TrimSuffix(prefix, "/")) {
			if err != nil {
				yield("", err)
				return
			}
			if at, ok := location(r.Value); ok && at.Log == log && !yield(strings.TrimPrefix(r.Key, prefix), nil) {
				return
			}
		}
	}
}

// Delete deletes a block that is not an entry.
func Delete(tx *store.Tx, hash string) error {
	record, err := tx.Get(blockKey(hash))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if _, ok := location(record); err != nil || ok {
		return err
	}
	return tx.Delete(blockKey(hash))
}

// Locate returns the location of the entry with a CID. It returns [ErrNotFound]
// or [ErrDamaged] if there is none.
func Locate(g Getter, hash string) (Location, error) {
	record, err := g.Get(blockKey(hash))
	if err != nil {
		return Location{}, err
	}
	if at, ok := location(record); ok {
		return at, nil
	}
	if _, err := other(hash, record); err != nil {
		return Location{}, err
	}
	return Location{}, fmt.Errorf("%w: %s is not an entry", ErrNotFound, hash)
}

func location(record []byte) (Location, bool) {
	log, n := binary.Uvarint(record)
	if n <= 0 || log == 0 {
		return Location{}, false
	}
	number, m := binary.Uvarint(record[n:])
	return Location{log, number}, m > 0 && n+m == len(record) && number > 0
}

// other decodes the record of a block that is not an entry.
func other(hash string, record []byte) (block.Block, error) {
	if len(record) == 0 || record[0] != 0 {
		return block.Block{}, fmt.Errorf("%w: %s is neither a block nor a location", ErrDamaged, hash)
	}
	return checked(block.Block{Hash: hash, Data: record[1:]})
}

// Get returns the block with a CID, [ErrNotFound], or [ErrDamaged].
func Get(g Getter, hash string) (block.Block, error) {
	record, err := g.Get(blockKey(hash))
	if err != nil {
		return block.Block{}, err
	}
	if at, ok := location(record); ok {
		return Entry(g, at, hash)
	}
	return other(hash, record)
}

// Entry returns the block of the entry at a location. It returns [ErrDamaged]
// if that block has another CID or does not exist.
func Entry(g Getter, at Location, hash string) (block.Block, error) {
	var b block.Block
	record, err := g.Get(store.Key(Entries(at.Log), at.Number))
	if err == nil {
		b, err = DecodeEntry(record)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return block.Block{}, fmt.Errorf("%w: %s is gone", ErrDamaged, hash)
	case errors.Is(err, ErrDamaged) || err == nil && b.Hash != hash:
		return block.Block{}, fmt.Errorf("%w: %s", ErrDamaged, hash)
	}
	return b, err
}

// DecodeEntry decodes a record of the series [Entries]. For a damaged record it
// returns [ErrDamaged], and the CID if it can be read.
func DecodeEntry(record []byte) (block.Block, error) {
	if len(record) < block.HashLen || !block.ValidHash(string(record[:block.HashLen])) {
		return block.Block{}, fmt.Errorf("%w: no hash", ErrDamaged)
	}
	return checked(block.Block{Hash: string(record[:block.HashLen]), Data: record[block.HashLen:]})
}

// checked returns b and, if b is damaged, [ErrDamaged].
func checked(b block.Block) (block.Block, error) {
	if b.Check() != nil {
		return b, fmt.Errorf("%w: %s", ErrDamaged, b.Hash)
	}
	return b, nil
}
