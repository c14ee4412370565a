package oplog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/store"
)

// mark is what is known of an entry whose effect is to be decided anew.
type mark byte

const (
	doubted  mark = iota // an entry that names it may have lost its anchor
	granted              // the access list changed in favour of its writer
	anchored             // an anchor descends from it
)

func (l *Log) revisionKey(number uint64) string { return store.Key(l.key("revise"), number) }

// enqueue has the effect of an entry of the log be decided anew.
func (l *Log) enqueue(tx *store.Tx, sum *summary, hash string, m mark) error {
	at, err := l.locate(tx, hash)
	if err != nil {
		return err
	}
	return l.enqueueAt(tx, sum, at.Number, m)
}

func (l *Log) enqueueAt(tx *store.Tx, sum *summary, number uint64, m mark) error {
	key := l.revisionKey(number)
	old, err := tx.Get(key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		sum.Queue++
	case err != nil:
		return err
	case len(old) != 1:
		return fmt.Errorf("%w of %s: %s", ErrDamaged, l.id, key)
	case mark(old[0]) >= m:
		return nil
	case mark(old[0]) == doubted:
		sum.Doubted--
	}
	if m == doubted {
		sum.Doubted++
	}
	return tx.Put(key, []byte{byte(m)})
}

// revisePerUpdate is how many entries a transaction decides anew.
const revisePerUpdate = 256

// decideQueued decides the effect of the newest entries of the queue, and of
// those that they name in turn. An entry's parents came before it, so the order
// of arrival, from the last one down, is one in which all descendants of an
// entry are decided before it is.
func (l *Log) decideQueued(tx *store.Tx, sum *summary) error {
	w := newWalk()
	lowest := uint64(0) // what is below stays in the queue
	for r, err := range tx.Descend(l.key("revise")) {
		if err != nil {
			return err
		}
		if len(r.Value) != 1 {
			return fmt.Errorf("%w of %s: entry %d of the queue", ErrDamaged, l.id, r.Number)
		}
		w.push(r.Number, mark(r.Value[0]))
		if len(w.numbers) == revisePerUpdate {
			lowest = r.Number
			break
		}
	}
	for range revisePerUpdate {
		if len(w.numbers) == 0 {
			break
		}
		number, m := w.pop()
		if err := l.dequeue(tx, sum, number, m); err != nil {
			return err
		}
		err := l.decide(tx, sum, number, m, func(number uint64, m mark) error {
			if err := l.enqueueAt(tx, sum, number, m); err != nil {
				return err
			}
			if number >= lowest {
				w.push(number, m)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dequeue removes an entry from the queue, if it is there.
func (l *Log) dequeue(tx *store.Tx, sum *summary, number uint64, m mark) error {
	key := l.revisionKey(number)
	if ok, err := tx.Has(key); err != nil || !ok {
		return err
	}
	sum.Queue--
	if m == doubted {
		sum.Doubted--
	}
	return tx.Delete(key)
}

// Revise has the log count by another access list from now on, and returns once
// it does. The cost grows with the entries whose effect changes, and, where an
// identity is removed, with the entries that are newer than the oldest of
// those: they are looked at in chunks, between which other work goes on. A
// Revise that was interrupted is finished by the next one, or by [Log.Wake].
func (l *Log) Revise(ctx context.Context, a Access) error {
	l.revising.Lock()
	defer l.revising.Unlock()
	if err := l.Wake(ctx); err != nil {
		return err
	}
	now, err := l.Access(ctx)
	if err != nil {
		return err
	}
	a.Known = slices.Concat(now.Known, a.Known)
	// What is removed comes first: an entry that is looked at because of an
	// addition keeps the anchors that it has.
	for _, next := range []struct {
		Access
		seed func(tx *store.Tx, sum *summary, before Access) error
	}{{now.intersect(a), l.queueHeads}, {a, l.queueAdded}} {
		if bytes.Equal(next.encode(), now.encode()) {
			continue
		}
		if err := l.update(ctx, func(tx *store.Tx, sum *summary) error {
			if err := tx.Put(l.key("access"), next.Access.encode()); err != nil {
				return err
			}
			sum.access = nil
			l.isInitial.Store(false)
			return next.seed(tx, sum, now)
		}); err != nil {
			return err
		}
		if err := l.Wake(ctx); err != nil {
			return err
		}
		now = next.Access
	}
	return l.restoreSlots(ctx)
}

// queueHeads has the anchors of all that counts be looked for anew, from the
// heads down, and further down to the entries that are kept no more.
func (l *Log) queueHeads(tx *store.Tx, sum *summary, before Access) error {
	heads, err := l.heads(tx, sum)
	if err != nil {
		return err
	}
	for _, p := range heads {
		if err := l.enqueue(tx, sum, p.Hash, doubted); err != nil {
			return err
		}
	}
	now, err := l.access(tx, sum)
	if err != nil {
		return err
	}
	for _, hash := range before.Kept {
		if now.retained[hash] {
			continue
		}
		if err := l.enqueue(tx, sum, hash, doubted); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// queueAdded has the entries without effect be looked at that may count because
// of what is on the access list and was not before.
func (l *Log) queueAdded(tx *store.Tx, sum *summary, before Access) error {
	old := before.sets()
	now, err := l.access(tx, sum)
	if err != nil {
		return err
	}
	prefixes := make(map[string]bool)
	for _, added := range []struct{ now, old map[string]bool }{{now.writers, old.writers}, {now.known, old.known}} {
		for id := range added.now {
			switch {
			case added.old[id]:
			case id == Anyone:
				prefixes[l.key("idle")] = true
			default:
				prefixes[l.unauthorizedPrefix(id)] = true
			}
		}
	}
	for prefix := range prefixes {
		for r, err := range tx.Scan(prefix) {
			if err != nil {
				return err
			}
			if err := l.enqueue(tx, sum, string(r.Value), granted); err != nil {
				return err
			}
		}
	}
	for hash := range now.retained {
		if old.retained[hash] {
			continue
		}
		if err := l.enqueue(tx, sum, hash, granted); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// Losing tells what would cease to count with another access list: the number of
// entries, and the CIDs of the tips, the entries among them from which no entry
// that counts descends. It reads the entries that are newer than the oldest of
// those, and holds the hashes of some in memory.
func (l *Log) Losing(ctx context.Context, a Access) (entries int, tips []string, err error) {
	g := blocks.Reading(ctx, l.store)
	lists := a.sets()
	heads := make(map[string]bool)
	w := newWalk()
	push := func(hash string, m mark) error {
		at, err := l.locate(g, hash)
		if err == nil {
			w.push(at.Number, m)
		}
		return err
	}
	_, now, err := l.storedHeads(g)
	if err != nil {
		return 0, nil, err
	}
	for _, p := range now {
		heads[p.Hash] = true
		if err := push(p.Hash, doubted); err != nil {
			return 0, nil, err
		}
	}
	for w.doubted > 0 {
		number, m := w.pop()
		e, err := l.numbered(g, number)
		if gone(err) {
			continue
		}
		if err != nil {
			return entries, tips, err
		}
		v, err := l.decision(g, e)
		if err != nil {
			return entries, tips, err
		}
		if v.valid && lists.anchors(e.Hash(), v.writer) {
			m = anchored
		}
		if v.authorized && !(m == anchored && lists.eligible(e.Hash(), v.writer)) {
			if entries++; heads[e.Hash()] {
				tips = append(tips, e.Hash())
			}
		}
		for _, hash := range e.Next {
			if err := push(hash, m); err != nil {
				return entries, tips, err
			}
		}
	}
	return entries, tips, nil
}
