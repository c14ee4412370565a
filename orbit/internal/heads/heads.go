// Package heads implements the protocol by which OrbitDB peers send each other
// the heads of a database, compatible with @orbitdb/core 1 to 4.
//
// # Protocol
//
// The protocol ID for the database /orbitdb/<hash> is
// /orbitdb/heads/orbitdb/<hash>. Both sides send the blocks of all their heads,
// one after the other, and then close the stream for writing. A side without
// heads only closes it. There are no turns and no acknowledgements. Blocks are
// not framed: a dag-cbor block is self-delimiting, and this package splits the
// stream accordingly.
//
// JavaScript takes each chunk that its stream muxer delivers for one head, so
// it loses heads that arrive joined or split. A muxer preserves the boundaries
// of writes, with three exceptions that this package avoids:
//
//   - With lazy negotiation, go-libp2p sends the first write together with the
//     protocol ID. So the dialling side completes the negotiation first
//     ([Exchange]).
//   - JavaScript loses data that arrives together with the answer to its
//     negotiation. So the dialled side waits for the first byte from
//     JavaScript, or the end of the stream, which follow immediately ([Serve]).
//   - The yamux of go-libp2p sends at most 64 KiB in one frame, that of
//     JavaScript 256 KiB. A head that is larger than [MaxSend] is left out and
//     must be announced by other means, unless the peer is known to split
//     streams as this package does.
//
// While a JavaScript peer waits for the end of a stream that it dialled, it
// does nothing else for that database. So both sides close theirs immediately
// and read with a deadline.
//
// # Cost
//
// At most 16 MiB and 4096 heads are read from a stream, within half a minute.
// Anything beyond is [ErrTooMuch]. Each head is read and hashed once. The heads
// share the memory of the data that was read, which takes up to two and a half
// times its size while it grows. Callers can count these bytes with
// [Side.Reading], and must bound the number of streams. The heads to send are
// in the caller's memory. Nothing is written to disk.
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

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
)

// prefix is the prefix of all protocol IDs.
const prefix = "/orbitdb/heads"

// MaxSend is the size of the largest head, in bytes, that can be sent to
// JavaScript: it must fit into one yamux frame of go-libp2p.
const MaxSend = 65_524

// Bounds of the data read from one stream.
const (
	maxHeads = 4096
	maxBytes = 16 << 20
	maxTime  = 30 * time.Second
)

// firstByteTimeout is how long the dialled side waits for the first byte.
const firstByteTimeout = 5 * time.Second

var (
	// ErrUnsupported means that the peer does not speak the protocol for the
	// database, because it has not opened it.
	ErrUnsupported = errors.New("peer has not opened the database")
	// ErrTooMuch means that a peer sent more than the bounds allow.
	ErrTooMuch = errors.New("peer sent too much")
)

// Protocol returns the protocol ID for the database with an address.
func Protocol(address string) protocol.ID { return protocol.ID(prefix + address) }

// Address returns the address of the database that a protocol ID is for. It
// reports whether p is such an ID.
func Address(p protocol.ID) (string, bool) {
	address, ok := strings.CutPrefix(string(p), prefix)
	if !ok {
		return "", false
	}
	_, err := manifest.ParseAddress(address)
	return address, err == nil && string(Protocol(address)) == string(p)
}

// Side is the contribution of one side to an exchange.
type Side struct {
	Heads   []block.Block
	MaxSend int // largest head to send: MaxSend, or more if the peer splits streams as this package does
	// Reading, if not nil, wraps the stream for reading, to bound it.
	Reading func(io.Reader) io.Reader
}

// Exchange sends heads of a database to a connected peer and returns the peer's
// heads, including those received before an error. It does not use connections
// over a relay, because JavaScript does not accept the stream there.
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
		if negotiate.Refused(err) {
			return nil, ErrUnsupported
		}
		return nil, fmt.Errorf("negotiate: %w", err)
	}
	if err := s.SetProtocol(id); err != nil {
		s.Reset()
		return nil, err
	}
	return ours.exchange(s, nil)
}

// Serve is the counterpart of Exchange on the dialled side. It returns when the
// peer closes its side of the stream, or after half a minute.
func Serve(s network.Stream, ours Side) ([]block.Block, error) {
	first := make([]byte, 1)
	if err := s.SetReadDeadline(time.Now().Add(firstByteTimeout)); err != nil {
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
	return ours.exchange(s, first[:n])
}

// exchange sends and receives concurrently, because either side may have more
// heads than the stream buffers. first was read before.
func (ours Side) exchange(s network.Stream, first []byte) ([]block.Block, error) {
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

// send writes each head with one write, and closes the stream for writing.
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

// receive reads heads until the stream ends. It returns the complete heads even
// if there is an error.
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
