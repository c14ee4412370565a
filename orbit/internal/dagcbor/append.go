package dagcbor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ipfs/go-cid"
)

// ErrUnencodable is returned for data that JavaScript cannot encode, or cannot
// decode again.
var ErrUnencodable = errors.New("not encodable as dag-cbor")

// AppendMap appends the head of a map of n members. The caller appends the
// members, each a text and an item, in the order of canonical items. [OpenMap]
// and [CloseMap] accept members in any order.
func AppendMap(b []byte, n int) []byte { return appendHead(b, 5, uint64(n)) }

// AppendArray appends the head of an array of n items.
func AppendArray(b []byte, n int) []byte { return appendHead(b, 4, uint64(n)) }

// AppendText appends a text as JavaScript reads it: without byte order marks at
// its start, and with U+FFFD for each malformed UTF-8 sequence.
func AppendText(b []byte, s string) []byte {
	if !isClean(s) {
		return appendClean(b, clean([]byte(s)))
	}
	b = appendHead(b, 3, uint64(len(s)))
	return append(b, s...)
}

func appendClean(b, text []byte) []byte {
	b = appendHead(b, 3, uint64(len(text)))
	return append(b, text...)
}

// AppendBytes appends a byte string.
func AppendBytes(b, data []byte) []byte {
	b = appendHead(b, 2, uint64(len(data)))
	return append(b, data...)
}

// AppendUint appends an integer.
func AppendUint(b []byte, n uint64) []byte { return appendHead(b, 0, n) }

// AppendNegInt appends the integer -1-n.
func AppendNegInt(b []byte, n uint64) []byte { return appendHead(b, 1, n) }

// AppendInt appends an integer.
func AppendInt(b []byte, n int64) []byte {
	if n < 0 {
		return AppendNegInt(b, uint64(-1-n))
	}
	return AppendUint(b, uint64(n))
}

// AppendFloat appends a number as JavaScript does: as an integer if it is
// integral and at most 2^53-1 in magnitude, otherwise as a float of 64 bits. It
// returns [ErrUnencodable] if v is not finite.
func AppendFloat(b []byte, v float64) ([]byte, error) {
	if v-v != 0 {
		return nil, fmt.Errorf("%w: the number %v", ErrUnencodable, v)
	}
	if isInt(v) {
		return AppendInt(b, int64(v)), nil
	}
	return binary.BigEndian.AppendUint64(append(b, 7<<5|infoFloat64), math.Float64bits(v)), nil
}

// isInt reports whether JavaScript encodes v as an integer.
func isInt(v float64) bool { return v == math.Trunc(v) && math.Abs(v) <= maxSafe }

// AppendBool appends a bool.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 7<<5|infoTrue)
	}
	return append(b, 7<<5|infoTrue-1)
}

// AppendNull appends null.
func AppendNull(b []byte) []byte { return append(b, 7<<5|infoNull) }

// AppendLink appends a link. It returns [ErrUnencodable] if c is undefined, or
// if its codec exceeds JavaScript's safe integers.
func AppendLink(b []byte, c cid.Cid) ([]byte, error) {
	if !c.Defined() || c.Type() > maxSafe {
		return nil, fmt.Errorf("%w: a link without a valid CID", ErrUnencodable)
	}
	b = appendHead(b, 6, tagLink)
	b = appendHead(b, 2, uint64(1+c.ByteLen()))
	return append(append(b, 0), c.KeyString()...), nil
}

// OpenMap begins a map of members in any order. The caller appends the members,
// each a text and an item, and then calls [CloseMap].
func OpenMap(b []byte) []byte { return append(b, 0) }

// CloseMap completes the map that [OpenMap] began when len(b) was open. members
// are the ascending offsets of the members in b. CloseMap returns
// [ErrUnencodable] if two members have the same key, or if JavaScript lacks
// such a map.
func CloseMap(b []byte, open int, members []int) ([]byte, error) {
	sorted := true
	for i := 1; i < len(members) && sorted; i++ {
		// The head of a key encodes its length, so a longer key has a
		// larger head.
		sorted = bytes.Compare(keyAt(b, members[i-1]), keyAt(b, members[i])) < 0
	}
	if !sorted {
		var err error
		if b, err = sortMembers(b, members); err != nil {
			return nil, err
		}
	}
	if err := checkMembers(b, members); err != nil {
		return nil, err
	}
	var buf [9]byte
	return slices.Replace(b, open, open+1, AppendMap(buf[:0], len(members))...), nil
}

// sortMembers sorts the members, which end b, and updates their offsets.
func sortMembers(b []byte, members []int) ([]byte, error) {
	type member struct{ key, all []byte }
	order := make([]member, len(members))
	end := len(b)
	for i, at := range slices.Backward(members) {
		order[i] = member{keyAt(b, at), b[at:end]}
		end = at
	}
	slices.SortFunc(order, func(x, y member) int { return bytes.Compare(x.key, y.key) })
	for i := 1; i < len(order); i++ {
		if bytes.Equal(order[i-1].key, order[i].key) {
			text, _ := NewReader(order[i].key).TextBytes()
			return nil, fmt.Errorf("%w: duplicate key %.40q", ErrUnencodable, text)
		}
	}
	tmp := make([]byte, 0, len(b)-end)
	for i, m := range order {
		members[i] = end + len(tmp)
		tmp = append(tmp, m.all...)
	}
	copy(b[end:], tmp)
	return b, nil
}

// checkMembers rejects the members that JavaScript lacks.
func checkMembers(b []byte, members []int) error {
	var slash []byte
	for i, at := range members {
		end := len(b)
		if i+1 < len(members) {
			end = members[i+1]
		}
		key := keyAt(b, at)
		item := b[at+len(key) : end]
		switch string(key[1:]) {
		case lostKey:
			return fmt.Errorf("%w: JavaScript loses the key %q", ErrUnencodable, lostKey)
		case slashKey:
			slash = item
		case bytesKey:
			if slash != nil && confused(slash, item) {
				return fmt.Errorf("%w: the keys %q and %q have the same value, which is a CID to JavaScript", ErrUnencodable, slashKey, bytesKey)
			}
		}
	}
	return nil
}

// keyAt returns the key at an offset of b, including its head.
func keyAt(b []byte, at int) []byte {
	r := Reader{b: b, pos: at}
	h, err := r.next(Text)
	if err != nil {
		panic(fmt.Sprintf("dagcbor: a member begins with no text: %v", err))
	}
	return b[at : h.end+int(h.n)]
}

func appendHead(b []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, major|27), n)
	}
}
