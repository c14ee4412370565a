package library

import (
	"errors"
	"maps"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ptest "github.com/libp2p/go-libp2p/core/test"

	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

func TestPeerTableIsTheSameInMemoryAndOnDisk(t *testing.T) {
	disk := storetest.NewDisk()
	s := store.New(disk, "/library")
	defer s.Close()
	load := func() *peerTable[string] {
		t.Helper()
		table, err := loadPeerTable[string](t.Context(), s, "name")
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	table := load()
	want := func(what string, records map[peer.ID]string) {
		t.Helper()
		if got := table.all(); !maps.Equal(got, records) || table.size() != len(records) {
			t.Errorf("%s: %q in memory", what, got)
		}
		if got := load().all(); !maps.Equal(got, records) {
			t.Errorf("%s: %q on disk", what, got)
		}
	}
	a, b := ptest.RandPeerIDFatal(t), ptest.RandPeerIDFatal(t)
	if err := table.put(t.Context(), a, "alice", ""); err != nil {
		t.Fatal(err)
	}
	want("put", map[peer.ID]string{a: "alice"})
	disk.FailAfter(1, storetest.Lasting)
	if err := table.put(t.Context(), b, "bob", a); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("put on a full disk: %v", err)
	}
	if err := table.remove(t.Context(), a); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("remove on a full disk: %v", err)
	}
	disk.FailAfter(0, storetest.Lasting)
	want("failed", map[peer.ID]string{a: "alice"})
	if err := table.put(t.Context(), b, "bob", a); err != nil {
		t.Fatal(err)
	}
	want("replaced", map[peer.ID]string{b: "bob"})
	if err := s.Put(t.Context(), "name/junk", []byte(`"junk"`)); err != nil {
		t.Fatal(err)
	}
	want("damaged", map[peer.ID]string{b: "bob"})
	if err := table.remove(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	want("removed", map[peer.ID]string{})
}
