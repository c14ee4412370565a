package reconcile

import (
	"errors"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Equal heads do not suffice: replicas agree if they authorize the same entries
// according to the same access list.
func TestReplicasAgreeByWhatCountsAndByTheAccessList(t *testing.T) {
	a, b := newOrbit(t), newOrbit(t)
	managed := orbit.Options{Access: orbit.Access{Write: []string{a.Identity().ID}, Managed: true}}
	open := func(o *orbit.Orbit) *orbit.Database {
		t.Helper()
		db, err := o.Create(t.Context(), "band", managed)
		must(t, err)
		return db
	}
	theirs, ours := open(a), open(b)
	add(t, theirs, 3)
	copyAll(t, theirs, ours, a, b)
	server := newPeer(t)
	server.serve(a, theirs)
	s := session(t, server, theirs.Address())
	compare := func() bool {
		t.Helper()
		state, err := s.State()
		must(t, err)
		own, err := StateOf(t.Context(), oplog.Of(ours), accessLog(ours))
		must(t, err)
		return own.Agrees(state)
	}
	if !compare() {
		t.Error("the same entries and the same list, and they do not agree")
	}
	must(t, theirs.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
	if compare() {
		t.Error("they agree, with another access list")
	}
	copyAll(t, theirs.Access().Database(), ours.Access().Database(), a, b)
	if !compare() {
		t.Error("the same list again, and they do not agree")
	}
	add(t, theirs, 1)
	if compare() {
		t.Error("they agree, with other entries")
	}
}

// A daemon of the previous version does not report its state.
func TestEarlierVersionIsNotComparable(t *testing.T) {
	w := newWriters(t, 1)
	server := newPeer(t)
	server.SetStreamHandler(Earlier, handler(w.orbits[0], w.databases[0]))
	s := session(t, server, w.databases[0].Address())
	if _, err := s.State(); !errors.Is(err, ErrEarlierVersion) {
		t.Errorf("got %v", err)
	}
	add(t, w.databases[0], 5)
	if blocks, _ := reconcileWith(t, s, newWriters(t, 1).databases[0]); blocks != 6 {
		t.Errorf("%d blocks are sent", blocks)
	}
}

func FuzzState(f *testing.F) {
	f.Add(State{}.encode())
	f.Add(State{Root: oplog.Node{Count: 1 << 40, Sum: oplog.Sum{1}}, Access: oplog.Node{Count: 3}, Settled: true}.encode())
	f.Add([]byte{0x85})
	f.Fuzz(func(t *testing.T, frame []byte) {
		s, err := decodeState(frame)
		if err != nil {
			return
		}
		if again, err := decodeState(s.encode()); err != nil || again != s {
			t.Errorf("%+v is read again as %+v, %v", s, again, err)
		}
	})
}
