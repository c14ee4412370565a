package orbit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"

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
	admins, known, err := o.admins(ctx, hash, r)
	if err != nil || !known {
		return digest, err
	}
	var access oplog.Node
	if admins != 0 {
		access, settled, err = oplog.Root(ctx, o.store, admins)
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

// admins returns the number of the access database of a database, 0 if its list
// is fixed. It is unknown if a block is missing or damaged.
func (o *Orbit) admins(ctx context.Context, hash string, r record) (number uint64, known bool, err error) {
	if r.Fixed || r.Admins != 0 {
		return r.Admins, true, nil
	}
	m, err := o.storedManifest(ctx, hash)
	if err != nil || m == nil {
		return 0, false, err
	}
	kind, access, err := m.Access()
	if err != nil || kind != manifest.AccessOrbitDB {
		return 0, err == nil, nil
	}
	inner, err := o.record(ctx, access)
	if errors.Is(err, ErrUnknown) {
		return 0, false, nil
	}
	return inner.Number, err == nil, err
}
