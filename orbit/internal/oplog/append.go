package oplog

import (
	"context"
	"fmt"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

// Append writes one entry for each payload, all or none, and returns them once
// they are durable. The error is [ErrNotAllowed] if the identity of s is not on
// the access list.
func (l *Log) Append(ctx context.Context, s *identity.Signer, payloads ...value.Value) ([]*entry.Entry, error) {
	return l.AppendIf(ctx, s, func(blocks.Getter) error { return nil }, payloads...)
}

// AppendIf is like Append, but first calls check in the same transaction. If
// check returns an error, AppendIf writes nothing and returns that error. check
// sees all ancestors of the new entries.
func (l *Log) AppendIf(ctx context.Context, s *identity.Signer, check func(blocks.Getter) error, payloads ...value.Value) ([]*entry.Entry, error) {
	var entries []*entry.Entry
	err := l.update(ctx, func(tx *store.Tx, sum *summary) error {
		if err := check(tx); err != nil {
			return err
		}
		lists, err := l.access(tx, sum)
		if err != nil {
			return err
		}
		if !contains(lists.writers, s.ID) {
			return fmt.Errorf("%w to %s: identity %s", ErrNotAllowed, l.id, s.ID)
		}
		entries = make([]*entry.Entry, 0, len(payloads))
		for _, p := range payloads {
			sum.covered = sum.paged()
			heads, err := l.takeHeads(tx, sum)
			if err != nil {
				return err
			}
			refs, err := l.references(tx, sum, lists, len(heads))
			if err != nil {
				return err
			}
			e, err := entry.New(s, l.id, p, heads, refs)
			if err != nil {
				return err
			}
			if err := l.insert(tx, sum, e, s.ID, nil); err != nil {
				return err
			}
			sum.Own = sum.Newest[:1:1] // its clock is larger than that of every head
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// references returns the refs of the next entry. They follow, in the order of
// the log, after as many of the newest entries as the entry names in next.
// Entries whose writers are not on the access list are left out, because
// JavaScript cannot join an entry that refers to one. An entry that names more
// than maxInline heads has no refs: finding them would cost a read for each
// head.
func (l *Log) references(tx *store.Tx, sum *summary, lists *accessSets, heads int) (refs []string, err error) {
	if heads > maxInline {
		return []string{}, nil
	}
	want := int(min(uint64(heads+entry.MaxRefs), sum.Authorized))
	newest := sum.Newest
	if len(newest) < want {
		series := l.key("order")
		if newest, err = first(max(want, sum.newestLimit()), positions(tx.Descend(series), series)); err != nil {
			return nil, err
		}
		if len(newest) < want {
			return nil, fmt.Errorf("%w of %s: the order lacks entries", ErrDamaged, l.id)
		}
		sum.Newest = newest[:min(len(newest), sum.newestLimit())]
	}
	refs = []string{}
	for _, p := range newest[min(heads, want):want] {
		if lists.hasFormer() {
			e, err := l.get(tx, p.Hash)
			if gone(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			writer, err := l.config.Writer(tx, e)
			if err != nil {
				return nil, err
			}
			if !contains(lists.writers, writer) {
				continue
			}
		}
		refs = append(refs, p.Hash)
	}
	return refs, nil
}
