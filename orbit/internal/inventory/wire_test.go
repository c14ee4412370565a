package inventory

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
)

// examples are frames and what goes over the wire for them.
var examples = []struct {
	frame frame
	wire  string
}{
	{hello{nonce{1, 15: 2}, 14}, "14 83 00 50 01000000000000000000000000000002 0e"},
	{claim{{1}, {2}}, "24 82 01 5820 01000000000000000000000000000000 02000000000000000000000000000000"},
	{match{upTo: 3}, "04 83 02 03 80"},
	{match{300, []found{{2, tag{1}, State{2}}, {299, tag{3}, State{}}}},
		"4e 83 02 19012c 84" +
			"02 5820 01000000000000000000000000000000 02000000000000000000000000000000" +
			"19012b 5820 03000000000000000000000000000000 00000000000000000000000000000000"},
	{states{4, []differing{{3, State{9}}}}, "16 83 03 04 82 03 50 09000000000000000000000000000000"},
	{change{channel{5, false}, State{1}, []block.Block{block.New([]byte("one")), block.New([]byte("two"))}},
		"1d 84 04 0a 50 01000000000000000000000000000000 82 43 6f6e65 43 74776f"},
	{change{channel{5, true}, State{}, nil}, "15 84 04 0b 50 00000000000000000000000000000000 80"},
	{gone{{5, true}, {6, false}}, "05 82 05 82 0b 0c"},
}

// The bytes on the wire stay as they are: peers of other versions read them.
func TestFramesAreTheseBytes(t *testing.T) {
	for _, c := range examples {
		want, err := hex.DecodeString(strings.ReplaceAll(c.wire, " ", ""))
		must(t, err)
		b := encode(c.frame)
		if !bytes.Equal(b, want) {
			t.Errorf("%+v is %x, want %x", c.frame, b, want)
		}
		_, n := binary.Uvarint(b)
		got, err := decode(b[n:])
		if err != nil || !reflect.DeepEqual(got, c.frame) {
			t.Errorf("%x is read as %+v, %v", b, got, err)
		}
	}
}

// The tags, too, stay what they are.
func TestTagsAreTheseBytes(t *testing.T) {
	a, b := newConnection(side{low, nonce{1}}, side{high, nonce{2}}), newConnection(side{high, nonce{2}}, side{low, nonce{1}})
	k := Key{7}
	for _, c := range []struct {
		got  tag
		want string
	}{
		{a.ours().of(k), "40692a0135739db46057c4ff7c727d06"}, {b.theirs().of(k), "40692a0135739db46057c4ff7c727d06"},
		{a.theirs().of(k), "d3bf7c91e175f762fdbf84f19bf2be20"}, {b.ours().of(k), "d3bf7c91e175f762fdbf84f19bf2be20"},
	} {
		if got := hex.EncodeToString(c.got[:]); got != c.want {
			t.Errorf("tag %s, want %s", got, c.want)
		}
	}
}

func TestTagsOfAnotherSessionOrDirectionAreOthers(t *testing.T) {
	k := key(1)
	seen := make(map[tag]string)
	for name, c := range map[string]connection{
		"one":           newConnection(side{low, nonce{1}}, side{high, nonce{2}}),
		"another nonce": newConnection(side{low, nonce{3}}, side{high, nonce{2}}),
		"its nonce":     newConnection(side{low, nonce{1}}, side{high, nonce{3}}),
		"swapped":       newConnection(side{low, nonce{2}}, side{high, nonce{1}}),
		"another peer":  newConnection(side{low, nonce{1}}, side{"peer C", nonce{2}}),
	} {
		for direction, tags := range map[string]*tagger{"out": c.ours(), "in": c.theirs()} {
			got := tags.of(k)
			if other, ok := seen[got]; ok {
				t.Errorf("%s %s has the tag of %s", name, direction, other)
			}
			seen[got] = name + " " + direction
		}
	}
}

