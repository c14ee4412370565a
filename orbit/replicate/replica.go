package replicate

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// replica is the replication of one database: the tasks that connect the parts
// of its state with the log and with peers.
//
// # Locks
//
// Each part has a lock of its own, which its methods hold and nobody else. mu
// guards the fields below it. No lock is held across a call that may block. The
// order: a method that holds the lock of peers or wants, or mu, may take that
// of watchers or changes, and set a flag; peers may also ask the host whether a
// peer is connected. Nothing else of a replica is called with a lock of it held.
//
// The lock of the Replicator comes before those of a replica, of the index, of
// the links and of one link, in this order. It guards which databases are
// replicated and which replicas run, so that a database is not used after it was
// closed. interest.order comes before it. Package orbit calls the Replicator
// with its own locks held, so the Replicator calls the Orbit with no lock.
type replica struct {
	r       *Replicator
	address string
	key     inventory.Key
	ctx     context.Context
	cancel  context.CancelFunc
	after   <-chan struct{} // closed when the replica may start; nil: at once
	begun   time.Time
	held    int           // calls of acquire that were not released; r.mu guards it
	busy    time.Time     // when it was released last; r.mu guards it
	done    chan struct{} // closed when all tasks have ended
	tasks   sync.WaitGroup

	peers    *peerTable
	wants    *wantList
	refusals refusals
	slot     *transferSlot
	watchers watchers
	changes  wait.Change // of the status

	tried        chan struct{} // closed when the database was opened, or cannot be, and peers has those that have it
	triedOnce    func()        // closes tried
	ready        chan struct{} // closed when db is set
	topicDue     wait.Flag     // set when the topic is to be subscribed to
	announceDue  wait.Flag     // set when heads are to be announced
	accessInSync wait.Flag     // set when a peer is in sync with the access database
	declined     wait.Flag     // set when data was rejected for lack of disk space

	mu        sync.Mutex
	db        *orbit.Database // nil until ready is closed
	first     uint64          // the number of the last entry at that time
	err       error           // why the database cannot be opened, or nil
	stopLive  func()          // ends the subscription to the topic; nil while there is none
	transfer  *Transfer       // that runs, or nil
	full      fullness
	abandoned bool              // pending entries were abandoned since a peer was in sync
	guarded   map[*replica]bool // the replicas whose access database this is
}

func newReplica(r *Replicator, address string) *replica {
	k, _ := keyOf(address)
	rp := &replica{
		r: r, address: address, key: k,
		done:         make(chan struct{}),
		slot:         newTransferSlot(),
		begun:        time.Now(),
		busy:         time.Now(),
		tried:        make(chan struct{}),
		ready:        make(chan struct{}),
		topicDue:     wait.NewFlag(),
		announceDue:  wait.NewFlag(),
		accessInSync: wait.NewFlag(),
		declined:     wait.NewFlag(),
		guarded:      make(map[*replica]bool),
	}
	rp.triedOnce = sync.OnceFunc(func() { close(rp.tried) })
	rp.peers = newPeerTable(rp.connected, r.random, rp.watchers.tell, rp.changes.Announce)
	rp.wants = newWantList(r.random, rp.changes.Announce)
	rp.ctx, rp.cancel = context.WithCancel(r.tasks.Context())
	return rp
}

func (rp *replica) database() *orbit.Database {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	return rp.db
}

// setError notes why the database cannot be opened.
func (rp *replica) setError(err error) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.err = err
	rp.changes.Announce()
}

// run replicates until the replica is cancelled.
func (rp *replica) run() {
	defer close(rp.done)
	defer rp.cancel()
	defer rp.triedOnce()
	defer rp.endLive()
	defer rp.tasks.Wait()
	if rp.after != nil {
		<-rp.after
	}
	if rp.r.cfg.Router != nil {
		rp.tasks.Go(rp.goLive)
	}
	rp.r.interest.seed(rp)
	here := rp.open()
	rp.r.links.seed(rp)
	rp.triedOnce()
	if !here {
		rp.tasks.Go(rp.obtain)
	}
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

// subscribers returns the connected peers that have the database open and speak
// no inventory.
func (rp *replica) subscribers() []peer.ID { return rp.r.interest.subscribers(rp.key) }

// openAt returns the connected peers that have the database open.
func (rp *replica) openAt() []peer.ID { return append(rp.subscribers(), rp.r.links.having(rp.key)...) }

// someOpenAt returns maxShown of the peers of openAt at most.
func (rp *replica) someOpenAt() []peer.ID {
	peers := rp.openAt()
	return peers[:min(len(peers), maxShown)]
}

// subscription notes that a peer subscribed to the topic of the database, or
// unsubscribed.
func (rp *replica) subscription(p peer.ID, on bool) {
	if on {
		rp.topicDue.Set()
	}
	if rp.peers.subscription(p, on) {
		rp.wants.wake.Set() // the peer may have what is missing
	}
}

func (rp *replica) connected(p peer.ID) bool {
	return rp.r.cfg.Host.Network().Connectedness(p) == network.Connected
}

// ask makes exchanges with all peers due, and repeats failed requests, now.
func (rp *replica) ask() {
	rp.peers.askAll()
	rp.r.links.ask(rp.key)
	rp.wants.wake.Set()
}

// inSync reports whether a peer with this outcome of a comparison is in sync,
// and notes what follows if it is. No peer is in sync while the database is
// full.
func (rp *replica) inSync(a agreement) bool {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if !a.agrees || rp.full.now() != nil {
		return false
	}
	rp.abandoned = false
	for g := range rp.guarded {
		g.accessInSync.Set()
	}
	return true
}

// accessLog returns the log of the access database, or nil if the list is
// fixed.
func (rp *replica) accessLog() *oplog.Log {
	if inner := rp.database().Access().Database(); inner != nil {
		return oplog.Of(inner)
	}
	return nil
}

// storeError logs an error of the store, and returns it.
func (rp *replica) storeError(err error) error {
	if rp.ctx.Err() == nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, orbit.ErrDropped) {
		log.Errorw("join", "address", rp.address, "err", err)
	}
	return err
}
