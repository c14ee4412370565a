package value

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

const shortDocument = `{"_id":"7f3a","title":"The quick brown fox","tags":["a","bb","ccc"],"count":42,"ratio":0.75,"ok":true,"at":"2024-05-06T07:08:09Z"}`

func FuzzFromCBOR(f *testing.F) {
	var file struct{ Items []struct{ Hex string } }
	load(f, "roundtrips.json", &file)
	for _, c := range file.Items {
		item, err := hex.DecodeString(c.Hex)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(item)
	}
	f.Fuzz(func(t *testing.T, item []byte) {
		use(Value(item))
		v, err := FromCBOR(item)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		checkValue(t, v)
	})
}

func FuzzFromJSON(f *testing.F) {
	for _, text := range []string{
		shortDocument, `{"/":"` + someCID.String() + `"}`, `{"/":{"bytes":"AQID"}}`, `[1e999,-0,1.5,9007199254740992.0,18446744073709551616]`,
		`"\ud800\u2028\ufeff"`, `{"a":1,"a":2}`, `[[[]]] `, `{"a":{"/":1,"bytes":2}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := FromJSON(text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if !json.Valid(text) {
			t.Fatalf("%q was taken", text)
		}
		checkValue(t, v)
	})
}

// use calls methods that must not panic for any bytes.
func use(v Value) {
	_, _ = v.Any()
	_ = v.String()
	_ = v.Slot()
	_ = v.Kind()
	_, _ = v.Text()
	_ = v.Field("a")
	var to any
	_ = v.Decode(&to)
}

// checkValue checks the properties of every value.
func checkValue(t *testing.T, v Value) {
	t.Helper()
	use(v)
	if !dagcbor.Canonical(v) {
		t.Fatalf("%x is not canonical", []byte(v))
	}
	a, err := v.Any()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Of(a); err != nil || !again.Equal(v) {
		t.Fatalf("%x: of %#v: %x, %v", []byte(v), a, []byte(again), err)
	}
	text, err := v.MarshalJSON()
	if err != nil || !json.Valid(text) {
		t.Fatalf("%x: JSON %q, %v", []byte(v), text, err)
	}
	if looksReserved(a) {
		return
	}
	if again, err := FromJSON(text); err != nil || !bytes.Equal(again, v) {
		t.Fatalf("%x: JSON %s: %x, %v", []byte(v), text, []byte(again), err)
	}
}

// looksReserved reports whether a contains a map that is a link or bytes in
// DAG-JSON.
func looksReserved(a any) bool {
	switch a := a.(type) {
	case []any:
		for _, item := range a {
			if looksReserved(item) {
				return true
			}
		}
	case map[string]any:
		switch inner := a["/"].(type) {
		case string:
			if len(a) == 1 {
				return true
			}
		case map[string]any:
			if _, ok := inner["bytes"].(string); ok && len(a) == 1 && len(inner) == 1 {
				return true
			}
		}
		for _, item := range a {
			if looksReserved(item) {
				return true
			}
		}
	}
	return false
}

func BenchmarkFromJSON(b *testing.B) {
	text := []byte(shortDocument)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := FromJSON(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSlot(b *testing.B) {
	v := of(b, "some key")
	b.ReportAllocs()
	for b.Loop() {
		_ = v.Slot()
	}
}
