package library_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/go-cid"
	ptest "github.com/libp2p/go-libp2p/core/test"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/space"
	"github.com/newpieceplease/npp/space/spacetest"
)

func TestFullDiskStoresNothingOfPeersAndResumes(t *testing.T) {
	t.Parallel()
	disk := spacetest.New()
	a, b, c := newNode(t), newNodeOn(t, disk.Disk), newNode(t)
	a.putOwnPieces(t, "Qm1", "one", "Qm2", "two")
	disk.Set(spacetest.Floor - 1)
	b.addCompanion(a) // The owner may still add companions.
	c.addCompanion(b)
	full := func() bool {
		return slices.ContainsFunc(b.problemsOf(t, a.host.ID()), func(s library.DatabaseProblem) bool { return errors.Is(s.Err, space.ErrFull) })
	}
	eventually(t, "the full disk is reported", full)
	eventually(t, "b has the card of c", func() bool {
		return slices.ContainsFunc(b.NearbyPeers(), func(n library.NearbyPeer) bool { return n.Peer == c.host.ID() && n.Follows })
	})
	follows := func() bool {
		return slices.ContainsFunc(b.Companions(t.Context()), func(p library.Companion) bool { return p.Peer == c.host.ID() && p.Follows })
	}
	if follows() {
		t.Error("a follower is stored on a full disk")
	}
	for d, err := range b.orbit.Databases(t.Context()) {
		must(t, err)
		if !d.Access && !slices.Contains(b.DatabaseAddresses(), d.Address) {
			t.Errorf("a database came to a full disk: %+v", d)
		}
	}
	disk.Set(2 * spacetest.Floor)
	eventually(t, "the companion's pieces are here", func() bool {
		p, err := b.Companion(t.Context(), a.host.ID())
		return err == nil && p.Ready && p.Pieces == 2 && p.Problems == nil
	})
	eventually(t, "the follower is known", follows)
}

// liveMessages are messages that arrive one by one.
type liveMessages chan *message.Message

func (in liveMessages) Listen(ctx context.Context, f message.Filter) iter.Seq2[*message.Message, error] {
	return func(yield func(*message.Message, error) bool) {
		f.Ready()
		for {
			select {
			case m := <-in:
				if !yield(m, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func TestOffersWaitForDiskSpace(t *testing.T) {
	t.Parallel()
	disk, h, in := spacetest.New(), newTestLibrary(t), make(liveMessages)
	offer, err := json.Marshal(map[string]string{"userDb": h.absentAddress(t, "user")})
	must(t, err)
	waits := func(what string) {
		t.Helper()
		before := disk.Looks()
		eventually(t, what, func() bool { return disk.Looks() > before+3 })
	}
	disk.Set(spacetest.Floor - 1)
	h.reopenWith(t, func(c *library.Config) { c.Messages, c.Disk = in, disk.Disk })
	waits("it looks at nothing after a start on a full disk")
	for i := range 2 {
		disk.Set(2 * spacetest.Floor)
		from := ptest.RandPeerIDFatal(t)
		in <- &message.Message{From: from, Data: []byte("no offer")}
		disk.Set(spacetest.Floor - 1)
		in <- &message.Message{From: from, Data: offer}
		waits("the offer waits")
		if n := len(offersOf(t, h)); n != i {
			t.Errorf("%d offers, want %d", n, i)
		}
		disk.Set(2 * spacetest.Floor)
		eventually(t, "the offer is there", func() bool {
			return slices.ContainsFunc(offersOf(t, h), func(o library.Offer) bool { return o.Peer == from })
		})
	}
}

// offersOf returns the offers of a library, ignoring ErrBeingRead.
func offersOf(t *testing.T, h *testLibrary) []library.Offer {
	t.Helper()
	offers, err := h.Offers(t.Context())
	if err != nil && !errors.Is(err, library.ErrBeingRead) {
		t.Fatal(err)
	}
	return offers
}

// endlessFiles are Files whose Pin never ends.
type endlessFiles struct{ *memoryFiles }

func (endlessFiles) Pin(ctx context.Context, _ cid.Cid, progress func(int)) error {
	progress(1)
	<-ctx.Done()
	return ctx.Err()
}

func TestNothingIsAddedToAFullDisk(t *testing.T) {
	t.Parallel()
	disk, h := spacetest.New(), newTestLibrary(t)
	h.reopenWith(t, func(c *library.Config) { c.Disk = disk.Disk })
	hash := cidOf(prelude).String()
	add := func(f files.File) error {
		_, _, err := h.AddFile(t.Context(), f, "prelude.abc", library.Details{})
		return err
	}
	disk.Set(spacetest.Reserve - 1)
	wantErr(t, add(files.NewBytesFile(prelude)), space.ErrFull)
	_, _, err := h.AddHash(t.Context(), hash, library.Details{}, true, nil)
	wantErr(t, err, space.ErrFull)
	if len(h.files.has) > 0 || h.list(t, library.Query{}) != nil {
		t.Errorf("added: %d files, %q", len(h.files.has), h.list(t, library.Query{}))
	}
	disk.Set(2 * spacetest.Floor)
	must(t, add(files.NewBytesFile(prelude)))

	h.reopenWith(t, func(c *library.Config) { c.Disk, c.Files = disk.Disk, endlessFiles{h.files} })
	_, _, err = h.AddHash(t.Context(), hash, library.Details{}, true, func(int) { disk.Set(spacetest.Reserve - 1) })
	wantErr(t, err, space.ErrFull)
	if p, err := h.Resolve(t.Context(), hash, false); err != nil || p.Hash != hash {
		t.Errorf("a piece cannot be found on a full disk: %v", err)
	}
}

func TestAddStopsReadingWhenTheDiskIsFull(t *testing.T) {
	t.Parallel()
	const fits = 1 << 20
	h := newTestLibrary(t)
	large := bytes.NewReader(make([]byte, 4*fits))
	h.reopenWith(t, func(c *library.Config) {
		c.Disk = space.New(space.Config{FreeBytes: spacetest.Floor, Interval: time.Hour, Probe: func() (space.Usage, error) {
			written := 4*fits - large.Len()
			return space.Usage{Free: uint64(max(spacetest.Reserve+fits-written, 0))}, nil
		}})
	})
	_, _, err := h.AddFile(t.Context(), files.NewReaderFile(large), "large.pdf", library.Details{})
	wantErr(t, err, space.ErrFull)
	if large.Len() < 2*fits || len(h.files.has) > 0 {
		t.Errorf("%d bytes remain, %d files were added", large.Len(), len(h.files.has))
	}
}
