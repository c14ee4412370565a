package replicate

import (
	"context"
	"sync"
	"time"
)

// turns are taken by peers that ship, one at a time. Who waits for a turn ends
// that of a peer of whom nothing comes.
type turns struct {
	token chan struct{} // holds a token during a turn

	mu      sync.Mutex
	waiting int
	began   time.Time     // when the present turn began, or somebody wanted one
	moved   time.Time     // when something came since then
	stop    func()        // ends the present turn; nil where there is none
	change  chan struct{} // closed at the next change of all that
}

func newTurns() turns {
	return turns{token: make(chan struct{}, 1), change: make(chan struct{})}
}

// changed tells of a change. The caller holds t.mu.
func (t *turns) changed() {
	close(t.change)
	t.change = make(chan struct{})
}

// want says that begin or withdraw will be called.
func (t *turns) want() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting++; t.waiting == 1 && t.stop == nil {
		t.began, t.moved = time.Now(), time.Now()
	}
}

func (t *turns) withdraw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting--
	t.changed()
}

// begin waits for a turn, which stop ends.
func (t *turns) begin(ctx context.Context, stop func()) error {
	look := time.NewTimer(shipStall)
	defer look.Stop()
	for {
		select {
		case t.token <- struct{}{}:
			t.mu.Lock()
			defer t.mu.Unlock()
			t.waiting--
			t.began, t.moved, t.stop = time.Now(), time.Now(), stop
			t.changed()
			return nil
		case <-look.C:
			t.mu.Lock()
			rest := time.Until(t.moved.Add(shipStall))
			if rest <= 0 && t.stop != nil {
				t.stop()
				rest = shipStall
			}
			t.mu.Unlock()
			look.Reset(max(rest, shipStall/10))
		case <-ctx.Done():
			t.withdraw()
			return ctx.Err()
		}
	}
}

func (t *turns) end() {
	t.mu.Lock()
	t.stop = nil
	t.changed()
	t.mu.Unlock()
	<-t.token
}

// came notes that something came.
func (t *turns) came() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moved = time.Now()
}

// isUp reports whether it is time for another peer's turn.
func (t *turns) isUp() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting > 0 && time.Since(t.began) > turnFor
}

// awaitShipment waits while entries are being shipped, so that they are not
// fetched one by one meanwhile, and reports whether it had to. It does not wait
// for long where they come slowly.
func (rp *replica) awaitShipment() (waited bool) {
	t := &rp.turns
	for {
		t.mu.Lock()
		until := earlier(t.moved.Add(shipStall), t.began.Add(fetchAfter))
		running, change := t.waiting > 0 || t.stop != nil, t.change
		t.mu.Unlock()
		rest := time.Until(until)
		if !running || rest <= 0 {
			return waited
		}
		waited = true
		select {
		case <-change:
		case <-time.After(rest):
		case <-rp.ctx.Done():
			return waited
		}
	}
}
