package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

// held returns the state of a database on a daemon, even while it is being
// fetched.
func held(t *testing.T, n *harness.Node, address string) dbLine {
	t.Helper()
	return decodeLines[dbLine](t, rpc(t, n, "npp/db/info", url.Values{"arg": {address}}))[0]
}

// arrivedEntries returns the number of entries that a daemon has, including
// pending ones.
func arrivedEntries(t *testing.T, n *harness.Node, address string) uint64 {
	t.Helper()
	l := held(t, n, address)
	return l.Entries + l.Waiting
}

// putMany puts documents whose IDs begin with a prefix.
func putMany(t *testing.T, n *harness.Node, address, prefix string, count int) {
	t.Helper()
	var docs strings.Builder
	for i := range count {
		fmt.Fprintf(&docs, "{\"_id\":\"%s%d\",\"title\":\"Prelude No. 1 in C major\"}\n", prefix, i)
	}
	if r := n.RunStdin(docs.String(), "npp", "db", "put", address, "--many"); r.Code != 0 {
		t.Fatalf("put --many: %v", r)
	}
}

// awaitSame waits until daemons have the same heads, the given number of
// entries, and no pending ones. It returns the duration.
func awaitSame(t *testing.T, address string, entries uint64, nodes ...*harness.Node) time.Duration {
	t.Helper()
	begin := time.Now()
	var found []dbLine
	same := false
	defer func() {
		for i, l := range found {
			if !same {
				t.Logf("daemon %d: %d entries, %d waiting, heads %q", i, l.Entries, l.Waiting, l.Heads)
			}
		}
	}()
	eventually(t, fmt.Sprintf("all have the same %d entries", entries), func() bool {
		found = found[:0]
		for _, n := range nodes {
			l := held(t, n, address)
			slices.Sort(l.Heads)
			found = append(found, l)
		}
		same = !slices.ContainsFunc(found, func(l dbLine) bool {
			return l.Entries != entries || l.Waiting != 0 || !slices.Equal(l.Heads, found[0].Heads)
		})
		return same
	})
	for i, l := range found {
		if l.Faults != 0 {
			t.Errorf("daemon %d: %d invalid entries", i, l.Faults)
		}
	}
	return time.Since(begin)
}

// connected returns the peers to which a daemon is connected.
func connected(t *testing.T, n *harness.Node) (peers []string) {
	t.Helper()
	var answer struct{ Peers []struct{ Peer string } }
	if err := json.Unmarshal([]byte(rpc(t, n, "swarm/peers", nil)), &answer); err != nil {
		t.Fatal(err)
	}
	for _, p := range answer.Peers {
		peers = append(peers, p.Peer)
	}
	return peers
}

// awaitAlone waits until daemons have noticed that no peer is connected.
func awaitAlone(t *testing.T, nodes ...*harness.Node) {
	t.Helper()
	for _, n := range nodes {
		eventually(t, "no peer is connected", func() bool { return len(connected(t, n)) == 0 })
	}
}

// Three daemons in a row are disconnected, and all write. Once the links are
// back, they have the same content within seconds, without waiting for the
// periodic search for missing entries. Since the test measures time, it does
// not run in parallel with others.
func TestPartedDaemonsConvergeWithinSeconds(t *testing.T) {
	const within = 7 * time.Second
	a, b, c := harness.New(t).Hide().Start(), harness.New(t).Hide().Start(), harness.New(t).Hide().Start()
	ab, bc := harness.NewLink(t, b), harness.NewLink(t, c)
	address := db(t, a, "create", "tour", "--type=documents", "--write=*")[0].Address
	join := func() {
		t.Helper()
		a.MustRun("swarm", "connect", ab.Addr)
		b.MustRun("swarm", "connect", bc.Addr)
	}
	join()
	b.MustRun("npp", "db", "open", address)
	c.MustRun("npp", "db", "open", address)
	putMany(t, b, address, "together", 10)
	awaitSame(t, address, 10, a, b, c)

	for round := range uint64(3) {
		ab.Cut()
		bc.Cut()
		awaitAlone(t, a, b, c)
		for i, n := range []*harness.Node{a, b, c} {
			putMany(t, n, address, fmt.Sprintf("%d of round %d, ", i, round), 300)
		}
		// After this, earlier writes are too old to be published.
		for i, n := range []*harness.Node{a, b, c} {
			if got := len(lines(n.MustRun("npp", "db", "all", address))); got != int(10+900*round+300) {
				t.Fatalf("daemon %d, parted: %d documents", i, got)
			}
			if f := findings(t, n, address)["peers"]; f.Level != "problem" {
				t.Errorf("daemon %d, parted: doctor: %+v", i, f)
			}
		}
		ab.Heal()
		bc.Heal()
		join()
		took := awaitSame(t, address, 10+900*(round+1), a, b, c)
		t.Logf("round %d: the same 900 entries more everywhere after %v", round, took.Round(time.Millisecond))
		if took > within {
			t.Errorf("round %d: it took %v, not %v at most", round, took, within)
		}
	}
	for _, n := range []*harness.Node{a, b, c} {
		for i := range 3 {
			db(t, n, "get", address, fmt.Sprintf("%d of round 2, 299", i))
		}
	}
}

