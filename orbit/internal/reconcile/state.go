package reconcile

import (
	"context"
	"errors"

	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// ErrEarlierVersion means that the peer speaks an earlier version of the
// protocol, which does not report its state.
var ErrEarlierVersion = errors.New("peer speaks an earlier version, which does not report its state")

// State is what two replicas of a database compare to find out whether they are
// in sync. Equal heads do not suffice, because authorization also depends on
// the access list.
type State struct {
	Root    oplog.Node // of the tree of authorized entries
	Access  oplog.Node // root of the access database's tree; zero if the list is fixed
	Settled bool       // no authorization is being decided
}

// StateOf returns the state of a database. access is the log of its access
// database, or nil.
func StateOf(ctx context.Context, log, access *oplog.Log) (s State, err error) {
	if access != nil {
		if s.Access, err = access.Node(ctx, ""); err != nil {
			return s, err
		}
	}
	if s.Root, err = log.Node(ctx, ""); err != nil {
		return s, err
	}
	stats, err := log.Stats(ctx)
	s.Settled = stats.Revising == 0
	return s, err
}

// Agrees reports whether two replicas authorize the same entries according to
// the same access list.
func (s State) Agrees(other State) bool { return s.Settled && s == other }

func (s State) encode() []byte {
	b := dagcbor.AppendArray(nil, 5)
	b = appendCount(b, s.Root)
	b = appendCount(b, s.Access)
	return dagcbor.AppendBool(b, s.Settled)
}

func decodeState(frame []byte) (s State, err error) {
	r := dagcbor.NewReader(frame)
	if err := r.Tuple(5); err != nil {
		return s, err
	}
	if s.Root, err = readCount(r, ""); err != nil {
		return s, err
	}
	if s.Access, err = readCount(r, ""); err != nil {
		return s, err
	}
	if s.Settled, err = r.Bool(); err != nil {
		return s, err
	}
	return s, r.End()
}

// State returns the state of the peer's replica, or [ErrEarlierVersion].
func (s *Session) State() (State, error) {
	if s.stream.Protocol() != Protocol {
		return State{}, ErrEarlierVersion
	}
	return ask(s, request{kind: askState}, decodeState)
}
