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
	Name   string // "" for a key made by [Key]
	Value  []byte
}

// Key returns the key of record n of a series. Keys sort as their numbers do.
// The namespace below the series must contain only keys made by Key, or only
// keys made by [NamedKey].
func Key(series string, n uint64) string {
	return series + join(Digits(n))
}

// NamedKey returns the key of the record of a series with number n and the
// given name: Key(series, n) + "/" + name. Keys sort by number, then by the
// bytes of the name. A name is one component of a clean path: not empty, not
// "." or "..", and without a slash. Methods of Store and Tx reject the key of
// any other name with [ErrInvalidKey].
//
// Either all records of a series are named or none is. This is not checked:
// reads of a series with both may miss records.
func NamedKey(series string, n uint64, name string) string {
	if strings.Contains(name, "/") {
		name = "/" + name // prevents path cleaning from changing the key
	}
	return Key(series, n) + "/" + name
}

// Ascend yields the records of a series with numbers of at least from, in the
// order of (Number, Name), and ends with the first error.
//
// It ends at the record that was the last one when it began. If records are
// only added after the last one, a loop that continues after the last record it
// has seen misses none. Other records that are added or removed concurrently
// may be yielded or not. The loop body may call Update.
//
// Ascend from 0 is one query over the whole series. If queries of the datastore
// are snapshots, a record that an Update moves to a higher number meanwhile is
// yielded once, at its old position.
func (s *Store) Ascend(ctx context.Context, series string, from uint64) iter.Seq2[Record, error] {
	return s.read(ctx, series, position{number: from}, up)
}

// AscendFrom is like [Store.Ascend], but begins within the names of number n:
// at name, or at the next one if there is no such record. Name may be any text;
// "" is before all names.
func (s *Store) AscendFrom(ctx context.Context, series string, n uint64, name string) iter.Seq2[Record, error] {
	return s.read(ctx, series, position{number: n, name: name}, up)
}

// Descend yields the records of a series with numbers of at most from, in the
// reverse order of (Number, Name), and ends with the first error. It does not
// yield records that are added after the last one meanwhile. Otherwise it is
// like [Store.Ascend].
//
// Descend from the last record or a higher number is one query over the whole
// series, with the same guarantee as Ascend from 0.
func (s *Store) Descend(ctx context.Context, series string, from uint64) iter.Seq2[Record, error] {
	return s.read(ctx, series, position{number: from, behind: true}, down)
}

// DescendFrom is like [Store.Descend], but begins within the names of number n:
// at name, or at the previous one if there is no such record.
func (s *Store) DescendFrom(ctx context.Context, series string, n uint64, name string) iter.Seq2[Record, error] {
	return s.read(ctx, series, position{number: n, name: name}, down)
}

// position is a place in a series: a name of a number, or the end of its names.
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

// direction is the order in which a series is read.
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

// before reports whether p comes before other in direction d.
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
		// This is the last record: no further query is needed.
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
			// This query began before the end was determined: a record that is
			// the last one, or was moved after it just now, is not cut off.
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

// maxSkipped is how many records of a bucket a read skips to reach its start.
// Without names there are at most fifteen.
const maxSkipped = 64

// walk visits the records from any position on until visit returns false.
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

	// Then the rest of each ancestor of the bucket.
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

// edge returns the position of the record below path that is first in direction
// d.
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

// Digits returns n as a path: the count of its hex digits minus one, then the
// digits.
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

// number is the inverse of Key and NamedKey.
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
