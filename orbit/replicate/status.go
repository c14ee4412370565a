package replicate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// State is how far the replication of a database is.
type State string

const (
	// Fetching is that the database cannot be opened yet: its manifest or its
	// access controller is missing.
	Fetching State = "fetching"
	// Open is that it is open and replicated.
	Open State = "open"
	// Closed is that it is here, and not replicated.
	Closed State = "closed"
	// Failed is that what came with its address is no database, or that it is
	// damaged.
	Failed State = "failed"
)

// Status is what is known of the replication of a database.
type Status struct {
	Address string
	State   State
	Err     error // of Failed
	// Encrypted tells that peers sent, as entries, blocks that only the holders of
	// a key can read ([entry.ErrEncrypted]), and that the database has no entry
	// here. The database is open then, and no peer counts as in step.
	Encrypted bool
	Full      error     // why nothing is accepted from other peers; wraps space.ErrFull or [orbit.ErrFull], or nil
	GaveUp    bool      // entries that waited were given up for want of room since a peer was in step; they come again with its heads
	NotLive   error     // why its topic is not subscribed to, so that what is new comes late or not at all; or nil
	Missing   []Missing // blocks that were asked for in vain, by hash, at most 64
	Asking    int       // blocks that are being asked for
	Shipment  *Shipment // that a peer ships at the moment, or nil
	Refused   []Refusal // newest last, at most 32
	Peers     []Peer    // by ID
}

// Peer is a peer that has the database open, or had.
type Peer struct {
	ID        peer.ID
	Open      bool       // it is connected, and subscribed to the topic
	Exchanged time.Time  // when heads were exchanged last; zero for never
	InStep    time.Time  // when its replica agreed with ours; zero for never
	By        Comparison // what that is compared by; "" where it was not compared yet
	Heads     int        // that it had
	Err       error      // of the last exchange
}

// Status returns what is known of the replication of a database that is here or
// was opened; any other is [orbit.ErrUnknown].
func (r *Replicator) Status(ctx context.Context, address string) (Status, error) {
	rp := r.find(address)
	if rp == nil {
		if _, err := r.cfg.Orbit.Resolve(ctx, address); err != nil {
			return Status{}, err
		}
		if !r.isPaused(address) {
			if _, err := r.cfg.Orbit.Open(ctx, address, orbit.OpenOptions{}); err != nil {
				return Status{Address: address, State: Failed, Err: err}, nil
			}
			rp = r.find(address)
		}
	}
	if rp == nil {
		return Status{Address: address, State: Closed}, nil
	}
	s, _ := rp.seen(ctx)
	return s, nil
}

// seen is status with Encrypted, for which it reads the log. A log that cannot be
// read does not count as encrypted.
func (rp *replica) seen(ctx context.Context) (Status, <-chan struct{}) {
	s, changed := rp.status()
	if !slices.ContainsFunc(s.Refused, func(r Refusal) bool { return errors.Is(r.Err, entry.ErrEncrypted) }) {
		return s, changed
	}
	stats, err := oplog.Of(rp.database()).Stats(ctx)
	if s.Encrypted = err == nil && stats.Entries == 0; s.Encrypted {
		for i := range s.Peers {
			s.Peers[i].InStep = time.Time{} // what it has cannot be compared
		}
	}
	return s, changed
}

// status also returns a channel that is closed when there is news.
func (rp *replica) status() (Status, <-chan struct{}) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	s := Status{Address: rp.address, State: Fetching, Err: rp.err, Full: cmp.Or(rp.r.cfg.Disk.CheckIncoming(), rp.full), GaveUp: rp.gaveUp, NotLive: rp.live.err, Asking: len(rp.wants), Shipment: rp.shipment, Refused: slices.Clone(rp.refused)}
	switch {
	case rp.db != nil:
		s.State = Open
	case rp.err != nil:
		s.State = Failed
	}
	for _, m := range rp.missing {
		s.Missing = append(s.Missing, *m)
	}
	slices.SortFunc(s.Missing, func(a, b Missing) int { return strings.Compare(a.Hash, b.Hash) })
	s.Missing = s.Missing[:min(len(s.Missing), maxShown)]
	for id, q := range rp.peers {
		open := q.subscribed && rp.connected(id)
		s.Peers = append(s.Peers, Peer{ID: id, Open: open, Exchanged: q.last, InStep: q.inStep, By: q.by, Heads: q.heads, Err: q.err})
	}
	slices.SortFunc(s.Peers, func(a, b Peer) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return s, rp.changed
}

