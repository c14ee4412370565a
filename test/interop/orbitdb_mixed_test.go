package interop

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/test/harness"
)

// mixed is a swarm of four daemons and two JavaScript peers. All write to the
// same databases:
//
//	daemon 0 — both JavaScript peers — daemon 1 — daemon 2 — daemon 3
//
// Daemon 0 is connected only to JavaScript, and daemon 3 only to a daemon.
type mixed struct {
	t       *testing.T
	daemons [4]*harness.Node
	peers   [2]*node
	bases   []*mixedBase
}

// mixedBase is a database that all replicas have.
type mixedBase struct {
	kind     string
	inDaemon [4]daemonReplica
	inJS     [2]jsReplica
	entries  int // acknowledged entries
}

func newMixed(t *testing.T, stacks [2]string) *mixed {
	t.Helper()
	m := &mixed{t: t}
	for i := range m.daemons {
		m.daemons[i] = harness.New(t).Hide().FixPort().Start()
	}
	for i, w := range []writer{writerA, writerB} {
		m.peers[i] = startNodeWith(t, "--hide "+stacks[i])
		m.peers[i].newIdentity(w)
		m.dial(i, 0, 1)
	}
	m.connect(2, 1, 3)
	for _, kind := range []string{orbit.TypeDocuments, orbit.TypeEvents} {
		b := &mixedBase{kind: kind}
		b.inDaemon[1] = createIn(t, m.daemons[1], "mixed "+kind, kind)
		address := b.inDaemon[1].address
		for i, d := range m.daemons {
			b.inDaemon[i] = openIn(t, d, address)
		}
		for i, w := range []writer{writerA, writerB} {
			b.inJS[i] = m.peers[i].openLive(w, address, live{memory: true})
		}
		m.bases = append(m.bases, b)
	}
	return m
}

// dial connects a JavaScript peer to daemons.
func (m *mixed) dial(peer int, daemons ...int) {
	m.t.Helper()
	for _, d := range daemons {
		m.peers[peer].dial(m.daemons[d].ListenAddr())
	}
}

// connect connects a daemon to others.
func (m *mixed) connect(daemon int, others ...int) {
	m.t.Helper()
	for _, other := range others {
		m.daemons[daemon].MustRun("swarm", "connect", m.daemons[other].ListenAddr())
	}
}

// write makes daemons and JavaScript put count items each into each database,
// all at once, and calls meanwhile.
func (m *mixed) write(what string, count int, daemons, peers []int, meanwhile func()) {
	m.t.Helper()
	var group sync.WaitGroup
	for _, b := range m.bases {
		for _, i := range daemons {
			group.Go(func() { b.inDaemon[i].putMany(b.lines(fmt.Sprintf("%s, daemon %d, ", what, i), count)...) })
		}
		for _, i := range peers {
			group.Go(func() { b.inJS[i].putMany(b.items(fmt.Sprintf("%s, peer %d, ", what, i), count)...) })
		}
		b.entries += count * (len(daemons) + len(peers))
	}
	if meanwhile != nil {
		meanwhile()
	}
	group.Wait()
	if m.t.Failed() {
		m.t.FailNow()
	}
}

// lines returns items for a daemon.
func (b *mixedBase) lines(prefix string, count int) (lines []string) {
	if b.kind == orbit.TypeDocuments {
		return documentLines(prefix, count)
	}
	for i := range count {
		lines = append(lines, fmt.Sprintf(`"%s%d"`, prefix, i))
	}
	return lines
}

// items returns items for JavaScript.
func (b *mixedBase) items(prefix string, count int) (items []any) {
	if b.kind == orbit.TypeDocuments {
		return newDocuments(prefix, count)
	}
	for i := range count {
		items = append(items, fmt.Sprintf("%s%d", prefix, i))
	}
	return items
}

// agree waits until all replicas have the acknowledged entries, and checks that
// they agree.
func (m *mixed) agree(what string) {
	m.t.Helper()
	begin := time.Now()
	for _, b := range m.bases {
		agree(m.t, b.entries, b.inDaemon[:], b.inJS[:]...)
		for i, d := range b.inDaemon {
			if info := d.info(); info.Faults != 0 || info.Waiting != 0 {
				m.t.Errorf("%s: daemon %d: %d invalid entries, %d pending", what, i, info.Faults, info.Waiting)
			}
		}
	}
	m.t.Logf("%s: all agree after %v", what, time.Since(begin).Round(time.Millisecond))
}

