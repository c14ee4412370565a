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

// Source is what is served.
type Source struct {
	// Log returns the log of the database with an address, and that of its access
	// database or nil, if the database is open.
	Log func(address string) (log, access *oplog.Log, ok bool)
	// Block returns a block that is here. Its error is that there is none, or
	// why it cannot be read.
	Block func(ctx context.Context, hash string) (block.Block, error)
}

// Serve answers the requests that come by a stream until the peer ends it, which
// is no error, or a deadline is over.
func Serve(ctx context.Context, s network.Stream, src Source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	timed := patient{s, requestWithin, takenWithin}
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
		return request{}, fmt.Errorf("%w: half a request", ErrProtocol)
	}
	if err != nil {
		return request{}, err
	}
	defer v.in.ReleaseMsg(frame)
	q, err := decodeRequest(frame)
	if err == nil && (q.kind == askOpen) != (v.log == nil) {
		err = errors.New("requests are about one database")
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
	case askNames:
		return v.names(q.paths[0], q.hashes[0])
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
		case p.Narrow() || n.Count <= fewNames:
			a.names, err = v.behind(p, nil, fewNames)
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

func (v *server) names(p oplog.Path, after string) error {
	e, err := v.log.Get(v.ctx, after)
	if err != nil {
		return err
	}
	position, err := v.log.Position(v.ctx, e)
	if err != nil {
		return err
	}
	n, err := v.behind(p, &oplog.Ref{Position: position}, maxNames)
	if err != nil {
		return err
	}
	return v.out.WriteMsg(n.encode())
}

// behind returns the hashes behind a path and a place, so many at most.
func (v *server) behind(p oplog.Path, after *oplog.Ref, most int) (n names, err error) {
	for ref, err := range v.log.Behind(v.ctx, p, after) {
		if err != nil {
			return n, err
		}
		if n.more = len(n.hashes) == most; n.more {
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
	out := &shipment{server: v}
	for _, hash := range hashes {
		b, err := v.source.Block(v.ctx, hash)
		if err != nil {
			continue // it is the peer's question whether there is one
		}
		if err := out.add(b); err != nil {
			return err
		}
	}
	return out.end()
}

// entries sends what items stand for. What is damaged here is left out: somebody
// else may have it.
func (v *server) entries(items []item) error {
	stats, err := v.log.Stats(v.ctx)
	if err != nil {
		return err
	}
	out := v.ship(stats.Faults, maxSent)
	for _, it := range items {
		if it.hash != nil {
			err = out.entry(block.OfDigest(*it.hash))
		} else {
			err = out.behind(it.path)
		}
		if err != nil {
			return err
		}
		// What comes meanwhile may be sent; all of it several times is not asked for.
		if out.total > 2*(stats.Entries+maxItems) {
			return fmt.Errorf("%w: items that overlap", ErrProtocol)
		}
	}
	return out.end()
}

// maxSent is how many blocks a shipment remembers: beyond, it may send one twice.
const maxSent = 1 << 14

// shipment is the answer that is made of batches.
type shipment struct {
	server *server
	memory int             // blocks that are remembered
	sent   map[string]bool // those: identities, and entries that do not count
	faults uint64          // entries of the log that do not count
	under  uint64          // times that one of them was sent
	total  uint64          // entries that count
	batch  []byte
	count  int
}

// ship begins a shipment from a log with so many entries that do not count.
func (v *server) ship(faults uint64, memory int) *shipment {
	return &shipment{server: v, memory: memory, sent: make(map[string]bool), faults: faults}
}

// behind adds the entries behind a path. Nothing is kept of the log while the peer
// takes them.
func (s *shipment) behind(p oplog.Path) error {
	v := s.server
	var after *oplog.Ref
	for {
		var refs []oplog.Ref
		for ref, err := range v.log.Behind(v.ctx, p, after) {
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

// entry adds an entry, and before it what the peer may lack that is in no order:
// its writer's identity, and the entries that do not count which it names.
func (s *shipment) entry(hash string) error {
	v := s.server
	e, err := v.log.Get(v.ctx, hash)
	if err != nil {
		return v.ctx.Err()
	}
	s.total++
	if s.faults > 0 {
		if err := s.below(e); err != nil {
			return err
		}
	}
	return s.whole(e)
}

// below adds the entries that do not count below an entry, the lowest first: of
// very many, those that it comes to. Once it has sent twice as many as there are, it
// adds no more: the peer asks for what is missing.
func (s *shipment) below(top *entry.Entry) error {
	v := s.server
	if s.under >= 2*s.faults {
		return nil
	}
	seen := make(map[string]bool)
	var stack []string
	push := func(e *entry.Entry) (pushed bool, err error) {
		for _, hash := range e.Parents() {
			if seen[hash] || s.sent[hash] || len(seen) >= s.memory {
				continue
			}
			fault, err := v.log.Fault(v.ctx, hash)
			if err != nil {
				return pushed, err
			}
			if fault != "" {
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
			s.note(hash)
			s.under++
			err = s.whole(e)
		}
	}
	return err
}

// note remembers that a block was sent.
func (s *shipment) note(hash string) {
	if len(s.sent) >= s.memory {
		clear(s.sent)
	}
	s.sent[hash] = true
}

func (s *shipment) whole(e *entry.Entry) error {
	if e.Identity != "" && !s.sent[e.Identity] {
		s.note(e.Identity)
		if b, err := s.server.source.Block(s.server.ctx, e.Identity); err == nil {
			s.batch = append(s.batch, b.Data...)
		}
	}
	return s.add(e.Block)
}

func (s *shipment) add(b block.Block) error {
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

func (s *shipment) flush() error {
	if len(s.batch) == 0 {
		return nil
	}
	err := s.server.out.WriteMsg(encodeBatch(s.batch))
	s.batch, s.count = s.batch[:0], 0
	return err
}

func (s *shipment) end() error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.server.out.WriteMsg(nil)
}
