// Package heads is the protocol by which OrbitDB peers show each other the heads
// of a database, as @orbitdb/core 1 to 4 speaks it.
//
// # Protocol
//
// For a database at /orbitdb/<hash>, its name is /orbitdb/heads/orbitdb/<hash>.
// Both sides send the blocks of all their heads, one after the other, then
// close their end for writing; who has none only closes. There is no order and
// no answer. The blocks have no frames around them: a block of dag-cbor says
// itself where it ends, and that is how they are told apart here.
//
// JavaScript takes each chunk that its stream muxer hands it for one head: what
// is glued together or torn apart is lost there. A muxer keeps the writes of its
// user apart, with three exceptions that this package avoids:
//
//   - go-libp2p's lazy negotiation puts the first write behind the protocol's
//     name. The dialling side therefore negotiates first ([Exchange]).
//   - JavaScript loses what comes together with the answer to its negotiation.
//     The side that was dialled therefore waits for the first byte, or the end,
//     of what JavaScript sends, which it does at once ([Serve]).
//   - yamux sends at most 64 KiB in a frame. A head that is larger than
//     [MaxSend] is left out, and has to be announced by other means, unless the
//     peer is known to read as this package does.
//
// A JavaScript peer does nothing else for a database while it waits for the end
// of a stream that it dialled, so both sides here close theirs at once and read
// with a deadline.
//
// # Cost
//
// Of one stream, at most 16 MiB and 4096 heads are read, within half a minute; what is
// beyond is [ErrTooMuch]. Each head is read and hashed once. The heads share the memory
// of what was read, which takes two and a half times as much at most while it grows.
// [Side].Reading counts it for the caller, who also bounds how many streams there are.
// The caller has the blocks of the heads that are sent. Nothing is written to disk.
package heads

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	msmux "github.com/multiformats/go-multistream"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
)

// prefix is what the names of the protocols begin with.
const prefix = "/orbitdb/heads"

// MaxSend is the largest head that JavaScript can be sent, in bytes: what fits
// into a frame of yamux as go-libp2p writes it.
const MaxSend = 65_524

// MaxShown is the largest head that JavaScript sends, in bytes: what fits into a
// frame of yamux as it writes it.
const MaxShown = 262_132

// Bounds of what is read of one stream.
const (
	maxHeads = 4096
	maxBytes = 16 << 20
	maxTime  = 30 * time.Second
)

// clientSilence is how long the side that was dialled waits for the first byte.
const clientSilence = 5 * time.Second

var (
	// ErrUnsupported says that the peer does not speak the protocol for the
	// database: it has not opened it.
	ErrUnsupported = errors.New("peer has not opened the database")
	// ErrTooMuch says that a peer sends more than heads can be.
	ErrTooMuch = errors.New("peer sends too much")
)

// Protocol returns the protocol of the database with an address.
func Protocol(address string) protocol.ID { return protocol.ID(prefix + address) }

// Address returns the address of the database that a protocol is of, and
// whether it is one of these.
func Address(p protocol.ID) (string, bool) {
	address, ok := strings.CutPrefix(string(p), prefix)
	if !ok {
		return "", false
	}
	_, err := manifest.ParseAddress(address)
	return address, err == nil && string(Protocol(address)) == string(p)
}

// Side is what one side of an exchange has.
type Side struct {
	Heads   []block.Block
	MaxSend int // the largest head that is sent: MaxSend, or more where the peer reads as we do
	// Reading wraps what is read of the stream, to bound it. Default: nothing.
	Reading func(io.Reader) io.Reader
}

// Exchange shows a connected peer the heads of a database, and returns the
// peer's, also those that came before an error. Connections over a relay are not
// used: JavaScript takes no such stream.
func Exchange(ctx context.Context, h host.Host, p peer.ID, address string, ours Side) ([]block.Block, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	s, err := h.Network().NewStream(network.WithNoDial(ctx, "heads go over open connections"), p)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	id := Protocol(address)
	if _, err := msmux.SelectOneOf([]protocol.ID{id}, s); err != nil {
		s.Reset()
		if errors.As(err, new(msmux.ErrNotSupported[protocol.ID])) {
			return nil, ErrUnsupported
		}
		return nil, fmt.Errorf("negotiate: %w", err)
	}
	if err := s.SetProtocol(id); err != nil {
		s.Reset()
		return nil, err
	}
	return ours.swap(s, nil)
}

// Serve is Exchange for the side that was dialled. It returns when the peer has
// ended its side of the stream, or after half a minute.
func Serve(s network.Stream, ours Side) ([]block.Block, error) {
	first := make([]byte, 1)
	if err := s.SetReadDeadline(time.Now().Add(clientSilence)); err != nil {
		s.Reset()
		return nil, err
	}
	n, err := s.Read(first)
	if err != nil && !errors.Is(err, io.EOF) && !isTimeout(err) {
		s.Reset()
		return nil, fmt.Errorf("read heads: %w", err)
	}
	if err := s.SetDeadline(time.Now().Add(maxTime)); err != nil {
		s.Reset()
		return nil, err
	}
	return ours.swap(s, first[:n])
}

// swap sends and receives side by side: what each side has may be more than the
// stream holds. first was read before.
func (ours Side) swap(s network.Stream, first []byte) ([]block.Block, error) {
	sent := make(chan error, 1)
	go func() { sent <- ours.send(s) }()
	theirs, err := ours.receive(s, first)
	if err != nil {
		s.Reset()
	}
	if sendErr := <-sent; err == nil && sendErr != nil {
		s.Reset()
		err = sendErr
	}
	if err == nil {
		s.Close()
	}
	return theirs, err
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// send writes each head at once, and closes for writing.
func (ours Side) send(s network.Stream) error {
	for _, h := range ours.Heads {
		if len(h.Data) > ours.MaxSend {
			continue
		}
		if _, err := s.Write(h.Data); err != nil {
			return fmt.Errorf("send heads: %w", err)
		}
	}
	if err := s.CloseWrite(); err != nil {
		return fmt.Errorf("send heads: %w", err)
	}
	return nil
}

// receive reads heads to the end of the stream. Those that came whole are
// returned also where it ends otherwise.
func (ours Side) receive(s network.Stream, first []byte) ([]block.Block, error) {
	var from io.Reader = s
	if ours.Reading != nil {
		from = ours.Reading(s)
	}
	data, err := io.ReadAll(io.MultiReader(bytes.NewReader(first), io.LimitReader(from, maxBytes-int64(len(first))+1)))
	switch {
	case err != nil:
		err = fmt.Errorf("read heads: %w", err)
	case len(data) > maxBytes:
		err = fmt.Errorf("%w: more than %d bytes", ErrTooMuch, maxBytes)
	}
	heads, splitErr := entry.Split(data, maxHeads)
	if err == nil {
		err = splitErr
	}
	if len(heads) == maxHeads && splitErr != nil {
		err = fmt.Errorf("%w: more than %d heads", ErrTooMuch, maxHeads)
	}
	return heads, err
}
