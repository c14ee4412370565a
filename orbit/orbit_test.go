package orbit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/boxo/keystore"
	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// secret returns a private key whose bytes are all equal, as in the vectors.
func secret(t testing.TB, b byte) crypto.PrivKey {
	t.Helper()
	key, err := crypto.UnmarshalSecp256k1PrivateKey(bytes.Repeat([]byte{b}, 32))
	must(t, err)
	return key
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// peer is an Orbit with its store, disk and keystore.
type peer struct {
	*orbit.Orbit
	disk  *storetest.Disk
	store *store.Store
	keys  *keystore.MemKeystore
}

// The identities A and B of the vectors.
func newA(t testing.TB) *peer { return newPeer(t, 0x11, 0x22) }
func newB(t testing.TB) *peer { return newPeer(t, 0x33, 0x44) }

func newPeer(t testing.TB, root, signing byte) *peer {
	t.Helper()
	p := &peer{disk: storetest.NewDisk(), keys: keystore.NewMemKeystore()}
	must(t, p.keys.Put("orbitdb-root", secret(t, root)))
	must(t, p.keys.Put("orbitdb-signing", secret(t, signing)))
	p.open(t, orbit.Config{})
	return p
}

// open opens the peer's Orbit, after closing the previous one.
func (p *peer) open(t testing.TB, c orbit.Config) {
	t.Helper()
	p.store = store.New(p.disk, "/orbit")
	c.Store, c.Keystore = p.store, p.keys
	var err error
	p.Orbit, err = orbit.New(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { p.Close() })
}

func (p *peer) create(t testing.TB, name string, opts orbit.Options) *orbit.Database {
	t.Helper()
	db, err := p.Create(t.Context(), name, opts)
	must(t, err)
	return db
}

func documents(t testing.TB, db *orbit.Database) *orbit.Documents {
	t.Helper()
	docs, err := db.Documents()
	must(t, err)
	return docs
}

func keyvalue(t testing.TB, db *orbit.Database) *orbit.KeyValue {
	t.Helper()
	kv, err := db.KeyValue()
	must(t, err)
	return kv
}

func events(t testing.TB, db *orbit.Database) *orbit.Events {
	t.Helper()
	ev, err := db.Events()
	must(t, err)
	return ev
}

// items collects "key=value" from an iterator.
func items(t testing.TB, loop iter.Seq2[orbit.Item, error]) []string {
	t.Helper()
	var list []string
	for item, err := range loop {
		must(t, err)
		list = append(list, item.Key.String()+"="+item.Value.String())
	}
	return list
}

// entries returns the blocks of a database in the order of arrival.
func entries(t testing.TB, db *orbit.Database) (bs []block.Block) {
	t.Helper()
	for a, err := range db.Log().Stored(t.Context(), 0) {
		must(t, err)
		bs = append(bs, a.Entry.Block)
	}
	return bs
}

// join offers blocks to a database and returns the results.
func join(t testing.TB, db *orbit.Database, bs ...block.Block) []orbit.JoinResult {
	t.Helper()
	joined, err := db.Join(t.Context(), orbit.NewCandidates(bs...), orbit.JoinOptions{})
	must(t, err)
	return joined
}

var anyone = orbit.Access{Write: []string{manifest.Anyone}}

func TestAddressesAreThoseOfJavaScript(t *testing.T) {
	var vectors struct {
		Pieces struct{ Address string } `json:"documents_pieces"`
		User   struct{ Address string } `json:"keyvalue_user"`
		Events struct {
			Address  string
			Manifest struct {
				JSON struct{ Name string }
			}
		} `json:"events_log"`
		Managed struct {
			Address string
			Access  string `json:"access_controller_address"`
		} `json:"orbitdb_access_controller"`
	}
	text, err := os.ReadFile("testdata/javascript.json")
	must(t, err)
	must(t, json.Unmarshal(text, &vectors))
	a := newA(t)
	meta, err := value.Of(map[string]any{"hello": "world"})
	must(t, err)
	managed := a.create(t, "acdb", orbit.Options{Type: orbit.TypeKeyValue, Access: orbit.Access{Managed: true}})
	for want, got := range map[string]string{
		vectors.Pieces.Address:  a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments}).Address(),
		vectors.User.Address:    a.create(t, "user", orbit.Options{Type: orbit.TypeKeyValue, Access: anyone, Meta: meta}).Address(),
		vectors.Managed.Address: managed.Address(),
		vectors.Managed.Access:  managed.Access().Address(),
		"/orbitdb/zdpuAyMuqhtFoBhERjmFH2kRm45jNBNbA69vWVr5Q2gjUEVgt": a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments, Access: anyone}).Address(),
		"/orbitdb/zdpuB133Mbibi6fXznU8eaRDYBT1nqpmgCRJjTqE4xP8Mtfm7": a.create(t, "user", orbit.Options{Type: orbit.TypeKeyValue, Access: anyone}).Address(),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestImpossibleDatabasesAreRefused(t *testing.T) {
	a := newA(t)
	for _, c := range []struct {
		name string
		opts orbit.Options
	}{
		{"", orbit.Options{}},
		{strings.Repeat("n", orbit.MaxName+1), orbit.Options{}},
		{"/orbitdb/x", orbit.Options{}},
		{"n", orbit.Options{Type: "counter"}},
		{"n", orbit.Options{Type: orbit.TypeKeyValue, IndexBy: "hash"}},
	} {
		if db, err := a.Create(t.Context(), c.name, c.opts); !errors.Is(err, orbit.ErrInvalid) {
			t.Errorf("%.20q, %+v: %v, %v", c.name, c.opts, db, err)
		}
	}
	for address, want := range map[string]error{
		"/orbitdb/zdpuAuySXMgf9yscFjEEZCeWqUQMa9rwq8Pe68DDr67DJWao4":        orbit.ErrUnavailable,
		"/orbitdb/zdpuAuySXMgf9yscFjEEZCeWqUQMa9rwq8Pe68DDr67DJWao4/pieces": manifest.ErrLegacyAddress,
		"/orbitdb/Qm":                         manifest.ErrInvalidAddress,
		"":                                    manifest.ErrInvalidAddress,
		manifest.Address(a.Identity().Hash()): manifest.ErrInvalid,
	} {
		if _, err := a.Open(t.Context(), address, orbit.OpenOptions{}); !errors.Is(err, want) {
			t.Errorf("open %q: %v, want %v", address, err, want)
		}
	}
}

