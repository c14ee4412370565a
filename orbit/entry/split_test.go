package entry_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
)

func TestBlocksAreSplitWhereTheyEnd(t *testing.T) {
	items := [][]byte{{0x00}, {0xa1, 0x61, 'a', 0x82, 0x01, 0x40}, {0x63, 'a', 'b', 'c'}, {0xf6}}
	bs, err := entry.Split(bytes.Join(items, nil), len(items))
	if err != nil || len(bs) != len(items) {
		t.Fatalf("%v, %v", bs, err)
	}
	for i, b := range bs {
		if !bytes.Equal(b.Data, items[i]) || b.Check() != nil {
			t.Errorf("%d: %x, want %x", i, b.Data, items[i])
		}
	}
	if bs, err := entry.Split(nil, 0); err != nil || len(bs) != 0 {
		t.Errorf("%v, %v", bs, err)
	}
}

func TestWhatFollowsTheLastWholeBlockIsMalformed(t *testing.T) {
	for _, rest := range [][]byte{{0x82, 0x01}, {0xff}, {0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x63, 'a'}, {0x18}} {
		bs, err := entry.Split(append([]byte{0x01}, rest...), 10)
		if !errors.Is(err, entry.ErrMalformed) || len(bs) != 1 || !bytes.Equal(bs[0].Data, []byte{0x01}) {
			t.Errorf("%x: %v, %v", rest, bs, err)
		}
	}
}

func TestSoManyBlocksAreSplitAndNoMore(t *testing.T) {
	bs, err := entry.Split(bytes.Repeat([]byte{0xa0}, 1<<20), 3)
	if !errors.Is(err, entry.ErrMalformed) || len(bs) != 3 {
		t.Errorf("%d blocks, %v", len(bs), err)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0xa0, 0x80, 0x00})
	f.Add(bytes.Repeat([]byte{0x81}, 5000))
	f.Add([]byte{0xd8, 0x2a, 0x45, 0x00, 0x01, 0x71, 0x00, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		bs, err := entry.Split(data, 1000)
		size := 0
		for _, b := range bs {
			if len(b.Data) == 0 {
				t.Fatal("a block without bytes")
			}
			if block.Hash(b.Data) != b.Hash {
				t.Fatalf("%x has another hash", b.Data)
			}
			size += len(b.Data)
		}
		if size > len(data) || err == nil && size != len(data) {
			t.Fatalf("%d of %d bytes: %v", size, len(data), err)
		}
	})
}
