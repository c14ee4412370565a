package entry

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/value"
)

// field is a set of fields of an entry, a bit for each.
type field int

const (
	fieldV field = 1 << iota
	fieldID
	fieldKey
	fieldSig
	fieldNext
	fieldRefs
	fieldClock
	fieldPayload
	fieldIdentity

	allFields = 1<<iota - 1
)

func (e *Entry) decode() error {
	data := e.Block.Data
	if len(data) > block.MaxSize {
		return fmt.Errorf("%d bytes are more than %d", len(data), block.MaxSize)
	}
	r := dagcbor.NewReader(data)
	n, err := r.Map()
	if err != nil {
		return err
	}
	var seen field
	for range n {
		name, err := r.Text()
		if err != nil {
			return err
		}
		f, err := e.decodeField(r, name)
		if err != nil {
			return fmt.Errorf("%.40q: %w", name, err)
		}
		if f != 0 && seen&f != 0 {
			return fmt.Errorf("duplicate field %q", name)
		}
		seen |= f
	}
	if err := r.End(); err != nil {
		return err
	}
	if seen != allFields {
		return errors.New("a field is missing")
	}
	if e.invalid == "" && !bytes.Equal(e.encode(), data) {
		e.invalid = "it is not encoded as OrbitDB encodes it"
	}
	return nil
}

// isByteString reports whether data is one non-empty byte string, and no larger
// than a block may be.
func isByteString(data []byte) bool {
	r := dagcbor.NewReader(data)
	content, err := r.Bytes()
	return err == nil && len(content) > 0 && r.End() == nil && len(data) <= block.MaxSize
}

// decodeField reads the field with the given name. For an unknown name it
// returns 0.
func (e *Entry) decodeField(r *dagcbor.Reader, name string) (field, error) {
	var err error
	switch name {
	case "v":
		var version []byte
		if version, err = e.item(r); err == nil && !bytes.Equal(version, []byte{Version}) {
			e.invalid = "its version is unknown"
		}
		return fieldV, err
	case "id":
		e.LogID, err = r.Text()
		return fieldID, err
	case "key":
		e.Key, err = e.text(r, name)
		return fieldKey, err
	case "sig":
		e.Sig, err = e.text(r, name)
		return fieldSig, err
	case "next":
		e.Next, err = e.hashes(r, name)
		return fieldNext, err
	case "refs":
		e.Refs, err = e.hashes(r, name)
		return fieldRefs, err
	case "clock":
		return fieldClock, e.decodeClock(r)
	case "payload":
		var raw []byte
		if raw, err = e.item(r); err == nil && raw != nil {
			e.Payload, err = value.FromCBOR(raw)
		}
		return fieldPayload, err
	case "identity":
		e.Identity, err = e.text(r, name)
		if !block.ValidHash(e.Identity) {
			// JavaScript uses the CID, whatever its text.
			e.invalid, e.Identity = "its identity is not a CID", ""
		}
		return fieldIdentity, err
	}
	e.invalid = fmt.Sprintf("it has a field %.40q, which is not signed", name)
	_, err = e.item(r)
	return 0, err
}

// item reads the next item of any kind. If the item is not a value but
// JavaScript accepts it, because it is nested deeper than a value may be or has
// a CID that is not in its shortest form, item returns nil and the entry is
// invalid.
func (e *Entry) item(r *dagcbor.Reader) ([]byte, error) {
	raw, err := r.Raw()
	if err != nil && skip(r) == nil {
		e.invalid = "it has an item that is not a value: " + err.Error()
		return nil, nil
	}
	return raw, err
}