func TestDocumentsHaveTheirKeyInAField(t *testing.T) {
	a := newA(t)
	docs := documents(t, a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"}))
	for _, doc := range []any{
		map[string]any{"hash": "Qm1", "n": 1},
		struct {
			Hash string `json:"hash"`
			N    float64
		}{"Qm2", 2},
		json.RawMessage(`{"n":3,"hash":"Qm1"}`),
		map[string]any{"hash": "constructor"},
		map[string]any{"hash": 42},
	} {
		if _, err := docs.Put(t.Context(), doc); err != nil {
			t.Error(err)
		}
	}
	want := []string{`"Qm2"={"N":2,"hash":"Qm2"}`, `"Qm1"={"n":3,"hash":"Qm1"}`, `"constructor"={"hash":"constructor"}`, `42={"hash":42}`}
	if got := items(t, docs.All(t.Context())); !slices.Equal(got, want) {
		t.Errorf("all: %q", got)
	}
	slices.Reverse(want)
	if got := items(t, docs.Iterate(t.Context(), orbit.Page{})); !slices.Equal(got, want) {
		t.Errorf("iterate: %q", got)
	}
	item, err := docs.Get(t.Context(), "Qm1")
	if err != nil || item.Value.String() != `{"n":3,"hash":"Qm1"}` {
		t.Errorf("get: %s, %v", item.Value, err)
	}
	for _, key := range []any{"Qm", "qm1", "", "42", 43, nil, "__proto__"} {
		if item, err := docs.Get(t.Context(), key); !errors.Is(err, orbit.ErrNotFound) {
			t.Errorf("get %v: %s, %v", key, item.Value, err)
		}
	}
	for _, doc := range []any{nil, 5, "Qm1", map[string]any{}, map[string]any{"_id": "x"}, map[string]any{"hash": ""}, map[string]any{"hash": 0}, map[string]any{"hash": nil}, map[string]any{"hash": false}} {
		if hash, err := docs.Put(t.Context(), doc); !errors.Is(err, orbit.ErrInvalid) {
			t.Errorf("put %v: %s, %v", doc, hash, err)
		}
	}
	if _, err := docs.Delete(t.Context(), "Qm1"); err != nil {
		t.Error(err)
	}
	if hash, err := docs.Delete(t.Context(), "Qm1"); !errors.Is(err, orbit.ErrNotFound) {
		t.Errorf("deleted twice: %s, %v", hash, err)
	}
	if _, err := docs.Get(t.Context(), "Qm1"); !errors.Is(err, orbit.ErrNotFound) {
		t.Errorf("get what is deleted: %v", err)
	}
}

func TestPagesOfDocumentsMakeTheWhole(t *testing.T) {
	a := newA(t)
	docs := documents(t, a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments}))
	for i := range 25 {
		_, err := docs.Put(t.Context(), map[string]any{"_id": fmt.Sprint("doc", i%20)})
		must(t, err)
	}
	whole := items(t, docs.Iterate(t.Context(), orbit.Page{}))
	if len(whole) != 20 {
		t.Fatalf("%d documents", len(whole))
	}
	var pages []string
	page := orbit.Page{Limit: 7}
	for {
		var last string
		n := 0
		for item, err := range docs.Iterate(t.Context(), page) {
			must(t, err)
			pages = append(pages, item.Key.String()+"="+item.Value.String())
			last = item.Hash
			n++
		}
		if n > page.Limit {
			t.Fatalf("%d documents on a page", n)
		}
		if n == 0 {
			break
		}
		page.After = last
	}
	if !slices.Equal(pages, whole) {
		t.Errorf("pages: %q, whole: %q", pages, whole)
	}
}

