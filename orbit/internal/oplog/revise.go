package oplog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// mark is why the authorization of an entry must be decided again. Of two
// marks, the larger takes precedence.
type mark byte

const (
	doubted  mark = iota // an entry that names it may have ceased to be anchored
	granted              // the access list changed in favour of its writer
	anchored             // an anchor descends from it
)

func (l *Log) revisionKey(number uint64) string { return store.Key(l.key("revise"), number) }

// enqueue queues an entry of the log for a new decision on its authorization.
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

// revisePerUpdate is the number of entries that one transaction decides.
const revisePerUpdate = 256

// decideQueued decides on the newest entries of the queue and, in turn, on
// their parents. Parents arrive before their children, so in descending order
// of arrival each entry is decided after all of its descendants.
func (l *Log) decideQueued(tx *store.Tx, sum *summary) error {
	w := newWalk()
	lowest := uint64(0) // entries below it stay in the queue
	for r, err := range tx.Descend(l.key("revise")) {
		if err != nil {
			return err
		}
		if len(r.Value) != 1 {
			return fmt.Errorf("%w of %s: record %d of the revision queue", ErrDamaged, l.id, r.Number)
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

// dequeue removes an entry from the queue if it is there.
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

// Revise changes the access list of the log and returns when the decisions on
// all entries conform to it. The cost grows with the entries whose
// authorization changes and, if an identity is removed, with the entries that
// are newer than the oldest of those. Revise visits them in chunks, between
// which other writes proceed. The next Revise, or [Log.Resume], completes an
// interrupted one.
func (l *Log) Revise(ctx context.Context, a Access) error {
	l.revising.Lock()
	defer l.revising.Unlock()
	if err := l.Resume(ctx); err != nil {
		return err
	}
	now, err := l.Access(ctx)
	if err != nil {
		return err
	}
	a.Known = slices.Concat(now.Known, a.Known)
	// Removals come first, so that an entry visited because of an addition
	// stays anchored.
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
		if err := l.Resume(ctx); err != nil {
			return err
		}
		now = next.Access
	}
	return l.restoreSlots(ctx)
}

// queueHeads queues the heads and the entries that are no longer retained, to
// find out which of their ancestors are still anchored.
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
	for _, hash := range before.Retained {
		if now.retained[hash] {
			continue
		}
		if err := l.enqueue(tx, sum, hash, doubted); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// queueAdded queues the unauthorized entries that may be authorized because of
// an addition to the access list.
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

// WouldRevoke returns what another access list would revoke: the number of
// entries, and the CIDs of the tips, which are the current heads among them. It
// reads the entries that are newer than the oldest of those, and holds some of
// their hashes in memory.
func (l *Log) WouldRevoke(ctx context.Context, a Access) (entries int, tips []string, err error) {
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
		e, err := l.byNumber(g, number)
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
