package cli

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
	Tried   []struct {
		Way, Addr, Error string
		MS               float64
	}
	Error string
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

// encodedIDs are a peer ID in the encodings that people have.
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
		node.Set("Routing.Type", "none").Start() // the DHT would connect again by itself
	}
	id, addr := other.PeerID(), listenAddr(t, other)
	type target struct{ name, way string }
	targets := []target{
		{addr + "/p2p/" + id, "given address"}, // the first: nothing is known yet
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

// tarpit accepts connections of TCP and never answers.
type tarpit struct {
	net.Listener
	accepted chan net.Conn
	left     chan struct{} // closed when the first to come has gone
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

// Of several peers each result is printed when it is there, and one that is
// bad does not harm the others.
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
	select {
	case <-slow.left:
		t.Error("the good ones were printed after the slow one had failed")
	case conn := <-slow.accepted:
		conn.Close()
	}
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
			t.Errorf("the address is not among what was tried: %+v", row.Tried)
		}
		for _, way := range []string{"routing", "relay"} {
			if _, ok := ways[way]; !ok {
				t.Errorf("%s is not among what was tried: %+v", way, row.Tried)
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
		{"keep and forget", "exclude each other", url.Values{"arg": {somePeer}, "keep": {"true"}, "forget": {"true"}}},
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

// A peer of whom only the ID is known is found through a peer in common.
func TestConnectFindsAPeerByItsIDAlone(t *testing.T) {
	t.Parallel()
	n, common, other := harness.New(t), harness.NewStock(t).Start(), harness.New(t)
	for _, node := range []*harness.Node{n, other} {
		node.Set("Routing.Type", "dhtclient").Start() // no server, or the DHTs would connect by themselves
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
		t.Errorf("that no address was known is not among what was tried: %+v", row)
	}
}

// freePort is a port of 127.0.0.1 that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Two daemons that know of each other's bootstrap entry alone meet, whichever
// starts first.
func TestBootstrapEntriesBringPeersTogether(t *testing.T) {
	t.Parallel()
	var nodes []*harness.Node
	var addrs []string
	for range 2 {
		n := harness.New(t)
		addr := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", freePort(t))
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
