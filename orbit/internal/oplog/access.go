package oplog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/store"
)

// Anyone in a list of IDs stands for every identity.
const Anyone = "*"

// ErrNotAllowed says that an identity is not on the access list.
var ErrNotAllowed = errors.New("not allowed to write")

// Access is the access list by which the entries of a log count. Replicas that
// have the same entries and the same Access count the same entries, whatever
// came in which order.
//
// An entry is an anchor if it is valid (entry.Entry.Check) and its writer is
// in Writers, or its CID in Kept. An entry counts if it is valid, an anchor
// descends from it through next or it is one itself, and its writer is in Known
// or its CID in Kept.
type Access struct {
	Writers []string // IDs of the identities that may write now
	Known   []string // IDs of those that may write now or could at some time; it only grows
	Kept    []string // CIDs of entries that count although their writers may not write now
}

// MayWrite reports whether an identity is among the present writers.
func (a Access) MayWrite(id string) bool {
	return slices.Contains(a.Writers, id) || slices.Contains(a.Writers, Anyone)
}

// Anchors reports whether a valid entry of a writer is an anchor.
func (a Access) Anchors(hash, writer string) bool {
	return a.MayWrite(writer) || slices.Contains(a.Kept, hash)
}

// sets are the lists of an Access.
type sets struct{ writers, known, kept map[string]bool }

func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, item := range list {
		set[item] = true
	}
	return set
}

func (a Access) sets() *sets { return &sets{setOf(a.Writers), setOf(a.Known), setOf(a.Kept)} }

func has(ids map[string]bool, id string) bool { return ids[id] || ids[Anyone] }

// anchors reports whether a valid entry of a writer is an anchor.
func (s *sets) anchors(hash, writer string) bool { return has(s.writers, writer) || s.kept[hash] }

// takes reports whether a valid entry of a writer counts once it is anchored.
func (s *sets) takes(hash, writer string) bool { return has(s.known, writer) || s.kept[hash] }

// former reports whether entries may count whose writers are not on the present list.
func (s *sets) former() bool {
	return !s.writers[Anyone] && (len(s.known) > len(s.writers) || len(s.kept) > 0)
}

// lists are the lists of an Access, each sorted and without repetition.
func (a Access) lists() [3][]string {
	lists := [3][]string{a.Writers, a.Known, a.Kept}
	for i, list := range lists {
		lists[i] = slices.Compact(slices.Sorted(slices.Values(list)))
	}
	return lists
}

func (a Access) encode() []byte {
	lists := a.lists()
	b := dagcbor.AppendArray(nil, len(lists))
	for _, list := range lists {
		b = dagcbor.AppendArray(b, len(list))
		for _, item := range list {
			b = dagcbor.AppendText(b, item)
		}
	}
	return b
}

func decodeAccess(record []byte) (a Access, err error) {
	r := dagcbor.NewReader(record)
	if err := r.Tuple(3); err != nil {
		return a, err
	}
	for _, list := range []*[]string{&a.Writers, &a.Known, &a.Kept} {
		n, err := r.Array()
		if err != nil {
			return a, err
		}
		for range n {
			item, err := r.Text()
			if err != nil {
				return a, err
			}
			*list = append(*list, item)
		}
	}
	return a, r.End()
}

// shared returns what is in both.
func (a Access) shared(b Access) (both Access) {
	theirs := b.sets()
	for _, l := range []struct {
		from []string
		in   map[string]bool
		to   *[]string
	}{{a.Writers, theirs.writers, &both.Writers}, {a.Known, theirs.known, &both.Known}, {a.Kept, theirs.kept, &both.Kept}} {
		for _, item := range l.from {
			if l.in[item] {
				*l.to = append(*l.to, item)
			}
		}
	}
	return both
}

// accessCache is the access record that was read last, and what it says.
type accessCache struct {
	record []byte
	sets   *sets
}

// access returns the lists by which the log counts. A transaction reads them once.
func (l *Log) access(tx *store.Tx, sum *summary) (lists *sets, err error) {
	if sum.lists == nil {
		sum.lists, err = l.readAccess(tx)
	}
	return sum.lists, err
}

func (l *Log) readAccess(tx *store.Tx) (*sets, error) {
	if l.isInitial.Load() { // reads of keys that are not there are slow in leveldb
		return l.initial, nil
	}
	record, err := tx.Get(l.key("access"))
	if errors.Is(err, store.ErrNotFound) {
		l.isInitial.Store(true)
		return l.initial, nil
	}
	if err != nil {
		return nil, err
	}
	if c := l.cachedAccess.Load(); c != nil && bytes.Equal(c.record, record) {
		return c.sets, nil
	}
	a, err := decodeAccess(record)
	if err != nil {
		return nil, fmt.Errorf("%w of %s: access list: %v", ErrDamaged, l.id, err)
	}
	c := &accessCache{record, a.sets()}
	l.cachedAccess.Store(c)
	return c.sets, nil
}

// Access returns the access list by which the log counts.
func (l *Log) Access(ctx context.Context) (Access, error) {
	record, err := l.store.Get(ctx, l.key("access"))
	if errors.Is(err, store.ErrNotFound) {
		return l.config.Access, nil
	}
	if err != nil {
		return Access{}, err
	}
	a, err := decodeAccess(record)
	if err != nil {
		err = fmt.Errorf("%w of %s: access list: %v", ErrDamaged, l.id, err)
	}
	return a, err
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
	}{{now.shared(a), l.doubtHeads}, {a, l.seedAdded}} {
		if bytes.Equal(next.encode(), now.encode()) {
			continue
		}
		if err := l.update(ctx, func(tx *store.Tx, sum *summary) error {
			if err := tx.Put(l.key("access"), next.Access.encode()); err != nil {
				return err
			}
			sum.lists = nil
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
	return l.restore(ctx)
}

// doubtHeads has the anchors of all that counts be looked for anew, from the
// heads down, and further down to the entries that are kept no more.
func (l *Log) doubtHeads(tx *store.Tx, sum *summary, before Access) error {
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
		if now.kept[hash] {
			continue
		}
		if err := l.enqueue(tx, sum, hash, doubted); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// seedAdded has the entries without effect be looked at that may count because
// of what is on the access list and was not before.
func (l *Log) seedAdded(tx *store.Tx, sum *summary, before Access) error {
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
				prefixes[l.idlePrefix(id)] = true
			}
		}
	}
	for prefix := range prefixes {
		for r, err := range tx.Scan(prefix) {
			if err != nil {
				return err
			}
			if err := l.enqueue(tx, sum, string(r.Value), seeded); err != nil {
				return err
			}
		}
	}
	for hash := range now.kept {
		if old.kept[hash] {
			continue
		}
		if err := l.enqueue(tx, sum, hash, seeded); err != nil && !gone(err) {
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
	for w.doubtful > 0 {
		number, m := w.pop()
		e, err := l.numbered(g, number)
		if gone(err) {
			continue
		}
		if err != nil {
			return entries, tips, err
		}
		v, err := l.verdict(g, e)
		if err != nil {
			return entries, tips, err
		}
		if v.valid && lists.anchors(e.Hash(), v.writer) {
			m = anchored
		}
		if v.counts && !(m == anchored && lists.takes(e.Hash(), v.writer)) {
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
