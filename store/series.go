package store

import (
	"context"
	"fmt"
	"iter"
	"math/bits"
	"strconv"
	"strings"

	"github.com/ipfs/go-datastore/query"
)

// Record is an entry of a series.
type Record struct {
	Number uint64
	Value  []byte
}

// Key returns the key of record n of a series. Any uint64 is a number; keys
// sort as their numbers do. Below the series there must be no other keys.
func Key(series string, n uint64) string {
	return series + join(digits(n))
}

// Ascend yields the records of a series with the number from or above,
// smallest first, and ends with the first error.
//
// It ends at the record that was the last when it began: where records are
// only ever added behind the last, a loop that goes on after the last record
// it has seen misses none. A record that another Update adds or removes below
// may be seen or not. The loop body may call Update.
func (s *Store) Ascend(ctx context.Context, series string, from uint64) iter.Seq2[Record, error] {
	return s.walk(ctx, series, func(last uint64, visit func(Record, error) bool) {
		if from > last {
			return
		}
		yield := func(r Record, err error) bool {
			switch {
			case err != nil:
				return visit(r, err)
			case r.Number < from:
				return true
			case r.Number > last:
				return false
			}
			return visit(r, nil)
		}
		path := digits(from)
		leaf := len(path) - 1
		if !s.records(ctx, series, path[:leaf], ascending, yield) {
			return
		}
		for i := leaf - 1; i >= 0; i-- {
			end, ok, err := s.edge(ctx, series, path[:i], descending)
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !ok {
				continue
			}
			to := digits(end)[i]
			for sibling := path[i] + 1; sibling <= to; sibling++ {
				if !s.records(ctx, series, append(path[:i:i], sibling), ascending, yield) {
					return
				}
			}
		}
	})
}

// Descend yields the records of a series with the number from or below,
// largest first, and ends with the first error. Records that are added behind
// the last after it began are not seen; otherwise it is as [Store.Ascend].
func (s *Store) Descend(ctx context.Context, series string, from uint64) iter.Seq2[Record, error] {
	return s.walk(ctx, series, func(last uint64, visit func(Record, error) bool) {
		from := min(from, last)
		yield := func(r Record, err error) bool {
			if err == nil && r.Number > from {
				return true
			}
			return visit(r, err)
		}
		path := digits(from)
		leaf := len(path) - 1
		if !s.records(ctx, series, path[:leaf], descending, yield) {
			return
		}
		for i := leaf - 1; i >= 0; i-- {
			end, ok, err := s.edge(ctx, series, path[:i], ascending)
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !ok {
				continue
			}
			to := digits(end)[i]
			for sibling := int(path[i]) - 1; sibling >= int(to); sibling-- {
				if !s.records(ctx, series, append(path[:i:i], byte(sibling)), descending, yield) {
					return
				}
			}
		}
	})
}

// walk calls visitAll with the number of the last record of a series, unless it is empty.
func (s *Store) walk(ctx context.Context, series string, visitAll func(last uint64, visit func(Record, error) bool)) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		visit := func(r Record, err error) bool {
			if err != nil {
				yield(Record{}, fmt.Errorf("read series %q: %w", series, err))
				return false
			}
			return yield(r, nil)
		}
		if err := checkKey(series); err != nil {
			visit(Record{}, err)
			return
		}
		last, ok, err := s.edge(ctx, series, nil, descending)
		if err != nil {
			visit(Record{}, err)
			return
		}
		if ok {
			visitAll(last, visit)
		}
	}
}

// records yields the records below path, and reports whether to go on.
func (s *Store) records(ctx context.Context, series string, path []byte, order []query.Order, yield func(Record, error) bool) bool {
	for entry, err := range s.query(ctx, series+join(path), query.Query{Orders: order}) {
		var n uint64
		if err == nil {
			n, err = number(series, entry.Key)
		}
		if err != nil {
			yield(Record{}, err)
			return false
		}
		if !yield(Record{n, entry.Value}, nil) {
			return false
		}
	}
	return true
}

// edge returns the number of the first record below path in the given order.
func (s *Store) edge(ctx context.Context, series string, path []byte, order []query.Order) (n uint64, ok bool, err error) {
	for entry, err := range s.query(ctx, series+join(path), query.Query{Orders: order, Limit: 1, KeysOnly: true}) {
		if err != nil {
			return 0, false, err
		}
		n, err := number(series, entry.Key)
		return n, err == nil, err
	}
	return 0, false, nil
}

// digits returns the path of n: the count of its hex digits, less one, then
// the digits.
func digits(n uint64) []byte {
	count := max(1, (bits.Len64(n)+3)/4)
	path := make([]byte, 1+count)
	path[0] = byte(count - 1)
	for i := count; i > 0; i-- {
		path[i] = byte(n & 15)
		n >>= 4
	}
	return path
}

// join returns path as components of a key, each after a slash.
func join(path []byte) string {
	const hex = "0123456789abcdef"
	key := make([]byte, 0, 2*len(path))
	for _, d := range path {
		key = append(key, '/', hex[d])
	}
	return string(key)
}

// number is the inverse of Key.
func number(series, key string) (uint64, error) {
	path := strings.ReplaceAll(strings.TrimPrefix(key, series), "/", "")
	if len(path) > 1 {
		if n, err := strconv.ParseUint(path[1:], 16, 64); err == nil && Key(series, n) == key {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: %q", ErrMalformed, key)
}
