package orbit

import (
	"context"

	"github.com/newpieceplease/npp/orbit/block"
)

// AtHand is blocks by their hash that are not stored, such as identities that
// came with the entries of a writer.
type AtHand map[string]block.Block

type atHandKey struct{}

// WithAtHand returns a context in which blocks that are not stored are looked
// for in bs before the source is asked. What of them is needed for good is
// stored. bs may grow, but not while the context is in use.
func WithAtHand(ctx context.Context, bs AtHand) context.Context {
	return context.WithValue(ctx, atHandKey{}, bs)
}

func atHand(ctx context.Context, hash string) (block.Block, bool) {
	bs, _ := ctx.Value(atHandKey{}).(AtHand)
	b, ok := bs[hash]
	return b, ok
}
