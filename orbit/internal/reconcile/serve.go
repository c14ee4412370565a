package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-msgio"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Source provides what a server sends.
type Source struct {
	// Log returns the log of the database with an address, and the log of its
	// access database or nil. ok is false if the database is not open.
	Log func(address string) (log, access *oplog.Log, ok bool)
	// Block returns a block. The error is not nil if the block is not here or
	// cannot be read.
	Block func(ctx context.Context, hash string) (block.Block, error)
}

// Serve answers requests on a stream until the peer closes it or a deadline
// expires. The error is nil if the peer closed it.
func Serve(ctx context.Context, s network.Stream, src Source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	timed := timedStream{s, requestWithin, takenWithin}
	v := &server{ctx: ctx, in: msgio.NewVarintReaderSize(timed, maxRequest), out: msgio.NewVarintWriter(timed), source: src}
	if err := v.serve(); err != nil {
		s.Reset()
		return err
	}
	return s.Close()
}

type server struct {
	ctx    context.Context
	in     msgio.Reader
	out    msgio.Writer
	source Source
	log    *oplog.Log
	access *oplog.Log // of the access database, or nil
}

func (v *server) serve() error {
	for {
		q, err := v.request()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = v.answer(q)
		}
		if err != nil {
			return err
		}
	}
}

func (v *server) request() (request, error) {
	frame, err := v.in.ReadMsg()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return request{}, fmt.Errorf("%w: truncated request", ErrProtocol)
	}
	if err != nil {
		return request{}, err
	}
	defer v.in.ReleaseMsg(frame)
	q, err := decodeRequest(frame)
	if err == nil && (q.kind == askOpen) != (v.log == nil) {
		err = errors.New("a session is for one database")
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return q, err
}

func (v *server) answer(q request) error {
	switch q.kind {
	case askOpen:
		var ok bool
		if v.log, v.access, ok = v.source.Log(q.address); !ok {
			return fmt.Errorf("%w: %.80q", ErrNotOpen, q.address)
		}
		return v.out.WriteMsg(encodeAnswers(nil))
	case askBlocks:
		return v.blocks(q.hashes)
	case askNodes:
		return v.nodes(q.paths)
	case askHashes:
		return v.hashes(q.paths[0], q.hashes[0])
	case askState:
		state, err := StateOf(v.ctx, v.log, v.access)
		if err != nil {
			return err
		}
		return v.out.WriteMsg(state.encode())
	default:
		return v.entries(q.items)
	}
}

func (v *server) nodes(paths []oplog.Path) error {
	answers := make([]answer, 0, len(paths))
	for _, p := range paths {
		n, err := v.log.Node(v.ctx, p)
		if err != nil {
			return err
		}
		a := answer{Node: n}
		switch {
		case n.Count == 0:
		case p.IsLeaf() || n.Count <= fewHashes:
			a.hashList, err = v.subtree(p, nil, fewHashes)
		default:
			a.children, err = v.log.Children(v.ctx, p)
		}
		if err != nil {
			return err
		}
		answers = append(answers, a)
	}
	return v.out.WriteMsg(encodeAnswers(answers))
}

func (v *server) hashes(p oplog.Path, after string) error {
	e, err := v.log.Get(v.ctx, after)
	if err != nil {
		return err
	}
	position, err := v.log.Position(v.ctx, e)
	if err != nil {
		return err
	}
	n, err := v.subtree(p, &oplog.Ref{Position: position}, maxHashes)
	if err != nil {
		return err
	}
	return v.out.WriteMsg(n.encode())
}

// subtree returns the first hashes of a subtree after a position.
func (v *server) subtree(p oplog.Path, after *oplog.Ref, limit int) (n hashList, err error) {
	for ref, err := range v.log.Subtree(v.ctx, p, after) {
		if err != nil {
			return n, err
		}
		if n.more = len(n.hashes) == limit; n.more {
			break
		}
		hash, err := block.Digest(ref.Hash)
		if err != nil {
			return n, err
		}
		n.hashes = append(n.hashes, hash)
	}
	return n, nil
}

func (v *server) blocks(hashes []string) error {
	out := &transfer{server: v}
	for _, hash := range hashes {
		b, err := v.source.Block(v.ctx, hash)
		if err != nil {
			continue // the peer asks whether it exists
		}
		if err := out.add(b); err != nil {
			return err
		}
	}
	return out.end()
}

// entries sends entries and subtrees. Damaged entries are left out, because
// another peer may have them.
func (v *server) entries(items []item) error {
	stats, err := v.log.Stats(v.ctx)
	if err != nil {
		return err
	}
	out := v.newTransfer(stats.Unauthorized, maxSent)
	for _, it := range items {
		if it.hash != nil {
			err = out.entry(block.OfDigest(*it.hash))
		} else {
			err = out.subtree(it.path)
		}
		if err != nil {
			return err
		}
		// Entries that arrive during the transfer may be sent, but not all
		// entries several times.
		if out.entries > 2*(stats.Entries+maxItems) {
			return fmt.Errorf("%w: overlapping items", ErrProtocol)
		}
	}
	return out.end()
}

