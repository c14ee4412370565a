package library

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/task"
	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/library/companion"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/swarm"
)

var log = logging.Logger("npp/library")

const defaultPatience = 10 * time.Second

// ErrInvalid is returned for an invalid argument.
var ErrInvalid = errors.New("invalid")

// Config configures a [Library], which owns none of its fields.
type Config struct {
	Orbit *orbit.Orbit
	Host  host.Host
	Files Files

	// Store is for the records of the library. No other package may use it.
	Store *store.Store

	// Disk is the disk of Store and Files. While it is almost full, the library
	// stores no data from peers and adds no files. nil: the disk always has
	// space.
	Disk *space.Disk

	// Replicator replicates the databases of companions. nil: none is
	// replicated.
	Replicator Replicator

	// Swarm reconnects to companions.
	Swarm Swarm

	// Messages has the messages that contain offers. nil: there are no offers.
	Messages Messages

	// ReadTimeout is how long a query waits for the databases of companions
	// that are being read into memory. Default: 10 seconds.
	ReadTimeout time.Duration

	// SaveBlocks returns a function that receives the blocks of a database that
	// is dropped; see [orbit.Orbit.Drop]. It is called once per database. nil:
	// none.
	SaveBlocks func() func(context.Context, []block.Block) error
}

// Replicator is the part of a [replicate.Replicator] that a library uses.
type Replicator = companion.Replicator

// Swarm is the part of a [swarm.Swarm] that a library uses.
type Swarm interface {
	Connect(ctx context.Context, target peer.AddrInfo) (swarm.Route, error)
	Keep(ctx context.Context, info peer.AddrInfo) error
	Forget(ctx context.Context, id peer.ID) error
	Kept() []swarm.KeptPeer
	Watch(ctx context.Context) ([]swarm.Peer, iter.Seq2[swarm.Event, error])
}

// Messages is the part of a [message.Service] that a library uses.
type Messages interface {
	Listen(ctx context.Context, f message.Filter) iter.Seq2[*message.Message, error]
}

// Library is a musician's library. Its methods may be called concurrently.
type Library struct {
	cfg      Config
	self     peer.ID
	cards    *card.Exchanger
	followed *companion.Databases // the databases of companions
	budget   *piece.Budget        // for the collections of all companions

	followers *peerTable[Follower]
	offers    *peerTable[Offer]

	tasks *task.Group
	ctx   context.Context // of tasks: done after Close

	opening   sync.Mutex  // guards the fields below
	databases [4]Database // in the order of databaseKinds
	addresses [4]string

	writing          sync.Mutex // serializes changes of pieces, counts and records
	own              *collection
	companionsLoaded latch
	profileLoaded    latch
	offersLoaded     latch // of the messages that were here at the start

	declined wait.Flag // set after a card was ignored because the disk is full

	mu         sync.Mutex // guards the fields below; never held across a blocking call
	username   string
	companions map[string]*companionState // by the address of the user database
	invalid    map[string]string          // why records are invalid, by key
	nearby     map[peer.ID]string         // usernames on the cards of connected peers
	watchers   map[*watcher]struct{}
}

// New opens or creates the library databases, and follows the companions. It
// logs a database that cannot be opened, and does not fail because of it. The
// error is that of the Store. New does not wait for peers.
func New(ctx context.Context, cfg Config) (*Library, error) {
	cfg.ReadTimeout = cmp.Or(cfg.ReadTimeout, defaultPatience)
	l := &Library{
		cfg:        cfg,
		self:       cfg.Host.ID(),
		budget:     piece.NewBudget(companionsBudget),
		companions: make(map[string]*companionState),
		invalid:    make(map[string]string),
		nearby:     make(map[peer.ID]string),
		watchers:   make(map[*watcher]struct{}),
		declined:   wait.NewFlag(),
	}
	l.own = newCollection(l.self)
	var err error
	if l.followers, err = loadPeerTable[Follower](ctx, cfg.Store, followerPrefix); err != nil {
		return nil, err
	}
	if l.offers, err = loadPeerTable[Offer](ctx, cfg.Store, offerPrefix); err != nil {
		return nil, err
	}
	l.followed, err = companion.New(ctx, companion.Config{
		Orbit: cfg.Orbit, Replicator: cfg.Replicator, Store: cfg.Store, IsOwn: l.isOwn, SaveBlocks: cfg.SaveBlocks,
	})
	if err != nil {
		return nil, err
	}
	l.tasks = task.NewGroup()
	l.ctx = l.tasks.Context()
	for at := range databaseKinds {
		l.latchOf(at).begin() // queries wait from now on
	}
	l.cards, err = card.New(card.Config{Host: cfg.Host, Own: l.ownCard, Received: l.received})
	if err != nil {
		l.followed.Close()
		l.tasks.Stop()
		return nil, err
	}
	for _, db := range l.Databases(ctx) {
		if db.Err != nil {
			log.Errorw("library database", "name", db.Name, "err", db.Err)
		}
	}
	if cfg.Messages != nil {
		l.offersLoaded.begin()
		l.tasks.Go(l.watchOffers)
	}
	l.tasks.Go(func() {
		if l.Wait(l.ctx) == nil {
			l.cards.Announce() // earlier exchanges failed
		}
	})
	l.tasks.Go(l.watchPeers)
	l.tasks.Go(l.announceAgain)
	l.tasks.Go(l.prune)
	return l, nil
}

// Wait waits until the companions and the username were read after a start.
func (l *Library) Wait(ctx context.Context) error {
	for _, loaded := range []*latch{&l.companionsLoaded, &l.profileLoaded} {
		if _ = loaded.wait(ctx); ctx.Err() != nil { // Databases reports a damaged database
			return ctx.Err()
		}
	}
	return nil
}

// Close stops the library and waits for its goroutines. The databases stay
// open.
func (l *Library) Close() error {
	l.followed.Close()
	l.tasks.Stop()
	err := l.cards.Close()
	l.tasks.Wait()
	return err
}

// prune undoes what was done for companions that were removed, where the daemon
// stopped before it could.
func (l *Library) prune() {
	if l.cfg.Replicator == nil {
		return
	}
	records, err := l.records(l.ctx)
	if err != nil {
		return
	}
	l.pruneKept(records)
	needed := make(map[string]bool)
	for user, r := range records {
		needed[user], needed[r.Pieces], needed[r.Practice] = true, true, true
	}
	l.followed.Prune(needed)
}
