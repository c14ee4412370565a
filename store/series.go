package store

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math/bits"
	"strings"

	"github.com/ipfs/go-datastore/query"
)

// Record is an entry of a series.
type Record struct {
	Number uint64
	Name   string // "" at [Key] itself
	Value  []byte
}

// Key returns the key of record n of a series. Any uint64 is a number; keys
// sort as their numbers do. Below the series there must be no other keys than
// those of Key, or else of [NamedKey].
func Key(series string, n uint64) string {
	return series + join(Digits(n))
}

// NamedKey returns the key of the record of a series that has number n and the
// given name, Key(series, n) + "/" + name. Keys sort by number, then by the
// bytes of the name. A name is one clean component of a key: not empty, not
// "." or "..", and without a slash. The key of anything else is refused with
// [ErrInvalidKey] wherever it is used.
//
// In one series either all records are named or none is. This is not checked:
// reads of a series that has both may miss some.
func NamedKey(series string, n uint64, name string) string {
	if strings.Contains(name, "/") {
		name = "/" + name // or it would be a clean path
	}
	return Key(series, n) + "/" + name
}

// Ascend yields the records of a series with the number from or above, in the
// order of (Number, Name), and ends with the first error.
//
// It ends at the record that was the last when it began: where records are
// only ever added behind the last, a loop that goes on after the last record
// it has seen misses none. A record that another Update adds or removes below
// may be seen or not. The loop body may call Update.
//
// From 0 it is one query over the whole series. Where queries of the datastore
// are snapshots, a record that an Update deletes meanwhile and puts again with
// a higher number is then seen once, at the place that it had when the loop
// began.
func (s *Store) Ascend(ctx context.Context, series string, from uint64) iter.Seq2[Record, error] {
	return s.read(ctx, series, position{number: from}, up)
}

// AscendFrom is as [Store.Ascend], but begins within the names of number n: at
// name, whether there is such a record or not, or else at the next one. Any
// string will do; "" is before all names.
func (s *Store) AscendFrom(ctx context.Context, series string, n uint64, name string) iter.Seq2[Record, error] {
	return s.read(ctx, series, position{number: n, name: name}, up)
}

// Descend yields the records of a series with the number from or below, in the
// reverse order of (Number, Name), and ends with the first error. Records that
// are added behind the last after it began are not seen; otherwise it is as
// [Store.Ascend].
//
// From the last record, or beyond it, it is one query over the whole series,
// with the same promise as Ascend from 0.
func (s *Store) Descend(ctx context.Context, series string, from uint64) iter.Seq2[Record, error] {
	return s.read(ctx, series, position{number: from, behind: true}, down)
}

// DescendFrom is as [Store.Descend], but begins within the names of number n:
// at name, whether there is such a record or not, or else at the one before.
func (s *Store) DescendFrom(ctx context.Context, series string, n uint64, name string) iter.Seq2[Record, error] {
	return s.read(ctx, series, position{number: n, name: name}, down)
}

// position is a place in a series: that of a name, or behind all names of a
// number.
type position struct {
	number uint64
	name   string
	behind bool
}

func (p position) compare(other position) int {
	switch {
	case p.number != other.number:
		return cmp.Compare(p.number, other.number)
	case p.behind && !other.behind:
		return 1
	case !p.behind && other.behind:
		return -1
	}
	return strings.Compare(p.name, other.name)
}

func (r Record) position() position { return position{number: r.Number, name: r.Name} }

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

// before reports whether p comes before other on the way d.
func (d direction) before(p, other position) bool {
	return int(d)*p.compare(other) < 0
}

func (s *Store) read(ctx context.Context, series string, from position, d direction) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		err := checkKey(series)
		if err == nil {
			visit := func(r Record) bool { return yield(r, nil) }
			if d == up {
				err = s.ascend(ctx, series, from, visit)
			} else {
				err = s.descend(ctx, series, from, visit)
			}
		}
		if err != nil {
			yield(Record{}, fmt.Errorf("read series %q: %w", series, err))
		}
	}
}

// ascend visits the records until visit returns false.
func (s *Store) ascend(ctx context.Context, series string, from position, visit func(Record) bool) error {
	var last position
	upToLast := func(r Record) bool {
		// Nothing follows the last: no more needs to be asked for.
		return !up.before(last, r.position()) && visit(r) && up.before(r.position(), last)
	}
	if from != (position{}) {
		var ok bool
		var err error
		if last, ok, err = s.edge(ctx, series, nil, down); err != nil || !ok || up.before(last, from) {
			return err
		}
		return s.walk(ctx, series, from, up, upToLast)
	}
	began := false
	for r, err := range s.records(ctx, series, nil, up) {
		if err == nil && !began {
			// Asked for after the query began: the last, or a record that is put
			// behind it just now, is not cut off for having moved.
			last, began, err = s.edge(ctx, series, nil, down)
		}
		if err != nil || !began || !upToLast(r) {
			return err
		}
	}
	return nil
}

