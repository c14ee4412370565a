package orbit_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
)

// members are replicas of one database: two admins, a member who is granted and
// revoked, and a stranger who is never granted.
type members struct {
	peers   []*peer
	address string
}

func newMembers(t *testing.T) *members {
	t.Helper()
	m := &members{}
	for i := range 4 {
		m.peers = append(m.peers, newPeer(t, byte(0x11+2*i), byte(0x12+2*i)))
	}
	opts := orbit.Options{Type: orbit.TypeKeyValue, Access: orbit.Access{
		Write: []string{m.peers[0].Identity().ID, m.peers[1].Identity().ID}, Managed: true,
	}}
	for _, p := range m.peers {
		m.address = p.create(t, "band", opts).Address()
		for _, q := range m.peers {
			must(t, p.PutBlocks(t.Context(), q.Identity().Block()))
		}
	}
	return m
}

func (m *members) db(t *testing.T, i int) *orbit.Database {
	t.Helper()
	db, err := m.peers[i].Open(t.Context(), m.address, orbit.OpenOptions{})
	must(t, err)
	return db
}

// shown returns the observable state of a replica: the authorized entries in
// order, and the values.
func (m *members) shown(t *testing.T, i int) string {
	t.Helper()
	db := m.db(t, i)
	var hashes []string
	for e, err := range db.Iterate(t.Context(), orbit.Range{}) {
		must(t, err)
		hashes = append(hashes, e.Hash())
	}
	return fmt.Sprint(hashes, items(t, keyvalue(t, db).All(t.Context())))
}

// step applies a random event to the replicas.
func (m *members) step(t *testing.T, rng *rand.Rand) {
	t.Helper()
	i, j := rng.IntN(len(m.peers)), rng.IntN(len(m.peers))
	db, other := m.db(t, i), m.db(t, j)
	member := m.peers[2].Identity().ID
	some := func(bs []block.Block) []block.Block {
		rng.Shuffle(len(bs), func(i, j int) { bs[i], bs[j] = bs[j], bs[i] })
		return bs[:rng.IntN(len(bs)+1)]
	}
	allowed := func(err error) {
		t.Helper()
		if err != nil && !errors.Is(err, orbit.ErrNotAllowed) {
			t.Fatal(err)
		}
	}
	switch rng.IntN(10) {
	case 0, 1, 2:
		_, err := keyvalue(t, db).Put(t.Context(), fmt.Sprint("key", rng.IntN(4)), rng.IntN(100))
		allowed(err)
	case 3:
		allowed(m.db(t, rng.IntN(2)).Access().Grant(t.Context(), orbit.CapabilityWrite, member))
	case 4:
		access := m.db(t, rng.IntN(2)).Access()
		if rng.IntN(2) == 0 {
			allowed(access.Revoke(t.Context(), orbit.CapabilityWrite, member))
		} else {
			allowed(access.Discard(t.Context(), orbit.CapabilityWrite, member))
		}
	case 5: // transfer the list or a part of it
		join(t, db.Access().Database(), some(entries(t, other.Access().Database()))...)
	case 6, 7: // transfer the entries or some of them
		join(t, db, some(entries(t, other))...)
	case 8:
		var car bytes.Buffer
		_, err := other.Export(t.Context(), &car)
		must(t, err)
		_, _, err = m.peers[i].Import(t.Context(), &car, nil)
		must(t, err)
	default:
		if rng.IntN(2) == 0 {
			_, err := m.peers[i].Rebuild(t.Context(), m.address)
			must(t, err)
			return
		}
		must(t, m.peers[i].Close())
		m.peers[i].open(t, orbit.Config{})
	}
}

// settle gives each replica the lists and entries of all others.
func (m *members) settle(t *testing.T) {
	t.Helper()
	for range 4 { // an entry that is refused at first may be needed later
		for i := range m.peers {
			for j := range m.peers {
				if i != j {
					join(t, m.db(t, i).Access().Database(), entries(t, m.db(t, j).Access().Database())...)
					join(t, m.db(t, i), entries(t, m.db(t, j))...)
				}
			}
			_, err := m.db(t, i).Access().Repair(t.Context())
			must(t, err)
		}
	}
}

// checkFingerprints checks that those fingerprints of replicas are equal whose
// states agree.
func (m *members) checkFingerprints(t *testing.T) {
	t.Helper()
	var states []reconcile.State
	var fingerprints [][32]byte
	for i, p := range m.peers {
		db := m.db(t, i)
		state, err := reconcile.StateOf(t.Context(), db.Log(), db.Access().Database().Log())
		must(t, err)
		fingerprint, err := p.Fingerprint(t.Context(), m.address)
		must(t, err)
		if state.Settled == (fingerprint == [32]byte{}) {
			t.Errorf("replica %d: %+v, fingerprint %x", i, state, fingerprint)
		}
		states, fingerprints = append(states, state), append(fingerprints, fingerprint)
	}
	for i := range states {
		for j := range i {
			if states[i].Agrees(states[j]) != (fingerprints[i] == fingerprints[j]) {
				t.Errorf("%+v has fingerprint %x, %+v has %x", states[i], fingerprints[i], states[j], fingerprints[j])
			}
		}
	}
}

// Replicas with two admins, a member who is granted and revoked, and a stranger
// converge, whatever happens and in whatever order entries and lists arrive,
// also after a rebuild.
func TestReplicasAgreeAfterAnyHistoryOfTheAccessList(t *testing.T) {
	// NPP_ACCESS_SEEDS is the number of small histories that package oplog
	// tests.
	small, _ := strconv.Atoi(os.Getenv("NPP_ACCESS_SEEDS"))
	differed := 0
	for seed := range uint64(max(25, small/50)) {
		rng := rand.New(rand.NewPCG(seed, 0))
		m := newMembers(t)
		for range 30 + rng.IntN(20) {
			m.step(t, rng)
			m.checkFingerprints(t)
		}
		if m.shown(t, 0) != m.shown(t, 1) {
			differed++
		}
		m.settle(t)
		want := m.shown(t, 0)
		for i, p := range m.peers {
			if got := m.shown(t, i); got != want {
				t.Errorf("seed %d: replica %d shows %s, another %s", seed, i, got, want)
			}
			_, err := p.Rebuild(t.Context(), m.address)
			must(t, err)
			if got := m.shown(t, i); got != want {
				t.Errorf("seed %d: replica %d shows %s after a rebuild, before %s", seed, i, got, want)
			}
			must(t, p.Close())
		}
		if t.Failed() {
			return
		}
	}
	if differed == 0 {
		t.Error("replicas never differed meanwhile")
	}
}
