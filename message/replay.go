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

// ReplayWindow is how long the ID of a pubsub message, which is its author and
// sequence number, is remembered from the arrival of the message on, also after
// the message was removed: a message with that ID is not stored again.
//
// Of removed messages, one ID for each 256 bytes of [Limits.PubsubBytes] is
// remembered. Beyond that, the authors with the most IDs lose their oldest
// before the window has passed. So a peer makes the mailbox forget the ID of
// another author's message only with messages of so many authors that each of
// them has as few IDs as that author.
//
// The mailbox's keys for this:
//
//	gone/<number>              a removed message: time of receipt, ID key
//	goneof/<peer>/<number>     the same, by author
//	gonecount/<peer>           how many there are of an author
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

// remember notes the ID of a message that is removed, and counts it in st, which
// the caller writes.
func remember(tx *store.Tx, st *pb.State, m *Message) error {
	author := m.From.String()
	gone := append(number(uint64(m.Received.UnixNano())), idKey(m.ID, m.Via, m.From)...)
	st.Gone++
	return errors.Join(
		tx.Put(store.Key(goneSeries, m.Number), gone),
		tx.Put(store.Key(goneOfSeries(author), m.Number), nil),
		tally(tx, author, func(count uint64) uint64 { return count + 1 }),
	)
}

// tally changes the count of an author's IDs, and the author's class if the
// count has another number of binary digits then.
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

// gone is the ID of a removed message.
type gone struct {
	number uint64
	author string // "" where only the record knows
}

// forget drops the IDs of removed messages that are past the window, and those
// that are too many.
func (b *mailbox) forget(ctx context.Context) error {
	for {
		batch, err := b.expired(ctx)
		if err == nil && len(batch) == 0 {
			batch, err = b.surplus(ctx)
		}
		if err != nil || len(batch) == 0 {
			return err
		}
		if err := b.store.Update(ctx, func(tx *store.Tx) error { return forgetAll(tx, batch) }); err != nil {
			return err
		}
	}
}

// expired returns IDs that are past the window, a batch at most.
func (b *mailbox) expired(ctx context.Context) (batch []gone, err error) {
	cutoff := uint64(b.now().Add(-ReplayWindow).UnixNano())
	for r, err := range b.store.Ascend(ctx, goneSeries, 0) {
		if err != nil {
			return nil, err
		}
		if len(r.Value) >= 8 && binary.BigEndian.Uint64(r.Value) >= cutoff || len(batch) == sweepBatch {
			break
		}
		batch = append(batch, gone{number: r.Number})
	}
	return batch, nil
}

// surplus returns IDs that are too many, a batch at most: the oldest of the authors
// in the highest class, but no more of an author than leaves half of what an author
// in that class has at the least.
func (b *mailbox) surplus(ctx context.Context) (batch []gone, err error) {
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
			if batch = append(batch, gone{r.Number, c.Name}); len(batch) == want {
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
	// An earlier version of npp did not note the authors.
	for r, err := range b.store.Ascend(ctx, goneSeries, 0) {
		if err != nil {
			return nil, err
		}
		if len(batch) == want {
			break
		}
		batch = append(batch, gone{number: r.Number})
	}
	return batch, nil
}

// forgetAll drops IDs of removed messages.
func forgetAll(tx *store.Tx, batch []gone) error {
	st, err := readState(tx)
	if err != nil {
		return err
	}
	for _, g := range batch {
		if err := forgetOne(tx, st, g); err != nil {
			return err
		}
	}
	return writeState(tx, st)
}

func forgetOne(tx *store.Tx, st *pb.State, g gone) error {
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
		err = nil // it was forgotten meanwhile
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
