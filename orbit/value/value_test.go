package value

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

var someCID = cid.MustParse("bafyreiepmdpv3nd7d7wvwbpj6vtmcrmtxkcwqm6bzwxzvmhvqc3jbxuxqy")

func of(tb testing.TB, v any) Value {
	tb.Helper()
	value, err := Of(v)
	if err != nil {
		tb.Fatalf("%v: %v", v, err)
	}
	return value
}

func fromJSON(tb testing.TB, text string) Value {
	tb.Helper()
	value, err := FromJSON([]byte(text))
	if err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	return value
}

// behaviour is how JavaScript encodes a value or decodes an item.
type behaviour struct {
	Value     string // the encoded value
	Decode    string // the decoded item
	Hex       string
	JS        any // the result of decoding
	Reencoded string
	Error     string
}

func load(tb testing.TB, name string, to any) {
	tb.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// unexpressed are the values of JavaScript that exist neither in Go nor in
// JSON.
var unexpressed = map[string]bool{"Date": true, "undefined in map": true}

func TestValuesAreEncodedAsInJavaScript(t *testing.T) {
	inGo := map[string][]any{
		"0":              {0, int8(0), uint64(0), 0.0, json.Number("0")},
		"-0":             {math.Copysign(0, -1)},
		"1":              {1, uint8(1), int16(1), float32(1)},
		"1.0":            {1.0},
		"23":             {23, 23.0},
		"24":             {24, uint16(24)},
		"255":            {uint8(255), 255.0},
		"256":            {256, uint32(256)},
		"65536":          {int32(65536), 65536.0},
		"2^32":           {1 << 32, float64(1 << 32)},
		"2^53-1":         {1<<53 - 1, float64(1<<53 - 1)},
		"2^53":           {float64(1 << 53)},
		"-(2^53-1)":      {-(1<<53 - 1), float64(-(1<<53 - 1))},
		"-2^53":          {float64(-1 << 53)},
		"1e20":           {1e20, float32(1e20)},
		"1.5":            {1.5, float32(1.5)},
		"0.1":            {0.1, float32(0.1)},
		"1e-7":           {1e-7},
		"BigInt 2^53":    {1 << 53, int64(1 << 53), big.NewInt(1 << 53)},
		"BigInt 2^64-1":  {uint64(math.MaxUint64), uint(math.MaxUint64)},
		"\"é漢😀\"":        {"é漢😀", any("é漢😀")},
		"lone surrogate": {"\ufffd", "\xff", json.RawMessage(`"\ud800"`)},
		"true":           {true},
		"null":           {nil, Value(nil), (*int)(nil), []byte(nil), map[string]any(nil), []any(nil), Bytes(nil), json.RawMessage(nil)},
		"bytes 010203":   {[]byte{1, 2, 3}, Bytes{1, 2, 3}, struct{ Bytes }{Bytes{1, 2, 3}}.Bytes},
		"map order": {
			map[string]any{"bb": 1, "a": 2, "aaa": 4, "c": 3, "B": 5},
			map[string]int{"bb": 1, "a": 2, "aaa": 4, "c": 3, "B": 5},
			struct {
				BB  int `json:"bb"`
				A   int `json:"a"`
				AAA int `json:"aaa"`
				C   int `json:"c"`
				B   float32
			}{1, 2, 4, 3, 5},
		},
		"NaN": {math.NaN(), float32(math.Inf(1)), math.Inf(-1), []float64{math.NaN()}},
	}
	inJSON := map[string][]string{
		"0": {"0", "0.0", "0e5"}, "-0": {"-0", "-0.0"}, "1": {"1", " 1 "}, "1.0": {"1.0", "10e-1"},
		"23": {"23"}, "24": {"24", "2.4e1"}, "255": {"255"}, "256": {"256"}, "65536": {"65536"},
		"2^32": {"4294967296"}, "2^53-1": {"9007199254740991", "9007199254740991.0"},
		"2^53": {"9007199254740992.0", "9.007199254740992e15"}, "-(2^53-1)": {"-9007199254740991"},
		"-2^53": {"-9007199254740992.0"}, "1e20": {"1e20", "1E+20", "100000000000000000000"},
		"1.5": {"1.5", "15e-1"}, "0.1": {"0.1"}, "1e-7": {"1e-7", "0.0000001"},
		"BigInt 2^53": {"9007199254740992"}, "BigInt 2^64-1": {"18446744073709551615"},
		"\"é漢😀\"": {`"é漢😀"`, `"\u00e9\u6f22\ud83d\ude00"`}, "lone surrogate": {`"\ud800"`, `"\udc00"`},
		"true": {"true"}, "null": {"null"}, "bytes 010203": {`{"/":{"bytes":"AQID"}}`},
		"map order": {`{"bb":1,"a":2,"c":3,"aaa":4,"B":5}`, `{"aaa":4,"B":5,"c":3,"a":2,"bb":1}`},
	}
	var table []behaviour
	load(t, "javascript.json", &table)
	if len(table) != 41 {
		t.Fatalf("%d cases", len(table))
	}
	for _, c := range table {
		if c.Value == "" || unexpressed[c.Value] {
			continue
		}
		if len(inGo[c.Value]) == 0 || len(inJSON[c.Value]) == 0 && c.Error == "" {
			t.Errorf("%s: not tested", c.Value)
		}
		for _, v := range inGo[c.Value] {
			got, err := Of(v)
			check(t, c.Value, c.Hex, got, err)
		}
		for _, text := range inJSON[c.Value] {
			got, err := FromJSON([]byte(text))
			check(t, text, c.Hex, got, err)
		}
	}
}

// check fails the test unless got is the item or, if item is empty, err is
// ErrInvalid.
func check(t *testing.T, what, item string, got Value, err error) {
	t.Helper()
	if item == "" {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %x, %v, want an error", what, []byte(got), err)
		}
	} else if err != nil || hex.EncodeToString(got) != item {
		t.Errorf("%s: got %x, %v, want %s", what, []byte(got), err, item)
	}
}

