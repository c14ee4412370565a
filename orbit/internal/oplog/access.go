package oplog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/store"
)

// Anyone stands for every identity in a list of identity IDs.
const Anyone = "*"

// ErrNotAllowed means that an identity is not on the access list.
var ErrNotAllowed = errors.New("not allowed to write")

// Access is the access list of a log. It decides which entries are authorized.
// Replicas with the same entries and the same Access authorize the same
// entries, in whatever order those arrived.
//
// A valid entry ([entry.Entry.Check]) is an anchor if its writer is in Writers
// or its CID is in Retained. A valid entry is authorized if it is an anchor, or
// an ancestor of one through next, and its writer is in Known or its CID is in
// Retained.
type Access struct {
	Writers  []string // IDs of the current writers
	Known    []string // IDs of the current and former writers; it only grows
	Retained []string // CIDs of retained entries, whose writers may be revoked
}

// MayWrite reports whether an identity is a current writer.
func (a Access) MayWrite(id string) bool {
	return slices.Contains(a.Writers, id) || slices.Contains(a.Writers, Anyone)
}

// Anchors reports whether a valid entry of a writer is an anchor.
func (a Access) Anchors(hash, writer string) bool {
	return a.MayWrite(writer) || slices.Contains(a.Retained, hash)
}

// accessSets are the lists of an Access as sets.
type accessSets struct{ writers, known, retained map[string]bool }

func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, item := range list {
		set[item] = true
	}
	return set
}

func (a Access) sets() *accessSets {
	return &accessSets{setOf(a.Writers), setOf(a.Known), setOf(a.Retained)}
}

func contains(ids map[string]bool, id string) bool { return ids[id] || ids[Anyone] }

// anchors reports whether a valid entry of a writer is an anchor.
func (s *accessSets) anchors(hash, writer string) bool {
	return contains(s.writers, writer) || s.retained[hash]
}

// eligible reports whether a valid entry of a writer is authorized if it is
// anchored.
func (s *accessSets) eligible(hash, writer string) bool {
	return contains(s.known, writer) || s.retained[hash]
}

// hasFormer reports whether entries of former writers can be authorized.
func (s *accessSets) hasFormer() bool {
	return !s.writers[Anyone] && (len(s.known) > len(s.writers) || len(s.retained) > 0)
}

// lists returns the lists of an Access, each sorted and without duplicates.
func (a Access) lists() [3][]string {
	lists := [3][]string{a.Writers, a.Known, a.Retained}
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
	for _, list := range []*[]string{&a.Writers, &a.Known, &a.Retained} {
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

// intersect returns the items that both access lists contain.
func (a Access) intersect(b Access) (both Access) {
	theirs := b.sets()
	for _, l := range []struct {
		from []string
		in   map[string]bool
		to   *[]string
	}{{a.Writers, theirs.writers, &both.Writers}, {a.Known, theirs.known, &both.Known}, {a.Retained, theirs.retained, &both.Retained}} {
		for _, item := range l.from {
			if l.in[item] {
				*l.to = append(*l.to, item)
			}
		}
	}
	return both
}

// accessCache holds the last access record that was read, encoded and decoded.
type accessCache struct {
	record []byte
	sets   *accessSets
}

// access returns the access list of the log. A transaction reads it once.
func (l *Log) access(tx *store.Tx, sum *summary) (lists *accessSets, err error) {
	if sum.access == nil {
		sum.access, err = l.readAccess(tx)
	}
	return sum.access, err
}

func (l *Log) readAccess(tx *store.Tx) (*accessSets, error) {
	if l.isInitial.Load() { // leveldb is slow to look up keys that do not exist
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

// Access returns the current access list of the log.
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
