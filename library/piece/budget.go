package piece

import "sync/atomic"

// Budget bounds the memory that several indexes use together. It may be used
// concurrently.
type Budget struct{ free atomic.Int64 }

// NewBudget returns a budget of a number of bytes.
func NewBudget(bytes int64) *Budget {
	b := &Budget{}
	b.free.Store(bytes)
	return b
}

// Budgets are budgets that all apply to the same memory.
type Budgets []*Budget

// Reserve takes bytes from each budget, or from none. It reports whether each
// had enough.
func (bs Budgets) Reserve(bytes int) bool {
	for i, b := range bs {
		if b.free.Add(-int64(bytes)) < 0 {
			bs[:i+1].Release(bytes)
			return false
		}
	}
	return true
}

// Has reports whether each budget has that many bytes left.
func (bs Budgets) Has(bytes int) bool {
	for _, b := range bs {
		if b.free.Load() < int64(bytes) {
			return false
		}
	}
	return true
}

// Release returns bytes to each budget.
func (bs Budgets) Release(bytes int) {
	for _, b := range bs {
		b.free.Add(int64(bytes))
	}
}
