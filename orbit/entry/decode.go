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

// decodeField reads the field of a name. Of a field that is none it returns 0.
func (e *Entry) decodeField(r *dagcbor.Reader, name string) (field, error) {
	var err error
	switch name {
	case "v":
		var version []byte
		if version, err = r.Raw(); err == nil && !bytes.Equal(version, []byte{Version}) {
			e.fault = "its version is not known"
		}
		return fieldV, err
	case "id":
		e.LogID, err = r.Text()
		return fieldID, err
	case "key":
		e.Key, err = r.Text()
		return fieldKey, err
	case "sig":
		e.Sig, err = r.Text()
		return fieldSig, err
	case "next":
		e.Next, err = readHashes(r)
		return fieldNext, err
	case "refs":
		e.Refs, err = readHashes(r)
		return fieldRefs, err
	case "clock":
		return fieldClock, e.decodeClock(r)
	case "payload":
		var raw []byte
		if raw, err = r.Raw(); err == nil {
			e.Payload, err = value.FromCBOR(raw)
		}
		return fieldPayload, err
	case "identity":
		if e.Identity, err = r.Text(); err == nil && !block.ValidHash(e.Identity) {
			err = fmt.Errorf("%w: %.80q", block.ErrInvalidHash, e.Identity)
		}
		return fieldIdentity, err
	}
	e.fault = fmt.Sprintf("it has a field %.40q, which is not signed", name)
	_, err = r.Raw()
	return 0, err
}

// decodeClock reads the clock. JavaScript takes anything for one.
func (e *Entry) decodeClock(r *dagcbor.Reader) error {
	raw, err := r.Raw()
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

func readHashes(r *dagcbor.Reader) ([]string, error) {
	n, err := r.Array()
	if err != nil {
		return nil, err
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

// readTime reads a time: a whole number from 0 to [MaxTime], as an int or, as
// JavaScript has no other numbers, a float.
func readTime(r *dagcbor.Reader) (uint64, error) {
	n, err := r.Number()
	if err != nil {
		return 0, err
	}
	t, ok := n.Int64()
	if !ok || t < 0 || t > MaxTime {
		return 0, fmt.Errorf("its time is no whole number from 0 to %d", uint64(MaxTime))
	}
	return uint64(t), nil
}
