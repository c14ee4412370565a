package store_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"

	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// place is the number and name of a record; "" means no name.
type place struct {
	n    uint64
	name string
}

func (p place) key(series string) string {
	if p.name == "" {
		return store.Key(series, p.n)
	}
	return store.NamedKey(series, p.n, p.name)
}

func (p place) String() string { return p.key("") }

func (p place) compare(other place) int {
	return cmp.Or(cmp.Compare(p.n, other.n), cmp.Compare(p.name, other.name))
}

func unnamed(numbers []uint64) []place {
	places := make([]place, len(numbers))
	for i, n := range numbers {
		places[i].n = n
	}
	return places
}

// model is the set of records that a series should have.
type model map[place]bool

// change puts and deletes the given numbers, beside two series with similar
// names.
func (m model) change(t testing.TB, s *store.Store, put, del []uint64) {
	t.Helper()
	m.changePlaces(t, s, unnamed(put), unnamed(del))
}

func (m model) changePlaces(t testing.TB, s *store.Store, put, del []place) {
	t.Helper()
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		var errs []error
		for _, p := range put {
			m[p] = true
			next := place{p.n + 1, p.name}
			errs = append(errs,
				tx.Put(p.key("log"), []byte(p.key("value"))),
				tx.Put(next.key("log2"), nil),
				tx.Put(next.key("a/log"), nil))
		}
		for _, p := range del {
			delete(m, p)
			errs = append(errs, tx.Delete(p.key("log")))
		}
		return errors.Join(errs...)
	}))
}

func (m model) sorted() []place { return slices.SortedFunc(maps.Keys(m), place.compare) }

// check compares reads from a number in both directions, to the end and for a
// page.
func (m model) check(t testing.TB, s *store.Store, from uint64) {
	t.Helper()
	sorted := m.sorted()
	first, _ := slices.BinarySearchFunc(sorted, from, func(p place, n uint64) int { return cmp.Compare(p.n, n) })
	end := first
	for end < len(sorted) && sorted[end].n == from {
		end++
	}
	compare(t, fmt.Sprint("ascend from ", from), s.Ascend(t.Context(), "log", from), sorted[first:])
	compare(t, fmt.Sprint("descend from ", from), s.Descend(t.Context(), "log", from), backwards(sorted[:end]))
}

// checkFrom is check from a place with or without a record.
func (m model) checkFrom(t testing.TB, s *store.Store, from place) {
	t.Helper()
	sorted := m.sorted()
	first, found := slices.BinarySearchFunc(sorted, from, place.compare)
	end := first
	if found {
		end++
	}
	compare(t, fmt.Sprintf("ascend from %q", from), s.AscendFrom(t.Context(), "log", from.n, from.name), sorted[first:])
	compare(t, fmt.Sprintf("descend from %q", from), s.DescendFrom(t.Context(), "log", from.n, from.name), backwards(sorted[:end]))
}

func backwards(places []place) []place {
	places = slices.Clone(places)
	slices.Reverse(places)
	return places
}

func compare(t testing.TB, name string, records iter.Seq2[store.Record, error], want []place) {
	t.Helper()
	for _, n := range []int{len(want) + 1, 3} {
		var got []place
		for _, r := range take(t, records, n) {
			p := place{r.Number, r.Name}
			got = append(got, p)
			if string(r.Value) != p.key("value") {
				t.Errorf("record %q is %q", p, r.Value)
			}
		}
		if want := want[:min(n, len(want))]; !slices.Equal(got, want) {
			t.Fatalf("%s: got %q, want %q", name, got, want)
		}
	}
}

// randomName returns a short name, so that names collide, with bytes around the
// slash and the digits.
func randomName(rng *rand.Rand) string {
	for {
		name := make([]byte, 1+rng.IntN(3))
		for i := range name {
			name[i] = "\x00 -.0af~\xff"[rng.IntN(9)]
		}
		if s := string(name); s != "." && s != ".." {
			return s
		}
	}
}

