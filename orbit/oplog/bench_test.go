package oplog_test

import (
	"fmt"
	"strings"
	"testing"

	leveldb "github.com/ipfs/go-ds-leveldb"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/orbit/value"
)

// A page of missing hashes while 1 GiB waits.
func BenchmarkMissing(b *testing.B) {
	const waiting = 1 << 30
	for _, size := range []int{1_000_000, 64_000} {
		b.Run(fmt.Sprintf("entries of %d bytes", size), func(b *testing.B) {
			ds, err := leveldb.NewDatastore(b.TempDir(), nil)
			must(b, err)
			defer ds.Close()
			r, err := openWith(b.Context(), ds, func(c *oplog.Config) { c.Waiting = 2 * waiting })
			must(b, err)
			text := strings.Repeat("x", size)
			for i := range waiting / size {
				var next []*entry.Entry
				for j := range 10 {
					next = append(next, draft{key: fmt.Sprint("m", i, ".", j), time: 1}.entry())
				}
				r.join(b, draft{key: fmt.Sprint("w", i), time: 2, next: next, payload: value.Text(text)}.entry())
			}
			for b.Loop() {
				if n := len(must1(r.Missing(b.Context()))); n != oplog.MaxMissing {
					b.Fatalf("%d hashes", n)
				}
			}
			st := must1(r.Stats(b.Context()))
			b.ReportMetric(float64(st.Pending>>20), "MiB-waiting")
			b.ReportMetric(float64(st.Missing), "missing")
		})
	}
}
