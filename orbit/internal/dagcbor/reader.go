// Package dagcbor reads and appends dag-cbor, the encoding of OrbitDB's blocks,
// byte for byte as JavaScript's @ipld/dag-cbor 9 does.
//
// # Canonical items
//
// An item is canonical if JavaScript decodes it and encodes the result to the
// same bytes. JavaScript verifies signatures against its own encoding, so only
// canonical items can be signed. In a canonical item
//
//   - integers, lengths and counts take the fewest bytes possible;
//   - a number that is integral and at most 2^53-1 in magnitude is an integer,
//     including 1.0 and -0. All other floats have 64 bits. Integers beyond
//     2^53-1 (BigInt in JavaScript) differ from floats;
//   - the keys of a map ascend: shorter keys first, then in the order of their
//     bytes;
//   - text is UTF-8 and does not begin with a byte order mark.
//
// [Normalize] makes an item canonical.
//
// # Accepted items
//
// A [Reader] accepts whatever JavaScript's decoder accepts, which includes
// non-canonical items: maps in any order, floats of 16 and 32 bits, undefined
// instead of null, and text that is not UTF-8, in which each malformed sequence
// becomes U+FFFD. It rejects everything else: indefinite lengths, numbers in
// more bytes than necessary, duplicate keys and keys that are not text, tags
// other than 42 (links), NaN, and infinities.
//
// It differs from JavaScript in three ways. Arrays and maps nest at most
// [MaxDepth] deep; JavaScript is limited by its stack. The CID of a link must
// have its shortest form. All byte order marks at the start of a text are
// dropped; JavaScript drops one each time it reads the text.
//
// # Members that JavaScript lacks
//
// When it decodes a map, JavaScript treats the member "__proto__" as the
// prototype of the object and loses it. [Normalize] therefore drops it, but
// rejects a map where it is bytes or a link, which change the object.
// JavaScript cannot encode a map whose members "/" and "bytes" are the same
// text, number or bool, because it mistakes the map for a CID. Normalize
// rejects such a map too. [CloseMap] rejects both.
//
// # Cost
//
// A canonical item is checked in one pass over its bytes, without allocation.
// [Reader.Raw] and Normalize sort the keys of maps that are not in order.
// Normalize writes a non-canonical item anew, and moves the contents of a map
// once for each enclosing map, at most [MaxDepth] times. A count or length
// never exceeds the number of remaining bytes, but an array of n items may have
// one byte for each.
package dagcbor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/ipfs/go-cid"
)

// MaxDepth is the maximum nesting depth of arrays and maps in an item.
const MaxDepth = 128

// ErrMalformed is returned for bytes that JavaScript's decoder rejects, or for
// an item that is not of the requested kind.
var ErrMalformed = errors.New("malformed dag-cbor")

// Kind is the kind of an item.
type Kind uint8

// The kinds of items. Invalid is the kind of bytes that are not an item.
const (
	Invalid Kind = iota
	Uint
	NegInt
	Bytes
	Text
	Array
	Map
	Link
	Bool
	Null
	Float
)

var kindNames = [...]string{"invalid", "uint", "negint", "bytes", "text", "array", "map", "link", "bool", "null", "float"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Invalid]
}

// Reader reads consecutive items. A read that fails does not advance it. Every
// error wraps [ErrMalformed].
//
// Counts and lengths never exceed the number of remaining bytes. Except for
// [Reader.Raw], a read inspects only what it returns, so a caller that reads a
// map member by member must check for duplicate keys.
type Reader struct {
	b   []byte
	pos int
}

// NewReader returns a reader of the items in b, which must not change during
// its use.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Kind returns the kind of the next item.
func (r *Reader) Kind() (Kind, error) {
	h, err := r.head()
	return h.kind(), err
}

// Map reads the head of a map of n members, each a text and an item.
func (r *Reader) Map() (n int, err error) {
	h, err := r.next(Map)
	return int(h.n), err
}

// Array reads the head of an array of n items.
func (r *Reader) Array() (n int, err error) {
	h, err := r.next(Array)
	return int(h.n), err
}

// Tuple reads the head of an array of exactly this many items.
func (r *Reader) Tuple(items int) error {
	start := r.pos
	n, err := r.Array()
	if err == nil && n != items {
		r.pos = start
		err = r.malformed("an array of %d items, not of %d", n, items)
	}
	return err
}

