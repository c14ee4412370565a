package orbit

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
)

// Repair restores changes of this identity that other admins overwrote
// unknowingly. If admins change the same capability at the same time, the
// access database, as in JavaScript, has the newest of the lists, and the
// changes in the others are lost. If one of the lost changes is by this
// identity, Repair writes a list that merges all of them: the grants minus the
// revocations, so that a revocation prevails over a grant to the same identity.
//
// The new list descends from all that it merges. So Repair writes at most once
// for a pair of lists, and admins who repair at the same time end up with the
// same list. Repair returns the number of lists that it wrote. It does nothing
// for a fixed list, or if this identity is not an admin.
func (a *AccessController) Repair(ctx context.Context) (repaired int, err error) {
	if a.managed == nil {
		return 0, nil
	}
	if ok, err := a.managed.Writable(ctx); err != nil || !ok {
		return 0, err
	}
	a.managed.granting.Lock()
	defer a.managed.granting.Unlock()
	changes, err := a.changes(ctx)
	if err != nil {
		return 0, err
	}
	own := func(x change) bool { return x.entry.Key == a.managed.orbit.signer.PublicKey }
	for _, key := range changes.keys {
		if !slices.ContainsFunc(changes.of[key][1:], own) {
			continue // others may create any number of keys
		}
		tips := changes.tips(key)
		if !slices.ContainsFunc(tips[1:], own) {
			continue
		}
		merged := changes.merge(key, tips)
		if sameSet(merged, tips[0].ids) {
			continue
		}
		if err := a.put(ctx, key, merged); err != nil {
			return repaired, err
		}
		repaired++
	}
	return repaired, nil
}

// mergedList returns the list at a key, with the changes of admins that did not
// know of each other.
func (a *AccessController) mergedList(ctx context.Context, key string) ([]string, error) {
	changes, err := a.changes(ctx)
	if err != nil {
		return nil, err
	}
	return changes.merge(key, changes.tips(key)), nil
}

// change is an entry of the access database that sets the list of a capability.
type change struct {
	entry *entry.Entry
	ids   []string
}

// changes are the authorized entries of the access database.
type changes struct {
	keys    []string            // of capabilities and of retained entries
	of      map[string][]change // by key, newest first
	entries map[string]*entry.Entry
}

func (a *AccessController) changes(ctx context.Context) (changes, error) {
	c := changes{of: make(map[string][]change), entries: make(map[string]*entry.Entry)}
	for e, err := range a.managed.Iterate(ctx, Range{}) {
		if err != nil {
			return c, err
		}
		c.entries[e.Hash()] = e
		op, ok := keyed.Parse(e.Payload)
		key, isText := op.Key.Text()
		if !ok || !isText {
			continue
		}
		ids, err := manifest.Texts(op.Value)
		if err != nil && !op.Deleted {
			continue // not a list
		}
		if c.of[key] == nil && (key == CapabilityWrite || key == CapabilityAdmin || strings.HasPrefix(key, retainedPrefix)) {
			c.keys = append(c.keys, key)
		}
		c.of[key] = append(c.of[key], change{e, ids})
	}
	return c, nil
}

// ancestors returns the CIDs of an entry and its ancestors.
func (c changes) ancestors(e *entry.Entry) map[string]bool {
	found := map[string]bool{e.Hash(): true}
	for todo := []*entry.Entry{e}; len(todo) > 0; todo = todo[1:] {
		for _, hash := range todo[0].Next {
			if next := c.entries[hash]; next != nil && !found[hash] {
				found[hash] = true
				todo = append(todo, next)
			}
		}
	}
	return found
}

// maxTips is the maximum number of simultaneous changes that are merged.
const maxTips = 16

// tips returns the changes of a key from which no other change descends, newest
// first. The access database shows the first.
func (c changes) tips(key string) (tips []change) {
	ancestors := make(map[string]bool)
	for _, x := range c.of[key] {
		if ancestors[x.entry.Hash()] {
			continue
		}
		if tips = append(tips, x); len(tips) == maxTips {
			break
		}
		for hash := range c.ancestors(x.entry) {
			ancestors[hash] = true
		}
	}
	return tips
}

// merge returns the list that has the changes of all tips of a key. It contains
// an identity if one of the tips does, unless two tips began with a list that
// contained the identity and one of them removed it.
func (c changes) merge(key string, tips []change) (ids []string) {
	lists := make([]idSet, len(tips))
	ancestors := make([]map[string]bool, len(tips))
	for i, x := range tips {
		lists[i] = make(idSet, len(x.ids))
		lists[i].add(x.ids)
		if len(tips) > 1 {
			ancestors[i] = c.ancestors(x.entry)
		}
	}
	done := make(idSet) // identities that were revoked or are already added
	for i := range tips {
		for j := range i {
			for _, id := range c.base(key, ancestors[i], ancestors[j]) {
				if !lists[i][id] || !lists[j][id] {
					done[id] = true
				}
			}
		}
	}
	for _, x := range tips {
		for _, id := range x.ids {
			if !done[id] {
				done[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// base returns the list of a key with which two entries began, given their
// ancestors.
func (c changes) base(key string, a, b map[string]bool) []string {
	for _, x := range c.of[key] {
		if a[x.entry.Hash()] && b[x.entry.Hash()] {
			return x.ids
		}
	}
	return nil
}

// sameSet reports whether two lists contain the same IDs.
func sameSet(a, b []string) bool {
	in, of := make(idSet), make(idSet)
	in.add(a)
	of.add(b)
	return maps.Equal(in, of)
}
