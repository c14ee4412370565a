package inventory

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/orbit/block"
)

// stream is the part of [network.Stream] that a session uses.
type stream interface {
	io.ReadWriter
	Reset() error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// Session is the exchange with one peer. Its methods may be called
// concurrently. Those that tell something do nothing before [Session.Run] has
// heard of the peer, because the exchange begins with the whole catalog, and
// after Run has ended.
type Session struct {
	config    Config
	stream    stream
	in        *bufio.Reader
	ours      side
	peer      peer.ID
	magnitude uint64        // that the peer is told
	limit     *rate.Limiter // of passes
	toWrite   wait.Flag
	tasks     sync.WaitGroup // writer and walker

	mu         sync.Mutex
	running    bool // the peer has begun, and Run has not ended
	connection connection
	common     databases
	claims     claims
	answers    answers
	changes    changes
	gone       []channel   // to be told
	asks       []channel   // for the states of the peer; to be sent
	asked      []*database // whose states the peer asked for
	walking    bool        // a pass runs or is due
	claimAll   bool        // the next pass claims the whole catalog
	removals   map[Key]removal

	// When the peer must have sent the rest of a frame, its hello or an answer to
	// claims, and a confirmation.
	frameDue, answerDue, confirmDue time.Time
}

// MaySpeak reports whether a peer speaks the protocol, or its protocols are not
// known.
func MaySpeak(h host.Host, p peer.ID) bool { return negotiate.MaySpeak(h, p, Protocol) }

// Open begins a session with a connected peer. The caller must call
// [Session.Run].
func Open(ctx context.Context, h host.Host, p peer.ID, c Config) (*Session, error) {
	if !MaySpeak(h, p) {
		return nil, ErrUnsupported
	}
	opening, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	s, err := h.NewStream(network.WithNoDial(opening, "the exchange goes over open connections"), p, Protocol)
	if negotiate.Refused(err) {
		return nil, ErrUnsupported
	}
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return Accept(s, c), nil
}

// Accept begins a session on a stream that a peer opened. The caller must call
// [Session.Run].
func Accept(s network.Stream, c Config) *Session {
	return newSession(s, s.Conn().LocalPeer(), s.Conn().RemotePeer(), c)
}

func newSession(s stream, local, remote peer.ID, c Config) *Session {
	return &Session{
		config:  c,
		stream:  s,
		in:      bufio.NewReaderSize(s, 4<<10),
		ours:    side{local, newNonce(c.Rand)},
		peer:    remote,
		limit:   rate.NewLimiter(rate.Every(passEvery), firstPasses),
		toWrite: wait.NewFlag(),
	}
}

// Run exchanges frames until the stream or the context ends. The error is nil
// if the peer closed the stream.
func (s *Session) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(ctx, func() { s.stream.Reset() })()
	s.magnitude = uint64(bits.Len(uint(s.config.Catalog.Len())))
	s.locked(func() { s.expectAnswer(true) })
	s.tasks.Go(func() { cancel(s.write(ctx)) })
	cancel(s.read(ctx))
	s.end()
	s.tasks.Wait()
	s.stream.Reset()
	err := context.Cause(ctx)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case negotiate.Refused(err):
		return ErrUnsupported
	default:
		return err
	}
}

// end makes the session ignore further calls.
func (s *Session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = false
	s.changes = changes{}
}

// Add tells that databases are replicated here from now on.
func (s *Session) Add(keys ...Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return
	}
	for _, k := range keys {
		s.back(k)
		if s.common.byKey[k] == nil {
			s.claims.keys = append(s.claims.keys, k)
		}
	}
	s.toWrite.Set()
}

// Remove tells that a database is not replicated here any more.
func (s *Session) Remove(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return
	}
	s.leave(k)
	if d := s.common.byKey[k]; d != nil {
		s.gone = append(s.gone, d.channels()...)
		s.common.drop(d)
		s.changes.forget(d)
		s.toWrite.Set()
	}
}

// Tell tells the state of a database that both have, and some of the entries
// that are new in it. It never blocks. If the peer is slow, it hears the last
// state alone. Tell does nothing if the database is not common: when it becomes
// so, the peer hears its state.
func (s *Session) Tell(k Key, ours State, entries []block.Block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.common.byKey[k]; d != nil && s.running {
		s.changes.add(d, ours, entries)
		s.toWrite.Set()
	}
}

