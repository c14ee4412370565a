package oplog

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/store"
)

// mark is what is known of an entry whose effect is to be decided anew.
type mark byte

const (
	doubted  mark = iota // an entry that names it may have lost its anchor
	granted              // the access list changed in favour of its writer
	anchored             // an anchor descends from it
)

// denied is the reason why a valid entry does not count.
const denied = "its writer is not on the access list"

// decision is what is stored of an entry's effect.
type decision struct {
	valid      bool
	writer     string // ID, where it is valid
	authorized bool
	reason     string // why it does not count
}

// decision returns what is stored of an entry's effect.
func (l *Log) decision(g blocks.Getter, e *entry.Entry) (v decision, err error) {
	if v.reason, err = l.unauthorized(g, e.Hash()); err != nil {
		return v, err
	}
	v.authorized = v.reason == ""
	if v.valid = v.authorized || v.reason == denied; v.valid {
		v.writer, err = l.config.Writer(g, e)
	}
	return v, err
}

func (l *Log) unanchoredKey(hash string) string { return l.key("loose/" + hash) }

// unauthorizedPrefix is where the valid entries of a writer are that do not count. An
// ID may be any text, so its hash stands for it.
func (l *Log) unauthorizedPrefix(writer string) string {
	return l.key("idle/" + block.Hash([]byte(writer)))
}

func (l *Log) unauthorizedKey(writer, hash string) string {
	return l.unauthorizedPrefix(writer) + "/" + hash
}

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

// decide decides the effect of an entry, and has push be given the entries that
// it names where that matters to them.
func (l *Log) decide(tx *store.Tx, sum *summary, number uint64, m mark, push func(uint64, mark) error) error {
	e, err := l.numbered(tx, number)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	hash := e.Hash()
	was, err := l.decision(tx, e)
	if err != nil {
		return err
	}
	unanchored, err := tx.Has(l.unanchoredKey(hash))
	if err != nil {
		return err
	}
	lists, err := l.access(tx, sum)
	if err != nil {
		return err
	}
	if m == granted && was.authorized {
		return nil
	}
	covered := m == anchored || m == granted && !unanchored // an anchor descends from it
	isAnchored := covered || was.valid && lists.anchors(hash, was.writer)
	authorized := was.valid && isAnchored && lists.eligible(hash, was.writer)
	if isAnchored == unanchored {
		if err := l.setUnanchored(tx, hash, !isAnchored); err != nil {
			return err
		}
	}
	if authorized != was.authorized {
		if err := l.setAuthorized(tx, sum, e, number, was.writer, authorized); err != nil {
			return err
		}
	}
	if authorized {
		p, err := PositionOf(tx, l.number, e)
		if err != nil {
			return err
		}
		if err := l.setHead(tx, sum, p, !covered); err != nil {
			return err
		}
	}
	switch {
	case isAnchored && (unanchored || sum.Doubted > 0):
		return l.pushParents(tx, e, anchored, push)
	case !isAnchored && !unanchored:
		return l.pushParents(tx, e, doubted, push)
	}
	return nil // it is as it was, and so is what it names
}

