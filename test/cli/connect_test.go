package cli

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multibase"

	"github.com/newpieceplease/npp/test/harness"
)

// connectRow is a line of `npp connect --enc=json`.
type connectRow struct {
	Peer    string
	OK      bool
	Way     string
	Addr    string
	Relayed bool
	MS      float64
	Kept    bool
	Forgot  bool
	Tried   []triedRow
	Error   string
}

// triedRow is a failed attempt on the way to a connection.
type triedRow struct {
	Way, Addr, Error string
	MS               float64
}

// connectTo connects to one peer at the command line.
func connectTo(t *testing.T, n *harness.Node, args ...string) connectRow {
	t.Helper()
	r := n.Run(append([]string{"npp", "connect", "--enc=json"}, args...)...)
	rows := decodeLines[connectRow](t, r.Stdout)
	if len(rows) != 1 || rows[0].OK != (r.Code == 0) {
		t.Fatalf("connect %v: %v", args, r)
	}
	return rows[0]
}

// encodedIDs returns a peer ID in the usual encodings.
func encodedIDs(t *testing.T, id string) map[string]string {
	t.Helper()
	decoded, err := peer.Decode(id)
	if err != nil {
		t.Fatal(err)
	}
	encoded := map[string]string{"base58": id}
	for name, base := range map[string]multibase.Encoding{"CIDv1 base36": multibase.Base36, "CIDv1 base32": multibase.Base32} {
		encoded[name], err = peer.ToCid(decoded).StringOfBase(base)
		if err != nil {
			t.Fatal(err)
		}
	}
	return encoded
}

func TestConnectTakesEveryNameOfAPeer(t *testing.T) {
	t.Parallel()
	n, other := harness.New(t), harness.New(t)
	for _, node := range []*harness.Node{n, other} {
		node.Set("Routing.Type", "none").Start() // the DHT would reconnect by itself
	}
	id, addr := other.PeerID(), listenAddr(t, other)
	type target struct{ name, way string }
	targets := []target{
		{addr + "/p2p/" + id, "given address"}, // first, when nothing is known yet
		{addr + "/ipfs/" + id, "given address"},
		{"/p2p/" + id, "known address"},
		{"/ipfs/" + id, "known address"},
		{"/p2p-circuit/ipfs/" + id, "known address"},
		{"/p2p-circuit/p2p/" + id, "known address"},
	}
	for _, encoded := range encodedIDs(t, id) {
		targets = append(targets, target{encoded, "known address"})
	}
	check := func(row connectRow, name, way string) {
		t.Helper()
		if !row.OK || row.Peer != id || row.Way != way || row.Addr != addr || row.Relayed || row.Error != "" || len(row.Tried) > 0 {
			t.Errorf("%s: want a connection by %s at %s: %+v", name, way, addr, row)
		}
	}
	for _, to := range targets {
		row := connectTo(t, n, to.name)
		check(row, to.name, to.way)
		if row.MS <= 0 {
			t.Errorf("%s: took %v ms", to.name, row.MS)
		}
		check(connectTo(t, n, to.name), to.name+" again", "open connection")
		n.MustRun("swarm", "disconnect", "/p2p/"+id)

		rows := decodeLines[connectRow](t, rpc(t, n, "npp/connect", url.Values{"arg": {to.name}}))
		if len(rows) != 1 {
			t.Fatalf("%s: RPC: %+v", to.name, rows)
		}
		check(rows[0], to.name+" over RPC", to.way)
		n.MustRun("swarm", "disconnect", "/p2p/"+id)
	}
	if text := n.MustRun("npp", "connect", id); !strings.HasPrefix(text, "connected "+id+" by known address: "+addr+", direct, ") {
		t.Errorf("text is %q", text)
	}
}

// tarpit accepts TCP connections and never answers.
type tarpit struct {
	net.Listener
	accepted chan net.Conn
	left     chan struct{} // closed when the first connection has ended
}

func newTarpit(t *testing.T) *tarpit {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tarpit{Listener: l, accepted: make(chan net.Conn, 1), left: make(chan struct{})}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		l.Close()
		p.accepted <- conn
		io.Copy(io.Discard, conn)
		close(p.left)
	}()
	return p
}