// A bulk of documents is transferred to a daemon that has none of them, and is
// interrupted. The transfer resumes: all documents arrive, and none is sent
// twice. The sender has no bitswap, which would transfer further bytes whenever
// the machine is so busy that the transfer stalls.
func TestInterruptedBulkTransferGoesOn(t *testing.T) {
	t.Parallel()
	const bulk = 5000
	giver := harness.New(t).Hide().FixPort().Set("Bitswap.ServerEnabled", false).Start()
	address := db(t, giver, "create", "archive", "--type=documents")[0].Address
	putMany(t, giver, address, "", bulk)

	// The size of an uninterrupted transfer.
	begin := time.Now()
	link := harness.NewLink(t, giver)
	first := harness.New(t).Hide().Start()
	first.MustRun("npp", "db", "open", address)
	first.MustRun("swarm", "connect", link.Addr)
	awaitSame(t, address, bulk, giver, first)
	whole := link.Received()
	t.Logf("in one go: %d bytes, %v", whole, time.Since(begin).Round(time.Millisecond))
	first.Stop()

	entries := uint64(bulk)
	for _, test := range []struct {
		name      string
		interrupt func(*harness.Link, *harness.Node)
	}{
		{"after the receiver was killed", func(_ *harness.Link, receiver *harness.Node) {
			receiver.Kill()
			receiver.Start()
		}},
		{"after the giver was killed", func(*harness.Link, *harness.Node) {
			giver.Kill()
			giver.Start()
		}},
		{"after the connection was lost", func(link *harness.Link, _ *harness.Node) { link.Cut() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			link := harness.NewLink(t, giver)
			receiver := harness.New(t).Hide().Start()
			receiver.MustRun("npp", "db", "open", address)
			link.Hold(whole * 7 / 10) // in the middle of the transfer at any speed
			receiver.MustRun("swarm", "connect", link.Addr)
			var before uint64
			eventually(t, "a part has arrived", func() bool {
				before = arrivedEntries(t, receiver, address)
				return before > bulk*4/10
			})
			test.interrupt(link, receiver)
			awaitAlone(t, receiver)
			sent := link.Received()
			if now := arrivedEntries(t, receiver, address); now < before || now >= bulk {
				t.Errorf("%d of %d entries were there, then %d", before, bulk, now)
			} else {
				before = now
			}

			link.Heal()
			receiver.MustRun("swarm", "connect", link.Addr)
			took := awaitSame(t, address, entries, giver, receiver)
			again := link.Received() - sent
			most := whole*int64(bulk-before)/bulk + whole/4
			t.Logf("%d of %d entries were there; %d bytes brought the others, in %v", before, bulk, again, took.Round(time.Millisecond))
			if again > most {
				t.Errorf("%d of %d entries took %d bytes; all take %d", bulk-before, bulk, again, whole)
			}
			for _, id := range []string{"0", fmt.Sprint(bulk / 2), fmt.Sprint(bulk - 1)} {
				db(t, receiver, "get", address, id)
			}
			// New documents arrive by themselves.
			putMany(t, giver, address, "new", 1)
			entries++
			awaitSame(t, address, entries, giver, receiver)
			receiver.Stop()
		})
	}
}

// The entries of one daemon reach another through a third, and vice versa. The
// two never run at the same time, and the third has no write access and is
// restarted in between.
func TestDaemonHandsOnWhatOthersWrote(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*harness.Node){
		"it was stopped": func(n *harness.Node) { n.Stop() },
		"it was killed":  func(n *harness.Node) { n.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.New(t).Start()
			idOfC := identityOf(t, c)
			c.Stop()

			a, b := harness.New(t).Start(), harness.New(t).Start()
			address := db(t, a, "create", "errands", "--type=documents", "--write="+identityOf(t, a), "--write="+idOfC)[0].Address
			putMany(t, a, address, "a", 200)
			b.Connect(a)
			b.MustRun("npp", "db", "open", address)
			awaitSame(t, address, 200, a, b)
			a.Stop()
			end(b)

			b.Start()
			c.Start()
			c.Connect(b)
			c.MustRun("npp", "db", "open", address)
			awaitSame(t, address, 200, b, c)
			db(t, c, "get", address, "a0")
			putMany(t, c, address, "c", 200)
			awaitSame(t, address, 400, b, c)
			c.Stop()
			end(b)

			b.Start()
			a.Start()
			a.Connect(b)
			awaitSame(t, address, 400, a, b)
			db(t, a, "get", address, "c199")
		})
	}
}