// maxSent is the number of blocks that a transfer remembers. It may send others
// twice.
const maxSent = 1 << 14

// transfer is an answer that consists of batches.
type transfer struct {
	server           *server
	maxSent          int             // capacity of sent
	sent             map[string]bool // identities and unauthorized entries
	unauthorized     uint64          // unauthorized entries in the log
	unauthorizedSent uint64          // including repetitions
	entries          uint64          // authorized entries that were sent
	batch            []byte
	count            int
}

// newTransfer begins a transfer from a log with a number of unauthorized
// entries.
func (v *server) newTransfer(unauthorized uint64, maxSent int) *transfer {
	return &transfer{server: v, maxSent: maxSent, sent: make(map[string]bool), unauthorized: unauthorized}
}

// subtree adds the entries of a subtree. It holds nothing of the log while the
// peer receives them.
func (s *transfer) subtree(p oplog.Path) error {
	v := s.server
	var after *oplog.Ref
	for {
		var refs []oplog.Ref
		for ref, err := range v.log.Subtree(v.ctx, p, after) {
			if err != nil {
				return err
			}
			if refs = append(refs, ref); len(refs) == batchEntries {
				break
			}
		}
		if len(refs) == 0 {
			return nil
		}
		for _, ref := range refs {
			if err := s.entry(ref.Hash); err != nil {
				return err
			}
		}
		after = &refs[len(refs)-1]
	}
}

// entry adds an entry, preceded by what the order does not contain: the
// identity of its writer and its unauthorized ancestors.
func (s *transfer) entry(hash string) error {
	v := s.server
	e, err := v.log.Get(v.ctx, hash)
	if err != nil {
		return v.ctx.Err()
	}
	s.entries++
	if s.unauthorized > 0 {
		if err := s.unauthorizedAncestors(e); err != nil {
			return err
		}
	}
	return s.withIdentity(e)
}

// unauthorizedAncestors adds the unauthorized ancestors of an entry, parents
// first. If there are very many, it adds some. After twice as many entries as
// the log has, it adds no more, and the peer must request those that it misses.
func (s *transfer) unauthorizedAncestors(top *entry.Entry) error {
	v := s.server
	if s.unauthorizedSent >= 2*s.unauthorized {
		return nil
	}
	seen := make(map[string]bool)
	var stack []string
	push := func(e *entry.Entry) (pushed bool, err error) {
		for _, hash := range e.Parents() {
			if seen[hash] || s.sent[hash] || len(seen) >= s.maxSent {
				continue
			}
			reason, err := v.log.Unauthorized(v.ctx, hash)
			if err != nil {
				return pushed, err
			}
			if reason != "" {
				seen[hash] = true
				stack, pushed = append(stack, hash), true
			}
		}
		return pushed, nil
	}
	_, err := push(top)
	for err == nil && len(stack) > 0 {
		hash := stack[len(stack)-1]
		e, getErr := v.log.Get(v.ctx, hash)
		if getErr != nil { // it is damaged
			stack = stack[:len(stack)-1]
			err = v.ctx.Err()
			continue
		}
		var pushed bool
		if pushed, err = push(e); err == nil && !pushed {
			stack = stack[:len(stack)-1]
			s.remember(hash)
			s.unauthorizedSent++
			err = s.withIdentity(e)
		}
	}
	return err
}

// remember records that a block was sent.
func (s *transfer) remember(hash string) {
	if len(s.sent) >= s.maxSent {
		clear(s.sent)
	}
	s.sent[hash] = true
}

func (s *transfer) withIdentity(e *entry.Entry) error {
	if e.Identity != "" && !s.sent[e.Identity] {
		s.remember(e.Identity)
		if b, err := s.server.source.Block(s.server.ctx, e.Identity); err == nil {
			s.batch = append(s.batch, b.Data...)
		}
	}
	return s.add(e.Block)
}

func (s *transfer) add(b block.Block) error {
	if len(s.batch) > 0 && len(s.batch)+len(b.Data) > maxBatch {
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.batch = append(s.batch, b.Data...)
	if s.count++; s.count < batchEntries && len(s.batch) < batchBytes {
		return nil
	}
	return s.flush()
}

func (s *transfer) flush() error {
	if len(s.batch) == 0 {
		return nil
	}
	err := s.server.out.WriteMsg(encodeBatch(s.batch))
	s.batch, s.count = s.batch[:0], 0
	return err
}

func (s *transfer) end() error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.server.out.WriteMsg(nil)
}