// Pending yields the addresses of the databases that are replicated and not
// here yet.
func (r *Replicator) Pending() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var pending []string
	for address, rp := range r.replicas {
		if rp.database() == nil {
			pending = append(pending, address)
		}
	}
	slices.Sort(pending)
	return pending
}

// ErrFailed says that what came with an address is no database.
var ErrFailed = errors.New("cannot be opened")

// Follow yields the status of a database that is replicated, and again after
// each change, at most ten times a second, until the context is done or the
// replication of the database ends.
func (r *Replicator) Follow(ctx context.Context, address string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		rp := r.find(address)
		if rp == nil {
			yield(Status{}, fmt.Errorf("%w: %s", ErrNotReplicated, address))
			return
		}
		for {
			s, changed := rp.seen(ctx)
			if !yield(s, nil) {
				return
			}
			select {
			case <-time.After(followPause):
			case <-ctx.Done():
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(Status{}, ctx.Err())
				return
			case <-rp.ctx.Done():
				yield(Status{}, rp.end())
				return
			}
		}
	}
}

// end is why a replica has ended.
func (rp *replica) end() error {
	if rp.r.ctx.Err() != nil {
		return ErrClosed
	}
	return fmt.Errorf("%w: %s", ErrNotReplicated, rp.address)
}

// Settled reports whether a status is one of a database that has all that a
// peer has: it is open, in step with a peer since a time, and misses nothing. A
// peer that is not comparable counts once heads were exchanged.
func (s Status) Settled(since time.Time) bool {
	return s.State == Open && s.Full == nil && s.Asking == 0 && len(s.Missing) == 0 &&
		slices.ContainsFunc(s.Peers, func(p Peer) bool {
			return !p.InStep.Before(since) || p.By == NotComparable && !p.Exchanged.Before(since)
		})
}

// EventKind is what an event tells.
type EventKind string

const (
	Update EventKind = "update" // an entry came to count
	Lost   EventKind = "lost"   // an entry ceased to count: the access list changed
	Met    EventKind = "join"   // a peer opened the database
	Left   EventKind = "leave"  // a peer closed it, or is gone
	InStep EventKind = "sync"   // the replica of a peer agrees with ours
)

// Event is news of a database.
type Event struct {
	Kind    EventKind
	At      time.Time
	Peer    peer.ID       // of all but Update and Lost
	Arrival orbit.Arrival // of Update and Lost
}

// tell tells the watchers of a peer. The caller holds rp.mu.
func (rp *replica) tell(e Event) {
	e.At = time.Now()
	for w := range rp.watchers {
		select {
		case w <- e:
		default: // it reads no faster than its reader
		}
	}
}

// Watch yields what happens to a database that is replicated from now on:
// each entry that counts, in the order of arrival, and what its peers do. A
// reader that is slow misses some of the latter. Once nothing is missed any more,
// ready is called, unless it is nil. It ends when the context is done or the
// replication of the database ends.
func (r *Replicator) Watch(ctx context.Context, address string, ready func()) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		rp := r.find(address)
		if rp == nil {
			yield(Event{}, fmt.Errorf("%w: %s", ErrNotReplicated, address))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		events := make(chan Event, watchQueue)
		rp.mu.Lock()
		rp.watchers[events] = true
		rp.mu.Unlock()
		defer func() {
			rp.mu.Lock()
			delete(rp.watchers, events)
			rp.mu.Unlock()
		}()
		after := uint64(0) // of one that is not here yet, all is new
		if db := rp.database(); db != nil {
			stats, err := oplog.Of(db).Stats(ctx)
			if err != nil {
				yield(Event{}, err)
				return
			}
			after = stats.Last
		}
		if ready != nil {
			ready()
		}
		failed := make(chan error, 1)
		updates := make(chan Event)
		go func() { failed <- rp.updates(ctx, after, updates) }()
		for {
			var e Event
			select {
			case e = <-events:
			case e = <-updates:
			case err := <-failed:
				yield(Event{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// updates hands on the entries that become part of the log behind a number.
func (rp *replica) updates(ctx context.Context, after uint64, to chan<- Event) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(rp.ctx, func() { cancel(rp.end()) })()
	select {
	case <-rp.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for a, err := range rp.database().Updates(ctx, after) {
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return err
		}
		kind := Update
		if a.Lost {
			kind = Lost
		}
		select {
		case to <- Event{Kind: kind, At: time.Now(), Arrival: a}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return orbit.ErrClosed
}
