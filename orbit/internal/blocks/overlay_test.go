package blocks_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ipfs/boxo/blockstore"
	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

func newBase() blockstore.Blockstore {
	return blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
}

// names returns CIDs of several versions and codecs with the multihash of a
// block.
func names(t testing.TB, b block.Block) []cid.Cid {
	t.Helper()
	c, err := block.ParseHash(b.Hash)
	must(t, err)
	return []cid.Cid{c, cid.NewCidV1(cid.Raw, c.Hash()), cid.NewCidV1(cid.DagProtobuf, c.Hash()), cid.NewCidV0(c.Hash())}
}

// look checks what a block store returns for a CID; nil stands for nothing.
func look(t testing.TB, bs blockstore.Blockstore, c cid.Cid, want []byte) {
	t.Helper()
	ctx := t.Context()
	b, getErr := bs.Get(ctx, c)
	ok, hasErr := bs.Has(ctx, c)
	size, sizeErr := bs.GetSize(ctx, c)
	viewed, viewErr := []byte(nil), getErr
	if v, ok := bs.(blockstore.Viewer); ok {
		viewErr = v.View(ctx, c, func(data []byte) error {
			viewed = data
			return nil
		})
	} else if getErr == nil {
		viewed = b.RawData()
	}
	must(t, hasErr)
	if ok != (want != nil) {
		t.Errorf("has %s: %v", c, ok)
	}
	if want == nil {
		for _, err := range []error{getErr, sizeErr, viewErr} {
			if !ipld.IsNotFound(err) {
				t.Errorf("%s: %v", c, err)
			}
		}
		return
	}
	must(t, errors.Join(getErr, sizeErr, viewErr))
	if string(b.RawData()) != string(want) || !b.Cid().Equals(c) || size != len(want) || string(viewed) != string(want) {
		t.Errorf("%s: got %q at %s, %d bytes, view %q; want %q", c, b.RawData(), b.Cid(), size, viewed, want)
	}
}

func TestBlocksAreServedUnderEveryNameOfTheirMultihash(t *testing.T) {
	s, entry, other := filled(t)
	bs := blocks.Overlay(newBase(), s)
	for _, b := range []block.Block{entry, other} {
		for _, c := range names(t, b) {
			look(t, bs, c, b.Data)
		}
	}
	for _, c := range names(t, block.New([]byte("absent"))) {
		look(t, bs, c, nil)
	}
	for _, code := range []uint64{multihash.SHA2_512, multihash.IDENTITY, multihash.DBL_SHA2_256} {
		mh, err := multihash.Sum(entry.Data, code, -1)
		must(t, err)
		look(t, bs, cid.NewCidV1(cid.DagCBOR, mh), nil)
	}
}

func TestBlocksOfTheBaseComeFirst(t *testing.T) {
	s, entry, _ := filled(t)
	base := newBase()
	bs := blocks.Overlay(base, s)
	own := ipfsblocks.NewBlock([]byte("of the base"))
	must(t, bs.Put(t.Context(), own))
	look(t, base, own.Cid(), own.RawData())
	look(t, bs, own.Cid(), own.RawData())
	// A block in both is read from the base, even if it is damaged in the
	// store.
	both, err := entry.IPFS()
	must(t, err)
	must(t, base.Put(t.Context(), both))
	update(t, s, func(tx *store.Tx) error { return tx.Put("block/"+entry.Hash, nil) })
	look(t, bs, both.Cid(), entry.Data)
}

