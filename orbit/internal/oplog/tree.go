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

// Path leads to a part of the order of a log: the entries whose time, a whole
// number, begins with these digits. Each byte is a hex digit. The first one is
// how many digits the time has, less one, so that the paths of larger times
// compare as larger. The empty path leads to all that counts.
type Path string

// maxPath is the length of the path of a single time.
const maxPath = 17

// Valid reports whether there can be more than one time behind the path.
func (p Path) Valid() bool {
	for i := range len(p) {
		if p[i] > 15 || i == 1 && p[1] == 0 && p[0] > 0 {
			return false
		}
	}
	return len(p) == 0 || len(p) <= 1+int(p[0])
}

// Narrow reports whether the next digit of the path would be its last one.
func (p Path) Narrow() bool { return len(p) > 0 && len(p) == 1+int(p[0]) }

// first returns the lowest time behind the path.
func (p Path) first() uint64 {
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

// has reports whether a time is behind the path.
func (p Path) has(time uint64) bool {
	path := pathOf(time)
	return len(p) <= len(path) && path[:len(p)] == p
}

// pathOf returns the path of a single time.
func pathOf(time uint64) Path { return Path(store.Digits(time)) }

// Node is what is known of a part of the order without reading it: how many
// entries it has, and the sum of their hashes. Two replicas whose nodes are equal
// have the same entries there, unless a writer made some up to that end, which is
// possible; heads tell for sure.
type Node struct {
	Path  Path
	Count uint64
	Sum   Sum
}

// Sum is the sum of hashes, of the first 16 bytes of each as a big-endian number,
// modulo 2¹²⁸.
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

// Children returns the nodes one digit further, but for empty ones, oldest first.
// The path must not be narrow.
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

// Behind yields the places of the entries behind a path, in their order. It
// begins behind the place after, if that is not nil.
func (l *Log) Behind(ctx context.Context, p Path, after *Ref) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		series := l.key("order")
		refs := readRefs(l.store.AscendFrom(ctx, series, p.first(), ""), series)
		if after != nil {
			refs = l.ascend(ctx, after.Position)
		}
		for ref, err := range refs {
			if err == nil && after != nil && ref.Position == after.Position {
				continue
			}
			if err == nil {
				if number, _ := place(ref.Position); !p.has(number) {
					return
				}
			}
			if !yield(ref, err) || err != nil {
				return
			}
		}
	}
}

// grow adds an entry that counts, of a time, to the nodes that it is behind.
func (l *Log) grow(tx *store.Tx, time uint64, hash string) error {
	return l.changeNodes(tx, time, hash, func(n *Node, digest [32]byte) {
		n.Count++
		n.Sum.add(digest)
	})
}

// shrink undoes grow.
func (l *Log) shrink(tx *store.Tx, time uint64, hash string) error {
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

// plant makes the tree of a log that was written by who knew of none.
func (l *Log) plant(ctx context.Context) error {
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
			time, _ := place(ref.Position)
			if err := l.grow(tx, time, ref.Hash); err != nil {
				return err
			}
		}
		return nil
	})
}

// Compare returns -1 where the times behind p begin lower than those behind q, 0
// where they begin together, 1 where p's are higher.
func (p Path) Compare(q Path) int { return cmp.Compare(p.first(), q.first()) }

// Spine returns the paths that lead to the newest entry, but for that of all.
func (l *Log) Spine(ctx context.Context) ([]Path, error) {
	for ref, err := range l.descend(ctx, nil) {
		if err != nil {
			return nil, err
		}
		time, _ := place(ref.Position)
		path := pathOf(time)
		var spine []Path
		for n := 1; n < len(path); n++ {
			spine = append(spine, path[:n])
		}
		return spine, nil
	}
	return nil, nil
}
