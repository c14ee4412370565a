package oplog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// share is what waits of the entries that a peer offered: those whose blocks are
// held, and those whose blocks were evicted.
type share struct {
	held, evicted part
}

// part is a number of entries, and the bytes that they are charged.
type part struct {
	count, bytes uint64
}

func (s *share) of(w *waiter) *part {
	if w.held {
		return &s.held
	}
	return &s.evicted
}

func (s *share) bytes() uint64 { return s.held.bytes + s.evicted.bytes }

func (s *share) numbers() []*uint64 {
	return []*uint64{&s.held.count, &s.held.bytes, &s.evicted.count, &s.evicted.bytes}
}

func (s *share) encode() (b []byte) {
	for _, n := range s.numbers() {
		b = binary.AppendUvarint(b, *n)
	}
	return b
}

func (s *share) decode(record []byte) bool {
	for _, to := range s.numbers() {
		n, size := binary.Uvarint(record)
		if size <= 0 {
			return false
		}
		*to, record = n, record[size:]
	}
	return len(record) == 0
}

// peerName is the ID of a peer as a component of keys.
func peerName(peer string) string { return "~" + url.PathEscape(peer) }

func (l *Log) shareKey(peer string) string { return l.key("share/" + peerName(peer)) }

// largeKey is where the peers are in the order of their shares.
func (l *Log) largeKey(peer string, s *share) string {
	return store.NamedKey(l.key("shares"), s.bytes()>>16, peerName(peer))
}

// heldSeries is where the blocks of a peer's waiting entries are, in their
// order; and evictedSeries, the entries whose blocks were evicted.
func (l *Log) heldSeries(peer string) string    { return l.key("held/" + peerName(peer)) }
func (l *Log) evictedSeries(peer string) string { return l.key("evicted/" + peerName(peer)) }

func (l *Log) partKey(w *waiter) string {
	series := l.evictedSeries(w.from)
	if w.held {
		series = l.heldSeries(w.from)
	}
	return store.NamedKey(series, w.order, w.hash)
}

func (l *Log) share(g blocks.Getter, peer string) (s share, err error) {
	record, err := g.Get(l.shareKey(peer))
	if errors.Is(err, store.ErrNotFound) {
		return s, nil
	}
	if err == nil && !s.decode(record) {
		err = l.damaged(l.shareKey(peer))
	}
	return s, err
}

// changeShare changes the share of a peer.
func (l *Log) changeShare(tx *store.Tx, sum *summary, peer string, change func(*share)) error {
	s, err := l.share(tx, peer)
	if err != nil {
		return err
	}
	before := s
	change(&s)
	sum.Pending += s.bytes() - before.bytes()
	was, is := l.largeKey(peer, &before), l.largeKey(peer, &s)
	if s.held.count+s.evicted.count == 0 {
		if err := tx.Delete(was); err != nil {
			return err
		}
		return tx.Delete(l.shareKey(peer))
	}
	if was != is {
		if err := tx.Delete(was); err != nil {
			return err
		}
	}
	if was != is || before.bytes() == 0 {
		if err := tx.Put(is, nil); err != nil {
			return err
		}
	}
	return tx.Put(l.shareKey(peer), s.encode())
}

// charge adds a waiting entry to the share of its peer. data is its block, if that is
// held.
func (l *Log) charge(tx *store.Tx, sum *summary, w *waiter, data []byte) error {
	err := l.changeShare(tx, sum, w.from, func(s *share) {
		p := s.of(w)
		p.count++
		p.bytes += w.charge
	})
	if err != nil {
		return err
	}
	return tx.Put(l.partKey(w), data)
}

// discharge undoes charge.
func (l *Log) discharge(tx *store.Tx, sum *summary, w *waiter) error {
	err := l.changeShare(tx, sum, w.from, func(s *share) {
		p := s.of(w)
		p.count--
		p.bytes -= w.charge
	})
	if err != nil {
		return err
	}
	return tx.Delete(l.partKey(w))
}

// heldBlock returns the block of a waiting entry that is held.
func (l *Log) heldBlock(tx *store.Tx, w *waiter) (block.Block, error) {
	data, err := l.mustGet(tx, l.partKey(w))
	if err != nil {
		return block.Block{}, err
	}
	b := block.Block{Hash: w.hash, Data: data}
	if err := b.Check(); err != nil {
		return b, fmt.Errorf("%w of %s: entry %s that waits: %v", ErrDamaged, l.id, w.hash, err)
	}
	return b, nil
}

// A search for what is to be evicted evicts so many entries, or frees so large a part
// of the bytes that may wait.
const (
	evictEntries = 256
	evictPart    = 32
)

// shrinkTo evicts until what waits is charged so many bytes or fewer: if it is charged
// more, some less than that, so that searches are rare.
func (l *Log) shrinkTo(tx *store.Tx, sum *summary, bytes uint64) error {
	if sum.Pending <= bytes {
		return nil
	}
	goal := bytes - bytes/evictPart
	for sum.Pending > goal {
		if err := l.evict(tx, sum, goal); err != nil {
			return err
		}
	}
	return nil
}

