// Package value represents the data of OrbitDB entries: JSON and more, each
// value as one dag-cbor item, encoded byte for byte as JavaScript does.
//
// # Types
//
// A [Value] is null, a bool, a number, a text, a byte string, a link (a CID),
// an array, or a map whose keys are texts. In Go and in JSON they are
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
// The JSON is DAG-JSON: bytes are base64 under the only key "bytes" of a map,
// which is itself under the only key "/" of a map.
//
// # Numbers
//
// JavaScript's numbers are doubles. An integral double of at most 2^53-1 in
// magnitude is encoded as an integer, including 1.0 and -0; all others are
// encoded as floats. An integral float64 therefore comes back as an int64.
// Beyond 2^53-1, integers and floats are different values. JavaScript decodes
// such integers as BigInt, which it does not mix with doubles in calculations:
// avoid them if JavaScript must calculate with them. In JSON, such an integer
// is written without '.' and exponent, and such a float with one of them.
// Integers range from -2^64 to 2^64-1; in JSON, one beyond is a float.
//
// # Texts
//
// A text is UTF-8. Each malformed sequence becomes U+FFFD. Byte order marks at
// the start of a text or key are dropped, since JavaScript drops one of them
// each time it reads the text.
//
// # Unsupported data
//
// The following have no value: NaN and the infinities; a map with a duplicate
// key or with the key "__proto__", which JavaScript loses; a map whose members
// "/" and "bytes" are the same text, number or bool, which JavaScript mistakes
// for a CID; and data nested more than 128 deep.
//
// # Cost
//
// The caller bounds the size of what is read. [FromCBOR] checks an item in one
// pass, and holds a copy. It sorts the keys of maps that are not in order, and
// moves the contents of a map once for each enclosing map, at most 128 times.
// [FromJSON] takes time proportional to the length, and moves the contents of
// arrays and maps once for each enclosing one, at most 130 times. A CID of more
// than 1024 characters must be in base32, since decoding other bases takes time
// quadratic in the length. [Value.Field] reads the members that precede the one
// it returns. [Value.Any] and [Value.Decode] hold about 50 bytes for each item,
// which may be one byte of the value. [Value.Slot] computes one SHA-256 of the
// value.
package value

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// ErrInvalid is returned for data that has no value.
var ErrInvalid = errors.New("invalid value")

// Value is one canonical dag-cbor item, or nil for none. It must not be
// modified. [Of], [FromJSON] and [FromCBOR] return values. The methods of a
// Value that was converted from other bytes may fail, but do not panic.
type Value []byte

// FromCBOR returns the value that JavaScript decodes from a dag-cbor item. It
// keeps no reference to b. It returns [ErrInvalid] if JavaScript does not
// decode the item, or cannot encode the result.
func FromCBOR(b []byte) (Value, error) {
	item, err := dagcbor.Normalize(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return bytes.Clone(item), nil
}

// Field returns the member of a map with the given name, without a copy. It
// returns nil if there is none, or if v is not a map.
func (v Value) Field(name string) Value {
	r := dagcbor.NewReader(v)
	n, err := r.Map()
	if err != nil {
		return nil
	}
	for range n {
		key, err := r.TextBytes()
		if err != nil || len(key) > len(name) { // shorter keys precede longer ones
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

// Text returns the text of v, and whether v is a text.
func (v Value) Text() (string, bool) {
	text, err := dagcbor.NewReader(v).Text()
	return text, err == nil
}

// Equal reports whether v and o are the same value or both nil.
func (v Value) Equal(o Value) bool { return bytes.Equal(v, o) }

// reader returns a reader of v after checking that v is well-formed.
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
