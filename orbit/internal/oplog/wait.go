package oplog

import (
	"errors"
	"fmt"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/store"
)

// parentsPerRecord is how many parents of a waiting entry one record has at most.
const parentsPerRecord = 64

// waitOverhead is what a waiting entry is charged besides its block, in bytes, for
// the records that it takes; and parentCharge, for each parent that is stored after
// its block was evicted.
const (
	waitOverhead = 512
	parentCharge = block.HashLen
)

// waiter is what is stored of a waiting entry apart from its block.
type waiter struct {
	hash   string // not encoded: it is in the key
	from   string // ID of the peer that offered it, or ""
	order  uint64 // the entries of a peer with the largest order are evicted first
	held   bool   // its block is stored; else it was evicted
	size   uint64 // bytes of its block
	charge uint64 // bytes of the peer's share
	writer string // ID of its identity, where it is valid and held
	fault  string // why it is invalid, or "", where it is held

	// The parents that may not be in the log yet, of which the first is the one that
	// the entry waits for. An entry that waits for none had its block evicted: the
	// block is to be fetched again.
	parents []string
	chunks  uint64 // further records of parents, from number 0 on
	chunk   uint64 // the first of them that is left
	next    uint64 // how many of all parents that are left are from next; the others are refs
}

func (w *waiter) encode() []byte {
	b := dagcbor.AppendArray(nil, 11)
	b = dagcbor.AppendText(b, w.from)
	b = dagcbor.AppendUint(b, w.order)
	b = dagcbor.AppendBool(b, w.held)
	b = dagcbor.AppendUint(b, w.size)
	b = dagcbor.AppendUint(b, w.charge)
	b = dagcbor.AppendText(b, w.writer)
	b = dagcbor.AppendText(b, w.fault)
	b = dagcbor.AppendUint(b, w.next)
	b = dagcbor.AppendUint(b, w.chunk)
	b = dagcbor.AppendUint(b, w.chunks)
	return dagcbor.AppendText(b, strings.Join(w.parents, ""))
}