// evict frees bytes of the peer that has the largest share, until what waits is charged
// so many bytes or the peer was searched once. It begins with the entries that have the
// largest order: they are the last that can enter the log. It takes their blocks or,
// where those without blocks take more, all of those.
func (l *Log) evict(tx *store.Tx, sum *summary, goal uint64) error {
	peer, s, err := l.largest(tx)
	if err != nil {
		return err
	}
	series, take := l.heldSeries(peer), l.evictBlock
	if s.held.bytes < s.evicted.bytes {
		series, take = l.evictedSeries(peer), l.giveUp
	}
	var hashes []string
	least := uint64(0) // of what is freed with the hashes
	for r, err := range tx.Descend(series) {
		if err != nil {
			return err
		}
		hashes = append(hashes, r.Name)
		least += uint64(len(r.Value)) + waitOverhead
		if least >= sum.Pending-goal || len(hashes) == evictEntries {
			break
		}
	}
	if len(hashes) == 0 {
		return l.damaged(series)
	}
	for _, hash := range hashes {
		if sum.Pending <= goal {
			break
		}
		w, err := l.mustWaiter(tx, hash)
		if err != nil {
			return err
		}
		if err := take(tx, sum, w); err != nil {
			return err
		}
	}
	return nil
}

// evictBlock evicts the block of a waiting entry.
func (l *Log) evictBlock(tx *store.Tx, sum *summary, w *waiter) error {
	if err := l.discharge(tx, sum, w); err != nil {
		return err
	}
	if err := l.strip(tx, sum, w); err != nil {
		return err
	}
	if err := l.charge(tx, sum, w, nil); err != nil {
		return err
	}
	return l.putWaiter(tx, w)
}

// largest returns the peer that has the largest share, to 64 KiB.
func (l *Log) largest(tx *store.Tx) (peer string, s share, err error) {
	series := l.key("shares")
	for r, err := range tx.Descend(series) {
		if err != nil {
			return "", s, err
		}
		if peer, err = url.PathUnescape(strings.TrimPrefix(r.Name, "~")); err != nil {
			return "", s, l.damaged(series)
		}
		s, err = l.share(tx, peer)
		return peer, s, err
	}
	return "", s, l.damaged(series)
}

// strip makes a waiting entry that is charged to no share one without block. Of its
// parents that are left, it keeps those from next: in an honest log, refs are
// ancestors of them. Where none of those is left, it keeps the refs.
func (l *Log) strip(tx *store.Tx, sum *summary, w *waiter) error {
	w.held, w.writer, w.fault = false, "", ""
	if w.next > 0 {
		kept := min(uint64(len(w.parents)), w.next)
		refs := w.parents[kept:]
		w.parents = w.parents[:kept]
		if err := l.dropChunks(tx, w, (w.next-kept+parentsPerRecord-1)/parentsPerRecord); err != nil {
			return err
		}
		if err := l.requireNoMore(tx, sum, w, refs); err != nil {
			return err
		}
	}
	w.charge = waitOverhead + parentCharge*(uint64(len(w.parents))+parentsPerRecord*(w.chunks-w.chunk))
	return nil
}

// giveUp forgets a waiting entry. Where another one waits for it, it is missing.
func (l *Log) giveUp(tx *store.Tx, sum *summary, w *waiter) error {
	sum.GivenUp++
	if err := l.forget(tx, sum, w); err != nil {
		return err
	}
	if n, err := l.need(tx, sum, w.hash); err != nil {
		return err
	} else if n != nil {
		if err := l.setFound(tx, sum, w.hash); err != nil {
			return err
		}
	}
	return l.requireForDependant(tx, sum, w.hash)
}

// Bounds of what is fetched again at once.
const (
	aheadEntries = 64 // entries that are looked at
	aheadOfOne   = 4  // of those that wait for one
	aheadShare   = 8  // part of the bytes that may wait
)

// fetchAgain has the block of an entry fetched that was evicted and whose parents are
// in the log now, and, unless that was to be fetched anyway, with it the blocks of
// some entries that wait for it.
func (l *Log) fetchAgain(tx *store.Tx, sum *summary, w *waiter) error {
	if n, err := l.need(tx, sum, w.hash); err != nil || n != nil {
		return err
	}
	size := uint64(0)
	ahead := []*waiter{w}
	for n := 0; n < len(ahead) && n < aheadEntries; n++ {
		w := ahead[n]
		if !w.held {
			if size += w.size; n > 0 && size > l.waitingBound(sum)/aheadShare {
				return nil
			}
			if n, err := l.need(tx, sum, w.hash); err != nil {
				return err
			} else if n == nil {
				if err := l.setMissing(tx, sum, w.hash, w); err != nil {
					return err
				}
			}
		}
		hashes, err := l.dependants(tx, w.hash, aheadOfOne)
		if err != nil {
			return err
		}
		for _, hash := range hashes {
			next, err := l.mustWaiter(tx, hash)
			if err != nil {
				return err
			}
			ahead = append(ahead, next)
		}
	}
	return nil
}
