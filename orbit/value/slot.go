package value

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"

	"github.com/newpieceplease/npp/orbit/value/dagcbor"
)

const (
	slotOfText = iota
	slotOfItem
)

// Slot returns what identifies v as a key of a database: two keys are the same
// if and only if they have the same slot. It is a text of 43 letters, digits,
// '-' and '_', so it is one component of a datastore's key.
//
// JavaScript uses a key as the name of a property, which is a text: a bool, a
// number and null are the same key as their texts, 42 as "42". Of bytes, links,
// arrays and maps it would take the address in memory, or one name for all of
// them; here each has a slot of its own, which is that of no text.
func (v Value) Slot() string {
	var buf [64]byte
	b := append(buf[:0], slotOfText)
	r := dagcbor.NewReader(v)
	switch v.Kind() {
	case dagcbor.Text:
		text, _ := r.TextBytes()
		b = append(b, text...)
	case dagcbor.Uint, dagcbor.NegInt, dagcbor.Float:
		n, _ := r.Number()
		b = printNumber(b, n)
	case dagcbor.Bool:
		is, _ := r.Bool()
		b = strconv.AppendBool(b, is)
	case dagcbor.Null:
		b = append(b, "null"...)
	default:
		b[0] = slotOfItem
		b = append(b, v...)
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
