package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

// peerRow is a line of `npp peers --enc=json`.
type peerRow struct {
	Event        string
	At           time.Time
	Peer         string
	Addr         string
	LatencyMs    float64
	LatencyAgeMs float64
	Direction    string
	Agent        string
	Since        time.Time
	Connected    bool
	Relayed      bool
	Kept         string
	NPP          bool
	Topics       []string
	Count        *int
}

// decodeLines decodes output with one JSON object per line.
func decodeLines[T any](t *testing.T, output string) []T {
	t.Helper()
	var all []T
	for line := range strings.Lines(output) {
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("not a JSON object a line: %v: %q", err, line)
		}
		all = append(all, v)
	}
	return all
}

// rpc calls the daemon's RPC, which must succeed, and returns the answer.
func rpc(t *testing.T, n *harness.Node, path string, query url.Values) string {
	t.Helper()
	status, answer := n.RPC(path, query, nil)
	if status != http.StatusOK {
		t.Fatalf("%s?%s: %d: %s", path, query.Encode(), status, answer)
	}
	return answer
}

// peerRows returns the connected peers by ID.
func peerRows(t *testing.T, output string) map[string]peerRow {
	t.Helper()
	rows := make(map[string]peerRow)
	for _, row := range decodeLines[peerRow](t, output) {
		if _, twice := rows[row.Peer]; twice {
			t.Errorf("%s is listed twice: %s", row.Peer, output)
		}
		rows[row.Peer] = row
	}
	return rows
}

// eventually polls a daemon for a state that nothing announces.
func eventually(t *testing.T, what string, reached func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(harness.Patience)
	for !reached() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not reached: %s", what)
		}
	}
}

func listenAddr(t *testing.T, n *harness.Node) string {
	t.Helper()
	addr, _, ok := strings.Cut(n.Addrs()[0], "/p2p/")
	if !ok {
		t.Fatalf("no /p2p/ in %s", n.Addrs()[0])
	}
	return addr
}

