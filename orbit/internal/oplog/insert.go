package oplog

import (
	"encoding/binary"
	"slices"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// insert adds an entry to the log, which contains all of its parents. writer is
// the ID of its identity. invalid is the reason why the entry is invalid, or
// nil.
func (l *Log) insert(tx *store.Tx, sum *summary, e *entry.Entry, writer string, invalid error) error {
	sum.Numbers++
	sum.Bytes += uint64(len(e.Block.Data))
	if err := blocks.PutEntry(tx, blocks.Location{Log: l.number, Number: sum.Numbers}, e.Block); err != nil {
		return err
	}
	return l.index(tx, sum, e, sum.Numbers, writer, invalid)
}

// index updates everything that is derived from a stored entry.
func (l *Log) index(tx *store.Tx, sum *summary, e *entry.Entry, number uint64, writer string, invalid error) error {
	p, err := l.rank(tx, sum, e, invalid)
	if err != nil {
		return err
	}
	if invalid != nil {
		sum.Unauthorized++
		if err := tx.Put(l.reasonKey(e.Hash()), []byte(invalid.Error())); err != nil {
			return err
		}
		return l.setUnanchored(tx, e.Hash(), true)
	}
	lists, err := l.access(tx, sum)
	if err != nil {
		return err
	}
	if !lists.anchors(e.Hash(), writer) {
		if err := l.deny(tx, sum, e.Hash(), writer); err != nil {
			return err
		}
		return l.setUnanchored(tx, e.Hash(), true)
	}
	if err := l.anchorParents(tx, sum, e.Next); err != nil {
		return err
	}
	if err := l.setHead(tx, sum, p, true); err != nil {
		return err
	}
	return l.addAuthorized(tx, sum, e, p, number)
}

// anchorParents records that an anchor descends from entries.
func (l *Log) anchorParents(tx *store.Tx, sum *summary, hashes []string) error {
	if sum.covered && sum.Doubted == 0 {
		return nil // heads are anchored
	}
	for _, hash := range distinct(hashes) {
		if err := l.removeHead(tx, sum, hash); err != nil {
			return err
		}
		if sum.Unauthorized+sum.Queue == 0 {
			continue
		}
		decide := sum.Doubted > 0
		if !decide {
			var err error
			if decide, err = tx.Has(l.unanchoredKey(hash)); err != nil {
				return err
			}
		}
		if !decide {
			continue
		}
		if err := l.enqueue(tx, sum, hash, anchored); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// addAuthorized updates everything that is derived from an authorized entry,
// except the heads.
func (l *Log) addAuthorized(tx *store.Tx, sum *summary, e *entry.Entry, p entry.Position, number uint64) error {
	sum.add(p)
	if err := tx.Put(l.orderKey(p), binary.AppendUvarint(nil, number)); err != nil {
		return err
	}
	time, _ := encodePosition(p)
	if err := l.addToTree(tx, time, p.Hash); err != nil {
		return err
	}
	keys, err := l.config.State.Apply(tx, e, Ref{p, number})
	sum.Keys += uint64(keys)
	return err
}

// distinct returns the hashes without duplicates.
func distinct(hashes []string) []string {
	if len(hashes) < 2 {
		return hashes
	}
	seen := make(map[string]bool, len(hashes))
	return slices.DeleteFunc(slices.Clone(hashes), func(h string) bool {
		was := seen[h]
		seen[h] = true
		return was
	})
}
