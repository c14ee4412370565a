package value

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// Bytes are bytes for the fields of structs, in JSON as DAG-JSON has them; nil
// is null there. encoding/json makes a text of a []byte.
type Bytes []byte

// MarshalJSON returns {"/":{"bytes":"…"}} with the base64 of b, without padding.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if b == nil {
		return []byte("null"), nil
	}
	text := base64.RawStdEncoding.AppendEncode([]byte(`{"/":{"bytes":"`), b)
	return append(text, `"}}`...), nil
}

// UnmarshalJSON takes what MarshalJSON returns.
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
		return fmt.Errorf("%w: %s in the place of bytes", ErrInvalid, v.Kind())
	}
	*b = data
	return nil
}

var (
	_ json.Marshaler   = Bytes(nil)
	_ json.Unmarshaler = (*Bytes)(nil)
)
