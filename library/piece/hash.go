package piece

import (
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"
)

// Canonical returns the one text for all the ways to write a hash: the CID of
// version 1 in base32, or the hash itself where it is no CID.
func Canonical(hash string) string {
	c, err := cid.Decode(hash)
	if err != nil {
		return hash
	}
	return CanonicalCID(c)
}

// CanonicalCID is [Canonical] of a CID.
func CanonicalCID(c cid.Cid) string { return cid.NewCidV1(c.Type(), c.Hash()).String() }

// Spellings returns the ways in which documents are likely to have a hash, the
// one given first.
func Spellings(hash string) []string {
	c, err := cid.Decode(hash)
	if err != nil {
		return []string{hash}
	}
	all := []string{hash}
	add := func(s string, err error) {
		if err == nil && s != hash {
			all = append(all, s)
		}
	}
	v1 := cid.NewCidV1(c.Type(), c.Hash())
	if c.Type() == cid.DagProtobuf {
		if v0 := cid.NewCidV0(c.Hash()); v0.Defined() {
			add(v0.String(), nil)
		}
	}
	for _, base := range []multibase.Encoding{multibase.Base32, multibase.Base58BTC, multibase.Base36} {
		add(v1.StringOfBase(base))
	}
	return all
}
