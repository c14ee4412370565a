package oplog

import (
	"context"
	"fmt"

	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
)

// Append writes an entry for each payload, one after the other and all of them
// or none, and returns them when they are on disk. The error is [ErrNotAllowed]
// where the identity of s is not on the access list.
func (l *Log) Append(ctx context.Context, s *identity.Signer, payloads ...value.Value) ([]*entry.Entry, error) {
	return l.AppendIf(ctx, s, func(blocks.Getter) error { return nil }, payloads...)
}

// AppendIf is Append, but writes nothing and returns the error of check if that
// contains one. check sees all ancestors of the new entries.
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
			sum.Own = sum.Newest[:1:1] // its clock is larger than those of all heads
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// references returns what the next entry refers to: the newest entries behind as
// many as it names heads, but for those of writers that are not on the access list.
// JavaScript cannot join an entry that refers to one of those. An entry that names
// more than maxInline heads refers to none: that many would have to be passed by.
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
			return nil, fmt.Errorf("%w of %s: its order has too few entries", ErrDamaged, l.id)
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
