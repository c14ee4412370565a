package oplog

import "github.com/newpieceplease/npp/store"

// One eviction takes at most evictEntries entries, or frees 1/evictPart of the
// bound on pending bytes.
const (
	evictEntries = 256
	evictPart    = 32
)

// evictTo evicts until the pending entries are charged at most the given bytes.
// If they are charged more, it frees somewhat more than necessary, so that
// evictions are rare.
func (l *Log) evictTo(tx *store.Tx, sum *summary, bytes uint64) error {
	if sum.PendingBytes <= bytes {
		return nil
	}
	goal := bytes - bytes/evictPart
	for sum.PendingBytes > goal {
		if err := l.evict(tx, sum, goal); err != nil {
			return err
		}
	}
	return nil
}

// evict frees bytes of the peer with the largest account, until the pending
// entries are charged at most goal bytes or one scan of the account ends. It
// starts with the entries of the largest order, which are the last to enter the
// log. It evicts blocks, or abandons entries without blocks if those are
// charged more.
func (l *Log) evict(tx *store.Tx, sum *summary, goal uint64) error {
	peer, s, err := l.largestAccount(tx)
	if err != nil {
		return err
	}
	series, take := l.heldSeries(peer), l.evictBlock
	if s.held.bytes < s.evicted.bytes {
		series, take = l.evictedSeries(peer), l.abandon
	}
	var hashes []string
	least := uint64(0) // freed by evicting hashes
	for r, err := range tx.Descend(series) {
		if err != nil {
			return err
		}
		hashes = append(hashes, r.Name)
		least += uint64(len(r.Value)) + pendingOverhead
		if least >= sum.PendingBytes-goal || len(hashes) == evictEntries {
			break
		}
	}
	if len(hashes) == 0 {
		return l.damaged(series)
	}
	for _, hash := range hashes {
		if sum.PendingBytes <= goal {
			break
		}
		pe, err := l.mustPending(tx, hash)
		if err != nil {
			return err
		}
		if err := take(tx, sum, pe); err != nil {
			return err
		}
	}
	return nil
}

// evictBlock evicts the block of a pending entry.
func (l *Log) evictBlock(tx *store.Tx, sum *summary, pe *pendingEntry) error {
	if err := l.discharge(tx, sum, pe); err != nil {
		return err
	}
	if err := l.stripBlock(tx, sum, pe); err != nil {
		return err
	}
	if err := l.charge(tx, sum, pe, nil); err != nil {
		return err
	}
	return l.putPending(tx, pe)
}

// stripBlock turns a pending entry that is charged to no account into one
// without a block. Of the remaining parents it keeps those in next: in an
// honest log, they descend from the refs. If none of those remains, it keeps
// the refs.
func (l *Log) stripBlock(tx *store.Tx, sum *summary, pe *pendingEntry) error {
	pe.held, pe.writer, pe.reason = false, "", ""
	if pe.fromNext > 0 {
		kept := min(uint64(len(pe.parents)), pe.fromNext)
		refs := pe.parents[kept:]
		pe.parents = pe.parents[:kept]
		if err := l.deleteChunks(tx, pe, (pe.fromNext-kept+parentsPerRecord-1)/parentsPerRecord); err != nil {
			return err
		}
		if err := l.unrequire(tx, sum, pe, refs); err != nil {
			return err
		}
	}
	pe.charge = pendingOverhead + parentCharge*(uint64(len(pe.parents))+parentsPerRecord*(pe.chunks-pe.firstChunk))
	return nil
}

// abandon removes a pending entry. If the entry has dependants, its hash
// becomes missing.
func (l *Log) abandon(tx *store.Tx, sum *summary, pe *pendingEntry) error {
	sum.Abandoned++
	if err := l.removePending(tx, sum, pe); err != nil {
		return err
	}
	if n, err := l.need(tx, sum, pe.hash); err != nil {
		return err
	} else if n != nil {
		if err := l.setFound(tx, sum, pe.hash); err != nil {
			return err
		}
	}
	return l.requireForDependant(tx, sum, pe.hash)
}