// Uint reads an integer from 0 to 2⁶⁴-1.
func (r *Reader) Uint() (uint64, error) {
	h, err := r.next(Uint)
	return h.n, err
}

// Text reads a text as JavaScript does.
func (r *Reader) Text() (string, error) {
	b, err := r.TextBytes()
	return string(b), err
}

// TextBytes is [Reader.Text] without a copy. The result may share the reader's
// bytes.
func (r *Reader) TextBytes() ([]byte, error) {
	b, err := r.content(Text)
	return clean(b), err
}

// Bytes reads a byte string. The result shares the reader's bytes.
func (r *Reader) Bytes() ([]byte, error) { return r.content(Bytes) }

// Bool reads a bool.
func (r *Reader) Bool() (bool, error) {
	h, err := r.next(Bool)
	return h.info == infoTrue, err
}

// Null reads null or undefined.
func (r *Reader) Null() error {
	_, err := r.next(Null)
	return err
}

// Number reads an integer or a float.
func (r *Reader) Number() (Number, error) {
	h, err := r.head()
	if err != nil {
		return Number{}, err
	}
	switch kind := h.kind(); kind {
	case Uint, NegInt:
		r.pos = h.end
		return Number{kind, h.n}, nil
	case Float:
		r.pos = h.end
		return Number{kind, math.Float64bits(h.float())}, nil
	default:
		return Number{}, r.malformed("%s instead of a number", kind)
	}
}

// Link reads a link.
func (r *Reader) Link() (cid.Cid, error) {
	start := r.pos
	b, err := r.LinkBytes()
	if err != nil {
		return cid.Undef, err
	}
	c, err := cid.Cast(b)
	if err == nil && c.Type() > maxSafe {
		err = errors.New("the codec is too large")
	}
	if err != nil {
		r.pos = start
		return cid.Undef, r.malformed("link: %v", err)
	}
	return c, nil
}

// LinkBytes reads a link and returns its bytes, which may not be a valid CID.
func (r *Reader) LinkBytes() ([]byte, error) {
	start := r.pos
	_, err := r.next(Link)
	if err != nil {
		return nil, err
	}
	b, err := r.content(Bytes)
	if err == nil && (len(b) == 0 || b[0] != 0) {
		err = r.malformed("a link that does not begin with 00")
	}
	if err != nil {
		r.pos = start
		return nil, err
	}
	return b[1:], nil
}

// Raw reads and checks the next item of any kind, with its contents. The result
// shares the reader's bytes.
func (r *Reader) Raw() ([]byte, error) {
	start := r.pos
	found, err := r.scan(0)
	end := r.pos
	if err == nil && found&unsorted != 0 {
		r.pos = start
		err = r.distinct()
	}
	if err != nil {
		r.pos = start
		return nil, err
	}
	r.pos = end
	return r.b[start:end:end], nil
}

// Rest returns the bytes that are not read yet. The result shares the reader's
// bytes.
func (r *Reader) Rest() []byte { return r.b[r.pos:] }

// End returns an error unless all bytes are read.
func (r *Reader) End() error {
	if r.pos < len(r.b) {
		return r.malformed("more than one item")
	}
	return nil
}

// Number is an integer or a float.
type Number struct {
	Kind Kind   // Uint, NegInt or Float
	Bits uint64 // n for the integers n and -1-n; IEEE 754 bits for a float
}

// Float64 returns the float, or the float that is nearest to the integer.
func (n Number) Float64() float64 {
	switch n.Kind {
	case Float:
		return math.Float64frombits(n.Bits)
	case NegInt:
		if n.Bits == math.MaxUint64 {
			return -1 << 64
		}
		return -float64(n.Bits + 1)
	default:
		return float64(n.Bits)
	}
}

// Int64 returns the number if it is integral and fits in an int64.
func (n Number) Int64() (int64, bool) {
	switch n.Kind {
	case Float:
		v := math.Float64frombits(n.Bits)
		if v != math.Trunc(v) || v < -1<<63 || v >= 1<<63 {
			return 0, false
		}
		return int64(v), true
	case NegInt:
		return -1 - int64(n.Bits), n.Bits <= math.MaxInt64
	default:
		return int64(n.Bits), n.Bits <= math.MaxInt64
	}
}

