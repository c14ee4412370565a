package piece

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"
	"github.com/multiformats/go-multihash"
)

// Decode decodes a hash of at most [MaxHash] bytes as a CID.
func Decode(hash string) (cid.Cid, error) {
	if len(hash) > MaxHash { // decoding base58 and base36 takes quadratic time
		return cid.Undef, fmt.Errorf("the hash has %d bytes, at most %d are allowed", len(hash), MaxHash)
	}
	return cid.Decode(hash)
}

// Canonical returns the canonical spelling of a hash: the CID in version 1 and
// base32, or the hash itself if it is not a CID.
func Canonical(hash string) string {
	c, err := Decode(hash)
	if err != nil {
		return hash
	}
	return CanonicalCID(c)
}

// CanonicalCID returns the canonical spelling of a CID.
func CanonicalCID(c cid.Cid) string { return cid.NewCidV1(c.Type(), c.Hash()).String() }

// Versions returns a CID in each version in which it can be expressed.
func Versions(c cid.Cid) []cid.Cid {
	all := []cid.Cid{cid.NewCidV1(c.Type(), c.Hash())}
	p := c.Prefix()
	if p.Codec == cid.DagProtobuf && p.MhType == multihash.SHA2_256 && p.MhLength == sha256.Size {
		all = append(all, cid.NewCidV0(c.Hash()))
	}
	return all
}

// Spellings returns the spellings of a hash that documents are likely to use,
// beginning with the given one.
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
