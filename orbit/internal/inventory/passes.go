package inventory

import (
	"context"
	"time"

	"github.com/newpieceplease/npp/internal/wait"
)

// Passes makes the passes over the catalog of all sessions of a process wait
// for each other. A pass is followed by a rest of the same duration, so peers
// cannot take more than half of a core.
type Passes struct {
	turn chan struct{}
	rest time.Time // when the next pass may begin
}

// NewPasses returns passes for one catalog.
func NewPasses() *Passes { return &Passes{turn: make(chan struct{}, 1)} }

// do calls pass when its turn comes. It returns the error of ctx if that is
// done first.
func (p *Passes) do(ctx context.Context, pass func()) error {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	if err := wait.For(ctx, time.Until(p.rest)); err != nil {
		return err
	}
	start := time.Now()
	pass()
	end := time.Now()
	p.rest = end.Add(end.Sub(start))
	return nil
}
