package library_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/boxo/files"
	"github.com/ipfs/boxo/keystore"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	mh "github.com/multiformats/go-multihash"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/library/piece"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/swarm"
)

// testLibrary is a library on a disk in memory, without a network.
type testLibrary struct {
	disk  *storetest.Disk
	keys  *keystore.MemKeystore
	files *memoryFiles
	host  host.Host

	store *store.Store
	orbit *orbit.Orbit
	swarm *swarm.Swarm
	*library.Library
}

func newTestLibrary(t testing.TB) *testLibrary {
	h := &testLibrary{disk: storetest.NewDisk(), keys: keystore.NewMemKeystore(), files: newMemoryFiles()}
	var err error
	h.host, err = libp2p.New(libp2p.NoListenAddrs)
	must(t, err)
	t.Cleanup(func() { h.host.Close() })
	h.openOrbit(t)
	h.open(t)
	t.Cleanup(func() { h.close(t) })
	return h
}

func (h *testLibrary) openOrbit(t testing.TB) {
	t.Helper()
	h.store = store.New(h.disk, "/npp/orbit")
	var err error
	h.orbit, err = orbit.New(context.Background(), orbit.Config{Store: h.store, Keystore: h.keys})
	must(t, err)
}

func (h *testLibrary) open(t testing.TB) {
	t.Helper()
	var err error
	h.swarm, err = swarm.New(t.Context(), swarm.Config{Host: h.host, Store: store.New(h.disk, "/npp/swarm")})
	must(t, err)
	h.Library, err = library.New(t.Context(), library.Config{
		Orbit: h.orbit, Host: h.host, Files: h.files, Store: store.New(h.disk, "/npp/library"), Swarm: h.swarm,
	})
	must(t, err)
}

func (h *testLibrary) close(t testing.TB) {
	t.Helper()
	must(t, h.Library.Close())
	must(t, h.swarm.Close())
	must(t, h.orbit.Close())
}

func (h *testLibrary) restart(t testing.TB) {
	t.Helper()
	h.close(t)
	h.openOrbit(t)
	h.open(t)
}

// memoryFiles is Files in memory.
type memoryFiles struct {
	mu     sync.Mutex
	has    map[cid.Cid][]byte
	pinned map[cid.Cid]string // pin names
}

func newMemoryFiles() *memoryFiles {
	return &memoryFiles{has: make(map[cid.Cid][]byte), pinned: make(map[cid.Cid]string)}
}

func cidOf(data []byte) cid.Cid {
	sum, err := mh.Sum(data, mh.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV0(sum)
}

func (s *memoryFiles) Add(ctx context.Context, f files.File) (cid.Cid, error) {
	data, err := io.ReadAll(f)
	if err != nil {
		return cid.Undef, err
	}
	c := cidOf(data)
	s.mu.Lock()
	s.has[c] = data
	s.mu.Unlock()
	return c, s.Pin(ctx, c, nil)
}

func (s *memoryFiles) Pin(_ context.Context, c cid.Cid, _ func(int)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.has[c]; !ok {
		return errors.New("nobody has it")
	}
	if _, ok := s.pinned[c]; !ok {
		s.pinned[c] = library.PinName
	}
	return nil
}

func (s *memoryFiles) Unpin(_ context.Context, c cid.Cid) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pinned[c] != library.PinName {
		return false, nil
	}
	delete(s.pinned, c)
	return true, nil
}

// memoryFile is a file in memory.
type memoryFile struct {
	files.File
	data *bytes.Reader
}

func (f memoryFile) Read(p []byte) (int, error)               { return f.data.Read(p) }
func (f memoryFile) Seek(at int64, whence int) (int64, error) { return f.data.Seek(at, whence) }

func (s *memoryFiles) Open(_ context.Context, c cid.Cid) (library.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.has[c]
	if !ok {
		return nil, errors.New("nobody has it")
	}
	return memoryFile{files.NewBytesFile(data), bytes.NewReader(data)}, nil
}

func (h *testLibrary) userDatabase(t testing.TB) *orbit.KeyValue {
	t.Helper()
	kv, err := h.Databases(t.Context())[1].DB.KeyValue()
	must(t, err)
	return kv
}

