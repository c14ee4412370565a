package replicate

import (
	"errors"
	"slices"

	"github.com/newpieceplease/npp/router"
)

// liveness says whether a database is live: whether its topic is subscribed to.
// The router limits the number of topics ([router.Limits]). A database beyond
// the limit is readable and writable, and replicates with the peers where it is
// live, by the exchanges that this side begins: new entries arrive late. Two
// peers at which it is not live do not find each other.
type liveness struct {
	stop func() // ends the subscription; nil while the database is not live
	err  error  // why the database is not live, or nil
}

// goLive subscribes to the topic of the database. If the router opens no more
// topics, the replica tries again whenever one was closed.
func (rp *replica) goLive() {
	stop, err := rp.r.cfg.Router.Follow(rp.address, rp.take)
	var limit *router.TopicLimitError
	if errors.As(err, &limit) {
		err = limit // its text does not repeat the address
	}
	rp.mu.Lock()
	rp.live = liveness{stop, err}
	rp.changes.Announce()
	rp.mu.Unlock()
	switch {
	case limit != nil:
		rp.tasks.Go(func() {
			select {
			case <-limit.Freed:
				rp.goLive()
			case <-rp.ctx.Done():
			}
		})
	case err != nil:
		log.Errorw("topic", "address", rp.address, "err", err)
	}
}

// endLive ends the subscription. No task of the replica runs any more.
func (rp *replica) endLive() {
	rp.mu.Lock()
	stop := rp.live.stop
	rp.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// NotLive returns the addresses of the replicated databases whose topics are
// not subscribed to, sorted, and the reason for the first of them.
func (r *Replicator) NotLive() (addresses []string, why error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	reasons := make(map[string]error)
	for address, rp := range r.replicas {
		rp.mu.Lock()
		err := rp.live.err
		rp.mu.Unlock()
		if err != nil {
			reasons[address] = err
			addresses = append(addresses, address)
		}
	}
	if len(addresses) == 0 {
		return nil, nil
	}
	slices.Sort(addresses)
	return addresses, reasons[addresses[0]]
}
