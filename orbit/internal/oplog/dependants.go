package oplog

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// dependants is the record of the pending entries that wait for a parent. It
// contains the first of them, and the number of the others, because most
// parents have one dependant.
type dependants struct {
	first  string // "" if it was released
	others uint64
}

func (d dependants) encode() []byte { return append(binary.AppendUvarint(nil, d.others), d.first...) }

func (d dependants) none() bool { return d == dependants{} }

func (l *Log) dependantsKey(hash string) string { return l.key("wake/" + hash) }

func (l *Log) dependantsPrefix(of string) string { return l.key("waiters/" + of) }

func (l *Log) dependantKey(of, by string) string { return l.dependantsPrefix(of) + "/" + by }

func (l *Log) dependantsOf(g blocks.Getter, hash string) (d dependants, err error) {
	record, err := g.Get(l.dependantsKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	others, n := binary.Uvarint(record)
	if d = (dependants{string(record[max(0, n):]), others}); n <= 0 || d.first != "" && !block.ValidHash(d.first) {
		return d, l.damaged(l.dependantsKey(hash))
	}
	return d, nil
}

// dependants returns up to n dependants of a parent.
func (l *Log) dependants(tx *store.Tx, hash string, n int) (list []string, err error) {
	d, err := l.dependantsOf(tx, hash)
	if err != nil {
		return nil, err
	}
	if d.first != "" {
		list = append(list, d.first)
	}
	if d.others == 0 {
		return list, nil
	}
	prefix := l.dependantsPrefix(hash)
	for r, err := range tx.Scan(prefix) {
		if err != nil || len(list) >= n {
			return list, err
		}
		list = append(list, strings.TrimPrefix(r.Key, prefix+"/"))
	}
	return list, nil
}

// depend makes an entry a dependant of a parent.
func (l *Log) depend(tx *store.Tx, on, hash string) error {
	d, err := l.dependantsOf(tx, on)
	if err != nil {
		return err
	}
	if d.none() {
		d.first = hash
	} else {
		d.others++
		if err := tx.Put(l.dependantKey(on, hash), nil); err != nil {
			return err
		}
	}
	return tx.Put(l.dependantsKey(on), d.encode())
}

// release undoes depend.
func (l *Log) release(tx *store.Tx, on, hash string) error {
	d, err := l.dependantsOf(tx, on)
	if err != nil {
		return err
	}
	switch {
	case d.first == hash:
		d.first = ""
	case d.others == 0:
		return l.damaged(l.dependantsKey(on))
	default:
		d.others--
		if err := tx.Delete(l.dependantKey(on, hash)); err != nil {
			return err
		}
	}
	if d.none() {
		return tx.Delete(l.dependantsKey(on))
	}
	return tx.Put(l.dependantsKey(on), d.encode())
}
