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
	// ErrUnknownName is returned if no known peer has a name.
	ErrUnknownName = errors.New("no known peer has this name")
	// ErrStranger is returned if no companion has a name, and nearby peers do.
	ErrStranger = errors.New("no companion has this name")
	// ErrAmbiguousName is returned if several companions have a name.
	ErrAmbiguousName = errors.New("several companions have this name")
	// ErrChangedName is returned if the current name of a companion differs
	// from the recorded one.
	ErrChangedName = errors.New("the companion with this name has another one now")
)

// NameError says why a name does not identify a peer.
type NameError struct {
	Name   string
	Err    error     // ErrUnknownName, ErrStranger, ErrAmbiguousName or ErrChangedName
	Peers  []peer.ID // the peers that have or had the name, sorted by peer ID
	detail string
}

func (e *NameError) Error() string {
	text := fmt.Sprintf("%v: %q", e.Err, e.Name)
	if e.detail != "" {
		text += ": " + e.detail
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
	return c.displayName()
}

// NameOf returns the recorded name of a companion, or else the name on the card
// of a connected peer, or "".
func (l *Library) NameOf(id peer.ID) string {
	if name := l.nameOfCompanion(id); name != "" {
		return name
	}
	return l.cardName(id)
}

// cardName returns the name on the card of a connected peer, or "".
func (l *Library) cardName(id peer.ID) string {
	c, _ := l.cards.Card(id)
	return checkedName(c.Username)
}

// checkedName returns a username from a peer, or "" if it is invalid.
func checkedName(name string) string {
	if CheckUsername(name) != nil {
		return ""
	}
	return name
}

// PeerNamed returns the companion with a name. Names are compared by
// [piece.Fold]: a reader would not distinguish names that differ in case or
// accents alone. The name of another peer does not identify it, because that
// peer chose it. The error is a [*NameError] or that of the context.
func (l *Library) PeerNamed(ctx context.Context, name string) (peer.ID, error) {
	if err := l.Wait(ctx); err != nil {
		return "", err
	}
	// After a start, a user database that is being read may have a new name.
	limited, cancel := context.WithTimeout(ctx, l.cfg.ReadTimeout)
	defer cancel()
	companions := l.byPeer()
	for _, c := range companions {
		if _ = c.profile.wait(limited); ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	wanted := piece.Fold(name)
	same := func(other string) bool { return other != "" && piece.Fold(other) == wanted }
	var found []peer.ID
	var changed string
	for _, c := range companions {
		recorded, current := c.usernames()
		switch {
		case same(recorded) && same(current):
			found = append(found, c.id)
		case same(recorded):
			found, changed = append(found, c.id), fmt.Sprintf("%s is called %q now", c.id, current)
		case same(current) && recorded != "":
			found, changed = append(found, c.id), fmt.Sprintf("%s was %q when it was added", c.id, recorded)
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
