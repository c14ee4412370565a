package dagcbor

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
)

var someCID = cid.MustParse("bafyreiepmdpv3nd7d7wvwbpj6vtmcrmtxkcwqm6bzwxzvmhvqc3jbxuxqy")

// everything is an array with an item of each kind.
func everything(tb testing.TB) []byte {
	tb.Helper()
	b := AppendArray(nil, 10)
	b = AppendUint(b, math.MaxUint64)
	b = AppendInt(b, math.MinInt64)
	b = AppendBytes(b, []byte{1, 2})
	b = AppendText(b, "héllo")
	b = AppendArray(b, 0)
	b = AppendText(AppendText(AppendMap(b, 1), "k"), "v")
	b, err := AppendLink(b, someCID)
	if err != nil {
		tb.Fatal(err)
	}
	b = AppendBool(b, true)
	b = AppendNull(b)
	if b, err = AppendFloat(b, 1.5); err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestReaderReadsWhatWasAppended(t *testing.T) {
	r := NewReader(everything(t))
	kind := func(want Kind) {
		t.Helper()
		if got, err := r.Kind(); got != want || err != nil {
			t.Fatalf("kind %v, %v, want %v", got, err, want)
		}
	}
	check := func(err error, ok bool) {
		t.Helper()
		if err != nil || !ok {
			t.Fatal(err, ok)
		}
	}
	kind(Array)
	n, err := r.Array()
	check(err, n == 10)
	kind(Uint)
	number, err := r.Number()
	check(err, number == Number{Uint, math.MaxUint64})
	kind(NegInt)
	number, err = r.Number()
	check(err, number == Number{NegInt, math.MaxInt64})
	kind(Bytes)
	data, err := r.Bytes()
	check(err, bytes.Equal(data, []byte{1, 2}))
	kind(Text)
	text, err := r.Text()
	check(err, text == "héllo")
	kind(Array)
	n, err = r.Array()
	check(err, n == 0)
	kind(Map)
	n, err = r.Map()
	check(err, n == 1)
	key, err := r.TextBytes()
	check(err, string(key) == "k")
	raw, err := r.Raw()
	check(err, string(raw) == "av")
	kind(Link)
	link, err := r.Link()
	check(err, link.Equals(someCID))
	kind(Bool)
	is, err := r.Bool()
	check(err, is)
	kind(Null)
	check(r.Null(), true)
	kind(Float)
	number, err = r.Number()
	check(err, number.Float64() == 1.5)
	check(r.End(), true)
	if kind, err := r.Kind(); kind != Invalid || !errors.Is(err, ErrMalformed) {
		t.Fatal(kind, err)
	}
}

func TestReaderStaysWhereAReadFails(t *testing.T) {
	reads := map[Kind]func(r *Reader) error{
		Bytes: func(r *Reader) error { _, err := r.Bytes(); return err },
		Text:  func(r *Reader) error { _, err := r.Text(); return err },
		Array: func(r *Reader) error { _, err := r.Array(); return err },
		Map:   func(r *Reader) error { _, err := r.Map(); return err },
		Link:  func(r *Reader) error { _, err := r.Link(); return err },
		Bool:  func(r *Reader) error { _, err := r.Bool(); return err },
		Null:  (*Reader).Null,
		Uint:  func(r *Reader) error { _, err := r.Number(); return err },
	}
	r := NewReader(everything(t))
	if _, err := r.Array(); err != nil {
		t.Fatal(err)
	}
	for r.End() != nil {
		kind, err := r.Kind()
		if err != nil {
			t.Fatal(err)
		}
		class := kind
		if kind == NegInt || kind == Float {
			class = Uint
		}
		before := r.pos
		for other, read := range reads {
			if other == class {
				continue
			}
			if err := read(r); !errors.Is(err, ErrMalformed) || r.pos != before {
				t.Errorf("%v read as %v: %v", kind, other, err)
			}
		}
		if err := r.Tuple(1 << 20); !errors.Is(err, ErrMalformed) || r.pos != before {
			t.Errorf("%v read as a tuple: %v", kind, err)
		}
		if _, err := r.Uint(); kind != Uint && (!errors.Is(err, ErrMalformed) || r.pos != before) {
			t.Errorf("%v read as an integer: %v", kind, err)
		}
		r.pos = before
		if _, err := r.Raw(); err != nil {
			t.Fatal(err)
		}
	}
	for _, cut := range []string{"\x82\x01\xf8", "\xa1aa\xf8", "\xd8\x2a\x41\x01", "\xd8\x2a\x42\x00\x01", "\xa2aa\x01aa\x02"} {
		r := NewReader([]byte(cut))
		if _, err := r.Raw(); err == nil || r.pos != 0 {
			t.Errorf("raw %q: at %d, %v", cut, r.pos, err)
		}
		if _, err := r.Link(); err == nil || r.pos != 0 {
			t.Errorf("link %q: at %d, %v", cut, r.pos, err)
		}
	}
}

func TestUndefinedIsReadAsNull(t *testing.T) {
	r := NewReader([]byte{0xf7})
	if kind, _ := r.Kind(); kind != Null {
		t.Error(kind)
	}
	if err := r.Null(); err != nil {
		t.Error(err)
	}
}

func TestCountsAreBoundedByWhatIsLeft(t *testing.T) {
	for _, b := range []string{"\x82\x01", "\x9a\xff\xff\xff\xff\x01", "\x9b\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if n, err := NewReader([]byte(b)).Array(); err == nil {
			t.Errorf("%x: an array of %d", b, n)
		}
	}
	for _, b := range []string{"\xa2aa\x01", "\xba\xff\xff\xff\xff\x01", "\xbb\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if n, err := NewReader([]byte(b)).Map(); err == nil {
			t.Errorf("%x: a map of %d", b, n)
		}
	}
	if n, err := NewReader([]byte("\xa1aa\x01")).Map(); n != 1 || err != nil {
		t.Error(n, err)
	}
}

