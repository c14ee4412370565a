package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/space"
)

// replica is the replication of one database.
type replica struct {
	r       *Replicator
	address string
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{}   // closed when nothing of it runs any more
	after   <-chan struct{} // closed when it may begin; nil: at once
	tasks   sync.WaitGroup
	due     chan struct{} // holds a token when an exchange may be due
	unheard chan struct{} // holds a token when heads are to be announced
	pulling chan struct{} // holds a token when something is wanted
	// accessAgrees holds a token when the access database agreed with that of a peer.
	accessAgrees chan struct{}
	// declined holds a token when data was turned away for want of disk space.
	declined chan struct{}
	turns    turns // of peers that ship

	mu       sync.Mutex // never held across a call that may wait
	ready    chan struct{}
	db       *orbit.Database // nil until ready is closed
	began    uint64          // number of the entry that came last then
	err      error           // why there is no database and will be none, or nil
	live     liveness
	peers    map[peer.ID]*partner
	queue    []string        // hashes of what is wanted and not asked for yet
	stale    []string        // of those, what nobody sent before
	wants    map[string]bool // hashes in the queue, and those asked for
	missing  map[string]*Missing
	shipment *Shipment     // that runs, or nil
	full     error         // why a quota keeps others' entries out, or nil
	gaveUp   bool          // waiting entries were given up since a peer was in step
	refused  []Refusal     // newest last
	disputed []block.Block // heads whose writers are not in the list of writers
	watchers map[chan Event]bool
	guarded  map[*replica]bool // whose access database this is
	large    time.Time         // when heads that do not go over streams were announced
	changed  chan struct{}     // closed at the next change of the status
}

func newReplica(r *Replicator, address string) *replica {
	rp := &replica{
		r: r, address: address,
		done:    make(chan struct{}),
		due:     make(chan struct{}, 1),
		unheard: make(chan struct{}, 1),
		pulling: make(chan struct{}, 1),

		accessAgrees: make(chan struct{}, 1),
		declined:     make(chan struct{}, 1),
		guarded:      make(map[*replica]bool),
		turns:        newTurns(),
		ready:        make(chan struct{}),
		changed:      make(chan struct{}),
		peers:        make(map[peer.ID]*partner),
		wants:        make(map[string]bool),
		missing:      make(map[string]*Missing),
		watchers:     make(map[chan Event]bool),
	}
	rp.ctx, rp.cancel = context.WithCancel(r.ctx)
	return rp
}

// signal leaves a token in a channel that holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (rp *replica) database() *orbit.Database {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	return rp.db
}

// setDatabase gives the replica its database, of which the entry of a number came
// last.
func (rp *replica) setDatabase(db *orbit.Database, last uint64) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	first := rp.db == nil
	rp.db, rp.err = db, nil
	if first {
		rp.began = last
		close(rp.ready)
	}
	rp.notify()
}

// notify tells those who wait for a change of the status. The caller holds
// rp.mu.
func (rp *replica) notify() {
	close(rp.changed)
	rp.changed = make(chan struct{})
}

// run replicates until the replica is cancelled.
func (rp *replica) run() {
	defer close(rp.done)
	defer rp.cancel()
	defer rp.endLive()
	defer rp.tasks.Wait()
	if rp.after != nil {
		<-rp.after
	}
	if rp.r.cfg.Router != nil {
		rp.goLive()
		for _, p := range rp.subscribers() {
			rp.subscription(p, true)
		}
	}
	rp.tasks.Go(rp.obtain)
	select {
	case <-rp.ready:
	case <-rp.ctx.Done():
		return
	}
	db := rp.database()
	rp.tasks.Go(func() { rp.announceChanges(oplog.Of(db)) })
	rp.tasks.Go(rp.pull)
	if inner := db.Access().Database(); inner != nil {
		rp.tasks.Go(func() { rp.followAccess(inner) })
	}
	rp.exchangeAlways()
}

// subscribers returns the connected peers that have opened the database.
func (rp *replica) subscribers() []peer.ID {
	if rp.r.cfg.Router == nil {
		return nil
	}
	return rp.r.cfg.Router.ListPeers(rp.address)
}