// descend visits the records until visit returns false.
func (s *Store) descend(ctx context.Context, series string, from position, visit func(Record) bool) error {
	inside := false
	for r, err := range s.records(ctx, series, nil, down) {
		if err != nil {
			return err
		}
		if inside = down.before(r.position(), from); inside {
			break // the first one, which is the last of the series
		}
		if !visit(r) {
			return nil
		}
	}
	if !inside {
		return nil
	}
	return s.walk(ctx, series, from, down, visit)
}

// maxSkipped is how many records of a bucket a walk skips to get to its start.
// Without names there are at most fifteen.
const maxSkipped = 64

// walk visits the records from a position on, wherever it is, until visit
// returns false.
func (s *Store) walk(ctx context.Context, series string, from position, d direction, visit func(Record) bool) error {
	// The rest of the bucket, or of the names of the number if there are many.
	path := Digits(from.number)
	depth := len(path) - 1
	crowded, skipped := false, 0
	for r, err := range s.records(ctx, series, path[:depth], d) {
		if err != nil {
			return err
		}
		if d.before(r.position(), from) {
			if skipped++; skipped > maxSkipped {
				crowded = true
				break
			}
		} else if !visit(r) {
			return nil
		}
	}
	if crowded {
		depth++
		for r, err := range s.records(ctx, series, path, d) {
			if err != nil {
				return err
			}
			if !d.before(r.position(), from) && !visit(r) {
				return nil
			}
		}
	}

	// Then that of each of its ancestors.
	for i := depth - 1; i >= 0; i-- {
		end, ok, err := s.edge(ctx, series, path[:i], -d)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		siblings := d * (direction(Digits(end.number)[i]) - direction(path[i]))
		for n := direction(1); n <= siblings; n++ {
			sibling := byte(direction(path[i]) + d*n)
			for r, err := range s.records(ctx, series, append(path[:i:i], sibling), d) {
				if err != nil {
					return err
				}
				if !visit(r) {
					return nil
				}
			}
		}
	}
	return nil
}

// records yields the records below path.
func (s *Store) records(ctx context.Context, series string, path []byte, d direction) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for entry, err := range s.query(ctx, series+join(path), query.Query{Orders: d.order()}) {
			var n uint64
			var name string
			if err == nil {
				n, name, err = number(series, entry.Key)
			}
			if !yield(Record{n, name, entry.Value}, err) || err != nil {
				return
			}
		}
	}
}

// edge returns the place of the record below path that is first on the way d.
func (s *Store) edge(ctx context.Context, series string, path []byte, d direction) (p position, ok bool, err error) {
	for entry, err := range s.query(ctx, series+join(path), query.Query{Orders: d.order(), Limit: 1, KeysOnly: true}) {
		if err != nil {
			return position{}, false, err
		}
		n, name, err := number(series, entry.Key)
		return position{number: n, name: name}, err == nil, err
	}
	return position{}, false, nil
}

// Digits returns the path of n: the count of its hex digits, less one, then
// the digits.
func Digits(n uint64) []byte {
	count := max(1, (bits.Len64(n)+3)/4)
	path := make([]byte, 1+count)
	path[0] = byte(count - 1)
	for i := count; i > 0; i-- {
		path[i] = byte(n & 15)
		n >>= 4
	}
	return path
}

const hex = "0123456789abcdef"

// join returns path as components of a key, each after a slash.
func join(path []byte) string {
	key := make([]byte, 0, 2*len(path))
	for _, d := range path {
		key = append(key, '/', hex[d])
	}
	return string(key)
}

// number is the inverse of Key and of NamedKey.
func number(series, key string) (n uint64, name string, err error) {
	malformed := func() (uint64, string, error) {
		return 0, "", fmt.Errorf("%w: %q", ErrMalformed, key)
	}
	rest := strings.TrimPrefix(key, series)
	digit := func() (uint64, bool) {
		if len(rest) < 2 || rest[0] != '/' || len(rest) > 2 && rest[2] != '/' {
			return 0, false
		}
		d := strings.IndexByte(hex, rest[1])
		rest = rest[2:]
		return uint64(d), d >= 0
	}
	count, ok := digit()
	if !ok {
		return malformed()
	}
	for i := uint64(0); i <= count; i++ {
		d, ok := digit()
		if !ok || i == 0 && d == 0 && count > 0 {
			return malformed()
		}
		n = n<<4 | d
	}
	if rest == "" {
		return n, "", nil
	}
	name = rest[1:] // after the slash
	if strings.Contains(name, "/") || checkKey(name) != nil {
		return malformed()
	}
	return n, name, nil
}
