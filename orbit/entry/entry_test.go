package entry_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/value"
)

const logID = "/orbitdb/zdpuAuySXMgf9yscFjEEZCeWqUQMa9rwq8Pe68DDr67DJWao4"

// hash returns an arbitrary hash.
func hash(n int) string { return block.Hash([]byte(strconv.Itoa(n))) }

func at(time float64, n int) entry.Position {
	return entry.Position{Rank: entry.Rank{Time: time}, ID: "key", Hash: hash(n)}
}

func TestTheClockIsOneMoreThanThatOfTheHeads(t *testing.T) {
	s := signer(t, "A")
	for _, test := range []struct {
		heads []entry.Position
		want  float64
	}{
		{nil, 1},
		{[]entry.Position{at(0, 1)}, 1},
		{[]entry.Position{at(1, 1)}, 2},
		{[]entry.Position{at(7, 1), at(9, 2), at(3, 3)}, 10},
		{[]entry.Position{at(0.25, 1)}, 1.25},
		{[]entry.Position{at(1.5, 1), at(2, 2)}, 3},
		{[]entry.Position{at(2.5, 1), at(2, 2)}, 3.5},
		{[]entry.Position{at(1e-300, 1)}, 1},
		{[]entry.Position{at(1<<53-2, 1)}, 1<<53 - 1},
		{[]entry.Position{at(1<<53-1, 1)}, 1 << 53},
		// Here, adding one does not change the number.
		{[]entry.Position{at(1<<53, 1)}, 1 << 53},
		{[]entry.Position{at(1<<53+2, 1)}, 1<<53 + 4}, // as JavaScript rounds 2⁵³+3
		{[]entry.Position{at(1<<53+4, 1)}, 1<<53 + 4},
		{[]entry.Position{at(1, 1), at(1e300, 2)}, 1e300},
		{[]entry.Position{at(math.MaxFloat64, 1)}, math.MaxFloat64},
	} {
		e, err := entry.New(s, logID, value.Null, test.heads, nil)
		must(t, err)
		if e.Clock != (entry.Clock{ID: s.PublicKey, Time: test.want}) {
			t.Errorf("%v: %+v, want time %v", test.heads, e.Clock, test.want)
		}
		got, err := entry.Decode(e.Block)
		must(t, err)
		if err := got.Check(s.Identity); err != nil || got.Clock != e.Clock {
			t.Errorf("%+v: %v", got.Clock, err)
		}
	}
}

func TestAnEntryThatIsMadeIsNewerThanItsHeadsWhateverTheirTimes(t *testing.T) {
	s := signer(t, "A")
	for _, time := range []float64{0, 1, 1.5, 1<<53 - 1, 1 << 53, 1e300, math.MaxFloat64} {
		heads := []entry.Position{at(time, 1), at(time, 2), at(time/2, 3)}
		heads[1].Depth = 7
		e, err := entry.New(s, logID, value.Null, heads, nil)
		must(t, err)
		p := e.Position(e.Rank(heads[0].Rank, heads[1].Rank, heads[2].Rank))
		for _, h := range heads {
			if p.Compare(h) != 1 {
				t.Errorf("%+v on top of %+v", p, h)
			}
		}
	}
}

func TestARankIsTheNextAboveAllBelow(t *testing.T) {
	for _, test := range []struct {
		time  float64
		below []entry.Rank
		want  entry.Rank
	}{
		{3, nil, entry.Rank{Time: 3}},
		{3, []entry.Rank{{Time: 2}, {Time: 2.5, Depth: 9}}, entry.Rank{Time: 3}},
		{3, []entry.Rank{{Time: 3}}, entry.Rank{Time: 3, Depth: 1}},
		{3, []entry.Rank{{Time: 3, Depth: 4}, {Time: 3}}, entry.Rank{Time: 3, Depth: 5}},
		{1, []entry.Rank{{Time: 3}, {Time: 2, Depth: 8}}, entry.Rank{Time: 3, Depth: 1}},
		{1, []entry.Rank{{Time: 1.5}, {Time: 0}}, entry.Rank{Time: 1.5, Depth: 1}},
		{0, []entry.Rank{{}}, entry.Rank{Depth: 1}},
		{1 << 53, []entry.Rank{{Time: 1 << 53, Depth: 1}}, entry.Rank{Time: 1 << 53, Depth: 2}},
		{1e300, []entry.Rank{{Time: 1 << 53, Depth: 1}}, entry.Rank{Time: 1e300}},
	} {
		e := entry.Entry{Clock: entry.Clock{Time: test.time}}
		for range 2 {
			if got := e.Rank(test.below...); got != test.want {
				t.Errorf("%v on top of %v: %v, want %v", test.time, test.below, got, test.want)
			}
			slices.Reverse(test.below)
		}
	}
}

func TestNextAndRefsKeepTheirOrder(t *testing.T) {
	s := signer(t, "A")
	heads := []entry.Position{at(5, 3), at(9, 1), at(5, 2)}
	refs := []string{hash(9), hash(7), hash(8), hash(7)}
	e, err := entry.New(s, logID, value.Null, heads, refs)
	must(t, err)
	decoded, err := entry.Decode(e.Block)
	must(t, err)
	for _, e := range []*entry.Entry{e, decoded} {
		next := []string{hash(3), hash(1), hash(2)}
		if !slices.Equal(e.Next, next) || !slices.Equal(e.Refs, refs) || !slices.Equal(e.Parents(), slices.Concat(next, refs)) {
			t.Errorf("next %q, refs %q, parents %q", e.Next, e.Refs, e.Parents())
		}
	}
	must(t, decoded.Check(s.Identity))
}

