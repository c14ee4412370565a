package library

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/piece"
)

var (
	// ErrUnknownName says that no peer that is known has a name.
	ErrUnknownName = errors.New("nobody that is known has this name")
	// ErrAmbiguousName says that several peers have a name.
	ErrAmbiguousName = errors.New("several peers have this name")
	// ErrChangedName says that the companion with a name calls itself otherwise now.
	ErrChangedName = errors.New("the companion with this name has another one now")
)

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

// PeerNamed returns the peer with a name. Names are the same that differ in case and
// accents alone: who reads them would not tell them apart, either. A companion comes
// before others that are connected. The error wraps [ErrUnknownName],
// [ErrAmbiguousName] or [ErrChangedName], and names the peers.
func (l *Library) PeerNamed(ctx context.Context, name string) (peer.ID, error) {
	if err := l.Wait(ctx); err != nil {
		return "", err
	}
	wanted := piece.Fold(name)
	same := func(other string) bool { return other != "" && piece.Fold(other) == wanted }
	var found []peer.ID
	var changed string
	for _, c := range l.byPeer() {
		remembered, now := c.names()
		switch {
		case same(remembered) && same(now), remembered == "" && same(now):
			found = append(found, c.id)
		case same(remembered):
			found, changed = append(found, c.id), fmt.Sprintf("%s is called %q now", c.id, now)
		case same(now):
			found, changed = append(found, c.id), fmt.Sprintf("%s was %q when it was added", c.id, remembered)
		}
	}
	found = slices.Compact(found)
	if len(found) == 0 {
		for _, n := range l.NearbyPeers() {
			if same(n.Name) {
				found = append(found, n.Peer)
			}
		}
	}
	switch {
	case len(found) == 0:
		return "", fmt.Errorf("%w: %q", ErrUnknownName, name)
	case len(found) > 1:
		ids := make([]string, len(found))
		for i, id := range found {
			ids[i] = id.String()
		}
		return "", fmt.Errorf("%w: %q: %s", ErrAmbiguousName, name, strings.Join(ids, ", "))
	case changed != "":
		return "", fmt.Errorf("%w: %q: %s", ErrChangedName, name, changed)
	}
	return found[0], nil
}
