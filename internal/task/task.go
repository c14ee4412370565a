// Package task runs the goroutines and calls of a service until it closes.
package task

import (
	"context"
	"sync"
)

// Group is the set of a service's running tasks. They share a context that is
// done when the group is stopped.
type Group struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex // orders Begin before Stop
	stopped bool
	running sync.WaitGroup
}

// NewGroup returns a group without tasks.
func NewGroup() *Group {
	ctx, cancel := context.WithCancel(context.Background())
	return &Group{ctx: ctx, cancel: cancel}
}

// Context returns the context of all tasks.
func (g *Group) Context() context.Context { return g.ctx }

// Begin adds the caller as a task, unless the group is stopped. The caller
// calls end when the task is done.
func (g *Group) Begin() (end func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return nil, false
	}
	g.running.Add(1)
	return g.running.Done, true
}

// Go runs f in a goroutine as a task, unless the group is stopped.
func (g *Group) Go(f func()) bool {
	end, ok := g.Begin()
	if ok {
		go func() {
			defer end()
			f()
		}()
	}
	return ok
}

// Stop ends the context of the group and refuses further tasks. It does not
// wait.
func (g *Group) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	g.cancel()
}

// Wait waits for the tasks that run. It is called after Stop.
func (g *Group) Wait() { g.running.Wait() }

// Close stops the group and waits for its tasks.
func (g *Group) Close() {
	g.Stop()
	g.Wait()
}
