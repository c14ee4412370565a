package inventory

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit/block"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// key returns the key of the i-th database, and state its n-th state.
func key(i int) (k Key) {
	binary.BigEndian.PutUint64(k[:], uint64(i)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(k[24:], uint64(i))
	return k
}

func state(n int) (s State) {
	binary.BigEndian.PutUint64(s[8:], uint64(n))
	return s
}

func keys(from, to int) iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for i := from; i < to && yield(key(i)); i++ {
		}
	}
}

// memory is a catalog in memory.
type memory struct {
	mu     sync.Mutex
	states map[Key]State

	passes  atomic.Int64
	passing atomic.Int64
	slow    func() // if not nil: takes time, in the middle of a pass and after a read
}

func newMemory(ks ...iter.Seq[Key]) *memory {
	m := &memory{states: make(map[Key]State)}
	for _, seq := range ks {
		for k := range seq {
			m.set(k, state(1))
		}
	}
	return m
}

func (m *memory) set(k Key, s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states[k] = s
}

func (m *memory) remove(k Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.states, k)
}

func (m *memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.states)
}

func (m *memory) all() map[Key]State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.states)
}

func (m *memory) Keys() iter.Seq[Key] {
	return func(yield func(Key) bool) {
		m.passes.Add(1)
		m.passing.Add(1)
		defer m.passing.Add(-1)
		all := m.all()
		i := 0
		for k := range all {
			if i == len(all)/2 && m.slow != nil {
				m.slow()
			}
			if i++; !yield(k) {
				return
			}
		}
	}
}

func (m *memory) State(_ context.Context, k Key) State {
	if m.slow != nil {
		defer m.slow()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.states[k]
}

// heard is a handler that remembers what it heard.
type heard struct {
	t testing.TB
	wait.Change

	mu        sync.Mutex
	unordered bool // calls and removals cross
	common    map[Key]State
	entries   []block.Block
	calls     int
	onCommon  func(k Key) // or nil
}

func (m *memory) has(k Key) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.states[k]
	return ok
}

func newHeard(t testing.TB) *heard { return &heard{t: t, common: make(map[Key]State)} }

func (h *heard) Common(k Key, theirs State) {
	h.mu.Lock()
	h.calls++
	if _, ok := h.common[k]; ok && !h.unordered {
		h.t.Errorf("%x becomes common twice", k[:4])
	}
	h.common[k] = theirs
	call := h.onCommon
	h.mu.Unlock()
	if call != nil {
		call(k)
	}
	h.Announce()
}

func (h *heard) Changed(k Key, theirs State, entries []block.Block) {
	h.mu.Lock()
	h.calls++
	if _, ok := h.common[k]; !ok && !h.unordered {
		h.t.Errorf("%x changes and is not common", k[:4])
	}
	h.common[k] = theirs
	h.entries = append(h.entries, entries...)
	h.mu.Unlock()
	h.Announce()
}

func (h *heard) Gone(k Key) {
	h.mu.Lock()
	h.calls++
	if _, ok := h.common[k]; !ok && !h.unordered {
		h.t.Errorf("%x is gone and was not common", k[:4])
	}
	delete(h.common, k)
	h.mu.Unlock()
	h.Announce()
}

// whenCommon lets f be called when a database becomes common.
func (h *heard) whenCommon(f func(k Key)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onCommon = f
}

func (h *heard) removed(k Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.common, k)
}

// count returns the number of calls.
func (h *heard) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls
}

func (h *heard) all() map[Key]State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.common)
}

// until waits for a condition of what was heard.
func (h *heard) until(ctx context.Context, t testing.TB, what string, ok func(map[Key]State) bool) {
	t.Helper()
	for {
		next := h.Next()
		if ok(h.all()) {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			t.Fatalf("not %s: %v", what, ctx.Err())
		}
	}
}

// pipe is a stream in memory that counts the bytes that are written.
type pipe struct {
	net.Conn
	written *atomic.Int64
	delay   func() // before each write
}

func (p pipe) Write(b []byte) (int, error) {
	if p.delay != nil {
		p.delay()
	}
	n, err := p.Conn.Write(b)
	p.written.Add(int64(n))
	return n, err
}

func (p pipe) Reset() error { return p.Close() }

// node is one side of a session.
type node struct {
	*Session
	*memory
	*heard
	written atomic.Int64
	stop    func()

	expectSilence atomic.Bool

	ended chan struct{}
	err   error // after ended
}

const low, high peer.ID = "peer A", "peer B"

