package entry_test

import (
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/value"
)

// typical returns the arguments for an entry of 1.4 KB with 16 references.
func typical(b *testing.B) (s *identity.Signer, p value.Value, heads []entry.Position, refs []string) {
	s = signer(b, "A")
	for i := range entry.MaxRefs {
		refs = append(refs, hash(i))
	}
	return s, value.Text(strings.Repeat("x", 100)), []entry.Position{at(99, 100)}, refs
}

func BenchmarkNew(b *testing.B) {
	s, p, heads, refs := typical(b)
	b.ReportAllocs()
	for b.Loop() {
		e, err := entry.New(s, logID, p, heads, refs)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(e.Block.Data)))
	}
}

func benchmarkEntry(b *testing.B, run func(*identity.Signer, *entry.Entry) error) {
	s, p, heads, refs := typical(b)
	e, err := entry.New(s, logID, p, heads, refs)
	must(b, err)
	b.SetBytes(int64(len(e.Block.Data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := run(s, e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	benchmarkEntry(b, func(_ *identity.Signer, e *entry.Entry) error {
		_, err := entry.Decode(e.Block)
		return err
	})
}

func BenchmarkCheck(b *testing.B) {
	benchmarkEntry(b, func(s *identity.Signer, e *entry.Entry) error { return e.Check(s.Identity) })
}
