package oplog

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// A transaction takes at most maxPerUpdate entries, and no further one after
// maxUpdateBytes.
const (
	maxPerUpdate   = 64
	maxUpdateBytes = 2 << 20
)

// ErrOtherLog means that an entry belongs to another log.
var ErrOtherLog = errors.New("entry belongs to another log")

// Candidate is an entry that is offered to a log.
type Candidate struct {
	Entry    *entry.Entry
	Identity block.Block // of its writer; zero if unknown
	Writer   string      // ID of the writer
	Invalid  error       // why the entry is invalid, or nil
	// From is the ID of the peer that offered the entry, as text. It is "" if
	// the peer is unknown, for example because the entry was fetched. Such an
	// entry is charged to the peer whose pending entry needs it.
	From string
	// Trusted accepts an entry of a former writer even if no entry needs it.
	Trusted bool
}

// Outcome is what a log did with a candidate.
type Outcome int

const (
	Refused       Outcome = iota // it is no anchor, and no pending entry needs it
	Known                        // it was part of the log before
	Joined                       // it is part of the log now
	Pending                      // it is pending
	PendingFull                  // refused: it would be pending, and the entries that are pending now enter the log before it
	QuotaFull                    // refused: the quota of the log is used up
	PeerQuotaFull                // refused: the quota of its writer, or of the peer that offered it, is used up
)

// String returns the outcome in one or two words.
func (o Outcome) String() string {
	return [...]string{"refused", "known", "joined", "pending", "pending full", "quota full", "peer quota full"}[o]
}

// Join offers entries to the log, in any order, and returns the outcome of
// each. An entry may be offered again at any time, and a refused one may be
// accepted later. The order of calls makes no difference in the end. If Join
// returns an error, some of the entries may have been accepted.
func (l *Log) Join(ctx context.Context, candidates []Candidate) ([]Outcome, error) {
	if err := l.checkWritable(); err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(candidates))
	todo := make([]int, len(candidates))
	for i := range todo {
		todo[i] = i
		if id := candidates[i].Entry.LogID; id != l.id {
			return nil, fmt.Errorf("%w: %s is of %.80q", ErrOtherLog, candidates[i].Entry.Hash(), id)
		}
	}
	// A later candidate may need one that was refused.
	var refused []int
	for len(todo) > 0 {
		if err := l.joinAll(ctx, candidates, todo, outcomes); err != nil {
			return outcomes, err
		}
		for _, i := range todo {
			if outcomes[i] == Refused {
				refused = append(refused, i)
			}
		}
		if err := l.Resume(ctx); err != nil {
			return outcomes, err
		}
		var err error
		if todo, refused, err = l.splitNeeded(ctx, candidates, refused); err != nil {
			return outcomes, err
		}
	}
	for i, o := range outcomes {
		if o != Pending {
			continue
		}
		ok, err := l.Has(ctx, candidates[i].Entry.Hash())
		if err != nil {
			return outcomes, err
		}
		if ok {
			outcomes[i] = Joined
		}
	}
	return outcomes, nil
}