func TestPeersTellsEverythingAboutEachPeer(t *testing.T) {
	t.Parallel()
	n, out, in := harness.New(t).Start(), harness.NewStock(t).Start(), harness.New(t).Start()
	before := time.Now()
	n.Connect(out)
	in.MustRun("npp", "connect", "--keep", n.Addrs()[0])
	n.Spawn("npp", "listen", "--topic", "rehearsals")
	in.Spawn("npp", "listen", "--topic", "rehearsals")
	in.Spawn("npp", "listen", "--topic", "not of both")
	after := time.Now()

	want := map[string]peerRow{
		out.PeerID(): {Peer: out.PeerID(), Addr: listenAddr(t, out), Direction: "outbound", Connected: true,
			Agent: strings.TrimSpace(out.MustRun("id", "--format=<aver>"))},
		in.PeerID(): {Peer: in.PeerID(), Direction: "inbound", Connected: true, NPP: true,
			Agent: strings.TrimSpace(in.MustRun("id", "--format=<aver>")), Topics: []string{"rehearsals"}},
	}
	outputs := map[string]func() string{
		"CLI": func() string { return n.MustRun("npp", "peers", "--enc=json") },
		"RPC": func() string { return rpc(t, n, "npp/peers", nil) },
	}
	for name, list := range outputs {
		var rows map[string]peerRow
		eventually(t, "agent and topics of "+in.PeerID(), func() bool {
			rows = peerRows(t, list())
			row := rows[in.PeerID()]
			return row.Agent != "" && row.NPP && row.Topics != nil && rows[out.PeerID()].Agent != ""
		})
		if len(rows) != len(want) {
			t.Errorf("%s: want %d peers: %v", name, len(want), rows)
		}
		if addr := rows[in.PeerID()].Addr; !strings.HasPrefix(addr, "/ip4/127.0.0.1/tcp/") {
			t.Errorf("%s: address is %q", name, addr)
		}
		for id, row := range rows {
			if row.Since.Before(before) || row.Since.After(after) {
				t.Errorf("%s: %s is connected since %v, want from %v to %v", name, id, row.Since, before, after)
			}
			if row.LatencyMs <= 0 || row.LatencyAgeMs <= 0 || row.LatencyAgeMs > 30_000 {
				t.Errorf("%s: the latency of %s is %v ms, %v ms old", name, id, row.LatencyMs, row.LatencyAgeMs)
			}
			w := want[id]
			w.Since, w.LatencyMs, w.LatencyAgeMs = row.Since, row.LatencyMs, row.LatencyAgeMs
			if id == in.PeerID() {
				w.Addr = row.Addr
			}
			if got, want := asJSON(t, row), asJSON(t, w); got != want {
				t.Errorf("%s\n got %s\nwant %s", name, got, want)
			}
		}
	}

	kept := peerRows(t, in.MustRun("npp", "peers", "--enc=json"))[n.PeerID()]
	if kept.Kept != "npp" || kept.Direction != "outbound" {
		t.Errorf("the peer of connect --keep: %+v", kept)
	}
	text := lines(n.MustRun("npp", "peers"))
	for id, w := range want {
		i := slices.IndexFunc(text, func(line string) bool { return strings.HasPrefix(line, id) })
		if i < 0 {
			t.Errorf("%s is not in the text: %v", id, text)
			continue
		}
		fields := strings.Fields(text[i])
		for _, field := range []string{strings.TrimSuffix(w.Direction, "bound"), "direct", w.Agent, "/ip4/127.0.0.1/tcp/"} {
			if !slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, field) }) {
				t.Errorf("%q is missing in %q", field, text[i])
			}
		}
		if slices.Contains(fields, "npp") != w.NPP {
			t.Errorf("want npp %v: %q", w.NPP, text[i])
		}
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPeersCountsConnectedPeers(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	watch := n.Spawn("npp", "peers", "--watch")
	others := []*harness.Node{harness.New(t).Start(), harness.NewStock(t).Start()}
	count := func(want int) {
		t.Helper()
		if got := n.MustRun("npp", "peers", "--count"); got != strconv.Itoa(want)+"\n" {
			t.Errorf("count is %q, want %d", got, want)
		}
		if got := rpc(t, n, "npp/peers", url.Values{"count": {"true"}}); got != fmt.Sprintf("{\"count\":%d}\n", want) {
			t.Errorf("RPC: count is %s, want %d", got, want)
		}
	}
	count(0)
	for i, other := range others {
		n.Connect(other)
		count(i + 1)
	}
	watch.Expect(others[0].PeerID())
	others[0].Stop()
	watch.Expect("- " + others[0].PeerID())
	count(1)
}

