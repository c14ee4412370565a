package harness

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// Link is a TCP proxy on loopback in front of a daemon. It can be cut.
type Link struct {
	Addr string // multiaddr, with the daemon's peer ID

	mu       sync.Mutex
	cut      bool
	conns    map[net.Conn]bool
	received int64
	hold     int64      // limit of received, 0 for none
	freed    *sync.Cond // signals that hold is 0
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

// Cut closes all connections over the link and refuses new ones.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.conns {
		c.Close()
	}
	l.free()
}

// Heal accepts connections again and ends a [Link.Hold].
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
	l.free()
}

// Received returns the number of bytes that the connecting side has received.
func (l *Link) Received() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.received
}

// Hold withholds data from the connecting side once [Link.Received] is at least
// at, until the link is cut or healed.
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

// meter counts the received bytes of a link.
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