// take takes an entry that came by pubsub, and tells whether it may be passed
// on: it is part of the log, and with it all that it is on top of.
func (rp *replica) take(ctx context.Context, m *pubsub.Message) (passOn bool) {
	b := block.New(m.GetData())
	from, author := m.ReceivedFrom, m.GetFrom()
	if rp.database() == nil || !rp.accepts() || rp.isIgnored(author) || !rp.r.once(rp.address, b.Hash) {
		return false
	}
	worthless := false
	defer func() {
		if !passOn && !worthless { // it may come again, or become one of our heads
			rp.r.unhear(rp.address, b.Hash)
			rp.askSoon(from)
		}
	}()
	size := int64(len(b.Data))
	if !rp.r.held.tryAcquire(from, size) {
		return false
	}
	defer rp.r.held.release(from, size)
	ctx, cancel := context.WithTimeout(ctx, passOnWithin)
	defer cancel()
	defer context.AfterFunc(rp.ctx, cancel)()
	joined, err := rp.join(ctx, []peer.ID{from}, b)
	if err != nil {
		return false
	}
	if err := joined[0].Err; err != nil {
		if errors.Is(err, orbit.ErrFull) {
			return false
		}
		worthless = !errors.Is(err, orbit.ErrUnavailable) && !errors.Is(err, orbit.ErrNotAllowed) && !errors.Is(err, orbit.ErrShareFull)
		rp.blame(author)
		return false
	}
	switch joined[0].Outcome {
	case orbit.Refused: // there is no room for it
		return false
	case orbit.Pending:
		if rp.claim(from) {
			shipping, stop := context.WithCancel(ctx)
			var group sync.WaitGroup
			group.Go(func() { rp.reconcile(shipping, from, []string{b.Hash}, false) })
			defer group.Wait()
			defer stop()
		}
		if !rp.await(ctx, b.Hash) {
			rp.blame(author)
			return false
		}
	}
	if slices.ContainsFunc(rp.r.cfg.Router.Unmeshed(rp.address), func(p peer.ID) bool { return p != from && p != author }) {
		// Passed on, it does not get there, but as a head of ours it does.
		rp.r.unhear(rp.address, b.Hash)
		signal(rp.unheard)
	}
	return true
}

