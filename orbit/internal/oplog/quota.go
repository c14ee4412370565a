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

// Quota bounds what a log may store of entries that come from others. Its methods are
// called often, some in transactions: they must be quick.
type Quota interface {
	// Room returns how many bytes all of the log may take, and how many of them its
	// waiting entries.
	Room() (all, waiting uint64)
	// Stored is told how many bytes the entries of the log take, and the waiting
	// entries, whenever that may have changed.
	Stored(entries, waiting uint64)
}

type noQuota struct{}

func (noQuota) Room() (all, waiting uint64) { return math.MaxUint64, math.MaxUint64 }
func (noQuota) Stored(uint64, uint64)       {}

// waitingBound returns how many bytes waiting entries may take.
func (l *Log) waitingBound(sum *summary) uint64 {
	all, waiting := l.config.Quota.Room()
	return min(l.config.Waiting, waiting, all-min(all, sum.Bytes))
}

// noRoom returns what becomes of an entry for which there is no room to wait.
func (l *Log) noRoom(sum *summary) Outcome {
	all, waiting := l.config.Quota.Room()
	if all-min(all, sum.Bytes) < min(waiting, l.config.Waiting) {
		return Full
	}
	return NoRoom
}

// fits reports whether one more entry of so many bytes is within the quota.
func (l *Log) fits(sum *summary, size uint64) bool {
	all, _ := l.config.Quota.Room()
	return size <= all && sum.Bytes <= all-size
}

// clearFor evicts waiting entries that are in the way of one more entry of so many bytes,
// which fits.
func (l *Log) clearFor(tx *store.Tx, sum *summary, size uint64) error {
	all, _ := l.config.Quota.Room()
	return l.shrinkTo(tx, sum, all-min(all, sum.Bytes+size))
}

// shareFactor is how many times what is free a writer or a peer may have. One alone
// gets four fifths of a quota, and each further one four fifths of the rest.
const shareFactor = 4

// inShare reports whether an entry of so many bytes is within the shares of its writer
// and of the peer that offered it. They have shares where anybody may write.
func (l *Log) inShare(tx *store.Tx, sum *summary, c Candidate) (bool, error) {
	shared, err := l.isShared(tx, sum)
	if err != nil || !shared {
		return true, err
	}
	all, _ := l.config.Quota.Room()
	free := all - min(all, sum.Bytes)
	for _, key := range l.shareKeys(c.Writer, c.From) {
		used, err := l.used(tx, key)
		if err != nil {
			return false, err
		}
		if (used+uint64(len(c.Entry.Block.Data)))/shareFactor > free {
			return false, nil
		}
	}
	return true, nil
}

// isShared reports whether writers and peers have shares of what the log may store.
func (l *Log) isShared(tx *store.Tx, sum *summary) (bool, error) {
	if all, _ := l.config.Quota.Room(); all == math.MaxUint64 {
		return false, nil
	}
	lists, err := l.access(tx, sum)
	return err == nil && lists.writers[Anyone], err
}

// shareKeys returns where the bytes are counted that came of a writer and from a peer.
func (l *Log) shareKeys(writer, peer string) [2]string {
	return [2]string{l.key("wrote/" + block.Hash([]byte(writer))), l.key("brought/" + peerName(peer))}
}

// used returns the bytes that are counted at a key.
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

// countShares adds the bytes of an entry that enters the log to the shares of its
// writer and of the peer that offered it.
func (l *Log) countShares(tx *store.Tx, sum *summary, writer, peer string, size int) error {
	shared, err := l.isShared(tx, sum)
	if err != nil || !shared {
		return err
	}
	for _, key := range l.shareKeys(writer, peer) {
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

// Usage returns how many bytes the log of a number takes: its entries, and those that
// wait. Of a log of an earlier version, which was not opened since, that is 0.
func Usage(ctx context.Context, s *store.Store, number uint64) (entries, waiting uint64, err error) {
	l := &Log{store: s, number: number, id: blocks.LogPrefix(number)}
	sum, err := l.readSummary(blocks.Reading(ctx, s))
	if err != nil {
		return 0, 0, err
	}
	return sum.Bytes, sum.Pending, nil
}

// measure counts the bytes of a log that was written before they were counted.
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