func TestSeriesReadsFromAnywhere(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		t.Logf("seed %d", seed)
		for round := range 8 {
			s := store.New(ds, namespace+store.Key("", uint64(round)))
			named := round%2 == 1
			m := model{}
			m.check(t, s, 0)
			m.checkFrom(t, s, place{0, "a"})
			// From a few adjacent numbers to all of them.
			top := uint64(1) << rng.IntN(64)
			random := func() uint64 {
				if rng.IntN(10) == 0 {
					return math.MaxUint64 - rng.Uint64N(20)
				}
				return rng.Uint64N(top) & (rng.Uint64() | 0xff)
			}
			for range 3 {
				var put, del []place
				for range rng.IntN(15) {
					start := random()
					for i := range uint64(1 + rng.IntN(40)*rng.IntN(2)) {
						names := []string{""}
						if named {
							names[0] = randomName(rng)
							// Sometimes more than the records that are skipped
							// one by one.
							for range rng.IntN(3) + rng.IntN(150)/149*100 {
								names = append(names, randomName(rng))
							}
						}
						for _, name := range names {
							put = append(put, place{start + i, name})
						}
					}
				}
				m.changePlaces(t, s, put, nil)
				places := m.sorted()
				for range rng.IntN(5) {
					if n := len(places); n > 0 {
						i := rng.IntN(n)
						del = append(del, places[i:i+rng.IntN(n-i)]...)
					}
				}
				m.changePlaces(t, s, nil, del)
				for range 6 {
					m.check(t, s, random())
					m.checkFrom(t, s, place{random(), randomName(rng)})
				}
				for p := range m {
					for _, n := range []uint64{p.n, p.n + 1, p.n - 1} {
						m.check(t, s, n)
						m.checkFrom(t, s, place{n, []string{"", p.name, randomName(rng)}[rng.IntN(3)]})
					}
					if rng.IntN(3) == 0 {
						break
					}
				}
				m.check(t, s, 0)
				m.check(t, s, math.MaxUint64)
				m.checkFrom(t, s, place{math.MaxUint64, "\xff\xff\xff\xff"})
			}
		}
	})
}

func TestSeriesReadsAcrossBucketBorders(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		s := store.New(ds, namespace)
		m := model{}
		put := []uint64{0, 1, math.MaxUint64 - 1, math.MaxUint64}
		for shift := 4; shift < 64; shift += 4 {
			border := uint64(1) << shift
			put = append(put, border-1, border, border+1, 3*border-1, 3*border)
		}
		m.change(t, s, put, nil)
		for _, n := range put {
			m.check(t, s, n)
			m.check(t, s, n-2)
			m.check(t, s, n+2)
		}
	})
}

func TestSeriesReadsWithinManyNamesOfANumber(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		s := store.New(ds, namespace)
		m := model{}
		var put []place
		for _, n := range []uint64{0, 1, 0x0f, 0x10, 0x11, 0x13, 0x20} {
			for i := range 100 {
				put = append(put, place{n, fmt.Sprintf("%02d", i)})
			}
		}
		put = append(put, place{0x12, "a"}, place{0x1e, "a"}, place{math.MaxUint64, "a"})
		m.changePlaces(t, s, put, nil)
		for _, p := range put {
			if p.name == "a" || p.name == "00" || p.name == "80" || p.name == "99" {
				m.checkFrom(t, s, p)
				m.checkFrom(t, s, place{p.n, p.name + "-"})
			}
		}
		for n := range uint64(0x23) {
			m.check(t, s, n)
			m.checkFrom(t, s, place{n, ""})
			m.checkFrom(t, s, place{n, "20"})
			m.checkFrom(t, s, place{n, "x"})
		}
	})
}

func TestKeysSortAsTheirNumbersAndNames(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		a, b := rng.Uint64()>>rng.IntN(64), rng.Uint64()>>rng.IntN(64)
		if (a < b) != (store.Key("log", a) < store.Key("log", b)) {
			t.Fatalf("%d and %d: %s and %s", a, b, store.Key("log", a), store.Key("log", b))
		}
		p, q := place{a, randomName(rng)}, place{b, randomName(rng)}
		if rng.IntN(2) == 0 {
			q.n = p.n
		}
		if cmp.Compare(p.key("log"), q.key("log")) != p.compare(q) {
			t.Fatalf("%q and %q: %q and %q", p, q, p.key("log"), q.key("log"))
		}
	}
}