// checkNeighbours checks that each daemon is connected exactly to its intended
// neighbours.
func (m *mixed) checkNeighbours() {
	m.t.Helper()
	id := func(i int) string { return m.daemons[i].PeerID() }
	a, b := m.peers[0].peerID(), m.peers[1].peerID()
	for i, want := range [][]string{{a, b}, {a, b, id(2)}, {id(1), id(3)}, {id(2)}} {
		m.checkConnected(i, want...)
	}
}

// checkConnected checks that a daemon is connected to exactly these peers.
func (m *mixed) checkConnected(daemon int, want ...string) {
	m.t.Helper()
	status, answer := m.daemons[daemon].RPC("swarm/peers", nil, nil)
	var got struct{ Peers []struct{ Peer string } }
	if status != http.StatusOK || json.Unmarshal([]byte(answer), &got) != nil {
		m.t.Fatalf("swarm/peers: %d: %s", status, answer)
	}
	var peers []string
	for _, p := range got.Peers {
		peers = append(peers, p.Peer)
	}
	slices.Sort(peers)
	slices.Sort(want)
	if peers = slices.Compact(peers); !slices.Equal(peers, want) {
		m.t.Errorf("daemon %d is connected to %q, want %q", daemon, peers, want)
	}
}

// checkSoon checks that daemons and JavaScript have the same heads of a
// database, with the given number of entries, long before the periodic search
// for missing entries.
func (m *mixed) checkSoon(what string, b *mixedBase, entries int, daemons []daemonReplica, peers ...jsReplica) {
	m.t.Helper()
	begin := time.Now()
	eventually(m.t, what, func() (any, bool) {
		var found []string
		for _, d := range daemons {
			i := d.info()
			found = append(found, fmt.Sprint(i.Entries, slices.Sorted(slices.Values(i.Heads))))
		}
		for _, p := range peers {
			found = append(found, fmt.Sprint(p.count(), slices.Sorted(slices.Values(p.heads()))))
		}
		return found, strings.HasPrefix(found[0], fmt.Sprint(entries, " ")) && len(slices.Compact(slices.Clone(found))) == 1
	})
	took := time.Since(begin).Round(time.Millisecond)
	m.t.Logf("%s: %s: after %v", b.kind, what, took)
	if took > soon {
		m.t.Errorf("%s: %s: it took %v, want at most %v", b.kind, what, took, soon)
	}
}

// Daemons replicate with each other by their own protocol and with JavaScript
// by its protocol; entries that arrive by one are passed on by the other.
func TestDaemonsAndJavaScriptConvergeInOneSwarm(t *testing.T) {
	t.Parallel()
	nodeJS(t)
	const each = 15
	m := newMixed(t, [2]string{orbitdb4, orbitdb3})
	m.agree("empty")
	m.write("live", each, []int{0, 1, 2, 3}, []int{0, 1}, nil)
	m.agree("live")
	m.checkNeighbours()

	// Daemon 0 and the second JavaScript peer are disconnected while no
	// transfer is in progress, for which JavaScript would wait. Then daemon 2
	// is killed during the writes, and daemon 3 is isolated, too.
	m.peers[0].disconnect(m.daemons[0].PeerID())
	m.peers[1].disconnectAll()
	m.write("parted", each, []int{0, 1, 3}, []int{0, 1}, m.daemons[2].Kill)
	m.daemons[2].Start()
	m.write("back", each, []int{2}, nil, nil)
	m.checkConnected(0)
	m.checkConnected(1, m.peers[0].peerID())

	// Entries that the daemons exchange reach at once the JavaScript peer that
	// stayed connected.
	alone := 2 * each // the entries of daemon 0 and the second JavaScript peer
	m.connect(2, 1, 3)
	for _, b := range m.bases {
		m.checkSoon("what daemons wrote is at their neighbour", b, b.entries-alone, b.inDaemon[1:], b.inJS[0])
	}
	m.dial(0, 0)
	m.dial(1, 0, 1)
	m.agree("together again")
	m.checkNeighbours()

	for range 3 {
		for _, b := range m.bases {
			for _, i := range []int{0, 3} {
				b.inDaemon[i].putMany(b.lines(fmt.Sprintf("single %d, ", b.entries), 1)...)
				b.entries++
				m.checkSoon(fmt.Sprintf("an entry of daemon %d is everywhere", i), b, b.entries, b.inDaemon[:], b.inJS[:]...)
			}
		}
	}
	m.agree("at last")
}