func (p *tarpit) multiaddr() string {
	return fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", p.Addr().(*net.TCPAddr).Port)
}

// With several peers, each result is printed as soon as it is known, and a
// failure does not affect the others.
func TestConnectPrintsResultsAsTheyCome(t *testing.T) {
	t.Parallel()
	n, slow := harness.New(t).Start(), newTarpit(t)
	good := []*harness.Node{harness.New(t).Start(), harness.NewStock(t).Start()}
	slowAddr := slow.multiaddr() + "/p2p/" + somePeer
	p := n.Spawn("npp", "connect", slowAddr, good[0].Addrs()[0], good[1].Addrs()[0])
	for range good {
		if line := p.Expect(""); !strings.HasPrefix(line, "connected ") {
			t.Errorf("the first results: %q", line)
		}
	}
	conn := <-slow.accepted
	select {
	case <-slow.left:
		t.Error("the good ones were printed after the slow one had failed")
	default:
	}
	conn.Close()
	r := p.Wait()
	if r.Code != 1 || r.Stderr != "Error: 1 of 3 failed\n" {
		t.Errorf("connect: %v", r)
	}
	for _, other := range good {
		if !strings.Contains(r.Stdout, "connected "+other.PeerID()) {
			t.Errorf("%s is not connected: %s", other.PeerID(), r.Stdout)
		}
		if _, ok := peerRows(t, n.MustRun("npp", "peers", "--enc=json"))[other.PeerID()]; !ok {
			t.Errorf("%s is not among the peers", other.PeerID())
		}
	}
	for _, want := range []string{"failed " + somePeer, "given address " + slow.multiaddr() + ": ", "routing: ", "relay: "} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("%q is missing: %s", want, r.Stdout)
		}
	}
}

