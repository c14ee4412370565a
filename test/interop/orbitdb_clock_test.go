package interop

import (
	"fmt"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
)

// turn is a write that references all heads, in JavaScript or in Go, with the
// expected time.
type turn struct {
	inGo bool
	time float64
}

func inJavaScript(times ...float64) (turns []turn) {
	for _, time := range times {
		turns = append(turns, turn{false, time})
	}
	return turns
}

var oddClocks = []struct {
	name   string
	before int // number of earlier writes of the owner
	forge  func(f *forgery)
	want   verdict
	turns  []turn
}{
	{
		"fraction in the name of another", 0,
		func(f *forgery) { f.byStranger(); f.time = 1.5 }, invalid,
		append(inJavaScript(2.5, 3.5, 4.5), turn{true, 5.5}, turn{false, 6.5}, turn{true, 7.5}),
	},
	{
		"1e300 in the name of another", 0,
		func(f *forgery) { f.byStranger(); f.time = 1e300 }, invalid,
		append(inJavaScript(1e300, 1e300, 1e300), turn{true, 1e300}, turn{false, 1e300}, turn{true, 1e300}),
	},
	{
		"2⁵³ in the name of another, with parents", 3,
		func(f *forgery) { f.byStranger(); f.time = 1 << 53 }, invalid,
		append(inJavaScript(1<<53, 1<<53), turn{true, 1 << 53}, turn{false, 1 << 53}),
	},
	{
		"0 in the name of another, with parents", 3,
		func(f *forgery) { f.byStranger(); f.time = 0 }, invalid,
		// JavaScript continues from that time, Go from its own.
		append(inJavaScript(1, 2), turn{true, 4}, turn{false, 5}),
	},
	{
		"lower than its parent", 3,
		func(f *forgery) { f.time = 1 }, valid,
		append(inJavaScript(2), turn{true, 4}, turn{false, 5}, turn{true, 6}),
	},
	{
		"the same as its parent", 3,
		func(f *forgery) { f.time = 3 }, valid,
		append(inJavaScript(4, 5), turn{true, 6}),
	},
	{
		"2⁵³", 0,
		func(f *forgery) { f.time = 1 << 53 }, valid,
		append(inJavaScript(1<<53, 1<<53, 1<<53), turn{true, 1 << 53}, turn{true, 1 << 53}, turn{false, 1 << 53}),
	},
	{
		"above 2⁵³", 1,
		func(f *forgery) { f.time = 1<<53 + 2 }, valid, // one more is rounded to even
		append(inJavaScript(1<<53+4, 1<<53+4), turn{true, 1<<53 + 4}),
	},
	{
		"fraction, with parents", 2,
		func(f *forgery) { f.time = 2.5 }, valid,
		append(inJavaScript(3.5), turn{true, 4.5}, turn{false, 5.5}),
	},
}

// Only the owner may write to the database. It writes entries that reference
// the entry with the odd clock, in JavaScript and in Go.
func TestOddClocksAreFollowedAlike(t *testing.T) {
	t.Parallel()
	js := startNode(t)
	js.newIdentity(writerA)
	js.takeBlocks(identityBlock(t, writerC))
	for _, test := range oddClocks {
		t.Run(test.name, func(t *testing.T) {
			js := js.in(t)
			opts := orbit.Options{Type: orbit.TypeDocuments}
			o := newOrbit(t, writerA)
			must(t, o.PutBlocks(t.Context(), identityBlock(t, writerC)))
			inGo, inJS := create(t, o, test.name, opts), js.create(writerA, test.name, opts, false)
			f := newForgery(t, inGo)
			key := "faulty" // the key that the odd entry puts
			if test.want == invalid {
				key = "other" // otherwise only JavaScript would change the key
			}
			for n := range test.before {
				b, err := inJS.write(op{"put", nil, mustOf(t, map[string]any{"_id": key, "n": -n})})
				must(t, err)
				inGo.join([]string{b.Hash}, []block.Block{b})
				f.next = []string{b.Hash}
			}
			test.forge(&f)
			forged := f.block(t)
			if got := inJS.joined([]string{forged.Hash}, []block.Block{forged})[0]; !got.Joined {
				t.Fatalf("JavaScript does not join the entry: %s", got.Error)
			}
			inGo.joined([]block.Block{forged})
			if test.want == valid {
				compareFaulty(t, inGo, inJS, forged.Hash, test.want)
			}
			for n, turn := range test.turns {
				doc := op{"put", nil, fromJSON(fmt.Sprintf(`{"_id":"%d","n":%d}`, n%2, n))}
				if n == 1 {
					doc = op{"put", nil, fromJSON(`{"_id":"faulty","n":1}`)}
				}
				var b block.Block
				var err error
				if turn.inGo {
					b, err = inGo.write(doc)
					must(t, err)
					inJS.join([]string{b.Hash}, []block.Block{b})
				} else {
					b, err = inJS.write(doc)
					must(t, err)
					inGo.joined([]block.Block{b, forged})
				}
				e, err := entry.Decode(b)
				must(t, err)
				if e.Clock.Time != turn.time {
					t.Errorf("entry %d has time %v, want %v", n, e.Clock.Time, turn.time)
				}
				compareFaulty(t, inGo, inJS, forged.Hash, test.want)
				if got := inJS.heads(); len(got) != 1 || got[0] != b.Hash {
					t.Errorf("entry %d is not the head in JavaScript; the heads are %q", n, got)
				}
			}
			if test.want == valid {
				compareTwo(t, "JavaScript", inJS, inGo)
			}
		})
	}
}
