package orbit

import (
	"github.com/ipfs/boxo/blockstore"

	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// ErrBlockInUse is returned for the deletion of a block that a database
// contains.
var ErrBlockInUse = blocks.ErrInUse

// Overlay returns base extended by the blocks in the store of an [Orbit], so
// that bitswap serves them: a block that base lacks is read from s. Blocks of s
// cannot be deleted through it ([ErrBlockInUse]), and AllKeysChan does not list
// them, so garbage collection leaves them alone. After s is closed, Overlay
// returns the blocks of base only.
func Overlay(base blockstore.Blockstore, s *store.Store) blockstore.Blockstore {
	return blocks.Overlay(base, s)
}
