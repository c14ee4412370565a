package value

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// Any returns v as the Go type in the package's table. Integers are int64;
// those that do not fit are uint64 or, below -2^63, *[big.Int]. If v is nil,
// Any returns nil.
func (v Value) Any() (any, error) {
	if v == nil {
		return nil, nil
	}
	r, err := v.reader()
	if err != nil {
		return nil, err
	}
	return anyItem(r)
}

// Decode stores v in the variable to which dst points: in an any the result of
// [Value.Any], in a Value a copy of v, and in any other type what encoding/json
// decodes from the JSON of v. It fails if v is nil.
func (v Value) Decode(dst any) error {
	if v == nil {
		return fmt.Errorf("%w: no value", ErrInvalid)
	}
	switch dst := dst.(type) {
	case *any:
		a, err := v.Any()
		if err == nil {
			*dst = a
		}
		return err
	case *Value:
		*dst = bytes.Clone(v)
		return nil
	}
	b, err := v.MarshalJSON()
	if err != nil {
		return err
	}
	return json.Unmarshal(b, dst)
}

func anyItem(r *dagcbor.Reader) (any, error) {
	kind, err := r.Kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case dagcbor.Null:
		return nil, r.Null()
	case dagcbor.Bool:
		return r.Bool()
	case dagcbor.Uint, dagcbor.NegInt, dagcbor.Float:
		n, err := r.Number()
		return anyNumber(n), err
	case dagcbor.Text:
		return r.Text()
	case dagcbor.Bytes:
		data, err := r.Bytes()
		return append([]byte{}, data...), err
	case dagcbor.Link:
		return r.Link()
	case dagcbor.Array:
		n, err := r.Array()
		items := make([]any, n)
		for i := 0; i < n && err == nil; i++ {
			items[i], err = anyItem(r)
		}
		return items, err
	case dagcbor.Map:
		n, err := r.Map()
		members := make(map[string]any, n)
		for i := 0; i < n && err == nil; i++ {
			var key string
			if key, err = r.Text(); err == nil {
				members[key], err = anyItem(r)
			}
		}
		return members, err
	}
	return nil, errors.New("unknown kind")
}

func anyNumber(n dagcbor.Number) any {
	if n.Kind == dagcbor.Float {
		return n.Float64()
	}
	if i, ok := n.Int64(); ok {
		return i
	}
	if n.Kind == dagcbor.Uint {
		return n.Bits
	}
	i := new(big.Int).SetUint64(n.Bits)
	return i.Not(i) // -1-i
}