func TestTheSameEntryIsMadeOfTheSameFields(t *testing.T) {
	s := signer(t, "A")
	made := func() *entry.Entry {
		e, err := entry.New(s, logID, value.Text("v"), []entry.Position{at(1, 1)}, []string{hash(2)})
		must(t, err)
		return e
	}
	one, two := made(), made()
	if one.Hash() != two.Hash() || one.Sig != two.Sig || string(one.Block.Data) != string(two.Block.Data) {
		t.Errorf("%+v, %+v", one, two)
	}
	must(t, one.Block.Check())
}

func TestNewReturnsWhatDecodeDoes(t *testing.T) {
	s := signer(t, "B")
	for _, v := range []any{nil, "", "text", 1, 1.5, []byte{1}, []any{1, nil}, map[string]any{"op": "PUT"}, 1 << 53, float64(1 << 53)} {
		p, err := value.Of(v)
		must(t, err)
		made, err := entry.New(s, logID, p, []entry.Position{at(1, 1)}, []string{hash(2)})
		must(t, err)
		e, err := entry.Decode(made.Block)
		must(t, err)
		if e.LogID != made.LogID || e.Key != made.Key || e.Sig != made.Sig || e.Clock != made.Clock || e.Identity != made.Identity ||
			!slices.Equal(e.Next, made.Next) || !slices.Equal(e.Refs, made.Refs) || !e.Payload.Equal(made.Payload) || e.Hash() != made.Hash() {
			t.Errorf("made %+v, decoded %+v", made, e)
		}
		if err := errors.Join(made.Check(s.Identity), e.Check(s.Identity)); err != nil {
			t.Errorf("%v: %v", v, err)
		}
	}
}

func TestAnEntryNeedsAPayload(t *testing.T) {
	if e, err := entry.New(signer(t, "A"), logID, nil, nil, nil); !errors.Is(err, entry.ErrMalformed) {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestMaxSizeIsTheLargestEntry(t *testing.T) {
	s := signer(t, "A")
	// The length of a signature varies by a byte or two, so all sizes near the
	// limit are tried.
	var largest, smallest int
	for n := entry.MaxSize - 520; n < entry.MaxSize; n++ {
		e, err := entry.New(s, logID, value.Text(strings.Repeat("x", n)), nil, nil)
		if err == nil {
			largest = max(largest, len(e.Block.Data))
			continue
		}
		if !errors.Is(err, entry.ErrTooLarge) || e != nil || !strings.Contains(err.Error(), "1044480") {
			t.Fatal(err)
		}
		var size, limit, left int
		for i, field := range strings.FieldsFunc(err.Error(), func(r rune) bool { return r < '0' || r > '9' }) {
			number, err := strconv.Atoi(field)
			must(t, err)
			*[]*int{&size, &limit, &left}[i] = number
		}
		if smallest == 0 || size < smallest {
			smallest = size
		}
		if limit != entry.MaxSize || left != n+5-(size-limit) {
			t.Fatalf("payload of %d: %v", n+5, err)
		}
		if size > limit+3 {
			break
		}
	}
	if largest != entry.MaxSize || smallest != entry.MaxSize+1 {
		t.Errorf("the largest that was taken has %d bytes, the smallest refused %d", largest, smallest)
	}
}

func TestTheOrderIsByRankThenKeyThenHash(t *testing.T) {
	p := func(time float64, id, hash string) entry.Position {
		return entry.Position{Rank: entry.Rank{Time: time}, ID: id, Hash: hash}
	}
	deep := func(time float64, depth uint64) entry.Position {
		return entry.Position{Rank: entry.Rank{Time: time, Depth: depth}}
	}
	ordered := []entry.Position{
		p(0, "", ""), p(0, "", "a"), p(0, "a", ""), p(1, "", ""), p(1, "A", "z"), p(1, "a", "A"), p(1, "a", "b"), p(1, "aa", "a"),
		p(1, "b", ""), deep(1, 1), deep(1, 2), deep(1, 1<<63), p(1.25, "", ""), deep(1.25, 1), p(1.5, "", ""), p(2, "a", "a"),
		p(10, "", ""), p(1<<53, "", ""), deep(1<<53, 1), p(1<<53+2, "", ""), p(1<<64, "", ""), p(1e300, "", ""),
	}
	for i, a := range ordered {
		for j, b := range ordered {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := a.Compare(b); got != want {
				t.Errorf("%+v, %+v: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestTheOrderIsStrictAndTotal(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	some := func() entry.Position {
		pick := func(of ...string) string { return of[rng.IntN(len(of))] }
		return entry.Position{
			Rank: entry.Rank{Time: float64(rng.IntN(4)) / 2, Depth: rng.Uint64N(3)},
			ID:   pick("", "a", "b", "ab"),
			Hash: pick("x", "y", "xy"),
		}
	}
	for range 20_000 {
		a, b, c := some(), some(), some()
		if a.Compare(b) != -b.Compare(a) || a.Compare(a) != 0 {
			t.Fatalf("%+v, %+v: not antisymmetric", a, b)
		}
		if (a.Compare(b) == 0) != (a == b) {
			t.Fatalf("%+v, %+v: not total", a, b)
		}
		if a.Compare(b) < 0 && b.Compare(c) < 0 && a.Compare(c) >= 0 {
			t.Fatalf("%+v, %+v, %+v: not transitive", a, b, c)
		}
	}
}
