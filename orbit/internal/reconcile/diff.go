package reconcile

import (
	"context"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// Diff is the difference between the authorized entries of two replicas, as
// CIDs.
type Diff struct {
	Theirs []string // authorized only at the peer
	Ours   []string // authorized only here
	More   bool     // there are more
}

// Diff compares the authorized entries of the peer and of a log, and returns at
// most the given number of each side. Unlike [Session.Compare], it includes
// entries that are in the log but not authorized.
func (s *Session) Diff(ctx context.Context, log *oplog.Log, limit int) (d Diff, err error) {
	x := &differ{ctx: ctx, session: s, log: log, limit: limit, todo: []oplog.Path{""}}
	for looked := 0; len(x.todo) > 0 && !x.More; {
		some := x.todo[max(0, len(x.todo)-maxPaths):]
		x.todo = x.todo[:len(x.todo)-len(some)]
		if looked += len(some); looked > maxFruitless {
			return x.Diff, ErrFruitless
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
	limit   int
	todo    []oplog.Path
}

func (x *differ) add(list *[]string, hash string) {
	if len(*list) == x.limit {
		x.More = true
		return
	}
	*list = append(*list, hash)
}

// node compares a node of the peer.
func (x *differ) node(theirs answer) error {
	ours, err := x.log.Node(x.ctx, theirs.Path)
	switch {
	case err != nil || ours == theirs.Node:
		return err
	case theirs.Count == 0:
		return x.addOurs(theirs.Path, nil)
	case len(theirs.children) == 0:
		return x.hashes(theirs)
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

// addOurs adds the authorized entries of a subtree that are not among theirs.
func (x *differ) addOurs(p oplog.Path, theirs map[string]bool) error {
	looked := 0
	for ref, err := range x.log.Subtree(x.ctx, p, nil) {
		if err != nil {
			return err
		}
		if looked++; looked > maxNodeEntries {
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

// hashes compares the entries of a leaf. If there are very many, it visits only
// some.
func (x *differ) hashes(a answer) error {
	theirs := make(map[string]bool)
	for page, err := range x.session.hashes(a) {
		if err != nil {
			return err
		}
		for _, hash := range page.hashes {
			theirs[block.OfDigest(hash)] = true
		}
		if page.more && len(theirs) > maxNodeEntries {
			x.More = true
			return nil
		}
	}
	ours := make(map[string]bool)
	for ref, err := range x.log.Subtree(x.ctx, a.Path, nil) {
		if err != nil {
			return err
		}
		if ours[ref.Hash] = true; len(ours) > maxNodeEntries {
			x.More = true
			return nil
		}
	}
	for hash := range theirs {
		if !ours[hash] {
			x.add(&x.Theirs, hash)
		}
	}
	return x.addOurs(a.Path, theirs)
}
