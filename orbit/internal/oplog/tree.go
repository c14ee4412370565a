package oplog

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/store"
)

// Path identifies a subtree of the order of a log: the entries whose time, as a
// whole number, begins with the given hex digits. Each byte is one digit. The
// first byte is the number of digits of the time, minus one, so that paths sort
// as times do. The empty path identifies the whole tree.
type Path string

// maxPath is the length of the path of a single time.
const maxPath = 17

// Valid reports whether the tree can have a node at the path.
func (p Path) Valid() bool {
	for i := range len(p) {
		if p[i] > 15 || i == 1 && p[1] == 0 && p[0] > 0 {
			return false
		}
	}
	return len(p) == 0 || len(p) <= 1+int(p[0])
}

// IsLeaf reports whether a node at the path has no children: only one digit of
// the times is left.
func (p Path) IsLeaf() bool { return len(p) > 0 && len(p) == 1+int(p[0]) }

// lowest returns the lowest time in the subtree.
func (p Path) lowest() uint64 {
	if len(p) == 0 {
		return 0
	}
	n := uint64(0)
	for i := range int(p[0]) + 1 {
		switch {
		case 1+i < len(p):
			n = n<<4 | uint64(p[1+i])
		case i == 0 && p[0] > 0:
			n = 1 // a first digit is not 0
		default:
			n <<= 4
		}
	}
	return n
}

// contains reports whether a time is in the subtree.
func (p Path) contains(time uint64) bool {
	path := pathOf(time)
	return len(p) <= len(path) && path[:len(p)] == p
}

// pathOf returns the path of a single time.
func pathOf(time uint64) Path { return Path(store.Digits(time)) }

// Node summarizes a subtree: the number of its entries and the sum of their
// hashes. If the nodes of two replicas are equal, their subtrees contain the
// same entries, unless a writer crafted entries to collide, which is feasible.
// Heads are certain.
type Node struct {
	Path  Path
	Count uint64
	Sum   Sum
}

// Sum is the sum, modulo 2¹²⁸, of the first 16 bytes of hashes as big-endian
// numbers.
type Sum [16]byte

func (s *Sum) add(hash [32]byte) {
	low, carry := bits.Add64(binary.BigEndian.Uint64(s[8:]), binary.BigEndian.Uint64(hash[8:]), 0)
	high, _ := bits.Add64(binary.BigEndian.Uint64(s[:]), binary.BigEndian.Uint64(hash[:]), carry)
	binary.BigEndian.PutUint64(s[8:], low)
	binary.BigEndian.PutUint64(s[:], high)
}

// subtract undoes add.
func (s *Sum) subtract(hash [32]byte) {
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(s[8:]), binary.BigEndian.Uint64(hash[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(s[:]), binary.BigEndian.Uint64(hash[:]), borrow)
	binary.BigEndian.PutUint64(s[8:], low)
	binary.BigEndian.PutUint64(s[:], high)
}

func (l *Log) nodeKey(p Path) string {
	const hex = "0123456789abcdef"
	key := make([]byte, len(p), maxPath)
	for i := range len(p) {
		key[i] = hex[p[i]]
	}
	if len(p) == 0 {
		return l.key("tree/root")
	}
	return l.key("tree/" + string(key))
}

// Node returns the node at a path.
func (l *Log) Node(ctx context.Context, p Path) (Node, error) {
	return l.node(blocks.Reading(ctx, l.store), p)
}

func (l *Log) node(g blocks.Getter, p Path) (Node, error) {
	n := Node{Path: p}
	record, err := g.Get(l.nodeKey(p))
	if errors.Is(err, store.ErrNotFound) {
		return n, nil
	}
	if err != nil {
		return n, err
	}
	if len(record) != 8+len(n.Sum) {
		return n, fmt.Errorf("%w of %s: node %x", ErrDamaged, l.id, string(p))
	}
	n.Count = binary.BigEndian.Uint64(record)
	copy(n.Sum[:], record[8:])
	return n, nil
}

// Children returns the children of a node that are not empty, oldest first. The
// node must not be a leaf.
func (l *Log) Children(ctx context.Context, p Path) ([]Node, error) {
	g := blocks.Reading(ctx, l.store)
	var children []Node
	for digit := range byte(16) {
		child := p + Path([]byte{digit})
		if !child.Valid() {
			continue
		}
		n, err := l.node(g, child)
		if err != nil {
			return nil, err
		}
		if n.Count > 0 {
			children = append(children, n)
		}
	}
	return children, nil
}

// Subtree yields the positions of the entries in a subtree, oldest first. If
// after is not nil, it starts after that position.
func (l *Log) Subtree(ctx context.Context, p Path, after *Ref) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		series := l.key("order")
		refs := readRefs(l.store.AscendFrom(ctx, series, p.lowest(), ""), series)
		if after != nil {
			refs = l.ascend(ctx, after.Position)
		}
		for ref, err := range refs {
			if err == nil && after != nil && ref.Position == after.Position {
				continue
			}
			if err == nil {
				if number, _ := encodePosition(ref.Position); !p.contains(number) {
					return
				}
			}
			if !yield(ref, err) || err != nil {
				return
			}
		}
	}
}

