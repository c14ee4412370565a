package reconcile

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// ErrProtocol says that what a peer sent is not of the protocol.
var ErrProtocol = errors.New("peer breaks the protocol")

// digest is the SHA-256 of a block.
type digest = [32]byte

// kind is what a request asks for.
type kind uint64

const (
	askOpen kind = iota
	askBlocks
	askNodes
	askNames
	askItems
	askState
)

// request is what a client asks for; which fields it has depends on its kind.
type request struct {
	kind    kind
	address string       // of askOpen
	hashes  []string     // of askBlocks; of askNames the one to go on behind
	paths   []oplog.Path // of askNodes; of askNames the only one
	items   []item       // of askItems
}

// item is a hash or, where that is nil, a path.
type item struct {
	path oplog.Path
	hash *digest
}

func (q request) encode() []byte {
	parts := 2
	switch q.kind {
	case askNames:
		parts = 3
	case askState:
		parts = 1
	}
	b := dagcbor.AppendArray(nil, parts)
	b = dagcbor.AppendUint(b, uint64(q.kind))
	switch q.kind {
	case askOpen:
		b = dagcbor.AppendText(b, q.address)
	case askBlocks:
		b = dagcbor.AppendArray(b, len(q.hashes))
		for _, hash := range q.hashes {
			b = dagcbor.AppendText(b, hash)
		}
	case askNodes:
		b = dagcbor.AppendArray(b, len(q.paths))
		for _, p := range q.paths {
			b = dagcbor.AppendBytes(b, []byte(p))
		}
	case askNames:
		b = dagcbor.AppendBytes(b, []byte(q.paths[0]))
		b = dagcbor.AppendText(b, q.hashes[0])
	case askItems:
		b = dagcbor.AppendArray(b, len(q.items))
		for _, it := range q.items {
			if it.hash != nil {
				b = dagcbor.AppendBytes(b, it.hash[:])
			} else {
				b = dagcbor.AppendBytes(b, []byte(it.path))
			}
		}
	}
	return b
}

func decodeRequest(frame []byte) (q request, err error) {
	r := dagcbor.NewReader(frame)
	parts, err := r.Array()
	if err != nil {
		return q, err
	}
	n, err := r.Uint()
	if err != nil {
		return q, err
	}
	q.kind = kind(n)
	want := 2
	switch q.kind {
	case askOpen:
		q.address, err = r.Text()
	case askBlocks:
		err = readList(r, maxHashes, func() error { return q.readHash(r) })
	case askNodes:
		err = readList(r, maxPaths, func() error { return q.readPath(r) })
	case askNames:
		want = 3
		if err = q.readPath(r); err == nil {
			err = q.readHash(r)
		}
	case askItems:
		err = readList(r, maxItems, func() error { return q.readItem(r) })
	case askState:
		want = 1
	default:
		err = fmt.Errorf("%d is no request", n)
	}
	if err == nil && parts != want {
		err = fmt.Errorf("%d parts, want %d", parts, want)
	}
	if err != nil {
		return q, err
	}
	return q, r.End()
}

func (q *request) readHash(r *dagcbor.Reader) error {
	hash, err := r.Text()
	if err == nil && !block.ValidHash(hash) {
		err = fmt.Errorf("%.80q is no hash", hash)
	}
	q.hashes = append(q.hashes, hash)
	return err
}

func (q *request) readPath(r *dagcbor.Reader) error {
	b, err := r.Bytes()
	if err == nil && !oplog.Path(b).Valid() {
		err = fmt.Errorf("%.40x is no path", b)
	}
	q.paths = append(q.paths, oplog.Path(b))
	return err
}

func (q *request) readItem(r *dagcbor.Reader) error {
	b, err := r.Bytes()
	if err != nil {
		return err
	}
	if len(b) == len(digest{}) {
		hash := digest(b)
		q.items = append(q.items, item{hash: &hash})
		return nil
	}
	if !oplog.Path(b).Valid() {
		return fmt.Errorf("%.80x is no item", b)
	}
	q.items = append(q.items, item{path: oplog.Path(b)})
	return nil
}

// answer is what is said of a node.
type answer struct {
	oplog.Node
	children []oplog.Node // or
	names                 // of its entries
}

// names are hashes of entries, in their order.
type names struct {
	hashes []digest
	more   bool // there are further ones
}

