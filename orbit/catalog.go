package orbit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/store"
)

// The keys of the catalog, which lists the databases.
const (
	catalogPrefix    = "database"
	lastNumberKey    = "databases"
	controlledPrefix = "controlled" // databases by the number of their access database
)

// record is a database in the catalog.
type record struct {
	Number  uint64 `json:"number"`
	Name    string `json:"name"`
	Type    string `json:"type"`             // the type that the manifest names
	OpenAs  string `json:"openAs,omitempty"` // the type that was passed to Open, if any
	IndexBy string `json:"indexBy,omitempty"`
	Access  bool   `json:"access,omitempty"` // the database was opened as the access database of another one
	Made    bool   `json:"made,omitempty"`   // the database was opened by [Orbit.Create]

	// Who may write. Records of earlier versions have none of these.
	Fixed   bool   `json:"fixed,omitempty"`   // the manifest names the access list
	Writers string `json:"writers,omitempty"` // of a fixed list; see [writersOf]
	Admins  uint64 `json:"admins,omitempty"`  // number of the access database
}

// kind returns the type as which the database is open.
func (r record) kind() string { return cmp.Or(r.OpenAs, r.Type) }

// describe records the access controller.
func (r *record) describe(a *AccessController) {
	if a.managed != nil {
		r.Fixed, r.Writers, r.Admins = false, "", a.managed.number
	} else {
		r.Fixed, r.Writers, r.Admins = true, writersOf(a.list), 0
	}
}

// described reports whether the record has an access controller.
func (r record) described() bool { return r.Fixed || r.Admins != 0 }

// writersOf returns what a record tells of a fixed list: [Anyone], the beginning
// of the ID if there is a single one, and otherwise "".
func writersOf(list []string) string {
	switch {
	case slices.Contains(list, Anyone):
		return Anyone
	case len(list) > 0 && len(slices.Compact(slices.Clone(list))) == 1:
		return shortID(list[0])
	}
	return ""
}

// shortID returns the beginning of an identity's ID, which tells it from those
// of others.
func shortID(id string) string { return id[:min(len(id), 24)] }

// controlledKey returns the key that exists if a database has the access
// database with a number.
func controlledKey(admins uint64, hash string) string { return controlledSeries(admins) + "/" + hash }

func controlledSeries(admins uint64) string {
	return controlledPrefix + "/" + strconv.FormatUint(admins, 36)
}

