package orbit

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/value"
)

// Events is a database of events, which are added and never deleted.
type Events struct{ db *Database }

// Events returns the database as a database of events, or [ErrType].
func (db *Database) Events() (*Events, error) {
	if err := db.checkType(TypeEvents); err != nil {
		return nil, err
	}
	return &Events{db}, nil
}

// Event is an event with the CID of its entry.
type Event struct {
	Hash  string
	Value value.Value
}

// Add adds an event and returns the CID of its entry when it is on disk. The
// event is any data that [value.Of] accepts.
func (ev *Events) Add(ctx context.Context, event any) (string, error) {
	payload, err := add(event)
	if err != nil {
		return "", err
	}
	return ev.db.appendOne(ctx, noCheck, payload)
}

// AddMany adds events; see [Documents.PutMany].
func (ev *Events) AddMany(ctx context.Context, events iter.Seq[any]) (int, error) {
	return appendMany(ctx, ev.db, events, add)
}

func add(event any) (value.Value, error) {
	v, err := value.Of(event)
	if err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	return value.Map(
		value.Member{Name: "op", Value: value.Text("ADD")},
		value.Member{Name: "key", Value: value.Null},
		value.Member{Name: "value", Value: v},
	), nil
}

// Get returns the event whose entry has a CID, or [ErrNoEntry].
func (ev *Events) Get(ctx context.Context, hash string) (Event, error) {
	e, err := ev.db.log.Get(ctx, hash)
	if err != nil {
		return Event{}, err
	}
	return eventOf(e), nil
}

// Iterate yields the events of a range, newest first.
func (ev *Events) Iterate(ctx context.Context, r Range) iter.Seq2[Event, error] {
	return eventsOf(ev.db.Iterate(ctx, r))
}

// All yields all events, oldest first.
func (ev *Events) All(ctx context.Context) iter.Seq2[Event, error] {
	return eventsOf(ev.db.log.Ascend(ctx))
}

func eventsOf(entries iter.Seq2[*entry.Entry, error]) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for e, err := range entries {
			if err != nil {
				yield(Event{}, err)
				return
			}
			if !yield(eventOf(e), nil) {
				return
			}
		}
	}
}

// eventOf reads an entry as JavaScript does, regardless of its operation.
func eventOf(e *entry.Entry) Event {
	v := e.Payload.Field("value")
	if v == nil {
		v = value.Null
	}
	return Event{e.Hash(), slices.Clone(v)}
}
