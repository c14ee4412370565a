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

// ErrProtocol means that a peer sent something that the protocol does not
// allow.
var ErrProtocol = errors.New("peer violates the protocol")

// digest is the SHA-256 of a block.
type digest = [32]byte

// kind is the kind of a request.
type kind uint64

const (
	askOpen kind = iota
	askBlocks
	askNodes
	askHashes
	askItems
	askState
)

// request is a request of a client. Its kind determines the fields in use.
type request struct {
	kind    kind
	address string       // of askOpen
	hashes  []string     // of askBlocks; for askHashes, the one to continue after
	paths   []oplog.Path // of askNodes; for askHashes, the only one
	items   []item       // of askItems
}

// item is a hash or, if that is nil, a path.
type item struct {
	path oplog.Path
	hash *digest
}

func (q request) encode() []byte {
	parts := 2
	switch q.kind {
	case askHashes:
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
	case askHashes:
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
		err = readList(r, maxBlocks, func() error { return q.readHash(r) })
	case askNodes:
		err = readList(r, maxPaths, func() error { return q.readPath(r) })
	case askHashes:
		want = 3
		if err = q.readPath(r); err == nil {
			err = q.readHash(r)
		}
	case askItems:
		err = readList(r, maxItems, func() error { return q.readItem(r) })
	case askState:
		want = 1
	default:
		err = fmt.Errorf("unknown request %d", n)
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
		err = fmt.Errorf("%.80q is not a hash", hash)
	}
	q.hashes = append(q.hashes, hash)
	return err
}

func (q *request) readPath(r *dagcbor.Reader) error {
	b, err := r.Bytes()
	if err == nil && !oplog.Path(b).Valid() {
		err = fmt.Errorf("%.40x is not a path", b)
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
		return fmt.Errorf("%.80x is not an item", b)
	}
	q.items = append(q.items, item{path: oplog.Path(b)})
	return nil
}

// answer describes a node.
type answer struct {
	oplog.Node
	children []oplog.Node // or hashes
	hashList              // of its entries
}

// hashList contains hashes of entries, in the order of the log.
type hashList struct {
	hashes []digest
	more   bool // there are more
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
		b = a.hashList.appendTo(b)
	}
	return b
}

func appendCount(b []byte, n oplog.Node) []byte {
	return dagcbor.AppendBytes(dagcbor.AppendUint(b, n.Count), n.Sum[:])
}

func (n hashList) appendTo(b []byte) []byte {
	all := make([]byte, 0, len(n.hashes)*len(digest{}))
	for _, hash := range n.hashes {
		all = append(all, hash[:]...)
	}
	return dagcbor.AppendBool(dagcbor.AppendBytes(b, all), n.more)
}

func (n hashList) encode() []byte { return n.appendTo(dagcbor.AppendArray(nil, 2)) }

// decodeAnswers decodes the answers for nodes at paths.
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
			return fmt.Errorf("%d is not a child of %x", digit, string(p))
		}
		last = int(digit)
		c, err := readCount(r, child)
		a.children = append(a.children, c)
		return err
	})
	if err != nil {
		return a, err
	}
	a.hashList, err = readHashes(r)
	return a, err
}

func readCount(r *dagcbor.Reader, p oplog.Path) (n oplog.Node, err error) {
	n.Path = p
	if n.Count, err = r.Uint(); err != nil {
		return n, err
	}
	sum, err := r.Bytes()
	if err == nil && len(sum) != len(n.Sum) {
		err = fmt.Errorf("sum of %d bytes", len(sum))
	}
	copy(n.Sum[:], sum)
	return n, err
}

func readHashes(r *dagcbor.Reader) (n hashList, err error) {
	all, err := r.Bytes()
	if err != nil {
		return n, err
	}
	if len(all)%len(digest{}) != 0 || len(all) > maxHashes*len(digest{}) {
		return n, fmt.Errorf("hashes of %d bytes", len(all))
	}
	for ; len(all) > 0; all = all[len(digest{}):] {
		n.hashes = append(n.hashes, digest(all[:len(digest{})]))
	}
	n.more, err = r.Bool()
	return n, err
}

func decodeHashes(frame []byte) (n hashList, err error) {
	r := dagcbor.NewReader(frame)
	if err := r.Tuple(2); err != nil {
		return n, err
	}
	if n, err = readHashes(r); err != nil {
		return n, err
	}
	return n, r.End()
}

func readList(r *dagcbor.Reader, limit int, read func() error) error {
	n, err := r.Array()
	if err == nil && n > limit {
		err = fmt.Errorf("%d items, at most %d", n, limit)
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

// encodeBatch compresses concatenated blocks.
func encodeBatch(blocks []byte) []byte { return encoder().EncodeAll(blocks, nil) }

func decodeBatch(frame []byte) ([]block.Block, error) {
	data, err := decoder().DecodeAll(frame, nil)
	if err != nil {
		return nil, err
	}
	return entry.Split(data, batchBlocks)
}
