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
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/keyed"
	"github.com/newpieceplease/npp/orbit/manifest"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/orbit/value"
)

// Capabilities of the orbitdb access controller.
const (
	CapabilityWrite = "write"
	CapabilityAdmin = "admin"
)

// AccessController says who may write to a database.
//
// Of type "ipfs", it is a list that cannot be changed. Of type "orbitdb", it is
// a keyvalue database of its own, whose writers are the admins: its keys are
// capabilities, their values lists of IDs. An identity may write if it has
// "write" or "admin" there, or is an admin by the list of that database.
//
// # Which entries count
//
// A list that can be changed differs from peer to peer for a while, and comes
// before or after the entries that it is about. So nothing is decided for good
// when an entry arrives. What counts is a function of the entries and of the
// access database, and is computed anew whenever either changes:
//
// An entry counts if its signature is valid and it is an ancestor of, or is
// itself, an anchor. Anchors are the entries whose writer is on the present list,
// and those that an admin keeps ([AccessController.Revoke]). A writer that was
// never on the list has no entries that count, but for kept ones.
//
//   - Never granted: an entry of such a writer does not count, whatever is built
//     on it. It is not taken, unless an entry that is taken needs it as a parent.
//   - Granted: all entries of the writer count, also those that came before the
//     grant did.
//   - Revoked: an entry that a present writer has built on counts, with all
//     ancestors: somebody who may write had it, and let it stand. Tips that nobody
//     built on lose effect, unless the admin who revokes keeps them. What the
//     writer adds afterwards does not count, whatever its clock says, since honest
//     peers do not build on entries that do not count.
//   - Granted again: all entries of the writer count again, on every peer.
//   - The list is on its way: a peer counts by the list that it has. When the
//     newer list comes, it counts as all others do.
//   - The lists of two peers differ: so may what counts, and the two are not in
//     step until the access databases are.
//
// Nobody gains power by this: a present writer who builds on the entries of a
// revoked one could have written the same values. The other rule that was
// considered, a record of the heads at each revocation, loses what former members
// wrote and the admin did not have yet, though present members have built on it;
// and it needs an admin at hand where JavaScript revoked.
//
// @orbitdb/core joins a head with all ancestors or not at all. By its present list,
// it judges the head, what the head names in next and refs, and the ancestors that it
// does not have yet; and it keeps what it joined. Where all writers of a history are
// on the present list, it counts what is counted here. Otherwise:
//
//   - A JavaScript peer that has the entries of a revoked writer goes on showing them
//     all. It cannot join an entry that names one of them in next or refs. Entries
//     that are written here name one only where it is a head, as a kept tip is: the
//     peer then joins that entry together with the one after it.
//   - A JavaScript peer that lacks them cannot join what descends from them.
type AccessController struct {
	address string
	list    manifest.AccessList // of type "ipfs"
	managed *Database           // nil for type "ipfs"

	mu        sync.Mutex
	known     writers      // IDs that are or were on the list
	scanned   uint64       // number of the entry of the access database up to which known goes
	present   oplog.Access // the list that was read last
	presentAt uint64       // one more than the number of the entry that was the last one then
}

