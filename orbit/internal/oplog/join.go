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

// One transaction takes so many entries, and no further ones once they have so many
// bytes.
const (
	maxPerUpdate   = 64
	maxUpdateBytes = 2 << 20
)

// ErrOtherLog says that an entry belongs to another log.
var ErrOtherLog = errors.New("entry belongs to another log")

// Candidate is an entry that came from elsewhere.
type Candidate struct {
	Entry    *entry.Entry
	Identity block.Block // of its writer; none if it is not known
	Writer   string      // ID of that identity
	Fault    error       // why it is invalid, or nil
	// From is the ID of the peer that offered the entry, as text. It is "" where
	// that is not known, as of an entry that was fetched; then the entry is taken to
	// be of the peer whose waiting entry needs it.
	From string
	// Trusted has the entry be taken also where nothing waits for it and its writer
	// may not write any more.
	Trusted bool
}

// Outcome is what became of a candidate.
type Outcome int

const (
	Refused   Outcome = iota // it would not count, and nothing here waits for it
	Known                    // it was here before
	Joined                   // it is part of the log now
	Waiting                  // it waits for others
	NoRoom                   // it is not taken: it would have to wait, and what waits can enter the log before it
	Full                     // it is not taken: the quota of the log is used up
	ShareFull                // it is not taken: its writer, or the peer that offered it, has used up their share
)

// String returns the outcome in a word.
func (o Outcome) String() string {
	return [...]string{"refused", "known", "joined", "waiting", "no room", "full", "share full"}[o]
}

