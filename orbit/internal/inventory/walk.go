package inventory

import (
	"cmp"
	"context"
	"slices"
)

// walk begins a pass over the catalog, unless one is due. s.mu is held.
func (s *Session) walk(ctx context.Context) {
	if !s.walking {
		s.walking = true
		s.tasks.Go(func() { s.walks(ctx) })
	}
}

// walks makes passes until none is due.
func (s *Session) walks(ctx context.Context) {
	for more := true; more; {
		if s.limit.Wait(ctx) != nil {
			return
		}
		err := s.config.Passes.do(ctx, func() { more = s.pass(ctx) })
		if err != nil {
			return
		}
	}
}

// pass looks for all claims of the peer that arrived, and claims the whole
// catalog if that is due. It reports whether another pass is due.
func (s *Session) pass(ctx context.Context) (more bool) {
	pending, claimAll := s.beginPass()
	wanted := make(map[tag]uint32, len(pending))
	for i, t := range pending {
		wanted[t] = uint32(i)
	}
	tags := s.connection.theirs()
	var found []foundKey
	var all []Key
	for k := range s.config.Catalog.Keys() {
		if ctx.Err() != nil {
			return false
		}
		if claimAll {
			all = append(all, k)
		}
		if len(wanted) > 0 {
			if i, ok := wanted[tags.of(k)]; ok {
				found = append(found, foundKey{i, k})
			}
		}
	}
	slices.SortFunc(found, func(a, b foundKey) int { return cmp.Compare(a.number, b.number) })
	defer s.toWrite.Set()
	return s.endPass(uint32(len(pending)), found, all)
}

// beginPass takes what a pass is to do.
func (s *Session) beginPass() (pending []tag, claimAll bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending, claimAll = s.answers.pending, s.claimAll
	s.answers.pending, s.claimAll = nil, false
	return pending, claimAll
}

// endPass takes the result of a pass over a number of claims, in which those
// found are numbered from 0.
func (s *Session) endPass(claims uint32, found []foundKey, all []Key) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &s.answers
	for _, m := range found {
		a.found = append(a.found, foundKey{a.passed + m.number, m.key})
	}
	a.passed += claims
	for _, k := range all {
		if s.stays(k) {
			s.claims.keys = append(s.claims.keys, k)
		}
	}
	s.walking = len(a.pending) > 0
	s.tidy()
	return s.walking
}

// leave records that a database was removed, for claims and passes that contain
// it. s.mu is held.
func (s *Session) leave(k Key) {
	if s.underway() {
		s.removals[k] = removal{before: s.claims.next()}
	}
}

// back records that a database was added again. s.mu is held.
func (s *Session) back(k Key) {
	if r, ok := s.removals[k]; ok {
		r.back = true
		s.removals[k] = r
	}
}

// stays reports whether a database that a pass saw is still here. s.mu is held.
func (s *Session) stays(k Key) bool {
	r, removed := s.removals[k]
	return !removed || r.back
}

// tidy forgets removals that concern nothing any more. s.mu is held.
func (s *Session) tidy() {
	if len(s.removals) > 0 && !s.underway() {
		clear(s.removals)
	}
}

// underway reports whether claims of this side are not answered, a pass may run,
// or its result is not sent. s.mu is held.
func (s *Session) underway() bool {
	return len(s.claims.keys) > 0 || s.walking || len(s.answers.found) > 0
}