func TestUnknownKindsAreSkipped(t *testing.T) {
	for _, b := range []string{"\x81\x07", "\x82\x18\xff\x40", "\x81\x1b\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if f, err := decode([]byte(b)); f != nil || err != nil {
			t.Errorf("%x: %v, %v", b, f, err)
		}
	}
}

func TestTheLargestFramesFit(t *testing.T) {
	const last = maxNumber - 1
	m, s, g := match{upTo: maxNumber}, states{upTo: maxNumber}, gone{}
	for i := range uint32(maxMatches) {
		m.found = append(m.found, found{number: last - maxMatches + i})
	}
	for i := range uint32(maxStates) {
		s.differ = append(s.differ, differing{number: last - maxStates + i})
	}
	for range maxChannels {
		g = append(g, channel{last, true})
	}
	var full changes
	d := &database{}
	full.add(d, state(1), []block.Block{block.New(make([]byte, maxPayload-maxEntries*entryOverhead-maxEntries+1))})
	for range maxEntries - 1 {
		full.add(d, state(1), []block.Block{block.New(make([]byte, 1))})
	}
	_, n, _ := full.take()
	if len(n.entries) != maxEntries || n.bytes != maxPayload {
		t.Fatalf("%d entries of %d bytes", len(n.entries), n.bytes)
	}
	for _, f := range []frame{make(claim, maxTags), m, s, g, change{channel{last, true}, state(1), n.entries}} {
		b := encode(f)
		length, head := binary.Uvarint(b)
		if length > maxFrame {
			t.Errorf("%T of %d bytes", f, length)
		}
		if _, err := decode(b[head:]); err != nil {
			t.Errorf("%T: %v", f, err)
		}
	}
}

func TestWhatIsNoFrameIsRefused(t *testing.T) {
	many := func(n int) string {
		g := make(gone, n)
		return string(g.append(nil))
	}
	for name, b := range map[string]string{
		"nothing":              "",
		"no list":              "\x00",
		"no kind":              "\x80",
		"a kind that is text":  "\x81\x61a",
		"a short nonce":        "\x83\x00\x41\x01\x00",
		"a huge size":          "\x83\x00\x50aaaaaaaaaaaaaaaa\x18\x41",
		"an empty claim":       "\x82\x01\x40",
		"half a tag":           "\x82\x01\x48aaaaaaaa",
		"too many tags":        string(make(claim, maxTags+1).append(nil)),
		"a huge number":        "\x83\x02\x1b\xff\xff\xff\xff\xff\xff\xff\xff\x80",
		"a number too high":    "\x83\x03\x02\x82\x02\x50aaaaaaaaaaaaaaaa",
		"numbers that descend": "\x83\x03\x05\x84\x02\x50aaaaaaaaaaaaaaaa\x01\x50aaaaaaaaaaaaaaaa",
		"a number twice":       "\x83\x03\x05\x84\x02\x50aaaaaaaaaaaaaaaa\x02\x50aaaaaaaaaaaaaaaa",
		"half a pair":          "\x83\x03\x05\x81\x02",
		"a short state":        "\x83\x03\x05\x82\x02\x41a",
		"too many entries":     string(change{entries: make([]block.Block, maxEntries+1)}.append(nil)),
		"an empty entry":       string(change{entries: make([]block.Block, 1)}.append(nil)),
		"a huge channel":       "\x84\x04\x1b\xff\xff\xff\xff\xff\xff\xff\xff\x50aaaaaaaaaaaaaaaa\x80",
		"no channels":          many(0),
		"too many channels":    many(maxChannels + 1),
		"too many items":       "\x83\x05\x81\x00\x00",
		"more after the end":   "\x82\x05\x81\x00\x00",
	} {
		if f, err := decode([]byte(b)); err == nil {
			t.Errorf("%s is read as %+v", name, f)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range examples {
		f.Add(c.frame.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decode(b)
		if err != nil || got == nil {
			return
		}
		if c, ok := got.(change); ok {
			for _, e := range c.entries {
				must(t, e.Check())
			}
		}
		if again := got.append(nil); !bytes.Equal(again, b) {
			t.Errorf("%x is written again as %x", b, again)
		}
	})
}