func TestAscendEndsAtTheLastOfItsBeginning(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		s := store.New(ds, namespace)
		model{}.change(t, s, []uint64{1, 2, 3}, nil)
		next, seen := uint64(1), 0
		// A reader that continues where it stopped sees all records in order,
		// also while a writer adds some.
		for seen < 100 {
			last := uint64(seen + 3)
			for r, err := range s.Ascend(t.Context(), "log", next) {
				must(t, err)
				if r.Number != next || r.Number > last {
					t.Fatalf("got %d, want %d, at most %d", r.Number, next, last)
				}
				next++
				seen++
				model{}.change(t, s, []uint64{uint64(seen + 3)}, nil)
			}
		}
	})
}

func TestAscendEndsAtTheLastNameOfItsBeginning(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		for i, from := range []place{{0, ""}, {1, ""}, {0x1f, ""}, {0x1f, "b"}} {
			s := store.New(ds, namespace+store.Key("", uint64(i)))
			model{}.changePlaces(t, s, []place{{1, "a"}, {0x1f, "a"}, {0x1f, "b"}, {0x1f, "c"}}, nil)
			var got []string
			for r, err := range s.AscendFrom(t.Context(), "log", from.n, from.name) {
				must(t, err)
				if r.Number == 0x1f {
					got = append(got, r.Name)
				}
				model{}.changePlaces(t, s, []place{{0x1f, "d"}, {0x1f, fmt.Sprint("d", len(got))}, {0x20, "a"}}, nil)
			}
			want := []string{"a", "b", "c"}
			if from.name == "b" {
				want = want[1:]
			}
			if !slices.Equal(got, want) {
				t.Errorf("from %q: got %q, want %q", from, got, want)
			}
			// It continues where it stopped.
			rest := take(t, s.AscendFrom(t.Context(), "log", 0x1f, "c\x00"), -1)
			if len(rest) < 3 || rest[0].Name != "d" || rest[len(rest)-1].Number != 0x20 {
				t.Errorf("from %q, the rest: %v", from, rest)
			}
		}
	})
}

func TestAscendEndsWhereTheLastWasAlsoIfItIsGone(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		for i, from := range []place{{0, ""}, {1, ""}, {1, "a"}} {
			s := store.New(ds, namespace+store.Key("", uint64(i)))
			m := model{}
			m.changePlaces(t, s, []place{{1, "a"}, {0x1f, "a"}, {0x1f, "b"}}, nil)
			for r, err := range s.AscendFrom(t.Context(), "log", from.n, from.name) {
				must(t, err)
				if r.Number > 0x1f || r.Name > "b" {
					t.Errorf("from %q: got %d %q", from, r.Number, r.Name)
				}
				m.changePlaces(t, s, []place{{0x1f, "c"}, {0x20, "a"}}, []place{{0x1f, "b"}})
			}
		}
	})
}

func TestDescendSkipsRecordsAddedAfterTheLast(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		s := store.New(ds, namespace)
		model{}.change(t, s, []uint64{1, 2, 3}, nil)
		want := uint64(3)
		for r, err := range s.Descend(t.Context(), "log", math.MaxUint64) {
			must(t, err)
			if r.Number != want {
				t.Errorf("got %d, want %d", r.Number, want)
			}
			want--
			model{}.change(t, s, []uint64{1000 - r.Number}, nil)
		}
		if want != 0 {
			t.Errorf("ended before %d", want)
		}
	})
}

// hooked calls a function before each query.
type hooked struct {
	datastore.Batching
	before func()
}

func (h *hooked) Query(ctx context.Context, q query.Query) (query.Results, error) {
	h.before()
	return h.Batching.Query(ctx, q)
}