// profile returns the content of the user database.
func (h *testLibrary) profile(t testing.TB) (lines []string) {
	t.Helper()
	for item, err := range h.Profile(t.Context()) {
		must(t, err)
		lines = append(lines, item.Key.String()+"="+item.Value.String())
	}
	slices.Sort(lines)
	return lines
}

// list returns the pieces that match a query, as hash, title and counts.
func (h *testLibrary) list(t testing.TB, q library.Query) (lines []string) {
	t.Helper()
	pieces, problems, err := h.Pieces(t.Context(), q)
	must(t, err)
	if len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	for p, err := range pieces {
		must(t, err)
		lines = append(lines, fmt.Sprintf("%s %s %d/%d", p.Hash, p.Title, p.Practice.Own, p.Practice.All))
	}
	return lines
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

func ptr(s string) *string { return &s }

func TestNewUserDatabaseHasTheInitialFields(t *testing.T) {
	h := newTestLibrary(t)
	stores := h.Databases(t.Context())
	pieces, practice := stores[0], stores[3]
	if pieces.Err != nil || pieces.DB.IndexBy() != "hash" || pieces.DB.Type() != orbit.TypeDocuments {
		t.Fatalf("%+v", pieces)
	}
	id := h.host.ID().String()
	want := []string{
		`"nodeId"="` + id + `"`, `"pieces"="` + pieces.DB.Address() + `"`,
		`"practice"="` + practice.DB.Address() + `"`, `"username"="musician-` + id[len(id)-6:] + `"`,
	}
	if got := h.profile(t); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for i, name := range []string{"pieces", "user", "companions", "practice"} {
		s := stores[i]
		if s.Name != name || s.Err != nil {
			t.Fatalf("%+v", s)
		}
		capabilities, err := s.DB.Access().Capabilities(t.Context())
		if err != nil || !maps.EqualFunc(capabilities, map[string][]string{"admin": {h.orbit.Identity().ID}}, slices.Equal) {
			t.Errorf("%s: %v, %v", s.Name, capabilities, err)
		}
		must(t, s.DB.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
	}
}

func TestOnlyMissingFieldsAreFilledIn(t *testing.T) {
	h := newTestLibrary(t)
	_, err := h.userDatabase(t).Put(t.Context(), library.KeyUsername, 304532)
	must(t, err)
	_, err = h.userDatabase(t).Delete(t.Context(), library.KeyNodeID)
	must(t, err)
	before := h.profile(t)
	h.restart(t)
	got := h.profile(t)
	if len(got) != 4 || len(before) != 3 || got[3] != `"username"=304532` {
		t.Errorf("before %q, then %q", before, got)
	}
	if name, err := h.Username(t.Context()); name != "304532" || err != nil {
		t.Errorf("username %q, %v", name, err)
	}
	stats, err := h.Databases(t.Context())[1].DB.Stats(t.Context())
	must(t, err)
	h.restart(t)
	again, err := h.Databases(t.Context())[1].DB.Stats(t.Context())
	must(t, err)
	if stats.Entries != again.Entries {
		t.Errorf("%d entries, then %d: an entry is added at each start", stats.Entries, again.Entries)
	}
}

func TestDamagedDatabaseIsReportedAndRecovers(t *testing.T) {
	for i, name := range []string{library.PiecesName, library.UserName, library.CompanionsName, library.PracticeName} {
		h := newTestLibrary(t)
		_, _, err := h.AddHash(t.Context(), "QmTitle", library.Details{}, false, nil)
		wantErr(t, err, library.ErrInvalid)
		address := h.Databases(t.Context())[i].DB.Address()
		h.close(t)
		damage(t, h.disk, address)
		h.openOrbit(t)
		h.open(t)
		stores := h.Databases(t.Context())
		for j, s := range stores {
			switch {
			case j == i && (!errors.Is(s.Err, orbit.ErrDamaged) || s.Name != name || s.DB != nil):
				t.Errorf("%s: %+v", name, s)
			case j != i && (s.Err != nil || s.DB == nil):
				t.Errorf("%s is damaged, and %s: %+v", name, s.Name, s)
			}
		}
		_, err = h.orbit.Rebuild(t.Context(), address)
		must(t, err)
		if s := h.Databases(t.Context())[i]; s.Err != nil || s.DB.Address() != address {
			t.Errorf("%s, rebuilt: %+v", name, s)
		}
		if got := h.profile(t); len(got) != 4 {
			t.Errorf("profile %q", got)
		}
	}
}

// damage overwrites the summary of a log.
func damage(t *testing.T, disk *storetest.Disk, address string) {
	t.Helper()
	s := store.New(disk, "/npp/orbit")
	defer s.Close()
	r, err := s.Get(t.Context(), "database/"+strings.TrimPrefix(address, "/orbitdb/"))
	must(t, err)
	var record struct{ Number int }
	must(t, json.Unmarshal(r, &record))
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		return tx.Put(fmt.Sprintf("log/%d/summary", record.Number), []byte("junk"))
	}))
}

