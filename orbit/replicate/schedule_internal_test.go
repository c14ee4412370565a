package replicate

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/newpieceplease/npp/orbit/internal/inventory"
)

// keyNumbered returns a key that a number defines.
func keyNumbered(n int) (k inventory.Key) {
	k[0], k[1], k[2] = byte(n), byte(n>>8), byte(n>>16)
	return k
}

// runsAfter waits for a time, and returns the databases that are due, which run
// from now on.
func (s *schedule) runsAfter(d time.Duration) (due []inventory.Key) {
	time.Sleep(d)
	for {
		k, rest := s.start()
		if rest > 0 {
			return due
		}
		due = append(due, k)
	}
}

func TestDatabaseRunsOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newSchedule(), keyNumbered(1)
		s.add(k, time.Now())
		if len(s.runsAfter(0)) != 1 {
			t.Fatal("a database that is due does not run")
		}
		s.add(k, time.Now())
		if len(s.runsAfter(time.Hour)) != 0 {
			t.Error("a database runs twice at once")
		}
		s.finished(k)
		if len(s.runsAfter(0)) != 1 {
			t.Error("a database that was added during a run does not run again")
		}
		s.finished(k)
		if len(s.runsAfter(time.Hour)) != 0 {
			t.Error("a database runs that was not added")
		}
	})
}

func TestTheEarlierTimeCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newSchedule(), keyNumbered(1)
		s.add(k, time.Now().Add(time.Minute))
		s.add(k, time.Now().Add(time.Second))
		s.add(k, time.Now().Add(time.Hour))
		if len(s.runsAfter(time.Second)) != 1 {
			t.Error("a database is not due at the earlier of two times")
		}
		s.finished(k)
		if len(s.runsAfter(2*time.Hour)) != 0 {
			t.Error("a database runs at the later of two times as well")
		}
	})
}

func TestRunsInVainAreRarer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newSchedule(), keyNumbered(1)
		last := time.Duration(0)
		for range 20 {
			pause := s.pause(k)
			if pause < recheckAfter || pause != idleMax && pause < 2*last || s.delay(k) < announceAfter || s.delay(k) > slotStall {
				t.Fatalf("a pause of %v after one of %v, %v from a change", pause, last, s.delay(k))
			}
			s.add(k, time.Now().Add(pause))
			if len(s.runsAfter(pause)) != 1 {
				t.Fatal("it does not run")
			}
			s.finished(k)
			last = pause
		}
		if last != idleMax {
			t.Errorf("the last pause is %v", last)
		}
		s.remove(k)
		if s.pause(k) != recheckAfter || s.runs(k) != 0 || len(s.all) != 0 {
			t.Error("runs are remembered after the databases agreed")
		}
	})
}

func TestRemovedDatabaseDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newSchedule(), keyNumbered(1)
		s.add(k, time.Now())
		s.remove(k)
		if len(s.runsAfter(time.Hour)) != 0 {
			t.Error("a removed database runs")
		}
		s.add(k, time.Now())
		s.runsAfter(0)
		s.remove(k)
		s.finished(k)
		if len(s.runsAfter(time.Hour)) != 0 || len(s.all) != 0 {
			t.Error("a database that was removed during its run is remembered")
		}
	})
}

func TestHurryMakesAllDueNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule()
		for n := range 10 {
			s.add(keyNumbered(n), time.Now().Add(time.Duration(n)*time.Hour))
		}
		s.runsAfter(0) // the first one
		s.add(keyNumbered(0), time.Now().Add(time.Hour))
		s.hurry()
		if n := len(s.runsAfter(0)); n != 9 {
			t.Errorf("%d of 9 databases are due", n)
		}
		s.finished(keyNumbered(0))
		if len(s.runsAfter(0)) != 1 {
			t.Error("a database that was running is not due")
		}
	})
}

// A waiter is woken by what becomes due earlier than what it waits for.
func TestNextIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule()
		begun := time.Now()
		s.add(keyNumbered(1), begun.Add(time.Hour))
		go func() {
			time.Sleep(time.Second)
			s.add(keyNumbered(2), begun.Add(time.Minute))
		}()
		if k, ok := s.next(t.Context()); !ok || k != keyNumbered(2) || time.Since(begun) != time.Minute {
			t.Errorf("%v %v after %v", k, ok, time.Since(begun))
		}
		if k, ok := s.next(t.Context()); !ok || k != keyNumbered(1) || time.Since(begun) != time.Hour {
			t.Errorf("%v %v after %v", k, ok, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, ok := s.next(ctx); ok {
			t.Error("something is due")
		}
	})
}

// A peer that changes its mind all the time does not make a schedule grow.
func TestScheduleIsBounded(t *testing.T) {
	s := newSchedule()
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		k := keyNumbered(r.IntN(100))
		switch r.IntN(3) {
		case 0:
			s.add(k, time.Now().Add(time.Duration(r.IntN(1_000_000))))
		case 1:
			s.remove(k)
		default:
			if k, rest := s.start(); rest == 0 {
				s.finished(k)
			}
		}
		if len(s.queue) > 100 || len(s.all) > 100 {
			t.Fatalf("%d items for 100 databases, %d remembered", len(s.queue), len(s.all))
		}
	}
	for _, d := range s.queue {
		if s.queue[d.place] != d || !d.waiting || d.running {
			t.Fatalf("%+v is in the queue", d)
		}
	}
}