const (
	infoTrue    = 21
	infoNull    = 22
	infoFloat16 = 25
	infoFloat32 = 26
	infoFloat64 = 27

	tagLink = 42

	maxSafe = 1<<53 - 1 // JavaScript's Number.MAX_SAFE_INTEGER
)

// head is the head of an item: its kind, and its number, length or count.
type head struct {
	major, info byte
	n           uint64 // for a float, its bits
	end         int    // position after the head
}

func (h head) kind() Kind {
	switch {
	case h.end == 0:
		return Invalid
	case h.major < 7:
		return Uint + Kind(h.major)
	case h.info >= infoFloat16:
		return Float
	case h.info >= infoNull:
		return Null
	default:
		return Bool
	}
}

func (h head) float() float64 {
	switch h.info {
	case infoFloat16:
		return float16(uint16(h.n))
	case infoFloat32:
		return float64(math.Float32frombits(uint32(h.n)))
	default:
		return math.Float64frombits(h.n)
	}
}

func float16(bits uint16) float64 {
	exponent, fraction := int(bits>>10&0x1f), float64(bits&0x3ff)
	var v float64
	switch exponent {
	case 0:
		v = math.Ldexp(fraction, -24)
	case 0x1f:
		return math.NaN() // or infinite; both are rejected
	default:
		v = math.Ldexp(fraction+0x400, exponent-25)
	}
	if bits&0x8000 != 0 {
		v = -v
	}
	return v
}

// head reads the head of the next item without advancing.
func (r *Reader) head() (head, error) {
	if r.pos >= len(r.b) {
		return head{}, r.malformed("an item is missing")
	}
	first, rest := r.b[r.pos], r.b[r.pos+1:]
	h := head{major: first >> 5, info: first & 31, end: r.pos + 1}
	h.n = uint64(h.info)
	if h.info >= 24 {
		if h.info > 27 {
			return head{}, r.malformed("an indefinite length, or an unknown head %02x", first)
		}
		size := 1 << (h.info - 24)
		if len(rest) < size {
			return head{}, r.malformed("an item is cut off")
		}
		var least uint64 // smallest number that needs this size
		switch size {
		case 1:
			h.n, least = uint64(rest[0]), 24
		case 2:
			h.n, least = uint64(binary.BigEndian.Uint16(rest)), 1<<8
		case 4:
			h.n, least = uint64(binary.BigEndian.Uint32(rest)), 1<<16
		case 8:
			h.n, least = binary.BigEndian.Uint64(rest), 1<<32
		}
		if h.major < 7 && h.n < least {
			return head{}, r.malformed("a number in more bytes than necessary")
		}
		h.end += size
		rest = rest[size:]
	}
	left := uint64(len(rest))
	switch h.major {
	case 2, 3, 4:
		if h.n > left {
			return head{}, r.malformed("%s of length %d, with %d bytes left", h.kind(), h.n, left)
		}
	case 5:
		if h.n > left/2 {
			return head{}, r.malformed("%s of length %d, with %d bytes left", h.kind(), h.n, left)
		}
	case 6:
		if h.n != tagLink {
			return head{}, r.malformed("tag %d", h.n)
		}
	case 7:
		if h.info < 20 || h.info == 24 {
			return head{}, r.malformed("a simple value")
		}
		if h.info >= infoFloat16 {
			if v := h.float(); v-v != 0 {
				return head{}, r.malformed("a float that is not finite")
			}
		}
	}
	return h, nil
}

// next reads the head of an item of the given kind.
func (r *Reader) next(kind Kind) (head, error) {
	h, err := r.head()
	if err != nil {
		return head{}, err
	}
	if k := h.kind(); k != kind {
		return head{}, r.malformed("%s instead of %s", k, kind)
	}
	r.pos = h.end
	return h, nil
}

// content reads a text or a byte string.
func (r *Reader) content(kind Kind) ([]byte, error) {
	h, err := r.next(kind)
	if err != nil {
		return nil, err
	}
	r.pos = h.end + int(h.n)
	return r.b[h.end:r.pos:r.pos], nil
}

func (r *Reader) malformed(format string, args ...any) error {
	return fmt.Errorf("%w at byte %d: %s", ErrMalformed, r.pos, fmt.Sprintf(format, args...))
}
