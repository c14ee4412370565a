package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/newpieceplease/npp/test/children"
)

// stopPatience is how long a daemon may take to stop before it is killed.
const stopPatience = 40 * time.Second

// settings are changes to a config, by keys whose parts are separated by dots.
type settings map[string]any

// node is a repo and the binary that runs on it.
type node struct {
	bin, repo string
	group     *children.Group // its processes are in it
	id        string          // peer ID

	cmd   *exec.Cmd
	ended chan struct{} // closed when the daemon has ended
	ready time.Duration // from the daemon's start to its "Daemon is ready"
	base  string        // URL of its RPC server, with a closing slash
	http  http.Client
}

// newNode makes a repo with kubo's test profile.
func newNode(ctx context.Context, b *bench, bin string, set settings) (*node, error) {
	home, err := os.MkdirTemp(b.Dir, "node-")
	if err != nil {
		return nil, err
	}
	n := &node{bin: bin, repo: filepath.Join(home, "repo"), group: b.Group}
	// the default transport keeps two connections to a host
	n.http.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	if out, err := n.command(ctx, "init", "--profile=test").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ipfs init: %w\n%s", err, out)
	}
	return n, n.configure(set)
}

func (n *node) configure(set settings) error {
	path := filepath.Join(n.repo, "config")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	n.id = config["Identity"].(map[string]any)["PeerID"].(string)
	for key, value := range set {
		parts := strings.Split(key, ".")
		section := config
		for _, part := range parts[:len(parts)-1] {
			sub, ok := section[part].(map[string]any)
			if !ok {
				sub = map[string]any{}
				section[part] = sub
			}
			section = sub
		}
		section[parts[len(parts)-1]] = value
	}
	if text, err = json.MarshalIndent(config, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// command is ipfs with the arguments, in an environment that holds nothing of
// the caller's own ipfs.
func (n *node) command(ctx context.Context, args ...string) *exec.Cmd {
	home := filepath.Dir(n.repo)
	cmd := exec.CommandContext(ctx, n.bin, args...)
	n.group.Add(cmd)
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "IPFS_PATH=" + n.repo, "IPFS_TELEMETRY=off"}
	return cmd
}

// start starts the daemon and returns when it is ready.
func (n *node) start(ctx context.Context) error {
	n.cmd = n.command(ctx, "daemon")
	var stderr bytes.Buffer
	n.cmd.Stderr = &stderr
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := n.cmd.Start(); err != nil {
		return err
	}
	n.ended = make(chan struct{})
	lines := bufio.NewScanner(stdout)
	ready := false
	for !ready && lines.Scan() {
		ready = strings.HasPrefix(lines.Text(), "Daemon is ready")
	}
	n.ready = time.Since(began)
	var rest sync.WaitGroup
	rest.Go(func() { io.Copy(io.Discard, stdout) })
	go func() {
		rest.Wait()
		n.cmd.Wait()
		close(n.ended)
	}()
	if !ready {
		<-n.ended
		return fmt.Errorf("the daemon of %s ended before it was ready:\n%s", n.bin, stderr.Bytes())
	}
	return n.findAPI()
}

func (n *node) findAPI() error {
	text, err := os.ReadFile(filepath.Join(n.repo, "api"))
	if err != nil {
		return err
	}
	addr := strings.Split(string(text), "/") // "", ip4, host, tcp, port
	if len(addr) != 5 {
		return fmt.Errorf("api file: want /ip4/<host>/tcp/<port>, got %q", text)
	}
	n.base = "http://" + addr[2] + ":" + addr[4] + "/"
	return nil
}

// stop ends the daemon, if it runs, and waits for its end.
func (n *node) stop() {
	if n.ended == nil {
		return
	}
	n.http.CloseIdleConnections()
	n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.ended:
	case <-time.After(stopPatience):
		n.cmd.Process.Kill()
		<-n.ended
	}
}

// startNode makes a repo and starts a daemon on it. The caller stops it.
func startNode(ctx context.Context, b *bench, bin string, set settings) (*node, error) {
	n, err := newNode(ctx, b, bin, set)
	if err != nil {
		return nil, err
	}
	if err := n.start(ctx); err != nil {
		n.stop()
		return nil, err
	}
	return n, nil
}

// startPair starts two daemons and connects them. The caller stops both.
func startPair(ctx context.Context, b *bench, bin string, set settings) (_, _ *node, err error) {
	var nodes [2]*node
	defer func() {
		if err == nil {
			return
		}
		for _, n := range nodes {
			if n != nil {
				n.stop()
			}
		}
	}()
	for i := range nodes {
		if nodes[i], err = startNode(ctx, b, bin, set); err != nil {
			return nil, nil, err
		}
	}
	addr, err := nodes[1].addr(ctx)
	if err != nil {
		return nil, nil, err
	}
	_, err = nodes[0].call(ctx, "swarm/connect", url.Values{"arg": {addr}}, nil)
	return nodes[0], nodes[1], err
}

// addr is the daemon's first address, with its peer ID.
func (n *node) addr(ctx context.Context) (string, error) {
	answer, err := n.call(ctx, "id", nil, nil)
	if err != nil {
		return "", err
	}
	var id struct{ Addresses []string }
	if err := json.Unmarshal(answer, &id); err != nil {
		return "", fmt.Errorf("rpc id: %w", err)
	}
	if len(id.Addresses) == 0 {
		return "", errors.New("the daemon has no address")
	}
	return id.Addresses[0], nil
}

// post begins a request. A body that is not nil goes along as a multipart file.
func (n *node) post(ctx context.Context, path string, query url.Values, body []byte) (*http.Response, error) {
	var form bytes.Buffer
	contentType := ""
	if body != nil {
		w := multipart.NewWriter(&form)
		part, err := w.CreateFormFile("file", "message")
		if err != nil {
			return nil, err
		}
		part.Write(body) // a bytes.Buffer takes everything
		w.Close()
		contentType = w.FormDataContentType()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.base+"api/v0/"+path+"?"+query.Encode(), &form)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, fmt.Errorf("rpc %s: %s: %s", path, resp.Status, text)
	}
	return resp, nil
}

// call posts a request and returns the whole answer.
func (n *node) call(ctx context.Context, path string, query url.Values, body []byte) ([]byte, error) {
	resp, err := n.post(ctx, path, query, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("rpc %s: %w", path, err)
	}
	if text := resp.Trailer.Get("X-Stream-Error"); text != "" {
		return nil, fmt.Errorf("rpc %s: %s", path, text)
	}
	return answer, nil
}

// await polls until done reports true.
func await(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}
