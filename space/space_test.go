package space

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// gauge is a disk whose free space the test sets.
type gauge struct {
	mu    sync.Mutex
	usage Usage
	err   error
	reads int
}

func (g *gauge) probe() (Usage, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reads++
	return g.usage, g.err
}

func (g *gauge) set(free uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.usage.Free, g.err = free, err
}

func (g *gauge) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reads
}

// newDisk returns a disk of 1 TiB with a floor of 512 MiB and the given free
// space.
func newDisk(free uint64) (*Disk, *gauge) {
	g := &gauge{usage: Usage{Free: free, Total: 1 << 40}}
	return New(Config{Path: "/repo", FreeBytes: 512 * mib, Probe: g.probe}), g
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestFloorIsAHundredthOfTheDiskWithinBounds(t *testing.T) {
	const gib = 1 << 30
	for _, test := range []struct{ configured, total, floor, reserve uint64 }{
		{0, 0, 512 * mib, 128 * mib},
		{0, 32 * gib, 512 * mib, 128 * mib},
		{0, 100 * gib, gib, 128 * mib},
		{0, 500 * gib, 5 * gib, 128 * mib},
		{0, 16 << 40, 5 * gib, 128 * mib},
		{64 * mib, 16 << 40, 64 * mib, 16 * mib},
		{8 * gib, 32 * gib, 8 * gib, 128 * mib},
		{1, 32 * gib, 1, 0},
	} {
		floor, reserve := limitsOf(test.configured, test.total)
		if floor != test.floor || reserve != test.reserve {
			t.Errorf("%d configured, disk of %d: floor %d and reserve %d, want %d and %d", test.configured, test.total, floor, reserve, test.floor, test.reserve)
		}
	}
}

func TestPeersAreStoppedAtTheFloorAndTheOwnerAtTheReserve(t *testing.T) {
	d, g := newDisk(0)
	for _, test := range []struct {
		free          uint64
		peers, owners bool
	}{
		{512 * mib, true, true},
		{512*mib - 1, false, true},
		{128 * mib, false, true},
		{128*mib - 1, false, false},
		{0, false, false},
		{512 * mib, false, true}, // not yet resumed; see resume
		{544*mib - 1, false, true},
		{544 * mib, true, true},
	} {
		g.set(test.free, nil)
		s := d.State()
		if s.Free != test.free || s.Floor != 512*mib || s.Reserve != 128*mib || s.Paused == test.peers {
			t.Errorf("state with %d free: %+v", test.free, s)
		}
		if err := d.CheckIncoming(); (err == nil) != test.peers || err != nil && !errors.Is(err, ErrFull) {
			t.Errorf("incoming with %d free: %v", test.free, err)
		}
		if err := d.CheckWrite(0); (err == nil) != test.owners || err != nil && !errors.Is(err, ErrFull) {
			t.Errorf("own write with %d free: %v", test.free, err)
		}
	}
}

func TestErrorsHaveTheFigures(t *testing.T) {
	d, _ := newDisk(100 * mib)
	for what, err := range map[string]error{
		"the disk is almost full: 104857600 bytes are free at /repo, 570425344 are needed": d.CheckIncoming(),
		"the disk is almost full: 104857600 bytes are free at /repo, 134217735 are needed": d.CheckWrite(7),
	} {
		if err == nil || err.Error() != what {
			t.Errorf("got %v\nwant %s", err, what)
		}
	}
}

func TestOperatingSystemIsAskedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := newDisk(1 << 30)
		for range 1000 {
			wantErr(t, "incoming", d.CheckIncoming(), nil)
			wantErr(t, "write", d.CheckWrite(0), nil)
		}
		if n := g.count(); n != 1 {
			t.Errorf("asked %d times in no time", n)
		}
		g.set(0, nil)
		time.Sleep(defaultInterval)
		wantErr(t, "incoming", d.CheckIncoming(), ErrFull)
		if n := g.count(); n != 2 {
			t.Errorf("asked %d times in one interval", n)
		}
	})
}

