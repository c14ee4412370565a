// Package negotiate tells which protocols peers speak.
package negotiate

import (
	"errors"
	"slices"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

// Speaks reports whether a peer has announced one of the protocols by identify.
// The answer is false until the peer was identified.
func Speaks(h host.Host, p peer.ID, protocols ...protocol.ID) bool {
	known, err := h.Peerstore().SupportsProtocols(p, protocols...)
	return err == nil && len(known) > 0
}

// MaySpeak is [Speaks], but true for a peer whose protocols are not known.
func MaySpeak(h host.Host, p peer.ID, protocols ...protocol.ID) bool {
	known, err := h.Peerstore().GetProtocols(p)
	return err != nil || len(known) == 0 || slices.ContainsFunc(known, func(id protocol.ID) bool {
		return slices.Contains(protocols, id)
	})
}

// Refused reports whether an error of a stream means that the peer does not
// speak the protocol. If the peer has announced the protocol, go-libp2p
// negotiates it together with the first write, and the refusal arrives as a
// reset with the first read.
func Refused(err error) bool {
	if errors.As(err, new(multistream.ErrNotSupported[protocol.ID])) {
		return true
	}
	reset, ok := errors.AsType[*network.StreamError](err)
	return ok && reset.Remote && reset.ErrorCode == network.StreamProtocolNegotiationFailed
}
