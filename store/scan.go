package store

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/ipfs/go-datastore/query"
)

// Scan yields the entries below prefix in the byte order of their keys, as the
// transaction sees them: with its own writes and with those of the functions
// that ran before it. Otherwise it is like [Store.Scan]. The loop body may
// write through tx; whether Scan yields those writes is unspecified.
func (tx *Tx) Scan(prefix string) iter.Seq2[Entry, error] { return tx.scan(prefix, up) }

// ScanBack is [Tx.Scan] in the reverse order of the keys.
func (tx *Tx) ScanBack(prefix string) iter.Seq2[Entry, error] { return tx.scan(prefix, down) }

// scan merges the committed entries below prefix with the uncommitted writes.
func (tx *Tx) scan(prefix string, d direction) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := checkKey(prefix); err != nil {
			yield(Entry{}, err)
			return
		}
		fresh, written := tx.below(prefix, d)
		upTo := func(key string) bool { // yields the uncommitted writes before key
			for len(fresh) > 0 && (key == "" || int(d)*strings.Compare(fresh[0], key) < 0) {
				w := written[fresh[0]]
				e := Entry{fresh[0], slices.Clone(w.value)}
				fresh = fresh[1:]
				if !w.deleted && !yield(e, nil) {
					return false
				}
			}
			return true
		}
		for e, err := range tx.store.query(tx.ctx, prefix, query.Query{Orders: d.order()}) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !upTo(e.Key) {
				return
			}
			if _, ok := written[e.Key]; !ok && !yield(e, nil) {
				return
			}
		}
		upTo("")
	}
}

// below returns the keys below prefix that were written since the last commit,
// in order, with the value that was written last.
func (tx *Tx) below(prefix string, d direction) (keys []string, written map[string]write) {
	written = make(map[string]write)
	for _, writes := range []map[string]write{tx.group.writes, tx.writes} {
		for key, w := range writes {
			if strings.HasPrefix(key, prefix) && len(key) > len(prefix) && key[len(prefix)] == '/' {
				written[key] = w
			}
		}
	}
	keys = slices.Sorted(maps.Keys(written))
	if d == down {
		slices.Reverse(keys)
	}
	return keys, written
}

// Descend yields the records of a series in the reverse order of (Number, Name)
// as [Tx.ScanBack] yields entries.
func (tx *Tx) Descend(series string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for e, err := range tx.ScanBack(series) {
			r := Record{Value: e.Value}
			if err == nil {
				r.Number, r.Name, err = number(series, e.Key)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}
