package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"

	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/swarm"
)

const (
	// maxListed is how many peers of one name an error lists.
	maxListed = 8

	// shortestID is less than the length of any peer ID.
	shortestID = 40

	// anyPeer stands for a peer ID in a hint.
	anyPeer = "<peer ID>"
)

// resolvePeer returns the peer that an argument or the option --from names: by
// its peer ID, by a multiaddr, or by the name of a companion. The username of a
// peer that is not a companion does not resolve: the error lists the peers with
// that username, and the command to type.
func resolvePeer(ctx context.Context, req *cmds.Request, d *daemon.Daemon, arg string) (peer.AddrInfo, error) {
	info, err := swarm.ParseTarget(arg)
	if err == nil || library.CheckUsername(arg) != nil {
		return info, err
	}
	lib, libErr := d.Library()
	if libErr != nil {
		return info, err // names are unknown
	}
	id, nameErr := lib.PeerNamed(ctx, arg)
	if nameErr == nil {
		return peer.AddrInfo{ID: id}, nil
	}
	return info, nameHint(nameErr, err, sameCommand(req, arg))
}

// nameHint adds the next step to an error of [library.Library.PeerNamed].
// parseErr is why the name is not a peer ID, and command returns the command to
// type with a peer ID.
func nameHint(err, parseErr error, command func(id string) string) error {
	named, ok := errors.AsType[*library.NameError](err)
	if !ok {
		return err
	}
	ids := peerIDs(named.Peers)
	listed := firstOf(ids, maxListed)
	switch {
	case errors.Is(err, library.ErrUnknownName) && len(named.Name) < shortestID:
		return fmt.Errorf("peer %q: no companion has that name; hint: ipfs npp companions ls shows the names, and a peer ID or a multiaddr names any other peer", named.Name)
	case errors.Is(err, library.ErrUnknownName):
		return fmt.Errorf("%w, and no companion has that name; hint: ipfs npp companions ls shows the names", parseErr)
	case errors.Is(err, library.ErrChangedName):
		again := "ipfs npp companions add " + ids[0]
		if typed := command(ids[0]); typed != again {
			again = typed + ", or " + again
		}
		return fmt.Errorf("%w; hint: %s to accept the new name", err, again)
	case errors.Is(err, library.ErrStranger) && len(ids) == 1:
		return fmt.Errorf("%w, and the peer %s, which uses it, may be anyone; hint: if that is the peer you mean: %s", err, listed, command(ids[0]))
	case errors.Is(err, library.ErrStranger):
		return fmt.Errorf("%w, and %d peers use it: %s; hint: if one of them is the peer you mean: %s", err, len(ids), listed, command(anyPeer))
	}
	return fmt.Errorf("%w: %s; hint: use a peer ID: %s", err, listed, command(anyPeer))
}

// sameCommand returns the command of a request as it is typed with a peer ID
// instead of a name.
func sameCommand(req *cmds.Request, name string) func(id string) string {
	return func(id string) string {
		command := "ipfs " + strings.Join(req.Path, " ")
		for _, o := range req.Command.Options {
			if o.Type() == cmds.Bool && o.Name() != previewOption && isSet(req, o.Name()) {
				command += " --" + o.Name()
			}
		}
		if from, _ := req.Options[fromOption].(string); from == name {
			return command + " --" + fromOption + "=" + id
		}
		return command + " " + id
	}
}
