package orbit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Glance is what the catalog and the store tell of a database that need not be
// open.
type Glance struct {
	Entries uint64 // as in [Stats], like the next three
	Pending uint64
	Keys    uint64
	Last    uint64

	Access   string // address of the access controller
	AccessOf string // address of a database whose access database it is, or ""
}

// Glance describes a database of the catalog without opening it. It reads some
// four records. An error is one that Open would return, such as [ErrDamaged];
// some damage shows only when the database is opened. Together with an error,
// Glance returns what could be read. The error is [ErrUnknown] if the database
// is not in the catalog.
func (o *Orbit) Glance(ctx context.Context, address string) (g Glance, err error) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return g, err
	}
	r, err := o.record(ctx, hash)
	if err != nil {
		return g, err
	}
	look, err := oplog.Look(ctx, o.store, r.Number)
	if err == nil && look.Unfinished {
		err = fmt.Errorf("%w of %s: a rebuild of its index was interrupted", ErrDamaged, address)
	}
	g.Entries, g.Pending, g.Keys, g.Last = look.Entries, look.Pending, look.Keys, look.Last
	b, blockErr := o.Block(ctx, hash)
	if blockErr == nil {
		var m manifest.Manifest
		m, blockErr = manifest.Decode(b)
		g.Access = m.AccessController
	}
	if r.Type == TypeKeyValue && r.Admins == 0 {
		for of, scanErr := range o.controlled(ctx, r.Number) {
			if scanErr != nil {
				return g, errors.Join(err, blockErr, scanErr)
			}
			g.AccessOf = of
			break
		}
	}
	return g, errors.Join(err, blockErr)
}

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