// await waits until an entry is part of the log.
func (rp *replica) await(ctx context.Context, hash string) bool {
	l := oplog.Of(rp.database())
	for {
		changed := l.Changed()
		if ok, err := l.Has(ctx, hash); ok || err != nil {
			return ok
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// join offers entries that came from peers, fetches what it takes to judge them,
// and has what they wait for fetched.
func (rp *replica) join(ctx context.Context, from []peer.ID, bs ...block.Block) ([]orbit.JoinResult, error) {
	return rp.joinOf(ctx, offerer(from), from, bs...)
}

// joinOf is join of entries that are taken to be of a peer, or with "" of those that
// offered the entries which need them.
func (rp *replica) joinOf(ctx context.Context, of string, from []peer.ID, bs ...block.Block) ([]orbit.JoinResult, error) {
	db := rp.database()
	opts := orbit.JoinOptions{From: of, Attached: rp.identitiesOf(ctx, db, from, bs)}
	joined, err := db.Join(ctx, orbit.NewCandidates(bs...), opts)
	if err != nil {
		return joined, rp.storeError(err)
	}
	if disputed := rp.disputedOf(joined); len(disputed) > 0 {
		rp.refreshAccess(ctx, from)
		again := make([]block.Block, len(disputed))
		for n, i := range disputed {
			again[n] = bs[i]
		}
		second, err := db.Join(ctx, orbit.NewCandidates(again...), opts)
		if err != nil {
			return joined, rp.storeError(err)
		}
		for n, i := range disputed {
			joined[i] = second[n]
		}
	}
	rp.noteFull(joined)
	rp.follow(ctx, from, bs, joined)
	return joined, nil
}

func (rp *replica) storeError(err error) error {
	if rp.ctx.Err() == nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, orbit.ErrDropped) {
		log.Errorw("join", "address", rp.address, "err", err)
	}
	return err
}

// disputedOf returns the places of those whose writers are not in a list of
// writers that can be changed.
func (rp *replica) disputedOf(joined []orbit.JoinResult) (places []int) {
	if rp.database().Access().Database() == nil {
		return nil
	}
	for i, j := range joined {
		if j.Outcome == orbit.Refused && errors.Is(j.Err, orbit.ErrNotAllowed) {
			places = append(places, i)
		}
	}
	return places
}

// follow has what entries wait for fetched, and remembers what was refused.
func (rp *replica) follow(ctx context.Context, from []peer.ID, bs []block.Block, joined []orbit.JoinResult) {
	for i, j := range joined {
		switch {
		case j.Outcome == orbit.Pending:
			if e, err := entry.Decode(bs[i]); err == nil {
				rp.want(ctx, e.Parents()...)
			}
		case errors.Is(j.Err, orbit.ErrFull): // the status says so
		case j.Outcome == orbit.Refused && j.Err != nil:
			rp.refuse(from, bs[i], j.Err)
		}
		if j.Outcome != orbit.Refused {
			rp.taken(bs[i].Hash)
		}
	}
}

// taken forgets that an entry was refused.
func (rp *replica) taken(hash string) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if i := slices.IndexFunc(rp.refused, func(r Refusal) bool { return r.Hash == hash }); i >= 0 {
		rp.refused = slices.Delete(rp.refused, i, i+1)
		rp.notify()
	}
}

// Refusal is an entry that came and was not taken.
type Refusal struct {
	Hash string
	From []peer.ID // who had it, or may have
	At   time.Time
	Err  error // wraps what [orbit.JoinResult] has
}

func (rp *replica) refuse(from []peer.ID, b block.Block, why error) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.refused = slices.DeleteFunc(rp.refused, func(r Refusal) bool { return r.Hash == b.Hash })
	if len(rp.refused) == refusedPerBase {
		rp.refused = rp.refused[1:]
	}
	rp.refused = append(rp.refused, Refusal{Hash: b.Hash, From: from, At: time.Now(), Err: why})
	if rp.db.Access().Database() != nil && errors.Is(why, orbit.ErrNotAllowed) {
		rp.dispute(b)
	}
	rp.notify()
}

// dispute remembers an entry whose writer may be granted to write later. The
// caller holds rp.mu.
func (rp *replica) dispute(b block.Block) {
	if len(b.Data) > disputedBytes || slices.ContainsFunc(rp.disputed, func(old block.Block) bool { return old.Hash == b.Hash }) {
		return
	}
	rp.disputed = append(rp.disputed, alone(b))
	rp.disputed = rp.disputed[max(0, len(rp.disputed)-maxDisputed):]
}

