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

// ErrInUse is returned for the deletion of a block that a database contains.
var ErrInUse = errors.New("block belongs to an OrbitDB database")

// Overlay returns base extended by the blocks of s: a block that base lacks is
// read from s. Blocks of s cannot be deleted through it ([ErrInUse]), and
// AllKeysChan does not list them.
func Overlay(base blockstore.Blockstore, s *store.Store) blockstore.Blockstore {
	return overlay{base, s}
}

type overlay struct {
	blockstore.Blockstore
	s *store.Store
}

func (o overlay) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	b, err := o.Blockstore.Get(ctx, c)
	if !ipld.IsNotFound(err) {
		return b, err
	}
	own, ownErr := o.get(ctx, c)
	if errors.Is(ownErr, ErrNotFound) {
		return nil, err
	}
	if ownErr != nil {
		return nil, ownErr
	}
	return blocks.NewBlockWithCid(own.Data, c)
}

func (o overlay) Has(ctx context.Context, c cid.Cid) (bool, error) {
	if ok, err := o.Blockstore.Has(ctx, c); ok || err != nil {
		return ok, err
	}
	return o.has(ctx, c)
}

func (o overlay) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	n, err := o.Blockstore.GetSize(ctx, c)
	if !ipld.IsNotFound(err) {
		return n, err
	}
	own, ownErr := o.get(ctx, c)
	if errors.Is(ownErr, ErrNotFound) {
		return n, err
	}
	return len(own.Data), ownErr
}

func (o overlay) View(ctx context.Context, c cid.Cid, read func([]byte) error) error {
	b, err := o.Get(ctx, c)
	if err != nil {
		return err
	}
	return read(b.RawData())
}

func (o overlay) DeleteBlock(ctx context.Context, c cid.Cid) error {
	ok, err := o.Blockstore.Has(ctx, c)
	if err == nil && !ok {
		ok, err = o.has(ctx, c)
		if ok {
			err = fmt.Errorf("%w and stays", ErrInUse)
		}
	}
	if err != nil {
		return err
	}
	return o.Blockstore.DeleteBlock(ctx, c)
}

func (o overlay) get(ctx context.Context, c cid.Cid) (block.Block, error) {
	hash, ok := block.HashOf(c)
	if !ok {
		return block.Block{}, ErrNotFound
	}
	return o.result(Get(Reading(ctx, o.s), hash))
}

func (o overlay) has(ctx context.Context, c cid.Cid) (bool, error) {
	hash, ok := block.HashOf(c)
	if !ok {
		return false, nil
	}
	ok, err := o.s.Has(ctx, blockKey(hash))
	if errors.Is(err, store.ErrClosed) {
		return false, nil
	}
	return ok, err
}

// result makes a closed store look empty: the node uses its block store for a
// moment after the store closed.
func (o overlay) result(b block.Block, err error) (block.Block, error) {
	if errors.Is(err, store.ErrClosed) {
		err = ErrNotFound
	}
	return b, err
}
