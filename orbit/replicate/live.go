package replicate

import (
	"errors"
	"slices"

	"github.com/newpieceplease/npp/router"
)

// FreeTopics is the advice where the router opens no more topics.
const FreeTopics = "close databases that are not needed: ipfs npp db close <db>"

// liveness says whether a database is live, that is, whether its topic is subscribed
// to. The router opens a limited number of topics ([router.Limits]). A database beyond
// that is readable, writable, and replicated with peers that have it live, by the
// exchanges that this side begins: what is new there comes late. Two peers where it is
// not live do not find each other. The mutex of the replica guards it.
type liveness struct {
	stop func() // ends the subscription; nil while the database is not live
	err  error  // why the database is not live, or nil
}

// goLive subscribes to the topic of the database. Where the router opens no more
// topics, the replica tries again each time that one has been closed.
func (rp *replica) goLive() {
	stop, err := rp.r.cfg.Router.Follow(rp.address, rp.take)
	var limit *router.TopicLimitError
	if errors.As(err, &limit) {
		err = limit // whose text does not repeat the address
	}
	rp.mu.Lock()
	rp.live = liveness{stop, err}
	rp.notify()
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

// endLive ends the subscription. It is called when no task of the replica runs.
func (rp *replica) endLive() {
	rp.mu.Lock()
	stop := rp.live.stop
	rp.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// NotLive returns the addresses of the databases whose topics are not subscribed to
// although they are replicated, and why that is so of the first.
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
