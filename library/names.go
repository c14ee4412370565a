package library

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/piece"
)

var (
	// ErrUnknownName says that no peer that is known has a name.
	ErrUnknownName = errors.New("nobody that is known has this name")
	// ErrStranger says that peers call themselves by a name, and that no companion has
	// it.
	ErrStranger = errors.New("no companion has this name")
	// ErrAmbiguousName says that several companions have a name.
	ErrAmbiguousName = errors.New("several companions have this name")
	// ErrChangedName says that the companion with a name calls itself otherwise now.
	ErrChangedName = errors.New("the companion with this name has another one now")
)

// NameError says why a name stands for no peer.
type NameError struct {
	Name  string
	Err   error     // ErrUnknownName, ErrStranger, ErrAmbiguousName or ErrChangedName
	Peers []peer.ID // that have the name, or had it, by peer ID
	about string    // what else there is to say
}

func (e *NameError) Error() string {
	text := fmt.Sprintf("%v: %q", e.Err, e.Name)
	if e.about != "" {
		text += ": " + e.about
	}
	return text
}

func (e *NameError) Unwrap() error { return e.Err }

// nameOfCompanion returns the name of a companion, or "".
func (l *Library) nameOfCompanion(id peer.ID) string {
	c := l.companionOf(id)
	if c == nil {
		return ""
	}
	return c.called()
}

// NameOf returns the name of a peer: the one that a companion was added under, or
// else the one on the card of a peer that is connected, or "".
func (l *Library) NameOf(id peer.ID) string {
	if name := l.nameOfCompanion(id); name != "" {
		return name
	}
	return l.shownName(id)
}

// shownName returns the name on the card of a peer that is connected, or "".
func (l *Library) shownName(id peer.ID) string {
	shown, _ := l.cards.Card(id)
	return checkedName(shown.Username)
}

// checkedName returns a name that a peer gave itself, or "" where it is none.
func checkedName(name string) string {
	if CheckUsername(name) != nil {
		return ""
	}
	return name
}

// PeerNamed returns the companion with a name. Names are the same that differ in case
// and accents alone: a reader would not tell them apart, either. The name that a
// stranger gives itself stands for no peer. The error is a [*NameError].
func (l *Library) PeerNamed(ctx context.Context, name string) (peer.ID, error) {
	if err := l.Wait(ctx); err != nil {
		return "", err
	}
	// After a start, a new name may be in a user store that is being read.
	patient, cancel := context.WithTimeout(ctx, l.cfg.Patience)
	defer cancel()
	companions := l.byPeer()
	for _, c := range companions {
		if _ = c.profile.wait(patient); ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	wanted := piece.Fold(name)
	same := func(other string) bool { return other != "" && piece.Fold(other) == wanted }
	var found []peer.ID
	var changed string
	for _, c := range companions {
		remembered, now := c.names()
		switch {
		case same(remembered) && same(now):
			found = append(found, c.id)
		case same(remembered):
			found, changed = append(found, c.id), fmt.Sprintf("%s is called %q now", c.id, now)
		case same(now) && remembered != "":
			found, changed = append(found, c.id), fmt.Sprintf("%s was %q when it was added", c.id, remembered)
		}
	}
	found = slices.Compact(found)
	switch {
	case len(found) > 1:
		return "", &NameError{Name: name, Err: ErrAmbiguousName, Peers: found}
	case changed != "":
		return "", &NameError{name, ErrChangedName, found, changed}
	case len(found) == 1:
		return found[0], nil
	}
	for _, n := range l.NearbyPeers() {
		if same(n.Name) {
			found = append(found, n.Peer)
		}
	}
	if len(found) > 0 {
		return "", &NameError{Name: name, Err: ErrStranger, Peers: found}
	}
	return "", &NameError{Name: name, Err: ErrUnknownName}
}
