package task

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCloseWaitsForTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup()
		var done atomic.Int32
		g.Go(func() {
			<-g.Context().Done()
			time.Sleep(time.Second)
			done.Add(1)
		})
		end, ok := g.Begin()
		if !ok {
			t.Fatal("a task is refused")
		}
		time.AfterFunc(time.Minute, func() {
			done.Add(1)
			end()
		})
		g.Close()
		if done.Load() != 2 {
			t.Errorf("%d tasks are done", done.Load())
		}
	})
}

func TestStoppedGroupRefusesTasks(t *testing.T) {
	g := NewGroup()
	g.Stop()
	if _, ok := g.Begin(); ok {
		t.Error("a call begins after Stop")
	}
	if g.Go(func() { t.Error("a goroutine runs after Stop") }) {
		t.Error("a goroutine begins after Stop")
	}
	g.Close()
}