func TestItemsAreDecodedAsInJavaScript(t *testing.T) {
	inGo := map[string]any{
		"float64 1.0":   int64(1),
		"float32 1.5":   1.5,
		"float16 1.5":   1.5,
		"uint64 2^53":   int64(1 << 53),
		"unsorted map":  map[string]any{"bb": int64(1), "a": int64(2)},
		"undefined f7":  nil,
		"undefined map": nil,
	}
	var table []behaviour
	load(t, "javascript.json", &table)
	for _, c := range table {
		if c.Decode == "" {
			continue
		}
		item, err := hex.DecodeString(c.Hex)
		if err != nil {
			t.Fatal(err)
		}
		got, err := FromCBOR(item)
		check(t, c.Decode, c.Reencoded, got, err)
		if err != nil {
			continue
		}
		want, ok := inGo[c.Decode]
		if a, err := got.Any(); err != nil || !ok || !reflect.DeepEqual(a, want) {
			t.Errorf("%s: got %#v, %v, want %#v", c.Decode, a, err, want)
		}
	}
}

func TestFromCBORKeepsNoReference(t *testing.T) {
	item := []byte{0x81, 0x01}
	v, err := FromCBOR(item)
	item[1] = 2
	if err != nil || !v.Equal(of(t, []any{1})) {
		t.Error(v, err)
	}
}

func TestAnyReturnsWhatOfTook(t *testing.T) {
	for _, v := range []any{
		nil, true, false, int64(0), int64(-1), int64(math.MaxInt64), int64(math.MinInt64),
		uint64(math.MaxInt64 + 1), uint64(math.MaxUint64), 1.5, float64(1 << 60), "", "text",
		[]byte{}, []byte{1}, someCID, []any{}, []any{"a", nil, []any{int64(1)}},
		map[string]any{}, map[string]any{"a": map[string]any{"b": someCID}, "": []byte{2}},
	} {
		if got, err := of(t, v).Any(); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("got %#v, %v, want %#v", got, err, v)
		}
	}
	for text, want := range map[string]string{
		"-9223372036854775809":  "-9223372036854775809",
		"-18446744073709551616": "-18446744073709551616",
	} {
		got, err := fromJSON(t, text).Any()
		if n, ok := got.(*big.Int); err != nil || !ok || n.String() != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if got, err := Value(nil).Any(); got != nil || err != nil {
		t.Error(got, err)
	}
}

