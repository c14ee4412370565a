package message

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/store"
)

// The keys of the mailbox. Messages are numbered in the order of their arrival.
//
//	state                    pb.State
//	log/<number>             pb.Record
//	id/<id>/<via>/<peer>     number: where the message is, or was
//	from/<via>/<peer>/<number>  the messages of one peer
//	pubsub/<number>          the messages that arrived by pubsub
//	used/<via>/<peer>        bytes
//	speaks/<peer>            the peer spoke the protocol
//
// [ReplayWindow] lists the keys for the IDs of removed messages.
const (
	stateKey     = "state"
	logSeries    = "log"
	pubsubSeries = "pubsub"
)

func idKey(id string, via Via, from peer.ID) string {
	return "id/" + id + "/" + string(via) + "/" + from.String()
}
func fromSeries(via Via, from peer.ID) string { return "from/" + string(via) + "/" + from.String() }
func usedKey(via Via, from peer.ID) string    { return "used/" + string(via) + "/" + from.String() }
func speaksKey(p peer.ID) string              { return "speaks/" + p.String() }
func number(n uint64) []byte                  { return binary.BigEndian.AppendUint64(nil, n) }

// recordOverhead is the size of a stored message's keys and index records, in
// bytes, as it counts for quotas.
const recordOverhead = 256

// sweepBatch is the largest number of messages that one transaction removes.
const sweepBatch = 256

// Errors of storing and finding messages.
var (
	ErrFull     = errors.New("no space left for messages")
	ErrIDReused = errors.New("the ID was used for another message")
	ErrNotFound = errors.New("no such message")
)

// errDuplicate means that the message is already stored.
var errDuplicate = errors.New("stored already")

// mailbox is the log of received messages on disk.
type mailbox struct {
	store  *store.Store
	limits Limits
	disk   *space.Disk // the disk of store
	now    func() time.Time

	arrivals wait.Change
}

func newMailbox(st *store.Store, limits Limits, now func() time.Time) *mailbox {
	return &mailbox{store: st, limits: limits, now: now}
}

// add stores m, sets its number and time of receipt, and returns when it is on
// disk. A message that is already stored is not an error.
func (b *mailbox) add(ctx context.Context, m *Message) error {
	added := false
	err := b.store.Update(ctx, func(tx *store.Tx) error {
		switch err := b.insert(ctx, tx, make(evicted), m); {
		case errors.Is(err, errDuplicate):
			return nil
		case err != nil:
			return err
		}
		added = true
		return nil
	})
	if err != nil {
		return err
	}
	if added {
		b.arrivals.Announce()
	}
	return nil
}

// addPubsub stores messages that arrived by pubsub and returns when all are on
// disk. It returns the number of messages that exceed the quota of their
// author.
func (b *mailbox) addPubsub(ctx context.Context, ms []*Message) (refused int, err error) {
	var gone uint64
	err = b.store.Update(ctx, func(tx *store.Tx) error {
		done := make(evicted)
		for _, m := range ms {
			switch err := b.insert(ctx, tx, done, m); {
			case errors.Is(err, ErrFull):
				refused++
			case errors.Is(err, errDuplicate), errors.Is(err, ErrIDReused):
			case err != nil:
				return err
			}
		}
		st, err := readState(tx)
		if err != nil {
			return err
		}
		gone = st.Gone
		if refused == 0 {
			return nil
		}
		st.RefusedPubsub += uint64(refused)
		return writeState(tx, st)
	})
	if err != nil {
		return 0, err
	}
	b.arrivals.Announce()
	if gone >= b.maxGone()+sweepBatch {
		if err := b.pruneIDs(ctx); err != nil {
			log.Errorw("forgetting removed messages failed", "err", err)
		}
	}
	return refused, nil
}

// evicted maps a series to the number below which the transaction has deleted
// all messages, so that the transaction reads each record once.
type evicted map[string]uint64

