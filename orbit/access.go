package orbit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
)

// The capabilities of an orbitdb access controller.
const (
	CapabilityWrite = "write"
	CapabilityAdmin = "admin"
)

// AccessController determines who may write to a database.
//
// A controller of type "ipfs" is a fixed access list. A controller of type
// "orbitdb" is a keyvalue database, the access database, whose writers are the
// admins. Its keys are capabilities and its values are lists of IDs. An
// identity may write if it has "write" or "admin" there, or if it is an admin
// by the access list of the access database itself.
//
// # Authorization
//
// A changeable list differs from peer to peer for a while, and arrives before
// or after the entries that it concerns. So no decision about an entry is
// final. Authorization is a function of the entries and the access database,
// and is recomputed whenever either changes:
//
// An entry is authorized if it is valid and is an anchor or an ancestor of one.
// Anchors are the valid entries whose writer is on the current access list, and
// those that an admin retains ([AccessController.Retain]). A writer that was
// never on the list has no authorized entries other than retained ones.
//
//   - Never granted: the entries of such a writer are not authorized, whatever
//     descends from them. They are refused, unless an accepted entry needs one
//     as a parent.
//   - Granted: all entries of the writer are authorized, including those from
//     before the grant.
//   - Revoked: an entry from which an entry of a current writer descends is
//     authorized, with all its ancestors: a writer on the access list had it
//     and accepted it. Tips, from which no such entry descends, are no longer
//     authorized, unless the admin who revokes retains them. Later entries of
//     the writer are not authorized, whatever their clock says, since honest
//     peers do not build on entries that are not authorized.
//   - Granted again: all entries of the writer are authorized again, on every
//     peer.
//   - List not yet arrived: a peer applies the list that it has. When the newer
//     list arrives, it agrees with all others.
//   - Different lists: two peers with different lists may authorize different
//     entries, and are not in sync until their access databases are.
//
// No writer gains power by this rule: a current writer who builds on the
// entries of a revoked one could have written the same values. The alternative,
// to record the heads at each revocation, loses entries of former members that
// the admin did not have yet, although current members have built on them; and
// it needs an admin of this implementation where a JavaScript admin revoked.
//
// # JavaScript
//
// @orbitdb/core joins a head with all its ancestors or not at all. By its
// current list, it checks the head, the entries that the head names in next and
// refs, and the ancestors that it does not have yet; and it keeps whatever it
// joined. If all writers of a history are on the current list, it has the same
// entries as this package. Otherwise:
//
//   - A JavaScript peer that has the entries of a revoked writer continues to
//     show all of them. It cannot join an entry that names one of them in next
//     or refs. Entries written by this package name one only if it is a head,
//     such as a retained tip: the peer then joins that entry together with the
//     next one.
//   - A JavaScript peer that lacks them cannot join their descendants.
type AccessController struct {
	address string
	list    manifest.AccessList // of type "ipfs"
	managed *Database           // nil for type "ipfs"

	mu             sync.Mutex
	known          idSet        // IDs that are or were on the list
	scanned        uint64       // number of the last entry of the access database that known includes
	present        oplog.Access // the access list that was read last
	presentVersion uint64       // its version; see rights
}

// openAccess opens the access controller of a database and returns the blocks
// that the controller consists of. The caller holds o.making for reading.
func (o *Orbit) openAccess(ctx context.Context, m manifest.Manifest, attached Attached) (*AccessController, []block.Block, error) {
	kind, hash, err := m.Access()
	if err != nil {
		return nil, nil, err
	}
	b, err := o.block(ctx, hash, attached)
	if err != nil {
		return nil, nil, err
	}
	a := &AccessController{address: m.AccessController}
	if kind == manifest.AccessIPFS {
		a.list, err = manifest.DecodeAccessList(b)
		return a, []block.Block{b}, err
	}
	inner, err := manifest.Decode(b)
	if err != nil {
		return nil, nil, err
	}
	// JavaScript follows any chain of access databases. Longer chains have
	// no use but to keep a daemon busy.
	if kind, _, _ := inner.Access(); kind != manifest.AccessIPFS || inner.Type != TypeKeyValue {
		return nil, nil, fmt.Errorf("%w: %s is not a keyvalue database with a fixed list of admins", ErrInvalid, m.AccessController)
	}
	if a.managed, err = o.openLocked(ctx, hash, OpenOptions{Attached: attached, access: true}); a.managed != nil {
		a.managed.controls.Store(isAccess)
	}
	return a, nil, err
}

// Type returns "ipfs" or "orbitdb".
func (a *AccessController) Type() string {
	if a.managed != nil {
		return manifest.AccessOrbitDB
	}
	return manifest.AccessIPFS
}

// Address returns the address of the access controller.
func (a *AccessController) Address() string { return a.address }

