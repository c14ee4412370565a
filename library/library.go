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

	"github.com/newpieceplease/npp/library/card"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/swarm"
)

var log = logging.Logger("npp/library")

const defaultPatience = 10 * time.Second

// ErrInvalid says that what was asked for cannot be.
var ErrInvalid = errors.New("invalid")

// Config is what a [Library] works with. It owns none of it.
type Config struct {
	Orbit *orbit.Orbit
	Host  host.Host
	Files Files

	// Store is for the library alone.
	Store *store.Store

	// Disk is that of Store and Files. While it is almost full, nothing is stored that
	// comes from other peers, and files are not added. nil: it always has room.
	Disk *space.Disk

	// Replicator fetches the stores of companions. nil: there are none.
	Replicator Replicator

	// Swarm keeps the connections to companions.
	Swarm Swarm

	// Messages has the offers that other peers send. nil: none.
	Messages Messages

	// Patience is how long a query waits for what companions have, while that is read
	// into memory after a start. Default: 10 seconds.
	Patience time.Duration

	// Keep is given the blocks of databases that are dropped, see [orbit.Orbit.Drop],
	// by a function for each. nil: nothing is kept.
	Keep func() func(context.Context, []block.Block) error
}

// Replicator is what a library needs of a [replicate.Replicator].
type Replicator interface {
	Open(ctx context.Context, address string, opts orbit.OpenOptions) error
	Drop(ctx context.Context, address string, keep func(context.Context, []block.Block) error) error
	Follow(ctx context.Context, address string) iter.Seq2[replicate.Status, error]
	Status(ctx context.Context, address string) (replicate.Status, error)
	Ask(address string)
	Pending() []string
}

// Swarm is what a library needs of a [swarm.Swarm].
type Swarm interface {
	Connect(ctx context.Context, target peer.AddrInfo) (swarm.Route, error)
	Keep(ctx context.Context, info peer.AddrInfo) error
	Forget(ctx context.Context, id peer.ID) error
	Kept() []swarm.KeptPeer
	Watch(ctx context.Context) ([]swarm.Peer, iter.Seq2[swarm.Event, error])
}

// Messages is what a library needs of a [message.Service].
type Messages interface {
	Listen(ctx context.Context, f message.Filter) iter.Seq2[*message.Message, error]
}

// Library is a musician's library. Its methods may be called concurrently.
type Library struct {
	cfg   Config
	self  peer.ID
	cards *card.Exchanger
	room  *piece.Budget // of the companions

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	opening   sync.Mutex // guards what follows
	stores    [4]Store   // in the order of storeKinds
	addresses [4]string

	writing sync.Mutex // one change of a piece, a count or a companion at a time
	own     *collection
	known   gate // of the store of companions
	named   gate // of the user store
	offered gate // of the messages that were there at the start, which may be offers

	bringing sync.Mutex     // one change of what is brought at a time
	users    map[string]int // how many companions have a database, by address; guarded by bringing

	declined chan struct{} // holds a token when a card was turned away for want of disk space

	mu         sync.Mutex // guards what follows; never held across a call that may wait
	username   string
	companions map[string]*companion // by the address of the user store
	partial    map[string]bool       // addresses of the stores that are partial, see whole.go
	invalid    map[string]string     // records of the store that name no companion: why not, by key
	followers  map[peer.ID]Follower
	offers     map[peer.ID]Offer
	nearby     map[peer.ID]string // names of the connected peers that showed a card
	watchers   map[*watcher]struct{}
}

// New opens the stores, makes them where they are new, and begins to follow the
// companions. What does not work is logged, and keeps nothing else from working;
// the error is one of the library's own store. It waits for nobody.
func New(ctx context.Context, cfg Config) (*Library, error) {
	cfg.Patience = cmp.Or(cfg.Patience, defaultPatience)
	l := &Library{
		cfg:        cfg,
		self:       cfg.Host.ID(),
		room:       piece.NewBudget(companionsRoom),
		companions: make(map[string]*companion),
		partial:    make(map[string]bool),
		invalid:    make(map[string]string),
		followers:  make(map[peer.ID]Follower),
		offers:     make(map[peer.ID]Offer),
		nearby:     make(map[peer.ID]string),
		watchers:   make(map[*watcher]struct{}),
		users:      make(map[string]int),
		declined:   make(chan struct{}, 1),
	}
	l.own = newCollection(l.self)
	if err := l.loadFollowers(ctx); err != nil {
		return nil, err
	}
	if err := l.loadOffers(ctx); err != nil {
		return nil, err
	}
	if err := l.loadPartial(ctx); err != nil {
		return nil, err
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for at := range storeKinds {
		l.begin(at) // who asks waits until it was read
	}
	var err error
	l.cards, err = card.New(card.Config{Host: cfg.Host, Own: l.ownCard, Received: l.received})
	if err != nil {
		l.cancel()
		return nil, err
	}
	for _, s := range l.Stores(ctx) {
		if s.Err != nil {
			log.Errorw("own store", "name", s.Name, "err", s.Err)
		}
	}
	if cfg.Messages != nil {
		l.offered.begin()
		l.tasks.Go(l.watchOffers)
	}
	l.tasks.Go(func() {
		if l.Wait(l.ctx) == nil {
			l.cards.Announce() // a peer that asked before got no card
		}
	})
	l.tasks.Go(l.watchPeers)
	l.tasks.Go(l.askAgain)
	l.tasks.Go(l.tidy)
	return l, nil
}

// Wait waits until it is known after a start who the companions are, and how the
// owner is called.
func (l *Library) Wait(ctx context.Context) error {
	for _, g := range []*gate{&l.known, &l.named} {
		if _ = g.wait(ctx); ctx.Err() != nil { // a store that is broken says so itself
			return ctx.Err()
		}
	}
	return nil
}

// Close ends all that the library does. The stores stay open.
func (l *Library) Close() error {
	l.cancel()
	err := l.cards.Close()
	l.tasks.Wait()
	return err
}