func TestQueryYieldsWhatMatches(t *testing.T) {
	a := newA(t)
	docs := documents(t, a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments}))
	for i := range 10 {
		_, err := docs.Put(t.Context(), map[string]any{"_id": fmt.Sprint(i), "even": i%2 == 0})
		must(t, err)
	}
	even := func(v value.Value) (bool, error) { return v.Field("even").Truthy(), nil }
	if got := items(t, docs.Query(t.Context(), even)); len(got) != 5 || got[0] != `"8"={"_id":"8","even":true}` {
		t.Errorf("got %q", got)
	}
	refused := errors.New("refused")
	for item, err := range docs.Query(t.Context(), func(value.Value) (bool, error) { return false, refused }) {
		if !errors.Is(err, refused) {
			t.Errorf("%v, %v", item, err)
		}
		break
	}
}

func TestManyArePutUntilOneCannotBe(t *testing.T) {
	a := newA(t)
	db := a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments})
	docs := documents(t, db)
	n, err := docs.PutMany(t.Context(), func(yield func(any) bool) {
		for i := range 1000 {
			var doc any = map[string]any{"_id": fmt.Sprint(i)}
			if i == 700 {
				doc = "no document"
			}
			if !yield(doc) {
				return
			}
		}
	})
	if n != 700 || !errors.Is(err, orbit.ErrInvalid) {
		t.Errorf("%d, %v", n, err)
	}
	stats, err := db.Log().Stats(t.Context())
	must(t, err)
	if stats.Entries != 700 || stats.Keys != 700 || len(stats.Heads) != 1 || stats.Clock != 700 {
		t.Errorf("%+v", stats)
	}
}

func TestKeyValueIsAsInJavaScript(t *testing.T) {
	a := newA(t)
	db := a.create(t, "user", orbit.Options{Type: orbit.TypeKeyValue})
	kv := keyvalue(t, db)
	_, err := kv.Put(t.Context(), "username", "Ann")
	must(t, err)
	_, err = kv.Put(t.Context(), "bytes", []byte{1, 2, 3})
	must(t, err)
	_, err = kv.Put(t.Context(), "gone", nil)
	must(t, err)
	_, err = kv.Delete(t.Context(), "gone")
	must(t, err)
	_, err = kv.Delete(t.Context(), "never")
	must(t, err)
	if got := items(t, kv.All(t.Context())); !slices.Equal(got, []string{`"username"="Ann"`, `"bytes"={"/":{"bytes":"AQID"}}`}) {
		t.Errorf("got %q", got)
	}
	stats, err := db.Log().Stats(t.Context())
	must(t, err)
	if stats.Entries != 5 || stats.Keys != 2 {
		t.Errorf("%+v", stats)
	}
	if _, err := db.Documents(); !errors.Is(err, orbit.ErrType) {
		t.Errorf("as documents: %v", err)
	}
	if _, err := db.Events(); !errors.Is(err, orbit.ErrType) {
		t.Errorf("as events: %v", err)
	}
}

func TestEventsStayInOrder(t *testing.T) {
	a := newA(t)
	ev := events(t, a.create(t, "concerts", orbit.Options{}))
	var hashes []string
	for i := range 5 {
		hash, err := ev.Add(t.Context(), i)
		must(t, err)
		hashes = append(hashes, hash)
	}
	n, err := ev.AddMany(t.Context(), slices.Values([]any{5, 6, 7}))
	if n != 3 || err != nil {
		t.Fatal(n, err)
	}
	collect := func(loop iter.Seq2[orbit.Event, error]) (list []string) {
		for e, err := range loop {
			must(t, err)
			list = append(list, e.Value.String())
		}
		return list
	}
	if got := collect(ev.All(t.Context())); strings.Join(got, "") != "01234567" {
		t.Errorf("all: %q", got)
	}
	if got := collect(ev.Iterate(t.Context(), orbit.Range{LT: hashes[4], Limit: 2})); strings.Join(got, "") != "32" {
		t.Errorf("iterate: %q", got)
	}
	if got := collect(ev.Iterate(t.Context(), orbit.Range{After: hashes[4], Limit: 2})); strings.Join(got, "") != "32" {
		t.Errorf("the page behind: %q", got)
	}
	if got := collect(ev.Iterate(t.Context(), orbit.Range{After: hashes[4], GTE: hashes[1]})); strings.Join(got, "") != "321" {
		t.Errorf("behind and gte: %q", got)
	}
	e, err := ev.Get(t.Context(), hashes[2])
	if err != nil || e.Value.String() != "2" || e.Hash != hashes[2] {
		t.Errorf("get: %v, %v", e, err)
	}
	for _, hash := range []string{a.Identity().Hash(), "../../x", ""} {
		if _, err := ev.Get(t.Context(), hash); !errors.Is(err, oplog.ErrNotFound) {
			t.Errorf("get %q: %v", hash, err)
		}
	}
}