// identitiesOf returns the identities of entries' writers that are not here and
// can be had in a while. Those that cannot are missed when the entry is judged.
func (rp *replica) identitiesOf(ctx context.Context, db *orbit.Database, from []peer.ID, bs []block.Block) orbit.Attached {
	unknown := make(map[string]bool)
	for _, b := range bs {
		e, err := entry.Decode(b)
		if err != nil || e.Identity == "" || e.LogID != rp.address || unknown[e.Identity] {
			continue
		}
		if _, err := rp.r.cfg.Orbit.IdentityOf(ctx, e.Identity); !errors.Is(err, orbit.ErrUnavailable) {
			continue
		}
		if ok, err := oplog.Of(db).Has(ctx, b.Hash); err == nil && !ok {
			unknown[e.Identity] = true
		}
	}
	found := make(orbit.Attached)
	if len(unknown) == 0 {
		return found
	}
	ctx, cancel := context.WithTimeout(ctx, identityWithin)
	defer cancel()
	var mu sync.Mutex
	var group sync.WaitGroup
	for hash := range unknown {
		group.Go(func() {
			b, err := rp.identity(ctx, from, hash)
			if err != nil {
				log.Debugw("identity", "address", rp.address, "hash", hash, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found[hash] = b
		})
	}
	group.Wait()
	return found
}

var errNobody = errors.New("nobody sent it a moment ago")

// identity fetches the block of an identity that an entry of a peer names. Who
// waits for the same one waits together; each peer may have a few asked for at
// once, so that it keeps no other waiting.
func (rp *replica) identity(ctx context.Context, from []peer.ID, hash string) (block.Block, error) {
	if last, ok := rp.r.unsent.Get(hash); ok && time.Since(last) < unsentFor {
		return block.Block{}, errNobody
	}
	var who peer.ID // "" for what is fetched from anybody
	if len(from) == 1 {
		who = from[0]
	}
	if err := rp.r.identities.acquire(ctx, who, 1); err != nil {
		return block.Block{}, err
	}
	defer rp.r.identities.release(who, 1)
	answer := rp.r.asking.DoChan(hash, func() (any, error) {
		ctx, cancel := context.WithTimeout(rp.r.ctx, identityWithin)
		defer cancel()
		b, err := rp.fetch(ctx, hash)
		if err != nil {
			rp.r.unsent.Add(hash, time.Now())
		}
		return b, err
	})
	select {
	case a := <-answer:
		if a.Err != nil {
			return block.Block{}, a.Err
		}
		return a.Val.(block.Block), nil
	case <-ctx.Done():
		return block.Block{}, ctx.Err()
	}
}

// fetch asks all peers for one block until the context is done.
func (rp *replica) fetch(ctx context.Context, hash string) (block.Block, error) {
	if rp.r.cfg.Exchange == nil {
		return block.Block{}, errors.New("there is no block exchange")
	}
	c, err := block.ParseHash(hash)
	if err != nil {
		return block.Block{}, err
	}
	rp.r.wanted.Store(hash, rp)
	defer rp.r.wanted.Delete(hash)
	for patience := nudgeAfter; ; patience *= 2 { // see [puller.nudge]
		try, cancel := context.WithTimeout(ctx, patience)
		found, err := rp.r.cfg.Exchange.NewSession(try).GetBlock(try, c)
		timedOut := try.Err() != nil
		cancel()
		if err == nil {
			b := block.Block{Hash: hash, Data: found.RawData()}
			return b, b.Check()
		}
		if ctx.Err() != nil || !timedOut {
			return block.Block{}, fmt.Errorf("fetch %s: %w", hash, err)
		}
	}
}

// obtain fetches what it takes to open the database, unless it is open.
func (rp *replica) obtain() {
	at := make(orbit.Attached)
	pause := retryMin
	for rp.database() == nil && rp.awaitRoom() && rp.database() == nil {
		opts := rp.options()
		opts.Attached = at
		db, err := rp.r.cfg.Orbit.Open(rp.ctx, rp.address, opts)
		if err == nil {
			rp.obtained(db)
			return
		}
		var needed *orbit.UnavailableError
		if !errors.As(err, &needed) {
			wait := retryMin
			if !errors.Is(err, space.ErrFull) {
				wait = retryMax
				rp.mu.Lock()
				rp.err = err
				rp.notify()
				rp.mu.Unlock()
			}
			select { // it may be one of the store, or that it is being dropped
			case <-time.After(rp.r.random.around(wait)):
			case <-rp.ready:
			case <-rp.ctx.Done():
			}
			continue
		}
		rp.asking(needed.Hash)
		try, cancel := context.WithTimeout(rp.ctx, obtainWithin)
		b, err := rp.fetch(try, needed.Hash)
		cancel()
		if err == nil {
			at[b.Hash] = b
			rp.found(b.Hash)
			pause = retryMin
			continue
		}
		rp.unanswered(needed.Hash)
		select {
		case <-time.After(rp.r.random.around(pause)):
		case <-rp.pulling: // somebody else may have it
			pause = retryMin
		case <-rp.ready:
		case <-rp.ctx.Done():
		}
		pause = min(2*pause, retryMax)
	}
}

// obtained makes a database that came one that is replicated.
func (rp *replica) obtained(db *orbit.Database) {
	if err := rp.r.adopt(rp.ctx, db); err != nil && rp.ctx.Err() == nil {
		log.Errorw("open database", "address", rp.address, "err", err)
	}
}
