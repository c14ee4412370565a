package blocks

import (
	"encoding/binary"
	"testing"
)

func FuzzLocation(f *testing.F) {
	f.Add([]byte{1, 1})
	f.Add([]byte{0, 1})
	f.Add([]byte{1})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, record []byte) {
		at, ok := location(record)
		if !ok {
			return
		}
		if at.Log == 0 || at.Number == 0 {
			t.Errorf("%q is read as %v", record, at)
		}
		again, ok := location(binary.AppendUvarint(binary.AppendUvarint(nil, at.Log), at.Number))
		if !ok || again != at {
			t.Errorf("%v is read again as %v", at, again)
		}
	})
}
