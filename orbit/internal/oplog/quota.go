package oplog

import (
	"context"
	"encoding/binary"
	"errors"
	"math"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// Quota bounds the bytes of a log's entries from peers. Its methods are called
// often, some of them in transactions, so they must be quick.
type Quota interface {
	// Limits returns the bound on the bytes of the log, and the bound on its
	// pending entries among them.
	Limits() (total, pending uint64)
	// Stored receives the bytes of the log's entries and of its pending entries
	// whenever they may have changed.
	Stored(entries, pending uint64)
}

type unlimited struct{}

func (unlimited) Limits() (total, pending uint64) { return math.MaxUint64, math.MaxUint64 }
func (unlimited) Stored(uint64, uint64)           {}

// pendingLimit returns the bound on the bytes of pending entries.
func (l *Log) pendingLimit(sum *summary) uint64 {
	total, pending := l.config.Quota.Limits()
	return min(l.config.MaxPending, pending, total-min(total, sum.Bytes))
}

// overLimit returns the outcome for an entry that cannot be pending because of
// a bound.
func (l *Log) overLimit(sum *summary) Outcome {
	total, pending := l.config.Quota.Limits()
	if total-min(total, sum.Bytes) < min(pending, l.config.MaxPending) {
		return QuotaFull
	}
	return PendingFull
}

// inQuota reports whether the quota allows another entry of a size.
func (l *Log) inQuota(sum *summary, size uint64) bool {
	total, _ := l.config.Quota.Limits()
	return size <= total && sum.Bytes <= total-size
}

// evictFor evicts pending entries to make another entry of a size fit into the
// quota, which is large enough for the log with that entry.
func (l *Log) evictFor(tx *store.Tx, sum *summary, size uint64) error {
	total, _ := l.config.Quota.Limits()
	return l.evictTo(tx, sum, total-min(total, sum.Bytes+size))
}

// A writer or a peer may use quotaFactor times the free bytes. So the first one
// can use four fifths of a quota, and each further one four fifths of the rest.
const quotaFactor = 4

// inPeerQuotas reports whether the quotas of a candidate's writer and peer
// allow it. These quotas exist only if anyone may write.
func (l *Log) inPeerQuotas(tx *store.Tx, sum *summary, c Candidate) (bool, error) {
	shared, err := l.hasPeerQuotas(tx, sum)
	if err != nil || !shared {
		return true, err
	}
	total, _ := l.config.Quota.Limits()
	free := total - min(total, sum.Bytes)
	for _, key := range l.usageKeys(c.Writer, c.From) {
		used, err := l.used(tx, key)
		if err != nil {
			return false, err
		}
		if (used+uint64(len(c.Entry.Block.Data)))/quotaFactor > free {
			return false, nil
		}
	}
	return true, nil
}

// hasPeerQuotas reports whether writers and peers have quotas of their own.
func (l *Log) hasPeerQuotas(tx *store.Tx, sum *summary) (bool, error) {
	if total, _ := l.config.Quota.Limits(); total == math.MaxUint64 {
		return false, nil
	}
	lists, err := l.access(tx, sum)
	return err == nil && lists.writers[Anyone], err
}

// usageKeys returns the keys of the bytes that a writer and a peer use.
func (l *Log) usageKeys(writer, peer string) [2]string {
	return [2]string{l.key("wrote/" + block.Hash([]byte(writer))), l.key("brought/" + peerName(peer))}
}

// used returns the bytes stored at a usage key.
func (l *Log) used(tx *store.Tx, key string) (uint64, error) {
	record, err := tx.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, size := binary.Uvarint(record)
	if size <= 0 || size < len(record) {
		return 0, l.damaged(key)
	}
	return n, nil
}

// countUsage adds the bytes of an entry to the usage of its writer and of the
// peer that offered it.
func (l *Log) countUsage(tx *store.Tx, sum *summary, writer, peer string, size int) error {
	shared, err := l.hasPeerQuotas(tx, sum)
	if err != nil || !shared {
		return err
	}
	for _, key := range l.usageKeys(writer, peer) {
		used, err := l.used(tx, key)
		if err != nil {
			return err
		}
		if err := tx.Put(key, binary.AppendUvarint(nil, used+uint64(size))); err != nil {
			return err
		}
	}
	return nil
}

// measure computes the bytes of a log that an earlier version wrote, which did
// not count them.
func (l *Log) measure(ctx context.Context) (*summary, error) {
	size := uint64(0)
	for r, err := range l.store.Scan(ctx, blocks.Entries(l.number)) {
		if err != nil {
			return nil, err
		}
		size += uint64(max(0, len(r.Value)-block.HashLen))
	}
	var measured *summary
	err := l.update(ctx, func(_ *store.Tx, sum *summary) error {
		sum.Bytes = size
		measured = sum
		return nil
	})
	return measured, err
}
