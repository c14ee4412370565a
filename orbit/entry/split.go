package entry

import (
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// Split splits a concatenation of dag-cbor blocks, such as entries, into at
// most limit blocks. Each item of dag-cbor encodes its own length. Split
// returns [ErrMalformed] if data does not end with a whole item, or if it has
// more than limit blocks; it then returns the blocks before that.
func Split(data []byte, limit int) ([]block.Block, error) {
	var bs []block.Block
	for r := dagcbor.NewReader(data); ; {
		rest := r.Rest()
		if len(rest) == 0 {
			return bs, nil
		}
		if len(bs) == limit {
			return bs, fmt.Errorf("%w: more than %d blocks", ErrMalformed, limit)
		}
		if err := skip(r); err != nil {
			return bs, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		bs = append(bs, block.New(rest[:len(rest)-len(r.Rest())]))
	}
}
