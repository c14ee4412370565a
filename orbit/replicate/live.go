package replicate

// goLive subscribes to the topic of the database as soon as it is due: when a
// peer that speaks no inventory has the database open, or at once if the router
// does not tell which topics peers are subscribed to.
func (rp *replica) goLive() {
	if !rp.r.seesFollowed() {
		select {
		case <-rp.topicDue:
		case <-rp.ctx.Done():
			return
		}
	}
	stop, err := rp.r.cfg.Router.Follow(rp.address, rp.take)
	if err != nil {
		log.Errorw("topic", "address", rp.address, "err", err)
		return
	}
	rp.stopLive = stop
}

// endLive ends the subscription. No task of the replica runs any more.
func (rp *replica) endLive() {
	if rp.stopLive != nil {
		rp.stopLive()
	}
}