func TestNestingIsBounded(t *testing.T) {
	for _, unit := range []string{"\x81", "\xa1\x61a"} {
		deep := []byte(strings.Repeat(unit, MaxDepth) + "\x01")
		if got, err := Normalize(deep); err != nil || &got[0] != &deep[0] {
			t.Errorf("%q at the limit: %v", unit, err)
		}
		deeper := append([]byte(unit), deep...)
		if _, err := Normalize(deeper); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q beyond the limit: %v", unit, err)
		}
		if _, err := NewReader([]byte(strings.Repeat(unit, 1<<20))).Raw(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q far beyond the limit: %v", unit, err)
		}
	}
}

func TestNormalizeReturnsTheItemItselfIfItIsCanonical(t *testing.T) {
	item := everything(t)
	if got, err := Normalize(item); err != nil || &got[0] != &item[0] {
		t.Error(got, err)
	}
	changed := []byte{0x82, 0xf7, 0x01}
	if got, err := Normalize(changed); err != nil || string(got) != "\x82\xf6\x01" || changed[1] != 0xf7 {
		t.Error(got, changed, err)
	}
}

func TestAllMarksInFrontOfATextAreDropped(t *testing.T) {
	want := AppendText(nil, "a\ufeff")
	if got := AppendText(nil, "\ufeff\ufeffa\ufeff"); !bytes.Equal(got, want) {
		t.Errorf("appended %x", got)
	}
	if got, err := Normalize([]byte("\x6a\ufeff\ufeffa\ufeff")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("normalized %x, %v", got, err)
	}
	if got, err := NewReader([]byte("\x6a\ufeff\ufeffa\ufeff")).Text(); err != nil || got != "a\ufeff" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestAppendFloatMakesIntegersOfIntegralNumbers(t *testing.T) {
	for v, want := range map[float64]string{
		0: "\x00", 1: "\x01", -1: "\x20",
		1<<53 - 1: "\x1b\x00\x1f\xff\xff\xff\xff\xff\xff",
		1 << 53:   "\xfb\x43\x40\x00\x00\x00\x00\x00\x00",
		-1 << 53:  "\xfb\xc3\x40\x00\x00\x00\x00\x00\x00",
		0.5:       "\xfb\x3f\xe0\x00\x00\x00\x00\x00\x00",
	} {
		if got, err := AppendFloat(nil, v); err != nil || string(got) != want {
			t.Errorf("%v: %x, %v", v, got, err)
		}
	}
	if got, err := AppendFloat(nil, math.Copysign(0, -1)); err != nil || string(got) != "\x00" {
		t.Errorf("-0: %x, %v", got, err)
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if _, err := AppendFloat(nil, v); !errors.Is(err, ErrUnencodable) {
			t.Errorf("%v: %v", v, err)
		}
	}
}

func TestAppendLinkRefusesNoCID(t *testing.T) {
	if _, err := AppendLink(nil, cid.Undef); !errors.Is(err, ErrUnencodable) {
		t.Error(err)
	}
}

func TestALinkNeedsACodecThatJavaScriptCanCount(t *testing.T) {
	for codec, ok := range map[uint64]bool{maxSafe: true, maxSafe + 1: false} {
		c := cid.NewCidV1(codec, someCID.Hash())
		item := append([]byte{0xd8, tagLink, 0x58, byte(1 + c.ByteLen()), 0}, c.Bytes()...)
		if _, err := NewReader(item).Link(); (err == nil) != ok {
			t.Errorf("read codec %d: %v", codec, err)
		}
		if _, err := AppendLink(nil, c); (err == nil) != ok {
			t.Errorf("append codec %d: %v", codec, err)
		}
	}
}

func TestNumberIsExact(t *testing.T) {
	for _, c := range []struct {
		n  Number
		i  int64
		ok bool
		f  float64
	}{
		{Number{Uint, 5}, 5, true, 5},
		{Number{Uint, math.MaxInt64}, math.MaxInt64, true, 1 << 63},
		{Number{Uint, 1 << 63}, 0, false, 1 << 63},
		{Number{NegInt, 0}, -1, true, -1},
		{Number{NegInt, math.MaxInt64}, math.MinInt64, true, -1 << 63},
		{Number{NegInt, 1 << 63}, 0, false, -1 << 63},
		{Number{NegInt, math.MaxUint64}, 0, false, -1 << 64},
		{Number{Float, math.Float64bits(1 << 53)}, 1 << 53, true, 1 << 53},
		{Number{Float, math.Float64bits(-1 << 63)}, math.MinInt64, true, -1 << 63},
		{Number{Float, math.Float64bits(1 << 63)}, 0, false, 1 << 63},
		{Number{Float, math.Float64bits(0.5)}, 0, false, 0.5},
	} {
		i, ok := c.n.Int64()
		if ok != c.ok || ok && i != c.i || c.n.Float64() != c.f {
			t.Errorf("%v: %d, %v, %v", c.n, i, ok, c.n.Float64())
		}
	}
}

func TestCloseMapSortsMembers(t *testing.T) {
	for _, n := range []int{0, 1, 2, 23, 24, 300} {
		want := AppendMap([]byte("front"), n)
		for i := range n {
			want = AppendInt(AppendText(want, name(i)), int64(i))
		}
		b := OpenMap([]byte("front"))
		var members []int
		for i := n - 1; i >= 0; i-- {
			members = append(members, len(b))
			b = AppendInt(AppendText(b, name(i)), int64(i))
		}
		if got, err := CloseMap(b, 5, members); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d: %x, %v", n, got, err)
		}
	}
}

