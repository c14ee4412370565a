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

	"github.com/newpieceplease/npp/orbit/value/dagcbor"
)

// FromJSON returns the value of one JSON text. It fails with [ErrInvalid] and
// says at which byte.
//
// Of two keys of a map that are the same, or become so as texts do here, it
// takes neither. What is a link or bytes in DAG-JSON, {"/":"text"} or
// {"/":{"bytes":"text"}} with no other keys, becomes one, or is refused if the
// text is not that of a CID or not base64. Base64 may be padded. A CID of more than
// 1024 characters has to be in base32, as it is printed.
func FromJSON(b []byte) (Value, error) {
	item, err := appendJSON(nil, b, 0)
	if err != nil {
		return nil, invalid(err)
	}
	return whole(item)
}

// UnmarshalJSON sets v as [FromJSON] does. What it sets for the JSON null is
// null, not none.
func (v *Value) UnmarshalJSON(b []byte) error {
	item, err := FromJSON(b)
	if err == nil {
		*v = item
	}
	return err
}

// appendJSON appends the item of a JSON text, which is in depth arrays and maps.
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

// maxJSONDepth is how deep JSON nests: bytes are two maps there.
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

// replaceReserved makes a link or bytes of the map at the end of b if it is
// what stands for one.
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

// maxCID is the longest text of a CID that may be in any base. Decoding base58 and
// base36 takes time in proportion to the square of the length.
const maxCID = 1 << 10

func decodeCID(text string) (cid.Cid, error) {
	if len(text) > maxCID && text[0] != multibase.Base32 {
		return cid.Undef, fmt.Errorf("a CID of more than %d characters is not in base32", maxCID)
	}
	return cid.Decode(text)
}

// only returns the member of a map that has this one only.
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
