package daemon

import (
	"context"
	"fmt"

	ipfsblocks "github.com/ipfs/go-block-format"

	"github.com/newpieceplease/npp/orbit/block"
)

// Pins are the pins of an IPFS node. A node may have pinned blocks that only a
// database stores; they have to remain when the database is dropped.
type Pins interface {
	// Pinned returns the hashes of all pinned blocks that have a hash, see
	// [block.HashOf], without those below a block that is missing.
	Pinned(ctx context.Context) (map[string]bool, error)

	// Save stores pinned blocks where garbage collection finds them: in the
	// node's own block store. It returns when they are on disk.
	Save(ctx context.Context, bs []ipfsblocks.Block) error
}

// Saver saves the pinned blocks of one database that is dropped. A block that
// is pinned after the first call of Save may not be saved.
type Saver struct {
	pins   Pins            // nil: nothing is pinned
	pinned map[string]bool // nil before the first call of Save
	saved  int
}

// NewSaver returns a Saver for the node's pins.
func (d *Daemon) NewSaver() *Saver { return &Saver{pins: d.cfg.Pins} }

// Save saves those of the blocks that are pinned. It can be passed to
// [orbit.Orbit.Drop].
func (s *Saver) Save(ctx context.Context, bs []block.Block) error {
	if s.pins == nil {
		return nil
	}
	if s.pinned == nil {
		pinned, err := s.pins.Pinned(ctx)
		if err != nil {
			return fmt.Errorf("look for pins: %w", err)
		}
		s.pinned = pinned
	}
	var save []ipfsblocks.Block
	for _, b := range bs {
		if !s.pinned[b.Hash] {
			continue
		}
		own, err := b.IPFS()
		if err != nil {
			return err
		}
		save = append(save, own)
	}
	if len(save) == 0 {
		return nil
	}
	if err := s.pins.Save(ctx, save); err != nil {
		return fmt.Errorf("save pinned blocks: %w", err)
	}
	s.saved += len(save)
	return nil
}

// Saved returns the number of blocks that were saved.
func (s *Saver) Saved() int { return s.saved }