func TestReadFromAnEndSeesWhatMovesOnce(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		const n = 600 // over many buckets
		var named, plain []place
		for i := range uint64(n) {
			plain = append(plain, place{i * 3, ""})
			named = append(named, place{i / 5 * 3, fmt.Sprint("name", i%5)})
		}
		last := named[n-1]
		series := uint64(0)
		for name, test := range map[string]struct {
			places []place
			read   func(s *store.Store) iter.Seq2[store.Record, error]
			down   bool
		}{
			"ascend":            {plain, func(s *store.Store) iter.Seq2[store.Record, error] { return s.Ascend(t.Context(), "log", 0) }, false},
			"ascend names":      {named, func(s *store.Store) iter.Seq2[store.Record, error] { return s.Ascend(t.Context(), "log", 0) }, false},
			"descend":           {plain, func(s *store.Store) iter.Seq2[store.Record, error] { return s.Descend(t.Context(), "log", 1e9) }, true},
			"descend from last": {plain, func(s *store.Store) iter.Seq2[store.Record, error] { return s.Descend(t.Context(), "log", 3*(n-1)) }, true},
			"descend names":     {named, func(s *store.Store) iter.Seq2[store.Record, error] { return s.Descend(t.Context(), "log", last.n) }, true},
			"descend from a name": {named, func(s *store.Store) iter.Seq2[store.Record, error] {
				return s.DescendFrom(t.Context(), "log", last.n, last.name)
			}, true},
			"descend beyond names": {named, func(s *store.Store) iter.Seq2[store.Record, error] {
				return s.DescendFrom(t.Context(), "log", last.n, "x")
			}, true},
		} {
			// All other records move during the loop, at any record, or before
			// any of its queries.
			for _, at := range []int{1, 2, 17, n / 2, n, -1, -2} {
				h := &hooked{ds, func() {}}
				s := store.New(h, namespace+store.Key("", series))
				series++
				m := model{}
				m.changePlaces(t, s, test.places, nil)
				move := func() {
					must(t, s.Update(t.Context(), func(tx *store.Tx) error {
						var errs []error
						for _, p := range test.places {
							to := place{p.n + 3*n, p.name}
							errs = append(errs, tx.Delete(p.key("log")), tx.Put(to.key("log"), []byte(p.key("value"))))
						}
						return errors.Join(errs...)
					}))
				}
				queries := 0
				h.before = func() {
					if queries++; queries == -at {
						move()
					}
				}
				var got []store.Record
				for r, err := range test.read(s) {
					must(t, err)
					if got = append(got, r); len(got) == at {
						move()
					}
				}
				want := test.places
				if test.down {
					want = backwards(want)
				}
				if len(got) != n && !(at == -1 && test.down && len(got) == 0) {
					t.Fatalf("%s, moved at %d: %d records", name, at, len(got))
				}
				for i, r := range got {
					p := want[i]
					value := p.key("value")
					if at == -1 { // before the loop began
						p.n += 3 * n
					}
					if (place{r.Number, r.Name}) != p || string(r.Value) != value {
						t.Fatalf("%s, moved at %d: record %d is %d %q %q", name, at, i, r.Number, r.Name, r.Value)
					}
				}
			}
		}
	})
}

func TestForeignKeyInSeriesIsAnError(t *testing.T) {
	for _, key := range []string{"x", "0", "0/g", "0/12", "1/0/1", "1/1", "0/1/1/1", "g/1", "0/A", "10", "0/-1",
		"1/1/name", "1/0/1/name", "0/1name", "0/1-name", "0x/1", "1/1x/1/name", "0/1/name/x", "0/name", "00/1/name", "A/1", "1", "0/1/.", "0/1/..", "0//1", "0/1//x",
		"f/1/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0", "\xff/1"} {
		disk := storetest.NewDisk()
		must(t, disk.Put(t.Context(), datastore.RawKey(namespace+"/log/"+key), nil))
		s := store.New(disk, namespace)
		for name, records := range map[string]iter.Seq2[store.Record, error]{
			"ascend":  s.Ascend(t.Context(), "log", 0),
			"descend": s.Descend(t.Context(), "log", math.MaxUint64),
		} {
			var errs []error
			for _, err := range records {
				errs = append(errs, err)
			}
			if len(errs) != 1 || !errors.Is(errs[0], store.ErrMalformed) {
				t.Errorf("%s with %q: %v", name, key, errs)
			}
		}
	}
}