func TestWritesOfTheOwnerCountBeforeTheNextReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := newDisk(1128 * mib)
		wantErr(t, "one that is too large", d.CheckWrite(1001*mib), ErrFull)
		before := g.count()
		for range 10 {
			wantErr(t, "one of ten that fit", d.CheckWrite(100*mib), nil)
		}
		if n := g.count() - before; n != 0 {
			t.Errorf("asked %d times for what fits", n)
		}
		g.set(128*mib, nil) // they were written
		wantErr(t, "one more", d.CheckWrite(1), ErrFull)
		g.set(129*mib, nil)
		wantErr(t, "one with room again", d.CheckWrite(mib), nil)
		wantErr(t, "one more", d.CheckWrite(1), nil) // not written yet
		g.set(128*mib, nil)
		wantErr(t, "one more", d.CheckWrite(mib), ErrFull)
	})
}

// Any number of callers may wait: each continues once there is space, and one
// of them asks for all.
func TestThoseWhoWaitGoOnByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := newDisk(0)
		const waiters = 500
		var group sync.WaitGroup
		for range waiters {
			group.Go(func() { wantErr(t, "wait", d.AwaitIncoming(t.Context()), nil) })
		}
		given, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		var gone sync.WaitGroup
		for range waiters {
			gone.Go(func() { wantErr(t, "wait in vain", d.AwaitIncoming(given), context.Canceled) })
		}
		const intervals = 100
		for range intervals {
			time.Sleep(defaultInterval / 2)
			giveUp() // also the one that asks for the others
			synctest.Wait()
			time.Sleep(defaultInterval / 2)
		}
		gone.Wait()
		if n := g.count(); n > intervals+2 {
			t.Errorf("asked %d times in %d intervals", n, intervals)
		}
		g.set(1<<30, nil)
		begin := time.Now()
		group.Wait()
		if took := time.Since(begin); took > 2*defaultInterval {
			t.Errorf("went on after %v", took)
		}
	})
}

func TestUnknownFreeSpaceStopsNothing(t *testing.T) {
	d, g := newDisk(0)
	wantErr(t, "incoming", d.CheckIncoming(), ErrFull)
	broken := errors.New("input/output error")
	g.set(0, broken)
	if s := d.State(); s.Paused || !errors.Is(s.Err, broken) {
		t.Errorf("state: %+v", s)
	}
	wantErr(t, "incoming", d.CheckIncoming(), nil)
	wantErr(t, "write", d.CheckWrite(1<<30), nil)
	wantErr(t, "wait", d.AwaitIncoming(t.Context()), nil)
}

func TestGuardEndsWorkOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := newDisk(1 << 30)
		guarded, stop := d.Guard(t.Context())
		defer stop()
		time.Sleep(time.Hour)
		wantErr(t, "with room", guarded.Err(), nil)
		g.set(mib, nil)
		<-guarded.Done()
		wantErr(t, "cause", context.Cause(guarded), ErrFull)

		g.set(1<<30, nil)
		time.Sleep(defaultInterval)
		guarded, stop = d.Guard(t.Context())
		stop()
		<-guarded.Done()
		wantErr(t, "cause of one that is stopped", context.Cause(guarded), context.Canceled)
	})
}

func TestNilDiskHasSpace(t *testing.T) {
	var d *Disk
	wantErr(t, "incoming", d.CheckIncoming(), nil)
	wantErr(t, "write", d.CheckWrite(1<<30), nil)
	wantErr(t, "wait", d.AwaitIncoming(t.Context()), nil)
	guarded, stop := d.Guard(t.Context())
	wantErr(t, "guard", guarded.Err(), nil)
	stop()
	if s := d.State(); s != (State{}) {
		t.Errorf("state: %+v", s)
	}
}

func TestFreeSpaceOfARealDiskIsRead(t *testing.T) {
	u, err := usageOf(t.TempDir())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil || u.Free == 0 || u.Free > u.Total {
		t.Errorf("usage %+v, %v", u, err)
	}
	if u, err := usageOf(t.TempDir() + "/nothing"); err == nil {
		t.Errorf("a path where nothing is: %+v", u)
	}
}

// Concurrent calls never return answers that contradict the limits.
func TestAnswersHoldUnderConcurrentUse(t *testing.T) {
	g := &gauge{usage: Usage{Free: 1 << 30, Total: 1 << 40}}
	d := New(Config{FreeBytes: 512 * mib, Probe: g.probe, Interval: time.Nanosecond})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1000 {
				g.set(rand.Uint64N(1<<30), nil)
				if s := d.State(); !s.Paused && s.Free < s.Floor || s.Paused && s.Free >= s.resume() {
					t.Errorf("state: %+v", s)
				}
				d.CheckIncoming()
				d.CheckWrite(1)
			}
		})
	}
	group.Wait()
}