// openAccess opens the access controller of a database, and returns the blocks
// that the database needs for it. The caller holds o.mu.
func (o *Orbit) openAccess(ctx context.Context, m manifest.Manifest) (*AccessController, []block.Block, error) {
	kind, hash, err := m.Access()
	if err != nil {
		return nil, nil, err
	}
	b, err := o.block(ctx, hash)
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
	// JavaScript would follow any chain; a list behind a list behind a list
	// serves nobody but who wants to keep us busy.
	if kind, _, _ := inner.Access(); kind != manifest.AccessIPFS || inner.Type != TypeKeyValue {
		return nil, nil, fmt.Errorf("%w: %s is no keyvalue database with a fixed list of admins", ErrInvalid, m.AccessController)
	}
	if a.managed, err = o.openLocked(ctx, hash, OpenOptions{access: true}); a.managed != nil {
		a.managed.guards.Store(true)
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

// Database returns the database that the list of writers is in, or nil for type
// "ipfs".
func (a *AccessController) Database() *Database { return a.managed }

// Capabilities returns who has what: of type "ipfs", the list as "write"; of type
// "orbitdb", the keys of its database but for those of kept entries, and the admins
// by its list among "admin".
func (a *AccessController) Capabilities(ctx context.Context) (map[string][]string, error) {
	if a.managed == nil {
		return map[string][]string{CapabilityWrite: a.list}, nil
	}
	capabilities := map[string][]string{CapabilityAdmin: slices.Clone(a.managed.access.list)}
	kv, err := a.managed.KeyValue()
	if err != nil {
		return nil, err
	}
	listed := make(map[string]writers)
	for item, err := range kv.All(ctx) {
		if err != nil {
			return nil, err
		}
		name, ok := item.Key.Text()
		ids, err := manifest.Texts(item.Value)
		if !ok || err != nil || strings.HasPrefix(name, keptPrefix) {
			continue // not what a grant writes
		}
		if listed[name] == nil {
			listed[name] = make(writers)
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

// rights returns the access list as it is now, and a number that changes with
// it.
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
	if a.presentAt == at {
		return a.present, at, nil
	}
	present := make(writers)
	present.add(a.managed.access.list)
	for _, capability := range []string{CapabilityWrite, CapabilityAdmin} {
		ids, err := a.granted(ctx, capability)
		if err != nil {
			return oplog.Access{}, 0, err
		}
		present.add(ids)
	}
	kept, err := a.kept(ctx)
	if err != nil {
		return oplog.Access{}, 0, err
	}
	if err := a.scan(ctx, stats.Last); err != nil {
		return oplog.Access{}, 0, err
	}
	a.known.add(slices.Collect(maps.Keys(present)))
	a.present = oplog.Access{Writers: present.list(), Known: a.known.list(), Kept: kept}
	a.presentAt = at
	return a.present, at, nil
}

// scan adds to the known writers those that entries of the access database name,
// up to a number.
func (a *AccessController) scan(ctx context.Context, last uint64) error {
	if a.known == nil {
		a.known = make(writers)
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

// granted returns who was granted a capability.
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
		return nil, nil // an admin put something else there: nobody has it
	}
	return ids, nil
}

// writers is a set of IDs.
type writers map[string]bool

func (w writers) add(ids []string) {
	for _, id := range ids {
		w[id] = true
	}
}

func (w writers) list() []string { return slices.Sorted(maps.Keys(w)) }

// Grant gives an identity a capability. It needs an access controller of type
// "orbitdb" ([ErrType]) whose admin the own identity is ([ErrNotAllowed]).
func (a *AccessController) Grant(ctx context.Context, capability, id string) error {
	return a.change(ctx, capability, func(ids []string) ([]string, error) {
		if slices.Contains(ids, id) {
			return ids, nil
		}
		return append(ids, id), nil
	})
}

// keptPrefix begins the keys of the access database whose values are the CIDs of
// entries that are kept; the ID of their writer follows. The value is a list of
// texts, as that of a capability, since JavaScript spreads each value.
const keptPrefix = "npp:kept:"

// kept returns the CIDs of the entries that admins keep.
func (a *AccessController) kept(ctx context.Context) (hashes []string, err error) {
	kv, err := a.managed.KeyValue()
	if err != nil {
		return nil, err
	}
	for item, err := range kv.All(ctx) {
		if err != nil {
			return nil, err
		}
		if name, _ := item.Key.Text(); !strings.HasPrefix(name, keptPrefix) {
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

// Revoke takes a capability from an identity. What the identity wrote until now,
// as far as it is here, goes on to count: the tips that nobody built on are kept
// by name first ([AccessController.Keep]), in all open databases that have this
// access controller.
func (a *AccessController) Revoke(ctx context.Context, capability, id string) error {
	if a.managed == nil {
		return a.fixed()
	}
	for _, db := range a.managed.guarded() {
		_, tips, err := db.Losing(ctx, capability, id)
		if err != nil {
			return err
		}
		if err := a.Keep(ctx, id, tips); err != nil {
			return err
		}
	}
	return a.Discard(ctx, capability, id)
}

// Discard is Revoke, but entries of the identity that nobody built on lose effect
// ([Database.Losing]).
func (a *AccessController) Discard(ctx context.Context, capability, id string) error {
	return a.change(ctx, capability, func(ids []string) ([]string, error) {
		return slices.DeleteFunc(ids, func(other string) bool { return other == id }), nil
	})
}

// maxKept is how many entries of a writer are kept by name.
const maxKept = 4096

// ErrTooManyKept says that a writer has more tips than can be kept.
var ErrTooManyKept = fmt.Errorf("more than %d entries to keep", maxKept)

// Keep has entries of a writer, and with them their ancestors, count whether the
// writer may write or not. It needs the same rights as [AccessController.Grant].
func (a *AccessController) Keep(ctx context.Context, id string, hashes []string) error {
	if len(hashes) == 0 {
		return nil
	}
	return a.change(ctx, keptPrefix+id, func(kept []string) ([]string, error) {
		all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(kept, hashes))))
		if len(all) > maxKept {
			return nil, ErrTooManyKept
		}
		return all, nil
	})
}

// change writes the value at a key of the access database. It writes what is there
// already, too, as JavaScript does.
func (a *AccessController) change(ctx context.Context, key string, change func([]string) ([]string, error)) error {
	if a.managed == nil {
		return a.fixed()
	}
	a.managed.granting.Lock()
	defer a.managed.granting.Unlock()
	ids, err := a.listed(ctx, key)
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
	kv, err := a.managed.Plain().KeyValue() // JavaScript encrypts no access list
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

// WrittenBy returns how many entries of an identity count. It reads the whole log.
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

// Losing tells what loses effect when a capability is taken from an identity: the
// number of entries, and the CIDs of the tips, from which no entry descends that
// counts.
func (db *Database) Losing(ctx context.Context, capability, id string) (entries int, tips []string, err error) {
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
	left := make(writers)
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
	return db.log.Losing(ctx, now)
}
