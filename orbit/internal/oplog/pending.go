package oplog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/store"
)

// parentsPerRecord is the largest number of parents in one record of a pending
// entry.
const parentsPerRecord = 64

// pendingOverhead is the number of bytes that a pending entry is charged for
// its records, in addition to its block. parentCharge is charged for each
// parent that is stored after the block was evicted.
const (
	pendingOverhead = 512
	parentCharge    = block.HashLen
)

// pendingEntry is the record of a pending entry. It does not contain the block.
type pendingEntry struct {
	hash   string // not encoded: it is in the key
	from   string // ID of the peer that offered it, or ""
	order  uint64 // of a peer's entries, those with the largest order are evicted first
	held   bool   // the block is stored; otherwise it was evicted
	size   uint64 // bytes of its block
	charge uint64 // bytes charged to the peer's account
	writer string // ID of its identity, if it is valid and held
	reason string // why it is invalid, or "", if it is held

	// The parents that may not be in the log yet. The entry waits for the
	// first. If there is none, the block of the entry was evicted and is
	// missing.
	parents    []string
	chunks     uint64 // number of further records of parents, numbered from 0
	firstChunk uint64 // first of them that remains
	fromNext   uint64 // how many of all remaining parents are in next; the others are refs
}

func (pe *pendingEntry) encode() []byte {
	b := dagcbor.AppendArray(nil, 11)
	b = dagcbor.AppendText(b, pe.from)
	b = dagcbor.AppendUint(b, pe.order)
	b = dagcbor.AppendBool(b, pe.held)
	b = dagcbor.AppendUint(b, pe.size)
	b = dagcbor.AppendUint(b, pe.charge)
	b = dagcbor.AppendText(b, pe.writer)
	b = dagcbor.AppendText(b, pe.reason)
	b = dagcbor.AppendUint(b, pe.fromNext)
	b = dagcbor.AppendUint(b, pe.firstChunk)
	b = dagcbor.AppendUint(b, pe.chunks)
	return dagcbor.AppendText(b, strings.Join(pe.parents, ""))
}

func decodePending(hash string, record []byte) (*pendingEntry, error) {
	pe := &pendingEntry{hash: hash}
	r := dagcbor.NewReader(record)
	if err := r.Tuple(11); err != nil {
		return nil, err
	}
	var parents string
	for _, field := range []any{&pe.from, &pe.order, &pe.held, &pe.size, &pe.charge, &pe.writer, &pe.reason, &pe.fromNext, &pe.firstChunk, &pe.chunks, &parents} {
		var err error
		switch to := field.(type) {
		case *string:
			*to, err = r.Text()
		case *uint64:
			*to, err = r.Uint()
		case *bool:
			*to, err = r.Bool()
		}
		if err != nil {
			return nil, err
		}
	}
	var ok bool
	if pe.parents, ok = splitHashes([]byte(parents)); !ok || pe.firstChunk > pe.chunks {
		return nil, errors.New("corrupt parents")
	}
	return pe, r.End()
}

// splitHashes splits concatenated hashes.
func splitHashes(record []byte) (hashes []string, ok bool) {
	for ; len(record) >= block.HashLen; record = record[block.HashLen:] {
		hash := string(record[:block.HashLen])
		if !block.ValidHash(hash) {
			return nil, false
		}
		hashes = append(hashes, hash)
	}
	return hashes, len(record) == 0
}

func (l *Log) pendingKey(hash string) string { return l.key("wait/" + hash) }

func (l *Log) parentsKey(hash string, n uint64) string {
	return store.Key(l.key("parents/"+hash), n)
}

