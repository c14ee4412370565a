// Package value is the data in an OrbitDB entry: JSON and more, as one dag-cbor
// item, byte for byte as JavaScript encodes it.
//
// # Types
//
// A [Value] is null, a bool, a number, a text, a byte string, a link (a CID), an
// array, or a map with texts as keys. In Go and in JSON they are
//
//	item     Any, Of               JSON
//	null     nil                   null
//	bool     bool                  true, false
//	integer  int64, uint64, …      1, -1
//	float    float64               1.5
//	text     string                "text"
//	bytes    []byte, Bytes         {"/":{"bytes":"AQID"}}
//	link     cid.Cid               {"/":"zdpu…"}
//	array    []any                 [1,2]
//	map      map[string]any        {"key":"value"}
//
// The JSON is DAG-JSON: bytes are in base64, by themselves in a map of the only
// key "bytes", by itself in a map of the only key "/".
//
// # Numbers
//
// JavaScript has doubles. Those that are integral and at most 2^53-1 in
// magnitude are encoded as integers, also 1.0 and -0, all others as floats; so
// a float64 that is integral comes back as an int64. Beyond 2^53-1 integers and
// floats are different values. Integers there are BigInt in JavaScript, which
// does not calculate with both at once: avoid them if JavaScript is to do more
// than to store them. In JSON such an integer is written without a '.' and
// without an exponent, and such a float with one of them. Integers reach from
// -2^64 to 2^64-1; in JSON, one beyond is a float.
//
// # Texts
//
// A text is UTF-8. In what is none, each malformed piece becomes U+FFFD. Byte
// order marks in front of a text or a key are dropped, since JavaScript drops
// one of them each time that it reads.
//
// # What there is no value of
//
// NaN and the infinities, a map with the same key twice or with the key
// "__proto__", which JavaScript loses, a map whose members "/" and "bytes" are
// the same text, number or bool, which JavaScript takes for a CID, and what is
// nested more than [dagcbor.MaxDepth] deep.
//
// # Cost
//
// The size of what is read is for the caller to bound. [FromCBOR] takes the time of
// [dagcbor.Normalize] and holds a copy. [FromJSON] takes time in proportion to the
// length, and moves what is in arrays and maps once for each one around it, at most
// 130 times; a CID of more than 1024 characters is taken in base32 alone, since other
// bases take the square of the length. [Value.Field] reads the members in front of the
// one that it returns. [Value.Any] and [Value.Decode] hold some 50 bytes for each item,
// which may have one byte in the value. [Value.Slot] takes one SHA-256 of the value.
package value

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/value/dagcbor"
)

// ErrInvalid says that something cannot be a value.
var ErrInvalid = errors.New("invalid value")

// Value is one canonical dag-cbor item, or nil if there is none. It is not to
// be modified. Values are made by [Of], [FromJSON] and [FromCBOR]; the methods
// of one that is made by a conversion of other bytes may fail, but do not
// panic.
type Value []byte

// FromCBOR returns the value that JavaScript makes of a dag-cbor item. It keeps
// no reference to b. What JavaScript does not decode, or cannot encode again,
// is refused with [ErrInvalid].
func FromCBOR(b []byte) (Value, error) {
	item, err := dagcbor.Normalize(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return bytes.Clone(item), nil
}

// Kind returns what v is, [dagcbor.Invalid] if there is no value.
func (v Value) Kind() dagcbor.Kind {
	kind, _ := dagcbor.NewReader(v).Kind()
	return kind
}

// Field returns the member of a map that has a name, without a copy. It is nil
// if there is none, or if v is no map.
func (v Value) Field(name string) Value {
	r := dagcbor.NewReader(v)
	n, err := r.Map()
	if err != nil {
		return nil
	}
	for range n {
		key, err := r.TextBytes()
		if err != nil || len(key) > len(name) { // shorter keys are in front
			return nil
		}
		item, err := r.Raw()
		if err != nil {
			return nil
		}
		if string(key) == name {
			return item
		}
	}
	return nil
}

// Text returns the text that v is, if it is one.
func (v Value) Text() (string, bool) {
	text, err := dagcbor.NewReader(v).Text()
	return text, err == nil
}

// Equal reports whether v and o are the same value, or both none.
func (v Value) Equal(o Value) bool { return bytes.Equal(v, o) }

// reader returns a reader of v, all of which is well-formed.
func (v Value) reader() (*dagcbor.Reader, error) {
	r := dagcbor.NewReader(v)
	if _, err := r.Raw(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return dagcbor.NewReader(v), nil
}