func TestTooLargeAnEntryIsRefusedWithTheLimit(t *testing.T) {
	a := newA(t)
	db := a.create(t, "concerts", orbit.Options{})
	ev := events(t, db)
	_, err := ev.Add(t.Context(), strings.Repeat("x", entry.MaxSize))
	if !errors.Is(err, entry.ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(entry.MaxSize)) {
		t.Fatal(err)
	}
	if _, err := ev.Add(t.Context(), strings.Repeat("x", entry.MaxSize-2000)); err != nil {
		t.Error(err)
	}
	if stats, err := db.Log().Stats(t.Context()); err != nil || stats.Entries != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestPutsAtOnceShareSyncsAndMakeOneChain(t *testing.T) {
	a := newA(t)
	db := a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments})
	docs := documents(t, db)
	before := a.disk.Syncs()
	const writers, each = 16, 20
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				if _, err := docs.Put(t.Context(), map[string]any{"_id": fmt.Sprint(w, "/", i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	stats, err := db.Log().Stats(t.Context())
	must(t, err)
	if stats.Entries != writers*each || stats.Clock != writers*each || len(stats.Heads) != 1 {
		t.Errorf("%+v", stats)
	}
	if syncs := a.disk.Syncs() - before; syncs > writers*each {
		t.Errorf("%d syncs for %d puts", syncs, writers*each)
	}
}

func TestAcknowledgedPutSurvivesPowerLoss(t *testing.T) {
	a := newA(t)
	docs := documents(t, a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments}))
	for i := range 20 {
		_, err := docs.Put(t.Context(), map[string]any{"_id": fmt.Sprint(i)})
		must(t, err)
		b := &peer{disk: a.disk.PowerLoss(nil), keys: a.keys}
		b.open(t, orbit.Config{})
		db, err := b.Find(t.Context(), "pieces")
		must(t, err)
		if got := items(t, documents(t, db).All(t.Context())); len(got) != i+1 {
			t.Fatalf("%d of %d documents after a power loss", len(got), i+1)
		}
	}
}

func TestOnlyListedWritersWrite(t *testing.T) {
	a, b := newA(t), newB(t)
	dba := a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments})
	_, err := documents(t, dba).Put(t.Context(), map[string]any{"_id": "mine"})
	must(t, err)

	var car bytes.Buffer
	_, err = dba.Export(t.Context(), &car)
	must(t, err)
	dbb, stats, err := b.Import(t.Context(), &car, nil)
	if err != nil || stats.Entries != 1 {
		t.Fatal(stats, err)
	}
	if _, err := documents(t, dbb).Put(t.Context(), map[string]any{"_id": "foreign"}); !errors.Is(err, orbit.ErrNotAllowed) {
		t.Errorf("b puts: %v", err)
	}
	// Entries that b signs nevertheless are refused by a.
	signer, err := identity.New(secret(t, 0x33), secret(t, 0x44))
	must(t, err)
	payload, err := value.Of(map[string]any{"op": "PUT", "key": "mine", "value": map[string]any{"_id": "mine", "by": "b"}})
	must(t, err)
	heads, err := dba.Log().Heads(t.Context())
	must(t, err)
	foreign, err := entry.New(signer, dba.Address(), payload, heads, []string{})
	must(t, err)
	if j := join(t, dba, foreign.Block)[0]; j.Outcome != orbit.Refused || !errors.Is(j.Err, orbit.ErrUnavailable) {
		t.Errorf("with an unknown identity: %+v", j)
	}
	must(t, a.PutBlocks(t.Context(), signer.Block()))
	if j := join(t, dba, foreign.Block)[0]; j.Outcome != orbit.Refused || !errors.Is(j.Err, orbit.ErrNotAllowed) {
		t.Errorf("with a known one: %+v", j)
	}
	// b may not write in a's name either: neither the identity nor the key is
	// signed.
	forged := bytes.Replace(foreign.Block.Data, []byte(signer.Hash()), []byte(a.Identity().Hash()), 1)
	for _, data := range [][]byte{forged, bytes.ReplaceAll(forged, []byte(signer.PublicKey), []byte(a.Identity().PublicKey))} {
		if j := join(t, dba, block.New(data))[0]; j.Outcome != orbit.Refused || !errors.Is(j.Err, entry.ErrInvalid) {
			t.Errorf("forged: %+v", j)
		}
	}
	// An entry whose identity is a block of another kind is invalid.
	none := block.New(payload)
	forged = bytes.Replace(foreign.Block.Data, []byte(signer.Hash()), []byte(none.Hash), 1)
	j, err := dba.Join(t.Context(), orbit.NewCandidates(block.New(forged)), orbit.JoinOptions{Attached: orbit.Attached{none.Hash: none}})
	if err != nil || j[0].Outcome != orbit.Refused || !errors.Is(j[0].Err, entry.ErrInvalid) {
		t.Errorf("with a block that is no identity: %+v, %v", j, err)
	}
	if got := items(t, documents(t, dba).All(t.Context())); !slices.Equal(got, []string{`"mine"={"_id":"mine"}`}) {
		t.Errorf("got %q", got)
	}
}

