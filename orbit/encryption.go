package orbit

import (
	"context"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/value"
)

// ErrEncrypted says that a value was not written because the apps that write to
// the database encrypt theirs: they could not read it. See [Database.Plain].
var ErrEncrypted = errors.New("the apps that write to it encrypt the values (encryption.data), and could not read this one")

// Bounds of what is read to see whether values are encrypted.
const (
	sampleEntries = 256
	sampleBytes   = 16 << 20
)

// isSealed reports whether a payload is encrypted. What JavaScript encrypts with
// encryption.data is bytes, and no operation is.
func isSealed(payload value.Value) bool { return payload.Kind() == value.KindBytes }

// Plain returns the database for writes that are not refused with [ErrEncrypted].
func (db *Database) Plain() *Database {
	db = db.clone()
	db.plain = true
	return db
}

// Encrypted reports whether the values of the database are encrypted, so that
// the own identity does not write plain ones: one plain value, and every app
// that has the key fails to read the whole log.
//
// JavaScript with encryption.data signs and stores bytes in the place of an
// operation, and nothing else says so. Values count as encrypted if the newest
// entries of two writers are such bytes, or that of the only writer. The newest
// 256 entries that count are looked at, or fewer where they are large.
//
// A stranger is a writer that may write only because anybody may: the access list
// does not name it. Entries of strangers say nothing to an owner, an identity that
// the list names or that made the database here, so that no stranger can lock an
// owner out. They say nothing to anybody either where one of the newest entries is
// of a writer that the list names.
//
// Where the own identity has written a plain value before, the values do not count
// as encrypted: an app that fails at a plain value has failed already.
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
	w := make(writers)
	w.add(rights.Writers)
	return db.encrypted(ctx, w)
}

// checkPlain returns [ErrEncrypted] where the own identity may write, and must not
// write a plain value.
func (db *Database) checkPlain(ctx context.Context) error {
	if db.plain {
		return nil
	}
	encrypted, err := db.Encrypted(ctx)
	if err != nil || !encrypted {
		return err
	}
	if ok, err := db.Writable(ctx); err != nil || !ok {
		return err // writing says that it may not
	}
	return fmt.Errorf("%s: %w", db.address, ErrEncrypted)
}

func (db *Database) encrypted(ctx context.Context, w writers) (bool, error) {
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

// sample tells of each writer of the newest entries, by its ID, whether the
// newest of its entries is sealed. It ends where the log is damaged.
func (db *Database) sample(ctx context.Context) (sealed map[string]bool, err error) {
	sealed = make(map[string]bool)
	size := 0
	for e, err := range db.log.Iterate(ctx, Range{Amount: sampleEntries}) {
		if err != nil {
			return sealed, ctx.Err()
		}
		if size += len(e.Block.Data); size > sampleBytes {
			break
		}
		i, err := db.orbit.IdentityOf(ctx, e.Identity)
		if err != nil {
			continue // it is damaged: it was known when the entry came
		}
		if _, newer := sealed[i.ID]; !newer {
			sealed[i.ID] = isSealed(e.Payload)
		}
	}
	return sealed, nil
}

// isOwnPlain reports whether an entry is a plain value of an identity.
func isOwnPlain(e *entry.Entry, identity string) bool {
	return e.Identity == identity && !isSealed(e.Payload)
}
