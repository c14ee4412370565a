package piece

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"
	"github.com/multiformats/go-multihash"
)

// Decode returns the CID that a hash is, which has at most [MaxHash] bytes.
func Decode(hash string) (cid.Cid, error) {
	if len(hash) > MaxHash { // decoding base58 and base36 takes the square of the length
		return cid.Undef, fmt.Errorf("a hash of %d bytes, at most %d", len(hash), MaxHash)
	}
	return cid.Decode(hash)
}

// Canonical returns the one text for all the ways to write a hash: the CID of
// version 1 in base32, or the hash itself where it is no CID.
func Canonical(hash string) string {
	c, err := Decode(hash)
	if err != nil {
		return hash
	}
	return CanonicalCID(c)
}

// CanonicalCID is [Canonical] of a CID.
func CanonicalCID(c cid.Cid) string { return cid.NewCidV1(c.Type(), c.Hash()).String() }

// Versions returns a CID in each version that there is of it.
func Versions(c cid.Cid) []cid.Cid {
	all := []cid.Cid{cid.NewCidV1(c.Type(), c.Hash())}
	p := c.Prefix()
	if p.Codec == cid.DagProtobuf && p.MhType == multihash.SHA2_256 && p.MhLength == sha256.Size {
		all = append(all, cid.NewCidV0(c.Hash()))
	}
	return all
}

// Spellings returns the ways in which documents are likely to have a hash, the
// one given first.
func Spellings(hash string) []string {
	all := []string{hash}
	c, err := Decode(hash)
	if err != nil {
		return all
	}
	for _, v := range Versions(c) {
		if v.Version() == 0 {
			all = append(all, v.String())
			continue
		}
		for _, base := range []multibase.Encoding{multibase.Base32, multibase.Base58BTC, multibase.Base36} {
			if s, err := v.StringOfBase(base); err == nil {
				all = append(all, s)
			}
		}
	}
	return slices.Concat(all[:1], slices.DeleteFunc(all[1:], func(s string) bool { return s == hash }))
}
