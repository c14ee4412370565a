package negotiate

import (
	"errors"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/test/loopback"
)

const spoken, unspoken protocol.ID = "/test/spoken", "/test/unspoken"

// exchange writes to a stream and reads from it.
func exchange(t *testing.T, from, to host.Host, id protocol.ID) error {
	t.Helper()
	s, err := from.NewStream(t.Context(), to.ID(), id)
	if err != nil {
		return err
	}
	defer s.Reset()
	if _, err := s.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = s.Read(make([]byte, 1))
	return err
}

func TestRefusalIsToldFromOtherErrors(t *testing.T) {
	a, b := loopback.Host(t), loopback.Host(t)
	b.SetStreamHandler(spoken, func(s network.Stream) { s.Reset() })
	if Speaks(a, b.ID(), spoken) {
		t.Error("a peer that is not connected speaks a protocol")
	}
	if !MaySpeak(a, b.ID(), unspoken) {
		t.Error("a peer that announced nothing does not speak a protocol")
	}
	loopback.Connect(t, a, b)
	if !Speaks(a, b.ID(), unspoken, spoken) || Speaks(a, b.ID(), unspoken) {
		t.Error("what the peer announced is not what it speaks")
	}
	if !MaySpeak(a, b.ID(), unspoken, spoken) || MaySpeak(a, b.ID(), unspoken) {
		t.Error("what the peer announced is not what it may speak")
	}
	if err := exchange(t, a, b, spoken); err == nil || Refused(err) {
		t.Errorf("a reset counts as a refusal: %v", err)
	}
	if err := exchange(t, a, b, unspoken); !Refused(err) {
		t.Errorf("a refusal before the stream opens: %v", err)
	}
	// With an outdated peerstore, the refusal comes after the first write.
	if err := a.Peerstore().AddProtocols(b.ID(), unspoken); err != nil {
		t.Fatal(err)
	}
	if err := exchange(t, a, b, unspoken); !Refused(err) {
		t.Errorf("a refusal after the first write: %v", err)
	}
	if Refused(nil) || Refused(io.EOF) || Refused(errors.New("other")) {
		t.Error("another error counts as a refusal")
	}
}
