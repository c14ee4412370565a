package dagcbor

import (
	"bytes"
	"slices"
	"unicode/utf8"
)

// findings are what scan finds out about a well-formed item.
type findings uint8

const (
	changed  findings = 1 << iota // the item is not canonical
	unsorted                      // a map may have duplicate keys
)

// scan reads and checks the next item with its contents.
func (r *Reader) scan(depth int) (findings, error) {
	h, err := r.head()
	if err != nil {
		return 0, err
	}
	switch h.kind() {
	case Bytes:
		r.pos = h.end + int(h.n)
		return 0, nil
	case Text:
		r.pos = h.end + int(h.n)
		if !isClean(r.b[h.end:r.pos]) {
			return changed, nil
		}
		return 0, nil
	case Array:
		return r.scanArray(h, depth)
	case Map:
		return r.scanMap(h, depth)
	case Link:
		_, err := r.Link()
		return 0, err
	case Float:
		r.pos = h.end
		if h.info != infoFloat64 || isInt(h.float()) {
			return changed, nil
		}
		return 0, nil
	case Null:
		r.pos = h.end
		if h.info != infoNull {
			return changed, nil
		}
		return 0, nil
	default:
		r.pos = h.end
		return 0, nil
	}
}

func (r *Reader) scanArray(h head, depth int) (found findings, err error) {
	if depth == MaxDepth {
		return 0, r.malformed("nested more than %d deep", MaxDepth)
	}
	r.pos = h.end
	for range h.n {
		f, err := r.scan(depth + 1)
		if err != nil {
			return 0, err
		}
		found |= f
	}
	return found, nil
}

func (r *Reader) scanMap(h head, depth int) (found findings, err error) {
	if depth == MaxDepth {
		return 0, r.malformed("nested more than %d deep", MaxDepth)
	}
	r.pos = h.end
	var last, slash []byte
	for i := range h.n {
		key, err := r.content(Text)
		if err != nil {
			return 0, err
		}
		if i > 0 && !less(last, key) || !isClean(key) || string(key) == lostKey {
			found |= changed | unsorted
		}
		last = key
		start := r.pos
		f, err := r.scan(depth + 1)
		if err != nil {
			return 0, err
		}
		found |= f
		switch string(key) {
		case slashKey:
			slash = r.b[start:r.pos]
		case bytesKey:
			if slash != nil && confused(slash, r.b[start:r.pos]) {
				found |= changed
			}
		}
	}
	return found, nil
}

// distinct reads an item that passed scan, and checks its maps for keys that
// are equal in JavaScript.
func (r *Reader) distinct() error {
	h, err := r.head()
	if err != nil {
		return err
	}
	switch h.kind() {
	case Array:
		r.pos = h.end
		for range h.n {
			if err := r.distinct(); err != nil {
				return err
			}
		}
	case Map:
		start := r.pos
		r.pos = h.end
		var buf [16][]byte
		keys := buf[:0]
		for range h.n {
			key, err := r.TextBytes()
			if err != nil {
				return err
			}
			if string(key) != lostKey {
				keys = append(keys, key)
			}
			if err := r.distinct(); err != nil {
				return err
			}
		}
		slices.SortFunc(keys, bytes.Compare)
		for i := 1; i < len(keys); i++ {
			if bytes.Equal(keys[i-1], keys[i]) {
				r.pos = start
				return r.malformed("duplicate key %.40q", keys[i])
			}
		}
	default:
		_, err = r.scan(0)
	}
	return err
}

// less reports whether a precedes b among the keys of a map.
func less(a, b []byte) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return bytes.Compare(a, b) < 0
}

const (
	lostKey  = "__proto__"
	slashKey = "/"
	bytesKey = "bytes"
)

// confused reports whether JavaScript mistakes a map with these members "/" and
// "bytes" for a CID: whether its operator === holds for them.
func confused(slash, data []byte) bool {
	if !bytes.Equal(slash, data) {
		return false
	}
	switch kind, _ := NewReader(slash).Kind(); kind {
	case Uint, NegInt, Float, Text, Bool:
		return true
	}
	return false
}

const mark = "\ufeff" // the byte order mark

// isClean reports whether JavaScript reads a text unchanged.
func isClean[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return !hasMark(s) && valid(s)
		}
	}
	return true
}

func hasMark[T string | []byte](s T) bool {
	return len(s) >= len(mark) && string(s[:len(mark)]) == mark
}

func valid[T string | []byte](s T) bool {
	switch s := any(s).(type) {
	case string:
		return utf8.ValidString(s)
	case []byte:
		return utf8.Valid(s)
	}
	return false
}

// clean returns a text as JavaScript reads it. It returns s itself if s is
// clean.
func clean(s []byte) []byte {
	if isClean(s) {
		return s
	}
	for hasMark(s) {
		s = s[len(mark):]
	}
	if utf8.Valid(s) {
		return s
	}
	out := make([]byte, 0, len(s)+8)
	for len(s) > 0 {
		_, n := utf8.DecodeRune(s)
		if n > 1 || s[0] < utf8.RuneSelf {
			out = append(out, s[:n]...)
		} else {
			out = utf8.AppendRune(out, utf8.RuneError)
			n = malformed(s)
		}
		s = s[n:]
	}
	return out
}

// malformed returns the number of bytes at the start of s, where no character
// begins, that become one U+FFFD: a truncated character, or one byte.
func malformed(s []byte) int {
	more, low, high := 0, byte(0x80), byte(0xbf) // of the second byte
	switch lead := s[0]; {
	case lead >= 0xc2 && lead <= 0xdf:
		more = 1
	case lead >= 0xe0 && lead <= 0xef:
		more = 2
		if lead == 0xe0 {
			low = 0xa0
		} else if lead == 0xed {
			high = 0x9f
		}
	case lead >= 0xf0 && lead <= 0xf4:
		more = 3
		if lead == 0xf0 {
			low = 0x90
		} else if lead == 0xf4 {
			high = 0x8f
		}
	}
	n := 1
	for n <= more && n < len(s) && low <= s[n] && s[n] <= high {
		n++
		low, high = 0x80, 0xbf
	}
	return n
}
