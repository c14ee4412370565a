package value

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

const (
	slotOfText = iota
	slotOfItem
)

// Slot returns a text that identifies v as a key of a database: two keys are
// equal if and only if their slots are. It consists of 43 letters, digits, '-'
// and '_', so it is one component of a datastore key.
//
// JavaScript uses a key as the name of a property, which is a text. A bool, a
// number and null are therefore the same key as their texts, such as 42 and
// "42". For bytes, links, arrays and maps JavaScript would use an address in
// memory, or one name for all; here each has its own slot, which differs from
// that of every text.
func (v Value) Slot() string {
	var buf [64]byte
	b := append(buf[:0], slotOfText)
	r := dagcbor.NewReader(v)
	switch v.item() {
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
