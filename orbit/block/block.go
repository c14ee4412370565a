// Package block defines OrbitDB's blocks: dag-cbor bytes, identified by their
// SHA-256.
//
// A hash is the text of a CIDv1 with the codec dag-cbor in base58btc ("zdpu…",
// 49 characters). OrbitDB's blocks name each other by such texts instead of
// CBOR links, and compare them as texts. Another text of the same CID is
// therefore a different hash, and [ParseHash] rejects it.
//
// # Cost
//
// A block from a peer has at most [MaxSize] bytes; the reader of the block
// enforces this. [Hash] and [Block.Check] compute one SHA-256 of it and copy
// nothing. A text whose length is not [HashLen] is rejected without decoding.
package block

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"
	"github.com/multiformats/go-multihash"
)

// MaxSize is the size of the largest block that is read, in bytes. Bitswap
// transfers no larger one.
const MaxSize = 2 << 20

// HashLen is the length of a hash, in characters.
const HashLen = 49

// ErrInvalidHash is returned for a text that is not the hash of an OrbitDB
// block.
var ErrInvalidHash = errors.New("invalid hash")

// ErrMismatch is returned for a block whose bytes do not match its hash.
var ErrMismatch = errors.New("bytes do not match the hash")

// Block is a block's bytes and their hash.
type Block struct {
	Hash string
	Data []byte
}

// New returns the block of data.
func New(data []byte) Block { return Block{Hash(data), data} }

// Hash returns the hash of data.
func Hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hashOf(sum[:])
}

func hashOf(sum []byte) string {
	return text(append([]byte{multihash.SHA2_256, sha256.Size}, sum...))
}

// HashOf returns the hash for a CID of any version and codec, if its multihash
// is SHA-256. Block stores compare multihashes alone.
func HashOf(c cid.Cid) (string, bool) {
	mh := c.Hash()
	if len(mh) != 2+sha256.Size || mh[0] != multihash.SHA2_256 {
		return "", false
	}
	return text(mh), true
}

// Digest returns the SHA-256 that a hash contains.
func Digest(hash string) (digest [sha256.Size]byte, err error) {
	c, err := ParseHash(hash)
	if err == nil {
		copy(digest[:], c.Hash()[2:])
	}
	return digest, err
}

// OfDigest returns the hash that contains a SHA-256.
func OfDigest(digest [sha256.Size]byte) string { return hashOf(digest[:]) }

// The smallest and the largest hash. The digits of base58 are in ASCII order,
// so texts of equal length compare as their numbers do.
var (
	firstHash = hashOf(make([]byte, sha256.Size))
	lastHash  = hashOf(bytes.Repeat([]byte{0xff}, sha256.Size))
)

// ValidHash reports whether a text is a hash.
func ValidHash(text string) bool {
	if len(text) != HashLen || text < firstHash || text > lastHash {
		return false
	}
	for i := range len(text) {
		if !digit[text[i]] {
			return false
		}
	}
	return true
}

const digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// digit reports which bytes are digits of base58.
var digit = func() (is [256]bool) {
	for _, c := range []byte(digits) {
		is[c] = true
	}
	return is
}()

// ParseHash returns the CID of a hash.
func ParseHash(hash string) (cid.Cid, error) {
	if !ValidHash(hash) {
		return cid.Undef, fmt.Errorf("%w: %.80q", ErrInvalidHash, hash)
	}
	return cid.Decode(hash)
}

// Check returns [ErrMismatch] unless the block's data has its hash.
func (b Block) Check() error {
	if Hash(b.Data) != b.Hash {
		return fmt.Errorf("block %s: %w", b.Hash, ErrMismatch)
	}
	return nil
}

// IPFS returns the block in the form that IPFS libraries use.
func (b Block) IPFS() (blocks.Block, error) {
	c, err := ParseHash(b.Hash)
	if err != nil {
		return nil, err
	}
	return blocks.NewBlockWithCid(b.Data, c)
}

func text(mh multihash.Multihash) string {
	s, err := cid.NewCidV1(cid.DagCBOR, mh).StringOfBase(multibase.Base58BTC)
	if err != nil {
		panic(fmt.Sprintf("block: %v", err)) // base58btc exists
	}
	return s
}
