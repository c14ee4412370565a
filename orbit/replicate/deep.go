package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/internal/reconcile"

	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// CheckEntries is the comparison of entries with a peer, of a deep examination.
const CheckEntries = "entries"

// Bounds of a deep examination.
const (
	deepWithin = time.Minute // with one peer
	deepPeers  = 16          // that are asked
	deepNamed  = 32          // entries of each kind that are named for a peer
)

// ExamineDeep is [Replicator.Examine], and compares what counts here, entry by
// entry, with what counts at the daemons that have the database open. It takes up
// to a minute for each.
func (r *Replicator) ExamineDeep(ctx context.Context, address string) ([]Finding, error) {
	return r.examine(ctx, address, true)
}

// compareEntries names the entries that count here or at a peer alone.
func (x *examination) compareEntries() {
	asked := 0
	for _, p := range x.status.Peers {
		if !p.Open || !reconcile.Speaks(x.r.cfg.Host, p.ID) {
			continue
		}
		if asked++; asked > deepPeers {
			x.add(CheckEntries, Note, "entries were not compared with the other daemons that have it open", "")
			return
		}
		d, err := x.diff(p.ID)
		switch {
		case errors.Is(err, reconcile.ErrUnsupported):
			asked--
		case err != nil:
			x.addPeer(p.ID, CheckEntries, Note, fmt.Sprintf("entries could not be compared: %v", err), "")
		case len(d.Theirs)+len(d.Ours) == 0:
			x.addPeer(p.ID, CheckEntries, OK, "the same entries count there", "")
		default:
			x.differing(p.ID, d)
		}
	}
	if asked == 0 {
		x.add(CheckEntries, Note, "no daemon that has it open can be compared with", "")
	}
}

func (x *examination) diff(p peer.ID) (reconcile.Diff, error) {
	ctx, cancel := context.WithTimeout(x.ctx, deepWithin)
	defer cancel()
	s, err := reconcile.Open(ctx, x.r.cfg.Host, p, x.address)
	if err != nil {
		return reconcile.Diff{}, err
	}
	defer s.Reset()
	return s.Diff(ctx, oplog.Of(x.db), deepNamed)
}

// differing names entries that count on one side alone, with the reason where that
// is known.
func (x *examination) differing(p peer.ID, d reconcile.Diff) {
	for _, hash := range d.Theirs {
		why := "it is not here"
		if ok, err := oplog.Of(x.db).Has(x.ctx, hash); err == nil && ok {
			why, _ = oplog.Of(x.db).Fault(x.ctx, hash)
		}
		x.addPeer(p, CheckEntries, Note, fmt.Sprintf("entry %s counts there and not here: %s", hash, why), "")
	}
	for _, hash := range d.Ours {
		x.addPeer(p, CheckEntries, Note, fmt.Sprintf("entry %s counts here and not there", hash), "")
	}
	if d.More {
		x.addPeer(p, CheckEntries, Note, "there are more such entries", "")
	}
}
