package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"

	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// model is the numbers that a series should have.
type model map[uint64]bool

// change puts and deletes the given numbers, beside two series with similar names.
func (m model) change(t testing.TB, s *store.Store, put, del []uint64) {
	t.Helper()
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		var errs []error
		for _, n := range put {
			m[n] = true
			errs = append(errs,
				tx.Put(store.Key("log", n), []byte(store.Key("value", n))),
				tx.Put(store.Key("log2", n+1), nil),
				tx.Put(store.Key("a/log", n+1), nil))
		}
		for _, n := range del {
			delete(m, n)
			errs = append(errs, tx.Delete(store.Key("log", n)))
		}
		return errors.Join(errs...)
	}))
}

// check compares reading up and down from a number, to the end and a page.
func (m model) check(t testing.TB, s *store.Store, from uint64) {
	t.Helper()
	sorted := slices.Sorted(maps.Keys(m))
	i, found := slices.BinarySearch(sorted, from)
	up := sorted[i:]
	if found {
		i++
	}
	down := slices.Clone(sorted[:i])
	slices.Reverse(down)
	compare := func(name string, records iter.Seq2[store.Record, error], want []uint64) {
		t.Helper()
		for _, n := range []int{len(want) + 1, 3} {
			var got []uint64
			for _, r := range take(t, records, n) {
				got = append(got, r.Number)
				if string(r.Value) != store.Key("value", r.Number) {
					t.Errorf("record %d is %q", r.Number, r.Value)
				}
			}
			if want := want[:min(n, len(want))]; !slices.Equal(got, want) {
				t.Fatalf("%s from %d: got %d, want %d", name, from, got, want)
			}
		}
	}
	compare("ascend", s.Ascend(t.Context(), "log", from), up)
	compare("descend", s.Descend(t.Context(), "log", from), down)
}

func TestSeriesReadsFromAnywhere(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		t.Logf("seed %d", seed)
		for round := range 8 {
			s := store.New(ds, namespace+store.Key("", uint64(round)))
			m := model{}
			m.check(t, s, 0)
			// From a few numbers close together to all of them.
			top := uint64(1) << rng.IntN(64)
			random := func() uint64 {
				if rng.IntN(10) == 0 {
					return math.MaxUint64 - rng.Uint64N(20)
				}
				return rng.Uint64N(top) & (rng.Uint64() | 0xff)
			}
			for range 4 {
				var put, del []uint64
				for range rng.IntN(15) {
					start := random()
					for i := range uint64(1 + rng.IntN(40)*rng.IntN(2)) {
						put = append(put, start+i)
					}
				}
				m.change(t, s, put, nil)
				numbers := slices.Sorted(maps.Keys(m))
				for range rng.IntN(5) {
					if n := len(numbers); n > 0 {
						i := rng.IntN(n)
						del = append(del, numbers[i:i+rng.IntN(n-i)]...)
					}
				}
				m.change(t, s, nil, del)
				for range 10 {
					m.check(t, s, random())
				}
				for n := range m {
					m.check(t, s, n)
					m.check(t, s, n+1)
					m.check(t, s, n-1)
					if rng.IntN(4) == 0 {
						break
					}
				}
				m.check(t, s, 0)
				m.check(t, s, math.MaxUint64)
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

func TestKeysSortAsTheirNumbers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		a, b := rng.Uint64()>>rng.IntN(64), rng.Uint64()>>rng.IntN(64)
		if (a < b) != (store.Key("log", a) < store.Key("log", b)) {
			t.Fatalf("%d and %d: %s and %s", a, b, store.Key("log", a), store.Key("log", b))
		}
	}
}

func TestAscendEndsAtTheLastOfItsBeginning(t *testing.T) {
	onAll(t, func(t *testing.T, ds datastore.Batching) {
		s := store.New(ds, namespace)
		model{}.change(t, s, []uint64{1, 2, 3}, nil)
		next, seen := uint64(1), 0
		// A reader that goes on where it stopped sees all, in order, also when
		// a writer adds records while it reads.
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

func TestDescendSkipsWhatIsAddedBehindTheLast(t *testing.T) {
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

func TestForeignKeyInSeriesIsAnError(t *testing.T) {
	for _, key := range []string{"x", "0", "0/g", "0/12", "1/0/1", "1/1", "0/1/1", "g/1", "0/A", "10", "0/-1",
		"f/1/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0", "\xff/1"} {
		disk := storetest.NewDisk()
		must(t, disk.Put(t.Context(), datastore.NewKey(namespace+"/log/"+key), nil))
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

// meter counts what is read from a datastore by queries, and lets them fail.
type meter struct {
	datastore.Batching
	queries, entries, open int
	failAt                 int // the entry, over all queries, that is an error; 0 for none
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
	// Beside its records a page reads the rest of a bucket or two, and asks for
	// an entry of each of the five digits and for siblings across a gap.
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
	cost("descend from the end", s.Descend(t.Context(), "log", math.MaxUint64), 2, 1)

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
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, read := range map[string]func(ctx context.Context) iter.Seq[error]{
		"ascend":  func(ctx context.Context) iter.Seq[error] { return errs(s.Ascend(ctx, "log", 100)) },
		"descend": func(ctx context.Context) iter.Seq[error] { return errs(s.Descend(ctx, "log", 900)) },
		"scan":    func(ctx context.Context) iter.Seq[error] { return errs(s.Scan(ctx, "log")) },
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

// FuzzForeignKey puts any key below a series: each is a record or an error.
func FuzzForeignKey(f *testing.F) {
	for _, key := range []string{"0/0", "4/1/8/6/a/0", "0/00", "1/0/1", "g/0", "f/" + "f/f/f/f/f/f/f/f/f/f/f/f/f/f/f/f"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		disk := storetest.NewDisk()
		dsKey := datastore.NewKey(namespace + "/log").ChildString(key)
		if !datastore.NewKey(namespace + "/log").IsAncestorOf(dsKey) {
			t.Skip()
		}
		must(t, disk.Put(t.Context(), dsKey, nil))
		s := store.New(disk, namespace)
		for name, records := range map[string]iter.Seq2[store.Record, error]{
			"ascend":  s.Ascend(t.Context(), "log", 0),
			"descend": s.Descend(t.Context(), "log", math.MaxUint64),
		} {
			count := 0
			for r, err := range records {
				count++
				if err == nil && namespace+"/"+store.Key("log", r.Number) != dsKey.String() {
					t.Errorf("%s: %q is read as %d", name, dsKey, r.Number)
				}
				if err != nil && !errors.Is(err, store.ErrMalformed) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if count != 1 {
				t.Errorf("%s: %q: %d results", name, dsKey, count)
			}
		}
	})
}
