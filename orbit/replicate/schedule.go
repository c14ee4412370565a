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
// while it runs is waiting until the run has finished. The queue has the
// databases that are waiting and not running, once each.
type schedule struct {
	due wait.Flag // set when the next time may have changed

	mu    sync.Mutex
	all   map[inventory.Key]*scheduled // those that wait, run, or ran since they were removed last
	queue dueQueue
}

// scheduled is a database of a schedule.
type scheduled struct {
	key     inventory.Key
	waiting bool
	running bool
	at      time.Time // when it is due, if it is waiting
	runs    int       // since it was removed last
	place   int       // in the queue; outside for none
}

const outside = -1

func newSchedule() *schedule {
	return &schedule{due: wait.NewFlag(), all: make(map[inventory.Key]*scheduled)}
}

// add makes a database due at a time, unless it is due earlier.
func (s *schedule) add(k inventory.Key, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.all[k]
	if d == nil {
		d = &scheduled{key: k, place: outside}
		s.all[k] = d
	}
	s.bring(d, at)
}

// bring is add for a caller that holds s.mu.
func (s *schedule) bring(d *scheduled, at time.Time) {
	if d.waiting && !at.Before(d.at) {
		return
	}
	d.waiting, d.at = true, at
	switch {
	case d.running:
	case d.place == outside:
		heap.Push(&s.queue, d)
	default:
		heap.Fix(&s.queue, d.place)
	}
	s.due.Set()
}

// hurry makes all databases that are waiting due now.
func (s *schedule) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, d := range s.all {
		if d.waiting {
			s.bring(d, now)
		}
	}
}

// remove makes a database not due any more.
func (s *schedule) remove(k inventory.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.all[k]
	if d == nil {
		return
	}
	d.waiting, d.runs = false, 0
	if d.place != outside {
		heap.Remove(&s.queue, d.place)
	}
	s.forget(d)
}

// forget forgets a database of which there is nothing to know. The caller holds
// s.mu.
func (s *schedule) forget(d *scheduled) {
	if !d.waiting && !d.running && d.runs == 0 {
		delete(s.all, d.key)
	}
}

// finished notes that a database does not run any more.
func (s *schedule) finished(k inventory.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.all[k]
	d.running = false
	if d.waiting {
		heap.Push(&s.queue, d)
		s.due.Set()
	}
	s.forget(d)
}

// runs returns how often a database ran since it was removed last.
func (s *schedule) runs(k inventory.Key) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.all[k]; d != nil {
		return d.runs
	}
	return 0
}

// pause returns the pause before the next run of a database. It doubles with
// each run.
func (s *schedule) pause(k inventory.Key) time.Duration {
	return doubled(recheckAfter, s.runs(k), idleMax)
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
	if len(s.queue) == 0 {
		return k, time.Hour
	}
	d := s.queue[0]
	if rest = time.Until(d.at); rest > 0 {
		return k, rest
	}
	heap.Pop(&s.queue)
	d.waiting, d.running = false, true
	d.runs++
	return d.key, 0
}

// dueQueue is a heap, the earliest database first.
type dueQueue []*scheduled

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *dueQueue) Push(x any) {
	d := x.(*scheduled)
	d.place = len(*q)
	*q = append(*q, d)
}

func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	d := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	d.place = outside
	return d
}
