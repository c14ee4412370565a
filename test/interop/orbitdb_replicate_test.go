package interop

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/test/harness"
)

// heldInfo is the part of a daemon's information on a database that is
// compared.
type heldInfo struct {
	Entries, Faults, Waiting uint64
	Heads                    []string
}

// info asks the daemon. It returns zeros for a database that the daemon does
// not have yet.
func (r daemonReplica) info() (i heldInfo) {
	r.t.Helper()
	status, answer := r.n.RPC("npp/db/info", url.Values{"arg": {r.address}}, nil)
	if status != http.StatusOK {
		return i
	}
	return decode[heldInfo](r.t, answer)
}

// put puts values in the database: documents, events, or keys with values.
func (r daemonReplica) put(puts ...[]string) {
	r.t.Helper()
	for _, put := range puts {
		r.n.MustRun(append([]string{"npp", "db", "put", r.address}, put...)...)
	}
}

// putMany puts documents or events, which are lines of JSON, with one command.
func (r daemonReplica) putMany(lines ...string) {
	r.t.Helper()
	if res := r.n.RunStdin(strings.Join(lines, "\n")+"\n", "npp", "db", "put", r.address, "--many"); res.Code != 0 {
		r.t.Fatalf("put --many: %v", res)
	}
}

// restarted ends the daemon with end, and starts it again.
func (r daemonReplica) restarted(end func()) {
	r.t.Helper()
	end()
	r.n.Start()
}

// createIn makes a daemon create a database that anybody may write.
func createIn(t *testing.T, n *harness.Node, name, kind string) daemonReplica {
	t.Helper()
	return daemonReplica{t, n, strings.TrimSpace(n.MustRun("npp", "db", "create", name, "--type", kind, "--write", orbit.Anyone))}
}

// openIn makes a daemon replicate a database.
func openIn(t *testing.T, n *harness.Node, address string) daemonReplica {
	t.Helper()
	n.MustRun("npp", "db", "open", address)
	return daemonReplica{t, n, address}
}

// openBeside opens a database of a daemon in a new JavaScript peer that is
// connected to the daemon.
func openBeside(t *testing.T, stack string, w writer, d daemonReplica, l live) jsReplica {
	t.Helper()
	js := startNodeWith(t, stack)
	js.newIdentity(w)
	js.connect(d.n)
	return js.openLive(w, d.address, l)
}

