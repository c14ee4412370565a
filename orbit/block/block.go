// Package block is OrbitDB's blocks: dag-cbor, named by the SHA-256 of their
// bytes.
//
// A hash is always the text of a CIDv1 with the codec dag-cbor in base58btc
// ("zdpu…", 49 characters). OrbitDB's blocks name each other by such texts, not
// by CBOR links, and compare them as texts, so another text of the same CID is
// another hash: [ParseHash] takes none but this one.
//
// # Cost
//
// A block of another peer has at most [MaxSize] bytes, which who reads it checks.
// [Hash] and [Block.Check] take one SHA-256 of it and copy nothing. A text of another
// length than [HashLen] is no hash and is not decoded.
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

// MaxSize is the largest block that is read, in bytes: the most that bitswap
// transfers.
const MaxSize = 2 << 20

// HashLen is the length of every hash.
const HashLen = 49

// ErrInvalidHash says that a text is no hash of an OrbitDB block.
var ErrInvalidHash = errors.New("invalid hash")

// ErrMismatch says that a block's bytes do not have its hash.
var ErrMismatch = errors.New("bytes do not have the hash")

// Block is the bytes of a block and their hash.
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

// HashOf returns the hash of a CID, whatever its version and codec, if its
// multihash is SHA-256: block stores go by the multihash alone.
func HashOf(c cid.Cid) (string, bool) {
	mh := c.Hash()
	if len(mh) != 2+sha256.Size || mh[0] != multihash.SHA2_256 {
		return "", false
	}
	return text(mh), true
}

// Digest returns the SHA-256 that a hash is the text of.
func Digest(hash string) (digest [sha256.Size]byte, err error) {
	c, err := ParseHash(hash)
	if err == nil {
		copy(digest[:], c.Hash()[2:])
	}
	return digest, err
}

// OfDigest returns the hash that is the text of a SHA-256.
func OfDigest(digest [sha256.Size]byte) string { return hashOf(digest[:]) }

// The smallest and the largest hash. The digits of base58 are in the order of
// their characters, so texts of one length compare as their numbers do.
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

// digit tells the digits of base58.
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

// IPFS returns the block as the rest of IPFS knows it.
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
