package ipfs

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/children"
)

// newNode returns a node whose binary is a shell script.
func newNode(t *testing.T, script string) *Node {
	t.Helper()
	group, err := children.New("npp-ipfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(group.End)
	bin := filepath.Join(t.TempDir(), "ipfs")
	if err := os.WriteFile(bin, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return New(group, bin, t.TempDir())
}

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(newNode(t, script).Command(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestExpectReturnsLinesInOrder(t *testing.T) {
	p := start(t, "echo one; echo two; echo three; printf unfinished")
	for _, want := range []string{"one", "three"} {
		if line, err := p.Expect(t.Context(), want); err != nil || line != want {
			t.Errorf("Expect(%q) = %q, %v", want, line, err)
		}
	}
	for _, gone := range []string{"two", "unfinished"} {
		if line, err := p.Expect(t.Context(), gone); err == nil {
			t.Errorf("Expect(%q) = %q", gone, line)
		}
	}
}

func TestFailedWaitShowsOutput(t *testing.T) {
	running := start(t, "echo to stdout; echo to stderr >&2; echo written; exec sleep 600")
	if _, err := running.Expect(t.Context(), "written"); err != nil {
		t.Fatal(err)
	}
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, late)
	defer cancel()
	_, expectErr := running.Expect(ctx, "more")
	_, waitErr := running.Wait(ctx)
	for _, err := range []error{expectErr, waitErr} {
		if !errors.Is(err, late) {
			t.Errorf("%v is not %q", err, late)
		}
		for _, text := range []string{"to stdout", "to stderr"} {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%v has no %q", err, text)
			}
		}
	}
	ended := start(t, "echo to stderr >&2; exit 3")
	if _, err := ended.Expect(t.Context(), "more"); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "to stderr") {
		t.Errorf("Expect after the end: %v", err)
	}
}

func TestWaitReturnsResult(t *testing.T) {
	p := start(t, "echo out; echo err >&2; exit 7")
	if r, err := p.Wait(t.Context()); err != nil || r != (Result{"out\n", "err\n", 7}) {
		t.Errorf("%+v, %v", r, err)
	}
	p.Kill() // does nothing
}

func TestKilledProcessHasEnded(t *testing.T) {
	p := start(t, "exec sleep 600")
	p.Kill()
	select {
	case <-p.Done():
	default:
		t.Error("it still runs")
	}
}

func TestCommandEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := Start(newNode(t, "exec sleep 600").Command(ctx))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if r, err := p.Wait(t.Context()); err != nil || r.Code != -1 {
		t.Errorf("%v, %v", r, err)
	}
}

// The environment has no variable of the caller but PATH.
func TestEnvironmentIsClean(t *testing.T) {
	t.Setenv("IPFS_PATH", "/elsewhere")
	t.Setenv("NPP_LEAK", "1")
	n := newNode(t, `echo "$IPFS_PATH $HOME ${NPP_LEAK-unset} $NPP_EXTRA"; pwd`)
	n.Env = []string{"NPP_EXTRA=extra"}
	p, err := Start(n.Command(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Wait(t.Context())
	if want := n.Repo + " " + n.home + " unset extra\n" + n.home + "\n"; err != nil || r.Stdout != want {
		t.Errorf("got %q, %v, want %q", r.Stdout, err, want)
	}
}

func TestInitReportsFailure(t *testing.T) {
	err := newNode(t, "echo no space >&2; exit 1").Init(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("got %v", err)
	}
}

// withRepo returns a node that has the files in its repo.
func withRepo(t *testing.T, files map[string]string) *Node {
	t.Helper()
	n := newNode(t, "")
	if err := os.Mkdir(n.Repo, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(n.Repo, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestConfigureChangesOnlyItsKeys(t *testing.T) {
	n := withRepo(t, map[string]string{"config": `{"Identity":{"PeerID":"12D3"},"Swarm":{"ConnMgr":{"Type":"basic","LowWater":32}}}`})
	if err := n.Configure(Config{"Swarm.ConnMgr.Type": "none", "Plugins.Plugins.npp": map[string]any{"Disabled": true}}); err != nil {
		t.Fatal(err)
	}
	config, err := n.config()
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(config)
	want := `{"Identity":{"PeerID":"12D3"},"Plugins":{"Plugins":{"npp":{"Disabled":true}}},"Swarm":{"ConnMgr":{"LowWater":32,"Type":"none"}}}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if id, err := n.PeerID(); err != nil || id != "12D3" {
		t.Errorf("peer ID %q, %v", id, err)
	}
}

func TestPeerIDThatIsMissing(t *testing.T) {
	n := withRepo(t, map[string]string{"config": `{}`})
	if id, err := n.PeerID(); err == nil {
		t.Errorf("got %q", id)
	}
}

func TestRPC(t *testing.T) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	n := withRepo(t, map[string]string{
		"api": "/ip4/" + u.Hostname() + "/tcp/" + u.Port(),
	})
	rpc, err := n.RPC()
	if err != nil {
		t.Fatal(err)
	}
	mux.HandleFunc("POST /api/v0/echo", func(w http.ResponseWriter, r *http.Request) {
		file, _, err := r.FormFile("file")
		if err != nil {
			io.WriteString(w, r.URL.RawQuery+" without a file")
			return
		}
		io.WriteString(w, r.URL.RawQuery+" ")
		io.Copy(w, file)
	})
	mux.HandleFunc("POST /api/v0/late", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Stream-Error")
		io.WriteString(w, "{}")
		w.Header().Set("X-Stream-Error", "disk full")
	})
	mux.HandleFunc("POST /api/v0/swarm/addrs/listen", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"Strings":["/ip4/127.0.0.1/tcp/1"]}`)
	})
	mux.HandleFunc("POST /api/v0/id", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"ID":"12D3"}`) })

	query := url.Values{"arg": {"1"}}
	for _, test := range []struct {
		body []byte
		want string
	}{{[]byte("text"), "arg=1 text"}, {[]byte{}, "arg=1 "}, {nil, "arg=1 without a file"}} {
		if got, err := rpc.Call(t.Context(), "echo", query, test.body); err != nil || string(got) != test.want {
			t.Errorf("got %q, %v, want %q", got, err, test.want)
		}
	}
	for path, want := range map[string]string{"absent": "404 Not Found", "late": "disk full"} {
		if _, err := rpc.Call(t.Context(), path, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	if resp, err := rpc.Post(t.Context(), "absent", nil, nil); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("Post: %v, %v", resp, err)
	}
	if addr, err := rpc.ListenAddr(t.Context()); err != nil || addr != "/ip4/127.0.0.1/tcp/1/p2p/12D3" {
		t.Errorf("ListenAddr: %q, %v", addr, err)
	}
	if addrs, err := rpc.Addrs(t.Context()); err == nil {
		t.Errorf("Addrs: %q", addrs)
	}
}

func TestFreeAddrsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		addr, err := FreeAddr()
		if err != nil || seen[addr] {
			t.Fatalf("%s again, or %v", addr, err)
		}
		seen[addr] = true
	}
}