func TestManagedAccessFollowsGrantAndRevoke(t *testing.T) {
	a, b := newA(t), newB(t)
	opts := orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Write: []string{a.Identity().ID}, Managed: true}}
	dba := a.create(t, "band", opts)
	access := dba.Access()
	dbb := b.create(t, "band", opts)
	if dba.Address() != dbb.Address() || access.Type() != manifest.AccessOrbitDB {
		t.Fatal(dba.Address(), dbb.Address(), access.Type())
	}
	must(t, a.PutBlocks(t.Context(), b.Identity().Block()))
	must(t, b.PutBlocks(t.Context(), a.Identity().Block()))
	share := func() {
		t.Helper()
		for _, name := range []string{access.Address(), dba.Address()} {
			from, err := a.Open(t.Context(), name, orbit.OpenOptions{})
			must(t, err)
			to, err := b.Open(t.Context(), name, orbit.OpenOptions{})
			must(t, err)
			join(t, to, entries(t, from)...)
		}
	}
	put := func(p *orbit.Database, id string) error {
		_, err := documents(t, p).Put(t.Context(), map[string]any{"_id": id})
		return err
	}
	must(t, put(dba, "by admin"))
	share()
	if err := put(dbb, "too early"); !errors.Is(err, orbit.ErrNotAllowed) {
		t.Fatalf("before the grant: %v", err)
	}
	if err := dbb.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID); !errors.Is(err, orbit.ErrNotAllowed) {
		t.Fatalf("b grants: %v", err)
	}
	must(t, access.Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	must(t, access.Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	capabilities, err := access.Capabilities(t.Context())
	must(t, err)
	if want := map[string][]string{"admin": {a.Identity().ID}, "write": {b.Identity().ID}}; !maps.EqualFunc(capabilities, want, slices.Equal) {
		t.Errorf("capabilities %v", capabilities)
	}
	share()
	must(t, put(dbb, "granted"))
	if j := join(t, dba, entries(t, dbb)...); j[len(j)-1].Outcome != orbit.Joined {
		t.Errorf("%+v", j)
	}
	must(t, put(dbb, "late"))
	must(t, access.Revoke(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	if j := join(t, dba, entries(t, dbb)...); j[len(j)-1].Outcome != orbit.Refused || !errors.Is(j[len(j)-1].Err, orbit.ErrNotAllowed) {
		t.Errorf("after the revoke: %+v", j)
	}
	if got := items(t, documents(t, dba).All(t.Context())); len(got) != 2 {
		t.Errorf("got %q", got)
	}
	// A rebuild changes neither the entries before the revocation nor those
	// after it.
	lost, err := a.Rebuild(t.Context(), dba.Address())
	if err != nil || len(lost) != 0 {
		t.Fatal(lost, err)
	}
	dba, err = a.Open(t.Context(), dba.Address(), orbit.OpenOptions{})
	must(t, err)
	if got := items(t, documents(t, dba).All(t.Context())); len(got) != 2 {
		t.Errorf("after a rebuild: %q", got)
	}
	share()
	if err := put(dbb, "revoked"); !errors.Is(err, orbit.ErrNotAllowed) {
		t.Errorf("after the revoke: %v", err)
	}
	// A fixed list cannot be changed.
	fixed := a.create(t, "fixed", orbit.Options{})
	if err := fixed.Access().Grant(t.Context(), orbit.CapabilityWrite, "x"); !errors.Is(err, orbit.ErrType) {
		t.Errorf("grant on a fixed list: %v", err)
	}
}

func TestCopyOfAnEntryIsRefused(t *testing.T) {
	a := newA(t)
	db := a.create(t, "concerts", orbit.Options{Access: anyone})
	_, err := events(t, db).Add(t.Context(), "once")
	must(t, err)
	original := entries(t, db)[0]
	// The same entry with a field that is not signed: one more member, "x".
	twin := append([]byte{original.Data[0] + 1, 0x61, 'x', 0x01}, original.Data[1:]...)
	if j := join(t, db, block.New(twin))[0]; j.Outcome != orbit.Refused || !errors.Is(j.Err, entry.ErrInvalid) {
		t.Errorf("%+v", j)
	}
	if stats, err := db.Log().Stats(t.Context()); err != nil || stats.Entries != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestJunkIsRefusedOneByOne(t *testing.T) {
	a := newA(t)
	db := a.create(t, "concerts", orbit.Options{})
	other := a.create(t, "other", orbit.Options{})
	_, err := events(t, other).Add(t.Context(), 1)
	must(t, err)
	_, err = events(t, db).Add(t.Context(), 1)
	must(t, err)
	good := entries(t, db)[0]
	for want, b := range map[error]block.Block{
		block.ErrMismatch:  {Hash: good.Hash, Data: []byte{0xa0}},
		entry.ErrMalformed: block.New([]byte{0xa0}),
		oplog.ErrOtherLog:  entries(t, other)[0],
	} {
		joined := join(t, db, b, good)
		if joined[0].Outcome != orbit.Refused || !errors.Is(joined[0].Err, want) || joined[1].Outcome != orbit.Known {
			t.Errorf("%v: %+v", want, joined)
		}
	}
}

func TestNamesLeadToOneDatabase(t *testing.T) {
	a := newA(t)
	a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments})
	managed := a.create(t, "band", orbit.Options{Access: orbit.Access{Managed: true}})
	if db, err := a.Find(t.Context(), "band"); err != nil || db.Address() != managed.Address() {
		t.Errorf("a database and its access controller: %v", err)
	}
	if _, err := a.Find(t.Context(), "band2"); !errors.Is(err, orbit.ErrUnknown) {
		t.Error(err)
	}
	if _, err := a.Find(t.Context(), "/orbitdb/zdpuAwKJDKp1C2UFkZ18GELaKzyCxaH4A8jQSpLiRKEcnBDxq"); !errors.Is(err, orbit.ErrUnknown) {
		t.Error(err)
	}
	own, err := a.Resolve(t.Context(), "pieces")
	must(t, err)
	a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Write: []string{newB(t).Identity().ID}}})
	a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments, Access: anyone})
	if address, err := a.Resolve(t.Context(), "pieces"); err != nil || address != own {
		t.Errorf("one's own among several is %s, %v; want %s", address, err, own)
	}
	a.create(t, "pieces", orbit.Options{Type: orbit.TypeKeyValue})
	if _, err := a.Find(t.Context(), "pieces"); !errors.Is(err, orbit.ErrAmbiguous) {
		t.Error(err)
	}
	var names []string
	for d, err := range a.Databases(t.Context()) {
		must(t, err)
		names = append(names, d.Name+" "+d.Type+" "+d.IndexBy)
	}
	slices.Sort(names)
	if want := []string{"band events ", "band keyvalue ", "pieces documents _id", "pieces documents _id", "pieces documents _id", "pieces keyvalue "}; !slices.Equal(names, want) {
		t.Errorf("got %q", names)
	}
}

