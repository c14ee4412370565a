package message

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"strings"
	"time"

	"github.com/newpieceplease/npp/message/pb"
	"github.com/newpieceplease/npp/store"
)

// ReplayWindow is how long the ID of a pubsub message is remembered after its
// arrival, even if the message was removed. A message with a remembered ID is
// not stored again. The ID consists of the author and the sequence number.
//
// One ID of a removed message is remembered for each 256 bytes of
// [Limits.PubsubBytes]. Beyond that, the authors with the most IDs lose their
// oldest ones before the window has passed. A peer can therefore displace
// another author's IDs only with messages of many authors, each of which has as
// few IDs as that author.
//
// The mailbox's keys for this:
//
//	gone/<number>              a removed message: time of receipt, ID key
//	goneof/<peer>/<number>     the same, by author
//	gonecount/<peer>           number of IDs of an author
//	goneclass/<class>/<peer>   the authors by the binary digits of that count
const ReplayWindow = 24 * time.Hour

const (
	goneSeries      = "gone"
	goneClassSeries = "goneclass"
)

func goneOfSeries(author string) string { return "goneof/" + author }
func goneCountKey(author string) string { return "gonecount/" + author }
func goneClassKey(class int, author string) string {
	return store.NamedKey(goneClassSeries, uint64(class), author)
}

// maxGone is how many IDs of removed messages are remembered.
func (b *mailbox) maxGone() uint64 { return b.limits.PubsubBytes / recordOverhead }

// recordRemoved stores the ID of a message that is being removed, and counts it
// in st, which the caller writes.
func recordRemoved(tx *store.Tx, st *pb.State, m *Message) error {
	author := m.From.String()
	gone := append(number(uint64(m.Received.UnixNano())), idKey(m.ID, m.Via, m.From)...)
	st.Gone++
	return errors.Join(
		tx.Put(store.Key(goneSeries, m.Number), gone),
		tx.Put(store.Key(goneOfSeries(author), m.Number), nil),
		tally(tx, author, func(count uint64) uint64 { return count + 1 }),
	)
}

// tally changes the number of an author's IDs, and moves the author to another
// class if the number has more or fewer binary digits than before.
func tally(tx *store.Tx, author string, change func(uint64) uint64) error {
	before, err := readNumber(tx, goneCountKey(author))
	if err != nil {
		return err
	}
	after := change(before)
	if from, to := bits.Len64(before), bits.Len64(after); from != to {
		err = tx.Delete(goneClassKey(from, author))
		if to > 0 {
			err = errors.Join(err, tx.Put(goneClassKey(to, author), nil))
		}
	}
	if after == 0 {
		return errors.Join(err, tx.Delete(goneCountKey(author)))
	}
	return errors.Join(err, tx.Put(goneCountKey(author), number(after)))
}

// removedID identifies a removed message whose ID is remembered.
type removedID struct {
	number uint64
	author string // "" if only the record names the author
}

// pruneIDs deletes the IDs of removed messages that are older than the window
// or exceed the bound.
func (b *mailbox) pruneIDs(ctx context.Context) error {
	for {
		batch, err := b.expiredIDs(ctx)
		if err == nil && len(batch) == 0 {
			batch, err = b.surplusIDs(ctx)
		}
		if err != nil || len(batch) == 0 {
			return err
		}
		if err := b.store.Update(ctx, func(tx *store.Tx) error { return deleteIDs(tx, batch) }); err != nil {
			return err
		}
	}
}

// expiredIDs returns a batch of IDs that are older than the window.
func (b *mailbox) expiredIDs(ctx context.Context) (batch []removedID, err error) {
	cutoff := uint64(b.now().Add(-ReplayWindow).UnixNano())
	for r, err := range b.store.Ascend(ctx, goneSeries, 0) {
		if err != nil {
			return nil, err
		}
		if len(r.Value) >= 8 && binary.BigEndian.Uint64(r.Value) >= cutoff || len(batch) == sweepBatch {
			break
		}
		batch = append(batch, removedID{number: r.Number})
	}
	return batch, nil
}

// surplusIDs returns a batch of IDs that exceed the bound: the oldest ones of
// the authors in the highest class. It leaves each author at least half of the
// smallest count of that class.
func (b *mailbox) surplusIDs(ctx context.Context) (batch []removedID, err error) {
	st, err := b.state(ctx)
	if err != nil || st.Gone <= b.maxGone() {
		return nil, err
	}
	want := int(min(st.Gone-b.maxGone(), sweepBatch))
	highest := uint64(0)
	for c, err := range b.store.Descend(ctx, goneClassSeries, math.MaxUint64) {
		if err != nil {
			return nil, err
		}
		if highest = max(highest, c.Number); c.Number < highest {
			break
		}
		share := max(1, 1<<highest>>2)
		for r, err := range b.store.Ascend(ctx, goneOfSeries(c.Name), 0) {
			if err != nil {
				return nil, err
			}
			if batch = append(batch, removedID{r.Number, c.Name}); len(batch) == want {
				return batch, nil
			}
			if share--; share == 0 {
				break
			}
		}
	}
	if len(batch) > 0 {
		return batch, nil
	}
	// Versions before 0.1.0 did not record the authors.
	for r, err := range b.store.Ascend(ctx, goneSeries, 0) {
		if err != nil {
			return nil, err
		}
		if len(batch) == want {
			break
		}
		batch = append(batch, removedID{number: r.Number})
	}
	return batch, nil
}

// deleteIDs deletes the IDs of removed messages.
func deleteIDs(tx *store.Tx, batch []removedID) error {
	st, err := readState(tx)
	if err != nil {
		return err
	}
	for _, g := range batch {
		if err := deleteID(tx, st, g); err != nil {
			return err
		}
	}
	return writeState(tx, st)
}

func deleteID(tx *store.Tx, st *pb.State, g removedID) error {
	key := store.Key(goneSeries, g.number)
	record, err := tx.Get(key)
	switch {
	case err == nil:
		st.Gone -= min(1, st.Gone)
		err = tx.Delete(key)
		if len(record) > 8 {
			id := string(record[8:])
			g.author = id[strings.LastIndexByte(id, '/')+1:]
			err = errors.Join(err, tx.Delete(id))
		}
	case errors.Is(err, store.ErrNotFound):
		err = nil // deleted concurrently
	}
	if err != nil || g.author == "" {
		return err
	}
	byAuthor := store.Key(goneOfSeries(g.author), g.number)
	if noted, err := tx.Has(byAuthor); err != nil || !noted {
		return err
	}
	return errors.Join(
		tx.Delete(byAuthor),
		tally(tx, g.author, func(count uint64) uint64 { return count - min(1, count) }),
	)
}
