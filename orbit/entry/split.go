package entry

import (
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/value/dagcbor"
)

// Split returns the blocks in a sequence of blocks of dag-cbor, such as entries,
// that follow each other without anything between them, at most so many. An
// item of dag-cbor says itself where it ends. What follows the last whole item, or
// that many, is [ErrMalformed]; the blocks before it are returned.
func Split(data []byte, most int) ([]block.Block, error) {
	var bs []block.Block
	for r := dagcbor.NewReader(data); ; {
		rest := r.Rest()
		if len(rest) == 0 {
			return bs, nil
		}
		if len(bs) == most {
			return bs, fmt.Errorf("%w: more than %d blocks", ErrMalformed, most)
		}
		if err := skip(r); err != nil {
			return bs, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		bs = append(bs, block.New(rest[:len(rest)-len(r.Rest())]))
	}
}