// putRecord stores a record, and which access database controls the database,
// if any.
func putRecord(tx *store.Tx, hash string, r record) error {
	if r.Admins != 0 {
		if err := tx.Put(controlledKey(r.Admins, hash), nil); err != nil {
			return err
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return tx.Put(catalogKey(hash), b)
}

// describes reports whether the record has the access controller.
func (r record) describes(a *AccessController) bool {
	with := r
	with.describe(a)
	return with == r
}

func catalogKey(hash string) string { return catalogPrefix + "/" + hash }

func decodeRecord(b []byte) (r record, err error) {
	if err = json.Unmarshal(b, &r); err == nil && r.Number == 0 {
		err = errors.New("no number")
	}
	if err != nil {
		err = fmt.Errorf("catalog: %w", err)
	}
	return r, err
}

func (o *Orbit) record(ctx context.Context, hash string) (record, error) {
	b, err := o.store.Get(ctx, catalogKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return record{}, fmt.Errorf("%w: %s", ErrUnknown, manifest.Address(hash))
	}
	if err != nil {
		return record{}, err
	}
	return decodeRecord(b)
}

// register returns the record of a database, after creating or updating it if
// necessary, and stores the blocks that the database needs. It reports whether
// the index of the database has become stale because its type changed; see
// [oplog.MarkStale]. With [store.ErrNotDurable], it may have.
func (o *Orbit) register(ctx context.Context, hash string, m manifest.Manifest, a *AccessController, opts OpenOptions, needed ...block.Block) (r record, stale bool, err error) {
	if err := checkTypes(m.Type, opts.Type); err != nil {
		return r, false, err
	}
	r, err = o.record(ctx, hash)
	// On a full disk, a record of an earlier version, which lacks the writers,
	// stays as it is.
	known := err == nil && opts.matches(r.kind(), r.IndexBy) && (r.describes(a) || o.config.Disk.CheckWrite(0) != nil)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return r, false, err
	}
	fresh, err := o.notStored(ctx, needed)
	if err != nil || known && len(fresh) == 0 {
		return r, false, err
	}
	before := r
	err = o.store.Update(ctx, func(tx *store.Tx) error {
		if err := putBlocks(tx, fresh); err != nil || known {
			return err
		}
		if r.Number == 0 {
			var last uint64
			b, err := tx.Get(lastNumberKey)
			if err == nil {
				last, err = strconv.ParseUint(string(b), 10, 64)
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			r = record{Number: last + 1, Name: m.Name, Type: m.Type, Access: opts.access, Made: opts.made}
			if err := tx.Put(lastNumberKey, strconv.AppendUint(nil, r.Number, 10)); err != nil {
				return err
			}
		}
		r.describe(a)
		r.OpenAs = cmp.Or(opts.Type, r.OpenAs)
		if r.kind() != TypeDocuments {
			r.IndexBy = ""
		} else {
			r.IndexBy = cmp.Or(opts.IndexBy, r.IndexBy, DefaultIndexBy)
		}
		if stale = before.Number != 0 && hasKeys(before.kind()) != hasKeys(r.kind()); stale {
			if err := oplog.MarkStale(tx, r.Number); err != nil {
				return err
			}
		}
		return putRecord(tx, hash, r)
	})
	if err == nil {
		o.announce(ctx, fresh...)
	}
	return r, stale, err
}

// DatabaseInfo describes a database of the catalog.
type DatabaseInfo struct {
	Address      string
	Name         string
	Type         string // the type as which the database is open
	ManifestType string // the type that its manifest names
	IndexBy      string
	Access       bool // the database was opened as the access database of another one
}

// Databases yields the databases of the catalog in the order of their
// addresses.
func (o *Orbit) Databases(ctx context.Context) iter.Seq2[DatabaseInfo, error] {
	return func(yield func(DatabaseInfo, error) bool) {
		for e, err := range o.store.Scan(ctx, catalogPrefix) {
			var r record
			if err == nil {
				r, err = decodeRecord(e.Value)
			}
			if !yield(r.info(hashOf(e)), err) || err != nil {
				return
			}
		}
	}
}

// Addresses yields the addresses of the databases in the catalog, in order. It
// decodes no record.
func (o *Orbit) Addresses(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for e, err := range o.store.Scan(ctx, catalogPrefix) {
			if !yield(manifest.Address(hashOf(e)), err) || err != nil {
				return
			}
		}
	}
}

// hashOf returns the CID of the manifest whose record an item of the catalog is.
func hashOf(e store.Entry) string { return strings.TrimPrefix(e.Key, catalogPrefix+"/") }

func (r record) info(hash string) DatabaseInfo {
	return DatabaseInfo{manifest.Address(hash), r.Name, r.kind(), r.Type, r.IndexBy, r.Access}
}

// Listed returns what [Orbit.Databases] yields of the database with an address.
// The error is [ErrUnknown] if the database is not in the catalog.
func (o *Orbit) Listed(ctx context.Context, address string) (d DatabaseInfo, err error) {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return d, err
	}
	r, err := o.record(ctx, hash)
	if err != nil {
		return d, err
	}
	return r.info(hash), nil
}

// accessField is in the JSON of a record exactly if Access is set: a quotation
// mark within a string is escaped.
var accessField = []byte(`"access":true`)

// Count returns the number of databases in the catalog without access
// databases. It costs less than [Orbit.Databases], for it decodes no record.
func (o *Orbit) Count(ctx context.Context) (n int, err error) {
	for e, err := range o.store.Scan(ctx, catalogPrefix) {
		if err != nil {
			return 0, err
		}
		if !bytes.Contains(e.Value, accessField) {
			n++
		}
	}
	return n, nil
}

// named yields the databases with a name, which are not access databases. It
// decodes only the records in whose JSON the name is.
func (o *Orbit) named(ctx context.Context, name string) iter.Seq2[string, error] {
	return func(yield func(address string, err error) bool) {
		text, err := json.Marshal(name)
		if err != nil {
			yield("", err)
			return
		}
		for e, err := range o.store.Scan(ctx, catalogPrefix) {
			var r record
			if err == nil && !bytes.Contains(e.Value, text) {
				continue
			}
			if err == nil {
				r, err = decodeRecord(e.Value)
			}
			if err == nil && (r.Name != name || r.Access) {
				continue
			}
			if !yield(manifest.Address(hashOf(e)), err) || err != nil {
				return
			}
		}
	}
}

