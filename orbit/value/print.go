package value

import (
	"encoding/base64"
	"errors"
	"math"
	"strconv"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// MarshalJSON returns v as compact DAG-JSON, with the members of maps in the
// order of the canonical item. If v is nil, it returns null. [FromJSON]
// restores v from it, with one exception: a map in the form of a link or bytes,
// such as {"/":"text"}, is written unchanged, so that one such map does not
// make the surrounding ones unreadable.
func (v Value) MarshalJSON() ([]byte, error) {
	if v == nil {
		return []byte("null"), nil
	}
	r, err := v.reader()
	if err != nil {
		return nil, err
	}
	return printItem(make([]byte, 0, len(v)+len(v)/4+16), r)
}

// String returns the JSON of v.
func (v Value) String() string {
	b, err := v.MarshalJSON()
	if err != nil {
		return "!(" + err.Error() + ")"
	}
	return string(b)
}

func printItem(b []byte, r *dagcbor.Reader) ([]byte, error) {
	kind, err := r.Kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case dagcbor.Null:
		return append(b, "null"...), r.Null()
	case dagcbor.Bool:
		v, err := r.Bool()
		return strconv.AppendBool(b, v), err
	case dagcbor.Uint, dagcbor.NegInt, dagcbor.Float:
		n, err := r.Number()
		return printJSONNumber(b, n), err
	case dagcbor.Text:
		text, err := r.TextBytes()
		return printText(b, text), err
	case dagcbor.Bytes:
		data, err := r.Bytes()
		b = append(b, `{"/":{"bytes":"`...)
		b = base64.RawStdEncoding.AppendEncode(b, data)
		return append(b, `"}}`...), err
	case dagcbor.Link:
		c, err := r.Link()
		if err != nil {
			return nil, err
		}
		b = append(b, `{"/":"`...)
		b = append(b, c.String()...)
		return append(b, `"}`...), nil
	case dagcbor.Array:
		n, err := r.Array()
		b = append(b, '[')
		for i := 0; i < n && err == nil; i++ {
			if i > 0 {
				b = append(b, ',')
			}
			b, err = printItem(b, r)
		}
		return append(b, ']'), err
	case dagcbor.Map:
		n, err := r.Map()
		b = append(b, '{')
		for i := 0; i < n && err == nil; i++ {
			if i > 0 {
				b = append(b, ',')
			}
			var key []byte
			if key, err = r.TextBytes(); err == nil {
				b = append(printText(b, key), ':')
				b, err = printItem(b, r)
			}
		}
		return append(b, '}'), err
	}
	return nil, errors.New("unknown kind")
}

const hexDigits = "0123456789abcdef"

// printText appends a UTF-8 text as JSON.
func printText(b, text []byte) []byte {
	b = append(b, '"')
	from := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, text[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	b = append(b, text[from:]...)
	return append(b, '"')
}

// printJSONNumber appends a number such that a float is parsed as a float.
func printJSONNumber(b []byte, n dagcbor.Number) []byte {
	start := len(b)
	b = printNumber(b, n)
	if n.Kind == dagcbor.Float {
		for _, c := range b[start:] {
			if c == '.' || c == 'e' {
				return b
			}
		}
		b = append(b, ".0"...)
	}
	return b
}

// printNumber appends a number as JavaScript's String() does.
func printNumber(b []byte, n dagcbor.Number) []byte {
	switch n.Kind {
	case dagcbor.Uint:
		return strconv.AppendUint(b, n.Bits, 10)
	case dagcbor.NegInt:
		if n.Bits == math.MaxUint64 {
			return append(b, "-18446744073709551616"...)
		}
		return strconv.AppendUint(append(b, '-'), n.Bits+1, 10)
	}
	v := n.Float64()
	if v == 0 {
		return append(b, '0')
	}
	if v < 0 {
		b, v = append(b, '-'), -v
	}
	// The digits, and the position of the decimal point in them.
	var buf [32]byte
	digits, point := split(strconv.AppendFloat(buf[:0], v, 'e', -1, 64))
	switch k := len(digits); {
	case point > 21 || point <= -6:
		b = append(b, digits[0])
		if k > 1 {
			b = append(append(b, '.'), digits[1:]...)
		}
		b = append(b, 'e')
		if point > 0 {
			b = append(b, '+')
		}
		return strconv.AppendInt(b, int64(point-1), 10)
	case point <= 0:
		return append(appendZeros(append(b, "0."...), -point), digits...)
	case k <= point:
		return appendZeros(append(b, digits...), point-k)
	default:
		b = append(b, digits[:point]...)
		return append(append(b, '.'), digits[point:]...)
	}
}

// split splits a number like "1.25e+06" into its digits and the position of the
// decimal point.
func split(text []byte) (digits []byte, point int) {
	digits = text[:1]
	for i, c := range text {
		switch {
		case c == 'e':
			exponent, _ := strconv.Atoi(string(text[i+1:]))
			return digits, exponent + 1
		case i > 0 && c != '.':
			digits = append(digits, c)
		}
	}
	return digits, 1
}

func appendZeros(b []byte, n int) []byte {
	for range n {
		b = append(b, '0')
	}
	return b
}
