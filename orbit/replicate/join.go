package replicate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// take joins an entry that arrived by pubsub, and reports whether to forward
// it: it is part of the log, and so are its ancestors.
func (rp *replica) take(ctx context.Context, m *pubsub.Message) (forward bool) {
	b := block.New(m.GetData())
	from, author := m.ReceivedFrom, m.GetFrom()
	if rp.database() == nil || !rp.accepts() || rp.peers.ignores(author) || !rp.r.see(rp.address, b.Hash) {
		return false
	}
	useless := false
	defer func() {
		if !forward && !useless { // it may arrive again, or become a head here
			rp.r.forget(rp.address, b.Hash)
			rp.peers.missed(from)
		}
	}()
	size := int64(len(b.Data))
	if !rp.r.budget.TryAcquire(from, size) {
		return false
	}
	defer rp.r.budget.Release(from, size)
	ctx, cancel := context.WithTimeout(ctx, forwardWithin)
	defer cancel()
	defer context.AfterFunc(rp.ctx, cancel)()
	joined, err := rp.join(ctx, []peer.ID{from}, orbit.NewCandidates(b))
	if err != nil {
		return false
	}
	if err := joined[0].Err; err != nil {
		if errors.Is(err, orbit.ErrQuotaFull) {
			return false
		}
		useless = !errors.Is(err, orbit.ErrUnavailable) && !errors.Is(err, orbit.ErrNotAllowed) && !errors.Is(err, orbit.ErrPeerQuotaFull)
		rp.peers.penalize(author)
		return false
	}
	switch joined[0].Outcome {
	case orbit.Refused: // no budget for pending entries is left
		return false
	case orbit.Pending:
		if rp.claimTransfer(from) {
			transfer, stop := context.WithCancel(ctx)
			var group sync.WaitGroup
			group.Go(func() { rp.reconcile(transfer, from, []string{b.Hash}, false) })
			defer group.Wait()
			defer stop()
		}
		if !rp.await(ctx, b.Hash) {
			rp.peers.penalize(author)
			return false
		}
	}
	if slices.ContainsFunc(rp.r.cfg.Router.Unmeshed(rp.address), func(p peer.ID) bool { return p != from && p != author }) {
		// The router does not forward the entry to that peer, so it is
		// announced as a head.
		rp.r.forget(rp.address, b.Hash)
		rp.announceDue.Set()
	}
	return true
}

