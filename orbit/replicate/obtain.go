package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
	"github.com/newpieceplease/npp/space"
)

// maxOpening bounds the blocks that are needed to open a database.
const maxOpening = 8

// obtain fetches the blocks that are needed to open the database, unless it is
// open.
func (rp *replica) obtain() {
	at := make(orbit.Attached)
	failures := 0 // requests in a row that nobody answered
	for rp.database() == nil && rp.awaitDisk() && rp.database() == nil {
		opts := rp.options()
		opts.Attached = at
		db, err := rp.r.cfg.Orbit.Open(rp.ctx, rp.address, opts)
		if err == nil {
			rp.obtained(db)
			return
		}
		var needed *orbit.UnavailableError
		if !errors.As(err, &needed) {
			rp.pauseObtain(err)
			continue
		}
		rp.wants.requested(needed.Hash, rp.someOpenAt())
		try, cancel := context.WithTimeout(rp.ctx, obtainWithin)
		b, err := rp.fetch(try, needed.Hash)
		cancel()
		if err == nil {
			at[b.Hash] = b
			rp.wants.found(b.Hash)
			failures = 0
			continue
		}
		rp.wants.unanswered(needed.Hash, rp.someOpenAt())
		pause := rp.r.random.around(doubled(retryMin, failures, retryMax))
		failures++
		select {
		case <-time.After(pause):
		case <-rp.wants.wake: // another peer may have it
			failures = 0
		case <-rp.ready:
		case <-rp.ctx.Done():
		}
	}
}

// pauseObtain waits after an error that no block of a peer can heal. It may be
// an error of the store, or mean that the database is being dropped.
func (rp *replica) pauseObtain(err error) {
	wait := retryMin
	if !errors.Is(err, space.ErrFull) {
		wait = retryMax
		rp.setError(err)
	}
	select {
	case <-time.After(rp.r.random.around(wait)):
	case <-rp.ready:
	case <-rp.ctx.Done():
	}
}

// obtainFrom opens the database with blocks that a peer transfers, if it has
// the database open.
func (rp *replica) obtainFrom(ctx context.Context, p peer.ID) error {
	if err := rp.r.transfers.Acquire(ctx, p, 1); err != nil {
		return err
	}
	defer rp.r.transfers.Release(p, 1)
	s, err := reconcile.Open(ctx, rp.r.cfg.Host, p, rp.address)
	if err != nil {
		return err
	}
	defer s.Reset()
	at := make(orbit.Attached)
	for range maxOpening {
		opts := rp.options()
		opts.Attached = at
		db, err := rp.r.cfg.Orbit.Open(ctx, rp.address, opts)
		if err == nil {
			rp.obtained(db)
			return nil
		}
		var needed *orbit.UnavailableError
		if !errors.As(err, &needed) {
			return err
		}
		bs, fetchErr := s.Blocks(needed.Hash)
		if fetchErr != nil || len(bs) == 0 || bs[0].Hash != needed.Hash {
			return errors.Join(err, fetchErr)
		}
		at[needed.Hash] = bs[0]
		rp.wants.found(needed.Hash)
	}
	return fmt.Errorf("%w: %s", orbit.ErrUnavailable, rp.address)
}

// obtained replicates a database that was opened.
func (rp *replica) obtained(db *orbit.Database) {
	if err := rp.r.adopt(rp.ctx, db); err != nil && rp.ctx.Err() == nil {
		log.Errorw("open database", "address", rp.address, "err", err)
	}
}

// fetch requests a block from all peers until the context is done. It repeats
// the request like [puller.repeat].
func (rp *replica) fetch(ctx context.Context, hash string) (block.Block, error) {
	if rp.r.cfg.Exchange == nil {
		return block.Block{}, errors.New("there is no block exchange")
	}
	c, err := block.ParseHash(hash)
	if err != nil {
		return block.Block{}, err
	}
	rp.r.requested.Store(hash, rp)
	defer rp.r.requested.Delete(hash)
	for patience := repeatAfter; ; patience *= 2 {
		try, cancel := context.WithTimeout(ctx, patience)
		found, err := rp.r.cfg.Exchange.NewSession(try).GetBlock(try, c)
		timedOut := try.Err() != nil
		cancel()
		if err == nil {
			b := block.Block{Hash: hash, Data: found.RawData()}
			return b, b.Check()
		}
		if ctx.Err() != nil || !timedOut {
			return block.Block{}, fmt.Errorf("fetch %s: %w", hash, err)
		}
	}
}
