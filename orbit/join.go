package orbit

import (
	"context"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Outcome is the outcome of [Database.Join] for one candidate.
type Outcome int

// The outcomes of a join.
const (
	Refused Outcome = iota // the entry is not part of the log
	Known                  // the entry was part of the log, or pending, before
	Joined                 // the entry is now part of the log
	Pending                // the entry is now pending
)

// String returns the name of an outcome, such as "joined".
func (o Outcome) String() string {
	return [...]string{"refused", "known", "joined", "pending"}[o]
}

// JoinResult is the result of [Database.Join] for one candidate.
type JoinResult struct {
	Hash    string
	Outcome Outcome
	// Err is the reason why the entry is refused, or is part of the log without
	// being authorized. It wraps [Candidate.Err], [entry.ErrInvalid],
	// [ErrNotAllowed], [ErrOtherDatabase], [ErrQuotaFull], [ErrPeerQuotaFull],
	// or [ErrUnavailable] if the identity of the writer is missing: the entry
	// can be offered again, with the identity attached.
	Err error
}

// JoinOptions are optional arguments of [Database.Join].
type JoinOptions struct {
	// From is the ID of the peer that offered the entries, as text. Each peer
	// has a quota of the pending entries and, where anybody may write, also of
	// the stored ones.
	From string
	// Attached are blocks that came with the entries, such as the identities of
	// their writers.
	Attached Attached

	trusted bool // accept entries of writers that were once on the access list
}

// Join accepts entries from other peers, in any order. It verifies them on all
// processors and adds them to the log or to the pending entries. Its error is
// one of the store; the results contain the errors of the candidates.
//
// An entry whose writer was never on the access list is refused with
// [ErrNotAllowed], unless a pending entry needs it. Offer it again when the
// list has changed.
//
// An entry that exceeds a quota is refused with [ErrQuotaFull] or
// [ErrPeerQuotaFull]. Offer it again when space was freed ([Orbit.Freed]) or a
// quota was raised.
func (db *Database) Join(ctx context.Context, cs []Candidate, opts JoinOptions) ([]JoinResult, error) {
	if db.orbit.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if err := db.sync(ctx); err != nil {
		return nil, err
	}
	rights, at, err := db.access.rights(ctx)
	if err != nil {
		return nil, err
	}
	db.limit(rights, at)
	results := make([]JoinResult, len(cs))
	candidates := make([]*oplog.Candidate, len(cs))
	parallel(len(cs), func(i int) {
		results[i].Hash = cs[i].Hash()
		candidates[i], results[i].Err = db.candidate(ctx, cs[i], opts.Attached)
	})
	var offered []oplog.Candidate
	var places []int
	for i, c := range candidates {
		if c != nil {
			c.Trusted, c.From = opts.trusted, opts.From
			if c.Invalid == nil && !rights.Anchors(cs[i].Hash(), c.Writer) {
				results[i].Err = fmt.Errorf("%w to %s: identity %s", ErrNotAllowed, db.address, c.Writer)
			}
			offered = append(offered, *c)
			places = append(places, i)
		}
	}
	outcomes, err := db.log.Join(ctx, offered)
	var fresh []block.Block
	for n, outcome := range outcomes {
		i := places[n]
		switch outcome {
		case oplog.Known:
			results[i].Outcome = Known
		case oplog.Pending:
			results[i].Outcome = Pending
		case oplog.QuotaFull:
			results[i].Err = db.account.full()
		case oplog.PeerQuotaFull:
			results[i].Err = fmt.Errorf("%w: entry %s by %s", ErrPeerQuotaFull, cs[i].Hash(), offered[n].Writer)
		case oplog.Joined:
			results[i].Outcome = Joined
			fresh = append(fresh, cs[i].block)
			if identity := offered[n].Identity; identity.Hash != "" {
				fresh = append(fresh, identity)
			}
		}
	}
	db.orbit.announce(ctx, fresh...)
	if len(fresh) > 0 {
		err = errors.Join(err, db.syncControlled(ctx))
	}
	return results, err
}
