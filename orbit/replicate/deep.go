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

// CheckEntries is the check of [Replicator.ExamineDeep]: the comparison of
// entries with a peer.
const CheckEntries = "entries"

// Bounds of a deep examination.
const (
	deepWithin = time.Minute // for one peer
	deepPeers  = 16          // peers
	deepNamed  = 32          // named entries of each kind, per peer
)

// ExamineDeep is [Replicator.Examine], and also compares the authorized entries
// with those of the daemons that have the database open. It takes up to a
// minute per daemon.
func (r *Replicator) ExamineDeep(ctx context.Context, address string) ([]Finding, error) {
	return r.examine(ctx, address, true)
}

// compareEntries adds the entries that are authorized only here or only at a
// peer.
func (x *examination) compareEntries() {
	asked := 0
	for _, p := range x.status.Peers {
		if !p.Open || !reconcile.MaySpeak(x.r.cfg.Host, p.ID) {
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
			x.addPeer(p.ID, CheckEntries, OK, "the same entries are authorized there", "")
		default:
			x.differing(p.ID, d)
		}
	}
	if asked == 0 {
		x.add(CheckEntries, Note, "no daemon with which entries can be compared has it open", "")
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

// differing adds the entries that are authorized on one side only, with the
// reason if it is known.
func (x *examination) differing(p peer.ID, d reconcile.Diff) {
	for _, hash := range d.Theirs {
		why := "it is not here"
		if ok, err := oplog.Of(x.db).Has(x.ctx, hash); err == nil && ok {
			why, _ = oplog.Of(x.db).Unauthorized(x.ctx, hash)
		}
		x.addPeer(p, CheckEntries, Note, fmt.Sprintf("entry %s is authorized there and not here: %s", hash, why), "")
	}
	for _, hash := range d.Ours {
		x.addPeer(p, CheckEntries, Note, fmt.Sprintf("entry %s is authorized here and not there", hash), "")
	}
	if d.More {
		x.addPeer(p, CheckEntries, Note, "there are more such entries", "")
	}
}
