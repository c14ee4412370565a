// Package blocks keeps OrbitDB's blocks in a store, and shows them to the rest
// of IPFS.
//
// The entries of a log are kept one after the other, in the order in which they
// came. That is an order in which they can be sent and read again, parents
// first, and it makes each write an append: a datastore that sorts its keys has
// nothing to rearrange. A hash leads to an entry by way of its number:
//
//	log/<log>/entry/<number>   hash and bytes
//	block/<hash>               log and number of an entry, or the bytes of
//	                           any other block (manifest, list of writers,
//	                           identity)
//
// Each read checks the bytes against the hash.
//
// [Under] lays the blocks below a node's block store, so that bitswap serves
// them. They are not listed there: entries name each other by texts, so that no
// walk of a DAG would find them, and garbage collection would take them.
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

// ErrNotFound says that a block is not here.
var ErrNotFound = store.ErrNotFound

// ErrDamaged says that what is stored as a block is something else.
var ErrDamaged = errors.New("damaged block")

// Location is where an entry is kept.
type Location struct {
	Log    uint64 // number of the log, 1 or more
	Number uint64 // of the entry in it, in the order of arrival, 1 or more
}

// Getter reads keys of a store: a transaction, or a store outside of one
// ([Reading]).
type Getter interface {
	Get(key string) ([]byte, error)
}

// Reading reads what is committed.
func Reading(ctx context.Context, s *store.Store) Getter { return reading{ctx, s} }

type reading struct {
	ctx context.Context
	s   *store.Store
}

func (r reading) Get(key string) ([]byte, error) { return r.s.Get(r.ctx, key) }

// Entries is the series of a log's entries.
func Entries(log uint64) string { return LogPrefix(log) + "/entry" }

// LogPrefix is what the keys of a log begin with.
func LogPrefix(log uint64) string { return "log/" + strconv.FormatUint(log, 36) }

func blockKey(hash string) string { return "block/" + hash }

// Put stores a block that is no entry.
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

// PutLocation stores where an entry is kept.
func PutLocation(tx *store.Tx, at Location, hash string) error {
	return tx.Put(blockKey(hash), binary.AppendUvarint(binary.AppendUvarint(nil, at.Log), at.Number))
}

// DeleteLocation deletes where an entry is kept, unless that is in another log.
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

// Located yields the hashes of the entries that are said to be kept in a log,
// whether they are there or not. It reads all that is said of blocks.
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

// Delete deletes a block that is no entry.
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

// Locate returns where the entry with a hash is kept, [ErrNotFound], or
// [ErrDamaged].
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
	return Location{}, fmt.Errorf("%w: %s is no entry", ErrNotFound, hash)
}

func location(record []byte) (Location, bool) {
	log, n := binary.Uvarint(record)
	if n <= 0 || log == 0 {
		return Location{}, false
	}
	number, m := binary.Uvarint(record[n:])
	return Location{log, number}, m > 0 && n+m == len(record) && number > 0
}

// other returns the block that is no entry and has the record.
func other(hash string, record []byte) (block.Block, error) {
	if len(record) == 0 || record[0] != 0 {
		return block.Block{}, fmt.Errorf("%w: %s is neither a block nor a place", ErrDamaged, hash)
	}
	return checked(block.Block{Hash: hash, Data: record[1:]})
}

// Get returns the block with a hash, [ErrNotFound], or [ErrDamaged].
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

// Entry returns the block of the entry at a location, which has the hash, or
// [ErrDamaged], also where it is gone.
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

// DecodeEntry reads a record of the series [Entries]. Of one that is damaged
// ([ErrDamaged]) it returns the hash, if that can be read.
func DecodeEntry(record []byte) (block.Block, error) {
	if len(record) < block.HashLen || !block.ValidHash(string(record[:block.HashLen])) {
		return block.Block{}, fmt.Errorf("%w: no hash", ErrDamaged)
	}
	return checked(block.Block{Hash: string(record[:block.HashLen]), Data: record[block.HashLen:]})
}

// checked returns b, also where it is damaged.
func checked(b block.Block) (block.Block, error) {
	if b.Check() != nil {
		return b, fmt.Errorf("%w: %s", ErrDamaged, b.Hash)
	}
	return b, nil
}
