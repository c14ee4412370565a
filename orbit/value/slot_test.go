package value

import (
	"math"
	"regexp"
	"strconv"
	"testing"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

func TestASlotIsThatOfTheTextInJavaScript(t *testing.T) {
	for text, keys := range map[string][]any{
		"42":                   {42, 42.0, "42"},
		"-1":                   {-1},
		"0":                    {0, math.Copysign(0, -1)},
		"0.1":                  {0.1},
		"1e+21":                {1e21},
		"1e-7":                 {1e-7},
		"9007199254740992":     {1 << 53, float64(1 << 53)},
		"18446744073709551615": {uint64(math.MaxUint64)},
		"true":                 {true},
		"false":                {false},
		"null":                 {nil},
		"":                     {"\ufeff"},
	} {
		for _, key := range keys {
			if of(t, key).Slot() != of(t, text).Slot() {
				t.Errorf("%#v is not the slot of %q", key, text)
			}
		}
	}
}

func TestNumbersAreWrittenAsInJavaScript(t *testing.T) {
	var file struct{ Numbers []struct{ Bits, Text string } }
	load(t, "roundtrips.json", &file)
	if len(file.Numbers) < 300 {
		t.Fatalf("%d numbers", len(file.Numbers))
	}
	for _, c := range file.Numbers {
		bits, err := strconv.ParseUint(c.Bits, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := printNumber(nil, dagcbor.Number{Kind: dagcbor.Float, Bits: bits}); string(got) != c.Text {
			t.Errorf("%s: got %s, want %s", c.Bits, got, c.Text)
		}
		v := of(t, math.Float64frombits(bits))
		if v.Slot() != of(t, c.Text).Slot() {
			t.Errorf("%s is not the slot of %q", v, c.Text)
		}
	}
}

func TestWhatIsNoTextHasASlotOfItsOwn(t *testing.T) {
	seen := map[string]any{}
	for _, key := range []any{
		"a", "A", "", "1,2", "[object Object]", "null", "undefined", string([]byte{0x42, 1, 2}), "\x01\x02", "\x82\x01\x02",
		[]byte{1, 2}, []byte{}, []any{1, 2}, []any{}, []any{nil}, map[string]any{}, map[string]any{"a": 1}, someCID, someCID.String(), Bytes{3},
	} {
		slot := of(t, key).Slot()
		if other, ok := seen[slot]; ok {
			t.Errorf("%#v and %#v are one slot", key, other)
		}
		seen[slot] = key
	}
	if seen[Value(nil).Slot()] != nil {
		t.Error("none has the slot of a value")
	}
}

func TestASlotIsOneComponentOfAKey(t *testing.T) {
	shape := regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
	for _, key := range []any{"", ".", "..", "a/b", nil, []byte{}, 1.5, string(make([]byte, 10000))} {
		if slot := of(t, key).Slot(); !shape.MatchString(slot) {
			t.Errorf("%q", slot)
		}
	}
	// Databases store slots, so they must not change.
	if got := of(t, "42").Slot(); got != "EsdjYf8yATxLBAF8HeWZC_wlcBjj4EjxrJ30052on2U" {
		t.Errorf("the slot of a text is %q", got)
	}
	if got := of(t, []any{42}).Slot(); got != "rkFGTc7mclji5gEmJtESqkuYcmx0TCdDyaWCgfv-5ww" {
		t.Errorf("the slot of an array is %q", got)
	}
}