// insert adds m to a transaction. If the disk is almost full and m is not
// stored yet, it returns the error of [space.Disk.CheckIncoming].
func (b *mailbox) insert(ctx context.Context, tx *store.Tx, done evicted, m *Message) error {
	at, err := tx.Get(idKey(m.ID, m.Via, m.From))
	switch {
	case err == nil:
		return b.sameAsStored(tx, at, m)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if err := b.disk.CheckIncoming(); err != nil {
		return err
	}
	st, err := readState(tx)
	if err != nil {
		return err
	}
	m.Number = st.Next
	m.Received = b.now()
	if last := time.Unix(0, st.Received); m.Received.Before(last) {
		m.Received = last
	}
	rec, err := encodeRecord(m)
	if err != nil {
		return err
	}
	size := uint64(len(rec)) + recordOverhead
	used, err := b.makeRoom(ctx, tx, done, st, m, size)
	if err != nil {
		return err
	}
	st.Next++
	st.Received = m.Received.UnixNano()
	*usedBytes(st, m.Via) += size
	err = errors.Join(
		tx.Put(store.Key(logSeries, m.Number), rec),
		tx.Put(store.Key(fromSeries(m.Via, m.From), m.Number), nil),
		tx.Put(idKey(m.ID, m.Via, m.From), number(m.Number)),
		tx.Put(usedKey(m.Via, m.From), number(used+size)),
		writeState(tx, st),
	)
	if m.Via == Pubsub {
		err = errors.Join(err, tx.Put(store.Key(pubsubSeries, m.Number), nil))
	}
	return err
}

// sameAsStored returns errDuplicate if the stored message with the same ID has
// the same data, and an error that wraps ErrIDReused if its data differs.
func (b *mailbox) sameAsStored(tx *store.Tx, at []byte, m *Message) error {
	if len(at) != 8 {
		return fmt.Errorf("message %s has a damaged index record", m.ID)
	}
	n := binary.BigEndian.Uint64(at)
	rec, err := tx.Get(store.Key(logSeries, n))
	if errors.Is(err, store.ErrNotFound) {
		return errDuplicate // a pubsub message that was removed
	}
	if err != nil {
		return err
	}
	old, err := decodeRecord(n, rec)
	if err != nil {
		return err
	}
	if !bytes.Equal(old.Data, m.Data) {
		return fmt.Errorf("%w: %s", ErrIDReused, m.ID)
	}
	return errDuplicate
}

// makeRoom deletes messages until size more bytes of m's author fit into the
// quotas, or returns ErrFull. It updates st, which the caller writes, and
// returns the bytes that the author uses without m.
func (b *mailbox) makeRoom(ctx context.Context, tx *store.Tx, done evicted, st *pb.State, m *Message, size uint64) (used uint64, err error) {
	total, quota := b.limits.StoreBytes, b.limits.PeerBytes
	if m.Via == Pubsub {
		total, quota = b.limits.PubsubBytes, b.limits.PubsubBytes/4
	}
	if size > quota {
		return 0, fmt.Errorf("%w: the message takes %d bytes, a peer's quota is %d", ErrFull, size, quota)
	}
	used, err = readNumber(tx, usedKey(m.Via, m.From))
	if err != nil {
		return 0, err
	}
	all := usedBytes(st, m.Via)
	if used+size <= quota && *all+size <= total {
		return used, nil
	}
	if used+size > quota {
		if m.Via == Direct && b.limits.WhenPeerFull != DropOldest {
			return 0, fmt.Errorf("%w: the sender's quota of %d bytes is used up", ErrFull, quota)
		}
		if err := b.evict(ctx, tx, done, st, fromSeries(m.Via, m.From), used+size-quota); err != nil {
			return 0, err
		}
	}
	if *all+size > total {
		if m.Via == Direct {
			return 0, fmt.Errorf("%w: the store of %d bytes is full", ErrFull, total)
		}
		if err := b.evict(ctx, tx, done, st, pubsubSeries, *all+size-total); err != nil {
			return 0, err
		}
	}
	return readNumber(tx, usedKey(m.Via, m.From))
}

// evict deletes the oldest messages of a series until it has freed the given
// number of bytes.
func (b *mailbox) evict(ctx context.Context, tx *store.Tx, done evicted, st *pb.State, series string, free uint64) error {
	var freed uint64
	drop := func(n uint64) error {
		size, err := b.delete(tx, st, n)
		if err == nil {
			freed += size
			st.Expired++
		}
		if errors.Is(err, ErrNotFound) {
			err = nil // the transaction removed it before
		}
		done[series] = n + 1
		return err
	}
	// The series is read as of the last commit.
	for r, err := range b.store.Ascend(ctx, series, done[series]) {
		if err != nil {
			return err
		}
		if err := drop(r.Number); err != nil {
			return err
		}
		if freed >= free {
			return nil
		}
	}
	// Messages of this transaction are not in it.
	committed, err := b.state(ctx)
	if err != nil {
		return err
	}
	for n := max(committed.Next, done[series]); n < st.Next && freed < free; n++ {
		if there, err := tx.Has(store.Key(series, n)); err != nil {
			return err
		} else if !there {
			continue
		}
		if err := drop(n); err != nil {
			return err
		}
	}
	if freed < free {
		return fmt.Errorf("%w: %s has fewer bytes than its counter says", ErrFull, series)
	}
	return nil
}

// delete removes message n, updates st, which the caller writes, and returns
// the number of bytes that it frees.
func (b *mailbox) delete(tx *store.Tx, st *pb.State, n uint64) (uint64, error) {
	rec, err := tx.Get(store.Key(logSeries, n))
	if errors.Is(err, store.ErrNotFound) {
		return 0, ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	m, err := decodeRecord(n, rec)
	if err != nil {
		return 0, err
	}
	size := uint64(len(rec)) + recordOverhead
	used, err := readNumber(tx, usedKey(m.Via, m.From))
	if err != nil {
		return 0, err
	}
	err = errors.Join(
		tx.Delete(store.Key(logSeries, n)),
		tx.Delete(store.Key(fromSeries(m.Via, m.From), n)),
	)
	if m.Via == Pubsub {
		err = errors.Join(err, tx.Delete(store.Key(pubsubSeries, n)))
	}
	if m.Via == Pubsub && b.now().Sub(m.Received) < ReplayWindow {
		err = errors.Join(err, recordRemoved(tx, st, m))
	} else {
		err = errors.Join(err, tx.Delete(idKey(m.ID, m.Via, m.From)))
	}
	if used > size {
		err = errors.Join(err, tx.Put(usedKey(m.Via, m.From), number(used-size)))
	} else {
		err = errors.Join(err, tx.Delete(usedKey(m.Via, m.From)))
	}
	all := usedBytes(st, m.Via)
	*all -= min(size, *all)
	return size, err
}

// remove deletes the messages with these numbers in one transaction and returns
// how many it deleted. On an error it deleted none.
func (b *mailbox) remove(ctx context.Context, numbers []uint64, expired bool) (int, error) {
	if len(numbers) == 0 {
		return 0, nil
	}
	removed := 0
	err := b.store.Update(ctx, func(tx *store.Tx) error {
		removed = 0
		st, err := readState(tx)
		if err != nil {
			return err
		}
		for _, n := range numbers {
			_, err := b.delete(tx, st, n)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			removed++
		}
		if expired {
			st.Expired += uint64(removed)
		}
		return writeState(tx, st)
	})
	if err != nil {
		return 0, err
	}
	return removed, nil
}

// sweep deletes the messages that are older than KeepFor, and the IDs of
// removed pubsub messages that are older than [ReplayWindow].
func (b *mailbox) sweep(ctx context.Context) error {
	if keep := time.Duration(b.limits.KeepFor); keep > 0 {
		cutoff := b.now().Add(-keep)
		for {
			var old []uint64
			for m, err := range b.read(ctx, 0) {
				if err != nil {
					return err
				}
				if !m.Received.Before(cutoff) || len(old) == sweepBatch {
					break
				}
				old = append(old, m.Number)
			}
			if len(old) == 0 {
				break
			}
			if _, err := b.remove(ctx, old, true); err != nil {
				return err
			}
		}
	}
	return b.pruneIDs(ctx)
}

// unseen reports whether a pubsub message is new.
func (b *mailbox) unseen(ctx context.Context, author peer.ID, seqno []byte) bool {
	known, err := b.store.Has(ctx, idKey(pubsubID(author, seqno), Pubsub, author))
	return err != nil || !known
}

// read yields the messages from a number on, oldest first. It logs and skips a
// damaged record.
func (b *mailbox) read(ctx context.Context, from uint64) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for r, err := range b.store.Ascend(ctx, logSeries, from) {
			if err != nil {
				yield(nil, err)
				return
			}
			m, err := decodeRecord(r.Number, r.Value)
			if err != nil {
				log.Errorw("a stored message is damaged and left out", "number", r.Number, "err", err)
				continue
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

// firstSince returns the number of the first message that was received at t or
// later, or the next number to be used. Times of receipt never decrease, so it
// is a binary search.
func (b *mailbox) firstSince(ctx context.Context, t time.Time) (uint64, error) {
	st, err := b.state(ctx)
	if err != nil {
		return 0, err
	}
	lo, hi := uint64(0), st.Next // hi is at t or later, or the end
	for lo < hi {
		mid := lo + (hi-lo)/2
		found := hi
		var received time.Time
		for m, err := range b.read(ctx, mid) {
			if err != nil {
				return 0, err
			}
			found, received = m.Number, m.Received
			break
		}
		if found >= hi || !received.Before(t) {
			hi = mid
		} else {
			lo = found + 1
		}
	}
	return hi, nil
}

// find returns the number of the message with an ID, or of the oldest one if
// several senders chose the same ID.
func (b *mailbox) find(ctx context.Context, id string) (uint64, error) {
	if err := checkID(id); err != nil {
		return 0, err
	}
	oldest, found := uint64(math.MaxUint64), false
	for e, err := range b.store.Scan(ctx, "id/"+id) {
		if err != nil {
			return 0, err
		}
		if len(e.Value) != 8 {
			return 0, fmt.Errorf("message %s has a damaged index record", id)
		}
		n := binary.BigEndian.Uint64(e.Value)
		if ok, err := b.store.Has(ctx, store.Key(logSeries, n)); err != nil {
			return 0, err
		} else if ok {
			oldest, found = min(oldest, n), true
		}
	}
	if !found {
		return 0, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return oldest, nil
}

// spokeProtocol reports whether the peer ever spoke the protocol.
func (b *mailbox) spokeProtocol(ctx context.Context, p peer.ID) (bool, error) {
	for _, key := range []string{speaksKey(p), usedKey(Direct, p)} {
		if ok, err := b.store.Has(ctx, key); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// recordProtocol stores that the peer speaks the protocol.
func (b *mailbox) recordProtocol(ctx context.Context, p peer.ID) error {
	if ok, err := b.store.Has(ctx, speaksKey(p)); ok || err != nil {
		return err
	}
	return b.store.Update(ctx, func(tx *store.Tx) error {
		return tx.Put(speaksKey(p), nil)
	})
}

// state returns the state as of the last commit.
func (b *mailbox) state(ctx context.Context) (*pb.State, error) {
	return parseState(b.store.Get(ctx, stateKey))
}

func readState(tx *store.Tx) (*pb.State, error) { return parseState(tx.Get(stateKey)) }

func parseState(v []byte, err error) (*pb.State, error) {
	st := &pb.State{}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return st, nil
	case err != nil:
		return nil, err
	}
	if err := proto.Unmarshal(v, st); err != nil {
		return nil, fmt.Errorf("decode the state of the message store: %w", err)
	}
	return st, nil
}

func writeState(tx *store.Tx, st *pb.State) error {
	v, err := proto.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode the state of the message store: %w", err)
	}
	return tx.Put(stateKey, v)
}

func readNumber(tx *store.Tx, key string) (uint64, error) {
	v, err := tx.Get(key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case len(v) != 8:
		return 0, fmt.Errorf("the number under %s is damaged", key)
	}
	return binary.BigEndian.Uint64(v), nil
}

func usedBytes(st *pb.State, via Via) *uint64 {
	if via == Pubsub {
		return &st.PubsubBytes
	}
	return &st.DirectBytes
}
