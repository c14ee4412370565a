package inventory

import (
	"context"
	"slices"
	"time"
)

// write sends frames until the context ends.
func (s *Session) write(ctx context.Context) error {
	f := frame(hello{s.ours.nonce, s.magnitude})
	for {
		if err := s.stream.SetWriteDeadline(time.Now().Add(takenWithin)); err != nil {
			return err
		}
		if _, err := s.stream.Write(encode(f)); err != nil {
			return silent(err)
		}
		for f = s.next(ctx); f == nil; f = s.next(ctx) {
			select {
			case <-s.toWrite:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// next returns the next frame to be sent, or nil. The end of a channel comes
// before the claim that follows it, and what answers claims comes before
// changes of the databases.
func (s *Session) next(ctx context.Context) frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.running:
		return nil
	case len(s.gone) > 0:
		return gone(some(&s.gone))
	case s.answers.answered < s.answers.passed && len(s.answers.unconfirmed) < maxOpen:
		return s.nextMatch(ctx)
	case len(s.claims.matched) > 0:
		return s.nextStates(ctx)
	case s.claims.sent < s.claims.next() && s.claims.unanswered() < maxOpen:
		return s.nextClaim()
	case len(s.asks) > 0:
		return ask(some(&s.asks))
	case len(s.asked) > 0:
		return s.nextAnswer(ctx)
	}
	return s.nextChange()
}

// some removes and returns as many channels as fit into a frame.
func some(all *[]channel) []channel {
	n := min(len(*all), maxChannels)
	first := (*all)[:n]
	*all = rest(*all, n)
	return first
}

// nextAnswer tells a state for which the peer asked, unless a change that is
// queued does. s.mu is held, except while the disk may be read.
func (s *Session) nextAnswer(ctx context.Context) frame {
	d := s.asked[0]
	s.asked = rest(s.asked, 1)
	d.asked = false
	if _, queued := s.changes.told[d]; !queued && s.common.byKey[d.key] == d {
		var state State
		s.unlocked(func() { state = s.config.Catalog.State(ctx, d.key) })
		if _, queued := s.changes.told[d]; !queued && s.common.byKey[d.key] == d {
			s.changes.add(d, state, nil)
		}
	}
	return s.nextChange()
}

// nextMatch answers claims. The states are read after the channels are open, so
// a [Session.Tell] in the meantime is sent after them. s.mu is held, except
// while the disk may be read.
func (s *Session) nextMatch(ctx context.Context) frame {
	a := &s.answers
	n := min(len(a.found), maxMatches)
	batch := a.found[:n]
	upTo := a.passed
	if n < len(a.found) {
		upTo = batch[n-1].number + 1
	}
	a.found, a.answered = rest(a.found, n), upTo
	var here []foundKey
	for _, m := range batch {
		if s.stays(m.key) {
			s.common.open(m.key, m.number, true)
			here = append(here, m)
		}
	}
	s.tidy()

	f := match{upTo: upTo}
	s.unlocked(func() {
		tags := s.connection.ours()
		for _, m := range here {
			f.found = append(f.found, found{m.number, tags.of(m.key), s.config.Catalog.State(ctx, m.key)})
		}
	})
	for _, m := range f.found {
		a.unconfirmed = append(a.unconfirmed, matched{m.number, m.state})
	}
	s.expectStates(false)
	return f
}

// nextStates confirms matches of the peer. s.mu is held, except while the disk
// may be read.
func (s *Session) nextStates(ctx context.Context) frame {
	c := &s.claims
	n := min(len(c.matched), maxStates)
	batch := c.matched[:n]
	c.matched = rest(c.matched, n)
	f := states{upTo: batch[n-1].number + 1}
	var open []*database
	batch = slices.DeleteFunc(batch, func(m matched) bool { return s.common.mine[m.number] == nil })
	for _, m := range batch {
		open = append(open, s.common.mine[m.number])
	}

	s.unlocked(func() {
		for i, m := range batch {
			if state := s.config.Catalog.State(ctx, open[i].key); state != m.said {
				f.differ = append(f.differ, differing{m.number, state})
			}
		}
	})
	return f
}

// nextClaim claims databases. s.mu is held, except while tags are computed.
func (s *Session) nextClaim() frame {
	c := &s.claims
	at := c.unanswered()
	n := min(maxTags, maxOpen-at, uint32(len(c.keys))-at)
	keys := c.keys[at : at+n]
	c.sent += n
	s.expectAnswer(false)

	f := make(claim, n)
	s.unlocked(func() {
		tags := s.connection.ours()
		for i, k := range keys {
			f[i] = tags.of(k)
		}
	})
	return f
}

// nextChange tells a state. s.mu is held.
func (s *Session) nextChange() frame {
	d, n, ok := s.changes.take()
	if !ok {
		return nil
	}
	return change{d.channels()[0], n.state, n.entries}
}

// unlocked calls f without s.mu.
func (s *Session) unlocked(f func()) {
	s.mu.Unlock()
	defer s.mu.Lock()
	f()
}
