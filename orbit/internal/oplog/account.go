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

// account counts the pending entries that one peer offered, apart for entries
// whose block is held and entries whose block was evicted.
type account struct {
	held, evicted tally
}

// tally is a number of entries and the bytes charged for them.
type tally struct {
	count, bytes uint64
}

func (s *account) of(pe *pendingEntry) *tally {
	if pe.held {
		return &s.held
	}
	return &s.evicted
}

func (s *account) bytes() uint64 { return s.held.bytes + s.evicted.bytes }

func (s *account) numbers() []*uint64 {
	return []*uint64{&s.held.count, &s.held.bytes, &s.evicted.count, &s.evicted.bytes}
}

func (s *account) encode() (b []byte) {
	for _, n := range s.numbers() {
		b = binary.AppendUvarint(b, *n)
	}
	return b
}

func (s *account) decode(record []byte) bool {
	for _, to := range s.numbers() {
		n, size := binary.Uvarint(record)
		if size <= 0 {
			return false
		}
		*to, record = n, record[size:]
	}
	return len(record) == 0
}

// peerName encodes a peer ID as a component of keys.
func peerName(peer string) string { return "~" + url.PathEscape(peer) }

func (l *Log) accountKey(peer string) string { return l.key("share/" + peerName(peer)) }

// accountSizeKey returns the key that sorts a peer by the size of its account.
func (l *Log) accountSizeKey(peer string, s *account) string {
	return store.NamedKey(l.key("shares"), s.bytes()>>16, peerName(peer))
}

// heldSeries is the series of the held blocks of a peer's pending entries, and
// evictedSeries that of the entries whose blocks were evicted. Both are in
// eviction order.
func (l *Log) heldSeries(peer string) string { return l.key("held/" + peerName(peer)) }

func (l *Log) evictedSeries(peer string) string { return l.key("evicted/" + peerName(peer)) }

func (l *Log) evictionKey(pe *pendingEntry) string {
	series := l.evictedSeries(pe.from)
	if pe.held {
		series = l.heldSeries(pe.from)
	}
	return store.NamedKey(series, pe.order, pe.hash)
}

func (l *Log) account(g blocks.Getter, peer string) (s account, err error) {
	record, err := g.Get(l.accountKey(peer))
	if errors.Is(err, store.ErrNotFound) {
		return s, nil
	}
	if err == nil && !s.decode(record) {
		err = l.damaged(l.accountKey(peer))
	}
	return s, err
}

// changeAccount changes the account of a peer.
func (l *Log) changeAccount(tx *store.Tx, sum *summary, peer string, change func(*account)) error {
	s, err := l.account(tx, peer)
	if err != nil {
		return err
	}
	before := s
	change(&s)
	sum.PendingBytes += s.bytes() - before.bytes()
	was, is := l.accountSizeKey(peer, &before), l.accountSizeKey(peer, &s)
	if s.held.count+s.evicted.count == 0 {
		if err := tx.Delete(was); err != nil {
			return err
		}
		return tx.Delete(l.accountKey(peer))
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
	return tx.Put(l.accountKey(peer), s.encode())
}

// charge adds a pending entry to the account of its peer. data is its block, or
// nil if that was evicted.
func (l *Log) charge(tx *store.Tx, sum *summary, pe *pendingEntry, data []byte) error {
	err := l.changeAccount(tx, sum, pe.from, func(s *account) {
		p := s.of(pe)
		p.count++
		p.bytes += pe.charge
	})
	if err != nil {
		return err
	}
	return tx.Put(l.evictionKey(pe), data)
}

// discharge undoes charge.
func (l *Log) discharge(tx *store.Tx, sum *summary, pe *pendingEntry) error {
	err := l.changeAccount(tx, sum, pe.from, func(s *account) {
		p := s.of(pe)
		p.count--
		p.bytes -= pe.charge
	})
	if err != nil {
		return err
	}
	return tx.Delete(l.evictionKey(pe))
}

// heldBlock returns the held block of a pending entry.
func (l *Log) heldBlock(tx *store.Tx, pe *pendingEntry) (block.Block, error) {
	data, err := l.mustGet(tx, l.evictionKey(pe))
	if err != nil {
		return block.Block{}, err
	}
	b := block.Block{Hash: pe.hash, Data: data}
	if err := b.Check(); err != nil {
		return b, fmt.Errorf("%w of %s: pending entry %s: %v", ErrDamaged, l.id, pe.hash, err)
	}
	return b, nil
}

// largestAccount returns the peer with the largest account. Sizes are compared
// to within 64 KiB.
func (l *Log) largestAccount(tx *store.Tx) (peer string, s account, err error) {
	series := l.key("shares")
	for r, err := range tx.Descend(series) {
		if err != nil {
			return "", s, err
		}
		if peer, err = url.PathUnescape(strings.TrimPrefix(r.Name, "~")); err != nil {
			return "", s, l.damaged(series)
		}
		s, err = l.account(tx, peer)
		return peer, s, err
	}
	return "", s, l.damaged(series)
}
