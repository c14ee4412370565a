package oplog_test

import (
	"fmt"
	"strings"
	"testing"

	leveldb "github.com/ipfs/go-ds-leveldb"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
)

// The cost of 1 GiB of pending entries for a page of missing hashes and for
// opening the log.
func BenchmarkPending(b *testing.B) {
	const pending = 1 << 30
	for _, size := range []int{1_000_000, 64_000} {
		dir := b.TempDir()
		ds, err := leveldb.NewDatastore(dir, nil)
		must(b, err)
		open := func() replica {
			r, err := openWith(b.Context(), ds, func(c *oplog.Config) { c.MaxPending = 2 * pending })
			must(b, err)
			return r
		}
		r := open()
		text := strings.Repeat("x", size)
		for i := range pending / size {
			var next []*entry.Entry
			for j := range 10 {
				next = append(next, draft{key: fmt.Sprint("m", i, ".", j), time: 1}.entry())
			}
			r.join(b, draft{key: fmt.Sprint("w", i), time: 2, next: next, payload: value.Text(text)}.entry())
		}
		st := must1(r.Stats(b.Context()))
		b.Run(fmt.Sprintf("entries of %d bytes/a page of missing hashes", size), func(b *testing.B) {
			for b.Loop() {
				if n := len(must1(r.Missing(b.Context()))); n != oplog.MaxMissing {
					b.Fatalf("%d hashes", n)
				}
			}
			b.ReportMetric(float64(st.PendingBytes>>20), "MiB-waiting")
			b.ReportMetric(float64(st.Missing), "missing")
		})
		b.Run(fmt.Sprintf("entries of %d bytes/open", size), func(b *testing.B) {
			for b.Loop() {
				must(b, ds.Close())
				ds, err = leveldb.NewDatastore(dir, nil)
				must(b, err)
				if got := must1(open().Stats(b.Context())); got.Pending != st.Pending {
					b.Fatalf("%d entries wait, want %d", got.Pending, st.Pending)
				}
			}
		})
		must(b, ds.Close())
	}
}
