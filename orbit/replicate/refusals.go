package replicate

import (
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
)

// Refusal is an entry that arrived and was not accepted.
type Refusal struct {
	Hash string
	From []peer.ID // the peers that sent it, or may have
	At   time.Time
	Err  error // wraps the error of [orbit.JoinResult]
}

// refusals has the entries that were not accepted, and those of them that wait
// for a change of the access list.
//
// There is at most one refusal of an entry, its last one, and at most
// maxRefusals in all. At most maxUnauthorized entries wait for the access list,
// once each, of at most unauthorizedBytes each; further ones replace the
// oldest. An entry may wait whose refusal was forgotten.
type refusals struct {
	mu           sync.Mutex
	list         []Refusal         // newest last
	unauthorized []orbit.Candidate // newest last
}

// add adds a refusal that happens now.
func (r *refusals) add(from []peer.ID, hash string, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = slices.DeleteFunc(r.list, func(old Refusal) bool { return old.Hash == hash })
	r.list = append(r.list, Refusal{Hash: hash, From: from, At: time.Now(), Err: why})
	r.list = r.list[max(0, len(r.list)-maxRefusals):]
}

// restore adds the refusals of an earlier replica of the same database.
func (r *refusals) restore(list []Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = slices.Clone(list)
}

// remove forgets the refusal of an entry that was accepted, and reports whether
// there was one.
func (r *refusals) remove(hash string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.list, func(old Refusal) bool { return old.Hash == hash })
	if i < 0 {
		return false
	}
	r.list = slices.Delete(r.list, i, i+1)
	return true
}

// hold keeps an entry whose writer may be granted to write later, unless it is
// too large.
func (r *refusals) hold(c orbit.Candidate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(c.Block().Data) > unauthorizedBytes || slices.ContainsFunc(r.unauthorized, func(old orbit.Candidate) bool { return old.Hash() == c.Hash() }) {
		return
	}
	r.unauthorized = append(r.unauthorized, c.Clone())
	r.unauthorized = r.unauthorized[max(0, len(r.unauthorized)-maxUnauthorized):]
}

// holds reports whether entries wait for a change of the access list.
func (r *refusals) holds() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.unauthorized) > 0
}

// take returns the entries that wait for a change of the access list, which
// wait no longer.
func (r *refusals) take() []orbit.Candidate {
	r.mu.Lock()
	defer r.mu.Unlock()
	cs := r.unauthorized
	r.unauthorized = nil
	return cs
}

// snapshot returns the refusals, newest last.
func (r *refusals) snapshot() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}
