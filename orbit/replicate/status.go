package replicate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// State is the state of the replication of a database.
type State string

const (
	// Fetching is the state of a database that cannot be opened yet: its
	// manifest or its access controller is missing.
	Fetching State = "fetching"
	// Open is the state of a database that is open and replicated.
	Open State = "open"
	// Closed is the state of a database that is here and not replicated.
	Closed State = "closed"
	// Failed is the state of a database that is damaged, or whose address is
	// not that of a database.
	Failed State = "failed"
)

// Status describes the replication of a database.
type Status struct {
	Address string
	State   State
	Err     error // of Failed
	// Encrypted says that peers sent blocks in place of entries that only the
	// holders of a key can read ([entry.ErrEncrypted]), and that the database
	// has no entry here. The database is open then, and no peer is in sync.
	Encrypted bool
	Full      error     // why entries of peers are rejected; wraps space.ErrFull or [orbit.ErrQuotaFull], or nil
	Abandoned bool      // pending entries were abandoned since a peer was in sync; its heads bring them again
	Missing   []Missing // blocks that were requested in vain, by CID, at most 64
	Asking    int       // requested blocks
	Transfer  *Transfer // the transfer that runs, or nil
	Refused   []Refusal // newest last, at most 32
	Peers     []Peer    // by ID
}

// Peer is a peer that has the database open, or had.
type Peer struct {
	ID        peer.ID
	Open      bool       // it is connected and has the database open
	Exchanged time.Time  // when heads were exchanged last; zero for never
	InSync    time.Time  // when it was in sync last; zero for never
	By        Comparison // by what that was compared; "" before the first comparison
	Heads     int        // the number of its heads at the last exchange
	Err       error      // of the last exchange
}

// Status returns the status of a database that is here or was opened. For any
// other database, the error is [orbit.ErrUnknown]. The replica of the database
// starts if it rests.
func (r *Replicator) Status(ctx context.Context, address string) (Status, error) {
	rp, release, err := r.acquireHere(ctx, address)
	if err != nil {
		return Status{}, err
	}
	if rp == nil {
		return Status{Address: address, State: Closed}, nil
	}
	defer release()
	s, _ := rp.fullStatus(ctx)
	return s, nil
}

// StateOf returns the state of a database in the catalog, and why it is full or
// failed. It costs little, for a replica that rests stays at rest.
func (r *Replicator) StateOf(ctx context.Context, address string) Status {
	if rp := r.find(address); rp != nil && rp.hasTried() {
		s, _ := rp.fullStatus(ctx)
		return s
	}
	if s, ok := r.rested.Get(address); ok {
		last := s.status(r.cfg.Disk)
		if last.refusesEncrypted() {
			g, err := r.cfg.Orbit.Glance(ctx, address)
			last.Encrypted = err == nil && g.Entries == 0
		}
		return last
	}
	switch {
	case r.isPaused(address):
		return Status{Address: address, State: Closed}
	case r.isWanted(address):
		return Status{Address: address, State: Fetching}
	}
	return Status{Address: address, State: Open, Full: r.cfg.Disk.CheckIncoming()}
}

// hasTried reports whether the replica has opened its database, or cannot.
func (rp *replica) hasTried() bool {
	select {
	case <-rp.tried:
		return true
	default:
		return false
	}
}

// Remarkable returns the statuses of the databases whose replicas run, or of
// which there was more to say than that they are open when their replicas came
// to rest: they are full or failed, or miss or refused entries, or peers had
// them open. Of the latter, it knows the last 4096. The order is that of the
// addresses.
func (r *Replicator) Remarkable(ctx context.Context) (all []Status) {
	r.mu.RLock()
	running := slices.Collect(maps.Values(r.replicas))
	rested := r.rested.Values()
	r.mu.RUnlock()
	for _, s := range rested {
		all = append(all, s.status(r.cfg.Disk))
	}
	for _, rp := range running {
		s, _ := rp.fullStatus(ctx)
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Address, b.Address) })
	return all
}

// Peers yields the addresses of the databases that peers have open or had open,
// and these peers. No replica starts for it.
func (r *Replicator) Peers(ctx context.Context) iter.Seq2[string, []Peer] {
	return func(yield func(string, []Peer) bool) {
		told := make(map[inventory.Key]bool)
		for _, s := range r.Remarkable(ctx) {
			k, _ := keyOf(s.Address)
			told[k] = true
			if peers := r.withDaemons(ctx, k, s.Peers); len(peers) > 0 && !yield(s.Address, peers) {
				return
			}
		}
		for _, l := range r.links.list() {
			for k := range l.session.All() {
				if told[k] {
					continue
				}
				told[k] = true
				if ctx.Err() != nil || !yield(addressOf(k), r.withDaemons(ctx, k, nil)) {
					return
				}
			}
		}
	}
}

