package replicate

// accepts reports whether data from other peers may be stored: not while disk
// space is low. When there is space again, the replica requests what it
// rejected.
func (rp *replica) accepts() bool {
	if rp.r.cfg.Disk.CheckIncoming() == nil {
		return true
	}
	rp.r.declined.Set()
	select {
	case rp.declined <- struct{}{}:
		rp.changes.Announce()
		rp.wants.wake.Set() // pull calls awaitDisk
	default:
	}
	return false
}

// awaitDisk waits until data from other peers may be stored, asks all peers
// again if data was rejected, and reports whether the replica goes on.
func (rp *replica) awaitDisk() bool {
	if rp.r.cfg.Disk.AwaitIncoming(rp.ctx) != nil {
		return false
	}
	select {
	case <-rp.declined:
		rp.changes.Announce()
		rp.ask()
	default:
	}
	return true
}

// retryAlways lets the databases of all links catch up when there is disk space
// again, or when space that counts toward a quota is freed, until the
// Replicator is closed.
func (r *Replicator) retryAlways() {
	ctx := r.tasks.Context()
	freed := r.cfg.Orbit.Freed()
	for {
		select {
		case <-r.declined:
			if r.cfg.Disk.AwaitIncoming(ctx) != nil {
				return
			}
		case <-freed:
		case <-ctx.Done():
			return
		}
		freed = r.cfg.Orbit.Freed() // before the databases are told, so that none misses it
		for _, l := range r.links.list() {
			l.behind.hurry()
		}
	}
}
