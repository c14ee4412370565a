package swarm

import (
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// maxTarget is the length of the longest text that ParseTarget reads, in bytes.
const maxTarget = 1024

const accepted = "a peer ID or a multiaddr that ends in /p2p/<peer ID>"

// ParseTarget reads what people have to name a peer: a peer ID, in base58 or
// as a CIDv1 in any multibase; a multiaddr that ends in /p2p/<peer ID> or, as
// it was once written, in /ipfs/<peer ID>; or /p2p-circuit/p2p/<peer ID>,
// which names no relay and so leaves the way to [Swarm.Connect]. The result has
// one address or none.
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

// anyRelay is the address of a peer behind a relay that is not named.
var anyRelay = ma.StringCast("/p2p-circuit")