// Several peers connect and disconnect at once, repeatedly. Every watcher
// prints exactly one line for each change.
func TestPeersWatchLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	n, first := harness.New(t).Start(), harness.New(t).Start()
	n.Connect(first)
	text := n.Spawn("npp", "peers", "--watch")
	inJSON := n.Spawn("npp", "peers", "-w", "--enc=json")
	stream, err := http.Post(n.APIURL()+"npp/peers?watch=true", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	body := bufio.NewScanner(stream.Body)
	overRPC := func() string {
		if !body.Scan() {
			t.Fatalf("the stream ended: %v", body.Err())
		}
		return body.Text()
	}
	const firstLine = "  "
	if line := text.Expect(first.PeerID()); !strings.HasPrefix(line, firstLine+first.PeerID()) {
		t.Errorf("the list begins with %q", line)
	}
	inJSON.Expect(first.PeerID())
	for !strings.Contains(overRPC(), first.PeerID()) {
	}

	var peers []*harness.Node
	for range 3 {
		peers = append(peers, harness.New(t))
	}
	// each reads one line for each of the peers, in any order
	each := func(sign, event string) {
		t.Helper()
		var want, got, gotJSON, gotRPC []string
		for _, p := range peers {
			want = append(want, p.PeerID())
			line := text.Expect("")
			if !strings.HasPrefix(line, sign+" ") {
				t.Errorf("want a line with %s: %q", sign, line)
			}
			got = append(got, strings.Fields(line)[1])
			gotJSON = append(gotJSON, eventOf(t, inJSON.Expect(""), event))
			gotRPC = append(gotRPC, eventOf(t, overRPC(), event))
		}
		slices.Sort(want)
		for name, got := range map[string][]string{"text": got, "JSON": gotJSON, "RPC": gotRPC} {
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s of %ss\n got %v\nwant %v", name, event, got, want)
			}
		}
	}
	for range 3 {
		var connects []*harness.Process
		for _, p := range peers {
			p.Start()
		}
		for _, p := range peers {
			connects = append(connects, p.Spawn("swarm", "connect", n.Addrs()[0]))
		}
		for _, c := range connects {
			if r := c.Wait(); r.Code != 0 {
				t.Fatalf("connect: %v", r)
			}
		}
		each("+", "connect")
		for _, p := range peers {
			p.Daemon().Signal(syscall.SIGTERM)
		}
		for _, p := range peers {
			p.Daemon().Wait()
		}
		each("-", "disconnect")
	}

	text.Signal(syscall.SIGINT)
	if r := text.Wait(); r.Code != 0 || r.Stderr != "" || len(lines(strings.TrimSpace(r.Stdout))) != 1+1+3*2*len(peers) {
		t.Errorf("after SIGINT: %v", r)
	}
	n.Stop()
	if r := inJSON.Wait(); r.Code != 0 || r.Stderr != "" {
		t.Errorf("after the daemon stopped: %v", r)
	}
	for body.Scan() {
		if row := decodeLines[peerRow](t, body.Text())[0]; row.Event != "disconnect" || row.Peer != first.PeerID() {
			t.Errorf("RPC: after all events: %s", body.Text())
		}
	}
	if err := body.Err(); err != nil {
		t.Errorf("RPC: the stream broke off: %v", err)
	}
	if e := stream.Trailer.Get("X-Stream-Error"); e != "" {
		t.Errorf("RPC: the stream ended with an error: %s", e)
	}
}

// eventOf returns the peer of an event of `npp peers --watch`.
func eventOf(t *testing.T, line, event string) string {
	t.Helper()
	row := decodeLines[peerRow](t, line)[0]
	if row.Event != event || row.At.IsZero() || row.Connected != (event == "connect") {
		t.Errorf("want a %s: %s", event, line)
	}
	return row.Peer
}

func TestPeersWatchEndsWhenTheDaemonStops(t *testing.T) {
	t.Parallel()
	n, other := harness.New(t).Start(), harness.New(t).Start()
	n.Connect(other)
	watch := n.Spawn("npp", "peers", "--watch")
	watch.Expect(other.PeerID())
	if r := n.Stop(); r.Code != 0 {
		t.Errorf("daemon: %v", r)
	}
	if r := watch.Wait(); r.Code != 0 || r.Stderr != "" {
		t.Errorf("watch: %v", r)
	}
}

func TestPeersShowsKeptPeers(t *testing.T) {
	t.Parallel()
	by := map[string]*harness.Node{"npp": harness.New(t).Start(), "config": harness.New(t).Start()}
	away := harness.New(t)
	n := harness.New(t)
	n.Set("Peering.Peers", []any{map[string]any{"ID": by["config"].PeerID(), "Addrs": []string{listenAddr(t, by["config"])}}})
	n.Start()
	n.MustRun("npp", "connect", "--keep", by["npp"].Addrs()[0])
	n.Run("npp", "connect", "--keep", "--dial-timeout=1s", away.PeerID())
	n.Connect(by["config"])
	rows := peerRows(t, n.MustRun("npp", "peers", "--enc=json"))
	kept := peerRows(t, n.MustRun("npp", "peers", "--kept", "--enc=json"))
	keptRPC := peerRows(t, rpc(t, n, "npp/peers", url.Values{"kept": {"true"}}))
	text := n.MustRun("npp", "peers", "--kept")
	if len(kept) != 3 || len(keptRPC) != 3 || strings.Count(text, "\n") != 3 {
		t.Errorf("want three kept peers: %v, RPC %v, text %s", kept, keptRPC, text)
	}
	for name, other := range by {
		id := other.PeerID()
		if rows[id].Kept != name || kept[id].Kept != name || keptRPC[id].Kept != name {
			t.Errorf("want kept by %s: %+v, %+v, RPC %+v", name, rows[id], kept[id], keptRPC[id])
		}
		if !kept[id].Connected || !keptRPC[id].Connected {
			t.Errorf("want connected: %+v, RPC %+v", kept[id], keptRPC[id])
		}
		if line := lineOf(t, text, id); !strings.Contains(line, "kept by "+name) || strings.Contains(line, "not connected") {
			t.Errorf("text of a connected peer kept by %s: %q", name, line)
		}
	}
	if row := kept[away.PeerID()]; row.Kept != "npp" || row.Connected {
		t.Errorf("kept and away: %+v", row)
	}
	if line := lineOf(t, text, away.PeerID()); !strings.Contains(line, "not connected") {
		t.Errorf("text of a peer that is away: %q", line)
	}
}