// documentLines returns documents as lines of JSON.
func documentLines(prefix string, n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"_id":"%s%d"}`, prefix, i))
	}
	return lines
}

// agree waits until daemons and JavaScript have the same heads and the given
// number of entries. It then compares all of their state.
func agree(t *testing.T, entries int, daemons []daemonReplica, peers ...jsReplica) {
	t.Helper()
	eventually(t, fmt.Sprintf("all have the same %d entries", entries), func() (any, bool) {
		var found []string
		var first []string
		same := true
		compare := func(heads []string, n int) {
			found = append(found, fmt.Sprintf("%d of %d heads", n, len(heads)))
			heads = slices.Sorted(slices.Values(heads))
			if first == nil {
				first = heads
			}
			same = same && n == entries && slices.Equal(heads, first)
		}
		for _, d := range daemons {
			i := d.info()
			compare(i.Heads, int(i.Entries))
		}
		for _, p := range peers {
			compare(p.heads(), p.count())
		}
		for _, p := range peers {
			found = append(found, fmt.Sprintf("%d connections", len(p.js.connections())))
		}
		return found, same
	})
	if entries > 500 {
		return
	}
	want := daemons[0].state()
	for i, d := range daemons[1:] {
		check(t, fmt.Sprintf("daemon %d", i+1), d.state(), want)
	}
	for _, p := range peers {
		check(t, p.as, p.state(query{}), want)
	}
}

func daemonsOf(d ...daemonReplica) []daemonReplica { return d }

func TestDaemonAndJavaScriptReplicateLive(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		n := harness.New(t).Start()
		js := startNodeWith(t, stack)
		js.newIdentity(writerB)
		js.connect(n)
		for kind, put := range map[string]func(who string, i int) ([]string, op){
			orbit.TypeDocuments: func(who string, i int) ([]string, op) {
				doc := fmt.Sprintf(`{"_id":"%d","by":%q}`, i%3, who)
				return []string{doc}, op{kind: "put", value: fromJSON(doc)}
			},
			orbit.TypeKeyValue: func(who string, i int) ([]string, op) {
				return []string{fmt.Sprint(i % 3), fmt.Sprintf("%q", who)}, op{kind: "put", key: fromJSON(fmt.Sprintf(`"%d"`, i%3)), value: fromJSON(fmt.Sprintf("%q", who))}
			},
			orbit.TypeEvents: func(who string, i int) ([]string, op) {
				return []string{fmt.Sprintf("%q", who)}, op{kind: "add", value: fromJSON(fmt.Sprintf("%q", who))}
			},
		} {
			t.Run(kind, func(t *testing.T) {
				js := js.in(t)
				inDaemon := createIn(t, n, "live "+kind, kind)
				first, _ := put("daemon, before", 0)
				inDaemon.put(first)
				inJS := js.openLive(writerB, inDaemon.address, live{memory: true})
				agree(t, 1, daemonsOf(inDaemon), inJS)
				for i := range 4 {
					fromDaemon, _ := put("daemon", i)
					inDaemon.put(fromDaemon)
					agree(t, 2*i+2, daemonsOf(inDaemon), inJS)
					_, fromJS := put("js", i+1)
					_, err := inJS.write(fromJS)
					must(t, err)
					agree(t, 2*i+3, daemonsOf(inDaemon), inJS)
				}
			})
		}
	})
}

func TestDaemonOpensDatabaseOfJavaScript(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		n := harness.New(t).Start()
		js := startNodeWith(t, stack)
		js.newIdentity(writerA)
		inJS := js.createLive(writerA, "theirs", orbit.Options{Type: orbit.TypeDocuments}, live{})
		inJS.putMany(newDocuments("a", 300)...)
		inDaemon := openIn(t, n, inJS.address) // while no peer is connected
		js.connect(n)
		agree(t, 300, daemonsOf(inDaemon), inJS)
		if r := n.Run("npp", "db", "put", inJS.address, `{"_id":"mine"}`); r.Code == 0 {
			t.Error("the daemon writes to a database of another writer")
		}
		// After a restart, no block is requested again, and new entries arrive.
		js.disconnectAll()
		inDaemon.restarted(func() { n.Stop() })
		agree(t, 300, daemonsOf(inDaemon), inJS)
		inJS.putMany(newDocuments("b", 10)...)
		js.connect(n)
		agree(t, 310, daemonsOf(inDaemon), inJS)
	})
}

func TestSeveralHeadsReplicate(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		n := harness.New(t).Start()
		inDaemon := createIn(t, n, "heads", orbit.TypeDocuments)
		var peers []jsReplica
		for _, w := range []writer{writerA, writerB, writerC} {
			peers = append(peers, openBeside(t, stack, w, inDaemon, live{memory: true}))
		}
		agree(t, 0, daemonsOf(inDaemon), peers...)
		for _, p := range peers {
			p.js.disconnectAll()
		}
		for _, p := range peers {
			p.putMany(newDocuments(p.as, 5)...)
		}
		inDaemon.putMany(documentLines("daemon", 5)...)
		for _, p := range peers {
			p.js.connect(n)
		}
		agree(t, 20, daemonsOf(inDaemon), peers...)
		// An entry that references all heads becomes the only head.
		inDaemon.put([]string{`{"_id":"on top"}`})
		agree(t, 21, daemonsOf(inDaemon), peers...)
		if heads := inDaemon.info().Heads; len(heads) != 1 {
			t.Errorf("heads %v", heads)
		}
	})
}

// Two peers connect only to the daemon, and at different times.
func TestPeersThatNeverMeetConvergeThroughDaemon(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		n := harness.New(t).Start()
		a, b := startNodeWith(t, stack), startNodeWith(t, stack)
		a.newIdentity(writerA)
		b.newIdentity(writerB)
		inA := a.createLive(writerA, "star", orbit.Options{
			Type: orbit.TypeDocuments, Access: orbit.Access{Write: []string{orbit.Anyone}},
		}, live{memory: true})
		inA.putMany(newDocuments("a", 30)...)
		inDaemon := openIn(t, n, inA.address)
		a.connect(n)
		agree(t, 30, daemonsOf(inDaemon), inA)
		a.disconnectAll()

		b.connect(n)
		inB := b.openLive(writerB, inA.address, live{memory: true})
		agree(t, 30, daemonsOf(inDaemon), inB)
		inB.putMany(newDocuments("b", 30)...)
		agree(t, 60, daemonsOf(inDaemon), inB)
		b.disconnectAll()

		inA.putMany(newDocuments("a again", 5)...)
		a.connect(n)
		agree(t, 65, daemonsOf(inDaemon), inA)

		// The same live, with the daemon between them.
		b.connect(n)
		agree(t, 65, daemonsOf(inDaemon), inA, inB)
		puts := inA.startPutMany(newDocuments("live a", 20)...)
		inB.putMany(newDocuments("live b", 20)...)
		puts()
		agree(t, 105, daemonsOf(inDaemon), inA, inB)
		for _, js := range []*node{a, b} {
			for _, c := range js.connections() {
				if c.Peer != n.PeerID() {
					t.Errorf("a peer is connected to %v", c)
				}
			}
		}
	})
}

func TestKilledDaemonLosesNothingOfReplication(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		n := harness.New(t).Start()
		inDaemon := createIn(t, n, "killed", orbit.TypeDocuments)
		inJS := openBeside(t, stack, writerB, inDaemon, live{memory: true})
		puts := inJS.startPutMany(newDocuments("js", 300)...)
		var acknowledged []string
		for round := range 4 {
			for i := range 5 {
				id := fmt.Sprintf("daemon %d.%d", round, i)
				inDaemon.put([]string{fmt.Sprintf(`{"_id":%q}`, id)})
				acknowledged = append(acknowledged, id)
			}
			if round%2 == 0 {
				inDaemon.restarted(n.Kill)
			} else {
				inDaemon.restarted(func() { n.Stop() })
			}
			inJS.js.connect(n)
		}
		puts()
		agree(t, 300+len(acknowledged), daemonsOf(inDaemon), inJS)
		for _, id := range acknowledged {
			n.MustRun("npp", "db", "get", inDaemon.address, id)
		}
	})
}

func TestGrantsAndRevocationsReplicateWithJavaScript(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		n := harness.New(t).Start()
		js := startNodeWith(t, stack)
		js.connect(n)
		theirID := js.newIdentity(writerB)
		ourID := lines[struct{ ID string }](t, n, "npp", "id")[0].ID

		t.Run("granted by JavaScript", func(t *testing.T) {
			js := js.in(t)
			inJS := js.createLive(writerB, "band", orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Managed: true}}, live{})
			inJS.putMany(newDocuments("js", 3)...)
			inDaemon := openIn(t, n, inJS.address)
			agree(t, 3, daemonsOf(inDaemon), inJS)
			if r := n.Run("npp", "db", "put", inJS.address, `{"_id":"too early"}`); r.Code == 0 {
				t.Error("the daemon may write before the grant")
			}
			inJS.change("grant", ourID)
			eventually(t, "the daemon may write", func() (any, bool) {
				r := n.Run("npp", "db", "put", inJS.address, `{"_id":"granted"}`)
				return r, r.Code == 0
			})
			agree(t, 4, daemonsOf(inDaemon), inJS)
			inJS.putMany(newDocuments("on top", 2)...)
			agree(t, 6, daemonsOf(inDaemon), inJS)
			inJS.change("revoke", ourID)
			eventually(t, "the daemon may not write any more", func() (any, bool) {
				writable := lines[struct{ Writable bool }](t, n, "npp", "db", "info", inJS.address)[0].Writable
				return writable, !writable
			})
			agree(t, 6, daemonsOf(inDaemon), inJS)
		})
		t.Run("granted by the daemon", func(t *testing.T) {
			js := js.in(t)
			inDaemon := daemonReplica{t, n, strings.TrimSpace(n.MustRun("npp", "db", "create", "orchestra", "--type", "documents", "--managed"))}
			inDaemon.putMany(documentLines("daemon", 3)...)
			inJS := js.openLive(writerB, inDaemon.address, live{})
			agree(t, 3, daemonsOf(inDaemon), inJS)
			n.MustRun("npp", "db", "grant", inDaemon.address, theirID)
			eventually(t, "JavaScript may write", func() (any, bool) {
				capabilities := inJS.capabilities()
				return capabilities, slices.Contains(capabilities["write"], theirID)
			})
			inJS.putMany(newDocuments("granted", 3)...)
			agree(t, 6, daemonsOf(inDaemon), inJS)
			n.MustRun("npp", "db", "revoke", inDaemon.address, theirID)
			eventually(t, "JavaScript may not write any more", func() (any, bool) {
				capabilities := inJS.capabilities()
				return capabilities, !slices.Contains(capabilities["write"], theirID)
			})
			if _, err := inJS.write(op{kind: "put", value: fromJSON(`{"_id":"revoked"}`)}); err == nil {
				t.Error("JavaScript writes after the revocation")
			}
			agree(t, 6, daemonsOf(inDaemon), inJS)
		})
	})
}

// A peer that was offline receives the access list and the entries of its
// writers together.
func TestLateDaemonTakesWhatGrantedWritersWrote(t *testing.T) {
	t.Parallel()
	a, b := startNode(t), startNode(t)
	a.newIdentity(writerA)
	id := b.newIdentity(writerB)
	inA := a.createLive(writerA, "band", orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Managed: true}}, live{})
	inA.change("grant", id)
	b.dial(a.addr)
	inB := b.openLive(writerB, inA.address, live{})
	eventually(t, "b may write", func() (any, bool) {
		capabilities := inB.capabilities()
		return capabilities, slices.Contains(capabilities["write"], id)
	})
	for i := range 5 {
		inB.putMany(newDocuments(fmt.Sprintf("b%d.", i), 2)...)
		inA.waitForCount(4*i + 2)
		inA.putMany(newDocuments(fmt.Sprintf("a%d.", i), 2)...)
		inB.waitForCount(4*i + 4)
	}
	n := harness.New(t).Start()
	inDaemon := openIn(t, n, inA.address)
	a.connect(n)
	agree(t, 20, daemonsOf(inDaemon), inA, inB)
	if i := inDaemon.info(); i.Faults != 0 {
		t.Errorf("%d invalid entries", i.Faults)
	}
}

func TestThousandLiveUpdatesArriveBothWays(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		n := harness.New(t).Start()
		inDaemon := createIn(t, n, "many", orbit.TypeDocuments)
		inJS := openBeside(t, stack, writerB, inDaemon, live{memory: true, updates: true})
		agree(t, 0, daemonsOf(inDaemon), inJS)
		puts := inJS.startPutMany(newDocuments("js", 1000)...)
		inDaemon.putMany(documentLines("daemon", 1000)...)
		puts()
		agree(t, 2000, daemonsOf(inDaemon), inJS)
		seen := make(map[string]int)
		for _, e := range inJS.js.happened(eventUpdate, inJS.address) {
			seen[e.Hash]++
		}
		t.Logf("JavaScript told of %d entries", len(seen))
	})
}

// Values of every size that can be written, in both directions. A value that is
// too large for the heads exchange is transferred by pubsub, as a parent, or
// both.
func TestValuesOfAnySizeReplicate(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		n := harness.New(t).Start()
		inDaemon := createIn(t, n, "sizes", orbit.TypeEvents)
		inJS := openBeside(t, stack, writerB, inDaemon, live{memory: true})
		agree(t, 0, daemonsOf(inDaemon), inJS)
		entries := 0
		for _, size := range []int{1, 100, 60_000, 64_600, 66_000, 130_000, 255_000, 262_500, 700_000, 1_011_700} {
			text := fmt.Sprintf("%q", strings.Repeat("x", size))
			inDaemon.putMany(text)
			entries++
			agree(t, entries, daemonsOf(inDaemon), inJS)
			if _, err := inJS.write(op{kind: "add", value: fromJSON(text)}); err != nil {
				t.Fatal(err)
			}
			entries++
			agree(t, entries, daemonsOf(inDaemon), inJS)
		}
		if r := n.RunStdin(fmt.Sprintf("%q\n", strings.Repeat("x", 1<<20)), "npp", "db", "put", inDaemon.address, "--many"); r.Code == 0 {
			t.Error("a value that cannot be sent to any peer is put")
		}
		// A peer that joins later receives the large entry that is the head,
		// too.
		late := openBeside(t, stack, writerC, inDaemon, live{memory: true})
		agree(t, entries, daemonsOf(inDaemon), inJS, late)
	})
}

func TestManyDatabasesOfManyPeersReplicate(t *testing.T) {
	t.Parallel()
	const peers, each = 5, 100
	n := harness.New(t).Start()
	var addresses []string
	for i := range peers * each {
		status, answer := n.RPC("npp/db/create", url.Values{"arg": {fmt.Sprintf("number %d", i)}, "type": {orbit.TypeEvents}, "write": {orbit.Anyone}}, nil)
		if status != http.StatusOK {
			t.Fatal(answer)
		}
		addresses = append(addresses, decode[struct{ Address string }](t, answer).Address)
	}
	var group sync.WaitGroup
	replicas := make([][]jsReplica, peers)
	for p := range peers {
		js := startNode(t)
		group.Go(func() {
			js.newIdentity(writerB)
			js.connect(n)
			for _, address := range addresses[p*each : (p+1)*each] {
				replicas[p] = append(replicas[p], js.openLive(writerB, address, live{memory: true}))
			}
			for i, r := range replicas[p] {
				if _, err := r.write(op{kind: "add", value: fromJSON(fmt.Sprintf(`"js %d"`, i))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for i, address := range addresses {
		inDaemon := daemonReplica{t, n, address}
		status, answer := n.RPC("npp/db/put", url.Values{"arg": {address, `"daemon"`}}, nil)
		if status != http.StatusOK {
			t.Fatal(answer)
		}
		inJS := replicas[i/each][i%each]
		eventually(t, "both agree", func() (any, bool) {
			ours, theirs := inDaemon.info(), inJS.heads()
			slices.Sort(ours.Heads)
			slices.Sort(theirs)
			return fmt.Sprint(ours, theirs, inJS.count()), ours.Entries == 2 && inJS.count() == 2 && slices.Equal(ours.Heads, theirs)
		})
	}
}

// Data that would end a Node.js process, or block a JavaScript peer, is not
// passed on by the daemon, and does not affect its connections to other peers.
func TestDaemonStandsBetweenPeersAndTheHostile(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	inDaemon := createIn(t, n, "guarded", orbit.TypeDocuments)
	friend, evil := startNode(t), startNode(t)
	friend.newIdentity(writerA)
	evil.newIdentity(writerB)
	friend.connect(n)
	evil.connect(n)
	inFriend := friend.openLive(writerA, inDaemon.address, live{memory: true})
	evil.openLive(writerB, inDaemon.address, live{memory: true})
	evil.waitForSubscriber(inDaemon.address, n.PeerID())
	for _, junk := range []string{"", "junk", "\xff\xff", "\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", strings.Repeat("\x81", 100_000), "\xa0", "\x80"} {
		evil.publish(inDaemon.address, []byte(junk))
		evil.startStream(n.PeerID(), headsProtocol(inDaemon.address), false, []byte(junk))
	}
	evil.startStream(n.PeerID(), headsProtocol(inDaemon.address), true, []byte("\x83"))
	inDaemon.putMany(documentLines("daemon", 10)...)
	inFriend.putMany(newDocuments("friend", 10)...)
	agree(t, 20, daemonsOf(inDaemon), inFriend)
}

func TestTwoDaemonsAndJavaScriptHealAfterAPartition(t *testing.T) {
	t.Parallel()
	forEachVersion(t, func(t *testing.T, stack string) {
		n, m := harness.New(t).Hide().Start(), harness.New(t).Hide().Start()
		link := harness.NewLink(t, m)
		inN := createIn(t, n, "parted", orbit.TypeDocuments)
		inM := openIn(t, m, inN.address)
		a, b := startNodeWith(t, stack), startNodeWith(t, stack)
		a.newIdentity(writerA)
		b.newIdentity(writerB)
		a.dial(n.ListenAddr())
		b.dial(m.ListenAddr())
		n.MustRun("swarm", "connect", link.Addr)
		inA, inB := a.openLive(writerA, inN.address, live{memory: true}), b.openLive(writerB, inN.address, live{memory: true})
		agree(t, 0, daemonsOf(inN, inM), inA, inB)
		link.Cut()
		inA.putMany(newDocuments("a", 20)...)
		inB.putMany(newDocuments("b", 20)...)
		inN.putMany(documentLines("n", 20)...)
		inM.putMany(documentLines("m", 20)...)
		agree(t, 40, daemonsOf(inN), inA)
		agree(t, 40, daemonsOf(inM), inB)
		link.Heal()
		n.MustRun("swarm", "connect", link.Addr)
		agree(t, 80, daemonsOf(inN, inM), inA, inB)
	})
}

// A JavaScript peer with too many open databases cannot announce its protocols,
// and replicates with no peer. The doctor reports that.
func TestDoctorNamesPeerWithTooManyDatabases(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	js := startNode(t)
	js.newIdentity(writerB)
	inDaemon := createIn(t, n, "crowded", orbit.TypeEvents)
	js.connect(n)
	js.openLive(writerB, inDaemon.address, live{memory: true})
	js.disconnectAll()
	for i := range 119 {
		js.createLive(writerB, fmt.Sprintf("crowd %d", i), orbit.Options{Type: orbit.TypeEvents}, live{memory: true})
	}
	js.connect(n)
	eventually(t, "the doctor names it", func() (any, bool) {
		found := lines[struct{ Check, Level, Text, Advice, Peer string }](t, n, "npp", "db", "doctor", inDaemon.address)
		for _, f := range found {
			if f.Check == "identify" && f.Level == "problem" && f.Peer == js.peerID() && strings.Contains(f.Advice, "100") {
				return nil, true
			}
		}
		return found, false
	})
}