func TestWhatIsDecodedIsACopy(t *testing.T) {
	v := of(t, []byte{1, 2})
	a, _ := v.Any()
	a.([]byte)[0] = 9
	var other Value
	if err := v.Decode(&other); err != nil {
		t.Fatal(err)
	}
	other[1] = 9
	if !v.Equal(of(t, []byte{1, 2})) {
		t.Errorf("%s", v)
	}
}

func TestAValueInAnotherIsTakenAsItIs(t *testing.T) {
	inner := of(t, map[string]any{"n": 1.5, "b": []byte{1}})
	want := of(t, map[string]any{"v": map[string]any{"n": 1.5, "b": []byte{1}}})
	for _, outer := range []any{
		map[string]any{"v": inner},
		map[string]Value{"v": inner},
		struct {
			V Value `json:"v"`
		}{inner},
		map[string]any{"v": json.RawMessage(inner.String())},
	} {
		if got := of(t, outer); !got.Equal(want) {
			t.Errorf("%T: %s", outer, got)
		}
	}
	if got := of(t, inner); !got.Equal(inner) || &got[0] == &inner[0] {
		t.Error("the value itself is no copy")
	}
	unsorted := Value("\xa2\x61b\x01\x61a\x02")
	if got := of(t, []any{unsorted}); !got.Equal(of(t, []any{map[string]any{"a": 2, "b": 1}})) {
		t.Errorf("one that was not canonical: %s", got)
	}
}

func TestJSONTagsCount(t *testing.T) {
	type document struct {
		ID     string    `json:"_id"`
		None   string    `json:"none,omitempty"`
		Hidden string    `json:"-"`
		Text   []byte    `json:"text"`
		Data   Bytes     `json:"data"`
		Link   cid.Cid   `json:"link"`
		Sum    float64   `json:"sum"`
		List   []float32 `json:"list"`
	}
	d := document{ID: "a", Hidden: "x", Text: []byte{1, 2, 3}, Data: Bytes{1, 2, 3}, Link: someCID, Sum: 3, List: []float32{0.1}}
	v := of(t, d)
	want := of(t, map[string]any{"_id": "a", "text": "AQID", "data": []byte{1, 2, 3}, "link": someCID, "sum": 3, "list": []any{0.1}})
	if !v.Equal(want) {
		t.Errorf("got %s, want %s", v, want)
	}
	d.Hidden = ""
	var back document
	if err := v.Decode(&back); err != nil || !reflect.DeepEqual(back, d) {
		t.Errorf("got %#v, %v, want %#v", back, err, d)
	}
}

func TestDecodeIntoAny(t *testing.T) {
	var a any
	if err := of(t, []any{1, []byte{2}}).Decode(&a); err != nil || !reflect.DeepEqual(a, []any{int64(1), []byte{2}}) {
		t.Errorf("%#v, %v", a, err)
	}
	var v Value
	if err := of(t, 7).Decode(&v); err != nil || !v.Equal(of(t, 7)) {
		t.Error(v, err)
	}
	if err := Value(nil).Decode(&a); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestOfRefuses(t *testing.T) {
	cycle := map[string]any{}
	cycle["a"] = []any{cycle}
	for name, v := range map[string]any{
		"a cycle":           cycle,
		"a function":        func() {},
		"a channel":         []any{make(chan int)},
		"no CID":            cid.Undef,
		"__proto__":         map[string]any{"__proto__": 1},
		"what looks a CID":  map[string]any{"/": "x", "bytes": "x"},
		"one key twice":     map[string]any{"\xff": 1, "\ufffd": 2},
		"a malformed item":  []any{Value{0xff}},
		"half an item":      Value{0x81},
		"two items":         Value{1, 1},
		"items that add up": []any{Value{1, 1}, Value{}},
		"malformed JSON":    []any{json.RawMessage(`{`)},
	} {
		if got, err := Of(v); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %x, %v", name, []byte(got), err)
		}
	}
}

