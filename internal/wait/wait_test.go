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
		if err := Within(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
			t.Errorf("a wait beyond the deadline took %s: %v", time.Since(start), err)
		}
		if err := For(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("a wait up to the deadline took %s: %v", time.Since(start), err)
		}
		start = time.Now()
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := For(ctx, time.Hour); !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
			t.Errorf("a cancelled wait took %s: %v", time.Since(start), err)
		}
	})
}

func TestBackoffDoublesUpToItsMaximumAtRandom(t *testing.T) {
	b := Backoff{First: time.Second, Max: 5 * time.Second}
	for range 2 {
		for want := b.First; ; want = min(2*want, b.Max) {
			if d := b.Next(); d < want/2 || d >= want {
				t.Fatalf("%v is not between %v and %v", d, want/2, want)
			}
			if want == b.Max {
				break
			}
		}
		seen := make(map[bool]bool)
		for range 1000 {
			d := b.Next()
			if d < b.Max/2 || d >= b.Max {
				t.Fatalf("%v is not between %v and %v", d, b.Max/2, b.Max)
			}
			seen[d < b.Max*3/4] = true
		}
		if len(seen) != 2 {
			t.Error("the delays are always in the same half")
		}
		b.Reset()
	}
}
