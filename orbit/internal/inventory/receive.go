package inventory

import (
	"context"
	"errors"
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
)

// receive handles a frame of the peer. s.running changes in this goroutine
// alone.
func (s *Session) receive(ctx context.Context, f frame) error {
	h, isHello := f.(hello)
	if isHello == s.running {
		return errors.New("a session begins with one hello")
	}
	switch f := f.(type) {
	case claim:
		return s.receiveClaim(ctx, f)
	case match:
		return s.receiveMatch(f)
	case states:
		return s.receiveStates(f)
	case change:
		return s.receiveChange(f)
	case gone:
		return s.receiveGone(f)
	case ask:
		return s.receiveAsk(f)
	default:
		s.receiveHello(ctx, h)
	}
	return nil
}

func (s *Session) receiveHello(ctx context.Context, f hello) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connection = newConnection(s.ours, side{s.peer, f.nonce})
	s.common = newDatabases()
	s.removals = make(map[Key]removal)
	s.running = true
	if s.magnitude < f.magnitude || s.magnitude == f.magnitude && s.connection.lower {
		s.claimAll = true
		s.walk(ctx)
	}
	s.expectAnswer(true)
}

func (s *Session) receiveClaim(ctx context.Context, f claim) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &s.answers
	received := a.received + uint32(len(f))
	if received-a.answered > maxOpen || received > maxNumber {
		return fmt.Errorf("%d claims, of which %d are answered", received, a.answered)
	}
	a.received, a.pending = received, append(a.pending, f...)
	s.walk(ctx)
	return nil
}

func (s *Session) receiveMatch(f match) error {
	first, keys, err := s.claimed(f.upTo)
	if err != nil {
		return err
	}
	tags := s.connection.theirs()
	for _, m := range f.found {
		if m.number < first {
			return fmt.Errorf("claim %d was answered before", m.number)
		}
		if !tags.is(m.proof, keys[m.number-first]) {
			return fmt.Errorf("wrong proof for claim %d", m.number)
		}
	}
	for _, e := range s.takeMatch(f, first, keys) {
		e.call(s.config.Handler)
	}
	return nil
}

// claimed returns the claims below a number that are not answered, and the
// number of the first of them.
func (s *Session) claimed(upTo uint32) (first uint32, keys []Key, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.claims
	if upTo <= c.answered || upTo > c.sent {
		return 0, nil, fmt.Errorf("an answer up to claim %d, want more than %d and at most %d", upTo, c.answered, c.sent)
	}
	return c.answered, c.keys[:upTo-c.answered], nil
}

// takeMatch opens channels for what the peer has. If the database was removed
// after the claim, the peer is told that the channel ends.
func (s *Session) takeMatch(f match, first uint32, keys []Key) (events []event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range f.found {
		s.claims.matched = append(s.claims.matched, matched{m.number, m.state})
		if k := keys[m.number-first]; m.number < s.removals[k].before {
			s.gone = append(s.gone, channel{number: m.number})
		} else {
			events = append(events, learn(s.common.open(k, m.number, false), m.state, nil))
		}
	}
	s.claims.take(f.upTo)
	s.tidy()
	s.expectAnswer(true)
	s.toWrite.Set()
	return events
}

func (s *Session) receiveStates(f states) error {
	events, err := s.takeStates(f)
	for _, e := range events {
		e.call(s.config.Handler)
	}
	return err
}

func (s *Session) takeStates(f states) (events []event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for unconfirmed := s.answers.unconfirmed; n < len(unconfirmed) && unconfirmed[n].number < f.upTo; n++ {
		m := unconfirmed[n]
		state := m.said
		if len(f.differ) > 0 && f.differ[0].number == m.number {
			state, f.differ = f.differ[0].state, f.differ[1:]
		}
		if d := s.common.theirs[m.number]; d != nil {
			events = append(events, learn(d, state, nil))
		}
	}
	if n == 0 || len(f.differ) > 0 {
		return events, errors.New("states of what was not matched")
	}
	s.answers.unconfirmed = rest(s.answers.unconfirmed, n)
	s.expectStates(true)
	s.toWrite.Set()
	return events, nil
}

func (s *Session) receiveChange(f change) error {
	e, err := s.takeChange(f)
	e.call(s.config.Handler)
	return err
}

func (s *Session) takeChange(f change) (e event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.exists(f.channel); err != nil {
		return event{}, err
	}
	if d := s.common.of(f.channel); d != nil {
		d.asking = false
		e = learn(d, f.state, f.entries)
		e.changed = e.changed || !e.common // the state may be the same, if this side asked
	}
	return e, nil
}

func (s *Session) receiveGone(f gone) error {
	for _, c := range f {
		e, err := s.lose(c)
		if err != nil {
			return err
		}
		e.call(s.config.Handler)
	}
	return nil
}

// receiveAsk notes that the peer asked for states. A database for which it asked
// before is told once.
func (s *Session) receiveAsk(f ask) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range f {
		if err := s.exists(c); err != nil {
			return err
		}
		if d := s.common.of(c); d != nil && !d.asked {
			d.asked = true
			s.asked = append(s.asked, d)
		}
	}
	s.toWrite.Set()
	return nil
}

// lose ends a channel.
func (s *Session) lose(c channel) (e event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.exists(c); err != nil {
		return event{}, err
	}
	if d := s.common.close(c); d != nil {
		s.changes.forget(d)
		e = event{key: d.key, gone: d.known}
	}
	return e, nil
}

// exists returns an error if a channel never existed. One that this side has
// ended is allowed, as the peer may not have heard of it. s.mu is held.
func (s *Session) exists(c channel) error {
	claims := s.answers.received
	if c.received {
		claims = s.claims.sent
	}
	if c.number >= claims {
		return fmt.Errorf("a channel of claim %d of %d", c.number, claims)
	}
	return nil
}

// event is what the handler learns.
type event struct {
	key                   Key
	state                 State
	entries               []block.Block
	common, changed, gone bool
}

func (e event) call(h Handler) {
	if e.common {
		h.Common(e.key, e.state)
	}
	if e.changed {
		h.Changed(e.key, e.state, e.entries)
	}
	if e.gone {
		h.Gone(e.key)
	}
}

// learn takes the state of the peer's replica.
func learn(d *database, theirs State, entries []block.Block) event {
	e := event{key: d.key, state: theirs, entries: entries}
	e.common = !d.known
	e.changed = len(entries) > 0 || d.known && d.theirs != theirs
	d.theirs, d.known = theirs, true
	return e
}
