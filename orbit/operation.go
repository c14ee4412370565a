package orbit

import (
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/value"
)

// Operation is the payload of an entry of a documents or keyvalue database.
type Operation struct {
	Key     value.Value
	Value   value.Value // null for a deletion
	Deleted bool
}

// ParseOperation decodes a payload and reports whether it is an operation on a
// key.
func ParseOperation(payload value.Value) (Operation, bool) {
	op, ok := keyed.Parse(payload)
	return Operation(op), ok
}