// meter counts what queries read from a datastore, and makes them fail.
type meter struct {
	datastore.Batching
	queries, entries, open int
	failAt                 int // the entry, counted over all queries, that is an error; 0 for none
}

var errRead = errors.New("read error")

func (m *meter) Query(ctx context.Context, q query.Query) (query.Results, error) {
	results, err := m.Batching.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	m.queries++
	m.open++
	return &meteredResults{results, m}, nil
}

type meteredResults struct {
	query.Results
	meter *meter
}

func (r *meteredResults) NextSync() (query.Result, bool) {
	result, ok := r.Results.NextSync()
	if ok {
		r.meter.entries++
		if r.meter.entries == r.meter.failAt {
			return query.Result{Error: errRead}, true
		}
	}
	return result, ok
}

func (r *meteredResults) Close() error {
	r.meter.open--
	return r.Results.Close()
}

func TestPageCostsTheSameFromAnywhere(t *testing.T) {
	const n, page = 100_000, 10
	m := &meter{Batching: backends[0].open(t, t.TempDir())}
	s := store.New(m, namespace)
	fill(t, s, "log", n, 1)
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		for i := 30_000; i < 60_000; i++ {
			if err := tx.Delete(store.Key("log", uint64(i))); err != nil {
				return err
			}
		}
		return nil
	}))
	// Besides its records a page reads the rest of a bucket or two, an entry of
	// each of the five digits, and siblings across a gap.
	cost := func(name string, records iter.Seq2[store.Record, error], queries, entries int) {
		t.Helper()
		m.queries, m.entries = 0, 0
		if got := len(take(t, records, page)); got != page {
			t.Errorf("%s: %d records", name, got)
		}
		if m.queries > queries || m.entries > page+entries {
			t.Errorf("%s: %d queries read %d entries", name, m.queries, m.entries)
		}
		if m.open != 0 {
			t.Errorf("%s: %d queries left open", name, m.open)
		}
	}
	for _, from := range []uint64{0, 1, 0xfff, 0x1000, 29_995, 30_000, 45_678, 59_999, 0xffff, n - page} {
		cost(fmt.Sprint("ascend from ", from), s.Ascend(t.Context(), "log", from), 12, 20)
		cost(fmt.Sprint("descend from ", from+page), s.Descend(t.Context(), "log", from+page), 12, 20)
	}
	cost("descend from the end", s.Descend(t.Context(), "log", math.MaxUint64), 1, 1)
	cost("ascend from 0", s.Ascend(t.Context(), "log", 0), 2, 3)

	// Only names within a number are skipped, and a few around it.
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		for i := range uint64(4000) {
			if err := tx.Put(store.NamedKey("names", i/4, fmt.Sprint("name", i%4)), nil); err != nil {
				return err
			}
		}
		for i := range 5000 {
			if err := tx.Put(store.NamedKey("names", 500, fmt.Sprint("other", i)), nil); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, from := range []uint64{3, 400, 499, 501, 502, 511, 980} {
		cost(fmt.Sprint("ascend names from ", from), s.AscendFrom(t.Context(), "names", from, "name2"), 20, 120)
		cost(fmt.Sprint("descend names from ", from), s.DescendFrom(t.Context(), "names", from, "name2"), 20, 120)
	}
	cost("descend names from the end", s.Descend(t.Context(), "names", math.MaxUint64), 1, 1)
	cost("ascend names from 0", s.Ascend(t.Context(), "names", 0), 2, 3)

	const step = 1e15
	fill(t, s, "sparse", 1000, step)
	cost("ascend a sparse series", s.Ascend(t.Context(), "sparse", 500*step), 60, 20)
	cost("descend a sparse series", s.Descend(t.Context(), "sparse", 500*step), 60, 20)
}

