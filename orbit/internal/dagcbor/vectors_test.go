package dagcbor

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// behaviour is how JavaScript encodes a value or decodes an item.
type behaviour struct {
	Value     string // the encoded value
	Decode    string // the decoded item
	Hex       string
	Reencoded string
	Error     string
}

// roundtrip is JavaScript's result for an item: its error in decoding the item
// or in encoding the result, or what it encoded.
type roundtrip struct {
	Item, Hex, Decode, Encode, Encoded string
}

func load(tb testing.TB, name string, to any) {
	tb.Helper()
	b, err := os.ReadFile("../../value/testdata/" + name)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func roundtrips(tb testing.TB) []roundtrip {
	var file struct{ Items []roundtrip }
	load(tb, "roundtrips.json", &file)
	if len(file.Items) < 100 {
		tb.Fatalf("%d items", len(file.Items))
	}
	return file.Items
}

func TestNormalizeMakesOfAnItemWhatJavaScriptDoes(t *testing.T) {
	var table []behaviour
	load(t, "javascript.json", &table)
	if len(table) != 41 {
		t.Fatalf("%d cases", len(table))
	}
	for _, c := range table {
		switch {
		case c.Value != "" && c.Error == "":
			checkNormalize(t, roundtrip{Item: c.Value, Hex: c.Hex, Encoded: c.Hex})
		case c.Decode != "":
			checkNormalize(t, roundtrip{Item: c.Decode, Hex: c.Hex, Decode: c.Error, Encoded: c.Reencoded})
		}
	}
	for _, c := range roundtrips(t) {
		checkNormalize(t, c)
	}
}

func checkNormalize(t *testing.T, c roundtrip) {
	t.Helper()
	item := unhex(t, c.Hex)
	got, err := Normalize(item)
	switch {
	case c.Decode != "":
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %x, %v, want malformed: %s", c.Item, got, err, c.Decode)
		}
	case c.Encode != "":
		if !errors.Is(err, ErrUnencodable) {
			t.Errorf("%s: got %x, %v, want unencodable: %s", c.Item, got, err, c.Encode)
		}
	case err != nil || hex.EncodeToString(got) != c.Encoded:
		t.Errorf("%s: got %x, %v, want %s", c.Item, got, err, c.Encoded)
	}
	if canonical := c.Decode == "" && c.Hex == c.Encoded; Canonical(item) != canonical {
		t.Errorf("%s: Canonical is %v", c.Item, !canonical)
	}
}

func TestRawTakesWhatJavaScriptDecodes(t *testing.T) {
	for _, c := range roundtrips(t) {
		item := unhex(t, c.Hex)
		r := NewReader(item)
		raw, err := r.Raw()
		if err == nil {
			err = r.End()
		}
		if (err == nil) != (c.Decode == "") {
			t.Errorf("%s: %v, want %q", c.Item, err, c.Decode)
		}
		if err == nil && !bytes.Equal(raw, item) {
			t.Errorf("%s: got %x", c.Item, raw)
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v does not say that it is malformed", c.Item, err)
		}
	}
}
