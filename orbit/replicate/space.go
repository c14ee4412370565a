package replicate

// accepts reports whether data from other peers may be stored: not while the disk is
// almost full. The replica asks for what was turned away once there is room.
func (rp *replica) accepts() bool {
	if rp.r.cfg.Disk.CheckIncoming() == nil {
		return true
	}
	select {
	case rp.declined <- struct{}{}:
		rp.statusChanged()
		signal(rp.pulling) // pull calls awaitRoom
	default:
	}
	return false
}

// awaitRoom waits until data from other peers may be stored, asks all peers again if
// something was turned away, and reports whether the replica goes on.
func (rp *replica) awaitRoom() bool {
	if rp.r.cfg.Disk.AwaitIncoming(rp.ctx) != nil {
		return false
	}
	select {
	case <-rp.declined:
		rp.statusChanged()
		rp.ask()
	default:
	}
	return true
}

func (rp *replica) statusChanged() {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.notify()
}
