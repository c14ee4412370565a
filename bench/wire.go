package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// wire is a proxy on loopback in front of a peer's port. It counts the bytes
// that cross it.
type wire struct {
	at   string // its multiaddr
	addr string // the same with the peer ID

	to, from atomic.Int64 // bytes to and from the peer

	listener net.Listener
	open     context.Context // until it is closed
	cut      context.CancelFunc
	tasks    sync.WaitGroup
}

// newWire returns a wire to the peer at a multiaddr. The caller closes it.
func newWire(addr string) (*wire, error) {
	a, err := ma.NewMultiaddr(addr)
	if err != nil {
		return nil, err
	}
	transport, id := peer.SplitAddr(a)
	network, target, err := manet.DialArgs(transport)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	at := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", listener.Addr().(*net.TCPAddr).Port)
	w := &wire{at: at, addr: at + "/p2p/" + id.String(), listener: listener}
	w.open, w.cut = context.WithCancel(context.Background())
	w.tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			w.tasks.Go(func() { w.forward(conn, network, target) })
		}
	})
	return w, nil
}

// close closes the wire and its connections.
func (w *wire) close() {
	w.cut()
	w.listener.Close()
	w.tasks.Wait()
}

// crossed returns the number of bytes in both directions.
func (w *wire) crossed() int64 { return w.to.Load() + w.from.Load() }

func (w *wire) forward(near net.Conn, network, target string) {
	defer near.Close()
	far, err := new(net.Dialer).DialContext(w.open, network, target)
	if err != nil {
		return
	}
	end := func() {
		near.Close()
		far.Close()
	}
	defer end()
	defer context.AfterFunc(w.open, end)()
	var both sync.WaitGroup
	both.Go(func() {
		defer end()
		io.Copy(counter{far, &w.to}, near)
	})
	both.Go(func() {
		defer end()
		io.Copy(counter{near, &w.from}, far)
	})
	both.Wait()
}

// carries fails unless a replica has exactly one connection, over the wire.
func (w *wire) carries(ctx context.Context, r replica) error {
	conns, err := r.connections(ctx)
	if err != nil {
		return err
	}
	if len(conns) == 1 {
		if at, _, _ := strings.Cut(conns[0], "/p2p/"); at == w.at {
			return nil
		}
	}
	return fmt.Errorf("want one connection, to %s, got %q", w.at, conns)
}

// counter counts the written bytes.
type counter struct {
	io.Writer
	n *atomic.Int64
}

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.Writer.Write(b)
}