// Ask asks the peer for the state of a database that both have. The peer tells
// it even if it did not change.
func (s *Session) Ask(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.common.byKey[k]; d != nil && s.running && !d.asking {
		d.asking = true
		s.asks = append(s.asks, d.channels()[0])
		s.toWrite.Set()
	}
}

// Common returns the last state that the peer told of a database.
func (s *Session) Common(k Key) (theirs State, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.common.byKey[k]
	if d == nil || !d.known {
		return State{}, false
	}
	return d.theirs, true
}

// Tells reports whether [Session.Tell] tells the peer the state of a database:
// both have it, though the peer may not have told its own state yet.
func (s *Session) Tells(k Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running && s.common.byKey[k] != nil
}

// All yields the databases that both have, as they were when the loop began,
// and their states on the other side.
func (s *Session) All() iter.Seq2[Key, State] {
	return func(yield func(Key, State) bool) {
		for _, d := range s.known() {
			if !yield(d.key, d.theirs) {
				return
			}
		}
	}
}

func (s *Session) known() (all []database) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all = make([]database, 0, len(s.common.byKey))
	for _, d := range s.common.byKey {
		if d.known {
			all = append(all, *d)
		}
	}
	return all
}

func (s *Session) read(ctx context.Context) error {
	for {
		b, err := s.readFrame()
		if err != nil {
			return silent(err)
		}
		f, err := decode(b)
		if err == nil && f != nil {
			err = s.receive(ctx, f)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
	}
}

// readFrame waits for a frame. The error is [io.EOF] if the peer closed the
// stream between two frames.
func (s *Session) readFrame() ([]byte, error) {
	if _, err := s.in.Peek(1); err != nil {
		return nil, err
	}
	s.expectFrame(true)
	defer s.expectFrame(false)
	b, err := s.readBegun()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// readBegun reads a frame: its length as a varint, and that many bytes.
func (s *Session) readBegun() ([]byte, error) {
	n, err := binary.ReadUvarint(&shortVarint{s.in, maxVarint})
	if err == nil && n > maxFrame {
		err = errLong
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(s.in, b)
	return b, err
}

// maxVarint is the length of the varint of maxFrame.
const maxVarint = 3

var errLong = fmt.Errorf("%w: a frame of more than %d bytes", ErrProtocol, maxFrame)

// shortVarint reads a few bytes.
type shortVarint struct {
	in   io.ByteReader
	left int
}

func (v *shortVarint) ReadByte() (byte, error) {
	if v.left--; v.left < 0 {
		return 0, errLong
	}
	return v.in.ReadByte()
}

// expectFrame sets the time within which the rest of a frame must arrive.
func (s *Session) expectFrame(begun bool) {
	s.locked(func() { s.expect(&s.frameDue, frameWithin, begun, true) })
}

// silent returns [ErrSilent] for an error that means that a deadline expired.
func silent(err error) error {
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return ErrSilent
	}
	return err
}

// expectAnswer sets the time within which the peer must answer claims, or begin.
// progress means that it just did so. s.mu is held.
func (s *Session) expectAnswer(progress bool) {
	s.expect(&s.answerDue, answerWithin, !s.running || s.claims.unanswered() > 0, progress)
}

// expectStates sets the time within which the peer must confirm matches.
// progress means that it just did so. s.mu is held.
func (s *Session) expectStates(progress bool) {
	s.expect(&s.confirmDue, answerWithin, len(s.answers.unconfirmed) > 0, progress)
}

// expect sets a deadline if the peer owes something, and moves it after
// progress. An expired deadline is an error of the next read. s.mu is held.
func (s *Session) expect(due *time.Time, within time.Duration, owes, progress bool) {
	switch {
	case !owes:
		*due = time.Time{}
	case progress || due.IsZero():
		*due = time.Now().Add(within)
	}
	var first time.Time
	for _, t := range []time.Time{s.frameDue, s.answerDue, s.confirmDue} {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	s.stream.SetReadDeadline(first)
}

func (s *Session) locked(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}
