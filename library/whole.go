package library

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/replicate"
)

// A store of a companion is partial until it was in step with a peer once: entries of
// it may be missing. A partial user store is not acted on. Partial pieces and practice
// counts are shown, with the remark that more may come.
//
// A peer other than the owner may withhold entries. What it shows is a state that the
// store once had, and holds only until the owner has the store open.
//
// The store of the library notes what is partial, not what is whole. So the stores of
// a daemon from before there was such a note are whole.

var (
	// ErrNotHere says that nothing of a store is here yet.
	ErrNotHere = errors.New("not here yet")
	// ErrPartial says that a store was not in step with any peer yet.
	ErrPartial = errors.New("not all of it is here yet: it was not in step with any peer")
	// ErrBeingRead says that a store is being read into memory.
	ErrBeingRead = errors.New("being read")

	errNone = errors.New("its user store names none")
)

const partialPrefix = "partial"

func partialKey(address string) string {
	return partialPrefix + "/" + strings.TrimPrefix(address, "/orbitdb/")
}

// loadPartial reads which stores are partial.
func (l *Library) loadPartial(ctx context.Context) error {
	for e, err := range l.cfg.Store.Scan(ctx, partialPrefix) {
		if err != nil {
			return err
		}
		l.partial["/orbitdb/"+strings.TrimPrefix(e.Key, partialPrefix+"/")] = true
	}
	return nil
}

// isPartial reports whether the store with an address is partial.
func (l *Library) isPartial(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.partial[address]
}

// setPartial notes whether the store with an address is partial. Where that cannot be
// written, it holds until the daemon stops.
func (l *Library) setPartial(address string, partial bool) {
	l.mu.Lock()
	changed := l.partial[address] != partial
	if partial {
		l.partial[address] = true
	} else {
		delete(l.partial, address)
	}
	l.mu.Unlock()
	if !changed {
		return
	}
	write := func() error { return l.erase(l.ctx, partialKey(address)) }
	if partial {
		write = func() error { return l.save(l.ctx, partialKey(address), []byte("1")) }
	}
	if err := write(); err != nil && l.ctx.Err() == nil {
		log.Warnw("store of a companion", "database", address, "partial", partial, "err", err)
	}
}

// inStep returns with which peer a database was in step last, and when. Where the
// owner has the database open, only the owner counts.
func inStep(status replicate.Status, owner peer.ID) (with peer.ID, last time.Time) {
	return lastWith(status, owner, func(p replicate.Peer) time.Time { return p.InStep })
}

// proven returns when it was proven last that a peer has no more of a database than is
// here: when they were in step or, of a peer that cannot be compared, when heads were
// exchanged, if nothing of them is missing.
func proven(status replicate.Status, owner peer.ID) time.Time {
	_, last := lastWith(status, owner, func(p replicate.Peer) time.Time {
		if p.By == replicate.NotComparable && p.Exchanged.After(p.InStep) && status.Asking == 0 && len(status.Missing) == 0 {
			return p.Exchanged
		}
		return p.InStep
	})
	return last
}

// lastWith returns the peer for which a time is the latest, and the time. Where the
// owner of a database has it open, only the owner counts. Of the other peers, those
// count that have an entry, and for which the time is not before the last exchange: a
// peer that is still fetching the database shows no heads, as one does that has nothing
// in it.
func lastWith(status replicate.Status, owner peer.ID, when func(replicate.Peer) time.Time) (with peer.ID, last time.Time) {
	for _, p := range status.Peers {
		at := when(p)
		switch {
		case p.ID == owner && p.Open:
			return p.ID, at
		case p.ID != owner && (p.Heads == 0 || at.Before(p.Exchanged)):
		case at.After(last):
			with, last = p.ID, at
		}
	}
	return with, last
}

// statusOf returns what is known of the replication of a database: nothing where it is
// not replicated.
func (l *Library) statusOf(ctx context.Context, address string) (status replicate.Status) {
	if address != "" && l.cfg.Replicator != nil {
		status, _ = l.cfg.Replicator.Status(ctx, address)
	}
	return status
}

// incomplete returns what of a store is not here or not read yet, or nil. The gate is
// that of the store.
func (l *Library) incomplete(ctx context.Context, g *gate, address string) error {
	switch {
	case address == "":
		return errNone
	case !l.isHere(address):
		return ErrNotHere
	case l.isPartial(address):
		return ErrPartial
	case !g.isUpToDate(ctx, address):
		return ErrBeingRead
	}
	return nil
}
