// Package dagcbor reads and appends dag-cbor, the encoding of OrbitDB's blocks,
// as JavaScript's @ipld/dag-cbor 9 does, byte for byte.
//
// # Canonical items
//
// An item is canonical if JavaScript, having decoded it, encodes it to the same
// bytes. JavaScript checks signatures over what it encodes again, so no other
// items than these keep a signature. In them
//
//   - integers, lengths and counts take the fewest bytes they can;
//   - a number that is integral and at most 2^53-1 in magnitude is an integer,
//     also 1.0 and -0. Any other float has 64 bits. Integers beyond 2^53-1
//     (BigInt in JavaScript) are not the same as floats;
//   - the keys of a map ascend: shorter ones first, then by their bytes;
//   - text is UTF-8 and does not begin with a byte order mark.
//
// [Normalize] makes an item canonical.
//
// # What is read
//
// A [Reader] takes what JavaScript's decoder takes, which is more than what is
// canonical: maps in any order, floats of 16 and 32 bits, undefined in the place
// of null, and text that is no UTF-8, of which it reads each malformed piece as
// U+FFFD. It takes nothing else: no indefinite lengths, nothing longer than
// necessary, no key twice in a map or other than text, no tags but the links'
// 42, no NaN and no infinity.
//
// It departs from JavaScript in three ways. Arrays and maps nest at most
// [MaxDepth] deep (JavaScript goes on until its stack is full). A link's CID
// must be in its own shortest form. And of text all byte order marks in front
// are dropped, of which JavaScript drops one each time it reads the text.
//
// # Members that JavaScript has not
//
// Decoding a map, JavaScript takes the member "__proto__" for the prototype of
// the object and loses it, so [Normalize] drops it, but refuses it if it is
// bytes or a link, which make something else of the object. JavaScript cannot
// encode a map whose members "/" and "bytes" are the same text, number or bool,
// which it mistakes for a CID: Normalize refuses it too. [CloseMap] refuses
// either.
//
// # Cost
//
// Checking an item takes one pass over its bytes and no memory, where it is canonical.
// Of maps whose keys do not ascend, [Reader.Raw] and Normalize sort the keys. Normalize
// writes what is not canonical anew, and moves what is in a map once for each map around
// it, at most [MaxDepth] times. A count or a length is never more than the bytes that
// are left, but an array of n items may have one byte for each.
package dagcbor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/ipfs/go-cid"
)

// MaxDepth is how deep arrays and maps of an item may nest.
const MaxDepth = 128

// ErrMalformed says that bytes are not what JavaScript's decoder takes, or not
// of the kind that was asked for.
var ErrMalformed = errors.New("malformed dag-cbor")

// Kind is what kind of thing an item is.
type Kind uint8

// Each item is of one of these kinds, Invalid is that of none.
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

// Reader reads items, one after the other. A read that fails leaves it where
// it was. Every error wraps [ErrMalformed].
//
// Counts and lengths are bounded by the bytes that are left, but for [Reader.Raw]
// the reads look at no more than they return: whoever reads a map member by
// member has to look for keys that are there twice.
type Reader struct {
	b   []byte
	pos int
}

// NewReader returns a reader of the items in b, which must not change meanwhile.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Kind returns the kind of the next item.
func (r *Reader) Kind() (Kind, error) {
	h, err := r.head()
	return h.kind(), err
}

// Map reads the start of a map of n members. Each is a text and an item.
func (r *Reader) Map() (n int, err error) {
	h, err := r.next(Map)
	return int(h.n), err
}

// Array reads the start of an array of n items.
func (r *Reader) Array() (n int, err error) {
	h, err := r.next(Array)
	return int(h.n), err
}

// Tuple reads the start of an array of just so many items.
func (r *Reader) Tuple(items int) error {
	start := r.pos
	n, err := r.Array()
	if err == nil && n != items {
		r.pos = start
		err = r.fault("an array of %d items, not of %d", n, items)
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

// TextBytes is [Reader.Text] without a copy: the bytes may be the reader's.
func (r *Reader) TextBytes() ([]byte, error) {
	b, err := r.content(Text)
	return clean(b), err
}

// Bytes reads a byte string. The bytes are the reader's, not a copy.
func (r *Reader) Bytes() ([]byte, error) { return r.content(Bytes) }

// Bool reads a bool.
func (r *Reader) Bool() (bool, error) {
	h, err := r.next(Bool)
	return h.info == infoTrue, err
}

// Null reads null, or undefined.
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
		return Number{}, r.fault("%s in the place of a number", kind)
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
		return cid.Undef, r.fault("link: %v", err)
	}
	return c, nil
}