func TestConnectListsEachThingItTried(t *testing.T) {
	t.Parallel()
	n, other := harness.New(t).Start(), harness.New(t).Start()
	const dead = "/ip4/127.0.0.1/tcp/1"
	arg := []string{dead + "/p2p/" + somePeer, other.Addrs()[0]}
	check := func(output string) {
		t.Helper()
		rows := decodeLines[connectRow](t, output)
		bad := slices.IndexFunc(rows, func(row connectRow) bool { return row.Peer == somePeer })
		if len(rows) != 2 || bad < 0 || !rows[1-bad].OK || rows[1-bad].Peer != other.PeerID() {
			t.Fatalf("want %s to fail alone: %s", somePeer, output)
		}
		row := rows[bad]
		if row.OK || row.Error == "" || row.Addr != "" || row.Way != "" {
			t.Errorf("want a failure: %+v", row)
		}
		ways := make(map[string]string)
		for _, tried := range row.Tried {
			ways[tried.Way] = tried.Addr
			if tried.Error == "" {
				t.Errorf("no reason in %+v", tried)
			}
		}
		if addr, ok := ways["given address"]; !ok || addr != dead {
			t.Errorf("the attempts lack the address: %+v", row.Tried)
		}
		for _, way := range []string{"routing", "relay"} {
			if _, ok := ways[way]; !ok {
				t.Errorf("the attempts lack %s: %+v", way, row.Tried)
			}
		}
	}
	r := n.Run(append([]string{"npp", "connect", "--enc=json"}, arg...)...)
	if r.Code != 1 || r.Stderr != "Error: 1 of 2 failed\n" {
		t.Errorf("connect: %v", r)
	}
	check(r.Stdout)

	resp, err := http.Post(n.APIURL()+"npp/connect?"+url.Values{"arg": arg}.Encode(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	check(string(body))
	if e := resp.Trailer.Get("X-Stream-Error"); e != "1 of 2 failed" {
		t.Errorf("RPC: the stream ends with %q", e)
	}
}

func TestConnectRefusesBadInput(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	many := url.Values{}
	for range 257 {
		many.Add("arg", somePeer)
	}
	for _, test := range []struct {
		name, want string
		query      url.Values
	}{
		{"garbage", "a peer ID or a multiaddr", url.Values{"arg": {"not a peer"}}},
		{"empty", "no peer named", url.Values{"arg": {""}}},
		{"CID of a file", "a peer ID or a multiaddr", url.Values{"arg": {"bafkreiaywv5d5ic2tiqkkmyha5xpflyrwggwyvraa5u4625hz5iwik34ty"}}},
		{"no multiaddr", "a peer ID or a multiaddr", url.Values{"arg": {"/ip4/127.0.0.1/tcp"}}},
		{"multiaddr without peer ID", "names no peer", url.Values{"arg": {"/ip4/127.0.0.1/tcp/4001"}}},
		{"relay without peer ID", "names no peer", url.Values{"arg": {"/p2p/" + somePeer + "/p2p-circuit"}}},
		{"endless", "at most 1024 bytes", url.Values{"arg": {strings.Repeat("/p2p-circuit", 1000)}}},
		{"one bad among good", "not-a-peer", url.Values{"arg": {somePeer, "not-a-peer"}}},
		{"this node", "this node itself", url.Values{"arg": {n.PeerID()}}},
		{"this node by address", "this node itself", url.Values{"arg": {n.Addrs()[0]}}},
		{"keep this node", "this node itself", url.Values{"arg": {n.PeerID()}, "keep": {"true"}}},
		{"too many", "the limit is 256", many},
		{"dial-timeout garbage", `--dial-timeout is "soon"`, url.Values{"arg": {somePeer}, "dial-timeout": {"soon"}}},
		{"dial-timeout without unit", `--dial-timeout is "30"`, url.Values{"arg": {somePeer}, "dial-timeout": {"30"}}},
		{"dial-timeout negative", `--dial-timeout is "-1s"`, url.Values{"arg": {somePeer}, "dial-timeout": {"-1s"}}},
		{"dial-timeout zero", `--dial-timeout is "0s"`, url.Values{"arg": {somePeer}, "dial-timeout": {"0s"}}},
		{"keep and forget", "cannot be combined", url.Values{"arg": {somePeer}, "keep": {"true"}, "forget": {"true"}}},
		{"forget who is not kept", "is not kept", url.Values{"arg": {somePeer}, "forget": {"true"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := []string{"npp", "connect"}
			for option, values := range test.query {
				if option != "arg" {
					args = append(args, "--"+option+"="+values[0])
				}
			}
			r := n.Run(append(append(args, "--"), test.query["arg"]...)...)
			if r.Code != 1 || !strings.HasPrefix(r.Stderr, "Error: ") || strings.Count(r.Stderr, "\n") != 1 {
				t.Errorf("connect: %v", r)
			}
			if !strings.Contains(r.Stdout+r.Stderr, test.want) {
				t.Errorf("%q is not said: %v", test.want, r)
			}
			status, answer := n.RPC("npp/connect", test.query, nil)
			if !strings.Contains(strings.ReplaceAll(answer, `\"`, `"`), test.want) {
				t.Errorf("RPC: %q is not said: %d: %s", test.want, status, answer)
			}
		})
	}
	if kept := n.MustRun("npp", "peers", "--kept"); kept != "" {
		t.Errorf("something is kept: %s", kept)
	}
	r := n.Run("npp", "connect")
	if r.Code != 1 || !strings.Contains(r.Stderr, `argument "peer" is required`) {
		t.Errorf("without a peer: %v", r)
	}
}

// A peer is found by its ID alone, through a common peer.
func TestConnectFindsAPeerByItsIDAlone(t *testing.T) {
	t.Parallel()
	n, common, other := harness.New(t), harness.NewStock(t).Start(), harness.New(t)
	for _, node := range []*harness.Node{n, other} {
		node.Set("Routing.Type", "dhtclient").Start() // not a server: the DHTs would connect by themselves
	}
	n.Connect(common)
	other.Connect(common)
	var row connectRow
	eventually(t, "the common peer knows the other", func() bool {
		row = connectTo(t, n, other.PeerID())
		return row.OK
	})
	if row.Way != "routing" || row.Addr != listenAddr(t, other) || row.Relayed {
		t.Errorf("want %s by routing: %+v", listenAddr(t, other), row)
	}
	if len(row.Tried) == 0 || row.Tried[0].Way != "known address" {
		t.Errorf("the attempts do not say that no address was known: %+v", row)
	}
}

// Two daemons that know only each other's bootstrap entry connect, whichever
// starts first.
func TestBootstrapEntriesBringPeersTogether(t *testing.T) {
	t.Parallel()
	var nodes []*harness.Node
	var addrs []string
	for range 2 {
		n := harness.New(t)
		addr := harness.FreeAddr(t)
		n.Set("Addresses.Swarm", []string{addr})
		nodes, addrs = append(nodes, n), append(addrs, addr)
	}
	for i, n := range nodes {
		n.Set("Bootstrap", []string{addrs[1-i] + "/p2p/" + nodes[1-i].PeerID()})
	}
	for range nodes {
		for _, n := range nodes {
			n.Start()
		}
		for i, n := range nodes {
			n.Spawn("npp", "peers", "--watch").Expect(nodes[1-i].PeerID())
		}
		for _, n := range nodes {
			n.Stop()
		}
		slices.Reverse(nodes)
	}
}

// relayed returns a node behind a relay. It listens on no other address.
func relayed(t *testing.T, relay *harness.Node, relayAddr string) *harness.Node {
	t.Helper()
	n := quiet(t)
	n.Set("Addresses.Swarm", []string{})
	n.Set("Internal.Libp2pForceReachability", "private")
	n.Set("Swarm.RelayClient", map[string]any{
		"Enabled":      true,
		"StaticRelays": []string{relayAddr + "/p2p/" + relay.PeerID()},
	})
	return n
}

// quiet returns a node that dials no peer by itself.
func quiet(t *testing.T) *harness.Node {
	t.Helper()
	return harness.New(t).Set("Routing.Type", "none").Set("Swarm.EnableHolePunching", false)
}

// newRelay returns a daemon that relays, and its address.
func newRelay(t *testing.T) (*harness.Node, string) {
	t.Helper()
	n := quiet(t)
	addr := harness.FreeAddr(t)
	n.Set("Addresses.Swarm", []string{addr})
	n.Set("Internal.Libp2pForceReachability", "public")
	n.Set("Swarm.RelayService.Enabled", true)
	return n.Start(), addr
}

// awaitReservation waits until a node is reachable through a relay.
func awaitReservation(t *testing.T, n *harness.Node, circuit string) {
	t.Helper()
	probe := quiet(t).Start()
	eventually(t, "a reservation at the relay", func() bool {
		return connectTo(t, probe, circuit+"/p2p/"+n.PeerID()).OK
	})
	probe.Stop()
}

// The way of the tutorial: both peers know a relay, and one of them names the
// other to it.
func TestConnectGoesThroughARelay(t *testing.T) {
	t.Parallel()
	relay, addr := newRelay(t)
	n, other := quiet(t).Start(), relayed(t, relay, addr).Start()
	circuit := addr + "/p2p/" + relay.PeerID() + "/p2p-circuit"
	awaitReservation(t, other, circuit)
	n.Connect(relay)

	id := other.PeerID()
	row := connectTo(t, n, "/p2p-circuit/ipfs/"+id)
	if row.Peer != id || row.Way != "relay" || row.Addr != circuit || !row.Relayed {
		t.Errorf("want %s by relay at %s: %+v", id, circuit, row)
	}
	for at, of := range map[*harness.Node]string{n: id, other: n.PeerID()} {
		if row := peerRows(t, at.MustRun("npp", "peers", "--enc=json"))[of]; !row.Relayed {
			t.Errorf("not shown as relayed: %+v", row)
		}
		if line := lineOf(t, at.MustRun("npp", "peers"), of); !strings.Contains(line, " relayed ") {
			t.Errorf("not shown as relayed: %q", line)
		}
	}
	if row := peerRows(t, n.MustRun("npp", "peers", "--enc=json"))[relay.PeerID()]; row.Relayed {
		t.Errorf("the relay itself is shown as relayed: %+v", row)
	}

	type sendRow struct {
		Status, Via string
		Relayed     bool
	}
	sent := decodeLines[sendRow](t, n.MustRun("npp", "send", "--enc=json", id, `{"piece":"Prelude in C"}`))[0]
	if sent.Status != "delivered" || sent.Via != "direct" || !sent.Relayed {
		t.Errorf("message over the relay: %+v", sent)
	}
	if got := other.MustRun("npp", "messages", "ls"); !strings.Contains(got, "Prelude in C") {
		t.Errorf("the message is not there: %s", got)
	}

	stranger := quiet(t).Start()
	row = connectTo(t, stranger, circuit+"/p2p/"+id)
	if row.Way != "given address" || row.Addr != circuit || !row.Relayed {
		t.Errorf("want %s by its address at the relay: %+v", id, row)
	}
	lost := connectTo(t, quiet(t).Start(), "/p2p-circuit/ipfs/"+id)
	if lost.OK || !slices.ContainsFunc(lost.Tried, func(tried triedRow) bool { return tried.Way == "relay" }) {
		t.Errorf("connected without any relay: %+v", lost)
	}
}

// A kept connection over a relay is reestablished after the relay has dropped
// it.
func TestKeptConnectionOverARelayComesBack(t *testing.T) {
	t.Parallel()
	relay, addr := newRelay(t)
	n, other := quiet(t).Start(), relayed(t, relay, addr).Start()
	awaitReservation(t, other, addr+"/p2p/"+relay.PeerID()+"/p2p-circuit")
	n.Connect(relay)
	id := other.PeerID()
	watch := n.Spawn("npp", "peers", "--watch")
	row := connectTo(t, n, "--keep", "/p2p-circuit/ipfs/"+id)
	if !row.Relayed || !row.Kept {
		t.Fatalf("connect --keep: %+v", row)
	}
	watch.Expect(id)
	for range 2 {
		relay.MustRun("swarm", "disconnect", "/p2p/"+n.PeerID())
		watch.Expect("- " + id)
		if line := watch.Expect("+ " + id); !strings.Contains(line, " relayed ") || !strings.Contains(line, "kept:npp") {
			t.Errorf("back, but %q", line)
		}
	}
}

func readConfig(t *testing.T, n *harness.Node) string {
	t.Helper()
	b, err := os.ReadFile(n.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fixedPort returns a quiet node that listens on the same port whenever it
// runs.
func fixedPort(t *testing.T) *harness.Node {
	t.Helper()
	return quiet(t).FixPort()
}

func TestKeptPeerIsConnectedAgainAfterRestarts(t *testing.T) {
	t.Parallel()
	n, other := quiet(t).Start(), fixedPort(t).Start()
	config, id := readConfig(t, n), other.PeerID()
	if row := connectTo(t, n, "--keep", other.Addrs()[0]); !row.OK || !row.Kept {
		t.Fatalf("connect --keep: %+v", row)
	}
	check := func() {
		t.Helper()
		if line := n.Spawn("npp", "peers", "--watch").Expect(id); !strings.Contains(line, "kept:npp") {
			t.Errorf("not shown as kept: %q", line)
		}
		if peering := n.MustRun("swarm", "peering", "ls"); !strings.Contains(peering, id) {
			t.Errorf("kubo's peering does not have it: %q", peering)
		}
		if got := readConfig(t, n); got != config {
			t.Errorf("the config changed\nbefore:\n%s\nafter:\n%s", config, got)
		}
	}
	check()
	for _, order := range [][]*harness.Node{{n, other}, {other, n}} {
		n.Kill()
		other.Stop()
		for _, node := range order {
			node.Start()
		}
		check()
	}
	other.Stop()
	other.Start() // the other daemon is offline
	check()
}

func TestKeepWaitsForAPeerThatIsAway(t *testing.T) {
	t.Parallel()
	n, other := quiet(t).Start(), fixedPort(t).Start()
	addr := other.Addrs()[0]
	other.Stop()
	r := n.Run("npp", "connect", "--keep", addr)
	if r.Code != 1 || !strings.HasPrefix(r.Stdout, "failed "+other.PeerID()) || !strings.Contains(r.Stdout, "kept") {
		t.Errorf("connect --keep: %v", r)
	}
	watch := n.Spawn("npp", "peers", "--watch")
	other.Start()
	watch.Expect(other.PeerID())
}

func TestForgetEndsKeeping(t *testing.T) {
	t.Parallel()
	n, forgotten, kept := quiet(t).Start(), fixedPort(t).Start(), fixedPort(t).Start()
	for _, other := range []*harness.Node{forgotten, kept} {
		connectTo(t, n, "--keep", other.Addrs()[0])
	}
	watch := n.Spawn("npp", "peers", "--watch")
	watch.Expect(kept.PeerID())
	n.MustRun("swarm", "disconnect", "/p2p/"+forgotten.PeerID())
	watch.Expect("- " + forgotten.PeerID())
	watch.Expect("+ " + forgotten.PeerID())

	if text := n.MustRun("npp", "connect", "--forget", forgotten.PeerID()); text != "forgot "+forgotten.PeerID()+"\n" {
		t.Errorf("connect --forget: %q", text)
	}
	if count := n.MustRun("npp", "peers", "--count"); count != "2\n" {
		t.Errorf("connected after --forget: %q, want 2", count)
	}
	if peering := n.MustRun("swarm", "peering", "ls"); strings.Contains(peering, forgotten.PeerID()) {
		t.Errorf("kubo's peering still has it: %s", peering)
	}
	// the kept peer has reconnected, the forgotten one has not
	check := func() {
		t.Helper()
		rows := peerRows(t, n.MustRun("npp", "peers", "--enc=json"))
		if len(rows) != 1 || rows[kept.PeerID()].Kept != "npp" {
			t.Errorf("want %s alone: %v", kept.PeerID(), rows)
		}
		list := n.MustRun("npp", "peers", "--kept")
		if !strings.HasPrefix(list, kept.PeerID()) || strings.Count(list, "\n") != 1 {
			t.Errorf("want %s alone: %s", kept.PeerID(), list)
		}
	}
	for _, other := range []*harness.Node{forgotten, kept} {
		n.MustRun("swarm", "disconnect", "/p2p/"+other.PeerID())
		watch.Expect("- " + other.PeerID())
	}
	watch.Expect("+ " + kept.PeerID())
	check()
	n.Stop()
	n.Start()
	n.Spawn("npp", "peers", "--watch").Expect(kept.PeerID())
	check()
}

func TestForgetLeavesThePeersOfTheConfigAlone(t *testing.T) {
	t.Parallel()
	n, other := quiet(t), fixedPort(t).Start()
	id := other.PeerID()
	n.Set("Peering.Peers", []any{map[string]any{"ID": id, "Addrs": []string{listenAddr(t, other)}}})
	config := readConfig(t, n)
	n.Start()
	peering := n.MustRun("swarm", "peering", "ls")
	if !strings.Contains(peering, id) {
		t.Fatalf("kubo's peering does not have %s: %s", id, peering)
	}
	check := func() {
		t.Helper()
		r := n.Run("npp", "connect", "--forget", id)
		if r.Code != 1 || !strings.Contains(r.Stdout, "Peering.Peers") || !strings.Contains(r.Stdout, "; hint: ") {
			t.Errorf("connect --forget: %v", r)
		}
		if row := decodeLines[connectRow](t, n.Run("npp", "connect", "--enc=json", "--forget", id).Stdout); len(row) != 1 || row[0].OK || row[0].Forgot {
			t.Errorf("connect --forget: %+v", row)
		}
		if got := n.MustRun("swarm", "peering", "ls"); got != peering {
			t.Errorf("kubo's peering is %q, was %q", got, peering)
		}
		if list := n.MustRun("npp", "peers", "--kept"); !strings.Contains(list, "kept by config") {
			t.Errorf("not kept by the config any more: %s", list)
		}
		if got := readConfig(t, n); got != config {
			t.Errorf("the config changed\nbefore:\n%s\nafter:\n%s", config, got)
		}
	}
	check()
	if row := connectTo(t, n, "--keep", other.Addrs()[0]); !row.OK {
		t.Errorf("connect --keep: %+v", row)
	}
	check()
	n.Stop()
	n.Start()
	check()
}
