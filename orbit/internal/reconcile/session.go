package reconcile

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-msgio"

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

var (
	// ErrUnsupported means that the peer does not speak the protocol.
	ErrUnsupported = errors.New("peer does not speak the reconcile protocol")
	// ErrNotOpen means that the peer has not opened the database.
	ErrNotOpen = errors.New("database is not open")
)

// Session sends requests about one database to a peer. Its methods must not be
// called concurrently.
type Session struct {
	stream network.Stream
	in     msgio.Reader
	out    msgio.Writer
	ended  func() bool // stops watching the context

	// Answered, if not nil, is called after each answer of a comparison.
	Answered func()
}

// MaySpeak reports whether a peer speaks the protocol, or its protocols are not known.
func MaySpeak(h host.Host, p peer.ID) bool { return negotiate.MaySpeak(h, p, Protocol, Earlier) }

// Open begins a session with a connected peer. The session ends with the
// context at the latest.
func Open(ctx context.Context, h host.Host, p peer.ID, address string) (*Session, error) {
	if !MaySpeak(h, p) {
		return nil, ErrUnsupported
	}
	opening, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	stream, err := h.NewStream(network.WithNoDial(opening, "entries go over open connections"), p, Protocol, Earlier)
	if negotiate.Refused(err) {
		return nil, ErrUnsupported
	}
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	timed := timedStream{stream, answerWithin, answerWithin}
	s := &Session{
		stream: stream,
		in:     msgio.NewVarintReaderSize(timed, maxFrame),
		out:    msgio.NewVarintWriter(timed),
		ended:  context.AfterFunc(ctx, func() { stream.Reset() }),
	}
	_, err = ask(s, request{kind: askOpen, address: address}, func(frame []byte) ([]answer, error) { return decodeAnswers(frame, nil) })
	if err != nil {
		s.Reset()
		return nil, fmt.Errorf("ask for %s: %w", address, err)
	}
	return s, nil
}

// timedStream is a stream with a deadline for each read and each write.
type timedStream struct {
	network.Stream
	reading, writing time.Duration
}

func (p timedStream) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(p.reading)); err != nil {
		return 0, err
	}
	return p.Stream.Read(b)
}

func (p timedStream) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(p.writing)); err != nil {
		return 0, err
	}
	return p.Stream.Write(b)
}

// Close ends the session.
func (s *Session) Close() error {
	s.ended()
	return s.stream.Close()
}

// Reset ends the session immediately, even in the middle of an answer. After
// Close, it has no effect on the caller.
func (s *Session) Reset() {
	s.ended()
	s.stream.Reset()
}

func (s *Session) read(limit int) ([]byte, error) {
	n, err := s.in.NextMsgLen()
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%w: answer of %d bytes", ErrProtocol, n)
	}
	return s.in.ReadMsg()
}

// ask sends a request and decodes its answer of one frame.
func ask[T any](s *Session, q request, decode func([]byte) (T, error)) (answer T, err error) {
	if err := s.out.WriteMsg(q.encode()); err != nil {
		return answer, err
	}
	frame, err := s.read(maxAnswer)
	if err != nil {
		return answer, err
	}
	defer s.in.ReleaseMsg(frame)
	answer, err = decode(frame)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return answer, err
}

// hashes yields the hashes of a node without children, page by page.
func (s *Session) hashes(node answer) iter.Seq2[hashList, error] {
	return func(yield func(hashList, error) bool) {
		for page := node.hashList; yield(page, nil) && page.more; {
			if len(page.hashes) == 0 {
				yield(page, fmt.Errorf("%w: more hashes after an empty list", ErrProtocol))
				return
			}
			last := block.OfDigest(page.hashes[len(page.hashes)-1])
			var err error
			page, err = ask(s, request{kind: askHashes, paths: []oplog.Path{node.Path}, hashes: []string{last}}, decodeHashes)
			if err != nil {
				yield(page, err)
				return
			}
		}
	}
}

// batches sends a request and yields the batches of its answer.
func (s *Session) batches(q request) iter.Seq2[[]block.Block, error] {
	return func(yield func([]block.Block, error) bool) {
		if err := s.out.WriteMsg(q.encode()); err != nil {
			yield(nil, err)
			return
		}
		for {
			frame, err := s.read(maxFrame)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(frame) == 0 {
				return
			}
			bs, err := decodeBatch(frame)
			s.in.ReleaseMsg(frame)
			if err == nil && len(bs) == 0 {
				err = errors.New("empty batch")
			}
			if err != nil {
				err = fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			if !yield(bs, err) || err != nil {
				return
			}
		}
	}
}

// Blocks returns those of the requested blocks, at most 64, that the peer has.
func (s *Session) Blocks(hashes ...string) (found []block.Block, err error) {
	for bs, err := range s.batches(request{kind: askBlocks, hashes: hashes}) {
		if err != nil {
			return found, err
		}
		if found = append(found, bs...); len(found) > len(hashes) {
			return found, fmt.Errorf("%w: more blocks than requested", ErrProtocol)
		}
	}
	return found, nil
}

// Difference is all or a part of what a peer has and a log lacks, oldest first.
type Difference struct {
	items []item
	Count uint64 // entries, according to the peer
}

// DifferenceOf returns the entries with the given hashes as a [Difference].
func DifferenceOf(hashes []string) (d Difference, err error) {
	for _, hash := range hashes {
		digest, err := block.Digest(hash)
		if err != nil {
			return d, err
		}
		d.items = append(d.items, item{hash: &digest})
	}
	d.Count = uint64(len(d.items))
	return d, nil
}

// Transfer yields the identities and entries of a difference as the peer sends
// them, parents first. If the loop ends early, the session cannot be used any
// more.
func (s *Session) Transfer(d Difference) iter.Seq2[[]block.Block, error] {
	return func(yield func([]block.Block, error) bool) {
		for items := range slices.Chunk(d.items, maxItems) {
			for bs, err := range s.batches(request{kind: askItems, items: items}) {
				if !yield(bs, err) || err != nil {
					return
				}
			}
		}
	}
}