// connect runs a session between the owners of two catalogs, until the test
// ends.
func connect(t testing.TB, a, b *memory, delays ...func()) (x, y *node) {
	t.Helper()
	x, y = &node{memory: a, heard: newHeard(t)}, &node{memory: b, heard: newHeard(t)}
	p, q := net.Pipe()
	left, right := pipe{Conn: p, written: &x.written}, pipe{Conn: q, written: &y.written}
	if len(delays) == 2 {
		left.delay, right.delay = delays[0], delays[1]
	}
	x.Session = newSession(left, low, high, Config{a, x.heard, NewPasses(), nil})
	y.Session = newSession(right, high, low, Config{b, y.heard, NewPasses(), nil})
	x.run(t)
	y.run(t)
	return x, y
}

// run runs the session until it is stopped or the test ends.
func (n *node) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	n.stop, n.ended = cancel, make(chan struct{})
	go func() {
		defer close(n.ended)
		n.err = n.Run(ctx)
		if errors.Is(n.err, ErrProtocol) || errors.Is(n.err, ErrSilent) && !n.expectSilence.Load() {
			t.Error(n.err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-n.ended
	})
}

// settle lets time pass in a bubble until nothing is underway.
func settle() {
	time.Sleep(time.Minute)
	synctest.Wait()
}

// add, drop and tell change a catalog and tell the session.
func (n *node) add(k Key, s State) {
	n.memory.set(k, s)
	n.Add(k)
}

func (n *node) drop(k Key) {
	n.memory.remove(k)
	n.Session.Remove(k)
	n.heard.removed(k)
}

func (n *node) tell(k Key, s State, entries ...block.Block) {
	n.memory.set(k, s)
	n.Tell(k, s, entries)
}

// agree checks that both sides know exactly what both have, and its state on
// the other side.
func agree(t testing.TB, a, b *node) {
	t.Helper()
	left, right := a.memory.all(), b.memory.all()
	for _, side := range []struct {
		name       string
		n          *node
		has, other map[Key]State
	}{{"first", a, left, right}, {"second", b, right, left}} {
		want := make(map[Key]State)
		for k, s := range side.other {
			if _, ok := side.has[k]; ok {
				want[k] = s
			}
		}
		if got := side.n.heard.all(); !maps.Equal(got, want) {
			t.Errorf("the %s handler knows %d in common of %d, or other states", side.name, len(got), len(want))
		}
		if got := maps.Collect(side.n.All()); !maps.Equal(got, want) {
			t.Errorf("the %s session knows %d in common of %d, or other states", side.name, len(got), len(want))
		}
		for k := range side.has {
			if got, ok := side.n.Session.Common(k); got != want[k] || ok != (want[k] != State{}) {
				t.Errorf("the %s session says %x, %v of %x", side.name, got, ok, k[:4])
				break
			}
		}
	}
}

// script is a peer that follows the protocol only as far as a test wants. It
// is the one with the higher ID.
type script struct {
	t          testing.TB
	conn       net.Conn
	in         *bufio.Reader
	nonce      nonce
	connection connection // of the peer; ours and theirs are as it sees them
}

// against runs a session with a script as its peer.
func against(t testing.TB, m *memory) (s *Session, h *heard, p *script, ended <-chan error) {
	t.Helper()
	return againstWith(t, Config{m, newHeard(t), NewPasses(), nil})
}

func againstWith(t testing.TB, c Config) (s *Session, h *heard, p *script, ended <-chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	s = newSession(pipe{Conn: ours, written: new(atomic.Int64)}, low, high, c)
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	p = &script{t: t, conn: theirs, in: bufio.NewReader(theirs), nonce: newNonce(nil)}
	t.Cleanup(func() { theirs.Close() })
	h, _ = c.Handler.(*heard)
	return s, h, p, done
}

// begin exchanges the hello of a peer with a size.
func (p *script) begin(magnitude uint64) *script {
	p.t.Helper()
	h, ok := p.next().(hello)
	if !ok {
		p.t.Fatal("no hello")
	}
	p.send(hello{p.nonce, magnitude})
	p.connection = newConnection(side{high, p.nonce}, side{low, h.nonce})
	return p
}

// send reports whether the session may have read the frame.
func (p *script) send(f frame) bool {
	_, err := p.conn.Write(encode(f))
	return err == nil
}

// raw sends bytes as a frame.
func (p *script) raw(b []byte) {
	p.conn.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
}

// next returns the next frame, or nil at the end.
func (p *script) next() frame {
	p.t.Helper()
	n, err := binary.ReadUvarint(p.in)
	if err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(p.in, b); err != nil {
		return nil
	}
	f, err := decode(b)
	must(p.t, err)
	return f
}

// claims reads n claimed tags.
func (p *script) claims(n int) (all claim) {
	p.t.Helper()
	for len(all) < n {
		f, ok := p.next().(claim)
		if !ok {
			p.t.Fatalf("%d claims, want %d", len(all), n)
		}
		all = append(all, f...)
	}
	return all
}
