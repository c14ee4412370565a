// Package spacetest provides a disk whose free space a test sets.
package spacetest

import (
	"sync/atomic"
	"time"

	"github.com/newpieceplease/npp/space"
)

// The limits of a Gauge, in bytes.
const (
	Floor   = 64 << 20
	Reserve = Floor / 4
)

// Gauge is a disk of 1 TiB whose free space a test sets.
type Gauge struct {
	*space.Disk
	free  atomic.Uint64
	looks atomic.Int64
}

// New returns a disk with enough free space.
func New() *Gauge {
	g := &Gauge{}
	g.Disk = space.New(space.Config{Path: "/test", FreeBytes: Floor, Interval: 10 * time.Millisecond, Probe: func() (space.Usage, error) {
		g.looks.Add(1)
		return space.Usage{Free: g.free.Load(), Total: 1 << 40}, nil
	}})
	g.Set(1 << 39)
	return g
}

// Looks returns how often the free space was read. The number grows while a
// caller waits for space.
func (g *Gauge) Looks() int64 { return g.looks.Load() }

// Set sets the free space. Checks see it at once; waiters notice it with their
// next reading.
func (g *Gauge) Set(free uint64) {
	g.free.Store(free)
	g.Disk.State()
}
