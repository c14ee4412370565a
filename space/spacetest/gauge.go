// Package spacetest has a disk for tests, whose free space the test sets.
package spacetest

import (
	"sync/atomic"

	"github.com/newpieceplease/npp/space"
)

// The limits of a Gauge, in bytes.
const (
	Floor   = 64 << 20
	Reserve = Floor / 4
)

// Gauge is a disk of 1 TiB whose free space the test sets.
type Gauge struct {
	*space.Disk
	free atomic.Uint64
}

// New returns a disk with room.
func New() *Gauge {
	g := &Gauge{}
	g.Disk = space.New(space.Config{Path: "/test", FreeBytes: Floor, Probe: func() (space.Usage, error) {
		return space.Usage{Free: g.free.Load(), Total: 1 << 40}, nil
	}})
	g.Set(1 << 39)
	return g
}

// Set sets the free space. Checks see it from now on; those who wait notice it by
// themselves.
func (g *Gauge) Set(free uint64) {
	g.free.Store(free)
	g.Disk.State()
}
