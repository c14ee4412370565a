package oplog

import (
	"context"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// Glance is what the summary of a log tells without opening the log.
type Glance struct {
	Entries      uint64 // authorized entries
	Keys         uint64 // live keys of the state
	Last         uint64 // number of the entry that arrived last
	Bytes        uint64 // as in [Stats]; 0 if an earlier version wrote the summary
	PendingBytes uint64 // as in [Stats]
	Revising     uint64 // entries whose authorization is being decided again
	Pending      uint64 // pending entries
	Outdated     bool   // an earlier version wrote the index
	Unfinished   bool   // a rebuild was interrupted, or is running
}

// Look returns what the summary of a log tells. The log may be open. The error
// is [ErrDamaged] if the summary is corrupt. An empty log may have none.
func Look(ctx context.Context, s *store.Store, number uint64) (Glance, error) {
	l := &Log{store: s, number: number}
	record, err := s.Get(ctx, l.summaryKey())
	if errors.Is(err, store.ErrNotFound) {
		return Glance{}, nil
	}
	if err != nil {
		return Glance{}, err
	}
	sum := new(summary)
	if _, _, err := sum.decodeNumbers(record); err != nil {
		return Glance{}, fmt.Errorf("%w: summary of %s: %v", ErrDamaged, blocks.LogPrefix(number), err)
	}
	return Glance{
		Entries: sum.Authorized, Keys: sum.Keys, Last: sum.Numbers, Bytes: sum.Bytes, PendingBytes: sum.PendingBytes,
		Revising: sum.Queue, Pending: sum.Pending, Outdated: sum.outdated, Unfinished: sum.Rebuild != 0,
	}, nil
}

// maxLooks is how often Root reads a log that is written meanwhile.
const maxLooks = 8

// Root returns the root of the tree of a log that need not be open, and whether
// authorization is settled: the log opens without a rebuild, and no
// authorization is being decided.
func Root(ctx context.Context, s *store.Store, number uint64) (root Node, settled bool, err error) {
	l := &Log{store: s, number: number, id: blocks.LogPrefix(number)}
	for range maxLooks {
		g, err := Look(ctx, s, number)
		if errors.Is(err, ErrDamaged) {
			return root, false, nil
		}
		settled = !g.Outdated && !g.Unfinished && g.Revising == 0
		if err != nil || !settled || g.Entries == 0 {
			return root, settled, err
		}
		root, err = l.Node(ctx, "")
		if errors.Is(err, ErrDamaged) {
			return root, false, nil
		}
		if err != nil || root.Count == g.Entries {
			return root, true, err
		}
	}
	return root, false, nil // an earlier version wrote it without a tree
}