// Database returns the access database, or nil for type "ipfs".
func (a *AccessController) Database() *Database { return a.managed }

// Capabilities returns the IDs of each capability. For type "ipfs", the list is
// under "write". For type "orbitdb", these are the keys of the access database
// except those of retained entries; "admin" includes the admins by the access
// list of that database.
func (a *AccessController) Capabilities(ctx context.Context) (map[string][]string, error) {
	if a.managed == nil {
		return map[string][]string{CapabilityWrite: a.list}, nil
	}
	capabilities := map[string][]string{CapabilityAdmin: slices.Clone(a.managed.access.list)}
	kv, err := a.managed.KeyValue()
	if err != nil {
		return nil, err
	}
	listed := make(map[string]idSet)
	for item, err := range kv.All(ctx) {
		if err != nil {
			return nil, err
		}
		name, ok := item.Key.Text()
		ids, err := manifest.Texts(item.Value)
		if !ok || err != nil || strings.HasPrefix(name, retainedPrefix) {
			continue // not written by a grant
		}
		if listed[name] == nil {
			listed[name] = make(idSet)
			listed[name].add(capabilities[name])
		}
		for _, id := range ids {
			if !listed[name][id] {
				listed[name][id] = true
				capabilities[name] = append(capabilities[name], id)
			}
		}
	}
	return capabilities, nil
}

// rights returns the current access list and its version, which changes
// whenever the list does: one more than the number of the last entry of the
// access database, or 1 for a fixed list.
func (a *AccessController) rights(ctx context.Context) (oplog.Access, uint64, error) {
	if a.managed == nil {
		return oplog.Access{Writers: a.list, Known: a.list}, 1, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	stats, err := a.managed.log.Stats(ctx)
	if err != nil {
		return oplog.Access{}, 0, err
	}
	at := stats.Last + 1
	if a.presentVersion == at {
		return a.present, at, nil
	}
	present := make(idSet)
	present.add(a.managed.access.list)
	for _, capability := range []string{CapabilityWrite, CapabilityAdmin} {
		ids, err := a.granted(ctx, capability)
		if err != nil {
			return oplog.Access{}, 0, err
		}
		present.add(ids)
	}
	retained, err := a.retained(ctx)
	if err != nil {
		return oplog.Access{}, 0, err
	}
	if err := a.scan(ctx, stats.Last); err != nil {
		return oplog.Access{}, 0, err
	}
	a.known.add(slices.Collect(maps.Keys(present)))
	a.present = oplog.Access{Writers: present.list(), Known: a.known.list(), Retained: retained}
	a.presentVersion = at
	return a.present, at, nil
}

// scan adds to known the writers in the entries of the access database up to
// the given number.
func (a *AccessController) scan(ctx context.Context, last uint64) error {
	if a.known == nil {
		a.known = make(idSet)
	}
	for arrival, err := range a.managed.log.Arrived(ctx, a.scanned) {
		if err != nil {
			return err
		}
		op, ok := keyed.Parse(arrival.Entry.Payload)
		if name, _ := op.Key.Text(); ok && (name == CapabilityWrite || name == CapabilityAdmin) {
			ids, _ := manifest.Texts(op.Value)
			a.known.add(ids)
		}
		if a.scanned = arrival.Number; a.scanned >= last {
			break
		}
	}
	return nil
}

// granted returns the IDs that have a capability.
func (a *AccessController) granted(ctx context.Context, capability string) ([]string, error) {
	item, err := a.managed.keys.Get(blocks.Reading(ctx, a.managed.orbit.store), value.Text(capability))
	if errors.Is(err, keyed.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ids, err := manifest.Texts(item.Value)
	if err != nil {
		return nil, nil // an admin wrote another value: no identity has the capability
	}
	return ids, nil
}

// idSet is a set of IDs.
type idSet map[string]bool

func (w idSet) add(ids []string) {
	for _, id := range ids {
		w[id] = true
	}
}

func (w idSet) list() []string { return slices.Sorted(maps.Keys(w)) }

// Grant grants a capability to an identity. It requires an access controller of
// type "orbitdb" ([ErrType]) of which the own identity is an admin
// ([ErrNotAllowed]).
func (a *AccessController) Grant(ctx context.Context, capability, id string) error {
	return a.change(ctx, capability, func(ids []string) ([]string, error) {
		if slices.Contains(ids, id) {
			return ids, nil
		}
		return append(ids, id), nil
	})
}

// retainedPrefix is the prefix of the keys of the access database that hold the
// CIDs of retained entries; the ID of their writer follows. The value is a list
// of texts, as for a capability, since JavaScript expects a list at every key.
const retainedPrefix = "npp:kept:"

// retained returns the CIDs of the retained entries.
func (a *AccessController) retained(ctx context.Context) (hashes []string, err error) {
	kv, err := a.managed.KeyValue()
	if err != nil {
		return nil, err
	}
	for item, err := range kv.All(ctx) {
		if err != nil {
			return nil, err
		}
		if name, _ := item.Key.Text(); !strings.HasPrefix(name, retainedPrefix) {
			continue
		}
		list, _ := manifest.Texts(item.Value)
		for _, hash := range list {
			if block.ValidHash(hash) {
				hashes = append(hashes, hash)
			}
		}
	}
	return hashes, nil
}

// Revoke revokes a capability of an identity. Entries that the identity wrote
// until now and that are here stay authorized: Revoke first retains its tips
// ([AccessController.Retain]) in all databases of the catalog with this access
// controller, except damaged ones.
func (a *AccessController) Revoke(ctx context.Context, capability, id string) error {
	if a.managed == nil {
		return a.fixed()
	}
	for db, err := range a.managed.controlled(ctx) {
		if err != nil {
			return err
		}
		_, tips, err := db.WouldRevoke(ctx, capability, id)
		if err != nil {
			return err
		}
		if err := a.Retain(ctx, id, tips); err != nil {
			return err
		}
	}
	return a.Discard(ctx, capability, id)
}

// Discard is Revoke without retaining entries: those from which no authorized
// entry descends are no longer authorized ([Database.WouldRevoke]).
func (a *AccessController) Discard(ctx context.Context, capability, id string) error {
	return a.change(ctx, capability, func(ids []string) ([]string, error) {
		return slices.DeleteFunc(ids, func(other string) bool { return other == id }), nil
	})
}

// maxRetained is the maximum number of retained entries of a writer.
const maxRetained = 4096

// ErrTooManyRetained is returned for a writer that has more tips than can be
// retained.
var ErrTooManyRetained = fmt.Errorf("more than %d entries to retain", maxRetained)

// Retain retains entries of a writer: they and their ancestors are authorized
// whether or not the writer may write. It requires the same rights as
// [AccessController.Grant].
func (a *AccessController) Retain(ctx context.Context, id string, hashes []string) error {
	if len(hashes) == 0 {
		return nil
	}
	return a.change(ctx, retainedPrefix+id, func(retained []string) ([]string, error) {
		all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(retained, hashes))))
		if len(all) > maxRetained {
			return nil, ErrTooManyRetained
		}
		return all, nil
	})
}

