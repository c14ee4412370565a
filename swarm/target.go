package swarm

import (
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// maxTarget is the largest length of a target, in bytes.
const maxTarget = 1024

const accepted = "a peer ID or a multiaddr that ends in /p2p/<peer ID>"

// ParseTarget parses the name of a peer. It accepts a peer ID, in base58 or as
// a CIDv1 in any multibase; a multiaddr that ends in /p2p/<peer ID> or in the
// older form /ipfs/<peer ID>; and /p2p-circuit/p2p/<peer ID>, which names no
// relay and leaves the choice to [Swarm.Connect]. The result has at most one
// address.
func ParseTarget(s string) (peer.AddrInfo, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return peer.AddrInfo{}, fmt.Errorf("no peer named: want %s", accepted)
	case len(s) > maxTarget:
		return peer.AddrInfo{}, fmt.Errorf("peer of %d bytes: want %s, of at most %d bytes", len(s), accepted, maxTarget)
	case s[0] != '/':
		id, err := peer.Decode(s)
		if err != nil {
			return peer.AddrInfo{}, fmt.Errorf("peer %q: want %s: %w", s, accepted, err)
		}
		return peer.AddrInfo{ID: id}, nil
	}
	addr, err := ma.NewMultiaddr(s)
	if err != nil {
		return peer.AddrInfo{}, fmt.Errorf("peer %q: want %s: %w", s, accepted, err)
	}
	transport, id := peer.SplitAddr(addr)
	if id == "" {
		return peer.AddrInfo{}, fmt.Errorf("peer %q: the address names no peer at its end: want %s", s, accepted)
	}
	info := peer.AddrInfo{ID: id}
	if len(transport) > 0 && !transport.Equal(anyRelay) {
		info.Addrs = []ma.Multiaddr{transport}
	}
	return info, nil
}

// anyRelay is the address of a peer behind an unspecified relay.
var anyRelay = ma.StringCast("/p2p-circuit")
