package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// Bounds of a group: it accepts no further update once it has reached either.
const (
	maxGroupUpdates = 256
	maxGroupBytes   = 1 << 20 // of keys and values; a leveldb batch above 4 MiB is slow
)

var errGoexit = errors.New("update aborted: a function of its group ended the goroutine")

// Update runs fn and makes all of its writes durable, or none.
//
// Functions run one after the other, and each sees the writes of those before
// it. If fn returns an error or panics, it writes nothing. Update then returns
// the error, or the panic as an error, as soon as everything that fn may have
// read is durable. If the datastore fails, Update returns an error that wraps
// the cause, and [ErrNotDurable] unless it is certain that nothing was written.
//
// If ctx is done before fn ran, Update returns its error and writes nothing.
// After that, Update waits for the outcome.
//
// fn must be quick. It runs in the goroutine of any caller, must not call
// Update, and must not use tx after it returned.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{ctx: ctx, fn: fn, done: make(chan struct{})}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.pending = append(s.pending, r)
	s.mu.Unlock()

	for {
		select {
		case <-r.done:
			return r.err
		case <-ctx.Done():
			if s.withdraw(r) {
				return ctx.Err()
			}
			<-r.done
			return r.err
		case s.leader <- struct{}{}:
			s.lead(r)
		}
	}
}

// Put sets the value at key and makes that durable; see [Store.Update].
func (s *Store) Put(ctx context.Context, key string, value []byte) error {
	if err := s.Update(ctx, func(tx *Tx) error { return tx.Put(key, value) }); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// Delete deletes the value at key and makes that durable; see [Store.Update]. A
// key without a value is not an error.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.Update(ctx, func(tx *Tx) error { return tx.Delete(key) }); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// request is a call of Update.
type request struct {
	ctx  context.Context
	fn   func(*Tx) error
	err  error // the error of fn, then that of Update
	done chan struct{}
}

func (r *request) answer(err error) {
	r.err = err
	close(r.done)
}

// withdraw removes r unless its function has begun.
func (s *Store) withdraw(r *request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range s.pending {
		if p == r {
			s.pending = append(s.pending[:i], s.pending[i+1:]...)
			return true
		}
	}
	return false
}

func (s *Store) next() *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return nil
	}
	r := s.pending[0]
	s.pending[0] = nil // what the request refers to may be large
	s.pending = s.pending[1:]
	return r
}

// lead runs a group of the pending requests and answers them, unless own has
// been answered, and returns the leader's token.
func (s *Store) lead(own *request) {
	defer func() { <-s.leader }()
	select {
	case <-own.done:
		return
	default:
	}
	g := &group{writes: make(map[string]write)}
	var requests []*request
	failure := errGoexit // until flush has been reached
	defer func() {
		for _, r := range requests {
			if failure != nil {
				r.err = failure
			}
			close(r.done)
		}
	}()
	for len(requests) < maxGroupUpdates && g.size < maxGroupBytes {
		r := s.next()
		if r == nil {
			break
		}
		requests = append(requests, r)
		r.err = s.run(g, r)
	}
	failure = s.flush(g)
	if len(g.writes) > 0 {
		s.mu.Lock()
		s.failing = failure
		s.mu.Unlock()
	}
}

// run runs the function of r and adds its writes to g if it succeeds.
func (s *Store) run(g *group, r *request) (err error) {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	tx := &Tx{store: s, group: g, ctx: r.ctx, writes: make(map[string]write)}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("update: panic: %v", p)
		}
	}()
	if err := r.fn(tx); err != nil {
		return err
	}
	g.add(tx.writes)
	return nil
}

// flush commits and syncs the writes of g, and syncs those of an earlier group
// if that failed to.
func (s *Store) flush(g *group) error {
	// The outcome concerns all requests of the group, so no request's context
	// applies.
	ctx := context.Background()
	if len(g.writes) > 0 {
		batch, err := s.ds.Batch(ctx)
		if err != nil {
			return fmt.Errorf("begin batch: %w", err)
		}
		for key, w := range g.writes {
			if w.deleted {
				err = batch.Delete(ctx, s.dsKey(key))
			} else {
				err = batch.Put(ctx, s.dsKey(key), w.value)
			}
			if err != nil {
				return fmt.Errorf("add %q to batch: %w", key, err)
			}
		}
		s.dirty = true
		if err := batch.Commit(ctx); err != nil {
			return fmt.Errorf("commit: %w: %w", ErrNotDurable, err)
		}
	}
	if s.dirty {
		if err := s.ds.Sync(ctx, s.root); err != nil {
			return fmt.Errorf("sync: %w: %w", ErrNotDurable, err)
		}
		s.dirty = false
	}
	return nil
}

// group holds the writes of a group's functions.
type group struct {
	writes map[string]write
	size   int // bytes written since the group began
}

func (g *group) add(writes map[string]write) {
	for key, w := range writes {
		g.writes[key] = w
		g.size += len(key) + len(w.value)
	}
}

type write struct {
	value   []byte
	deleted bool
}

// Tx is a transaction of [Store.Update].
type Tx struct {
	store  *Store
	group  *group
	ctx    context.Context
	writes map[string]write
}

// Get returns the value at key, or [ErrNotFound].
func (tx *Tx) Get(key string) ([]byte, error) {
	if w, ok := tx.written(key); ok {
		if w.deleted {
			return nil, fmt.Errorf("get %q: %w", key, ErrNotFound)
		}
		return bytes.Clone(w.value), nil
	}
	return tx.store.Get(tx.ctx, key)
}

// Has reports whether there is a value at key.
func (tx *Tx) Has(key string) (bool, error) {
	if w, ok := tx.written(key); ok {
		return !w.deleted, nil
	}
	return tx.store.Has(tx.ctx, key)
}

// Put sets the value at key. It copies value.
func (tx *Tx) Put(key string, value []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	tx.writes[key] = write{value: append([]byte{}, value...)}
	return nil
}

// Delete deletes the value at key. A key without a value is not an error.
func (tx *Tx) Delete(key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	tx.writes[key] = write{deleted: true}
	return nil
}

func (tx *Tx) written(key string) (write, bool) {
	if w, ok := tx.writes[key]; ok {
		return w, true
	}
	w, ok := tx.group.writes[key]
	return w, ok
}
