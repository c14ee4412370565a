package wait

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestChangeWakesAllWaiters(t *testing.T) {
	var c Change
	c.Announce() // without a waiter
	a, b := c.Next(), c.Next()
	if isClosed(a) || isClosed(b) {
		t.Fatal("a waiter is woken by an earlier change")
	}
	c.Announce()
	if !isClosed(a) || !isClosed(b) {
		t.Error("a waiter is not woken")
	}
	if isClosed(c.Next()) {
		t.Error("a new waiter is woken by the last change")
	}
}

func TestFlagIsNeitherLostNorCountedTwice(t *testing.T) {
	f := NewFlag()
	f.Set()
	f.Set()
	<-f
	if isClosed(f) {
		t.Error("a flag that was set twice wakes twice")
	}
}

func TestForEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := For(t.Context(), time.Hour); err != nil || time.Since(start) != time.Hour {
			t.Errorf("waited %s: %v", time.Since(start), err)
		}
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := For(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
			t.Errorf("a wait beyond the deadline took %s: %v", time.Since(start), err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := For(ctx, time.Hour); !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
			t.Errorf("a cancelled wait took %s: %v", time.Since(start), err)
		}
	})
}

func TestBackoffDoublesUpToItsMaximum(t *testing.T) {
	b := Backoff{First: time.Second, Max: 5 * time.Second}
	for range 2 {
		for _, want := range []time.Duration{1, 2, 4, 5, 5} {
			want *= time.Second
			if got := b.Next(); got < want/2 || got > want {
				t.Errorf("delay %s, want from %s to %s", got, want/2, want)
			}
		}
		b.Reset()
	}
}
