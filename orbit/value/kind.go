package value

import "github.com/newpieceplease/npp/orbit/internal/dagcbor"

// Kind is the kind of a value.
type Kind uint8

// The kinds of values. KindInvalid is the kind of bytes that are not a value.
const (
	KindInvalid Kind = iota
	KindNull
	KindBool
	KindInteger
	KindFloat
	KindText
	KindBytes
	KindLink
	KindArray
	KindMap
)

var kindNames = [...]string{"invalid", "null", "bool", "integer", "float", "text", "bytes", "link", "array", "map"}

// String returns the name of a kind, such as "text".
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[KindInvalid]
}

// kinds maps the kinds of items to those of values.
var kinds = [...]Kind{
	dagcbor.Null:   KindNull,
	dagcbor.Bool:   KindBool,
	dagcbor.Uint:   KindInteger,
	dagcbor.NegInt: KindInteger,
	dagcbor.Float:  KindFloat,
	dagcbor.Text:   KindText,
	dagcbor.Bytes:  KindBytes,
	dagcbor.Link:   KindLink,
	dagcbor.Array:  KindArray,
	dagcbor.Map:    KindMap,
}

// Kind returns the kind of v, or KindInvalid if v is nil.
func (v Value) Kind() Kind { return kinds[v.item()] }

// item returns the kind of the item that v is.
func (v Value) item() dagcbor.Kind {
	kind, _ := dagcbor.NewReader(v).Kind()
	return kind
}
