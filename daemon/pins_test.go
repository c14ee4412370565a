package daemon

import (
	"context"
	"errors"
	"slices"
	"testing"

	ipfsblocks "github.com/ipfs/go-block-format"

	"github.com/newpieceplease/npp/orbit/block"
)

// pins are pins in memory.
type pins struct {
	pinned map[string]bool
	err    error
	saved  []string // hashes
	asked  int
}

func (p *pins) Pinned(context.Context) (map[string]bool, error) {
	p.asked++
	return p.pinned, p.err
}

func (p *pins) Save(_ context.Context, bs []ipfsblocks.Block) error {
	for _, b := range bs {
		hash, _ := block.HashOf(b.Cid())
		p.saved = append(p.saved, hash)
	}
	return p.err
}

func TestSaverSavesPinnedBlocks(t *testing.T) {
	one, two, three := block.New([]byte{1}), block.New([]byte{2}), block.New([]byte{3})
	p := &pins{pinned: map[string]bool{one.Hash: true, three.Hash: true}}
	s := (&Daemon{cfg: Config{Pins: p}}).NewSaver()
	for _, bs := range [][]block.Block{{one, two}, {two}, {three}} {
		if err := s.Save(t.Context(), bs); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(p.saved, []string{one.Hash, three.Hash}) || s.Saved() != 2 || p.asked != 1 {
		t.Errorf("saved %q, counted %d, asked %d times", p.saved, s.Saved(), p.asked)
	}
}

func TestSaverFailsWithThePins(t *testing.T) {
	b := block.New([]byte{1})
	broken := errors.New("broken")
	p := &pins{pinned: map[string]bool{b.Hash: true}, err: broken}
	if err := (&Saver{pins: p}).Save(t.Context(), []block.Block{b}); !errors.Is(err, broken) {
		t.Errorf("without a list of pins: %v", err)
	}
	s := &Saver{pins: p, pinned: p.pinned}
	if err := s.Save(t.Context(), []block.Block{b}); !errors.Is(err, broken) || s.Saved() != 0 {
		t.Errorf("without a place to save: %v, counted %d", err, s.Saved())
	}
}

func TestNodeWithoutPinsSavesNothing(t *testing.T) {
	s := (&Daemon{}).NewSaver()
	if err := s.Save(t.Context(), []block.Block{block.New([]byte{1})}); err != nil || s.Saved() != 0 {
		t.Errorf("%v, counted %d", err, s.Saved())
	}
}