// pushParents gives push the entries that one names in next.
func (l *Log) pushParents(tx *store.Tx, e *entry.Entry, m mark, push func(uint64, mark) error) error {
	for _, parent := range e.Next {
		at, err := l.locate(tx, parent)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := push(at.Number, m); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) setUnanchored(tx *store.Tx, hash string, unanchored bool) error {
	if unanchored {
		return tx.Put(l.unanchoredKey(hash), nil)
	}
	return tx.Delete(l.unanchoredKey(hash))
}

// setAuthorized authorizes or revokes a valid entry of the log.
func (l *Log) setAuthorized(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string, authorized bool) error {
	sum.Revision++
	sum.revised = append(sum.revised, number)
	if authorized {
		return l.authorize(tx, sum, e, number, writer)
	}
	return l.revoke(tx, sum, e, number, writer)
}

// authorize makes an entry count that is part of the log and does not.
func (l *Log) authorize(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string) error {
	sum.Unauthorized--
	for _, key := range []string{l.reasonKey(e.Hash()), l.unauthorizedKey(writer, e.Hash())} {
		if err := tx.Delete(key); err != nil {
			return err
		}
	}
	p, err := PositionOf(tx, l.number, e)
	if err != nil {
		return err
	}
	return l.addAuthorized(tx, sum, e, p, number)
}

// revoke makes an entry cease to count.
func (l *Log) revoke(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string) error {
	p, err := PositionOf(tx, l.number, e)
	if err != nil {
		return err
	}
	if err := l.deny(tx, sum, e.Hash(), writer); err != nil {
		return err
	}
	if err := l.setHead(tx, sum, p, false); err != nil {
		return err
	}
	sum.remove(p)
	if err := tx.Delete(l.orderKey(p)); err != nil {
		return err
	}
	time, _ := encodePosition(p)
	if err := l.removeFromTree(tx, time, p.Hash); err != nil {
		return err
	}
	keys, err := l.config.State.Retract(tx, e, Ref{p, number})
	sum.Keys += uint64(keys)
	return err
}

// deny notes that a valid entry does not count.
func (l *Log) deny(tx *store.Tx, sum *summary, hash, writer string) error {
	sum.Unauthorized++
	if err := tx.Put(l.unauthorizedKey(writer, hash), []byte(hash)); err != nil {
		return err
	}
	return tx.Put(l.reasonKey(hash), []byte(denied))
}

// restorePerPass is how many keys a pass over the log restores.
const restorePerPass = 1 << 14

// restoreSlots applies again, for each key whose newest operation was retracted, the
// newest operation that counts. It reads the log from its newest entry down
// until it has found all, or once for each [restorePerPass] keys that have no
// operation any more. What is interrupted begins anew.
func (l *Log) restoreSlots(ctx context.Context) error {
	for {
		slots, err := l.config.State.Lapsed(ctx, l.store, restorePerPass)
		if err != nil || len(slots) == 0 {
			return err
		}
		if err := l.restorePass(ctx, slots); err != nil {
			return err
		}
	}
}

func (l *Log) restorePass(ctx context.Context, slots []string) error {
	left := setOf(slots)
	var found []refEntry
	var done []string
	g := blocks.Reading(ctx, l.store)
	for ref, err := range l.descend(ctx, nil) {
		if err != nil {
			return err
		}
		e, err := l.at(g, ref.Number, ref.Hash)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		slot := l.config.State.Slot(e)
		if slot == "" || !left[slot] {
			continue
		}
		delete(left, slot)
		found, done = append(found, refEntry{ref, e}), append(done, slot)
		if len(found) == maxPerUpdate {
			if err := l.applyAgain(ctx, found, done); err != nil {
				return err
			}
			found, done = nil, nil
		}
		if len(left) == 0 {
			break
		}
	}
	return l.applyAgain(ctx, found, slices.AppendSeq(done, maps.Keys(left)))
}

// applyAgain applies entries again, and marks slots as restored.
func (l *Log) applyAgain(ctx context.Context, entries []refEntry, slots []string) error {
	return l.update(ctx, func(tx *store.Tx, sum *summary) error {
		for _, e := range entries {
			keys, err := l.config.State.Apply(tx, e.entry, e.Ref)
			if err != nil {
				return err
			}
			sum.Keys += uint64(keys)
			sum.revised = append(sum.revised, e.Number) // it shows only now
		}
		for _, slot := range slots {
			if err := l.config.State.Restored(tx, slot); err != nil {
				return err
			}
		}
		return nil
	})
}

// refEntry is an entry with its place.
type refEntry struct {
	Ref
	entry *entry.Entry
}

// numbered returns the entry of a number.
func (l *Log) numbered(g blocks.Getter, number uint64) (*entry.Entry, error) {
	record, err := g.Get(store.Key(blocks.Entries(l.number), number))
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w: entry %d of %s is gone", blocks.ErrDamaged, number, l.id)
	}
	if err != nil {
		return nil, err
	}
	b, err := blocks.DecodeEntry(record)
	if err != nil {
		return nil, fmt.Errorf("%w of %s", err, l.id)
	}
	return entry.Decode(b)
}

// walk is a set of entries by number, each with its mark, from which the
// largest number is taken first.
type walk struct {
	numbers maxHeap
	marks   map[uint64]mark
	doubted int
}

func newWalk() *walk { return &walk{marks: make(map[uint64]mark)} }

// push adds an entry. Of two marks, the higher one stays.
func (w *walk) push(number uint64, m mark) {
	old, ok := w.marks[number]
	if ok && old >= m {
		return
	}
	if !ok {
		heap.Push(&w.numbers, number)
	} else if old == doubted {
		w.doubted--
	}
	if m == doubted {
		w.doubted++
	}
	w.marks[number] = m
}

func (w *walk) pop() (number uint64, m mark) {
	number = heap.Pop(&w.numbers).(uint64)
	m = w.marks[number]
	delete(w.marks, number)
	if m == doubted {
		w.doubted--
	}
	return number, m
}

// maxHeap is a heap with the largest first.
type maxHeap []uint64

func (n maxHeap) Len() int           { return len(n) }
func (n maxHeap) Less(i, j int) bool { return n[i] > n[j] }
func (n maxHeap) Swap(i, j int)      { n[i], n[j] = n[j], n[i] }
func (n *maxHeap) Push(x any)        { *n = append(*n, x.(uint64)) }
func (n *maxHeap) Pop() any {
	last := len(*n) - 1
	x := (*n)[last]
	*n = (*n)[:last]
	return x
}