// LinkBytes reads a link, and returns what should be the bytes of a CID.
func (r *Reader) LinkBytes() ([]byte, error) {
	start := r.pos
	_, err := r.next(Link)
	if err != nil {
		return nil, err
	}
	b, err := r.content(Bytes)
	if err == nil && (len(b) == 0 || b[0] != 0) {
		err = r.fault("a link that does not begin with 00")
	}
	if err != nil {
		r.pos = start
		return nil, err
	}
	return b[1:], nil
}

// Raw reads the next item of any kind, with all that is in it, and checks it.
// The bytes are the reader's, not a copy.
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

// Rest returns what is not read yet. The bytes are the reader's, not a copy.
func (r *Reader) Rest() []byte { return r.b[r.pos:] }

// End returns an error if there is more to read.
func (r *Reader) End() error {
	if r.pos < len(r.b) {
		return r.fault("more than one item")
	}
	return nil
}

// Number is an integer or a float.
type Number struct {
	Kind Kind   // Uint, NegInt or Float
	Bits uint64 // n of the integers n and -1-n, the IEEE 754 bits of a float
}

// Float64 returns the float, or the one nearest to the integer.
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

// Int64 returns the number if it is integral, an integer or a float, and has
// room in an int64.
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

	maxSafe = 1<<53 - 1 // the largest integer that JavaScript's numbers tell from its neighbours
)

// head is the start of an item: what it is, and its number, length or count.
type head struct {
	major, info byte
	n           uint64 // of a float, its bits
	end         int    // the position behind the head
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
		return math.NaN() // or infinite, neither is taken
	default:
		v = math.Ldexp(fraction+0x400, exponent-25)
	}
	if bits&0x8000 != 0 {
		v = -v
	}
	return v
}

// head reads the head of the next item, and stays in front of it.
func (r *Reader) head() (head, error) {
	if r.pos >= len(r.b) {
		return head{}, r.fault("an item is missing")
	}
	first, rest := r.b[r.pos], r.b[r.pos+1:]
	h := head{major: first >> 5, info: first & 31, end: r.pos + 1}
	h.n = uint64(h.info)
	if h.info >= 24 {
		if h.info > 27 {
			return head{}, r.fault("an indefinite length, or an unknown head %02x", first)
		}
		size := 1 << (h.info - 24)
		if len(rest) < size {
			return head{}, r.fault("an item is cut off")
		}
		var least uint64 // that needs this size
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
			return head{}, r.fault("a number in more bytes than necessary")
		}
		h.end += size
		rest = rest[size:]
	}
	left := uint64(len(rest))
	switch h.major {
	case 2, 3, 4:
		if h.n > left {
			return head{}, r.fault("%s of length %d, with %d bytes left", h.kind(), h.n, left)
		}
	case 5:
		if h.n > left/2 {
			return head{}, r.fault("%s of length %d, with %d bytes left", h.kind(), h.n, left)
		}
	case 6:
		if h.n != tagLink {
			return head{}, r.fault("tag %d", h.n)
		}
	case 7:
		if h.info < 20 || h.info == 24 {
			return head{}, r.fault("a simple value")
		}
		if h.info >= infoFloat16 {
			if v := h.float(); v-v != 0 {
				return head{}, r.fault("a float that is not finite")
			}
		}
	}
	return h, nil
}

// next reads the head of an item of a kind.
func (r *Reader) next(kind Kind) (head, error) {
	h, err := r.head()
	if err != nil {
		return head{}, err
	}
	if k := h.kind(); k != kind {
		return head{}, r.fault("%s in the place of %s", k, kind)
	}
	r.pos = h.end
	return h, nil
}

// content reads a text or byte string.
func (r *Reader) content(kind Kind) ([]byte, error) {
	h, err := r.next(kind)
	if err != nil {
		return nil, err
	}
	r.pos = h.end + int(h.n)
	return r.b[h.end:r.pos:r.pos], nil
}

func (r *Reader) fault(format string, args ...any) error {
	return fmt.Errorf("%w at byte %d: %s", ErrMalformed, r.pos, fmt.Sprintf(format, args...))
}