// fixedField is in the JSON of a record exactly if Fixed is set.
var fixedField = []byte(`"fixed":true`)

// Controlled yields the addresses of the databases whose access database is the
// one with an address. It reads the catalog, and the manifests of the databases
// that an earlier version stored.
func (o *Orbit) Controlled(ctx context.Context, access string) iter.Seq2[string, error] {
	return func(yield func(address string, err error) bool) {
		inner, err := manifest.ParseAddress(access)
		var admins record
		if err == nil {
			admins, err = o.record(ctx, inner)
		}
		if err != nil {
			yield("", err)
			return
		}
		controls := func(hash string, r record) (bool, error) {
			if r.described() {
				return r.Admins == admins.Number, nil
			}
			of, err := o.storedAccess(ctx, hash)
			return of == inner, err
		}
		for e, err := range o.store.Scan(ctx, catalogPrefix) {
			if err == nil && bytes.Contains(e.Value, fixedField) {
				continue
			}
			var r record
			if err == nil {
				r, err = decodeRecord(e.Value)
			}
			is := false
			if err == nil {
				is, err = controls(hashOf(e), r)
			}
			if (is || err != nil) && (!yield(manifest.Address(hashOf(e)), err) || err != nil) {
				return
			}
		}
	}
}

// controlled yields the addresses of the databases whose records say that they
// have the access database with a number.
func (o *Orbit) controlled(ctx context.Context, admins uint64) iter.Seq2[string, error] {
	return func(yield func(address string, err error) bool) {
		for e, err := range o.store.Scan(ctx, controlledSeries(admins)) {
			if !yield(manifest.Address(e.Key[strings.LastIndexByte(e.Key, '/')+1:]), err) || err != nil {
				return
			}
		}
	}
}

// Find opens the database with an address or a name; see [Orbit.Resolve].
func (o *Orbit) Find(ctx context.Context, addressOrName string) (*Database, error) {
	address, err := o.Resolve(ctx, addressOrName)
	if err != nil {
		return nil, err
	}
	return o.Open(ctx, address, OpenOptions{})
}

// Resolve returns the address of the database with an address or a name. It
// finds only databases in the catalog ([ErrUnknown]), whether or not they can
// be opened. An access database has the name of the database that it controls,
// so only its address finds it. If several databases have the name, Resolve
// prefers the one that only the own identity may write, or that was created
// here with the own identity as its only admin. If there is not exactly one
// such database, it returns [ErrAmbiguous].
func (o *Orbit) Resolve(ctx context.Context, addressOrName string) (address string, err error) {
	if strings.HasPrefix(addressOrName, "/") {
		hash, err := manifest.ParseAddress(addressOrName)
		if err != nil {
			return "", err
		}
		_, err = o.record(ctx, hash)
		return addressOrName, err
	}
	var found []string
	for address, err := range o.named(ctx, addressOrName) {
		if err != nil {
			return "", err
		}
		found = append(found, address)
	}
	if len(found) > 1 {
		if own := o.ownDatabases(ctx, found); len(own) == 1 {
			found = own
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%w: %.80q", ErrUnknown, addressOrName)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%w: %.80q: %s", ErrAmbiguous, addressOrName, strings.Join(found, ", "))
}

// ownDatabases returns the databases that only the own identity may write, and
// those created here with the own identity as their only admin. Other databases
// with that admin are excluded, since any manifest can name its access
// database.
func (o *Orbit) ownDatabases(ctx context.Context, addresses []string) (own []string) {
	mine, _, err := manifest.AccessList{o.signer.ID}.Address()
	for _, a := range addresses {
		access := o.accessOf(ctx, a)
		if err == nil && (access == mine || o.accessOf(ctx, access) == mine && o.made(ctx, a)) {
			own = append(own, a)
		}
	}
	return own
}

// made reports whether a database was opened by [Orbit.Create].
func (o *Orbit) made(ctx context.Context, address string) bool {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return false
	}
	r, err := o.record(ctx, hash)
	return err == nil && r.Made
}

// accessOf returns the address of a database's access controller, or "" if it
// is unknown.
func (o *Orbit) accessOf(ctx context.Context, address string) string {
	hash, err := manifest.ParseAddress(address)
	if err != nil {
		return ""
	}
	b, err := o.block(ctx, hash, nil)
	if err != nil {
		return ""
	}
	m, err := manifest.Decode(b)
	if err != nil {
		return ""
	}
	return m.AccessController
}
