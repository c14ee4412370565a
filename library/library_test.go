package library_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/ipfs/boxo/keystore"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/oplog"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

const self = "12D3KooWCP9aGSdJBXUW5CYeYnGSGt1SkQUV8g94ThnbjVHFMVwj"

type home struct {
	disk *storetest.Disk
	keys *keystore.MemKeystore

	store *store.Store
	orbit *orbit.Orbit
	*library.Library
}

func newHome(t *testing.T) *home {
	h := &home{disk: storetest.NewDisk(), keys: keystore.NewMemKeystore()}
	h.open(t)
	return h
}

// open opens the library, again if it is open.
func (h *home) open(t *testing.T) {
	t.Helper()
	if h.orbit != nil {
		must(t, h.orbit.Close())
	}
	h.store = store.New(h.disk, "/npp/orbit")
	var err error
	h.orbit, err = orbit.New(t.Context(), orbit.Config{Store: h.store, Keystore: h.keys})
	must(t, err)
	id, err := peer.Decode(self)
	must(t, err)
	h.Library = library.Open(t.Context(), h.orbit, id)
	t.Cleanup(func() { h.orbit.Close() })
}

func (h *home) user(t *testing.T) *orbit.KeyValue {
	t.Helper()
	kv, err := h.Stores(t.Context())[1].DB.KeyValue()
	must(t, err)
	return kv
}

// profile returns what is in the user store.
func (h *home) profile(t *testing.T) (lines []string) {
	t.Helper()
	for item, err := range h.user(t).All(t.Context()) {
		must(t, err)
		lines = append(lines, item.Key.String()+"="+item.Value.String())
	}
	slices.Sort(lines)
	return lines
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUserStoreBeginsWithTheFacts(t *testing.T) {
	h := newHome(t)
	pieces := h.Stores(t.Context())[0]
	if pieces.Err != nil || pieces.DB.IndexBy() != "hash" || pieces.DB.Type() != orbit.TypeDocuments {
		t.Fatalf("%+v", pieces)
	}
	want := []string{`"nodeId"="` + self + `"`, `"pieces"="` + pieces.DB.Address() + `"`, `"username"="musician-HFMVwj"`}
	if got := h.profile(t); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, s := range h.Stores(t.Context()) {
		capabilities, err := s.DB.Access().Capabilities(t.Context())
		if err != nil || !slices.Equal(capabilities["write"], []string{h.orbit.Identity().ID}) {
			t.Errorf("%s: %v, %v", s.Name, capabilities, err)
		}
	}
}

func TestOnlyWhatIsMissingIsFilledIn(t *testing.T) {
	h := newHome(t)
	_, err := h.user(t).Put(t.Context(), library.KeyUsername, 304532)
	must(t, err)
	_, err = h.user(t).Delete(t.Context(), library.KeyNodeID)
	must(t, err)
	before := h.profile(t)
	h.open(t)
	got := h.profile(t)
	if len(got) != 3 || len(before) != 2 || got[2] != `"username"=304532` {
		t.Errorf("before %q, then %q", before, got)
	}
	if name, err := h.Username(t.Context()); name != "304532" || err != nil {
		t.Errorf("username %q, %v", name, err)
	}
	stats, err := h.Stores(t.Context())[1].DB.Log().Stats(t.Context())
	must(t, err)
	h.open(t)
	again, err := h.Stores(t.Context())[1].DB.Log().Stats(t.Context())
	must(t, err)
	if stats.Entries != again.Entries {
		t.Errorf("%d entries, then %d: something is put at each start", stats.Entries, again.Entries)
	}
}

func TestDamagedStoreIsShownAndComesBack(t *testing.T) {
	for i, name := range []string{library.PiecesName, library.UserName} {
		h := newHome(t)
		address := h.Stores(t.Context())[i].DB.Address()
		summary := []string{"log/1/summary", "log/2/summary"}[i]
		must(t, h.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Put(summary, []byte("junk")) }))
		h.open(t)
		stores := h.Stores(t.Context())
		if s := stores[i]; !errors.Is(s.Err, oplog.ErrDamaged) || s.Name != name || s.DB != nil {
			t.Errorf("%s: %+v", name, s)
		}
		if s := stores[1-i]; s.Err != nil || s.DB == nil {
			t.Errorf("the other store: %+v", s)
		}
		_, err := h.orbit.Rebuild(t.Context(), address)
		must(t, err)
		if s := h.Stores(t.Context())[i]; s.Err != nil || s.DB.Address() != address {
			t.Errorf("%s, rebuilt: %+v", name, s)
		}
		if got := h.profile(t); len(got) != 3 {
			t.Errorf("profile %q", got)
		}
	}
}