// withDaemons returns the peers of a database as they are now. If its replica
// rests, it did not hear of daemons that have the database, or left.
func (r *Replicator) withDaemons(ctx context.Context, k inventory.Key, peers []Peer) []Peer {
	if r.find(addressOf(k)) != nil {
		return peers
	}
	peers = slices.Clone(peers)
	for i := range peers {
		peers[i].Open = false
	}
	for _, l := range r.links.with(k) {
		theirs, _ := l.session.Common(k)
		i := slices.IndexFunc(peers, func(p Peer) bool { return p.ID == l.peer })
		if i < 0 {
			i, peers = len(peers), append(peers, Peer{ID: l.peer})
		}
		p := &peers[i]
		p.Open, p.By, p.Exchanged, p.Err = true, ByState, l.heardAt(k), nil
		if theirs != (inventory.State{}) && theirs == r.index.State(ctx, k) {
			p.InSync = p.Exchanged
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	return peers
}

// fullStatus is status with Encrypted, for which it reads the log. It is false
// if the log cannot be read.
func (rp *replica) fullStatus(ctx context.Context) (Status, <-chan struct{}) {
	s, changed := rp.status()
	db := rp.database()
	if db == nil || !s.refusesEncrypted() {
		return s, changed
	}
	stats, err := oplog.Of(db).Stats(ctx)
	if s.Encrypted = err == nil && stats.Entries == 0; s.Encrypted {
		for i := range s.Peers {
			s.Peers[i].InSync = time.Time{} // the replica of the peer cannot be compared
		}
	}
	return s, changed
}

// refusesEncrypted reports whether blocks were refused because they are
// encrypted as a whole.
func (s Status) refusesEncrypted() bool {
	return slices.ContainsFunc(s.Refused, func(r Refusal) bool { return errors.Is(r.Err, entry.ErrEncrypted) })
}

// status returns the status, and a channel that is closed at the next change.
func (rp *replica) status() (Status, <-chan struct{}) {
	changed := rp.changes.Next()
	s := Status{Address: rp.address, State: Open, Refused: rp.refusals.snapshot(), Peers: rp.peers.snapshot()}
	s.Asking, s.Missing = rp.wants.snapshot()
	wanted := rp.r.isWanted(rp.address)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	s.Err, s.Full, s.Abandoned, s.Transfer = rp.err, rp.full.now(), rp.abandoned, rp.transfer
	s.Full = cmp.Or(rp.r.cfg.Disk.CheckIncoming(), s.Full)
	switch {
	case rp.db != nil:
	case rp.err != nil:
		s.State = Failed
	case wanted:
		s.State = Fetching
	}
	return s, changed
}

// Fetching returns the addresses of the databases that are replicated and not
// here yet, sorted.
func (r *Replicator) Fetching() []string {
	r.mu.RLock()
	pending := slices.Collect(maps.Keys(r.wanted))
	r.mu.RUnlock()
	slices.Sort(pending)
	return pending
}

// ErrFailed says that an address is not that of a database that can be opened.
var ErrFailed = errors.New("cannot be opened")

// Follow yields the status of a replicated database, and again after each
// change, at most ten times a second, until the context is done or the
// replication of the database ends.
func (r *Replicator) Follow(ctx context.Context, address string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		if err := r.awaitLoaded(ctx); err != nil {
			yield(Status{}, err)
			return
		}
		rp, release := r.acquire(address)
		if rp == nil {
			yield(Status{}, fmt.Errorf("%w: %s", ErrNotReplicated, address))
			return
		}
		defer release()
		select {
		case <-rp.tried:
		case <-ctx.Done():
		}
		for {
			s, changed := rp.fullStatus(ctx)
			if !yield(s, nil) {
				return
			}
			wait.For(ctx, statusEvery)
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

// end returns why the replica ended.
func (rp *replica) end() error {
	if rp.r.tasks.Context().Err() != nil {
		return ErrClosed
	}
	return fmt.Errorf("%w: %s", ErrNotReplicated, rp.address)
}

// Settled reports whether the database had everything that a peer has at some
// moment since a time: it is open, misses nothing, and the peer was in sync.
// With a peer that is not comparable, an exchange of heads suffices.
func (s Status) Settled(since time.Time) bool {
	return s.State == Open && s.Full == nil && s.Asking == 0 && len(s.Missing) == 0 &&
		slices.ContainsFunc(s.Peers, func(p Peer) bool {
			return !p.InSync.Before(since) || p.By == NotComparable && !p.Exchanged.Before(since)
		})
}
