package oplog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/value/dagcbor"
	"github.com/newpieceplease/npp/store"
)

// Bounds of what waits.
const (
	maxWaitingBytes = 4 << 30 // of a log; peers send the newest first, so all but the oldest entry waits
	maxSleepers     = 1 << 12 // that are taken to wait for one hash

	// One transaction takes so many entries, and no further ones once they have
	// so many bytes.
	maxPerUpdate   = 128
	maxUpdateBytes = 2 << 20
)

// MaxMissing is how many hashes [Log.Missing] returns.
const MaxMissing = 10_000

// maxMissingOfOne is how many of them one entry names.
const maxMissingOfOne = 32

// ErrWaitingFull says that too much waits already: what is missing must come
// first.
var ErrWaitingFull = errors.New("too many entries wait for others")

// ErrOtherLog says that an entry belongs to another log.
var ErrOtherLog = errors.New("entry belongs to another log")

// Candidate is an entry that came from elsewhere.
type Candidate struct {
	Entry    *entry.Entry
	Identity block.Block // of its writer; none if it is not known
	Writer   string      // ID of that identity
	Fault    error       // why it is invalid, or nil
	// Trusted has the entry be taken also where nothing waits for it and its writer
	// may not write any more.
	Trusted bool
}

// Outcome is what became of a candidate.
type Outcome int

const (
	Refused Outcome = iota // it would not count, and nothing here waits for it
	Known                  // it was here before
	Joined                 // it is part of the log now
	Waiting                // it waits for others
)

// String returns the outcome in a word.
func (o Outcome) String() string {
	return [...]string{"refused", "known", "joined", "waiting"}[o]
}

// Join takes entries from elsewhere, in any order, and returns what became of
// each. Anything may be offered again at any time, and what is left out can be
// taken by a later call. The order of calls makes no difference in the end. On
// an error, part of it may have been taken; with [ErrWaitingFull], all of it
// but for those which would have to wait.
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
	var full error
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
					outcomes[i], err = l.join(tx, sum, candidates[i])
					if errors.Is(err, ErrWaitingFull) {
						full, err = err, nil
					}
					if err != nil {
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
	return outcomes, full
}

// wanted tells those of the refused that something waits for now from the
// others.
func (l *Log) wanted(ctx context.Context, candidates []Candidate, refused []int) (wanted, others []int, err error) {
	for _, i := range refused {
		ok, err := l.store.Has(ctx, l.wakeKey(candidates[i].Entry.Hash()))
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
			size := 0
			for n := 0; n < maxPerUpdate && size < maxUpdateBytes && sum.ReadyFrom < sum.ReadyTo; n++ {
				woken, err := l.wakeNext(tx, sum)
				if err != nil {
					return err
				}
				size += woken
			}
			if sum.ReadyFrom < sum.ReadyTo {
				return nil
			}
			return l.decideQueued(tx, sum)
		})
		if err != nil {
			return err
		}
	}
}

// Waits reports whether an entry with the hash waits to become part of the log.
func (l *Log) Waits(ctx context.Context, hash string) (bool, error) {
	return l.store.Has(ctx, l.waitKey(hash))
}

func (l *Log) waitKey(hash string) string   { return l.key("wait/" + hash) }
func (l *Log) wakeKey(hash string) string   { return l.key("wake/" + hash) }
func (l *Log) readyKey(place uint64) string { return store.Key(l.key("ready"), place) }

// join takes one candidate.
func (l *Log) join(tx *store.Tx, sum *summary, c Candidate) (Outcome, error) {
	hash := c.Entry.Hash()
	if ok, err := l.has(tx, hash); err != nil || ok {
		return Known, err
	}
	if ok, err := tx.Has(l.waitKey(hash)); err != nil || ok {
		return Waiting, err
	}
	if ok, err := l.welcome(tx, c); err != nil || !ok {
		return Refused, err
	}
	if c.Identity.Hash != "" {
		if err := blocks.Put(tx, c.Identity); err != nil {
			return Refused, err
		}
	}
	missing, _, err := l.missing(tx, c.Entry.Parents())
	if err != nil {
		return Refused, err
	}
	if missing != "" {
		w := waiter{writer: c.Writer, data: c.Entry.Block.Data}
		if c.Fault != nil {
			w.fault = c.Fault.Error()
		}
		if err := l.room(tx, sum, missing, w); err != nil {
			return Refused, err
		}
		return Waiting, l.sleep(tx, sum, hash, missing, w)
	}
	return Joined, l.enter(tx, sum, c.Entry, c.Writer, c.Fault)
}

