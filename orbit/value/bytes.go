package value

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// Bytes are bytes in fields of structs. Their JSON is that of DAG-JSON, or null
// for nil; encoding/json encodes a []byte as a text.
type Bytes []byte

// MarshalJSON returns {"/":{"bytes":"…"}} with the unpadded base64 of b.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if b == nil {
		return []byte("null"), nil
	}
	text := base64.RawStdEncoding.AppendEncode([]byte(`{"/":{"bytes":"`), b)
	return append(text, `"}}`...), nil
}

// UnmarshalJSON decodes the result of MarshalJSON.
func (b *Bytes) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*b = nil
		return nil
	}
	v, err := FromJSON(text)
	if err != nil {
		return err
	}
	a, err := v.Any()
	if err != nil {
		return err
	}
	data, ok := a.([]byte)
	if !ok {
		return fmt.Errorf("%w: %s instead of bytes", ErrInvalid, v.Kind())
	}
	*b = data
	return nil
}

var (
	_ json.Marshaler   = Bytes(nil)
	_ json.Unmarshaler = (*Bytes)(nil)
)
