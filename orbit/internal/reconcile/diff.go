package reconcile

import (
	"context"
	"fmt"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Diff is which entries count at one of two replicas and not at the other, by CID.
type Diff struct {
	Theirs []string // count at the peer alone
	Ours   []string // count here alone
	More   bool     // there are further ones
}

// Diff compares what counts at the peer with what counts in a log, and returns at
// most so many entries of each kind. Unlike [Session.Compare], it also names entries
// that are in the log and do not count.
func (s *Session) Diff(ctx context.Context, log *oplog.Log, most int) (d Diff, err error) {
	x := &differ{ctx: ctx, session: s, log: log, most: most, todo: []oplog.Path{""}}
	for looked := 0; len(x.todo) > 0 && !x.More; {
		some := x.todo[max(0, len(x.todo)-maxPaths):]
		x.todo = x.todo[:len(x.todo)-len(some)]
		if looked += len(some); looked > maxVain {
			return x.Diff, ErrNothing
		}
		answers, err := ask(s, request{kind: askNodes, paths: some}, func(frame []byte) ([]answer, error) {
			return decodeAnswers(frame, some)
		})
		if err != nil {
			return x.Diff, err
		}
		for _, theirs := range answers {
			if err := x.node(theirs); err != nil {
				return x.Diff, err
			}
		}
	}
	return x.Diff, nil
}

type differ struct {
	Diff
	ctx     context.Context
	session *Session
	log     *oplog.Log
	most    int
	todo    []oplog.Path
}

func (x *differ) add(list *[]string, hash string) {
	if len(*list) == x.most {
		x.More = true
		return
	}
	*list = append(*list, hash)
}

// node compares a node of the peer with ours.
func (x *differ) node(theirs answer) error {
	ours, err := x.log.Node(x.ctx, theirs.Path)
	switch {
	case err != nil || ours == theirs.Node:
		return err
	case theirs.Count == 0:
		return x.ours(theirs.Path, nil)
	case len(theirs.children) == 0:
		return x.names(theirs)
	}
	children := make(map[oplog.Path]oplog.Node)
	for _, c := range theirs.children {
		children[c.Path] = c
	}
	for digit := range byte(16) {
		child := theirs.Path + oplog.Path([]byte{digit})
		if !child.Valid() {
			continue
		}
		own, err := x.log.Node(x.ctx, child)
		if err != nil {
			return err
		}
		if c := children[child]; c.Count != own.Count || c.Sum != own.Sum {
			x.todo = append(x.todo, child)
		}
	}
	return nil
}

// ours adds the entries behind a path that count here and are not among theirs.
func (x *differ) ours(p oplog.Path, theirs map[string]bool) error {
	looked := 0
	for ref, err := range x.log.Behind(x.ctx, p, nil) {
		if err != nil {
			return err
		}
		if looked++; looked > maxNamed {
			x.More = true
		}
		if !theirs[ref.Hash] {
			x.add(&x.Ours, ref.Hash)
		}
		if x.More {
			return nil
		}
	}
	return nil
}

// names compares the entries of a node that has no children. Of very many, it looks
// at some.
func (x *differ) names(a answer) error {
	theirs := make(map[string]bool)
	for n := a.names; ; {
		for _, hash := range n.hashes {
			theirs[block.OfDigest(hash)] = true
		}
		if !n.more {
			break
		}
		if len(n.hashes) == 0 {
			return fmt.Errorf("%w: more of nothing", ErrProtocol)
		}
		if len(theirs) > maxNamed {
			x.More = true
			return nil
		}
		last := block.OfDigest(n.hashes[len(n.hashes)-1])
		var err error
		if n, err = ask(x.session, request{kind: askNames, paths: []oplog.Path{a.Path}, hashes: []string{last}}, decodeNames); err != nil {
			return err
		}
	}
	ours := make(map[string]bool)
	for ref, err := range x.log.Behind(x.ctx, a.Path, nil) {
		if err != nil {
			return err
		}
		if ours[ref.Hash] = true; len(ours) > maxNamed {
			x.More = true
			return nil
		}
	}
	for hash := range theirs {
		if !ours[hash] {
			x.add(&x.Theirs, hash)
		}
	}
	return x.ours(a.Path, theirs)
}
