package sim

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// window bounds the bytes on a stream that were sent and not read.
const window = 256 << 10

// maxFrame bounds the bytes of a write that are sent at once.
const maxFrame = 64 << 10

var errClosed = errors.New("stream closed")

// stream is one end of a stream. w.mu guards it.
type stream struct {
	network.Stream // nil: the rest is not simulated
	host           *host
	conn           *conn
	key            digest  // the same for both ends
	peer           *stream // the other end; nil until data was sent
	accepted       bool    // the host knows of it
	protocol       protocol.ID

	received    []byte
	read        int  // bytes that were read and for which the other end has no credit yet
	ended       bool // the other end sends no more
	readClosed  bool
	writeClosed bool
	failed      bool // reset
	credit      int  // bytes that may be sent

	last                        time.Time // when the last message arrives
	readDeadline, writeDeadline time.Time
	changed                     chan struct{} // closed at the next change
}

func newStream(h *host, c *conn, key digest) *stream {
	return &stream{host: h, conn: c, key: key, credit: window, changed: make(chan struct{})}
}

// accept makes a stream known to its host. The caller holds w.mu.
func (s *stream) accept() {
	s.accepted = true
	s.conn.streams[s.conn.end(s.host)][s] = true
}

// notify wakes all waiters. The caller holds w.mu.
func (s *stream) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait waits for a change, and returns an error after the deadline. The caller
// holds w.mu, which is released meanwhile.
func (s *stream) wait(deadline time.Time) error {
	changed := s.changed
	s.host.w.mu.Unlock()
	defer s.host.w.mu.Lock()
	var expired <-chan time.Time
	if !deadline.IsZero() {
		rest := time.Until(deadline)
		if rest <= 0 {
			return os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(rest)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-changed:
		return nil
	case <-expired:
		return os.ErrDeadlineExceeded
	}
}

func (s *stream) Read(b []byte) (int, error) {
	s.host.w.mu.Lock()
	defer s.host.w.mu.Unlock()
	for {
		switch {
		case s.failed:
			return 0, network.ErrReset
		case s.readClosed:
			return 0, errClosed
		case len(s.received) > 0:
			n := copy(b, s.received)
			s.received = s.received[n:]
			s.consume(n)
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		if err := s.wait(s.readDeadline); err != nil {
			return 0, err
		}
	}
}

// consume gives the other end credit in portions of half a window. The caller
// holds w.mu.
func (s *stream) consume(n int) {
	if s.read += n; s.read < window/2 {
		return
	}
	more := s.read
	s.read = 0
	s.send("credit", nil, func(to *stream) { to.credit += more })
}

func (s *stream) Write(b []byte) (n int, err error) {
	s.host.w.mu.Lock()
	defer s.host.w.mu.Unlock()
	for n < len(b) {
		switch {
		case s.failed:
			return n, network.ErrReset
		case s.writeClosed:
			return n, errClosed
		case s.credit > 0:
			frame := append([]byte{}, b[n:min(len(b), n+s.credit, n+maxFrame)]...)
			s.credit -= len(frame)
			n += len(frame)
			s.send("data", frame, func(to *stream) { to.received = append(to.received, frame...) })
			continue
		}
		if err := s.wait(s.writeDeadline); err != nil {
			return n, err
		}
	}
	return n, nil
}

// send schedules a change of the other end, after all earlier ones. The first
// one opens it. The caller holds w.mu.
func (s *stream) send(what string, data []byte, change func(to *stream)) {
	w, c := s.host.w, s.conn
	if s.peer == nil {
		s.peer = newStream(c.other(s.host), c, s.key)
		s.peer.peer = s
	}
	to := s.peer
	key := c.key(s.host, what).number(int64(s.key)).bytes(data)
	s.last = c.send(s.host, key, what, s.last.Add(1), func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !to.accepted {
			to.accept()
			go to.host.negotiate(to)
		}
		if !to.failed {
			change(to)
			to.notify()
		}
	})
}

// CloseWrite implements [network.MuxedStream].
func (s *stream) CloseWrite() error {
	s.host.w.mu.Lock()
	defer s.host.w.mu.Unlock()
	if s.failed {
		return network.ErrReset
	}
	if !s.writeClosed {
		s.writeClosed = true
		s.send("end", nil, func(to *stream) { to.ended = true })
		s.notify()
	}
	return nil
}

// CloseRead implements [network.MuxedStream].
func (s *stream) CloseRead() error {
	s.host.w.mu.Lock()
	defer s.host.w.mu.Unlock()
	s.readClosed, s.received = true, nil
	s.notify()
	return nil
}

// Close implements [network.MuxedStream].
func (s *stream) Close() error {
	err := s.CloseWrite()
	s.CloseRead()
	s.host.w.mu.Lock()
	defer s.host.w.mu.Unlock()
	delete(s.conn.streams[s.conn.end(s.host)], s)
	return err
}

// Reset implements [network.MuxedStream].
func (s *stream) Reset() error {
	s.host.w.mu.Lock()
	defer s.host.w.mu.Unlock()
	if !s.failed {
		s.fail()
		if s.peer != nil {
			s.send("reset", nil, (*stream).fail)
		}
	}
	return nil
}

// ResetWithError implements [network.MuxedStream].
func (s *stream) ResetWithError(network.StreamErrorCode) error { return s.Reset() }

// fail ends one end of a stream. The caller holds w.mu.
func (s *stream) fail() {
	s.failed, s.received = true, nil
	delete(s.conn.streams[s.conn.end(s.host)], s)
	s.notify()
}

func (s *stream) SetDeadline(t time.Time) error {
	s.setDeadlines(&s.readDeadline, &s.writeDeadline, t)
	return nil
}

func (s *stream) SetReadDeadline(t time.Time) error {
	s.setDeadlines(&s.readDeadline, &s.readDeadline, t)
	return nil
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	s.setDeadlines(&s.writeDeadline, &s.writeDeadline, t)
	return nil
}

func (s *stream) setDeadlines(one, two *time.Time, t time.Time) {
	s.host.w.mu.Lock()
	defer s.host.w.mu.Unlock()
	*one, *two = t, t
	s.notify()
}

func (s *stream) Protocol() protocol.ID { return s.protocol }

func (s *stream) SetProtocol(p protocol.ID) error {
	s.protocol = p
	return nil
}

func (s *stream) Stat() network.Stats { return network.Stats{} }

func (s *stream) Scope() network.StreamScope { return &network.NullScope{} }

func (s *stream) Conn() network.Conn { return view{conn: s.conn, host: s.host} }

// view is a connection from the point of view of one end.
type view struct {
	network.Conn // nil: the rest is not simulated
	conn         *conn
	host         *host
}

func (v view) LocalPeer() peer.ID      { return v.host.id }
func (v view) RemotePeer() peer.ID     { return v.conn.other(v.host).id }
func (v view) Stat() network.ConnStats { return network.ConnStats{} }