// joinAll joins the candidates at the given indexes, in as many transactions as
// needed, and sets their outcomes.
func (l *Log) joinAll(ctx context.Context, candidates []Candidate, indexes []int, outcomes []Outcome) error {
	for len(indexes) > 0 {
		n, size := 0, 0
		for n < min(len(indexes), maxPerUpdate) && size < maxUpdateBytes {
			size += len(candidates[indexes[n]].Entry.Block.Data)
			n++
		}
		chunk := indexes[:n]
		indexes = indexes[n:]
		err := l.update(ctx, func(tx *store.Tx, sum *summary) error {
			for _, i := range chunk {
				var err error
				if outcomes[i], err = l.join(tx, sum, candidates[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			for _, i := range chunk {
				outcomes[i] = Refused // nothing of the chunk was committed
			}
			return err
		}
	}
	return nil
}

// splitNeeded separates the refused candidates that are needed now from the
// others.
func (l *Log) splitNeeded(ctx context.Context, candidates []Candidate, refused []int) (needed, others []int, err error) {
	g := blocks.Reading(ctx, l.store)
	sum, err := l.readSummary(g)
	if err != nil || sum.Pending == 0 {
		return nil, refused, err
	}
	for _, i := range refused {
		ok, err := l.needed(g, sum, candidates[i].Entry.Hash())
		if err != nil {
			return nil, nil, err
		}
		if ok {
			needed = append(needed, i)
		} else {
			others = append(others, i)
		}
	}
	return needed, others, nil
}

// join joins one candidate.
func (l *Log) join(tx *store.Tx, sum *summary, c Candidate) (Outcome, error) {
	hash := c.Entry.Hash()
	if ok, err := l.has(tx, hash); err != nil || ok {
		return Known, err
	}
	needed, pe, err := l.expected(tx, sum, hash)
	if err != nil {
		return Refused, err
	}
	order := orderOf(c.Entry)
	switch {
	case pe != nil && pe.held:
		return Pending, nil
	case pe != nil:
		order, c.From = pe.order, cmp.Or(c.From, pe.from)
	case needed != nil:
		order, c.From = min(order, needed.order-min(1, needed.order)), cmp.Or(c.From, needed.from)
	}
	ok, err := l.acceptable(tx, sum, c)
	if err != nil || !ok && pe == nil {
		return Refused, err
	}
	if ok {
		if o, err := l.checkQuotas(tx, sum, c); err != nil || o != Joined {
			return o, err
		}
	}
	if pe != nil {
		if err := l.removePending(tx, sum, pe); err != nil {
			return Refused, err
		}
	}
	if needed != nil {
		if err := l.setFound(tx, sum, hash); err != nil {
			return Refused, err
		}
	}
	if !ok {
		return Refused, nil
	}
	return l.accept(tx, sum, c, order)
}

// expected returns why an entry outside the log is missing, and its pending
// entry. Each is nil if there is none.
func (l *Log) expected(tx *store.Tx, sum *summary, hash string) (n *need, pe *pendingEntry, err error) {
	if sum.Pending == 0 {
		return nil, nil, nil
	}
	if n, err = l.need(tx, sum, hash); err != nil {
		return nil, nil, err
	}
	if n == nil || n.by == hash { // otherwise it is not pending
		pe, err = l.pendingEntry(tx, hash)
	}
	return n, pe, err
}

// accept makes a candidate part of the log or a pending entry.
func (l *Log) accept(tx *store.Tx, sum *summary, c Candidate, order uint64) (Outcome, error) {
	if c.Identity.Hash != "" {
		if err := blocks.Put(tx, c.Identity); err != nil {
			return Refused, err
		}
	}
	missing, index, err := l.firstMissing(tx, c.Entry.Parents())
	if err != nil {
		return Refused, err
	}
	if missing != "" {
		return l.addPending(tx, sum, c, index, order)
	}
	if err := l.evictFor(tx, sum, uint64(len(c.Entry.Block.Data))); err != nil {
		return Refused, err
	}
	return Joined, l.enter(tx, sum, c.Entry, c.Writer, c.From, c.Invalid)
}

// checkQuotas returns [Joined] if the quota of the log and the quotas of the
// candidate's writer and peer allow it. The latter do not apply to an entry
// that a pending entry needs, because entries of honest writers may name it.
func (l *Log) checkQuotas(tx *store.Tx, sum *summary, c Candidate) (Outcome, error) {
	if !l.inQuota(sum, uint64(len(c.Entry.Block.Data))) {
		return QuotaFull, nil
	}
	if ok, err := l.inPeerQuotas(tx, sum, c); err != nil || ok {
		return Joined, err
	}
	if ok, err := l.needed(tx, sum, c.Entry.Hash()); err != nil || ok {
		return Joined, err
	}
	return PeerQuotaFull, nil
}

// acceptable reports whether a candidate would be an anchor, is trusted, or is
// needed by a pending entry.
func (l *Log) acceptable(tx *store.Tx, sum *summary, c Candidate) (bool, error) {
	if c.Invalid == nil {
		lists, err := l.access(tx, sum)
		if err != nil || lists.anchors(c.Entry.Hash(), c.Writer) || c.Trusted && contains(lists.known, c.Writer) {
			return err == nil, err
		}
	}
	if sum.Pending == 0 {
		return false, nil
	}
	return l.needed(tx, sum, c.Entry.Hash())
}

// needed reports whether a pending entry needs the entry with the hash.
func (l *Log) needed(g blocks.Getter, sum *summary, hash string) (bool, error) {
	if n, err := l.need(g, sum, hash); err != nil || n != nil && n.by != hash {
		return err == nil, err
	}
	d, err := l.dependantsOf(g, hash)
	return !d.none(), err
}

// firstMissing returns the first of an entry's parents that is not in the log,
// or "", and its index.
func (l *Log) firstMissing(tx *store.Tx, parents []string) (hash string, index int, err error) {
	for index, hash := range parents {
		if ok, err := l.has(tx, hash); err != nil || !ok {
			return hash, index, err
		}
	}
	return "", len(parents), nil
}

// enter inserts an entry into the log and, if it has dependants, adds it to the
// ready queue. from is the peer that offered it. The log is damaged if it has
// records of the entry already.
func (l *Log) enter(tx *store.Tx, sum *summary, e *entry.Entry, writer, from string, invalid error) error {
	traces := []string{l.reasonKey(e.Hash())}
	if invalid == nil {
		p, err := PositionOf(tx, l.number, e)
		if err != nil {
			return err
		}
		traces = append(traces, l.orderKey(p))
	}
	for _, trace := range traces {
		if ok, err := tx.Has(trace); err != nil {
			return err
		} else if ok {
			return fmt.Errorf("%w of %s: location of entry %s is lost", ErrDamaged, l.id, e.Hash())
		}
	}
	if err := l.insert(tx, sum, e, writer, invalid); err != nil {
		return err
	}
	if err := l.countUsage(tx, sum, writer, from, len(e.Block.Data)); err != nil || sum.Pending == 0 {
		return err
	}
	if ok, err := tx.Has(l.dependantsKey(e.Hash())); err != nil || !ok {
		return err
	}
	sum.ReadyTo++
	return tx.Put(l.readyKey(sum.ReadyTo-1), []byte(e.Hash()))
}
