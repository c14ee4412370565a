package replicate

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

// Peers find each other by the topic of a database in the discovery service,
// such as the DHT. The name there is the one that gossipsub uses for the topic.
// The service gets a hash of the address, from which nobody can compute it.
//
// All databases together are advertised, and searched for, at a bounded rate:
// one after the other, beginning anywhere, but first those that are wanted or
// new. A database is searched for while no connected peer has it open.
const (
	discoverEvery  = 10 * time.Second // on average, for all databases
	discoverBurst  = 64
	discoverAtOnce = 8
	discoverWithin = time.Minute
	searchEvery    = 10 * time.Minute // at most, for one database
	advertiseEvery = 3 * time.Hour    // the same
	foundPeers     = 16               // that are dialed after one search
	maxUrgent      = 256              // databases that come before others
)

// namespace returns the name of a database in the discovery service.
func namespace(address string) string { return "floodsub:" + address }

// discover advertises databases and searches for their peers, until the
// Replicator is closed.
func (r *Replicator) discover() {
	if r.cfg.Discovery == nil {
		return
	}
	if r.awaitLoaded(r.tasks.Context()) != nil {
		return
	}
	var group sync.WaitGroup
	group.Go(func() { r.visit(advertiseEvery, r.toAdvertise, r.advertise) })
	group.Go(func() { r.visit(searchEvery, r.toSearch, r.search) })
	group.Wait()
}

// visit calls a function for each database, about once in each interval, and
// first for those that a channel yields, until the Replicator is closed.
func (r *Replicator) visit(interval time.Duration, urgent <-chan string, do func(ctx context.Context, address string)) {
	ctx := r.tasks.Context()
	limit := rate.NewLimiter(rate.Every(discoverEvery), discoverBurst)
	slots := make(chan struct{}, discoverAtOnce)
	var running sync.WaitGroup
	defer running.Wait()
	one := func(address string) bool {
		if limit.Wait(ctx) != nil {
			return false
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		running.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, discoverWithin)
			defer cancel()
			do(ctx, address)
			<-slots
		})
		return true
	}
	for {
		round := time.NewTimer(r.random.around(interval))
		for k := range r.index.keysFrom(int(r.random.below(indexShards))) {
			for len(urgent) > 0 {
				if !one(<-urgent) {
					return
				}
			}
			if !one(addressOf(k)) {
				return
			}
		}
		for waiting := true; waiting; {
			select {
			case address := <-urgent:
				if !one(address) {
					return
				}
			case <-round.C:
				waiting = false
			case <-ctx.Done():
				return
			}
		}
	}
}

// searchSoon searches for peers of a database before others.
func (r *Replicator) searchSoon(address string) { enqueue(r.toSearch, address) }

// advertiseSoon advertises a database before others.
func (r *Replicator) advertiseSoon(address string) { enqueue(r.toAdvertise, address) }

// enqueue adds an address to a queue that has room. Otherwise its turn comes.
func enqueue(queue chan<- string, address string) {
	select {
	case queue <- address:
	default:
	}
}

func (r *Replicator) advertise(ctx context.Context, address string) {
	if _, err := r.cfg.Discovery.Advertise(ctx, namespace(address)); err != nil {
		log.Debugw("advertise", "address", address, "err", err)
	}
}

// search connects to peers of a database, unless a connected peer has it open.
func (r *Replicator) search(ctx context.Context, address string) {
	k, _ := keyOf(address)
	if !r.index.has(k) || len(r.interest.subscribers(k)) > 0 || len(r.links.with(k)) > 0 {
		return
	}
	found, err := r.cfg.Discovery.FindPeers(ctx, namespace(address), discovery.Limit(foundPeers))
	if err != nil {
		log.Debugw("search", "address", address, "err", err)
		return
	}
	h := r.cfg.Host
	for n := 0; n < foundPeers; n++ {
		var p peer.AddrInfo
		var ok bool
		select {
		case p, ok = <-found:
		case <-ctx.Done():
		}
		if !ok {
			return
		}
		if p.ID == h.ID() {
			continue
		}
		if err := h.Connect(ctx, p); err != nil {
			log.Debugw("connect to a peer of a database", "peer", p.ID, "err", err)
		}
	}
}
