package orbit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/keyed"
	"github.com/newpieceplease/npp/orbit/manifest"
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
// capabilities, their values lists of IDs. Who has "write" or "admin" there, or
// is an admin by the list of that database, may write. As in JavaScript, what
// counts is the present list: an entry that comes after its writer was revoked
// does not count, one that came before does.
type AccessController struct {
	address string
	list    manifest.Writers // of type "ipfs"
	managed *Database        // nil for type "ipfs"

	mu     sync.Mutex
	ever   writers // who could write at some time
	everAt uint64  // number of the entry of the list that came last then
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
		a.list, err = manifest.DecodeWriters(b)
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
	a.managed, err = o.openLocked(ctx, hash, OpenOptions{access: true})
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
// "orbitdb", all keys of its database, and the admins by its list among "admin".
func (a *AccessController) Capabilities(ctx context.Context) (map[string][]string, error) {
	if a.managed == nil {
		return map[string][]string{CapabilityWrite: a.list}, nil
	}
	capabilities := map[string][]string{CapabilityAdmin: slices.Clone(a.managed.access.list)}
	kv, err := a.managed.KeyValue()
	if err != nil {
		return nil, err
	}
	for item, err := range kv.All(ctx) {
		if err != nil {
			return nil, err
		}
		name, ok := item.Key.Text()
		ids, err := manifest.Texts(item.Value)
		if !ok || err != nil {
			continue // not what a grant writes
		}
		for _, id := range ids {
			if !slices.Contains(capabilities[name], id) {
				capabilities[name] = append(capabilities[name], id)
			}
		}
	}
	return capabilities, nil
}

// writers returns the IDs that may write now.
func (a *AccessController) writers(ctx context.Context) (writers, error) {
	w := make(writers)
	w.add(a.list)
	if a.managed == nil {
		return w, nil
	}
	w.add(a.managed.access.list)
	for _, capability := range []string{CapabilityWrite, CapabilityAdmin} {
		ids, err := a.granted(ctx, capability)
		if err != nil {
			return nil, err
		}
		w.add(ids)
	}
	return w, nil
}

// everWriters returns the IDs that may write now or could at some time.
func (a *AccessController) everWriters(ctx context.Context) (writers, error) {
	if a.managed == nil {
		return a.writers(ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	stats, err := a.managed.log.Stats(ctx)
	if err != nil {
		return nil, err
	}
	if a.ever != nil && a.everAt == stats.Last {
		return a.ever, nil
	}
	w, err := a.writers(ctx)
	if err != nil {
		return nil, err
	}
	for e, err := range a.managed.log.Ascend(ctx) {
		if err != nil {
			return nil, err
		}
		op, ok := keyed.Parse(e.Payload)
		if name, _ := op.Key.Text(); ok && (name == CapabilityWrite || name == CapabilityAdmin) {
			ids, _ := manifest.Texts(op.Value)
			w.add(ids)
		}
	}
	a.ever, a.everAt = w, stats.Last
	return w, nil
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

func (w writers) may(id string) bool { return w[id] || w[manifest.Anyone] }

// Grant gives an identity a capability. It needs an access controller of type
// "orbitdb" ([ErrType]) whose admin the own identity is ([ErrNotAllowed]).
func (a *AccessController) Grant(ctx context.Context, capability, id string) error {
	return a.change(ctx, capability, func(ids []string) []string {
		if slices.Contains(ids, id) {
			return ids
		}
		return append(ids, id)
	})
}

// Revoke takes a capability from an identity. What it wrote before stays.
func (a *AccessController) Revoke(ctx context.Context, capability, id string) error {
	return a.change(ctx, capability, func(ids []string) []string {
		return slices.DeleteFunc(ids, func(other string) bool { return other == id })
	})
}

func (a *AccessController) change(ctx context.Context, capability string, change func([]string) []string) error {
	if a.managed == nil {
		return fmt.Errorf("%w: the list of writers at %s is fixed", ErrType, a.address)
	}
	kv, err := a.managed.Plain().KeyValue() // JavaScript encrypts no access list
	if err != nil {
		return err
	}
	a.managed.granting.Lock()
	defer a.managed.granting.Unlock()
	ids, err := a.granted(ctx, capability)
	if err != nil {
		return err
	}
	if ids = change(ids); len(ids) == 0 {
		_, err = kv.Delete(ctx, capability)
	} else {
		_, err = kv.Put(ctx, capability, ids)
	}
	return err
}
