package value

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// FromJSON returns the value of a JSON text. It returns [ErrInvalid] with the
// offset of the error if there is none.
//
// A map with duplicate keys, or with keys that become equal as texts, is
// invalid. The DAG-JSON forms {"/":"text"} and {"/":{"bytes":"text"}} without
// other keys become a link or bytes, and are invalid if the text is not a CID
// or not base64. Base64 may be padded. A CID of more than 1024 characters must
// be in base32.
func FromJSON(b []byte) (Value, error) {
	item, err := appendJSON(nil, b, 0)
	if err != nil {
		return nil, invalid(err)
	}
	return whole(item)
}

// UnmarshalJSON sets v as [FromJSON] does. The JSON null becomes the value
// null, not nil.
func (v *Value) UnmarshalJSON(b []byte) error {
	item, err := FromJSON(b)
	if err == nil {
		*v = item
	}
	return err
}

// appendJSON appends the item of a JSON text, which is nested in depth arrays
// and maps.
func appendJSON(b, text []byte, depth int) ([]byte, error) {
	p := parser{json.NewDecoder(bytes.NewReader(text))}
	p.UseNumber()
	b, err := p.append(b, depth)
	if err == nil {
		if _, end := p.Token(); end != io.EOF {
			err = errors.New("more than one value")
		}
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errors.New("the text ends early")
	}
	if err != nil {
		return nil, fmt.Errorf("json at byte %d: %w", p.InputOffset(), err)
	}
	return b, nil
}

// maxJSONDepth is the maximum nesting depth of the JSON: bytes are two maps
// there.
const maxJSONDepth = dagcbor.MaxDepth + 2

type parser struct{ *json.Decoder }

func (p parser) append(b []byte, depth int) ([]byte, error) {
	token, err := p.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case nil:
		return dagcbor.AppendNull(b), nil
	case bool:
		return dagcbor.AppendBool(b, t), nil
	case string:
		return dagcbor.AppendText(b, t), nil
	case json.Number:
		return appendNumberText(b, string(t))
	}
	if depth >= maxJSONDepth {
		return nil, errTooDeep
	}
	if token == json.Delim('[') {
		return p.appendArray(b, depth)
	}
	return p.appendObject(b, depth)
}

func (p parser) appendArray(b []byte, depth int) (_ []byte, err error) {
	open := len(b)
	b = append(b, 0)
	n := 0
	for ; p.More(); n++ {
		if b, err = p.append(b, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := p.Token(); err != nil { // ]
		return nil, err
	}
	var buf [9]byte
	return slices.Replace(b, open, open+1, dagcbor.AppendArray(buf[:0], n)...), nil
}

func (p parser) appendObject(b []byte, depth int) ([]byte, error) {
	open := len(b)
	b = dagcbor.OpenMap(b)
	var buf [16]int
	members := buf[:0]
	for p.More() {
		token, err := p.Token()
		if err != nil {
			return nil, err
		}
		key, _ := token.(string)
		members = append(members, len(b))
		b = dagcbor.AppendText(b, key)
		if b, err = p.append(b, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := p.Token(); err != nil { // }
		return nil, err
	}
	b, err := dagcbor.CloseMap(b, open, members)
	if err != nil {
		return nil, err
	}
	return replaceReserved(b, open)
}

// replaceReserved converts the map at the end of b to a link or bytes if it has
// the form of one.
func replaceReserved(b []byte, open int) ([]byte, error) {
	item := only(b[open:], "/")
	if text, ok := item.Text(); ok {
		c, err := decodeCID(text)
		if err == nil && c.Version() == 0 && !strings.HasPrefix(text, "Qm") {
			err = errors.New("a CID of version 0 has no prefix")
		}
		if err != nil {
			return nil, fmt.Errorf("link %.80q: %w", text, err)
		}
		return dagcbor.AppendLink(b[:open], c)
	}
	if text, ok := only(item, "bytes").Text(); ok {
		data, err := decodeBase64(text)
		if err != nil {
			return nil, fmt.Errorf("bytes %.80q: %w", text, err)
		}
		return dagcbor.AppendBytes(b[:open], data), nil
	}
	return b, nil
}

// maxCID is the length of the longest text of a CID in any base. Decoding
// base58 and base36 takes time quadratic in the length.
const maxCID = 1 << 10

func decodeCID(text string) (cid.Cid, error) {
	if len(text) > maxCID && text[0] != multibase.Base32 {
		return cid.Undef, fmt.Errorf("a CID of more than %d characters must be in base32", maxCID)
	}
	return cid.Decode(text)
}

// only returns the member with the given name if the map has no other.
func only(v Value, name string) Value {
	if n, err := dagcbor.NewReader(v).Map(); err != nil || n != 1 {
		return nil
	}
	return v.Field(name)
}

func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("a line break in base64")
	}
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
}

// appendNumberText appends the item of a JSON number.
func appendNumberText(b []byte, text string) ([]byte, error) {
	digits, negative := strings.CutPrefix(text, "-")
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case err == nil && negative && n > 0:
		return dagcbor.AppendNegInt(b, n-1), nil
	case err == nil:
		return dagcbor.AppendUint(b, n), nil
	case negative && digits == "18446744073709551616":
		return dagcbor.AppendNegInt(b, math.MaxUint64), nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("number %.40s is too large", text)
	}
	return dagcbor.AppendFloat(b, v)
}