func lineOf(t *testing.T, text, part string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	t.Errorf("%s is not in %q", part, text)
	return ""
}

// A setting that prevents connections is reported, and the command beside it
// corrects it.
func TestPeersSaysHowToMendTheConfig(t *testing.T) {
	t.Parallel()
	fresh := harness.Bare(t, harness.NPP(t))
	fresh.MustRun("init")
	for _, test := range []struct {
		key, want string
		setUp     func(n *harness.Node)
	}{
		{"Bootstrap", fresh.MustRun("config", "Bootstrap"), func(n *harness.Node) { n.Set("Addresses.Swarm", []string{"/ip4/127.0.0.1/tcp/0"}) }},
		{"Addresses.Swarm", fresh.MustRun("config", "Addresses.Swarm"), func(n *harness.Node) {
			n.Set("Addresses.Swarm", []string{}).Set("Bootstrap", []string{"/ip4/127.0.0.1/tcp/1/p2p/" + somePeer})
		}},
	} {
		t.Run(test.key, func(t *testing.T) {
			t.Parallel()
			n := harness.New(t)
			// enabled, as by default, but without requests beyond this machine
			n.Set("AutoConf", map[string]any{"URL": "http://127.0.0.1:1/autoconf.json"})
			test.setUp(n)
			n.Start()
			text := n.MustRun("npp", "peers")
			if !strings.HasPrefix(text, "note: "+test.key+" is empty") || strings.Count(text, "\n") != 1 {
				t.Fatalf("want one note, of %s: %s", test.key, text)
			}
			// A program reads only the peers.
			for name, got := range map[string]string{
				"RPC": rpc(t, n, "npp/peers", nil), "CLI": n.MustRun("npp", "peers", "--enc=json"),
			} {
				if got != "" {
					t.Errorf("%s: got %s, want no peer", name, got)
				}
			}
			advice := decodeLines[map[string]string](t, rpc(t, n, "npp/peers", url.Values{"advice": {"true"}}))
			if len(advice) != 1 || len(advice[0]) != 1 || "note: "+advice[0]["advice"]+"\n" != text {
				t.Errorf("RPC: %v, want %s", advice, text)
			}
			if found := statusOf(t, n).about("config"); len(found) != 1 || !strings.HasPrefix(text, "note: "+found[0].Text) {
				t.Errorf("status: %+v, want %s", found, text)
			}
			watch := n.Spawn("npp", "peers", "--watch")
			watch.Expect(strings.TrimSpace(text))

			_, command, _ := strings.Cut(strings.TrimSpace(text), "; hint: ")
			runInShell(t, n, strings.TrimSuffix(command, " and restart the daemon"))
			if text := n.MustRun("npp", "peers"); text != "" {
				t.Errorf("after %s: %s", command, text)
			}
			n.Kill() // before it dials any peer
			if got := n.MustRun("config", test.key); got != test.want {
				t.Errorf("%s sets %s to %s, want kubo's default %s", command, test.key, got, test.want)
			}
		})
	}
}

// runInShell runs a command line as a user pastes it. `ipfs` is the binary of
// the node.
func runInShell(t *testing.T, n *harness.Node, command string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(n.Bin, filepath.Join(dir, "ipfs")); err != nil {
		t.Fatal(err)
	}
	env := n.Command().Env
	shell := harness.Adopt(exec.Command("/bin/sh", "-c", command))
	shell.Env = append(env, "PATH="+dir+":"+os.Getenv("PATH"))
	if out, err := shell.CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", command, err, out)
	}
}
