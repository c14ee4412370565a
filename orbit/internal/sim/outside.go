package sim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	libp2phost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
)

// prepare creates the encoder and the decoder of package reconcile by
// requesting a block. The process has one of each. They have channels, so
// bubbles of synctest can share them only if they are created outside of all
// bubbles.
func prepare() error {
	b := block.New(dagcbor.AppendText(nil, "a block"))
	var asked bytes.Buffer
	out := msgio.NewVarintWriter(&asked)
	open := dagcbor.AppendText(dagcbor.AppendUint(dagcbor.AppendArray(nil, 2), 0), "an address")
	ask := dagcbor.AppendText(dagcbor.AppendArray(dagcbor.AppendUint(dagcbor.AppendArray(nil, 2), 1), 1), b.Hash)
	if err := errors.Join(out.WriteMsg(open), out.WriteMsg(ask)); err != nil {
		return err
	}
	server := &recorded{in: &asked}
	err := reconcile.Serve(context.Background(), server, reconcile.Source{
		Log:   func(string) (log, access *oplog.Log, ok bool) { return new(oplog.Log), nil, true },
		Block: func(context.Context, string) (block.Block, error) { return b, nil },
	})
	if err != nil {
		return err
	}
	s, err := reconcile.Open(context.Background(), recordings{stream: &recorded{in: &server.out}}, "", "an address")
	if err != nil {
		return err
	}
	_, err = s.Blocks(b.Hash)
	return err
}

// recorded is a stream with recorded input.
type recorded struct {
	network.Stream // nil: the rest is not used
	in             io.Reader
	out            bytes.Buffer
}

func (s *recorded) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s *recorded) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *recorded) Close() error                     { return nil }
func (s *recorded) Reset() error                     { return nil }
func (s *recorded) SetReadDeadline(time.Time) error  { return nil }
func (s *recorded) SetWriteDeadline(time.Time) error { return nil }

// recordings is a host whose streams are one recorded stream.
type recordings struct {
	libp2phost.Host // nil: the rest is not used
	stream          network.Stream
}

func (h recordings) Peerstore() peerstore.Peerstore { return strangers{} }

func (h recordings) NewStream(context.Context, peer.ID, ...protocol.ID) (network.Stream, error) {
	return h.stream, nil
}

// strangers is a peerstore that knows no peer.
type strangers struct {
	peerstore.Peerstore // nil: the rest is not used
}

func (strangers) GetProtocols(peer.ID) ([]protocol.ID, error) { return nil, nil }