func TestNestingIsBounded(t *testing.T) {
	const most = dagcbor.MaxDepth
	deep := strings.Repeat("[", most) + strings.Repeat("]", most)
	deepest := fromJSON(t, deep)
	for name, v := range map[string]any{
		"JSON":  json.RawMessage("[" + deep + "]"),
		"value": []any{deepest},
		"Go":    nest(most + 1),
		"maps":  json.RawMessage(strings.Repeat(`{"a":`, most+1) + "1" + strings.Repeat("}", most+1)),
	} {
		if _, err := Of(v); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := FromJSON([]byte(strings.Repeat("[", 1<<20))); !errors.Is(err, errTooDeep) {
		t.Errorf("much JSON: %v", err)
	}
	if got := of(t, nest(most)); !got.Equal(deepest) {
		t.Errorf("%s", got)
	}
	// In JSON, bytes are two maps, which do not add to the depth.
	bytesInDepth := strings.Replace(deep, "[]", `[{"/":{"bytes":"AQ"}}]`, 1)
	if got := fromJSON(t, bytesInDepth).String(); got != bytesInDepth {
		t.Error(got)
	}
}

func nest(depth int) any {
	v := []any{}
	for range depth - 1 {
		v = []any{v}
	}
	return v
}

func TestFieldReturnsAMember(t *testing.T) {
	v := of(t, map[string]any{"a": 1, "bb": []any{2}, "cc": nil, "": "empty"})
	for name, want := range map[string]any{"a": 1, "bb": []any{2}, "cc": nil, "": "empty"} {
		if got := v.Field(name); !got.Equal(of(t, want)) {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, none := range []Value{v.Field("b"), v.Field("dd"), v.Field("eeeee"), of(t, 1).Field("a"), of(t, []any{"a", 1}).Field("a"), Value(nil).Field("a"), Value("\xa1").Field("a")} {
		if none != nil {
			t.Errorf("got %s", none)
		}
	}
	if n := testing.AllocsPerRun(20, func() { _ = v.Field("cc") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	grown := append(v.Field("a"), 0xff)
	if _ = grown; !v.Equal(of(t, map[string]any{"a": 1, "bb": []any{2}, "cc": nil, "": "empty"})) {
		t.Error("appending to a member changed the map")
	}
}

func TestKindAndText(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		name string
		v    Value
	}{
		{KindInvalid, "invalid", nil}, {KindInvalid, "invalid", Value{0xff}}, {KindNull, "null", of(t, nil)}, {KindBool, "bool", of(t, true)},
		{KindInteger, "integer", of(t, 1.0)}, {KindInteger, "integer", of(t, -1)}, {KindFloat, "float", of(t, 0.5)},
		{KindText, "text", of(t, "x")}, {KindBytes, "bytes", of(t, []byte{})}, {KindLink, "link", of(t, someCID)},
		{KindArray, "array", of(t, []any{})}, {KindMap, "map", of(t, map[string]any{})},
	} {
		if got := c.v.Kind(); got != c.kind || got.String() != c.name {
			t.Errorf("%s: %v, want %v", c.v, got, c.name)
		}
		if text, ok := c.v.Text(); ok != (c.kind == KindText) || ok && text != "x" {
			t.Errorf("%s: %q, %v", c.v, text, ok)
		}
	}
	if got := Kind(99).String(); got != "invalid" {
		t.Error(got)
	}
}

func TestEqualTellsNoneFromNull(t *testing.T) {
	if !Value(nil).Equal(nil) || Value(nil).Equal(of(t, nil)) || !of(t, 1).Equal(of(t, 1.0)) || of(t, 1<<53).Equal(of(t, float64(1<<53))) {
		t.Error("not so")
	}
}

func TestMalformedValuesFail(t *testing.T) {
	for _, v := range []Value{{}, {0xff}, {0x81}, {1, 1}, bytes.Repeat([]byte{0x81}, 1<<16), {0x9a, 0xff, 0xff, 0xff, 0xff}} {
		if _, err := v.Any(); !errors.Is(err, ErrInvalid) {
			t.Errorf("any %.8x: %v", []byte(v), err)
		}
		if _, err := v.MarshalJSON(); !errors.Is(err, ErrInvalid) {
			t.Errorf("JSON %.8x: %v", []byte(v), err)
		}
		if s := v.String(); !strings.HasPrefix(s, "!(") {
			t.Errorf("string %.8x: %s", []byte(v), s)
		}
	}
}