// name returns the i-th name in the order of keys.
func name(i int) string {
	return strings.Repeat("k", 1+i/20) + string(rune('a'+i%20))
}

func TestCloseMapRefusesWhatJavaScriptHasNot(t *testing.T) {
	for _, keys := range [][]string{{"a", "a"}, {"b", "a", "b"}, {"__proto__"}, {"\xff", "\ufffd"}, {"\ufeffa", "a"}, {"/", "bytes"}, {"bytes", "/"}} {
		b := OpenMap(nil)
		var members []int
		for _, key := range keys {
			members = append(members, len(b))
			b = AppendUint(AppendText(b, key), 7)
		}
		if got, err := CloseMap(b, 0, members); !errors.Is(err, ErrUnencodable) {
			t.Errorf("%q: %x, %v", keys, got, err)
		}
	}
}

func TestCheckingACanonicalItemAllocatesNothing(t *testing.T) {
	item := document(t)
	if n := testing.AllocsPerRun(20, func() {
		if !Canonical(item) {
			t.Error("not canonical")
		}
		r := Reader{b: item}
		if _, err := r.Raw(); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// document returns a canonical item of about 1.4 KB, similar to an entry.
func document(tb testing.TB) []byte {
	tb.Helper()
	b := AppendMap(nil, 4)
	b = AppendArray(AppendText(b, "refs"), 16)
	for range 16 {
		b = AppendText(b, "zdpuAoEbYr3JRMr1YwrXFZYdM3YvkzTDTPsdYLkKzCkXSKmAQ")
	}
	b = AppendMap(AppendText(b, "clock"), 2)
	b = AppendText(AppendText(b, "id"), strings.Repeat("0a", 33))
	b = AppendUint(AppendText(b, "time"), 12345)
	b = AppendMap(AppendText(b, "payload"), 3)
	b = AppendText(AppendText(b, "op"), "PUT")
	b = AppendText(AppendText(b, "key"), "söme key")
	b = AppendArray(AppendText(b, "value"), 40)
	for i := range 40 {
		b, _ = AppendFloat(b, float64(i)/4)
	}
	b = AppendText(AppendText(b, "signature"), strings.Repeat("3045", 40))
	if got, err := Normalize(b); err != nil || &got[0] != &b[0] {
		tb.Fatal("not canonical", err)
	}
	return b
}

func BenchmarkNormalizeCanonical(b *testing.B) {
	item := document(b)
	b.SetBytes(int64(len(item)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Normalize(item); err != nil {
			b.Fatal(err)
		}
	}
}