// addToTree adds an authorized entry to all nodes whose subtree contains its
// time.
func (l *Log) addToTree(tx *store.Tx, time uint64, hash string) error {
	return l.changeNodes(tx, time, hash, func(n *Node, digest [32]byte) {
		n.Count++
		n.Sum.add(digest)
	})
}

// removeFromTree undoes addToTree.
func (l *Log) removeFromTree(tx *store.Tx, time uint64, hash string) error {
	return l.changeNodes(tx, time, hash, func(n *Node, digest [32]byte) {
		n.Count--
		n.Sum.subtract(digest)
	})
}

func (l *Log) changeNodes(tx *store.Tx, time uint64, hash string, change func(*Node, [32]byte)) error {
	digest, err := block.Digest(hash)
	if err != nil {
		return err
	}
	path := pathOf(time)
	for i := range path {
		n, err := l.node(tx, path[:i])
		if err != nil {
			return err
		}
		if change(&n, digest); n.Count == 0 {
			err = tx.Delete(l.nodeKey(n.Path))
		} else {
			err = tx.Put(l.nodeKey(n.Path), append(binary.BigEndian.AppendUint64(nil, n.Count), n.Sum[:]...))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// buildTree builds the tree of a log that an earlier version wrote without one.
func (l *Log) buildTree(ctx context.Context) error {
	return l.update(ctx, func(tx *store.Tx, sum *summary) error {
		for old, err := range l.store.Scan(ctx, l.key("tree")) {
			if err != nil {
				return err
			}
			if err := tx.Delete(old.Key); err != nil {
				return err
			}
		}
		for ref, err := range Ascend(ctx, l.store, l.key("order")) {
			if err != nil {
				return err
			}
			time, _ := encodePosition(ref.Position)
			if err := l.addToTree(tx, time, ref.Hash); err != nil {
				return err
			}
		}
		return nil
	})
}

// Compare compares the lowest times of two subtrees. It returns -1, 0 or 1 as
// [cmp.Compare] does.
func (p Path) Compare(q Path) int { return cmp.Compare(p.lowest(), q.lowest()) }

// Spine returns the paths of the nodes from the root, exclusive, to the leaf
// that contains the newest entry.
func (l *Log) Spine(ctx context.Context) ([]Path, error) {
	for ref, err := range l.descend(ctx, nil) {
		if err != nil {
			return nil, err
		}
		time, _ := encodePosition(ref.Position)
		path := pathOf(time)
		var spine []Path
		for n := 1; n < len(path); n++ {
			spine = append(spine, path[:n])
		}
		return spine, nil
	}
	return nil, nil
}
