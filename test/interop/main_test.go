// Package interop tests the promises that need JavaScript peers: js-libp2p apps
// like the tutorial's and a daemon with npp exchange messages by pubsub, in
// both directions; @orbitdb/core and package orbit write the same databases,
// read each other's, and agree on their content; an app on @orbitdb/core and a
// daemon share a library.
//
// The peer for messages is peer.mjs. It runs with two versions of gossipsub:
// the first gives its messages random sequence numbers, like all earlier
// versions; the second gives them ascending ones. The peer for databases is
// orbitdb.mjs. It runs on the packages of OrbitDB 4, see stack-4.mjs, or of
// OrbitDB 3, see v3. The tests run both as child processes.
//
// The script run installs Node.js and the packages, and sets NPP_NODE to the
// path of Node.js. Without NPP_NODE, the tests are skipped.
package interop

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// The packages of package.json that have gossipsub.
const (
	randomSeqno    = "gossipsub-15-0-16"
	ascendingSeqno = "gossipsub-15-0-23"
)

// nodeJS returns the path of Node.js. It skips the test if there is none.
func nodeJS(t testing.TB) string {
	t.Helper()
	path := os.Getenv("NPP_NODE")
	if path == "" {
		t.Skip("NPP_NODE is not set: make interop sets it")
	}
	return path
}

// startScript starts a script of this directory. Commands are encoded to its
// stdin; the caller reads its stdout to the end and then waits for it. It is
// killed when the test ends.
func startScript(t testing.TB, name string, args ...string) (*exec.Cmd, *json.Encoder, io.Reader) {
	t.Helper()
	script, err := filepath.Abs(name)
	must(t, err)
	cmd := harness.Adopt(exec.CommandContext(t.Context(), nodeJS(t), append([]string{script}, args...)...))
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir}
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	return cmd, json.NewEncoder(stdin), stdout
}

// forEachGossipsub runs a test with each version of gossipsub.
func forEachGossipsub(t *testing.T, test func(t *testing.T, gossipsub string)) {
	nodeJS(t)
	for _, gossipsub := range []string{randomSeqno, ascendingSeqno} {
		t.Run(gossipsub, func(t *testing.T) {
			t.Parallel()
			test(t, gossipsub)
		})
	}
}

// peer is a running peer.mjs. Its methods fail the test instead of returning an
// error.
type peer struct {
	ID   string
	Addr string // multiaddr, with the peer ID

	t        *testing.T
	stdin    *json.Encoder
	messages chan received
	answers  chan line
}

// received is a message that the peer has received.
type received struct {
	From, Topic string
	Data        []byte
	Seqno       string
}

// line is a line that the peer prints.
type line struct {
	ID, Addr    string
	Message     *received
	Done, Error string
}

// startPeer starts a peer without connections and subscriptions.
func startPeer(t *testing.T, gossipsub string) *peer {
	t.Helper()
	cmd, stdin, stdout := startScript(t, "peer.mjs", gossipsub)
	p := &peer{t: t, stdin: stdin, messages: make(chan received, 4096), answers: make(chan line)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cmd.Wait()
		defer close(p.messages)
		defer close(p.answers)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var l line
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				t.Errorf("the peer printed %q: %v", lines.Bytes(), err)
				return
			}
			if l.Message != nil {
				p.messages <- *l.Message
				continue
			}
			select {
			case p.answers <- l:
			case <-t.Context().Done():
				return
			}
		}
	}()
	t.Cleanup(func() { <-ended })
	hello := next(p, p.answers)
	p.ID, p.Addr = hello.ID, hello.Addr
	return p
}

// next waits for the next value that the peer prints.
func next[T any](p *peer, c <-chan T) T {
	p.t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			p.t.Fatal("the peer ended")
		}
		return v
	case <-time.After(harness.Patience):
		p.t.Fatalf("the peer printed nothing for %v", harness.Patience)
	}
	panic("unreachable")
}

// receive waits for the next message that the peer receives.
func (p *peer) receive() received {
	p.t.Helper()
	return next(p, p.messages)
}

func (p *peer) do(command string, args map[string]any) {
	p.t.Helper()
	c := map[string]any{"command": command}
	for name, value := range args {
		c[name] = value
	}
	if err := p.stdin.Encode(c); err != nil {
		p.t.Fatal(err)
	}
	if l := next(p, p.answers); l.Error != "" {
		p.t.Fatal(l.Error)
	}
}

// connect connects the peer to the daemon.
func (p *peer) connect(n *harness.Node) {
	p.t.Helper()
	p.do("connect", map[string]any{"addr": n.Addrs()[0]})
}

// disconnect closes all connections.
func (p *peer) disconnect() {
	p.t.Helper()
	p.do("disconnect", nil)
}

func (p *peer) subscribe(topic string) {
	p.t.Helper()
	p.do("subscribe", map[string]any{"topic": topic})
}

// publish waits for a subscriber, and then publishes all messages at once.
func (p *peer) publish(topic string, data ...[]byte) {
	p.t.Helper()
	p.do("publish", map[string]any{"topic": topic, "data": data})
}

// replay resends the last published message to its subscribers.
func (p *peer) replay() {
	p.t.Helper()
	p.do("replay", nil)
}