// Join takes entries from elsewhere, in any order, and returns what became of
// each. Anything may be offered again at any time, and what is left out can be
// taken by a later call. The order of calls makes no difference in the end. On
// an error, part of it may have been taken.
func (l *Log) Join(ctx context.Context, candidates []Candidate) ([]Outcome, error) {
	if err := l.refusal(); err != nil {
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
	// What is refused may be needed by what comes behind it.
	var refused []int
	for len(todo) > 0 {
		for len(todo) > 0 {
			n, size := 0, 0
			for n < min(len(todo), maxPerUpdate) && size < maxUpdateBytes {
				size += len(candidates[todo[n]].Entry.Block.Data)
				n++
			}
			chunk := todo[:n]
			todo = todo[n:]
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
				return outcomes, err
			}
			for _, i := range chunk {
				if outcomes[i] == Refused {
					refused = append(refused, i)
				}
			}
		}
		if err := l.Wake(ctx); err != nil {
			return outcomes, err
		}
		var err error
		if todo, refused, err = l.wanted(ctx, candidates, refused); err != nil {
			return outcomes, err
		}
	}
	for i, o := range outcomes {
		if o != Waiting {
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

// wanted tells those of the refused that are needed now from the others.
func (l *Log) wanted(ctx context.Context, candidates []Candidate, refused []int) (wanted, others []int, err error) {
	g := blocks.Reading(ctx, l.store)
	sum, err := l.readSummary(g)
	if err != nil || sum.Waiting == 0 {
		return nil, refused, err
	}
	for _, i := range refused {
		ok, err := l.needed(g, sum, candidates[i].Entry.Hash())
		if err != nil {
			return nil, nil, err
		}
		if ok {
			wanted = append(wanted, i)
		} else {
			others = append(others, i)
		}
	}
	return wanted, others, nil
}

// Wake goes on with entries whose wait may be over, and with those whose effect is
// to be decided anew, until there is none. It is needed after an interrupted Join
// or Revise, which do the same.
func (l *Log) Wake(ctx context.Context) error {
	for {
		sum, err := l.readSummary(blocks.Reading(ctx, l.store))
		if err != nil || sum.ReadyFrom == sum.ReadyTo && sum.Queue == 0 {
			return err
		}
		err = l.update(ctx, func(tx *store.Tx, sum *summary) error {
			if err := l.wakeSome(tx, sum); err != nil || sum.ReadyFrom < sum.ReadyTo {
				return err
			}
			return l.decideQueued(tx, sum)
		})
		if err != nil {
			return err
		}
	}
}

// wakeSome goes on with as many of the entries that wait for what is in the ready
// queue as one transaction takes.
func (l *Log) wakeSome(tx *store.Tx, sum *summary) error {
	n, size := 0, 0
	for sum.ReadyFrom < sum.ReadyTo {
		key := l.readyKey(sum.ReadyFrom)
		record, err := l.mustGet(tx, key)
		if err != nil {
			return err
		}
		came := string(record)
		list, err := l.dependants(tx, came, maxPerUpdate-n)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			if err := tx.Delete(key); err != nil {
				return err
			}
			sum.ReadyFrom++
		}
		for _, hash := range list {
			if err := l.release(tx, came, hash); err != nil {
				return err
			}
			woken, err := l.wakeOne(tx, sum, hash)
			if err != nil {
				return err
			}
			size += woken
			if n++; n == maxPerUpdate || size >= maxUpdateBytes {
				return nil
			}
		}
	}
	return nil
}

// Waits reports whether an entry with the hash waits to become part of the log.
func (l *Log) Waits(ctx context.Context, hash string) (bool, error) {
	return l.store.Has(ctx, l.waitKey(hash))
}

// join takes one candidate.
func (l *Log) join(tx *store.Tx, sum *summary, c Candidate) (Outcome, error) {
	hash := c.Entry.Hash()
	if ok, err := l.has(tx, hash); err != nil || ok {
		return Known, err
	}
	order := orderOf(c.Entry)
	var evicted *waiter
	var needed *need
	if sum.Waiting > 0 {
		var err error
		if needed, err = l.need(tx, sum, hash); err != nil {
			return Refused, err
		}
		if needed == nil || needed.by == hash { // else it does not wait
			if evicted, err = l.waiter(tx, hash); err != nil || evicted != nil && evicted.held {
				return Waiting, err
			}
		}
		switch {
		case evicted != nil:
			order, c.From = evicted.order, cmp.Or(c.From, evicted.from)
		case needed != nil:
			order, c.From = min(order, needed.order-min(1, needed.order)), cmp.Or(c.From, needed.from)
		}
	}
	ok, err := l.welcome(tx, sum, c)
	if err != nil {
		return Refused, err
	}
	if !ok && evicted == nil {
		return Refused, nil
	}
	size := uint64(len(c.Entry.Block.Data))
	if ok {
		if o, err := l.within(tx, sum, c); err != nil || o != Joined {
			return o, err
		}
	}
	if evicted != nil {
		if err := l.forget(tx, sum, evicted); err != nil {
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
	if c.Identity.Hash != "" {
		if err := blocks.Put(tx, c.Identity); err != nil {
			return Refused, err
		}
	}
	missing, place, err := l.missing(tx, c.Entry.Parents())
	if err != nil {
		return Refused, err
	}
	if missing != "" {
		return l.wait(tx, sum, c, place, order)
	}
	if err := l.clearFor(tx, sum, size); err != nil {
		return Refused, err
	}
	return Joined, l.enter(tx, sum, c.Entry, c.Writer, c.From, c.Fault)
}

// within returns [Joined] if a candidate is within the quota of the log and the shares
// of its writer and of the peer that offered it. An entry that others need is taken
// whatever shares say: entries of honest writers may name it.
func (l *Log) within(tx *store.Tx, sum *summary, c Candidate) (Outcome, error) {
	if !l.fits(sum, uint64(len(c.Entry.Block.Data))) {
		return Full, nil
	}
	if ok, err := l.inShare(tx, sum, c); err != nil || ok {
		return Joined, err
	}
	if ok, err := l.needed(tx, sum, c.Entry.Hash()); err != nil || ok {
		return Joined, err
	}
	return ShareFull, nil
}

// welcome reports whether a candidate is taken: it would be an anchor, an entry
// waits for it, or it is trusted.
func (l *Log) welcome(tx *store.Tx, sum *summary, c Candidate) (bool, error) {
	if c.Fault == nil {
		lists, err := l.access(tx, sum)
		if err != nil || lists.anchors(c.Entry.Hash(), c.Writer) || c.Trusted && has(lists.known, c.Writer) {
			return err == nil, err
		}
	}
	if sum.Waiting == 0 {
		return false, nil
	}
	return l.needed(tx, sum, c.Entry.Hash())
}

// needed reports whether an entry waits for one with a hash, or needs it.
func (l *Log) needed(g blocks.Getter, sum *summary, hash string) (bool, error) {
	if n, err := l.need(g, sum, hash); err != nil || n != nil && n.by != hash {
		return err == nil, err
	}
	d, err := l.dependantsOf(g, hash)
	return !d.none(), err
}

// missing returns the first of an entry's parents that is not in the log, or
// "", and its place among them.
func (l *Log) missing(tx *store.Tx, parents []string) (hash string, place int, err error) {
	for place, hash := range parents {
		if ok, err := l.has(tx, hash); err != nil || !ok {
			return hash, place, err
		}
	}
	return "", len(parents), nil
}

// enter inserts an entry of a writer, which a peer offered, and, where entries wait for it, puts it in the ready queue.
func (l *Log) enter(tx *store.Tx, sum *summary, e *entry.Entry, writer, from string, fault error) error {
	traces := []string{l.faultKey(e.Hash())}
	if fault == nil {
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
			return fmt.Errorf("%w of %s: where %s is kept is lost", ErrDamaged, l.id, e.Hash())
		}
	}
	if err := l.insert(tx, sum, e, writer, fault); err != nil {
		return err
	}
	if err := l.countShares(tx, sum, writer, from, len(e.Block.Data)); err != nil || sum.Waiting == 0 {
		return err
	}
	if ok, err := tx.Has(l.wakeKey(e.Hash())); err != nil || !ok {
		return err
	}
	sum.ReadyTo++
	return tx.Put(l.readyKey(sum.ReadyTo-1), []byte(e.Hash()))
}
