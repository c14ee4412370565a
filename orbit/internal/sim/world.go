package sim

import (
	"container/heap"
	"fmt"
	"runtime"
	"sync"
	"testing/synctest"
	"time"
)

// world has the events of a history. It lives in a bubble of synctest.
type world struct {
	chance digest // of the seed
	begun  time.Time
	trace  func(string) // is called for each event, unless it is nil

	mu    sync.Mutex // guards the whole simulation; never held while real code is called
	queue queue
	sum   uint64        // of all past events
	count int           // the number of past events
	wake  chan struct{} // holds a token when another event became the next one
}

func newWorld(seed uint64) *world {
	return &world{chance: digest(seed).text("world"), begun: time.Now(), wake: make(chan struct{}, 1)}
}

// step is a scheduled event. Its key is unique.
type step struct {
	at   time.Time
	key  digest
	what string // "" if it is not counted as an event
	do   func()
}

// line returns the line of [world.trace] for a step that happens at a time.
func (e step) line(at time.Duration) string {
	return fmt.Sprintf("%v %s %016x", at, e.what, uint64(e.key))
}

// queue is a heap of steps.
type queue []step

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].key < q[j].key
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(e any)   { *q = append(*q, e.(step)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = step{}
	*q = (*q)[:last]
	return e
}

// now returns a digest of the time and the purpose of a random number.
func (w *world) now(what string) digest {
	return w.chance.number(int64(time.Since(w.begun))).text(what)
}

// between returns a random duration.
func (d digest) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.share()*float64(most-least))
}

// at schedules a step. The caller holds w.mu.
func (w *world) at(when time.Time, key digest, what string, do func()) {
	heap.Push(&w.queue, step{when, key, what, do})
	if w.queue[0].key == key {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// plan is at for a caller that does not hold w.mu.
func (w *world) plan(when time.Time, key digest, what string, do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at(when, key, what, do)
}

// tidyEvery is the number of events between two garbage collections, which
// happen while no other goroutine runs.
const tidyEvery = 4096

// run runs the steps that are scheduled before a time.
func (w *world) run(until time.Time) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		w.mu.Lock()
		next := until
		if len(w.queue) > 0 && w.queue[0].at.Before(until) {
			next = w.queue[0].at
		}
		w.mu.Unlock()
		if rest := time.Until(next); rest > 0 {
			timer.Reset(rest)
			select {
			case <-timer.C:
			case <-w.wake:
				continue
			}
		} else if next.Equal(until) {
			return
		}
		w.happen(until)
		synctest.Wait()
		if w.count%tidyEvery == 0 {
			runtime.GC()
		}
	}
}

// happen runs the next step, if its time has come.
func (w *world) happen(until time.Time) {
	w.mu.Lock()
	if len(w.queue) == 0 || !w.queue[0].at.Before(until) || w.queue[0].at.After(time.Now()) {
		w.mu.Unlock()
		return
	}
	e := heap.Pop(&w.queue).(step)
	if e.what != "" {
		w.note(e.key, e.what)
	}
	w.mu.Unlock()
	e.do()
}

// note adds an event to the sum of all events. The caller holds w.mu.
func (w *world) note(key digest, what string) {
	at := time.Since(w.begun)
	w.sum += key.number(int64(at)).mixed()
	w.count++
	if w.trace != nil {
		w.trace(step{key: key, what: what}.line(at))
	}
}
