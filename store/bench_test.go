package store_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/newpieceplease/npp/store"
)

// fill writes records 0 to n-1 of a series, every step numbers apart.
func fill(t testing.TB, s *store.Store, series string, n int, step uint64) {
	t.Helper()
	value := make([]byte, 300)
	for i := 0; i < n; {
		must(t, s.Update(t.Context(), func(tx *store.Tx) error {
			for range min(2000, n-i) {
				if err := tx.Put(store.Key(series, uint64(i)*step), value); err != nil {
					return err
				}
				i++
			}
			return nil
		}))
	}
}

func BenchmarkPage(b *testing.B) {
	const n, page = 100_000, 10
	for _, backend := range backends {
		for _, layout := range []struct {
			name string
			step uint64
		}{{"dense", 1}, {"sparse", 1e9}} {
			s := store.New(backend.open(b, b.TempDir()), "/npp/bench")
			fill(b, s, "log", n, layout.step)
			for _, from := range []struct {
				name string
				n    uint64
			}{{"first", 0}, {"middle", n / 2}, {"bucket-border", 0xffff}, {"last", n - page}} {
				start := from.n * layout.step
				b.Run(fmt.Sprintf("%s/%s/%s/ascend", backend.name, layout.name, from.name), func(b *testing.B) {
					for b.Loop() {
						if got := len(take(b, s.Ascend(b.Context(), "log", start), page)); got != page {
							b.Fatalf("a page of %d", got)
						}
					}
				})
				b.Run(fmt.Sprintf("%s/%s/%s/descend", backend.name, layout.name, from.name), func(b *testing.B) {
					for b.Loop() {
						if got := len(take(b, s.Descend(b.Context(), "log", start+(page-1)*layout.step), page)); got != page {
							b.Fatalf("a page of %d", got)
						}
					}
				})
			}
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, backend := range backends {
		for _, writers := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/%d", backend.name, writers), func(b *testing.B) {
				s := store.New(backend.open(b, b.TempDir()), "/npp/bench")
				b.ReportAllocs()
				parallel(writers, func(w int) {
					value := make([]byte, 300)
					series := fmt.Sprint("log", w)
					for i := range b.N / writers {
						if err := s.Update(context.Background(), func(tx *store.Tx) error {
							return tx.Put(store.Key(series, uint64(i)), value)
						}); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}