// A manifest can name any database as its access controller.
func TestForeignManifestTakesNoName(t *testing.T) {
	a := newA(t)
	own := a.create(t, "user", orbit.Options{Type: orbit.TypeKeyValue})
	b, err := manifest.Manifest{Name: "user", Type: orbit.TypeKeyValue, AccessController: own.Address()}.Block()
	must(t, err)
	must(t, a.PutBlocks(t.Context(), b))
	_, err = a.Open(t.Context(), manifest.Address(b.Hash), orbit.OpenOptions{})
	must(t, err)
	if address, err := a.Resolve(t.Context(), "user"); err != nil || address != own.Address() {
		t.Errorf("%s, %v; want %s", address, err, own.Address())
	}
}

// The database that was created here is found, whoever may write to it by now.
func TestManagedDatabaseKeepsItsName(t *testing.T) {
	a, b := newA(t), newB(t)
	own := a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Managed: true}})
	must(t, own.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	foreign, err := manifest.Manifest{Name: "pieces", Type: orbit.TypeKeyValue, AccessController: own.Access().Address()}.Block()
	must(t, err)
	must(t, a.PutBlocks(t.Context(), foreign))
	_, err = a.Open(t.Context(), manifest.Address(foreign.Hash), orbit.OpenOptions{})
	must(t, err)
	a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments, Access: anyone})
	if address, err := a.Resolve(t.Context(), "pieces"); err != nil || address != own.Address() {
		t.Errorf("%s, %v; want %s", address, err, own.Address())
	}
}

func TestAddressOfIsThatOfWhatCreateMakes(t *testing.T) {
	a := newA(t)
	for _, opts := range []orbit.Options{{}, {Type: orbit.TypeDocuments, IndexBy: "hash", Access: orbit.Access{Managed: true}}, {Access: anyone}} {
		address, err := a.AddressOf("band", opts)
		must(t, err)
		if _, err := a.Resolve(t.Context(), address); !errors.Is(err, orbit.ErrUnknown) {
			t.Errorf("it is here: %v", err)
		}
		if db := a.create(t, "band", opts); db.Address() != address {
			t.Errorf("%s, made as %s", address, db.Address())
		}
	}
	if _, err := a.AddressOf("", orbit.Options{}); !errors.Is(err, orbit.ErrInvalid) {
		t.Error(err)
	}
}

func TestAnotherFieldToIndexByKeepsTheLog(t *testing.T) {
	a := newA(t)
	first := a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments})
	seen := make(chan string)
	go func() {
		for arrival, err := range first.Updates(t.Context(), 0) {
			if err == nil {
				seen <- arrival.Hash
			}
		}
	}()
	again := a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"})
	hash, err := documents(t, again).Put(t.Context(), map[string]any{"hash": "Qm1"})
	must(t, err)
	if got := <-seen; got != hash || again.Log() != first.Log() {
		t.Errorf("who follows saw %s of %s", got, hash)
	}
}

