package dagcbor

import (
	"bytes"
	"errors"
	"testing"

	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/ipld/go-ipld-prime/node/basicnode"
)

func seed(f *testing.F) {
	for _, c := range roundtrips(f) {
		f.Add(unhex(f, c.Hex))
	}
	f.Add(everything(f))
	f.Add(document(f))
}

func FuzzNormalizeIsIdempotent(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, item []byte) {
		before := bytes.Clone(item)
		r := NewReader(item)
		raw, rawErr := r.Raw()
		whole := rawErr == nil && r.End() == nil
		if rawErr == nil && !bytes.HasPrefix(item, raw) {
			t.Fatalf("raw is %x", raw)
		}
		got, err := Normalize(item)
		if !bytes.Equal(item, before) {
			t.Fatal("the input was changed")
		}
		if whole == errors.Is(err, ErrMalformed) {
			t.Fatalf("raw: %v, normalize: %v", rawErr, err)
		}
		if Canonical(item) != (err == nil && bytes.Equal(got, item)) {
			t.Fatalf("canonical is %v, normalized %x, %v", Canonical(item), got, err)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnencodable) {
				t.Fatal(err)
			}
			return
		}
		if again, err := Normalize(got); err != nil || &again[0] != &got[0] {
			t.Fatalf("of %x: %x, %v", got, again, err)
		}
	})
}

func FuzzAnotherCodecEncodesTheSame(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, item []byte) {
		want, err := Normalize(item)
		if err != nil || hasSmallInteger(NewReader(want)) {
			return
		}
		if got, ok := recode(t, want); ok && !bytes.Equal(got, want) {
			t.Errorf("canonical %x: %x", want, got)
		}
		// The other codec preserves integral floats and texts that are not
		// UTF-8.
		got, ok := recode(t, item)
		if !ok {
			return
		}
		if got, err = Normalize(got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%x: %x, %v, want %x", item, got, err, want)
		}
	})
}

// hasSmallInteger reports whether the next item contains an integer below
// -2^63, which the other codec reads as a different one.
func hasSmallInteger(r *Reader) bool {
	n := 0 // number of nested items
	switch kind, _ := r.Kind(); kind {
	case Array:
		n, _ = r.Array()
	case Map:
		n, _ = r.Map()
		n *= 2
	case NegInt:
		number, _ := r.Number()
		_, ok := number.Int64()
		return !ok
	default:
		_, _ = r.Raw()
	}
	for range n {
		if hasSmallInteger(r) {
			return true
		}
	}
	return false
}

// recode decodes and encodes an item with go-ipld-prime.
func recode(t *testing.T, item []byte) ([]byte, bool) {
	builder := basicnode.Prototype.Any.NewBuilder()
	if err := dagcbor.Decode(builder, bytes.NewReader(item)); err != nil {
		return nil, false
	}
	var buf bytes.Buffer
	if err := dagcbor.Encode(builder.Build(), &buf); err != nil {
		return nil, false
	}
	return buf.Bytes(), true
}
