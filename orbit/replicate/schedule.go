package replicate

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
)

// schedule has the databases that are to catch up with a peer, and when.
//
// A database is waiting, running, both, or neither. A database that is added
// while it runs is waiting until the run has finished. The queue has an item for
// each time at which a database was waiting; items that are out of date are
// skipped.
type schedule struct {
	due wait.Flag // set when the next time may have changed

	mu      sync.Mutex
	waiting map[inventory.Key]time.Time
	running map[inventory.Key]bool
	tries   map[inventory.Key]int // runs since the database was removed last
	queue   dueQueue
}

func newSchedule() *schedule {
	return &schedule{due: wait.NewFlag(), waiting: make(map[inventory.Key]time.Time), running: make(map[inventory.Key]bool), tries: make(map[inventory.Key]int)}
}

// add makes a database due at a time, unless it is due earlier.
func (s *schedule) add(k inventory.Key, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, ok := s.waiting[k]; ok && !before.After(at) {
		return
	}
	s.waiting[k] = at
	s.push(k, at)
}

func (s *schedule) push(k inventory.Key, at time.Time) {
	heap.Push(&s.queue, dueItem{k, at})
	s.due.Set()
}

// hurry makes all databases that are waiting due now.
func (s *schedule) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for k, at := range s.waiting {
		if at.After(now) {
			s.waiting[k] = now
			s.push(k, now)
		}
	}
}

// remove makes a database not due any more.
func (s *schedule) remove(k inventory.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, k)
	delete(s.tries, k)
}

// finished notes that a database does not run any more.
func (s *schedule) finished(k inventory.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, k)
	if at, ok := s.waiting[k]; ok {
		s.push(k, at)
	}
}

// runs returns how often a database ran since it was removed last.
func (s *schedule) runs(k inventory.Key) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries[k]
}

// pause returns the pause before the next run of a database. It doubles with
// each run.
func (s *schedule) pause(k inventory.Key) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return doubled(recheckAfter, s.tries[k], idleMax)
}

// delay returns the time from a change at the peer to a run. It is short, unless
// runs were in vain.
func (s *schedule) delay(k inventory.Key) time.Duration {
	return min(max(announceAfter, s.pause(k)-recheckAfter), slotStall)
}

// next waits for a database that is due, which runs from now on. It returns
// false when the context is done.
func (s *schedule) next(ctx context.Context) (k inventory.Key, ok bool) {
	for {
		k, rest := s.start()
		if rest == 0 {
			return k, true
		}
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-s.due:
		case <-ctx.Done():
			timer.Stop()
			return k, false
		}
		timer.Stop()
	}
}

// start returns a database that is due, which runs from now on, or the time
// until one may be due.
func (s *schedule) start() (k inventory.Key, rest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 {
		next := s.queue[0]
		at, ok := s.waiting[next.key]
		if !ok || !at.Equal(next.at) || s.running[next.key] {
			heap.Pop(&s.queue)
			continue
		}
		if rest = time.Until(at); rest > 0 {
			return k, rest
		}
		heap.Pop(&s.queue)
		delete(s.waiting, next.key)
		s.running[next.key] = true
		s.tries[next.key]++
		return next.key, 0
	}
	return k, time.Hour
}

// dueItem is an item of a dueQueue.
type dueItem struct {
	key inventory.Key
	at  time.Time
}

// dueQueue is a heap, the earliest item first.
type dueQueue []dueItem

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q dueQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *dueQueue) Push(x any)        { *q = append(*q, x.(dueItem)) }
func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}
