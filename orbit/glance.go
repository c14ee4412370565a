package orbit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Fingerprint returns a digest of what a database of the catalog authorizes: of
// its authorized entries and those of its access database. Two replicas whose
// fingerprints are equal authorize the same entries according to the same
// access list. The fingerprint is zero, which says nothing, while authorization
// is being decided, and if the database is damaged or does not open before its
// index is rebuilt. The error is [ErrUnknown] if the database is not in the
// catalog.
//
// Fingerprint reads at most five records, and does not open the database.
func (o *Orbit) Fingerprint(ctx context.Context, address string) (digest [32]byte, err error) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return digest, err
	}
	r, err := o.record(ctx, hash)
	if err != nil {
		return digest, err
	}
	root, settled, err := oplog.Root(ctx, o.store, r.Number)
	if err != nil || !settled {
		return digest, err
	}
	if !r.described() {
		if err := o.describeStored(ctx, hash, &r); err != nil || !r.described() {
			return digest, err
		}
	}
	var access oplog.Node
	if r.Admins != 0 {
		access, settled, err = oplog.Root(ctx, o.store, r.Admins)
		if err != nil || !settled {
			return digest, err
		}
	}
	b := []byte("npp/orbitdb/state")
	for _, n := range []oplog.Node{root, access} {
		b = append(binary.BigEndian.AppendUint64(b, n.Count), n.Sum[:]...)
	}
	return sha256.Sum256(b), nil
}
