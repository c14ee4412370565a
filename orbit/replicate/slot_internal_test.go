package replicate

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestStalledHolderLosesTheTransferSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTransferSlot()
		s.announce()
		holding, stop := context.WithCancel(t.Context())
		must(t, s.begin(t.Context(), stop))
		time.Sleep(time.Hour) // nobody waits for it
		if holding.Err() != nil || s.isUp() {
			t.Error("it is stopped although nobody waits")
		}
		s.announce()
		if !s.isUp() {
			t.Error("it does not leave the slot to a waiter")
		}
		go func() {
			<-holding.Done()
			s.end()
		}()
		begun := time.Now()
		must(t, s.begin(t.Context(), func() {}))
		if took := time.Since(begun); took > 2*slotStall {
			t.Errorf("the waiter got the slot after %v", took)
		}
		s.announce()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.begin(ctx, nil); !errors.Is(err, context.DeadlineExceeded) || s.waiting != 0 {
			t.Errorf("%v, %d wait", err, s.waiting)
		}
	})
}

// Bitswap waits while a transfer makes progress, but not for longer than
// bitswapAfter.
func TestBitswapWaitsForTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTransferSlot()
		waits := func() time.Duration {
			begun := time.Now()
			s.await(t.Context())
			return time.Since(begun)
		}
		if d := waits(); d != 0 {
			t.Errorf("without a transfer, it waits for %v", d)
		}
		s.announce()
		if d := waits(); d != slotStall {
			t.Errorf("for a transfer without progress, it waits for %v", d)
		}
		must(t, s.begin(t.Context(), func() {}))
		ctx, cancel := context.WithCancel(t.Context())
		var holder sync.WaitGroup
		holder.Go(func() {
			for ctx.Err() == nil {
				s.progressed()
				time.Sleep(time.Second)
			}
		})
		defer holder.Wait()
		defer cancel()
		if d := waits(); d < bitswapAfter || d > bitswapAfter+slotStall {
			t.Errorf("for a transfer that goes on, it waits for %v", d)
		}
	})
}
