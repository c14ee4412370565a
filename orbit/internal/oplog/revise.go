package oplog

import (
	"container/heap"
	"context"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// mark is what is known of an entry whose effect is to be decided anew.
type mark byte

const (
	doubted  mark = iota // an entry that names it may have lost its anchor
	seeded               // the access list changed in favour of its writer
	anchored             // an anchor descends from it
)

// denied is the reason why a valid entry does not count.
const denied = "its writer is not on the access list"

// verdict is what is stored of an entry's effect.
type verdict struct {
	valid  bool
	writer string // ID, where it is valid
	counts bool
	reason string // why it does not count
}

// verdict returns what is stored of an entry's effect.
func (l *Log) verdict(g blocks.Getter, e *entry.Entry) (v verdict, err error) {
	if v.reason, err = l.fault(g, e.Hash()); err != nil {
		return v, err
	}
	v.counts = v.reason == ""
	if v.valid = v.counts || v.reason == denied; v.valid {
		v.writer, err = l.config.Writer(g, e)
	}
	return v, err
}

func (l *Log) looseKey(hash string) string { return l.key("loose/" + hash) }

// idlePrefix is where the valid entries of a writer are that do not count. An
// ID may be any text, so its hash stands for it.
func (l *Log) idlePrefix(writer string) string { return l.key("idle/" + block.Hash([]byte(writer))) }

func (l *Log) idleKey(writer, hash string) string { return l.idlePrefix(writer) + "/" + hash }

func (l *Log) queueKey(number uint64) string { return store.Key(l.key("revise"), number) }

// enqueue has the effect of an entry of the log be decided anew.
func (l *Log) enqueue(tx *store.Tx, sum *summary, hash string, m mark) error {
	at, err := l.locate(tx, hash)
	if err != nil {
		return err
	}
	return l.enqueueAt(tx, sum, at.Number, m)
}

func (l *Log) enqueueAt(tx *store.Tx, sum *summary, number uint64, m mark) error {
	key := l.queueKey(number)
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
		sum.Doubtful--
	}
	if m == doubted {
		sum.Doubtful++
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
		key := l.queueKey(number)
		if ok, err := tx.Has(key); err != nil {
			return err
		} else if ok {
			if err := tx.Delete(key); err != nil {
				return err
			}
			sum.Queue--
			if m == doubted {
				sum.Doubtful--
			}
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
	was, err := l.verdict(tx, e)
	if err != nil {
		return err
	}
	loose, err := tx.Has(l.looseKey(hash))
	if err != nil {
		return err
	}
	lists, err := l.access(tx, sum)
	if err != nil {
		return err
	}
	if m == seeded && was.counts {
		return nil
	}
	below := m == anchored || m == seeded && !loose // an anchor descends from it
	isAnchored := below || was.valid && lists.anchors(hash, was.writer)
	counts := was.valid && isAnchored && lists.takes(hash, was.writer)
	if isAnchored == loose {
		if err := l.setLoose(tx, hash, !isAnchored); err != nil {
			return err
		}
	}
	if counts != was.counts {
		sum.Revision++
		sum.flipped = append(sum.flipped, number)
		at := blocks.Location{Log: l.number, Number: number}
		if counts {
			err = l.admit(tx, sum, e, at.Number, was.writer)
		} else {
			err = l.retract(tx, sum, e, at.Number, was.writer)
		}
		if err != nil {
			return err
		}
	}
	if counts {
		p, err := PositionOf(tx, l.number, e)
		if err != nil {
			return err
		}
		if err := l.setHead(tx, sum, p, !below); err != nil {
			return err
		}
	}
	next := anchored
	switch {
	case isAnchored && (loose || sum.Doubtful > 0):
	case !isAnchored && !loose:
		next = doubted
	default: // it is as it was, and so is what it names
		return nil
	}
	for _, parent := range e.Next {
		at, err := l.locate(tx, parent)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := push(at.Number, next); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) setLoose(tx *store.Tx, hash string, loose bool) error {
	if loose {
		return tx.Put(l.looseKey(hash), nil)
	}
	return tx.Delete(l.looseKey(hash))
}

// admit makes an entry count that is part of the log and does not.
func (l *Log) admit(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string) error {
	sum.Faults--
	for _, key := range []string{l.faultKey(e.Hash()), l.idleKey(writer, e.Hash())} {
		if err := tx.Delete(key); err != nil {
			return err
		}
	}
	p, err := PositionOf(tx, l.number, e)
	if err != nil {
		return err
	}
	return l.count(tx, sum, e, p, number)
}

// retract makes an entry cease to count.
func (l *Log) retract(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string) error {
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
	time, _ := place(p)
	if err := l.shrink(tx, time, p.Hash); err != nil {
		return err
	}
	keys, err := l.config.State.Retract(tx, e, Ref{p, number})
	sum.Keys += uint64(keys)
	return err
}

// deny notes that a valid entry does not count.
func (l *Log) deny(tx *store.Tx, sum *summary, hash, writer string) error {
	sum.Faults++
	if err := tx.Put(l.idleKey(writer, hash), []byte(hash)); err != nil {
		return err
	}
	return tx.Put(l.faultKey(hash), []byte(denied))
}

// restorePerPass is how many keys a pass over the log restores.
const restorePerPass = 1 << 14

// restore applies again, for each key whose newest operation was retracted, the
// newest operation that counts. It reads the log from its newest entry down
// until it has found all, or once for each [restorePerPass] keys that have no
// operation any more. What is interrupted begins anew.
func (l *Log) restore(ctx context.Context) error {
	for {
		slots, err := l.config.State.Lapsed(ctx, l.store, restorePerPass)
		if err != nil || len(slots) == 0 {
			return err
		}
		left := setOf(slots)
		var found []located
		flush := func(done ...string) error {
			err := l.update(ctx, func(tx *store.Tx, sum *summary) error {
				for _, f := range found {
					keys, err := l.config.State.Apply(tx, f.entry, f.Ref)
					if err != nil {
						return err
					}
					sum.Keys += uint64(keys)
					sum.flipped = append(sum.flipped, f.Number) // it shows only now
				}
				for _, slot := range done {
					if err := l.config.State.Restored(tx, slot); err != nil {
						return err
					}
				}
				return nil
			})
			found = nil
			return err
		}
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
			found, done = append(found, located{ref, e}), append(done, slot)
			if len(found) == maxPerUpdate {
				if err := flush(done...); err != nil {
					return err
				}
				done = nil
			}
			if len(left) == 0 {
				break
			}
		}
		for slot := range left {
			done = append(done, slot)
		}
		if err := flush(done...); err != nil {
			return err
		}
	}
}

// located is an entry with its place.
type located struct {
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
	numbers  numbers
	marks    map[uint64]mark
	doubtful int
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
		w.doubtful--
	}
	if m == doubted {
		w.doubtful++
	}
	w.marks[number] = m
}

func (w *walk) pop() (number uint64, m mark) {
	number = heap.Pop(&w.numbers).(uint64)
	m = w.marks[number]
	delete(w.marks, number)
	if m == doubted {
		w.doubtful--
	}
	return number, m
}

// numbers is a heap with the largest first.
type numbers []uint64

func (n numbers) Len() int           { return len(n) }
func (n numbers) Less(i, j int) bool { return n[i] > n[j] }
func (n numbers) Swap(i, j int)      { n[i], n[j] = n[j], n[i] }
func (n *numbers) Push(x any)        { *n = append(*n, x.(uint64)) }
func (n *numbers) Pop() any {
	last := len(*n) - 1
	x := (*n)[last]
	*n = (*n)[:last]
	return x
}
