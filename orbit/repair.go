package orbit

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/keyed"
	"github.com/newpieceplease/npp/orbit/manifest"
)

// Repair restores what other admins overwrote without knowing it. Where admins
// change the same capability at once, the access database takes the newest of the
// lists, as in JavaScript, and the changes in the others are lost. If one of those
// is of this identity, Repair writes a list that has the changes of all: the grants
// less the revocations, so that a revocation wins for the same identity.
//
// The new list descends from all that it merges, so Repair writes at most once for
// a pair of lists, and admins who repair at once end with the same list. It reports
// how many lists it wrote. Of a fixed list, or where this identity is no admin, it
// does nothing.
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
			continue // others may make any number of keys
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

// listed returns the list at a key, with the changes of admins that did not know of
// each other.
func (a *AccessController) listed(ctx context.Context, key string) ([]string, error) {
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

// changes are the entries of the access database that count.
type changes struct {
	keys    []string            // of capabilities, and of entries that are kept
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
			continue // no list
		}
		if c.of[key] == nil && (key == CapabilityWrite || key == CapabilityAdmin || strings.HasPrefix(key, keptPrefix)) {
			c.keys = append(c.keys, key)
		}
		c.of[key] = append(c.of[key], change{e, ids})
	}
	return c, nil
}

// ancestors returns the hashes of the entries that one descends from, and its own.
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

// maxTips is how many changes that were made at once are merged.
const maxTips = 16

// tips returns the changes of a key from which no other one descends, newest first.
// The first is what the access database shows.
func (c changes) tips(key string) (tips []change) {
	below := make(map[string]bool)
	for _, x := range c.of[key] {
		if below[x.entry.Hash()] {
			continue
		}
		if tips = append(tips, x); len(tips) == maxTips {
			break
		}
		for hash := range c.ancestors(x.entry) {
			below[hash] = true
		}
	}
	return tips
}

// merge returns the list that has the changes of all tips of a key: an identity is in
// it if it is in one of theirs, and no two of them began with a list that had it and
// one of the two took it away.
func (c changes) merge(key string, tips []change) (ids []string) {
	lists := make([]writers, len(tips))
	above := make([]map[string]bool, len(tips))
	for i, x := range tips {
		lists[i] = make(writers, len(x.ids))
		lists[i].add(x.ids)
		if len(tips) > 1 {
			above[i] = c.ancestors(x.entry)
		}
	}
	left := make(writers) // what is not added: it was revoked, or was added
	for i := range tips {
		for j := range i {
			for _, id := range c.base(key, above[i], above[j]) {
				if !lists[i][id] || !lists[j][id] {
					left[id] = true
				}
			}
		}
	}
	for _, x := range tips {
		for _, id := range x.ids {
			if !left[id] {
				left[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// base returns the list of a key that two entries with these ancestors began with.
func (c changes) base(key string, a, b map[string]bool) []string {
	for _, x := range c.of[key] {
		if a[x.entry.Hash()] && b[x.entry.Hash()] {
			return x.ids
		}
	}
	return nil
}

// sameSet reports whether two lists have the same IDs.
func sameSet(a, b []string) bool {
	in, of := make(writers), make(writers)
	in.add(a)
	of.add(b)
	return maps.Equal(in, of)
}
