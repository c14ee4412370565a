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

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/oplog"
)

var (
	// ErrUnsupported says that a peer does not speak the protocol.
	ErrUnsupported = errors.New("peer ships no entries")
	// ErrNotOpen says that a peer has not opened the database.
	ErrNotOpen = errors.New("database is not open")
)

// Session asks a peer about a database. Its methods must not be called at the
// same time.
type Session struct {
	stream network.Stream
	in     msgio.Reader
	out    msgio.Writer
	ended  func() bool // of the watch over the context
}

// Open begins a session with a connected peer, which ends with the context at the
// latest.
func Open(ctx context.Context, h host.Host, p peer.ID, address string) (*Session, error) {
	// A peer of whom it is known that it does not is not asked.
	known, err := h.Peerstore().GetProtocols(p)
	if err == nil && len(known) > 0 && !slices.Contains(known, Protocol) {
		return nil, ErrUnsupported
	}
	opening, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	stream, err := h.NewStream(network.WithNoDial(opening, "entries go over open connections"), p, Protocol)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	s := &Session{
		stream: stream,
		in:     msgio.NewVarintReaderSize(stream, maxFrame),
		out:    msgio.NewVarintWriter(stream),
		ended:  context.AfterFunc(ctx, func() { stream.Reset() }),
	}
	if err := s.send(request{kind: askOpen, address: address}); err != nil {
		s.Reset()
		return nil, err
	}
	frame, err := s.read(maxAnswer)
	if err == nil {
		_, err = decodeAnswers(frame, nil)
	}
	if err != nil {
		s.Reset()
		return nil, fmt.Errorf("ask for %s: %w", address, err)
	}
	return s, nil
}

// Close ends the session.
func (s *Session) Close() error {
	s.ended()
	return s.stream.Close()
}

// Reset ends the session at once, also in the middle of an answer.
func (s *Session) Reset() {
	s.ended()
	s.stream.Reset()
}

func (s *Session) send(q request) error {
	if err := s.stream.SetWriteDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	return s.out.WriteMsg(q.encode())
}

func (s *Session) read(most int) ([]byte, error) {
	if err := s.stream.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, err
	}
	n, err := s.in.NextMsgLen()
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, fmt.Errorf("%w: an answer of %d bytes", ErrProtocol, n)
	}
	return s.in.ReadMsg()
}