// welcome reports whether a candidate is taken: it would be an anchor, an entry
// waits for it, or it is trusted.
func (l *Log) welcome(tx *store.Tx, c Candidate) (bool, error) {
	if c.Fault == nil {
		lists, err := l.access(tx)
		if err != nil || lists.anchors(c.Entry.Hash(), c.Writer) || c.Trusted && has(lists.known, c.Writer) {
			return err == nil, err
		}
	}
	return tx.Has(l.wakeKey(c.Entry.Hash()))
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

// enter inserts an entry and hands those that waited for it to the ready
// queue.
func (l *Log) enter(tx *store.Tx, sum *summary, e *entry.Entry, writer string, fault error) error {
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
	sleepers, err := l.sleepers(tx, e.Hash())
	if err != nil || len(sleepers) == 0 {
		return err
	}
	for _, s := range bytes.Fields(sleepers) {
		if err := tx.Put(l.readyKey(sum.ReadyTo), s); err != nil {
			return err
		}
		sum.ReadyTo++
	}
	return tx.Delete(l.wakeKey(e.Hash()))
}

// sleepers returns the entries that wait for a hash, each with a space behind
// it ([sleeper]).
func (l *Log) sleepers(tx *store.Tx, hash string) ([]byte, error) {
	list, err := tx.Get(l.wakeKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return list, err
}

// room returns [ErrWaitingFull] unless one more entry may wait.
func (l *Log) room(tx *store.Tx, sum *summary, missing string, w waiter) error {
	sleepers, err := l.sleepers(tx, missing)
	if err != nil {
		return err
	}
	if bytes.Count(sleepers, []byte{' '}) >= maxSleepers || sum.Pending+uint64(len(w.data)) > maxWaitingBytes {
		return fmt.Errorf("%w: %s of %s", ErrWaitingFull, missing, l.id)
	}
	return nil
}

// sleep lets an entry wait for one of its parents.
func (l *Log) sleep(tx *store.Tx, sum *summary, hash, missing string, w waiter) error {
	sum.Waiting++
	sum.Pending += uint64(len(w.data))
	if err := tx.Put(l.waitKey(hash), w.encode()); err != nil {
		return err
	}
	return l.list(tx, missing, sleeper{hash: hash})
}

// wakeNext takes the next entry of the ready queue: it enters the log or goes
// on waiting, for another of its parents. Of an entry that goes on waiting, no
// more than a record of its parents is read, but for the first time.
func (l *Log) wakeNext(tx *store.Tx, sum *summary) (size int, err error) {
	item, err := l.mustGet(tx, l.readyKey(sum.ReadyFrom))
	if err != nil {
		return 0, err
	}
	if err := tx.Delete(l.readyKey(sum.ReadyFrom)); err != nil {
		return 0, err
	}
	sum.ReadyFrom++
	s, ok := parseSleeper(string(item))
	if !ok {
		return 0, fmt.Errorf("%w of %s: %.80q is ready", ErrDamaged, l.id, item)
	}
	if s.place > 0 {
		var missing string
		if missing, size, err = l.goOn(tx, &s); err != nil {
			return 0, err
		}
		if missing != "" {
			return size, l.list(tx, missing, s)
		}
	}
	record, err := l.mustGet(tx, l.waitKey(s.hash))
	if err != nil {
		return 0, err
	}
	w, e, err := decodeWaiter(s.hash, record)
	if err != nil {
		return 0, fmt.Errorf("%w of %s: entry %s that waits: %v", ErrDamaged, l.id, s.hash, err)
	}
	size += len(w.data)
	if s.place == 0 {
		parents := e.Parents()
		var missing string
		if missing, s.place, err = l.missing(tx, parents); err != nil {
			return 0, err
		}
		if missing != "" {
			if err := l.putParents(tx, s, parents); err != nil {
				return 0, err
			}
			// There is room: it must not be in the way of those behind it.
			return size, l.list(tx, missing, s)
		}
	}
	if err := tx.Delete(l.waitKey(s.hash)); err != nil {
		return 0, err
	}
	sum.Waiting--
	sum.Pending -= uint64(len(w.data))
	var fault error
	if w.fault != "" {
		fault = errors.New(w.fault)
	}
	return size, l.enter(tx, sum, e, w.writer, fault)
}

// mustGet returns the value at a key that is there unless the log is damaged.
func (l *Log) mustGet(tx *store.Tx, key string) ([]byte, error) {
	value, err := tx.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w of %s: %s is gone", ErrDamaged, l.id, key)
	}
	return value, err
}

// waiter is an entry that waits.
type waiter struct {
	writer string // ID of its identity, where it is valid
	fault  string // why it is invalid, or ""
	data   []byte
}

func (w waiter) encode() []byte {
	return append(dagcbor.AppendText(dagcbor.AppendText(nil, w.fault), w.writer), w.data...)
}

func decodeWaiter(hash string, record []byte) (w waiter, e *entry.Entry, err error) {
	r := dagcbor.NewReader(record)
	if w.fault, err = r.Text(); err != nil {
		return w, nil, err
	}
	if w.writer, err = r.Text(); err != nil {
		return w, nil, err
	}
	if w.data, err = r.Raw(); err != nil {
		return w, nil, err
	}
	b := block.Block{Hash: hash, Data: w.data}
	if err := b.Check(); err != nil {
		return w, nil, err
	}
	e, err = entry.Decode(b)
	return w, e, err
}

// Missing returns the hashes that entries wait for and that do not wait
// themselves: all of them, or where there are more than [MaxMissing], or more
// than 32 of one entry, some at random, others with each call, but always the one
// that the entry waits for at the moment. It reads all that waits.
//
// It is to be offered until nothing is missing. An entry waits for one after
// the other of those that it names, so of what is missing, some that must have
// no effect may be refused at first, but never all.
func (l *Log) Missing(ctx context.Context) ([]string, error) {
	g := blocks.Reading(ctx, l.store)
	seen := make(map[string]bool)
	var missing []string
	found := 0
	for record, err := range l.store.Scan(ctx, l.key("wait")) {
		if err != nil {
			return nil, err
		}
		_, e, err := decodeWaiter(record.Key[strings.LastIndexByte(record.Key, '/')+1:], record.Value)
		if err != nil {
			return nil, fmt.Errorf("%w of %s: %v", ErrDamaged, l.id, err)
		}
		parents := e.Parents()
		if len(parents) > maxMissingOfOne {
			if parents, err = l.someOf(g, parents); err != nil {
				return nil, err
			}
		}
		ofOne := 0
		for _, hash := range parents {
			if ofOne == maxMissingOfOne {
				break
			}
			if seen[hash] {
				continue
			}
			if waits, err := l.store.Has(ctx, l.waitKey(hash)); err != nil {
				return nil, err
			} else if waits {
				continue
			}
			if ok, err := l.has(g, hash); err != nil {
				return nil, err
			} else if ok {
				continue
			}
			ofOne++
			found++
			// Each of those found has the same chance to be among them.
			at := len(missing)
			if at < MaxMissing {
				missing = append(missing, "")
			} else if at = rand.IntN(found); at >= MaxMissing {
				continue
			} else {
				delete(seen, missing[at])
			}
			missing[at] = hash
			seen[hash] = true
		}
	}
	return missing, nil
}

// someOf returns the parents of an entry from that on which it waits for, which
// comes first, the others in any order.
func (l *Log) someOf(g blocks.Getter, parents []string) ([]string, error) {
	for len(parents) > 0 {
		ok, err := l.has(g, parents[0])
		if err != nil {
			return nil, err
		}
		if !ok {
			others := parents[1:]
			rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
			break
		}
		parents = parents[1:]
	}
	return parents, nil
}
