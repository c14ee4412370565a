package sheet

import (
	"bufio"
	"compress/zlib"
	"io"
)

// unpack returns a reader of the stream of an object that l has just read. It
// supports streams without a filter, and FlateDecode with or without PNG
// predictors, which suffices for cross-reference streams and object streams. It
// ignores /Length.
func (p *pdf) unpack(v any, l *lexer) (*bufio.Reader, error) {
	d, ok := v.(dict)
	if !ok {
		return nil, errPDF
	}
	if word, err := l.value(0); err != nil || word != keyword("stream") {
		return nil, errPDF
	}
	if c, err := l.next(); err != nil || c == '\r' {
		if c, err = l.next(); err == nil && c != '\n' {
			l.back()
		}
	}
	filter, parms := soleMember(d["Filter"]), soleMember(d["DecodeParms"])
	if filter == nil {
		return bufio.NewReader(&limited{l.r, &p.left}), nil
	}
	if filter != name("FlateDecode") {
		return nil, errPDF
	}
	z, err := zlib.NewReader(l.r)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(&limited{z, &p.left})
	d, _ = parms.(dict)
	predictor, _ := d["Predictor"].(int64)
	if predictor <= 1 {
		return r, nil
	}
	columns, _ := d["Columns"].(int64)
	if predictor < 10 || columns < 1 || columns > 64 || d["Colors"] != nil && d["Colors"] != int64(1) ||
		d["BitsPerComponent"] != nil && d["BitsPerComponent"] != int64(8) {
		return nil, errPDF
	}
	return bufio.NewReader(&pngRows{r: r, row: make([]byte, columns)}), nil
}

// soleMember returns the element of an array that has one. It returns any other
// value unchanged.
func soleMember(v any) any {
	if a, ok := v.([]any); ok && len(a) == 1 {
		return a[0]
	}
	return v
}

// limited is a reader that fails once the limit is used up.
type limited struct {
	r    io.Reader
	left *int64
}

func (c *limited) Read(b []byte) (int, error) {
	if *c.left <= 0 {
		return 0, errTooMuch
	}
	n, err := c.r.Read(b[:min(int64(len(b)), *c.left)])
	*c.left -= int64(n)
	return n, err
}

// pngRows reverses PNG predictors. The first byte of each row is its filter
// type.
type pngRows struct {
	r    *bufio.Reader
	row  []byte
	rest []byte // unread part of row
}

func (r *pngRows) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		how, err := r.r.ReadByte()
		if err != nil {
			return 0, err
		}
		var left, corner byte
		for i := range r.row {
			c, err := r.r.ReadByte()
			if err != nil {
				return 0, err
			}
			up := r.row[i]
			switch how {
			case 0:
			case 1:
				c += left
			case 2:
				c += up
			case 3:
				c += byte((int(left) + int(up)) / 2)
			case 4:
				c += paeth(left, up, corner)
			default:
				return 0, errPDF
			}
			r.row[i], left, corner = c, c, up
		}
		r.rest = r.row
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// paeth is the Paeth predictor of PNG: it returns the neighbour that is nearest
// to left + up - corner.
func paeth(left, up, corner byte) byte {
	distance := func(a, b byte) int { return max(int(a)-int(b), int(b)-int(a)) }
	toLeft, toUp := distance(up, corner), distance(left, corner)
	toCorner := int(left) + int(up) - 2*int(corner)
	toCorner = max(toCorner, -toCorner)
	switch {
	case toLeft <= toUp && toLeft <= toCorner:
		return left
	case toUp <= toCorner:
		return up
	}
	return corner
}
