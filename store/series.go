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
	return s.read(ctx, series, from, up)
}

// Descend yields the records of a series with the number from or below,
// largest first, and ends with the first error. Records that are added behind
// the last after it began are not seen; otherwise it is as [Store.Ascend].
func (s *Store) Descend(ctx context.Context, series string, from uint64) iter.Seq2[Record, error] {
	return s.read(ctx, series, from, down)
}

// direction is a way through a series, a digit up or down at a time.
type direction int

const (
	up   direction = 1
	down direction = -1
)

func (d direction) order() []query.Order {
	if d == up {
		return []query.Order{query.OrderByKey{}}
	}
	return []query.Order{query.OrderByKeyDescending{}}
}

func (s *Store) read(ctx context.Context, series string, from uint64, d direction) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		fail := func(err error) bool {
			yield(Record{}, fmt.Errorf("read series %q: %w", series, err))
			return false
		}
		if err := checkKey(series); err != nil {
			fail(err)
			return
		}
		last, ok, err := s.edge(ctx, series, nil, down)
		if err != nil {
			fail(err)
			return
		}
		if !ok || d == up && from > last {
			return
		}
		from := min(from, last)
		visit := func(r Record, err error) bool {
			switch {
			case err != nil:
				return fail(err)
			case d == up && r.Number > last:
				return false
			case d == up && r.Number < from, d == down && r.Number > from:
				return true
			}
			// Nothing follows the last: its ancestors need not be asked.
			return yield(r, nil) && (d == down || r.Number < last)
		}

		// The rest of the bucket, then of each of its ancestors.
		path := digits(from)
		leaf := len(path) - 1
		if !s.records(ctx, series, path[:leaf], d, visit) {
			return
		}
		for i := leaf - 1; i >= 0; i-- {
			end, ok, err := s.edge(ctx, series, path[:i], -d)
			if err != nil {
				fail(err)
				return
			}
			if !ok {
				continue
			}
			siblings := d * (direction(digits(end)[i]) - direction(path[i]))
			for n := direction(1); n <= siblings; n++ {
				sibling := byte(direction(path[i]) + d*n)
				if !s.records(ctx, series, append(path[:i:i], sibling), d, visit) {
					return
				}
			}
		}
	}
}

// records visits the records below path, and reports whether to go on.
func (s *Store) records(ctx context.Context, series string, path []byte, d direction, visit func(Record, error) bool) bool {
	for entry, err := range s.query(ctx, series+join(path), query.Query{Orders: d.order()}) {
		var n uint64
		if err == nil {
			n, err = number(series, entry.Key)
		}
		if err != nil {
			return visit(Record{}, err)
		}
		if !visit(Record{n, entry.Value}, nil) {
			return false
		}
	}
	return true
}

// edge returns the number of the record below path that is first on the way d.
func (s *Store) edge(ctx context.Context, series string, path []byte, d direction) (n uint64, ok bool, err error) {
	for entry, err := range s.query(ctx, series+join(path), query.Query{Orders: d.order(), Limit: 1, KeysOnly: true}) {
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
