package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"syscall"
	"time"

	"github.com/newpieceplease/npp/test/ipfs"
)

// The time that a daemon may take.
const (
	startPatience = 3 * time.Minute // until it is ready
	stopPatience  = 3 * time.Minute // to stop before it is killed
)

// node is a repo, the binary that runs on it, and its daemon.
type node struct {
	*ipfs.Node
	id string // peer ID

	daemon  *ipfs.Process // the one that was started last; nil before the first
	rpc     *ipfs.RPC     // a client of it
	ready   time.Duration // from its start until it was ready
	stopped time.Duration // from the signal to its end
	killed  bool          // it did not end by itself
}

// newNode creates a repo.
func newNode(ctx context.Context, b *bench, bin string, changes ipfs.Config) (*node, error) {
	home, err := os.MkdirTemp(b.Dir, "node-")
	if err != nil {
		return nil, err
	}
	n := &node{Node: ipfs.New(b.Group, bin, home)}
	if err := n.Init(ctx); err != nil {
		return nil, err
	}
	if n.id, err = n.PeerID(); err != nil {
		return nil, err
	}
	return n, n.Configure(changes)
}

// start starts the daemon and returns when it is ready.
func (n *node) start(ctx context.Context) (err error) {
	began := time.Now()
	if n.daemon, err = ipfs.Start(n.Command(ctx, "daemon")); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if _, err := n.daemon.Expect(patience, ipfs.Ready); err != nil {
		return err
	}
	n.ready = time.Since(began)
	n.rpc, err = n.RPC()
	return err
}

// stop stops the daemon, if it runs, and waits for its end. It kills it
// if it does not end.
func (n *node) stop() {
	if n.daemon == nil {
		return
	}
	if n.rpc != nil {
		n.rpc.Client.CloseIdleConnections()
	}
	began := time.Now()
	n.daemon.Signal(syscall.SIGTERM) // fails if it has ended
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	if _, err := n.daemon.Wait(ctx); err != nil {
		n.daemon.Kill()
		n.killed = true
	}
	n.stopped = time.Since(began)
}

func (n *node) pid() int { return n.daemon.Cmd.Process.Pid }

// startNode creates a repo and starts a daemon on it. The caller stops it.
func startNode(ctx context.Context, b *bench, bin string, changes ipfs.Config) (*node, error) {
	n, err := newNode(ctx, b, bin, changes)
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
func startPair(ctx context.Context, b *bench, bin string, changes ipfs.Config) (_, _ *node, err error) {
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
		if nodes[i], err = startNode(ctx, b, bin, changes); err != nil {
			return nil, nil, err
		}
	}
	addr, err := nodes[1].addr(ctx)
	if err != nil {
		return nil, nil, err
	}
	return nodes[0], nodes[1], nodes[0].connect(ctx, addr)
}

// addr is the first multiaddr that the daemon announces, with its peer ID.
func (n *node) addr(ctx context.Context) (string, error) {
	addrs, err := n.rpc.Addrs(ctx)
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

func (n *node) connect(ctx context.Context, addr string) error {
	_, err := n.rpc.Call(ctx, "swarm/connect", url.Values{"arg": {addr}}, nil)
	return err
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
