package reconcile

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// ErrNothing says that a peer's tree differs all over from our own, and that
// nothing was found there that is not here.
var ErrNothing = errors.New("the difference is too large to look through")

// Compare yields what the peer has and a log lacks, a part at a time, the oldest
// first. The parts may be shipped in between. It goes from the root of the tree down
// to where nodes differ.
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
	ctx      context.Context
	session  *Session
	log      *oplog.Log
	partSize int                   // items; a node may have more
	faults   bool                  // the log has entries that do not count
	answers  map[oplog.Path]answer // that came and were not looked at yet
	todo     []oplog.Path          // nodes to be looked at, the oldest first
	wanted   []wanted              // that was found and not taken
	vain     int                   // nodes that were looked at since something was found
}

// wanted is an item, the path of the node that it is in, and how many entries it is.
type wanted struct {
	item
	in    oplog.Path
	count uint64
}

// newComparison asks for the root and for the nodes above our newest entry, where
// most differences are.
func newComparison(ctx context.Context, s *Session, log *oplog.Log, partSize int) (*comparison, error) {
	c := &comparison{ctx: ctx, session: s, log: log, partSize: partSize, answers: make(map[oplog.Path]answer)}
	stats, err := log.Stats(ctx)
	if err != nil {
		return nil, err
	}
	c.faults = stats.Faults > 0
	spine, err := log.Spine(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.ask(append([]oplog.Path{""}, spine...)); err != nil {
		return nil, err
	}
	c.todo, err = c.look(c.answers[""].Node, nil)
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

// take returns what was found behind which nothing older can be found.
func (c *comparison) take() (d Difference) {
	slices.SortStableFunc(c.wanted, func(a, b wanted) int { return a.in.Compare(b.in) })
	n := len(c.wanted)
	if len(c.todo) > 0 {
		n = slices.IndexFunc(c.wanted, func(w wanted) bool { return w.in.Compare(c.todo[0]) >= 0 })
		if n <= 0 { // all there is room for
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

// step looks at the next few nodes.
func (c *comparison) step() error {
	some := slices.Clone(c.todo[:min(len(c.todo), maxPaths)])
	if err := c.ask(some); err != nil {
		return err
	}
	before := len(c.wanted)
	var deeper []oplog.Path
	for i, p := range some {
		if i > 0 && len(c.wanted) >= c.partSize { // the rest is asked for again
			for _, p := range some[i:] {
				delete(c.answers, p)
			}
			some = some[:i]
			break
		}
		found, err := c.compare(c.answers[p])
		if err != nil {
			return err
		}
		delete(c.answers, p)
		deeper = append(deeper, found...)
	}
	c.todo = append(deeper, c.todo[len(some):]...)
	if c.vain += len(some); len(c.wanted) > before {
		c.vain = 0
	}
	if c.vain > maxVain {
		return ErrNothing
	}
	return nil
}

// ask asks for nodes, unless they were asked for.
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

// compare notes what is wanted of a node that differs, and returns the nodes below
// it that are to be looked at.
func (c *comparison) compare(theirs answer) (deeper []oplog.Path, err error) {
	if len(theirs.children) == 0 {
		return nil, c.compareNames(theirs)
	}
	for _, child := range theirs.children {
		deeper, err = c.look(child, deeper)
		if err != nil {
			return nil, err
		}
	}
	return deeper, nil
}

// look adds the path of a node to todo if the node differs from our own, unless all
// of it is wanted: none of it is here, or at least none that counts, which is all
// there is in a log without others.
func (c *comparison) look(theirs oplog.Node, todo []oplog.Path) ([]oplog.Path, error) {
	ours, err := c.log.Node(c.ctx, theirs.Path)
	if err != nil || theirs == ours {
		return todo, err
	}
	if ours.Count > 0 || c.faults {
		return append(todo, theirs.Path), nil
	}
	c.wanted = append(c.wanted, wanted{item{path: theirs.Path}, theirs.Path, theirs.Count})
	return todo, nil
}

// compareNames notes which of the entries of a node are not here. Of very many, it
// looks at some.
func (c *comparison) compareNames(theirs answer) error {
	looked := 0
	for n := theirs.names; ; {
		for _, hash := range n.hashes {
			ok, err := c.log.Has(c.ctx, block.OfDigest(hash))
			if err != nil {
				return err
			}
			if !ok {
				c.wanted = append(c.wanted, wanted{item{hash: &hash}, theirs.Path, 1})
			}
		}
		if looked += len(n.hashes); !n.more || looked > maxNamed {
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