func TestGrantsAtOnceAreAllKept(t *testing.T) {
	a := newA(t)
	access := orbit.Access{Managed: true}
	// Two databases with the same name share the list.
	dbs := []*orbit.Database{a.create(t, "band", orbit.Options{Access: access}), a.create(t, "band", orbit.Options{Access: access, Type: orbit.TypeDocuments})}
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			if err := dbs[i%2].Access().Grant(t.Context(), orbit.CapabilityWrite, fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	capabilities, err := dbs[0].Access().Capabilities(t.Context())
	if err != nil || len(capabilities[orbit.CapabilityWrite]) != 20 {
		t.Errorf("%v, %v", capabilities, err)
	}
}

func TestCloseWhileDatabasesAreUsed(t *testing.T) {
	for range 20 {
		a := newA(t)
		var group sync.WaitGroup
		for i := range 4 {
			kv := keyvalue(t, a.create(t, fmt.Sprint("n", i), orbit.Options{Type: orbit.TypeKeyValue}))
			group.Go(func() {
				if _, err := kv.Get(t.Context(), "k"); !errors.Is(err, orbit.ErrNotFound) && !errors.Is(err, orbit.ErrClosed) {
					t.Error(err)
				}
			})
		}
		must(t, a.Close())
		group.Wait()
	}
}

func TestDamagedDatabaseKeepsNoOtherFromOpening(t *testing.T) {
	a := newA(t)
	db := a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments})
	_, err := documents(t, db).Put(t.Context(), map[string]any{"_id": "one"})
	must(t, err)
	other := a.create(t, "other", orbit.Options{})
	must(t, a.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Put("log/1/summary", []byte("junk")) }))
	must(t, a.Close())
	a.open(t, orbit.Config{})
	if _, err := a.Find(t.Context(), "pieces"); !errors.Is(err, oplog.ErrDamaged) {
		t.Errorf("find: %v", err)
	}
	if address, err := a.Resolve(t.Context(), "pieces"); err != nil || address != db.Address() {
		t.Errorf("resolve: %s, %v", address, err)
	}
	if _, err := a.Find(t.Context(), "other"); err != nil {
		t.Errorf("another one: %v", err)
	}
	if lost, err := a.Rebuild(t.Context(), db.Address()); err != nil || len(lost) != 0 {
		t.Fatal(lost, err)
	}
	again, err := a.Find(t.Context(), "pieces")
	must(t, err)
	if got := items(t, documents(t, again).All(t.Context())); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	if _, err := a.Rebuild(t.Context(), other.Address()[:len(other.Address())-1]+"z"); !errors.Is(err, orbit.ErrUnknown) {
		t.Errorf("rebuild of what is not here: %v", err)
	}
}

func TestIndexByIsRemembered(t *testing.T) {
	a := newA(t)
	db := a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments, IndexBy: "hash"})
	must(t, a.Close())
	a.open(t, orbit.Config{})
	again, err := a.Open(t.Context(), db.Address(), orbit.OpenOptions{})
	if err != nil || again.IndexBy() != "hash" {
		t.Fatal(again, err)
	}
	again, err = a.Open(t.Context(), db.Address(), orbit.OpenOptions{IndexBy: "cid"})
	if err != nil || again.IndexBy() != "cid" {
		t.Fatal(again, err)
	}
}

func TestLostRootKeyIsNotReplaced(t *testing.T) {
	a := newA(t)
	a.create(t, "pieces", orbit.Options{})
	must(t, a.Close())
	must(t, a.keys.Delete("orbitdb-root"))
	_, err := orbit.New(t.Context(), orbit.Config{Store: store.New(a.disk, "/orbit"), Keystore: a.keys})
	if err == nil || !strings.Contains(err.Error(), "orbitdb-root") {
		t.Errorf("got %v", err)
	}
	if ok, _ := a.keys.Has("orbitdb-root"); ok {
		t.Error("a key was made")
	}
}

func TestKeysAreMadeOnce(t *testing.T) {
	keys := keystore.NewMemKeystore()
	var ids []string
	for range 2 {
		o, err := orbit.New(t.Context(), orbit.Config{Store: store.New(storetest.NewDisk(), "/orbit"), Keystore: keys})
		must(t, err)
		ids = append(ids, o.Identity().Hash())
		must(t, o.Close())
	}
	if ids[0] != ids[1] {
		t.Errorf("identities %q", ids)
	}
}

func TestBlocksAreAnnouncedOnceStored(t *testing.T) {
	a := newA(t)
	announced := make(map[cid.Cid]bool)
	a.open(t, orbit.Config{Announce: func(ctx context.Context, bs ...ipfsblocks.Block) error {
		for _, b := range bs {
			hash, _ := block.HashOf(b.Cid())
			if _, err := blocks.Get(blocks.Reading(ctx, a.store), hash); err != nil {
				t.Errorf("%s is announced and not stored: %v", hash, err)
			}
			announced[b.Cid()] = true
		}
		return nil
	}})
	db := a.create(t, "concerts", orbit.Options{})
	hash, err := events(t, db).Add(t.Context(), 1)
	must(t, err)
	manifestHash, err := manifest.ParseAddress(db.Address())
	must(t, err)
	for _, hash := range []string{hash, manifestHash} {
		if c, err := block.ParseHash(hash); err != nil || !announced[c] {
			t.Errorf("%s is not announced", hash)
		}
	}
}

