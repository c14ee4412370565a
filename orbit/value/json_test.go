package value

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"
	"github.com/multiformats/go-multihash"
)

func TestJSONIsCompactInTheOrderOfKeys(t *testing.T) {
	v := of(t, map[string]any{
		"bb": []any{1, -2, nil, true, 1.5, "x"}, "a": map[string]any{}, "c": []byte{0xfb, 0xff, 1}, "l": someCID, "e": []any{},
	})
	want := `{"a":{},"c":{"/":{"bytes":"+/8B"}},"e":[],"l":{"/":"` + someCID.String() + `"},"bb":[1,-2,null,true,1.5,"x"]}`
	if got := v.String(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got, err := json.Marshal(map[string]any{"v": v, "none": Value(nil)}); err != nil || string(got) != `{"none":null,"v":`+want+`}` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestTextsAreEscapedNoMoreThanNecessary(t *testing.T) {
	text := "<&>\u2028\u007f é😀\"\\/\b\f\n\r\t\x00\x1f"
	want := `"<&>` + "\u2028\u007f" + ` é😀\"\\/\u0008\u000c\n\r\t\u0000\u001f"`
	if got := of(t, text).String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := fromJSON(t, want); !got.Equal(of(t, text)) {
		t.Errorf("read %s", got)
	}
}

func TestNumbersAreTheSameAgain(t *testing.T) {
	for text, v := range map[string]any{
		"9007199254740991":        float64(1<<53 - 1),
		"9007199254740992.0":      float64(1 << 53),
		"9007199254740992":        1 << 53,
		"100000000000000000000.0": 1e20,
		"1e+21":                   1e21,
		"-1.5e-7":                 -1.5e-7,
		"18446744073709551615":    uint64(math.MaxUint64),
		"18446744073709552000.0":  json.Number("18446744073709551616"),
		"-18446744073709551616":   json.Number("-18446744073709551616"),
		"-18446744073709552000.0": json.Number("-18446744073709551617"),
		"-9223372036854775808":    math.MinInt64,
		"5e-324":                  math.SmallestNonzeroFloat64,
		"1.7976931348623157e+308": math.MaxFloat64,
		"0":                       json.Number("1e-400"),
	} {
		want := of(t, v)
		if got := want.String(); got != text {
			t.Errorf("%v: %s, want %s", v, got, text)
		}
		if got := fromJSON(t, text); !got.Equal(want) {
			t.Errorf("%s: %x, want %x", text, []byte(got), []byte(want))
		}
	}
}

func TestFromJSONRefuses(t *testing.T) {
	cidText := someCID.String()
	for _, text := range []string{
		"", " ", "nul", "tru", "{", "[1", `{"a"`, `{"a":`, `{"a":1`, `"a`, "[1,]", `{"a":1,}`, "[1 2]", `{"a" 1}`, "1 1", "[] x", `{1:2}`, "NaN", "01", "+1", "'a'", "\ufeff1",
		"1e999", "-1e999", strings.Repeat("9", 400),
		`{"a":1,"a":2}`, `{"a":1,"\u0061":1}`, `{"b":{"a":1,"c":2,"a":3}}`, `{"\ufeffa":1,"a":2}`, `{"\ud800":1,"\ufffd":2}`,
		`{"__proto__":1}`, `{"/":1,"bytes":1}`,
		`{"/":"text"}`, `{"/":""}`, `{"/":"` + cidText + `x"}`, `{"/":"z` + "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n" + `"}`,
		`{"/":{"bytes":"A"}}`, `{"/":{"bytes":"AQ_-"}}`, `{"/":{"bytes":"AQ\nID"}}`,
	} {
		if got, err := FromJSON([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %x, %v", text, []byte(got), err)
		} else if strings.ContainsAny(err.Error(), "\n") || !strings.Contains(err.Error(), "byte ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestReservedFormsBecomeLinksAndBytes(t *testing.T) {
	const v0 = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"
	for text, v := range map[string]any{
		`{"/":"` + someCID.String() + `"}`:     someCID,
		`{"/":{"bytes":""}}`:                   []byte{},
		`{"/":{"bytes":"AQ"}}`:                 []byte{1},
		`{"/":{"bytes":"AQ=="}}`:               []byte{1},
		`{"/":1}`:                              map[string]any{"/": 1},
		`{"/":"x","a":1}`:                      map[string]any{"/": "x", "a": 1},
		`{"/":{"bytes":"x","a":1}}`:            map[string]any{"/": map[string]any{"bytes": "x", "a": 1}},
		`{"/":{"bytes":1}}`:                    map[string]any{"/": map[string]any{"bytes": 1}},
		`{"/":{"bytes":{"/":{"bytes":"AQ"}}}}`: map[string]any{"/": map[string]any{"bytes": []byte{1}}},
		`[{"/":{"bytes":"AQ"}},2]`:             []any{[]byte{1}, 2},
	} {
		if got := fromJSON(t, text); !got.Equal(of(t, v)) {
			t.Errorf("%s: %x", text, []byte(got))
		}
	}
	if got := fromJSON(t, `{"/":"`+v0+`"}`).String(); got != `{"/":"`+v0+`"}` {
		t.Error(got)
	}
}

// Decoding a megabyte of base58 or base36 would take minutes.
func TestALongCIDIsTakenInBase32Alone(t *testing.T) {
	digest, err := multihash.Sum(make([]byte, 800), multihash.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	long := cid.NewCidV1(cid.Raw, digest)
	if got := fromJSON(t, `{"/":"`+long.String()+`"}`); !got.Equal(of(t, long)) {
		t.Errorf("%.80s", got)
	}
	for _, base := range []multibase.Encoding{multibase.Base58BTC, multibase.Base36, multibase.Base64url} {
		text, err := long.StringOfBase(base)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FromJSON([]byte(`{"/":"` + text + `"}`)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20s: %v", text, err)
		}
	}
}

func TestAMapThatLooksReservedIsWrittenAsItIs(t *testing.T) {
	for want, v := range map[string]any{
		`[{"/":"text"}]`:         []any{map[string]any{"/": "text"}},
		`{"/":{"bytes":"text"}}`: map[string]any{"/": map[string]any{"bytes": "text"}},
	} {
		if got := of(t, v).String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestUnmarshalJSONSetsNull(t *testing.T) {
	var doc struct{ A, B, C Value }
	if err := json.Unmarshal([]byte(`{"A":null,"B":[1.0]}`), &doc); err != nil {
		t.Fatal(err)
	}
	if !doc.A.Equal(of(t, nil)) || !doc.B.Equal(of(t, []any{1})) || doc.C != nil {
		t.Errorf("%#v", doc)
	}
	if err := doc.A.UnmarshalJSON([]byte("[")); err == nil || !doc.A.Equal(of(t, nil)) {
		t.Error(doc.A, err)
	}
}

func TestBytesInJSON(t *testing.T) {
	for text, want := range map[string]Bytes{`{"/":{"bytes":"AQID"}}`: {1, 2, 3}, `{"/":{"bytes":""}}`: {}, `null`: nil} {
		if got, err := json.Marshal(want); err != nil || string(got) != text {
			t.Errorf("%s, %v, want %s", got, err, text)
		}
		got := Bytes{9}
		if err := json.Unmarshal([]byte(text), &got); err != nil || string(got) != string(want) || (got == nil) != (want == nil) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	var b Bytes
	for _, text := range []string{`"AQID"`, `[1]`, `{"/":"` + someCID.String() + `"}`} {
		if err := json.Unmarshal([]byte(text), &b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
