package space

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	logging "github.com/ipfs/go-log/v2"

	"github.com/newpieceplease/npp/internal/wait"
)

var log = logging.Logger("npp/space")

// ErrFull means that too little space is free.
var ErrFull = errors.New("the disk is almost full")

// Bounds of the default floor, and of the reserve, in bytes.
const (
	minFloor   = 512 << 20
	maxFloor   = 5 << 30
	maxReserve = 128 << 20
)

// MaxFreeBytes is the largest floor: 1 EiB.
const MaxFreeBytes = 1 << 60

// defaultInterval is how long a reading of the free space is used.
const defaultInterval = 250 * time.Millisecond

// Usage is the size of a file system in bytes.
type Usage struct {
	Free  uint64 // available to this process
	Total uint64 // used ones included
}

// Config configures a Disk.
type Config struct {
	// Path is a directory on the disk.
	Path string
	// FreeBytes is the floor, at most [MaxFreeBytes]. The default is 1 % of the
	// disk, but at least 512 MiB and at most 5 GiB.
	FreeBytes uint64
	// Probe returns the usage. Default: ask the operating system about Path.
	Probe func() (Usage, error)
	// Interval is how long a reading is used. Default: 250 ms.
	Interval time.Duration
}

// Disk reports whether a disk has enough free space. Its methods may be called
// concurrently. A nil Disk always has enough.
type Disk struct {
	path     string
	floor    uint64 // as configured
	probe    func() (Usage, error)
	interval time.Duration
	asking   chan struct{} // holds a token while one of the waiters asks for all

	mu      sync.Mutex
	at      time.Time // of the last reading
	state   State
	claimed uint64        // bytes that the owner may have written since
	resumed chan struct{} // closed when data from peers is accepted again
}

// New returns a Disk. It does not read the free space yet.
func New(c Config) *Disk {
	d := &Disk{
		path:     c.Path,
		floor:    c.FreeBytes,
		probe:    c.Probe,
		interval: cmp.Or(c.Interval, defaultInterval),
		asking:   make(chan struct{}, 1),
		resumed:  make(chan struct{}),
	}
	if d.probe == nil {
		d.probe = func() (Usage, error) { return usageOf(c.Path) }
	}
	return d
}

// State is the state of a disk.
type State struct {
	Usage
	Floor   uint64 // bytes that must be free to accept data from peers
	Reserve uint64 // bytes that must be free to accept the owner's writes
	Paused  bool   // data from peers is refused
	Err     error  // why the free space is unknown, or nil
}

// resume returns the free space above which data from peers is accepted again.
func (s State) resume() uint64 { return s.Floor + s.Floor/16 }

// limitsOf returns the default floor and the reserve of a disk of the given
// size.
func limitsOf(configured, total uint64) (floor, reserve uint64) {
	floor = cmp.Or(configured, min(max(total/100, minFloor), maxFloor))
	return floor, min(floor/4, maxReserve)
}

// State reads the free space and returns the state.
func (d *Disk) State() State {
	if d == nil {
		return State{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look()
	return d.state
}

// look reads the free space. The caller holds d.mu.
func (d *Disk) look() {
	usage, err := d.probe()
	before := d.state
	s := State{Usage: usage, Err: err}
	s.Floor, s.Reserve = limitsOf(d.floor, usage.Total)
	needed := s.Floor
	if before.Paused {
		needed = s.resume()
	}
	s.Paused = err == nil && usage.Free < needed
	d.state, d.claimed, d.at = s, 0, time.Now()
	switch {
	case s.Paused && !before.Paused:
		log.Warnw("the disk is almost full: nothing is accepted from other peers", "path", d.path, "free", usage.Free, "floor", s.Floor)
	case !s.Paused && before.Paused:
		log.Infow("the disk has room: data from other peers is accepted again", "path", d.path, "free", usage.Free)
		close(d.resumed)
		d.resumed = make(chan struct{})
	}
	if err != nil && before.Err == nil && !errors.Is(err, errors.ErrUnsupported) {
		log.Errorw("the free space of the disk cannot be read", "path", d.path, "err", err)
	}
}

// current returns the state, at most an interval old. The caller holds d.mu.
func (d *Disk) current() State {
	if d.at.IsZero() || time.Since(d.at) >= d.interval {
		d.look()
	}
	return d.state
}

// full returns [ErrFull] with the figures.
func (d *Disk) full(free, needed uint64) error {
	return fmt.Errorf("%w: %d bytes are free at %s, %d are needed", ErrFull, free, d.path, needed)
}

// CheckIncoming returns nil if data from other peers may be stored, and
// otherwise an error that wraps [ErrFull].
func (d *Disk) CheckIncoming() error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.current(); s.Paused {
		return d.full(s.Free, s.resume())
	}
	return nil
}

// CheckWrite returns nil if the owner may write size more bytes, and otherwise
// an error that wraps [ErrFull]. The bytes count as written until the next
// reading. CheckWrite reads the free space before it refuses.
func (d *Disk) CheckWrite(size int) error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, needed := d.current(), uint64(size)
	if s.Err == nil && s.Free < s.Reserve+d.claimed+needed {
		d.look()
		s = d.state
	}
	if s.Err == nil && s.Free < s.Reserve+needed {
		return d.full(s.Free, s.Reserve+needed)
	}
	d.claimed += needed
	return nil
}

// AwaitIncoming waits until data from other peers may be stored. It fails only
// with the error of the context.
func (d *Disk) AwaitIncoming(ctx context.Context) error {
	for {
		resumed, paused := d.pause()
		if !paused {
			return ctx.Err()
		}
		select {
		case <-resumed:
		case d.asking <- struct{}{}:
			wait.For(ctx, d.interval)
			<-d.asking
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pause reports whether data from peers is refused, and returns a channel that
// is closed when it is accepted again.
func (d *Disk) pause() (resumed <-chan struct{}, paused bool) {
	if d == nil {
		return nil, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.resumed, d.current().Paused
}

// Guard returns a context for an operation of the owner that writes an unknown
// number of bytes. The context ends, with the error of [Disk.CheckWrite] as its
// cause, when too little space is free. The caller calls stop at the end of the
// operation.
func (d *Disk) Guard(ctx context.Context) (guarded context.Context, stop context.CancelFunc) {
	if d == nil {
		return context.WithCancel(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for ctx.Err() == nil {
			if err := d.CheckWrite(0); err != nil {
				cancel(err)
			}
			wait.For(ctx, d.interval)
		}
	}()
	return ctx, func() { cancel(nil) }
}
