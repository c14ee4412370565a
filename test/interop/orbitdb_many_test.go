package interop

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/test/harness"
)

// The number of JavaScript peers with many databases, and of the databases of
// each, which is what their identify can announce.
const (
	crowd   = 5
	perPeer = 100
)

// crowdBase is a database of a peer that the daemon has open, too.
type crowdBase struct {
	inDaemon daemonReplica
	inJS     jsReplica
	entries  int // acknowledged
}

// call calls a command of a daemon's RPC. The query has its arguments and
// options.
func call(t *testing.T, n *harness.Node, command string, query url.Values) (answer string) {
	t.Helper()
	status, answer := n.RPC("npp/"+command, query, nil)
	if status != http.StatusOK {
		t.Errorf("%s %v: %d: %s", command, query, status, answer)
	}
	return answer
}

// newCrowdBases opens many databases in a peer and in a daemon, with an entry
// each. Either side creates half of them.
func newCrowdBases(t *testing.T, n *harness.Node, js *node, peer int) (list []*crowdBase) {
	for i := range perPeer {
		b := &crowdBase{}
		name := fmt.Sprintf("%d of peer %d", i, peer)
		if i%2 == 0 {
			b.inJS = js.createLive(writerB, name, orbit.Options{Type: orbit.TypeEvents, Access: orbit.Access{Write: []string{orbit.Anyone}}}, live{memory: true})
			b.inDaemon = daemonReplica{t, n, b.inJS.address}
			b.addInJS()
			call(t, n, "db/open", url.Values{"arg": {b.inJS.address}})
		} else {
			created := decode[struct{ Address string }](t, call(t, n, "db/create", url.Values{"arg": {name}, "type": {orbit.TypeEvents}, "write": {orbit.Anyone}}))
			b.inDaemon = daemonReplica{t, n, created.Address}
			b.addInDaemon()
			b.inJS = js.openLive(writerB, created.Address, live{memory: true})
		}
		list = append(list, b)
	}
	return list
}

func (b *crowdBase) addInJS() {
	b.inJS.putMany(fmt.Sprintf("JavaScript %d", b.entries))
	b.entries++
}

func (b *crowdBase) addInDaemon() {
	call(b.inDaemon.t, b.inDaemon.n, "db/put", url.Values{"arg": {b.inDaemon.address, fmt.Sprintf(`"daemon %d"`, b.entries)}})
	b.entries++
}

// checkCrowd waits until all databases have all entries on both sides.
func checkCrowd(t *testing.T, what string, list []*crowdBase) {
	t.Helper()
	begin := time.Now()
	for _, b := range list {
		eventually(t, what, func() (any, bool) {
			inDaemon, inJS := b.inDaemon.info().Entries, b.inJS.count()
			return fmt.Sprintf("%d and %d of %d entries", inDaemon, inJS, b.entries), int(inDaemon) == b.entries && inJS == b.entries
		})
	}
	t.Logf("%s: after %v", what, time.Since(begin).Round(time.Millisecond))
}

// topics returns the databases to whose topics a daemon is subscribed.
func topics(t *testing.T, n *harness.Node) (addresses []string) {
	t.Helper()
	for line := range strings.Lines(n.MustRun("pubsub", "ls")) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "/orbitdb/") {
			addresses = append(addresses, line)
		}
	}
	return addresses
}

// replicasOf returns the number of databases whose replication occupies
// goroutines of a daemon.
func replicasOf(t *testing.T, n *harness.Node) int {
	t.Helper()
	resp, err := http.Get(strings.TrimSuffix(n.APIURL(), "api/v0/") + "debug/pprof/goroutine?debug=2")
	must(t, err)
	defer resp.Body.Close()
	stacks, err := io.ReadAll(resp.Body)
	must(t, err)
	return strings.Count(string(stacks), "replicate.(*replica).run(")
}

// A daemon replicates hundreds of databases of JavaScript peers at once. When
// the peers have left, the databases occupy neither topics nor goroutines.
func TestDaemonHasHundredsOfDatabasesOfJavaScriptPeers(t *testing.T) {
	t.Parallel()
	nodeJS(t)
	n := harness.New(t).Start()
	peers := make([]*node, crowd)
	bases := make([][]*crowdBase, crowd)
	begin := time.Now()
	var group sync.WaitGroup
	for i := range peers {
		peers[i] = startNodeWith(t, "--hide "+orbitdb4)
		peers[i].newIdentity(writerB)
		peers[i].connect(n)
		group.Go(func() { bases[i] = newCrowdBases(t, n, peers[i], i) })
	}
	group.Wait()
	all := slices.Concat(bases...)
	if len(all) != crowd*perPeer {
		t.FailNow()
	}
	t.Logf("all are open after %v", time.Since(begin).Round(time.Millisecond))
	checkCrowd(t, "all are in sync", all)
	if got := topics(t, n); len(got) != len(all) {
		t.Errorf("the daemon is subscribed to the topics of %d databases, want %d", len(got), len(all))
	}

	for range 40 {
		b := all[rand.IntN(len(all))]
		b.addInDaemon()
		b.addInJS()
	}
	checkCrowd(t, "some stay in sync", all)

	for _, js := range peers {
		js.start("stop", nil)
	}
	left := time.Now()
	eventually(t, "the databases rest", func() (any, bool) {
		subscribed, running := len(topics(t, n)), replicasOf(t, n)
		return fmt.Sprintf("%d topics, %d replicas", subscribed, running), subscribed+running == 0
	})
	t.Logf("they rest %v after the peers left", time.Since(left).Round(time.Second))

	// Whoever comes back is served as before.
	again := startNodeWith(t, orbitdb4)
	again.newIdentity(writerC)
	again.connect(n)
	b := all[rand.IntN(len(all))]
	again.openLive(writerC, b.inDaemon.address, live{memory: true}).waitForCount(b.entries)
}
