package heads

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	msmux "github.com/multiformats/go-multistream"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/test/loopback"
)

var address = manifest.Address(block.Hash([]byte("a manifest")))

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// text returns the block of a text of a size.
func text(size int) block.Block {
	return block.New(dagcbor.AppendText(nil, strings.Repeat("x", size)))
}

func hashes(bs []block.Block) (list []string) {
	for _, b := range bs {
		list = append(list, b.Hash)
	}
	return list
}

// pair returns two connected hosts.
func pair(t *testing.T) (a, b host.Host) {
	t.Helper()
	a, b = loopback.Host(t), loopback.Host(t)
	loopback.Connect(t, a, b)
	return a, b
}

// served contains the results of Serve.
type served struct {
	theirs []block.Block
	err    error
}

// forJS returns a side whose peer may be JavaScript.
func forJS(heads ...block.Block) Side { return Side{Heads: heads, MaxSend: MaxSend} }

func serve(h host.Host, ours Side) <-chan served {
	results := make(chan served, 64)
	h.SetStreamHandler(Protocol(address), func(s network.Stream) {
		theirs, err := Serve(s, ours)
		results <- served{theirs, err}
	})
	return results
}

func TestBothSidesGetAllHeads(t *testing.T) {
	a, b := pair(t)
	ours, theirs := []block.Block{text(1), text(300), text(60_000)}, []block.Block{text(2), text(200)}
	results := serve(b, forJS(theirs...))
	for range 3 { // including when the peer is known to speak the protocol
		got, err := Exchange(testContext(t), a, b.ID(), address, forJS(ours...))
		if err != nil || !slices.Equal(hashes(got), hashes(theirs)) {
			t.Errorf("the dialling side got %v, %v", hashes(got), err)
		}
		if r := <-results; r.err != nil || !slices.Equal(hashes(r.theirs), hashes(ours)) {
			t.Errorf("the other side got %v, %v", hashes(r.theirs), r.err)
		}
	}
	if got, err := Exchange(testContext(t), a, b.ID(), address, forJS()); err != nil || len(got) != 2 {
		t.Errorf("without heads: %v, %v", hashes(got), err)
	}
	if r := <-results; r.err != nil || len(r.theirs) != 0 {
		t.Errorf("without heads: %v, %v", hashes(r.theirs), r.err)
	}
}

// Each head is a frame of its own. No other data joins it, on either side.
func TestEachHeadIsAFrame(t *testing.T) {
	a, b := pair(t)
	heads := []block.Block{text(10), text(20), text(30)}
	frames := make(chan []int, 1)
	b.SetStreamHandler(Protocol(address), func(s network.Stream) {
		frames <- readSlowly(s)
		s.Close()
	})
	if _, err := Exchange(testContext(t), a, b.ID(), address, forJS(heads...)); err != nil {
		t.Error(err)
	}
	want := []int{len(heads[0].Data), len(heads[1].Data), len(heads[2].Data)}
	if got := <-frames; !slices.Equal(got, want) {
		t.Errorf("frames of %v bytes, want %v", got, want)
	}
	// The dialled side writes nothing before the first byte of a client that
	// negotiates and sends in one write.
	early := make(chan bool, 1)
	b.SetStreamHandler(Protocol(address), func(s network.Stream) { Serve(s, forJS(heads...)) })
	s, err := a.Network().NewStream(testContext(t), b.ID())
	must(t, err)
	_, err = msmux.SelectOneOf([]protocol.ID{Protocol(address)}, s)
	must(t, err)
	go func() {
		s.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, _ := s.Read(make([]byte, 1))
		early <- n > 0
	}()
	if <-early {
		t.Error("heads came before the client's first byte")
	}
	s.SetReadDeadline(time.Time{})
	must(t, s.CloseWrite())
	if got := readSlowly(s); !slices.Equal(got, want) {
		t.Errorf("frames of %v bytes, want %v", got, want)
	}
}

// readSlowly returns the sizes of single reads from a stream. yamux returns at
// most one frame in a read.
func readSlowly(s network.Stream) (sizes []int) {
	buf := make([]byte, 1<<17)
	for {
		n, err := s.Read(buf)
		if n > 0 {
			sizes = append(sizes, n)
		}
		if err != nil {
			return sizes
		}
	}
}

func TestHeadThatFitsInNoFrameIsLeftOut(t *testing.T) {
	a, b := pair(t)
	fits, large := text(MaxSend-3), text(MaxSend-2)
	results := serve(b, forJS(large))
	theirs, err := Exchange(testContext(t), a, b.ID(), address, forJS(large, fits))
	if err != nil || len(theirs) != 0 {
		t.Errorf("%v, %v", hashes(theirs), err)
	}
	if r := <-results; r.err != nil || !slices.Equal(hashes(r.theirs), []string{fits.Hash}) {
		t.Errorf("%v, %v", hashes(r.theirs), r.err)
	}
	// It is sent to a peer that splits streams as this package does.
	results = serve(b, Side{Heads: []block.Block{large}, MaxSend: block.MaxSize})
	theirs, err = Exchange(testContext(t), a, b.ID(), address, Side{Heads: []block.Block{large, fits}, MaxSend: block.MaxSize})
	if err != nil || !slices.Equal(hashes(theirs), []string{large.Hash}) {
		t.Errorf("%v, %v", hashes(theirs), err)
	}
	if r := <-results; r.err != nil || !slices.Equal(hashes(r.theirs), []string{large.Hash, fits.Hash}) {
		t.Errorf("%v, %v", hashes(r.theirs), r.err)
	}
}

