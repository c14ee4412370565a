package entry

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/orbit/value/dagcbor"
)

// field is a bit for each field of an entry.
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
			return fmt.Errorf("%q is there twice", name)
		}
		seen |= f
	}
	if err := r.End(); err != nil {
		return err
	}
	if seen != allFields {
		return errors.New("a field is missing")
	}
	if e.fault == "" && !bytes.Equal(e.encode(), data) {
		e.fault = "it is not encoded as OrbitDB does"
	}
	return nil
}

// isByteString reports whether data is one byte string, which is not empty, and
// no larger than a block may be.
func isByteString(data []byte) bool {
	r := dagcbor.NewReader(data)
	content, err := r.Bytes()
	return err == nil && len(content) > 0 && r.End() == nil && len(data) <= block.MaxSize
}

// decodeField reads the field of a name. Of a field that is none it returns 0.
func (e *Entry) decodeField(r *dagcbor.Reader, name string) (field, error) {
	var err error
	switch name {
	case "v":
		var version []byte
		if version, err = e.item(r); err == nil && !bytes.Equal(version, []byte{Version}) {
			e.fault = "its version is not known"
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
			// JavaScript goes by what the CID is of, whatever its text.
			e.fault, e.Identity = "its identity is no hash", ""
		}
		return fieldIdentity, err
	}
	e.fault = fmt.Sprintf("it has a field %.40q, which is not signed", name)
	_, err = e.item(r)
	return 0, err
}

// item reads the next item of any kind. It is nil, and the entry has a fault,
// if it is no value but JavaScript takes it: nested deeper than values are, or
// with a CID that is written longer than need be.
func (e *Entry) item(r *dagcbor.Reader) ([]byte, error) {
	raw, err := r.Raw()
	if err != nil && skip(r) == nil {
		e.fault = "it has an item that is no value: " + err.Error()
		return nil, nil
	}
	return raw, err
}

// skip reads the next item of any kind, as JavaScript does where values are
// narrower.
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
				err = errors.New("no CID")
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

// looseCID reports whether JavaScript takes bytes for a CID: it does not mind
// how long its numbers are written.
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
	case 0x12: // an old CID is a multihash, and this its function
	default:
		return false
	}
	return number() == float64(len(b))
}

// text reads one of the texts that are not signed. JavaScript makes a text of
// anything there, so another kind of item is a fault.
func (e *Entry) text(r *dagcbor.Reader, name string) (string, error) {
	if kind, err := r.Kind(); err != nil || kind == dagcbor.Text {
		text, _ := r.Text()
		return text, err
	}
	e.fault = "its " + name + " is no text"
	_, err := e.item(r)
	return "", err
}

// decodeClock reads the clock. JavaScript takes anything for one.
func (e *Entry) decodeClock(r *dagcbor.Reader) error {
	raw, err := e.item(r)
	if err != nil {
		return err
	}
	c := dagcbor.NewReader(raw)
	n, err := c.Map()
	if err != nil || n != 2 {
		e.fault = "its clock is none"
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
			e.fault = "its clock is none: " + err.Error()
			e.Clock = Clock{}
			return nil
		}
	}
	return nil
}

// hashes reads a list of hashes. JavaScript also takes an empty text or empty
// bytes for one, of none.
func (e *Entry) hashes(r *dagcbor.Reader, name string) ([]string, error) {
	n, err := r.Array()
	if err != nil {
		if !empty(r) {
			return nil, err
		}
		e.fault = "its " + name + " is no list"
	}
	if n > len(r.Rest())/(block.HashLen+2) { // before there is memory for so many
		return nil, fmt.Errorf("%d items in %d bytes are not all hashes", n, len(r.Rest()))
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

// empty reads a text or bytes, and reports whether they are empty.
func empty(r *dagcbor.Reader) bool {
	b, err := r.TextBytes()
	if err != nil {
		b, err = r.Bytes()
	}
	return err == nil && len(b) == 0
}

// readTime reads a time: a number that is not negative, and no BigInt, with
// which JavaScript's clocks do not calculate.
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
