package main

import (
	"context"
	"fmt"
	"time"
)

// kind is the implementation of a replica.
type kind string

const (
	inJS     kind = "JavaScript"
	inDaemon kind = "daemon"
)

// way is the direction in which entries go.
type way struct{ from, to kind }

var (
	amongJS      = way{inJS, inJS}
	amongDaemons = way{inDaemon, inDaemon}
)

func (w way) String() string { return fmt.Sprintf("%s → %s", w.from, w.to) }

func (w way) with(k kind) bool { return w.from == k || w.to == k }

// replicateBench is the state that the measurements of replication share.
type replicateBench struct {
	*bench
	js   *javaScript
	ways []way // the ways that can be measured
}

// benchReplicate measures the replication of databases.
func benchReplicate(ctx context.Context, b *bench) ([]*section, error) {
	js, err := installJavaScript(ctx, b)
	if err != nil {
		return nil, err
	}
	m := &replicateBench{bench: b, js: js}
	for _, w := range []way{amongJS, {inDaemon, inJS}, {inJS, inDaemon}, amongDaemons} {
		if js.missing == "" || !w.with(inJS) {
			m.ways = append(m.ways, w)
		}
	}
	var sections []*section
	for _, measure := range []func(context.Context) ([]*section, error){m.joins, m.difference, m.live, m.open} {
		s, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		sections = append(sections, s...)
	}
	return sections, nil
}

func (m *replicateBench) start(ctx context.Context, k kind) (replica, error) {
	if k == inJS {
		return m.js.startReplica(ctx)
	}
	return startDaemonReplica(ctx, m.bench)
}

// settle is the time before each reading of memory.
func (m *replicateBench) settle() time.Duration { return time.Duration(m.pick(3, 1)) * time.Second }

// kinds returns the kinds of the ways.
func (m *replicateBench) kinds() []kind {
	if m.js.missing == "" {
		return []kind{inJS, inDaemon}
	}
	return []kind{inDaemon}
}

// holding is a database and the replica that wrote it.
type holding struct {
	replica
	at   string // the replica's multiaddr
	name string
	n    int    // number of entries
	head string // the last entry
}

// hold makes a new replica write a database. The caller stops it.
func (m *replicateBench) hold(ctx context.Context, k kind, n int) (*holding, error) {
	progress("put %d documents, %s", n, k)
	r, err := m.start(ctx, k)
	if err != nil {
		return nil, err
	}
	h := &holding{replica: r, name: fmt.Sprint("held ", n), n: n}
	if err := h.write(ctx); err != nil {
		r.stop()
		return nil, err
	}
	return h, nil
}

func (h *holding) write(ctx context.Context) (err error) {
	if err := h.open(ctx, h.name); err != nil {
		return err
	}
	if h.head, err = h.fill(ctx, h.name, h.n); err != nil {
		return err
	}
	if d, ok := h.replica.(*daemonReplica); ok { // so that its memory is that of a holder, not of a writer
		d.stop()
		if err := d.start(ctx); err != nil {
			return err
		}
	}
	h.at, err = h.addr(ctx)
	return err
}

// complete fails unless a replica has n entries of a database.
func complete(ctx context.Context, r replica, name string, n int) error {
	got, err := r.count(ctx, name)
	if err == nil && got != n {
		err = fmt.Errorf("%d entries are there, want %d", got, n)
	}
	return err
}