func decodeWaiter(hash string, record []byte) (*waiter, error) {
	w := &waiter{hash: hash}
	r := dagcbor.NewReader(record)
	if err := r.Tuple(11); err != nil {
		return nil, err
	}
	var parents string
	for _, field := range []any{&w.from, &w.order, &w.held, &w.size, &w.charge, &w.writer, &w.fault, &w.next, &w.chunk, &w.chunks, &parents} {
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
	if w.parents, ok = splitHashes([]byte(parents)); !ok || w.chunk > w.chunks {
		return nil, errors.New("parents are garbled")
	}
	return w, r.End()
}

// splitHashes returns the hashes that stand one after the other.
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

func (l *Log) waitKey(hash string) string   { return l.key("wait/" + hash) }
func (l *Log) readyKey(place uint64) string { return store.Key(l.key("ready"), place) }

func (l *Log) parentsKey(hash string, n uint64) string {
	return store.Key(l.key("parents/"+hash), n)
}

// waiter returns what is stored of a waiting entry, or nil if none with that hash
// waits.
func (l *Log) waiter(g blocks.Getter, hash string) (*waiter, error) {
	record, err := g.Get(l.waitKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w, err := decodeWaiter(hash, record)
	if err != nil {
		return nil, fmt.Errorf("%w of %s: entry %s that waits: %v", ErrDamaged, l.id, hash, err)
	}
	return w, nil
}

// mustWaiter returns what is stored of an entry that waits unless the log is
// damaged.
func (l *Log) mustWaiter(g blocks.Getter, hash string) (*waiter, error) {
	w, err := l.waiter(g, hash)
	if err == nil && w == nil {
		err = fmt.Errorf("%w of %s: entry %s does not wait", ErrDamaged, l.id, hash)
	}
	return w, err
}

func (l *Log) putWaiter(tx *store.Tx, w *waiter) error { return tx.Put(l.waitKey(w.hash), w.encode()) }

// wait has a candidate wait for its parents from a place on, the first of which is
// not in the log. Then what waits is evicted as far as it exceeds its bound: that may be
// the candidate itself, or what it waits for.
func (l *Log) wait(tx *store.Tx, sum *summary, c Candidate, from int, order uint64) (Outcome, error) {
	w := newWaiter(c, from)
	w.order = order
	rest := w.parents
	w.parents, rest = firstHashes(rest)
	for ; len(rest) > 0; w.chunks++ {
		var chunk []string
		chunk, rest = firstHashes(rest)
		if err := tx.Put(l.parentsKey(w.hash, w.chunks), []byte(strings.Join(chunk, ""))); err != nil {
			return Refused, err
		}
	}
	sum.Waiting++
	if err := l.charge(tx, sum, w, c.Entry.Block.Data); err != nil {
		return Refused, err
	}
	if err := l.putWaiter(tx, w); err != nil {
		return Refused, err
	}
	if err := l.depend(tx, w.parents[0], w.hash); err != nil {
		return Refused, err
	}
	if err := l.requireAll(tx, sum, w); err != nil {
		return Refused, err
	}
	bound := l.waitingBound(sum)
	if sum.Pending <= bound {
		return Waiting, nil
	}
	if err := l.shrinkTo(tx, sum, bound); err != nil {
		return Refused, err
	}
	if ok, err := tx.Has(l.waitKey(w.hash)); err != nil || ok {
		return Waiting, err
	}
	return l.noRoom(sum), nil
}

// clockZero is the order of an entry whose clock is 0. An honest clock is larger than
// those of all ancestors, so that what is evicted first enters the log last. For other
// clocks, an entry that is fetched because another one needs it has a smaller order
// than that one, as far as there are numbers.
const clockZero = 1 << 20

// orderOf returns the order of an entry by its clock.
func orderOf(e *entry.Entry) uint64 {
	time, _ := place(e.Position(e.Rank()))
	return max(time, time+clockZero)
}

// newWaiter returns what is to be stored of a candidate that waits for its parents
// from a place on, with all of those.
func newWaiter(c Candidate, from int) *waiter {
	size := uint64(len(c.Entry.Block.Data))
	w := &waiter{
		hash: c.Entry.Hash(), from: c.From, writer: c.Writer,
		held: true, size: size, charge: size + waitOverhead,
		parents: c.Entry.Parents()[from:],
		next:    uint64(max(0, len(c.Entry.Next)-from)),
	}
	if c.Fault != nil {
		w.fault = c.Fault.Error()
	}
	return w
}

func firstHashes(hashes []string) (some, rest []string) {
	n := min(len(hashes), parentsPerRecord)
	return hashes[:n], hashes[n:]
}

// advance takes from the parents of a waiting entry those that are in the log, up
// to the first one that is not. size is the bytes of the records that it read.
func (l *Log) advance(tx *store.Tx, sum *summary, w *waiter) (size int, err error) {
	for loaded := false; ; loaded = true {
		missing, n, err := l.missing(tx, w.parents)
		if err != nil {
			return size, err
		}
		w.parents = w.parents[n:]
		w.next -= min(w.next, uint64(n))
		if missing != "" && loaded {
			return size, l.requireAll(tx, sum, w)
		}
		if missing != "" || w.chunk == w.chunks {
			return size, nil
		}
		key := l.parentsKey(w.hash, w.chunk)
		record, err := l.mustGet(tx, key)
		if err != nil {
			return size, err
		}
		size += len(record)
		var ok bool
		if w.parents, ok = splitHashes(record); !ok || len(w.parents) > parentsPerRecord {
			return size, fmt.Errorf("%w of %s: %s", ErrDamaged, l.id, key)
		}
		w.chunk++
		if err := tx.Delete(key); err != nil {
			return size, err
		}
	}
}

// dropChunks deletes the further records of an entry's parents but for the first so
// many.
func (l *Log) dropChunks(tx *store.Tx, w *waiter, but uint64) error {
	for w.chunks > w.chunk+but {
		w.chunks--
		if err := tx.Delete(l.parentsKey(w.hash, w.chunks)); err != nil {
			return err
		}
	}
	return nil
}

// wakeOne has a waiting entry, of which the parent that it waited for is in the log
// now, go on: it enters the log, waits for another parent, or its block is to be
// fetched again. size is the bytes that it read.
func (l *Log) wakeOne(tx *store.Tx, sum *summary, hash string) (size int, err error) {
	w, err := l.mustWaiter(tx, hash)
	if err != nil {
		return 0, err
	}
	if size, err = l.advance(tx, sum, w); err != nil {
		return size, err
	}
	switch {
	case len(w.parents) > 0:
		if err := l.putWaiter(tx, w); err != nil {
			return size, err
		}
		if err := l.depend(tx, w.parents[0], w.hash); err != nil {
			return size, err
		}
		return size, l.require(tx, sum, w.parents[0], w)
	case !w.held:
		if err := l.putWaiter(tx, w); err != nil {
			return size, err
		}
		return size, l.fetchAgain(tx, sum, w)
	}
	b, err := l.heldBlock(tx, w)
	if err != nil {
		return size, err
	}
	e, err := entry.Decode(b)
	if err != nil {
		return size, fmt.Errorf("%w of %s: entry %s that waits: %v", ErrDamaged, l.id, hash, err)
	}
	if err := l.forget(tx, sum, w); err != nil {
		return size, err
	}
	var fault error
	if w.fault != "" {
		fault = errors.New(w.fault)
	}
	return size + len(b.Data), l.enter(tx, sum, e, w.writer, w.from, fault)
}

// forget deletes what is stored of an entry that waits. Entries that wait for it
// go on doing so.
func (l *Log) forget(tx *store.Tx, sum *summary, w *waiter) error {
	if sum.Waiting--; sum.Waiting == 0 {
		l.looked.forget()
	}
	if err := l.discharge(tx, sum, w); err != nil {
		return err
	}
	if len(w.parents) > 0 {
		if err := l.release(tx, w.parents[0], w.hash); err != nil {
			return err
		}
		if err := l.requireNoMore(tx, sum, w, w.parents); err != nil {
			return err
		}
	}
	if err := l.dropChunks(tx, w, 0); err != nil {
		return err
	}
	return tx.Delete(l.waitKey(w.hash))
}

// mustGet returns the value at a key that is there unless the log is damaged.
func (l *Log) mustGet(tx *store.Tx, key string) ([]byte, error) {
	value, err := tx.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w of %s: %s is gone", ErrDamaged, l.id, key)
	}
	return value, err
}
