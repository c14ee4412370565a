package blocks

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/store"
)

// ErrInUse says that a block cannot be deleted because a database holds it.
var ErrInUse = errors.New("block belongs to an OrbitDB database")

// Under returns base with the blocks of s below it: what base does not have is
// looked up there. They cannot be deleted through it ([ErrInUse]) and are not
// among AllKeysChan.
func Under(base blockstore.Blockstore, s *store.Store) blockstore.Blockstore {
	return under{base, s}
}

type under struct {
	blockstore.Blockstore
	s *store.Store
}

func (u under) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	b, err := u.Blockstore.Get(ctx, c)
	if !ipld.IsNotFound(err) {
		return b, err
	}
	own, ownErr := u.get(ctx, c)
	if errors.Is(ownErr, ErrNotFound) {
		return nil, err
	}
	if ownErr != nil {
		return nil, ownErr
	}
	return blocks.NewBlockWithCid(own.Data, c)
}

func (u under) Has(ctx context.Context, c cid.Cid) (bool, error) {
	if ok, err := u.Blockstore.Has(ctx, c); ok || err != nil {
		return ok, err
	}
	return u.has(ctx, c)
}

func (u under) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	n, err := u.Blockstore.GetSize(ctx, c)
	if !ipld.IsNotFound(err) {
		return n, err
	}
	own, ownErr := u.get(ctx, c)
	if errors.Is(ownErr, ErrNotFound) {
		return n, err
	}
	return len(own.Data), ownErr
}

func (u under) View(ctx context.Context, c cid.Cid, read func([]byte) error) error {
	b, err := u.Get(ctx, c)
	if err != nil {
		return err
	}
	return read(b.RawData())
}

func (u under) DeleteBlock(ctx context.Context, c cid.Cid) error {
	ok, err := u.Blockstore.Has(ctx, c)
	if err == nil && !ok {
		ok, err = u.has(ctx, c)
		if ok {
			err = fmt.Errorf("%w and stays", ErrInUse)
		}
	}
	if err != nil {
		return err
	}
	return u.Blockstore.DeleteBlock(ctx, c)
}

func (u under) get(ctx context.Context, c cid.Cid) (block.Block, error) {
	hash, ok := block.HashOf(c)
	if !ok {
		return block.Block{}, ErrNotFound
	}
	return u.result(Get(Reading(ctx, u.s), hash))
}

func (u under) has(ctx context.Context, c cid.Cid) (bool, error) {
	hash, ok := block.HashOf(c)
	if !ok {
		return false, nil
	}
	ok, err := u.s.Has(ctx, blockKey(hash))
	if errors.Is(err, store.ErrClosed) {
		return false, nil
	}
	return ok, err
}

// result makes a closed store one without blocks: the node's block store is in
// use for a moment longer.
func (u under) result(b block.Block, err error) (block.Block, error) {
	if errors.Is(err, store.ErrClosed) {
		err = ErrNotFound
	}
	return b, err
}
