package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Hide has the node announce no address at which it can be reached: others
// connect to it by [Node.ListenAddr] or a [Link], and do not come back by
// themselves. It is for nodes whose daemon does not run yet.
func (n *Node) Hide() *Node {
	n.t.Helper()
	return n.Set("Addresses.Announce", []string{"/ip4/127.0.0.1/tcp/1"})
}

// ListenAddr returns the address that the running daemon listens at, with its
// peer ID.
func (n *Node) ListenAddr() string {
	n.t.Helper()
	status, answer := n.RPC("swarm/addrs/listen", nil, nil)
	if status != http.StatusOK {
		n.t.Fatalf("rpc swarm/addrs/listen: %d: %s", status, answer)
	}
	var addrs struct{ Strings []string }
	n.check(json.Unmarshal([]byte(answer), &addrs))
	return addrs.Strings[0] + "/p2p/" + n.PeerID()
}

// Link is a way to a daemon that can be cut: a port of loopback behind which is
// that of the daemon.
type Link struct {
	Addr string // multiaddr, with the daemon's peer ID

	mu       sync.Mutex
	cut      bool
	conns    map[net.Conn]bool
	received int64
	hold     int64      // of received, at which no more comes; 0 for none
	freed    *sync.Cond // hold is no more
}

// NewLink returns a link to the running daemon of a node.
func NewLink(t testing.TB, to *Node) *Link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	to.check(err)
	port := listener.Addr().(*net.TCPAddr).Port
	_, target, _ := strings.Cut(to.ListenAddr(), "/tcp/")
	target, _, _ = strings.Cut(target, "/")
	l := &Link{Addr: fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/p2p/%s", port, to.PeerID()), conns: make(map[net.Conn]bool)}
	l.freed = sync.NewCond(&l.mu)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { l.forward(from, "127.0.0.1:"+target) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.Cut()
		tasks.Wait()
	})
	return l
}

// Cut breaks all connections over the link, and lets none through.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.conns {
		c.Close()
	}
	l.free()
}

// Heal lets connections through again, and all of what they carry.
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
	l.free()
}

// Received returns how many bytes came over the link to who connected by it.
func (l *Link) Received() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.received
}

// Hold keeps back what comes over the link once [Link.Received] is so much, until
// the link is cut or healed.
func (l *Link) Hold(at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold = at
}

// free ends Hold. The caller holds l.mu.
func (l *Link) free() {
	l.hold = 0
	l.freed.Broadcast()
}

// meter counts what comes over a link.
type meter struct{ *Link }

func (m meter) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.hold > 0 && m.received >= m.hold {
		m.freed.Wait()
	}
	m.received += int64(len(b))
	return len(b), nil
}

func (l *Link) forward(from net.Conn, target string) {
	defer from.Close()
	to, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer to.Close()
	if !l.add(from, to) {
		return
	}
	defer l.remove(from, to)
	var both sync.WaitGroup
	for _, way := range []struct {
		to   io.Writer
		from io.Reader
	}{{from, io.TeeReader(to, meter{l})}, {to, from}} {
		both.Go(func() {
			io.Copy(way.to, way.from)
			from.Close()
			to.Close()
		})
	}
	both.Wait()
}

func (l *Link) add(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return false
	}
	for _, c := range conns {
		l.conns[c] = true
	}
	return true
}

func (l *Link) remove(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.conns, c)
	}
}

// FixPort has the node listen at the same port whenever its daemon runs, and nowhere
// else.
func (n *Node) FixPort() *Node {
	n.t.Helper()
	return n.Set("Addresses.Swarm", []string{FreeAddr(n.t)})
}

// Ports that [FreeAddr] gives away. They are below those that systems choose
// themselves, for port 0 and for connections, so that nobody else gets one while
// the daemon that has it is stopped.
const (
	firstPort = 20000
	ports     = 12000
)

// nextPort counts ports modulo [ports]. Test binaries that run at the same time
// begin somewhere else.
var nextPort atomic.Uint32

func init() { nextPort.Store(rand.Uint32N(ports)) }

// FreeAddr returns a multiaddr of 127.0.0.1 with a TCP port on which nobody listens.
// It is another one each time.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range ports {
		port := firstPort + nextPort.Add(1)%ports
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port)
		}
	}
	t.Fatal("no port is free")
	panic("unreachable")
}