// change writes the value at a key of the access database. Like JavaScript, it
// writes even if the value is unchanged.
func (a *AccessController) change(ctx context.Context, key string, change func([]string) ([]string, error)) error {
	if a.managed == nil {
		return a.fixed()
	}
	a.managed.granting.Lock()
	defer a.managed.granting.Unlock()
	ids, err := a.mergedList(ctx, key)
	if err != nil {
		return err
	}
	if ids, err = change(ids); err != nil {
		return err
	}
	return a.put(ctx, key, ids)
}

func (a *AccessController) fixed() error {
	return fmt.Errorf("%w: the access list at %s is fixed", ErrType, a.address)
}

// put writes the value at a key of the access database.
func (a *AccessController) put(ctx context.Context, key string, ids []string) error {
	kv, err := a.managed.Plain().KeyValue() // JavaScript does not encrypt access lists
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		_, err = kv.Delete(ctx, key)
	} else {
		_, err = kv.Put(ctx, key, ids)
	}
	return err
}

// WrittenBy returns the number of authorized entries of an identity. It reads
// the whole log.
func (db *Database) WrittenBy(ctx context.Context, id string) (entries int, err error) {
	g := blocks.Reading(ctx, db.orbit.store)
	for e, err := range db.log.Ascend(ctx) {
		if err != nil {
			return entries, err
		}
		if writer, err := db.orbit.writerOf(g, e); err == nil && writer == id {
			entries++
		}
	}
	return entries, nil
}

// WouldRevoke returns what would no longer be authorized if a capability of an
// identity were revoked: the number of entries, and the CIDs of the tips, from
// which no authorized entry descends.
func (db *Database) WouldRevoke(ctx context.Context, capability, id string) (entries int, tips []string, err error) {
	if db.access.managed == nil {
		return 0, nil, nil
	}
	if err := db.sync(ctx); err != nil {
		return 0, nil, err
	}
	now, _, err := db.access.rights(ctx)
	if err != nil {
		return 0, nil, err
	}
	left := make(idSet)
	left.add(db.access.managed.access.list)
	for _, c := range []string{CapabilityWrite, CapabilityAdmin} {
		ids, err := db.access.granted(ctx, c)
		if err != nil {
			return 0, nil, err
		}
		if c == capability {
			ids = slices.DeleteFunc(ids, func(other string) bool { return other == id })
		}
		left.add(ids)
	}
	now.Writers = left.list()
	return db.log.WouldRevoke(ctx, now)
}