func TestReadErrorEndsTheLoop(t *testing.T) {
	m := &meter{Batching: storetest.NewDisk()}
	s := store.New(m, namespace)
	var numbers []uint64
	for n := range uint64(50) {
		numbers = append(numbers, n*n)
	}
	model{}.change(t, s, numbers, nil)
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		var errs []error
		for i := range 100 {
			errs = append(errs, tx.Put(store.NamedKey("names", 7, fmt.Sprint(i)), nil))
		}
		return errors.Join(append(errs, tx.Put(store.NamedKey("names", 1, "a"), nil), tx.Put(store.NamedKey("names", 9, "a"), nil))...)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, read := range map[string]func(ctx context.Context) iter.Seq[error]{
		"ascend":                func(ctx context.Context) iter.Seq[error] { return errs(s.Ascend(ctx, "log", 100)) },
		"descend":               func(ctx context.Context) iter.Seq[error] { return errs(s.Descend(ctx, "log", 900)) },
		"ascend from the first": func(ctx context.Context) iter.Seq[error] { return errs(s.Ascend(ctx, "log", 0)) },
		"descend from the last": func(ctx context.Context) iter.Seq[error] { return errs(s.Descend(ctx, "log", math.MaxUint64)) },
		"ascend names":          func(ctx context.Context) iter.Seq[error] { return errs(s.AscendFrom(ctx, "names", 7, "80")) },
		"descend names":         func(ctx context.Context) iter.Seq[error] { return errs(s.DescendFrom(ctx, "names", 7, "20")) },
		"scan":                  func(ctx context.Context) iter.Seq[error] { return errs(s.Scan(ctx, "log")) },
	} {
		expect := func(ctx context.Context, want error) (ok bool) {
			t.Helper()
			var last error
			for err := range read(ctx) {
				if last != nil {
					t.Errorf("%s: went on after %v", name, last)
				}
				last = err
			}
			if m.open != 0 {
				t.Errorf("%s: %d queries left open", name, m.open)
			}
			return errors.Is(last, want)
		}
		if !expect(ctx, context.Canceled) {
			t.Errorf("%s: not cancelled", name)
		}
		m.entries = 0
		if !expect(t.Context(), nil) {
			t.Errorf("%s failed", name)
		}
		for i := range m.entries {
			m.entries, m.failAt = 0, i+1
			if !expect(t.Context(), errRead) {
				t.Errorf("%s: error at entry %d is lost", name, i+1)
			}
		}
		m.failAt = 0
	}
}

func errs[T any](seq iter.Seq2[T, error]) iter.Seq[error] {
	return func(yield func(error) bool) {
		for _, err := range seq {
			if !yield(err) {
				return
			}
		}
	}
}

// FuzzSeries reads each byte pair as a number, by exponent and mantissa.
func FuzzSeries(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 4, 0, 60, 255, 3, 255}, uint64(5))
	f.Fuzz(func(t *testing.T, data []byte, from uint64) {
		if len(data) > 200 {
			t.Skip()
		}
		s := store.New(storetest.NewDisk(), namespace)
		m := model{}
		var put []uint64
		for i := 0; i+1 < len(data); i += 2 {
			put = append(put, uint64(data[i+1])<<(data[i]%64))
		}
		m.change(t, s, put, nil)
		m.check(t, s, from)
		for _, n := range put[:min(4, len(put))] {
			m.check(t, s, n+from%16)
		}
	})
}

// FuzzNames reads each byte triple as a number and a name.
func FuzzNames(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 1, 'b', 60, 3, 'a'}, uint64(1), "aa")
	f.Fuzz(func(t *testing.T, data []byte, from uint64, name string) {
		if len(data) > 300 {
			t.Skip()
		}
		s := store.New(storetest.NewDisk(), namespace)
		m := model{}
		var put []place
		for i := 0; i+2 < len(data); i += 3 {
			if c := data[i+2]; c != '/' && c != '.' {
				put = append(put, place{uint64(data[i+1]) << (data[i] % 64), string(c)})
			}
		}
		m.changePlaces(t, s, put, nil)
		m.check(t, s, from)
		m.checkFrom(t, s, place{from, name})
		for _, p := range put[:min(4, len(put))] {
			m.check(t, s, p.n+from%16)
			m.checkFrom(t, s, p)
			m.checkFrom(t, s, place{p.n, name})
		}
	})
}

