package reconcile

import (
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// ErrFruitless means that a peer's tree differs almost everywhere, but a long
// search found no entry that the log lacks.
var ErrFruitless = errors.New("no difference found within the bound")

// Compare yields what the peer has and the log lacks, in parts, the oldest
// first. It descends from the root of the tree to the nodes that differ. Parts
// may be transferred before the next one is compared.
func (s *Session) Compare(ctx context.Context, log *oplog.Log) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		c, err := newComparison(ctx, s, log, maxWanted)
		if err != nil {
			yield(Difference{}, err)
			return
		}
		c.parts()(yield)
	}
}

// comparison is a walk through the peer's tree, oldest first.
type comparison struct {
	ctx          context.Context
	session      *Session
	log          *oplog.Log
	partSize     int                   // items; one node may exceed it
	unauthorized bool                  // the log has unauthorized entries
	answers      map[oplog.Path]answer // received and not compared yet
	todo         []oplog.Path          // nodes to compare, the oldest first
	wanted       []wanted              // found and not taken
	fruitless    int                   // nodes that were compared since something was found
}

// wanted is an item, the path of the node that contains it, and its number of
// entries.
type wanted struct {
	item
	in    oplog.Path
	count uint64
}

// newComparison requests the root and the nodes above the newest entry of the
// log, where most differences are.
func newComparison(ctx context.Context, s *Session, log *oplog.Log, partSize int) (*comparison, error) {
	c := &comparison{ctx: ctx, session: s, log: log, partSize: partSize, answers: make(map[oplog.Path]answer)}
	stats, err := log.Stats(ctx)
	if err != nil {
		return nil, err
	}
	c.unauthorized = stats.Unauthorized > 0
	spine, err := log.Spine(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.ask(append([]oplog.Path{""}, spine...)); err != nil {
		return nil, err
	}
	c.todo, err = c.compareNode(c.answers[""].Node, nil)
	return c, err
}

func (c *comparison) parts() iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		for len(c.todo)+len(c.wanted) > 0 {
			for len(c.todo) > 0 && len(c.wanted) < c.partSize {
				if err := c.step(); err != nil {
					yield(Difference{}, err)
					return
				}
			}
			if d := c.take(); len(d.items) > 0 && !yield(d, nil) {
				return
			}
		}
	}
}

// take removes and returns the items that can no longer be preceded by older
// ones.
func (c *comparison) take() (d Difference) {
	slices.SortStableFunc(c.wanted, func(a, b wanted) int { return a.in.Compare(b.in) })
	n := len(c.wanted)
	if len(c.todo) > 0 {
		n = slices.IndexFunc(c.wanted, func(w wanted) bool { return w.in.Compare(c.todo[0]) >= 0 })
		if n <= 0 { // part is full
			n = len(c.wanted)
		}
	}
	for _, w := range c.wanted[:n] {
		d.items = append(d.items, w.item)
		d.Count += w.count
	}
	c.wanted = slices.Delete(c.wanted, 0, n)
	return d
}

// step compares the next few nodes.
func (c *comparison) step() error {
	some := slices.Clone(c.todo[:min(len(c.todo), maxPaths)])
	if err := c.ask(some); err != nil {
		return err
	}
	before := len(c.wanted)
	var deeper []oplog.Path
	for i, p := range some {
		if i > 0 && len(c.wanted) >= c.partSize { // the others are requested again
			for _, p := range some[i:] {
				delete(c.answers, p)
			}
			some = some[:i]
			break
		}
		found, err := c.compareAnswer(c.answers[p])
		if err != nil {
			return err
		}
		delete(c.answers, p)
		deeper = append(deeper, found...)
	}
	c.todo = append(deeper, c.todo[len(some):]...)
	if c.fruitless += len(some); len(c.wanted) > before {
		c.fruitless = 0
	}
	if c.fruitless > maxFruitless {
		return ErrFruitless
	}
	return nil
}

// ask requests nodes that were not requested before.
func (c *comparison) ask(paths []oplog.Path) error {
	paths = slices.DeleteFunc(slices.Clone(paths), func(p oplog.Path) bool {
		_, ok := c.answers[p]
		return ok
	})
	if len(paths) == 0 {
		return nil
	}
	answers, err := ask(c.session, request{kind: askNodes, paths: paths}, func(frame []byte) ([]answer, error) {
		return decodeAnswers(frame, paths)
	})
	for _, a := range answers {
		c.answers[a.Path] = a
	}
	if err == nil && c.session.Answered != nil {
		c.session.Answered()
	}
	return err
}

// compareAnswer adds the wanted items of a node that differs, and returns the
// children to compare.
func (c *comparison) compareAnswer(theirs answer) (deeper []oplog.Path, err error) {
	if len(theirs.children) == 0 {
		return nil, c.compareHashes(theirs)
	}
	for _, child := range theirs.children {
		deeper, err = c.compareNode(child, deeper)
		if err != nil {
			return nil, err
		}
	}
	return deeper, nil
}

// compareNode compares a node of the peer. It adds the path to todo if the
// nodes differ. If the log has no authorized entry in the subtree and no
// unauthorized entries at all, all of the subtree is wanted.
func (c *comparison) compareNode(theirs oplog.Node, todo []oplog.Path) ([]oplog.Path, error) {
	ours, err := c.log.Node(c.ctx, theirs.Path)
	if err != nil || theirs == ours {
		return todo, err
	}
	if ours.Count > 0 || c.unauthorized {
		return append(todo, theirs.Path), nil
	}
	c.wanted = append(c.wanted, wanted{item{path: theirs.Path}, theirs.Path, theirs.Count})
	return todo, nil
}

// compareHashes adds the entries of a node that the log lacks. If there are
// very many, it visits only some.
func (c *comparison) compareHashes(theirs answer) error {
	visited := 0
	for page, err := range c.session.hashes(theirs) {
		if err != nil {
			return err
		}
		for _, hash := range page.hashes {
			ok, err := c.log.Has(c.ctx, block.OfDigest(hash))
			if err != nil {
				return err
			}
			if !ok {
				c.wanted = append(c.wanted, wanted{item{hash: &hash}, theirs.Path, 1})
			}
		}
		if visited += len(page.hashes); visited > maxNodeEntries {
			return nil
		}
	}
	return nil
}
