package replicate

// liveness says whether a database is live: whether its topic is subscribed to.
type liveness struct {
	stop func() // ends the subscription; nil while the database is not live
}

// goLive subscribes to the topic of the database.
func (rp *replica) goLive() {
	stop, err := rp.r.cfg.Router.Follow(rp.address, rp.take)
	if err != nil {
		log.Errorw("topic", "address", rp.address, "err", err)
		return
	}
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.live = liveness{stop}
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
