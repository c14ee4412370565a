package orbit

import (
	"context"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/value"
)

// ErrEncrypted is returned for a plain value that was not written because the
// apps that write to the database encrypt theirs and could not read it. See
// [Database.Plain].
var ErrEncrypted = errors.New("the apps that write to it encrypt the values (encryption.data), and could not read this one")

// The bounds of the sample that tells whether values are encrypted.
const (
	sampleEntries = 256
	sampleBytes   = 16 << 20
)

// isEncrypted reports whether a payload is encrypted. JavaScript's
// encryption.data turns an operation into bytes, which no operation is.
func isEncrypted(payload value.Value) bool { return payload.Kind() == value.KindBytes }

// Plain returns the database for writes that must not fail with [ErrEncrypted].
func (db *Database) Plain() *Database {
	db = db.clone()
	db.plain = true
	return db
}

// Encrypted reports whether the values of the database appear to be encrypted,
// so that the own identity does not write plain ones: after one plain value,
// every app that has the key fails to read the whole log.
//
// JavaScript with encryption.data signs and stores bytes instead of an
// operation; nothing else indicates encryption. Values are considered encrypted
// if the newest entries of two writers are such bytes, or the newest entry of
// the only writer. Encrypted reads the newest 256 authorized entries, or fewer
// if they are large.
//
// A stranger is a writer that may write only because anybody may: the access
// list does not name it. An owner is an identity that the access list names or
// that created the database here. Strangers' entries are ignored for an owner,
// so that no stranger can lock an owner out. They are ignored for everybody if
// one of the newest entries is by a writer that the access list names.
//
// If the own identity has written a plain value before, the values are not
// considered encrypted: an app that fails at a plain value has failed already.
func (db *Database) Encrypted(ctx context.Context) (bool, error) {
	if db.keys.wrotePlain.Load() {
		return false, nil
	}
	if wrote, err := db.orbit.store.Has(ctx, db.keys.plainKey); err != nil || wrote {
		return false, err
	}
	rights, _, err := db.access.rights(ctx)
	if err != nil {
		return false, err
	}
	w := make(idSet)
	w.add(rights.Writers)
	return db.appearsEncrypted(ctx, w)
}

// checkPlain returns [ErrEncrypted] if the own identity may write, but not
// plain values.
func (db *Database) checkPlain(ctx context.Context) error {
	if db.plain {
		return nil
	}
	encrypted, err := db.Encrypted(ctx)
	if err != nil || !encrypted {
		return err
	}
	if ok, err := db.Writable(ctx); err != nil || !ok {
		return err // the write fails with ErrNotAllowed
	}
	return fmt.Errorf("%s: %w", db.address, ErrEncrypted)
}

func (db *Database) appearsEncrypted(ctx context.Context, w idSet) (bool, error) {
	me := db.orbit.signer.ID
	sealed, err := db.sample(ctx)
	if own, wrote := sealed[me]; err != nil || wrote && !own {
		return false, err
	}
	named := make(map[string]bool)
	for id, is := range sealed {
		if w[id] {
			named[id] = is
		}
	}
	if len(named) > 0 || w[me] || db.orbit.made(ctx, db.address) {
		sealed = named
	}
	count := 0
	for _, is := range sealed {
		if is {
			count++
		}
	}
	return count >= 2 || count == 1 && len(sealed) == 1, nil
}

// sample reports for each writer of the newest entries, by its ID, whether the
// newest of its entries is encrypted. It stops where the log is damaged.
func (db *Database) sample(ctx context.Context) (sealed map[string]bool, err error) {
	sealed = make(map[string]bool)
	size := 0
	for e, err := range db.Iterate(ctx, Range{Limit: sampleEntries}) {
		if err != nil {
			return sealed, ctx.Err()
		}
		if size += len(e.Block.Data); size > sampleBytes {
			break
		}
		i, err := db.orbit.IdentityOf(ctx, e.Identity)
		if err != nil {
			continue // damaged: it was here when the entry arrived
		}
		if _, newer := sealed[i.ID]; !newer {
			sealed[i.ID] = isEncrypted(e.Payload)
		}
	}
	return sealed, nil
}

// isOwnPlain reports whether an entry is a plain value of an identity.
func isOwnPlain(e *entry.Entry, identity string) bool {
	return e.Identity == identity && !isEncrypted(e.Payload)
}
