package replicate

import (
	"context"
	"sync"
	"time"

	"github.com/newpieceplease/npp/internal/wait"
)

// transferSlot is the right to be the one peer that transfers entries of a
// database. A waiter cancels the holder if it made no progress for slotStall.
//
// While a peer holds the slot, the token is in its channel and stop, which ends
// the session of the peer, is not nil. waiting counts the calls of begin that
// were announced and have not returned.
type transferSlot struct {
	token chan struct{} // holds a token while the slot is taken

	mu       sync.Mutex
	waiting  int
	began    time.Time // when the holder got the slot, or the first waiter announced itself
	progress time.Time // when something arrived last since then
	stop     func()    // ends the session of the holder; nil without a holder
	changes  wait.Change
}

func newTransferSlot() *transferSlot { return &transferSlot{token: make(chan struct{}, 1)} }

// announce says that begin or withdraw will be called. Bitswap waits from now
// on.
func (s *transferSlot) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting++; s.waiting == 1 && s.stop == nil {
		s.began, s.progress = time.Now(), time.Now()
	}
}

// withdraw undoes announce.
func (s *transferSlot) withdraw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
	s.changes.Announce()
}

// begin waits for the slot. A later waiter may call stop, which ends the
// session that uses the slot. After an error, which is that of the context, the
// call is withdrawn.
func (s *transferSlot) begin(ctx context.Context, stop func()) error {
	check := time.NewTimer(slotStall)
	defer check.Stop()
	for {
		select {
		case s.token <- struct{}{}:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.waiting--
			s.began, s.progress, s.stop = time.Now(), time.Now(), stop
			s.changes.Announce()
			return nil
		case <-check.C:
			check.Reset(max(s.stopStalled(), slotStall/10))
		case <-ctx.Done():
			s.withdraw()
			return ctx.Err()
		}
	}
}

// stopStalled stops a holder that made no progress for slotStall, and returns
// how long it may go on without progress.
func (s *transferSlot) stopStalled() (rest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest = time.Until(s.progress.Add(slotStall))
	if rest <= 0 && s.stop != nil {
		s.stop()
		rest = slotStall
	}
	return rest
}

// end gives the slot to the next waiter.
func (s *transferSlot) end() {
	s.mu.Lock()
	s.stop = nil
	s.changes.Announce()
	s.mu.Unlock()
	<-s.token
}

// progressed says that something arrived from the holder.
func (s *transferSlot) progressed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress = time.Now()
}

// isUp reports whether the holder has to leave the slot to a waiter.
func (s *transferSlot) isUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting > 0 && time.Since(s.began) > slotFor
}

// isTaken reports whether a peer holds the slot or waits for it.
func (s *transferSlot) isTaken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting > 0 || s.stop != nil
}

// await waits during transfers, so that bitswap does not fetch the same
// entries, and reports whether it had to. It returns after slotStall without
// progress, and after bitswapAfter in any case.
func (s *transferSlot) await(ctx context.Context) (waited bool) {
	for {
		changed := s.changes.Next()
		s.mu.Lock()
		until := earlier(s.progress.Add(slotStall), s.began.Add(bitswapAfter))
		running := s.waiting > 0 || s.stop != nil
		s.mu.Unlock()
		rest := time.Until(until)
		if !running || rest <= 0 {
			return waited
		}
		waited = true
		select {
		case <-changed:
		case <-time.After(rest):
		case <-ctx.Done():
			return waited
		}
	}
}