// Both sides may have more heads than the stream buffers.
func TestManyHeadsOnBothSidesAreExchanged(t *testing.T) {
	a, b := pair(t)
	var many []block.Block
	for i := range 64 {
		many = append(many, text(60_000+i))
	}
	results := serve(b, forJS(many...))
	theirs, err := Exchange(testContext(t), a, b.ID(), address, forJS(many...))
	if err != nil || !slices.Equal(hashes(theirs), hashes(many)) {
		t.Errorf("%d heads, %v", len(theirs), err)
	}
	if r := <-results; r.err != nil || !slices.Equal(hashes(r.theirs), hashes(many)) {
		t.Errorf("%d heads, %v", len(r.theirs), r.err)
	}
}

// Reads go through the bound, and heads before its end are returned.
func TestWhatIsReadCanBeBounded(t *testing.T) {
	a, b := pair(t)
	serve(b, forJS(text(10), text(10_000)))
	ours := Side{MaxSend: MaxSend, Reading: func(from io.Reader) io.Reader {
		return io.MultiReader(io.LimitReader(from, 11), iotest.ErrReader(errors.New("enough")))
	}}
	theirs, err := Exchange(testContext(t), a, b.ID(), address, ours)
	if err == nil || !strings.Contains(err.Error(), "enough") || !slices.Equal(hashes(theirs), []string{text(10).Hash}) {
		t.Errorf("%v, %v", hashes(theirs), err)
	}
}

func TestPeerWithoutTheDatabaseIsSaidSo(t *testing.T) {
	a, b := pair(t)
	if _, err := Exchange(testContext(t), a, b.ID(), address, forJS()); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

func TestExchangeDialsNoPeer(t *testing.T) {
	a, b := pair(t)
	serve(b, forJS())
	must(t, a.Network().ClosePeer(b.ID()))
	if _, err := Exchange(testContext(t), a, b.ID(), address, forJS()); err == nil {
		t.Error("heads were exchanged without a connection")
	}
}

func TestHeadsBeforeGarbageAreReturned(t *testing.T) {
	a, b := pair(t)
	b.SetStreamHandler(Protocol(address), func(s network.Stream) {
		io.Copy(io.Discard, s)
		s.Write(append(text(10).Data, 0xff))
		s.Close()
	})
	got, err := Exchange(testContext(t), a, b.ID(), address, forJS())
	if err == nil || !slices.Equal(hashes(got), []string{text(10).Hash}) {
		t.Errorf("%v, %v", hashes(got), err)
	}
}

func TestPeerThatSendsTooMuchIsReset(t *testing.T) {
	a, b := pair(t)
	for name, junk := range map[string][]byte{
		"bytes": bytes.Repeat([]byte{0x7a, 0, 0x10, 0, 0}, 1<<20),
		"heads": bytes.Repeat([]byte{0x01}, maxHeads+1),
	} {
		b.SetStreamHandler(Protocol(address), func(s network.Stream) {
			for range 8 {
				if _, err := s.Write(junk); err != nil || name == "heads" {
					break
				}
			}
			s.Close()
		})
		got, err := Exchange(testContext(t), a, b.ID(), address, forJS())
		if !errors.Is(err, ErrTooMuch) || len(got) > maxHeads {
			t.Errorf("%s: %d heads, %v", name, len(got), err)
		}
	}
}

func TestProtocolsAreThoseOfAddresses(t *testing.T) {
	if got, ok := Address(Protocol(address)); !ok || got != address {
		t.Errorf("%q, %v", got, ok)
	}
	for _, p := range []string{
		"", "/orbitdb/heads", "/orbitdb/heads/", "/orbitdb/heads/orbitdb/", "/orbitdb/heads" + address + "/", "/orbitdb/heads" + address + "x",
		"/orbitdb/heads/" + address, address, "/orbitdb/heads" + strings.ToUpper(address), "/orbitdb/heads" + address + "/name",
	} {
		if got, ok := Address(protocol.ID(p)); ok {
			t.Errorf("%q is of %q", p, got)
		}
	}
}

func FuzzAddress(f *testing.F) {
	f.Add(string(Protocol(address)))
	f.Add("/orbitdb/heads/orbitdb/")
	f.Fuzz(func(t *testing.T, p string) {
		if a, ok := Address(protocol.ID(p)); ok && string(Protocol(a)) != p {
			t.Errorf("%q is of %q", p, a)
		}
	})
}
