package harness

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

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