// FuzzNamedKey puts a record at any number and name. A read returns exactly
// that record, and an invalid name is rejected.
func FuzzNamedKey(f *testing.F) {
	for _, name := range []string{"", ".", "..", "...", "a", "0", "/", "a/b", "/a", "a/", "../a", "a/../b", "\x00", "\xff", "ü"} {
		f.Add(uint64(0x1f), name)
	}
	f.Fuzz(func(t *testing.T, n uint64, name string) {
		s := store.New(storetest.NewDisk(), namespace)
		key := store.NamedKey("log", n, name)
		err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Put(key, nil) })
		if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
			if !errors.Is(err, store.ErrInvalidKey) {
				t.Errorf("put %q: %v", key, err)
			}
			return
		}
		must(t, err)
		if key != store.Key("log", n)+"/"+name {
			t.Errorf("%d and %q are %q", n, name, key)
		}
		for _, r := range append(take(t, s.Ascend(t.Context(), "log", n), -1), take(t, s.DescendFrom(t.Context(), "log", n, name), -1)...) {
			if r.Number != n || r.Name != name {
				t.Errorf("%q is read as %d and %q", key, r.Number, r.Name)
			}
		}
		if got := len(take(t, s.AscendFrom(t.Context(), "log", n, name), -1)); got != 1 {
			t.Errorf("%q: %d records", key, got)
		}
	})
}

// inSeries reports whether a key below a series is one of Key or NamedKey.
func inSeries(key string) bool {
	parts := strings.Split(key, "/")
	for i, part := range parts {
		count := strings.Index("0123456789abcdef", parts[0]) + 1
		switch {
		case len(parts[0]) != 1 || count == 0 || len(parts) < 1+count || len(parts) > 2+count:
			return false
		case i == 1+count:
			return part != "" && part != "." && part != ".."
		case len(part) != 1 || !strings.Contains("0123456789abcdef", part):
			return false
		case i == 1 && part == "0" && count > 1:
			return false
		}
	}
	return true
}

// FuzzForeignKey puts any key below a series. Each is a record or an error.
func FuzzForeignKey(f *testing.F) {
	for _, key := range []string{"0/0", "4/1/8/6/a/0", "0/00", "1/0/1", "g/0", "f/" + "f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f",
		"0/0/name", "1/1/name", "1/1/0/name", "1/1/0/name/x", "f/" + "f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f", "0/0/.", "0/0//", "0/0/ü"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		disk := storetest.NewDisk()
		if key == "" || strings.HasSuffix(key, "/") {
			t.Skip()
		}
		dsKey := datastore.RawKey(namespace + "/log/" + key)
		must(t, disk.Put(t.Context(), dsKey, nil))
		s := store.New(disk, namespace)
		for name, records := range map[string]iter.Seq2[store.Record, error]{
			"ascend":       s.Ascend(t.Context(), "log", 0),
			"ascend from":  s.AscendFrom(t.Context(), "log", 0, ""),
			"descend":      s.Descend(t.Context(), "log", math.MaxUint64),
			"descend from": s.DescendFrom(t.Context(), "log", math.MaxUint64, "\xff"),
		} {
			count := 0
			for r, err := range records {
				count++
				if p := (place{r.Number, r.Name}); err == nil && (!inSeries(key) || namespace+"/"+p.key("log") != dsKey.String()) {
					t.Errorf("%s: %q is read as %q", name, dsKey, p)
				}
				if err != nil && (inSeries(key) || !errors.Is(err, store.ErrMalformed)) {
					t.Errorf("%s: %q: %v", name, dsKey, err)
				}
			}
			max := uint64(math.MaxUint64)
			if count != 1 && !(count == 0 && name == "descend from" && strings.HasPrefix(key, strings.TrimPrefix(store.Key("", max), "/"))) {
				t.Errorf("%s: %q: %d results", name, dsKey, count)
			}
		}
	})
}
