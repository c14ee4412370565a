package value

import (
	"bytes"
	"slices"
	"strings"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// Null is the value null.
var Null = Value(dagcbor.AppendNull(nil))

// Text returns the value of a text.
func Text(s string) Value { return dagcbor.AppendText(nil, s) }

// Member is a member of a map.
type Member struct {
	Name  string
	Value Value
}

// Map returns the map of the members. Their names must be distinct, valid UTF-8
// and without byte order marks, and their values must not be nil.
func Map(members ...Member) Value {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int {
		if len(a.Name) != len(b.Name) {
			return len(a.Name) - len(b.Name)
		}
		return strings.Compare(a.Name, b.Name)
	})
	size := 9
	for _, m := range members {
		size += 9 + len(m.Name) + len(m.Value)
	}
	b := dagcbor.AppendMap(make([]byte, 0, size), len(members))
	for _, m := range members {
		b = append(dagcbor.AppendText(b, m.Name), m.Value...)
	}
	return b
}

// Truthy reports whether v is true in JavaScript: whether it is neither null,
// false, 0 nor the empty text.
func (v Value) Truthy() bool {
	for _, falsy := range [][]byte{{}, {0xf6}, {0xf4}, {0x00}, {0x60}} {
		if bytes.Equal(v, falsy) {
			return false
		}
	}
	return true
}