// ask sends a request and reads its answer, which is in one frame.
func ask[T any](s *Session, q request, decode func([]byte) (T, error)) (answer T, err error) {
	if err := s.send(q); err != nil {
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

// batches sends a request and yields what the batches of its answer have.
func (s *Session) batches(q request) iter.Seq2[[]block.Block, error] {
	return func(yield func([]block.Block, error) bool) {
		if err := s.send(q); err != nil {
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
			if err != nil {
				err = fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			if !yield(bs, err) || err != nil {
				return
			}
		}
	}
}

// Blocks returns those of some blocks, at most 64, that the peer has.
func (s *Session) Blocks(hashes ...string) (found []block.Block, err error) {
	for bs, err := range s.batches(request{kind: askBlocks, hashes: hashes}) {
		if err != nil {
			return found, err
		}
		if found = append(found, bs...); len(found) > len(hashes) {
			return found, fmt.Errorf("%w: more blocks than it was asked for", ErrProtocol)
		}
	}
	return found, nil
}

// Difference is what a peer has of a log and another one lacks, or as much of it
// as one comparison finds, oldest first.
type Difference struct {
	items []item
	Count uint64 // of entries, as the peer says
	Whole bool   // it is all
}

// Ship yields what a difference is of as the peer sends it: identities, and
// entries, parents first. The loop may be left only to end the session.
func (s *Session) Ship(d Difference) iter.Seq2[[]block.Block, error] {
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

// Compare finds what the peer has and a log lacks.
func (s *Session) Compare(ctx context.Context, log *oplog.Log) (Difference, error) {
	c := &comparison{ctx: ctx, session: s, log: log, answers: make(map[oplog.Path]answer), found: Difference{Whole: true}}
	level := []oplog.Path{""}
	spine, err := log.Spine(ctx)
	if err == nil {
		err = c.ask(append(level, spine...))
	}
	for visited := 0; err == nil && len(level) > 0; {
		if visited += len(level); visited > maxVisited {
			c.found.Whole = false
			break
		}
		if err = c.ask(level); err != nil {
			break
		}
		var next []oplog.Path
		for _, p := range level {
			var deeper []oplog.Path
			if deeper, err = c.compare(c.answers[p]); err != nil {
				break
			}
			delete(c.answers, p)
			next = append(next, deeper...)
		}
		level = next
	}
	if err != nil {
		return Difference{}, err
	}
	slices.SortStableFunc(c.wanted, func(a, b wanted) int { return a.in.Compare(b.in) })
	for _, w := range c.wanted {
		c.found.items = append(c.found.items, w.item)
	}
	return c.found, nil
}

// wanted is an item, and the path of the node that it is in.
type wanted struct {
	item
	in oplog.Path
}

type comparison struct {
	ctx     context.Context
	session *Session
	log     *oplog.Log
	answers map[oplog.Path]answer // that came and were not compared yet
	wanted  []wanted
	named   int // hashes that were looked at
	found   Difference
}

// ask asks for nodes, unless they were asked for.
func (c *comparison) ask(paths []oplog.Path) error {
	paths = slices.DeleteFunc(slices.Clone(paths), func(p oplog.Path) bool {
		_, ok := c.answers[p]
		return ok
	})
	for some := range slices.Chunk(paths, maxPaths) {
		answers, err := ask(c.session, request{kind: askNodes, paths: some}, func(frame []byte) ([]answer, error) {
			return decodeAnswers(frame, some)
		})
		if err != nil {
			return err
		}
		for _, a := range answers {
			c.answers[a.Path] = a
		}
	}
	return nil
}

// compare notes what is wanted of a node, and returns the nodes below it that
// are to be compared.
func (c *comparison) compare(theirs answer) (deeper []oplog.Path, err error) {
	ours, err := c.log.Node(c.ctx, theirs.Path)
	if err != nil || theirs.Node == ours {
		return nil, err
	}
	if ours.Count == 0 {
		c.want(wanted{item{path: theirs.Path}, theirs.Path}, theirs.Count)
		return nil, nil
	}
	if len(theirs.children) == 0 {
		return nil, c.compareNames(theirs)
	}
	for _, child := range theirs.children {
		ours, err := c.log.Node(c.ctx, child.Path)
		switch {
		case err != nil:
			return nil, err
		case child == ours:
		case ours.Count == 0:
			c.want(wanted{item{path: child.Path}, child.Path}, child.Count)
		default:
			deeper = append(deeper, child.Path)
		}
	}
	return deeper, nil
}

func (c *comparison) compareNames(theirs answer) error {
	for n := theirs.names; ; {
		if c.named += len(n.hashes); c.named > maxWanted {
			c.found.Whole = false
		}
		for _, hash := range n.hashes {
			ok, err := c.log.Has(c.ctx, block.OfDigest(hash))
			if err != nil {
				return err
			}
			if !ok {
				c.want(wanted{item{hash: &hash}, theirs.Path}, 1)
			}
		}
		if !n.more || !c.found.Whole {
			return nil
		}
		if len(n.hashes) == 0 {
			return fmt.Errorf("%w: more of nothing", ErrProtocol)
		}
		last := block.OfDigest(n.hashes[len(n.hashes)-1])
		var err error
		if n, err = ask(c.session, request{kind: askNames, paths: []oplog.Path{theirs.Path}, hashes: []string{last}}, decodeNames); err != nil {
			return err
		}
	}
}

func (c *comparison) want(w wanted, count uint64) {
	if len(c.wanted) == maxWanted {
		c.found.Whole = false
		return
	}
	c.wanted = append(c.wanted, w)
	c.found.Count += count
}
