package value

import (
	"encoding/json"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// Of returns the value of v. It returns [ErrInvalid] if there is none.
//
// The types in the package's table, all integer types, Value, and
// [json.RawMessage], which is parsed as by [FromJSON], are converted directly,
// alone and in []any and map[string]any. All other types are encoded by
// encoding/json and then parsed by FromJSON: json tags and [json.Marshaler]
// apply, a []byte in a struct becomes the text of its base64 (use [Bytes]
// instead), and a float32 becomes its shortest decimal. A nil map, slice,
// pointer or Value is null.
func Of(v any) (Value, error) {
	b, err := appendGo(nil, v, 0)
	if err != nil {
		return nil, invalid(err)
	}
	return whole(b)
}

// whole returns an item as a value, unless it is nested too deep when combined
// with the values in it.
func whole(item []byte) (Value, error) {
	item, err := dagcbor.Normalize(item)
	if err != nil {
		return nil, invalid(err)
	}
	return item, nil
}

func invalid(err error) error { return fmt.Errorf("%w: %w", ErrInvalid, err) }

var errTooDeep = fmt.Errorf("nested more than %d deep", dagcbor.MaxDepth)

// appendGo appends the item of v, which is nested in depth arrays and maps.
func appendGo(b []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return dagcbor.AppendNull(b), nil
	case bool:
		return dagcbor.AppendBool(b, v), nil
	case string:
		return dagcbor.AppendText(b, v), nil
	case int:
		return dagcbor.AppendInt(b, int64(v)), nil
	case int64:
		return dagcbor.AppendInt(b, v), nil
	case int32:
		return dagcbor.AppendInt(b, int64(v)), nil
	case int16:
		return dagcbor.AppendInt(b, int64(v)), nil
	case int8:
		return dagcbor.AppendInt(b, int64(v)), nil
	case uint:
		return dagcbor.AppendUint(b, uint64(v)), nil
	case uint64:
		return dagcbor.AppendUint(b, v), nil
	case uint32:
		return dagcbor.AppendUint(b, uint64(v)), nil
	case uint16:
		return dagcbor.AppendUint(b, uint64(v)), nil
	case uint8:
		return dagcbor.AppendUint(b, uint64(v)), nil
	case float64:
		return dagcbor.AppendFloat(b, v)
	case cid.Cid:
		return dagcbor.AppendLink(b, v)
	case []byte:
		if v != nil {
			return dagcbor.AppendBytes(b, v), nil
		}
	case Bytes:
		if v != nil {
			return dagcbor.AppendBytes(b, v), nil
		}
	case Value:
		if v != nil {
			item, err := dagcbor.Normalize(v)
			return append(b, item...), err
		}
	case json.RawMessage:
		if v != nil {
			return appendJSON(b, v, depth)
		}
	case []any:
		if v != nil {
			return appendSlice(b, v, depth)
		}
	case map[string]any:
		if v != nil {
			return appendMap(b, v, depth)
		}
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return appendJSON(b, text, depth)
}

func appendSlice(b []byte, items []any, depth int) (_ []byte, err error) {
	if depth == dagcbor.MaxDepth {
		return nil, errTooDeep
	}
	b = dagcbor.AppendArray(b, len(items))
	for _, item := range items {
		if b, err = appendGo(b, item, depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendMap(b []byte, m map[string]any, depth int) (_ []byte, err error) {
	if depth == dagcbor.MaxDepth {
		return nil, errTooDeep
	}
	open := len(b)
	b = dagcbor.OpenMap(b)
	members := make([]int, 0, len(m))
	for key, item := range m {
		members = append(members, len(b))
		b = dagcbor.AppendText(b, key)
		if b, err = appendGo(b, item, depth+1); err != nil {
			return nil, fmt.Errorf("%.40q: %w", key, err)
		}
	}
	return dagcbor.CloseMap(b, open, members)
}