// await waits until an entry is part of the log, and reports whether it is.
func (rp *replica) await(ctx context.Context, hash string) bool {
	l := oplog.Of(rp.database())
	for {
		changed := l.Changed()
		if ok, err := l.Has(ctx, hash); ok || err != nil {
			return ok
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// join offers entries that arrived from peers to the log, fetches the
// identities that are needed to validate them, and requests the missing parents
// of those that are pending.
func (rp *replica) join(ctx context.Context, from []peer.ID, cs []orbit.Candidate) ([]orbit.JoinResult, error) {
	if len(from) == 1 {
		rp.r.links.sent(from[0], cs)
	}
	return rp.joinOf(ctx, sender(from), from, cs)
}

// joinOf is join of entries that are charged to the quotas of a peer or, if of
// is "", to those of the peers whose entries need them.
func (rp *replica) joinOf(ctx context.Context, of string, from []peer.ID, cs []orbit.Candidate) ([]orbit.JoinResult, error) {
	db := rp.database()
	freed := rp.r.cfg.Orbit.Freed()
	opts := orbit.JoinOptions{From: of, Attached: rp.identitiesOf(ctx, db, from, cs)}
	joined, err := db.Join(ctx, cs, opts)
	if err != nil {
		return joined, rp.storeError(err)
	}
	if places := rp.unauthorized(joined); len(places) > 0 {
		rp.refreshAccess(ctx, from)
		again := make([]orbit.Candidate, len(places))
		for n, i := range places {
			again[n] = cs[i]
		}
		second, err := db.Join(ctx, again, opts)
		if err != nil {
			return joined, rp.storeError(err)
		}
		for n, i := range places {
			joined[i] = second[n]
		}
	}
	rp.noteFull(joined, freed)
	rp.follow(ctx, from, cs, joined)
	return joined, nil
}

// unauthorized returns the indices of the entries that were refused because
// their writers are not on the access list, if the list can change.
func (rp *replica) unauthorized(joined []orbit.JoinResult) (places []int) {
	if rp.accessLog() == nil {
		return nil
	}
	for i, j := range joined {
		if j.Outcome == orbit.Refused && errors.Is(j.Err, orbit.ErrNotAllowed) {
			places = append(places, i)
		}
	}
	return places
}

// follow requests the missing parents of pending entries, and remembers
// refusals.
func (rp *replica) follow(ctx context.Context, from []peer.ID, cs []orbit.Candidate, joined []orbit.JoinResult) {
	for i, j := range joined {
		switch {
		case j.Outcome == orbit.Pending:
			rp.want(ctx, cs[i].Entry().Parents()...)
		case errors.Is(j.Err, orbit.ErrQuotaFull): // the status says so
		case j.Outcome == orbit.Refused && j.Err != nil:
			rp.refuse(from, cs[i], j.Err)
		}
		if j.Outcome != orbit.Refused && rp.refusals.remove(j.Hash) {
			rp.changes.Announce()
		}
	}
}

// refuse remembers that an entry was refused. It is offered to the log again
// when the access list changes, if its writer is not on it.
func (rp *replica) refuse(from []peer.ID, c orbit.Candidate, why error) {
	rp.refusals.add(from, c.Hash(), why)
	if rp.accessLog() != nil && errors.Is(why, orbit.ErrNotAllowed) {
		rp.refusals.hold(c)
	}
	rp.changes.Announce()
}

// identitiesOf returns the identities of the entries' writers that are not here
// and can be fetched within identityWithin.
func (rp *replica) identitiesOf(ctx context.Context, db *orbit.Database, from []peer.ID, cs []orbit.Candidate) orbit.Attached {
	unknown := make(map[string]bool)
	for _, c := range cs {
		e := c.Entry()
		if e == nil || e.Identity == "" || e.LogID != rp.address || unknown[e.Identity] {
			continue
		}
		if _, err := rp.r.cfg.Orbit.IdentityOf(ctx, e.Identity); !errors.Is(err, orbit.ErrUnavailable) {
			continue
		}
		if ok, err := oplog.Of(db).Has(ctx, c.Hash()); err == nil && !ok {
			unknown[e.Identity] = true
		}
	}
	found := make(orbit.Attached)
	if len(unknown) == 0 {
		return found
	}
	ctx, cancel := context.WithTimeout(ctx, identityWithin)
	defer cancel()
	var mu sync.Mutex
	var group sync.WaitGroup
	for hash := range unknown {
		group.Go(func() {
			b, err := rp.identity(ctx, from, hash)
			if err != nil {
				log.Debugw("identity", "address", rp.address, "hash", hash, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found[hash] = b
		})
	}
	group.Wait()
	return found
}

var errUnsent = errors.New("nobody sent it a moment ago")

// identity fetches the block of an identity that an entry of a peer names.
// Concurrent requests for the same identity are one. The quota per peer keeps a
// peer from delaying the others.
func (rp *replica) identity(ctx context.Context, from []peer.ID, hash string) (block.Block, error) {
	if last, ok := rp.r.unsent.Get(hash); ok && time.Since(last) < unsentFor {
		return block.Block{}, errUnsent
	}
	var who peer.ID // "" for an entry that was fetched from any peer
	if len(from) == 1 {
		who = from[0]
	}
	if err := rp.r.identities.Acquire(ctx, who, 1); err != nil {
		return block.Block{}, err
	}
	defer rp.r.identities.Release(who, 1)
	answer := rp.r.requests.DoChan(hash, func() (any, error) {
		ctx, cancel := context.WithTimeout(rp.r.tasks.Context(), identityWithin)
		defer cancel()
		b, err := rp.fetch(ctx, hash)
		if err != nil {
			rp.r.unsent.Add(hash, time.Now())
		}
		return b, err
	})
	select {
	case a := <-answer:
		if a.Err != nil {
			return block.Block{}, a.Err
		}
		return a.Val.(block.Block), nil
	case <-ctx.Done():
		return block.Block{}, ctx.Err()
	}
}