// skip reads the next item of any kind, including those that JavaScript accepts
// and that are not values.
func skip(r *dagcbor.Reader) error {
	for left := 1; left > 0; left-- {
		kind, err := r.Kind()
		n := 0
		switch {
		case err != nil:
		case kind == dagcbor.Array:
			n, err = r.Array()
		case kind == dagcbor.Map:
			n, err = r.Map()
			n *= 2
		case kind == dagcbor.Link:
			var b []byte
			if b, err = r.LinkBytes(); err == nil && !looseCID(b) {
				err = errors.New("not a CID")
			}
		default:
			_, err = r.Raw()
		}
		if err != nil {
			return err
		}
		left += n
	}
	return nil
}

// looseCID reports whether JavaScript accepts bytes as a CID: its numbers need
// not be in their shortest form.
func looseCID(b []byte) bool {
	number := func() (n float64) {
		for scale := 1.0; len(b) > 0; scale *= 128 {
			digit := b[0]
			b = b[1:]
			if n += float64(digit&0x7f) * scale; digit < 0x80 {
				return n
			}
		}
		return -1
	}
	switch number() { // version
	case 0, 1:
		number() // codec
		number() // hash function
	case 0x12: // a CID of version 0 is a multihash, which begins with this function
	default:
		return false
	}
	return number() == float64(len(b))
}

// text reads one of the texts that are not signed. JavaScript converts an item
// of any kind to a text there; here the entry is invalid.
func (e *Entry) text(r *dagcbor.Reader, name string) (string, error) {
	if kind, err := r.Kind(); err != nil || kind == dagcbor.Text {
		text, _ := r.Text()
		return text, err
	}
	e.invalid = "its " + name + " is not a text"
	_, err := e.item(r)
	return "", err
}

// decodeClock reads the clock. JavaScript accepts an item of any kind.
func (e *Entry) decodeClock(r *dagcbor.Reader) error {
	raw, err := e.item(r)
	if err != nil {
		return err
	}
	c := dagcbor.NewReader(raw)
	n, err := c.Map()
	if err != nil || n != 2 {
		e.invalid = "its clock is malformed"
		return nil
	}
	for range n {
		name, err := c.Text()
		if err != nil {
			return err
		}
		switch name {
		case "id":
			e.Clock.ID, err = c.Text()
		case "time":
			e.Clock.Time, err = readTime(c)
		default:
			err = fmt.Errorf("unknown field %.40q", name)
		}
		if err != nil {
			e.invalid = "its clock is malformed: " + err.Error()
			e.Clock = Clock{}
			return nil
		}
	}
	return nil
}

// hashes reads a list of CIDs. JavaScript accepts an empty text or empty bytes
// as an empty list.
func (e *Entry) hashes(r *dagcbor.Reader, name string) ([]string, error) {
	n, err := r.Array()
	if err != nil {
		if !empty(r) {
			return nil, err
		}
		e.invalid = "its " + name + " is not a list"
	}
	if n > len(r.Rest())/(block.HashLen+2) { // checked before the allocation
		return nil, fmt.Errorf("%d items in %d bytes cannot all be CIDs", n, len(r.Rest()))
	}
	hashes := make([]string, n)
	for i := range hashes {
		if hashes[i], err = r.Text(); err != nil {
			return nil, err
		}
		if !block.ValidHash(hashes[i]) {
			return nil, fmt.Errorf("%w: %.80q", block.ErrInvalidHash, hashes[i])
		}
	}
	return hashes, nil
}

// empty reads a text or bytes and reports whether they are empty.
func empty(r *dagcbor.Reader) bool {
	b, err := r.TextBytes()
	if err != nil {
		b, err = r.Bytes()
	}
	return err == nil && len(b) == 0
}

// readTime reads a time: a number that is neither negative nor a BigInt, with
// which JavaScript's clocks cannot calculate.
func readTime(r *dagcbor.Reader) (float64, error) {
	n, err := r.Number()
	if err != nil {
		return 0, err
	}
	t := n.Float64()
	if t < 0 || n.Kind == dagcbor.Uint && n.Bits > 1<<53-1 {
		return 0, errors.New("its time is negative or a BigInt")
	}
	return t, nil
}
