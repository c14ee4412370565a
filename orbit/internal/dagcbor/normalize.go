package dagcbor

import "fmt"

// Normalize returns the canonical item that JavaScript produces when it decodes
// an item and encodes the result. A canonical item is returned as it is, not
// copied. Normalize returns [ErrMalformed] if JavaScript does not decode the
// item, and [ErrUnencodable] if it does not encode the result.
func Normalize(item []byte) ([]byte, error) {
	r := NewReader(item)
	found, err := r.scan(0)
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, err
	}
	if found == 0 {
		return item, nil
	}
	r.pos = 0
	if found&unsorted != 0 {
		if err := r.distinct(); err != nil {
			return nil, err
		}
		r.pos = 0
	}
	return r.rewrite(make([]byte, 0, len(item)+16))
}

// Canonical reports whether an item is canonical.
func Canonical(item []byte) bool {
	r := NewReader(item)
	found, err := r.scan(0)
	return err == nil && found == 0 && r.End() == nil
}

// rewrite reads an item that passed scan, and appends its canonical form.
func (r *Reader) rewrite(b []byte) ([]byte, error) {
	kind, err := r.Kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case Null:
		return AppendNull(b), r.Null()
	case Float:
		n, err := r.Number()
		if err != nil {
			return nil, err
		}
		return AppendFloat(b, n.Float64())
	case Text:
		text, err := r.TextBytes()
		return appendClean(b, text), err
	case Array:
		n, err := r.Array()
		b = AppendArray(b, n)
		for i := 0; i < n && err == nil; i++ {
			b, err = r.rewrite(b)
		}
		return b, err
	case Map:
		return r.rewriteMap(b)
	default:
		start := r.pos
		_, err := r.scan(0)
		return append(b, r.b[start:r.pos]...), err
	}
}

func (r *Reader) rewriteMap(b []byte) ([]byte, error) {
	n, err := r.Map()
	if err != nil {
		return nil, err
	}
	open := len(b)
	b = OpenMap(b)
	var buf [16]int
	members := buf[:0]
	for range n {
		key, err := r.TextBytes()
		if err != nil {
			return nil, err
		}
		if string(key) == lostKey {
			if err := r.lose(); err != nil {
				return nil, err
			}
			continue
		}
		members = append(members, len(b))
		b = appendClean(b, key)
		if b, err = r.rewrite(b); err != nil {
			return nil, err
		}
	}
	return CloseMap(b, open, members)
}

// lose reads the item of a key that JavaScript loses.
func (r *Reader) lose() error {
	if kind, _ := r.Kind(); kind == Bytes || kind == Link {
		return fmt.Errorf("%w: key %q with %s", ErrUnencodable, lostKey, kind)
	}
	_, err := r.scan(0)
	return err
}