func TestDatabasesOfEarlierVersionsRetainTheirAddresses(t *testing.T) {
	h := newTestLibrary(t)
	managed := h.Databases(t.Context())[0].DB.Address()
	h.close(t)
	h.disk = storetest.NewDisk()
	h.openOrbit(t)
	old, err := h.orbit.Create(t.Context(), "pieces", orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"})
	must(t, err)
	if old.Address() == managed {
		t.Fatal("both have the same address")
	}
	docs, err := old.Documents()
	must(t, err)
	_, err = docs.Put(t.Context(), map[string]any{"hash": "QmOld", "title": "Old"})
	must(t, err)
	h.open(t)
	if got := h.Databases(t.Context())[0].DB.Address(); got != old.Address() {
		t.Errorf("the address of the pieces is %s, was %s", got, old.Address())
	}
	if got := h.list(t, library.Query{}); !slices.Equal(got, []string{"QmOld Old 0/0"}) {
		t.Errorf("%q", got)
	}
	// A database that is created by hand later does not replace the library's
	// own.
	user := h.Databases(t.Context())[1].DB.Address()
	_, err = h.orbit.Create(t.Context(), "user", orbit.Options{Type: orbit.TypeKeyValue, Access: orbit.Access{Write: []string{"*"}}})
	must(t, err)
	h.restart(t)
	if got := h.Databases(t.Context())[1].DB.Address(); got != user {
		t.Errorf("the address of the user database is %s, was %s", got, user)
	}
}

var prelude = []byte("X:1\nT:Prelude in C\nC:J. S. Bach\nK:C\nCDEF|\n")

func TestFileIsOnePiece(t *testing.T) {
	h := newTestLibrary(t)
	p, outcome, err := h.AddFile(t.Context(), files.NewBytesFile(prelude), "prelude.abc", library.Details{})
	must(t, err)
	if outcome != library.Added || p.Title != "Prelude in C" || p.Composer != "J. S. Bach" || p.Instrument != "Piano" || p.Name != "prelude.abc" || p.Size != uint64(len(prelude)) {
		t.Fatalf("%s: %+v", outcome, p)
	}
	if _, outcome, err = h.AddFile(t.Context(), files.NewBytesFile(prelude), "prelude.abc", library.Details{}); outcome != library.Unchanged || err != nil {
		t.Errorf("again: %s, %v", outcome, err)
	}
	p, outcome, err = h.AddFile(t.Context(), files.NewBytesFile(prelude), "other.abc", library.Details{Instrument: ptr("Lute"), Title: ptr("Präludium")})
	if must(t, err); outcome != library.Updated || p.Instrument != "Lute" || p.Title != "Präludium" || p.Name != "prelude.abc" {
		t.Errorf("%s: %+v", outcome, p)
	}
	// The existing title takes precedence over that in the file.
	if p, outcome, err = h.AddFile(t.Context(), files.NewBytesFile(prelude), "prelude.abc", library.Details{}); outcome != library.Unchanged || p.Title != "Präludium" || err != nil {
		t.Errorf("again: %s, %+v, %v", outcome, p, err)
	}
	// Another spelling of the CID is the same piece.
	v1 := cid.NewCidV1(cid.DagProtobuf, cidOf(prelude).Hash()).String()
	p, outcome, err = h.AddHash(t.Context(), v1, library.Details{Title: ptr("")}, false, nil)
	if must(t, err); outcome != library.Updated || p.Hash != cidOf(prelude).String() || p.Title != "" {
		t.Errorf("%s: %+v", outcome, p)
	}
	if got := h.list(t, library.Query{}); len(got) != 1 {
		t.Errorf("%q", got)
	}
	h.restart(t)
	if got := h.list(t, library.Query{Query: piece.Query{Instrument: "lute"}}); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

func TestUpdateRetainsFieldsOfOtherApps(t *testing.T) {
	h := newTestLibrary(t)
	docs, err := h.Databases(t.Context())[0].DB.Documents()
	must(t, err)
	_, err = docs.Put(t.Context(), map[string]any{"hash": "QmX", "counter": "/orbitdb/x", "tags": []any{"solo", 1.5}})
	must(t, err)
	note, err := value.Of("slowly")
	must(t, err)
	_, outcome, err := h.Update(t.Context(), "QmX", library.Details{Composer: ptr("Bach"), Fields: map[string]value.Value{"note": note}})
	must(t, err)
	item, err := docs.Get(t.Context(), "QmX")
	must(t, err)
	want, err := value.Of(map[string]any{"hash": "QmX", "counter": "/orbitdb/x", "tags": []any{"solo", 1.5}, "composer": "Bach", "note": "slowly"})
	must(t, err)
	if outcome != library.Updated || !item.Value.Equal(want) {
		t.Errorf("%s: %s", outcome, item.Value)
	}
	_, _, err = h.Update(t.Context(), "QmY", library.Details{Composer: ptr("Bach")})
	wantErr(t, err, orbit.ErrNotFound)
	for _, d := range []library.Details{
		{Instrument: ptr(" ")}, {Title: ptr("a\nb")}, {Title: ptr(string(make([]byte, 2000)))},
		{Fields: map[string]value.Value{"hash": note}}, {Fields: map[string]value.Value{"": note}},
	} {
		_, _, err = h.Update(t.Context(), "QmX", d)
		wantErr(t, err, library.ErrInvalid)
	}
}

func TestRemoveUnpinsOnlyPinsOfAdd(t *testing.T) {
	h := newTestLibrary(t)
	other := []byte("X:1\nT:Air\nK:G\nGABc|\n")
	h.files.has[cidOf(other)] = other
	h.files.pinned[cidOf(other)] = "by hand"
	for _, data := range [][]byte{prelude, other} {
		_, _, err := h.AddFile(t.Context(), files.NewBytesFile(data), "x.abc", library.Details{})
		must(t, err)
	}
	p, unpinned, err := h.Remove(t.Context(), cidOf(prelude).String())
	if must(t, err); !unpinned || p.Title != "Prelude in C" {
		t.Errorf("%v %+v", unpinned, p)
	}
	if _, unpinned, err = h.Remove(t.Context(), cidOf(other).String()); unpinned || err != nil {
		t.Errorf("a pin by hand: %v, %v", unpinned, err)
	}
	if _, ok := h.files.pinned[cidOf(prelude)]; ok || h.files.pinned[cidOf(other)] != "by hand" {
		t.Errorf("%v", h.files.pinned)
	}
	_, _, err = h.Remove(t.Context(), cidOf(prelude).String())
	wantErr(t, err, orbit.ErrNotFound)
	if got := h.list(t, library.Query{}); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestNoCountIsLost(t *testing.T) {
	h := newTestLibrary(t)
	hash := cidOf(prelude).String()
	_, _, err := h.AddFile(t.Context(), files.NewBytesFile(prelude), "x.abc", library.Details{})
	must(t, err)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if _, err := h.Practise(t.Context(), hash, 3); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	// Other identities count for the same piece, in any spelling. Invalid items
	// do not count.
	kv, err := h.Databases(t.Context())[3].DB.KeyValue()
	must(t, err)
	v1 := cid.NewCidV1(cid.DagProtobuf, cidOf(prelude).Hash()).String()
	for key, v := range map[string]any{
		v1 + "/02ab": 5, hash + "/junk": "many", hash + "/minus": -7, hash + "/half": 1.5, hash: 9, "/": 9, hash + "/": 0,
	} {
		_, err := kv.Put(t.Context(), key, v)
		must(t, err)
	}
	h.restart(t)
	n, err := h.Practised(t.Context(), v1)
	if want := (library.Count{Own: 65, All: 65}); n != want || err != nil {
		t.Errorf("%+v, %v, want %+v", n, err, want)
	}
	item, err := kv.Get(t.Context(), hash+"/"+h.orbit.Identity().ID)
	if err == nil && item.Value.String() != "60" {
		t.Errorf("the own count is %s", item.Value)
	}
	for _, n := range []uint64{0, library.MaxPractice + 1} {
		_, err := h.Practise(t.Context(), hash, n)
		wantErr(t, err, library.ErrInvalid)
	}
	if got := h.list(t, library.Query{Sort: library.ByPractice}); !slices.Equal(got, []string{hash + " Prelude in C 65/65"}) {
		t.Errorf("%q", got)
	}
}

func TestAmbiguousPrefixIsNotResolved(t *testing.T) {
	h := newTestLibrary(t)
	docs, err := h.Databases(t.Context())[0].DB.Documents()
	must(t, err)
	for _, hash := range []string{"QmAAA1", "QmAAA2", "QmAAA", "QmB"} {
		_, err = docs.Put(t.Context(), map[string]any{"hash": hash})
		must(t, err)
	}
	h.restart(t)
	for given, want := range map[string]string{"QmAAA": "QmAAA", "QmB": "QmB", "Qm": "", "QmAAA1": "QmAAA1", "/ipfs/QmB": "QmB", "QmAA": ""} {
		p, err := h.Resolve(t.Context(), given, false)
		_, ambiguous := errors.AsType[*library.AmbiguousError](err)
		if p.Hash != want || ambiguous != (want == "") {
			t.Errorf("%s: %s, %v", given, p.Hash, err)
		}
	}
	for _, given := range []string{"qmb", "mB", "QmBB", "X"} {
		_, err := h.Resolve(t.Context(), given, true)
		wantErr(t, err, orbit.ErrNotFound)
	}
	_, err = h.Resolve(t.Context(), " ", true)
	wantErr(t, err, library.ErrInvalid)
}

func TestManagedProfileFieldsCannotBeChanged(t *testing.T) {
	h := newTestLibrary(t)
	text := func(s string) value.Value { return value.Text(s) }
	must(t, h.SetProfileField(t.Context(), "username", text("Clara")))
	must(t, h.SetProfileField(t.Context(), "town", text("Leipzig")))
	if v, err := h.ProfileField(t.Context(), "town"); err != nil || !v.Equal(text("Leipzig")) {
		t.Errorf("%s, %v", v, err)
	}
	if name, err := h.Username(t.Context()); name != "Clara" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	must(t, h.RemoveProfileField(t.Context(), "town"))
	wantErr(t, h.RemoveProfileField(t.Context(), "town"), orbit.ErrNotFound)
	for _, key := range []string{"nodeId", "pieces", "practice"} {
		wantErr(t, h.SetProfileField(t.Context(), key, text("x")), library.ErrManaged)
		wantErr(t, h.RemoveProfileField(t.Context(), key), library.ErrManaged)
	}
	wantErr(t, h.RemoveProfileField(t.Context(), "username"), library.ErrManaged)
	for _, name := range []string{"", " x", "a\nb", "a\u202eb", h.host.ID().String(), "/x", "-x", string(bytes.Repeat([]byte("x"), 65))} {
		wantErr(t, h.SetProfileField(t.Context(), "username", text(name)), library.ErrInvalid)
	}
	wantErr(t, h.SetProfileField(t.Context(), "", text("x")), library.ErrInvalid)
	if got := h.profile(t); len(got) != 4 {
		t.Errorf("%q", got)
	}
}

func FuzzOfferIn(f *testing.F) {
	for _, s := range []string{`{"userDb":"/orbitdb/zdpuA"}`, `{"userDb":5}`, `[]`, `"x"`, `{"userDb":"/orbitdb/x/user","a":1}`, "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		address, ok := library.OfferIn(data)
		if !ok {
			return
		}
		if len(address) > 512 {
			t.Errorf("%q", address)
		}
		_ = library.Offer{Address: address}.Check()
	})
}