func TestErrorsOfTheBaseAreNotPassedOver(t *testing.T) {
	s, entry, _ := filled(t)
	failure := errors.New("broken")
	bs := blocks.Overlay(broken{newBase(), failure}, s)
	c := names(t, entry)[0]
	_, getErr := bs.Get(t.Context(), c)
	_, hasErr := bs.Has(t.Context(), c)
	_, sizeErr := bs.GetSize(t.Context(), c)
	for i, err := range []error{getErr, hasErr, sizeErr, bs.DeleteBlock(t.Context(), c)} {
		if !errors.Is(err, failure) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

type broken struct {
	blockstore.Blockstore
	err error
}

func (b broken) Get(context.Context, cid.Cid) (ipfsblocks.Block, error) { return nil, b.err }
func (b broken) Has(context.Context, cid.Cid) (bool, error)             { return false, b.err }
func (b broken) GetSize(context.Context, cid.Cid) (int, error)          { return -1, b.err }

func TestBlocksInUseAreNotDeleted(t *testing.T) {
	s, entry, other := filled(t)
	base := newBase()
	bs := blocks.Overlay(base, s)
	for _, b := range []block.Block{entry, other} {
		for _, c := range names(t, b) {
			if err := bs.DeleteBlock(t.Context(), c); !errors.Is(err, blocks.ErrInUse) {
				t.Errorf("%s: %v", c, err)
			}
			look(t, bs, c, b.Data)
		}
		// A copy in the base can be deleted once.
		copied, err := b.IPFS()
		must(t, err)
		must(t, base.Put(t.Context(), copied))
		must(t, bs.DeleteBlock(t.Context(), copied.Cid()))
		look(t, base, copied.Cid(), nil)
		look(t, bs, copied.Cid(), b.Data)
		if err := bs.DeleteBlock(t.Context(), copied.Cid()); !errors.Is(err, blocks.ErrInUse) {
			t.Errorf("again: %v", err)
		}
	}
	absent := ipfsblocks.NewBlock([]byte("absent"))
	if want, got := base.DeleteBlock(t.Context(), absent.Cid()), bs.DeleteBlock(t.Context(), absent.Cid()); (want == nil) != (got == nil) {
		t.Errorf("delete what is nowhere: %v, want %v", got, want)
	}
}

func TestBlocksAreNotListed(t *testing.T) {
	s, _, _ := filled(t)
	bs := blocks.Overlay(newBase(), s)
	own := ipfsblocks.NewBlock([]byte("of the base"))
	must(t, bs.Put(t.Context(), own))
	keys, err := bs.AllKeysChan(t.Context())
	must(t, err)
	n := 0
	for c := range keys {
		if n++; string(c.Hash()) != string(own.Cid().Hash()) {
			t.Errorf("%s is listed", c)
		}
	}
	if n != 1 {
		t.Errorf("%d are listed", n)
	}
}

func TestClosedStoreIsAsIfEmpty(t *testing.T) {
	s, entry, other := filled(t)
	bs := blocks.Overlay(newBase(), s)
	must(t, s.Close())
	for _, b := range []block.Block{entry, other} {
		for _, c := range names(t, b) {
			look(t, bs, c, nil)
			if err := bs.DeleteBlock(t.Context(), c); errors.Is(err, blocks.ErrInUse) || errors.Is(err, store.ErrClosed) {
				t.Errorf("delete: %v", err)
			}
		}
	}
}

func TestDamagedBlocksAreNotServed(t *testing.T) {
	s, entry, other := filled(t)
	bs := blocks.Overlay(newBase(), s)
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(
			tx.Put(store.Key(blocks.Entries(200), 300), []byte(entry.Hash+"garbage")),
			tx.Put("block/"+other.Hash, []byte("\x00garbage")),
		)
	})
	for _, b := range []block.Block{entry, other} {
		for _, c := range names(t, b) {
			_, getErr := bs.Get(t.Context(), c)
			_, sizeErr := bs.GetSize(t.Context(), c)
			viewErr := bs.(blockstore.Viewer).View(t.Context(), c, func([]byte) error {
				t.Error("viewed")
				return nil
			})
			for _, err := range []error{getErr, sizeErr, viewErr} {
				if !errors.Is(err, blocks.ErrDamaged) || !strings.Contains(err.Error(), b.Hash) || ipld.IsNotFound(err) {
					t.Errorf("%s: %v", c, err)
				}
			}
		}
	}
}

func TestErrorOfAViewIsReturned(t *testing.T) {
	s, entry, _ := filled(t)
	failure := errors.New("enough")
	err := blocks.Overlay(newBase(), s).(blockstore.Viewer).View(t.Context(), names(t, entry)[0], func([]byte) error { return failure })
	if !errors.Is(err, failure) {
		t.Error(err)
	}
}