// pendingEntry returns the pending entry with a hash, or nil if there is none.
func (l *Log) pendingEntry(g blocks.Getter, hash string) (*pendingEntry, error) {
	record, err := g.Get(l.pendingKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pe, err := decodePending(hash, record)
	if err != nil {
		return nil, fmt.Errorf("%w of %s: pending entry %s: %v", ErrDamaged, l.id, hash, err)
	}
	return pe, nil
}

// mustPending returns a pending entry that exists unless the log is damaged.
func (l *Log) mustPending(g blocks.Getter, hash string) (*pendingEntry, error) {
	pe, err := l.pendingEntry(g, hash)
	if err == nil && pe == nil {
		err = fmt.Errorf("%w of %s: entry %s is not pending", ErrDamaged, l.id, hash)
	}
	return pe, err
}

func (l *Log) putPending(tx *store.Tx, pe *pendingEntry) error {
	return tx.Put(l.pendingKey(pe.hash), pe.encode())
}

// addPending makes a candidate pending. from is the index of its first parent
// that is not in the log. Then addPending evicts pending entries, as far as
// they exceed their bound; the candidate itself or its ancestors may be among
// them.
func (l *Log) addPending(tx *store.Tx, sum *summary, c Candidate, from int, order uint64) (Outcome, error) {
	pe := newPending(c, from)
	pe.order = order
	rest := pe.parents
	pe.parents, rest = firstHashes(rest)
	for ; len(rest) > 0; pe.chunks++ {
		var chunk []string
		chunk, rest = firstHashes(rest)
		if err := tx.Put(l.parentsKey(pe.hash, pe.chunks), []byte(strings.Join(chunk, ""))); err != nil {
			return Refused, err
		}
	}
	sum.Pending++
	if err := l.charge(tx, sum, pe, c.Entry.Block.Data); err != nil {
		return Refused, err
	}
	if err := l.putPending(tx, pe); err != nil {
		return Refused, err
	}
	if err := l.depend(tx, pe.parents[0], pe.hash); err != nil {
		return Refused, err
	}
	if err := l.requireAll(tx, sum, pe); err != nil {
		return Refused, err
	}
	bound := l.pendingLimit(sum)
	if sum.PendingBytes <= bound {
		return Pending, nil
	}
	if err := l.evictTo(tx, sum, bound); err != nil {
		return Refused, err
	}
	if ok, err := tx.Has(l.pendingKey(pe.hash)); err != nil || ok {
		return Pending, err
	}
	return l.overLimit(sum), nil
}

// clockZero is the order of an entry whose clock is 0. An honest clock is
// larger than those of all ancestors, so the entries that are evicted first
// enter the log last. If clocks are dishonest, an entry that is fetched because
// another one needs it gets a smaller order than that one, down to 0.
const clockZero = 1 << 20

// orderOf returns the eviction order of an entry according to its clock.
func orderOf(e *entry.Entry) uint64 {
	time, _ := encodePosition(e.Position(e.Rank()))
	return max(time, time+clockZero)
}

// newPending returns the record of a candidate that waits for its parents from
// an index on. The record contains all of those.
func newPending(c Candidate, from int) *pendingEntry {
	size := uint64(len(c.Entry.Block.Data))
	pe := &pendingEntry{
		hash: c.Entry.Hash(), from: c.From, writer: c.Writer,
		held: true, size: size, charge: size + pendingOverhead,
		parents:  c.Entry.Parents()[from:],
		fromNext: uint64(max(0, len(c.Entry.Next)-from)),
	}
	if c.Invalid != nil {
		pe.reason = c.Invalid.Error()
	}
	return pe
}

func firstHashes(hashes []string) (some, rest []string) {
	n := min(len(hashes), parentsPerRecord)
	return hashes[:n], hashes[n:]
}

// deleteChunks deletes the further records of an entry's parents, except the
// first few that are to remain.
func (l *Log) deleteChunks(tx *store.Tx, pe *pendingEntry, but uint64) error {
	for pe.chunks > pe.firstChunk+but {
		pe.chunks--
		if err := tx.Delete(l.parentsKey(pe.hash, pe.chunks)); err != nil {
			return err
		}
	}
	return nil
}

// removePending deletes the records of a pending entry. Its dependants remain
// pending.
func (l *Log) removePending(tx *store.Tx, sum *summary, pe *pendingEntry) error {
	if sum.Pending--; sum.Pending == 0 {
		l.lookedUp.clear()
	}
	if err := l.discharge(tx, sum, pe); err != nil {
		return err
	}
	if len(pe.parents) > 0 {
		if err := l.release(tx, pe.parents[0], pe.hash); err != nil {
			return err
		}
		if err := l.unrequire(tx, sum, pe, pe.parents); err != nil {
			return err
		}
	}
	if err := l.deleteChunks(tx, pe, 0); err != nil {
		return err
	}
	return tx.Delete(l.pendingKey(pe.hash))
}

// IsPending reports whether the entry with the hash is pending.
func (l *Log) IsPending(ctx context.Context, hash string) (bool, error) {
	return l.store.Has(ctx, l.pendingKey(hash))
}