func encodeAnswers(answers []answer) []byte {
	b := dagcbor.AppendArray(nil, len(answers))
	for _, a := range answers {
		b = dagcbor.AppendArray(b, 5)
		b = appendCount(b, a.Node)
		b = dagcbor.AppendArray(b, len(a.children))
		for _, c := range a.children {
			b = dagcbor.AppendArray(b, 3)
			b = dagcbor.AppendUint(b, uint64(c.Path[len(c.Path)-1]))
			b = appendCount(b, c)
		}
		b = a.names.appendTo(b)
	}
	return b
}

func appendCount(b []byte, n oplog.Node) []byte {
	return dagcbor.AppendBytes(dagcbor.AppendUint(b, n.Count), n.Sum[:])
}

func (n names) appendTo(b []byte) []byte {
	all := make([]byte, 0, len(n.hashes)*len(digest{}))
	for _, hash := range n.hashes {
		all = append(all, hash[:]...)
	}
	return dagcbor.AppendBool(dagcbor.AppendBytes(b, all), n.more)
}

func (n names) encode() []byte { return n.appendTo(dagcbor.AppendArray(nil, 2)) }

// decodeAnswers reads what is said of nodes at these paths.
func decodeAnswers(frame []byte, paths []oplog.Path) ([]answer, error) {
	r := dagcbor.NewReader(frame)
	var answers []answer
	err := readList(r, len(paths), func() error {
		a, err := readAnswer(r, paths[len(answers)])
		answers = append(answers, a)
		return err
	})
	if err == nil && len(answers) < len(paths) {
		err = fmt.Errorf("%d nodes, want %d", len(answers), len(paths))
	}
	if err != nil {
		return nil, err
	}
	return answers, r.End()
}

func readAnswer(r *dagcbor.Reader, p oplog.Path) (a answer, err error) {
	if err := r.Tuple(5); err != nil {
		return a, err
	}
	if a.Node, err = readCount(r, p); err != nil {
		return a, err
	}
	last := -1
	err = readList(r, 16, func() error {
		if err := r.Tuple(3); err != nil {
			return err
		}
		digit, err := r.Uint()
		if err != nil {
			return err
		}
		child := p + oplog.Path([]byte{byte(min(digit, 16))})
		if int(min(digit, 16)) <= last || !child.Valid() {
			return fmt.Errorf("%d is no child of %x", digit, string(p))
		}
		last = int(digit)
		c, err := readCount(r, child)
		a.children = append(a.children, c)
		return err
	})
	if err != nil {
		return a, err
	}
	a.names, err = readNames(r)
	return a, err
}

func readCount(r *dagcbor.Reader, p oplog.Path) (n oplog.Node, err error) {
	n.Path = p
	if n.Count, err = r.Uint(); err != nil {
		return n, err
	}
	sum, err := r.Bytes()
	if err == nil && len(sum) != len(n.Sum) {
		err = fmt.Errorf("a sum of %d bytes", len(sum))
	}
	copy(n.Sum[:], sum)
	return n, err
}

func readNames(r *dagcbor.Reader) (n names, err error) {
	all, err := r.Bytes()
	if err != nil {
		return n, err
	}
	if len(all)%len(digest{}) != 0 || len(all) > maxNames*len(digest{}) {
		return n, fmt.Errorf("hashes of %d bytes", len(all))
	}
	for ; len(all) > 0; all = all[len(digest{}):] {
		n.hashes = append(n.hashes, digest(all[:len(digest{})]))
	}
	n.more, err = r.Bool()
	return n, err
}

func decodeNames(frame []byte) (n names, err error) {
	r := dagcbor.NewReader(frame)
	if err := r.Tuple(2); err != nil {
		return n, err
	}
	if n, err = readNames(r); err != nil {
		return n, err
	}
	return n, r.End()
}

func readList(r *dagcbor.Reader, most int, read func() error) error {
	n, err := r.Array()
	if err == nil && n > most {
		err = fmt.Errorf("%d items, at most %d", n, most)
	}
	for i := 0; err == nil && i < n; i++ {
		err = read()
	}
	return err
}

var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(fmt.Sprintf("reconcile: %v", err)) // the options are valid
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxBatch), zstd.WithDecoderLowmem(true))
		if err != nil {
			panic(fmt.Sprintf("reconcile: %v", err)) // the options are valid
		}
		return d
	})
)

// encodeBatch returns blocks, one after the other and compressed.
func encodeBatch(blocks []byte) []byte { return encoder().EncodeAll(blocks, nil) }

func decodeBatch(frame []byte) ([]block.Block, error) {
	data, err := decoder().DecodeAll(frame, nil)
	if err != nil {
		return nil, err
	}
	return entry.Split(data, batchBlocks)
}
