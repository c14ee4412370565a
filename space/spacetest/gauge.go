// Package spacetest has a disk for tests, whose free space the test sets.
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

// Gauge is a disk of 1 TiB whose free space the test sets.
type Gauge struct {
	*space.Disk
	free  atomic.Uint64
	looks atomic.Int64
}

// New returns a disk with room.
func New() *Gauge {
	g := &Gauge{}
	g.Disk = space.New(space.Config{Path: "/test", FreeBytes: Floor, Interval: 10 * time.Millisecond, Probe: func() (space.Usage, error) {
		g.looks.Add(1)
		return space.Usage{Free: g.free.Load(), Total: 1 << 40}, nil
	}})
	g.Set(1 << 39)
	return g
}

// Looks returns how often the free space was read. It grows while somebody waits for
// room.
func (g *Gauge) Looks() int64 { return g.looks.Load() }

// Set sets the free space. Checks see it from now on; those who wait notice it by
// themselves.
func (g *Gauge) Set(free uint64) {
	g.free.Store(free)
	g.Disk.State()
}