func TestUpdatesEndWithTheOrbit(t *testing.T) {
	a := newA(t)
	db := a.create(t, "concerts", orbit.Options{})
	_, err := events(t, db).Add(t.Context(), 1)
	must(t, err)
	seen := make(chan struct{})
	ended := make(chan error)
	go func() {
		for _, err := range db.Updates(t.Context(), 0) {
			if err != nil {
				ended <- err
				return
			}
			seen <- struct{}{}
		}
		ended <- nil
	}()
	<-seen
	must(t, a.Close())
	if err := <-ended; !errors.Is(err, orbit.ErrClosed) {
		t.Errorf("ended with %v", err)
	}
	if _, err := events(t, db).Add(t.Context(), 2); !errors.Is(err, orbit.ErrClosed) {
		t.Errorf("add: %v", err)
	}
	if _, err := db.Join(t.Context(), nil, orbit.JoinOptions{}); !errors.Is(err, orbit.ErrClosed) {
		t.Errorf("join: %v", err)
	}
	if _, err := a.Create(t.Context(), "concerts", orbit.Options{}); !errors.Is(err, orbit.ErrClosed) {
		t.Errorf("create: %v", err)
	}
}

func TestDamagedBlockIsReportedAndTheRestIsRead(t *testing.T) {
	a := newA(t)
	db := a.create(t, "pieces", orbit.Options{Type: orbit.TypeDocuments})
	docs := documents(t, db)
	var hashes []string
	for i := range 5 {
		hash, err := docs.Put(t.Context(), map[string]any{"_id": fmt.Sprint(i)})
		must(t, err)
		hashes = append(hashes, hash)
	}
	must(t, a.store.Update(t.Context(), func(tx *store.Tx) error {
		key := store.Key(blocks.Entries(1), 3)
		record, err := tx.Get(key)
		if err != nil {
			return err
		}
		record[len(record)-70] ^= 1
		return tx.Put(key, record)
	}))
	reported := func(err error) bool {
		return errors.Is(err, blocks.ErrDamaged) && strings.Contains(err.Error(), hashes[2]) && strings.Contains(err.Error(), db.Address())
	}
	if _, err := docs.Get(t.Context(), "2"); !reported(err) {
		t.Errorf("get: %v", err)
	}
	read := 0
	for _, err := range docs.All(t.Context()) {
		if err == nil {
			read++
		} else if !reported(err) {
			t.Errorf("all: %v", err)
		}
	}
	if read != 4 {
		t.Errorf("%d documents are read", read)
	}
	stats, err := db.Export(t.Context(), new(bytes.Buffer))
	if err != nil || stats.Entries != 4 || !slices.Equal(stats.Damaged, hashes[2:3]) {
		t.Errorf("export: %+v, %v", stats, err)
	}
	lost, err := a.Rebuild(t.Context(), db.Address())
	if err != nil || !slices.Equal(lost, []orbit.Lost{{Number: 3, Hash: hashes[2]}}) {
		t.Fatalf("rebuild: %v, %v", lost, err)
	}
	again, err := a.Find(t.Context(), "pieces")
	must(t, err)
	if again != db {
		t.Error("who has the database open has another one")
	}
	if got := items(t, documents(t, again).All(t.Context())); len(got) != 4 {
		t.Errorf("after the rebuild: %q", got)
	}
	if _, err := documents(t, again).Put(t.Context(), map[string]any{"_id": "new"}); err != nil {
		t.Error(err)
	}
}

func TestExportIsImportedWhole(t *testing.T) {
	for _, managed := range []bool{false, true} {
		a, b, c := newA(t), newB(t), newPeer(t, 0x55, 0x66)
		opts := orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{
			Write: []string{a.Identity().ID, b.Identity().ID}, Managed: managed,
		}}
		dba, dbb := a.create(t, "band", opts), b.create(t, "band", opts)
		if managed {
			must(t, dba.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
		}
		must(t, a.PutBlocks(t.Context(), b.Identity().Block()))
		for i := range 300 {
			_, err := documents(t, dba).Put(t.Context(), map[string]any{"_id": fmt.Sprint("a", i)})
			must(t, err)
			_, err = documents(t, dbb).Put(t.Context(), map[string]any{"_id": fmt.Sprint("b", i)})
			must(t, err)
		}
		join(t, dba, entries(t, dbb)...)
		_, err := documents(t, dba).Put(t.Context(), map[string]any{"_id": "last"})
		must(t, err)

		var car bytes.Buffer
		stats, err := dba.Export(t.Context(), &car)
		if err != nil {
			t.Fatal(err)
		}
		told := 0
		for round := range 2 {
			imported, got, err := c.Import(t.Context(), bytes.NewReader(car.Bytes()), func(n int) { told = n })
			must(t, err)
			want := orbit.ImportStats{Entries: stats.Entries}
			if round == 1 {
				want = orbit.ImportStats{Known: stats.Entries}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) || told != stats.Entries {
				t.Errorf("managed %v, round %d: %+v, want %+v, told %d", managed, round, got, want, told)
			}
			if a, c := items(t, documents(t, dba).All(t.Context())), items(t, documents(t, imported).All(t.Context())); !slices.Equal(a, c) {
				t.Errorf("managed %v: other state", managed)
			}
		}
	}
}
