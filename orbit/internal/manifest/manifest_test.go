package manifest_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/value"
)

const (
	idA      = "034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa"
	someHash = "zdpuApQXxjuj5ojBJk2FDbNby9cLMqfv6GGd4YrPBRyNSq3iq"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// vector is a block that JavaScript made.
type vector struct {
	Hash string `json:"cid_base58btc"`
	Hex  string `json:"bytes_hex"`
	JSON struct {
		Name, Type, AccessController string
		Meta                         value.Value
		Write                        []string
	}
}

func (v vector) block(t testing.TB) block.Block {
	t.Helper()
	data, err := hex.DecodeString(v.Hex)
	must(t, err)
	return block.Block{Hash: v.Hash, Data: data}
}

// database is a database that JavaScript made.
type database struct {
	Address          string
	Manifest         vector
	AccessController struct {
		Address string
		Block   vector
	} `json:"access_controller"`
	ManagedAddress string `json:"access_controller_address"`
	Managed        vector `json:"access_controller_db_manifest"`
	Admins         vector `json:"access_controller_db_ipfs_ac"`
}

func vectors(t testing.TB) map[string]database {
	t.Helper()
	var all map[string]json.RawMessage
	b, err := os.ReadFile("../../testdata/javascript.json")
	must(t, err)
	must(t, json.Unmarshal(b, &all))
	found := make(map[string]database)
	for _, name := range []string{"documents_pieces", "keyvalue_user", "events_log", "orbitdb_access_controller"} {
		var d database
		must(t, json.Unmarshal(all[name], &d))
		found[name] = d
	}
	return found
}

func TestManifestsAreThoseOfJavaScript(t *testing.T) {
	check := func(address string, v vector) {
		t.Helper()
		if v.Hash == "" || manifest.Address(v.Hash) != address {
			t.Errorf("address %s, want %s", manifest.Address(v.Hash), address)
		}
		if hash, err := manifest.ParseAddress(address); hash != v.Hash || err != nil {
			t.Errorf("%s: %q, %v", address, hash, err)
		}
		got, err := manifest.Decode(v.block(t))
		must(t, err)
		want := manifest.Manifest{
			Name: v.JSON.Name, Type: v.JSON.Type, AccessController: v.JSON.AccessController, Meta: v.JSON.Meta,
		}
		if got.Name != want.Name || got.Type != want.Type || got.AccessController != want.AccessController ||
			!got.Meta.Equal(want.Meta) || (got.Meta == nil) != (want.Meta == nil) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		b, err := want.Block()
		if err != nil || b.Hash != v.Hash || hex.EncodeToString(b.Data) != v.Hex {
			t.Errorf("%s: made %s %x, %v", v.Hash, b.Hash, b.Data, err)
		}
	}
	for _, d := range vectors(t) {
		check(d.Address, d.Manifest)
	}
	nested := vectors(t)["orbitdb_access_controller"]
	check(nested.ManagedAddress, nested.Managed)
	if nested.Manifest.JSON.AccessController != nested.ManagedAddress {
		t.Error("the access controller is none of this database")
	}
	if vectors(t)["keyvalue_user"].Manifest.JSON.Meta == nil {
		t.Error("no manifest has meta")
	}
}

func TestListsOfWritersAreThoseOfJavaScript(t *testing.T) {
	all := vectors(t)
	nested := all["orbitdb_access_controller"]
	for _, test := range []struct {
		list    vector
		address string
		want    manifest.AccessList
	}{
		{all["documents_pieces"].AccessController.Block, all["documents_pieces"].AccessController.Address, manifest.AccessList{idA}},
		{all["keyvalue_user"].AccessController.Block, all["keyvalue_user"].AccessController.Address, manifest.AccessList{manifest.Anyone}},
		{nested.Admins, nested.Managed.JSON.AccessController, manifest.AccessList{idA}},
	} {
		got, err := manifest.DecodeAccessList(test.list.block(t))
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("got %v, %v, want %v", got, err, test.want)
		}
		address, b, err := test.want.Address()
		if err != nil || address != test.address || b.Hash != test.list.Hash || hex.EncodeToString(b.Data) != test.list.Hex {
			t.Errorf("got %s, %x, %v, want %s", address, b.Data, err, test.address)
		}
	}
}

func TestWritersKeepTheirOrder(t *testing.T) {
	for _, list := range []manifest.AccessList{nil, {"b", "a"}, {"a", "b"}, {"a", "a", ""}} {
		_, b, err := list.Address()
		must(t, err)
		if got, err := manifest.DecodeAccessList(b); err != nil || !slices.Equal(got, list) {
			t.Errorf("got %v, %v, want %v", got, err, list)
		}
	}
}

func TestAddressesAreTheOnesOfManifests(t *testing.T) {
	const hash = someHash
	legacy := []string{"/orbitdb/" + hash + "/name", "/orbitdb/" + hash + "/a/b"}
	for _, address := range append([]string{
		"", "/", hash, "/orbitdb", "/orbitdb/", "orbitdb/" + hash, "/orbitdb/" + hash + "/", "//orbitdb/" + hash,
		"/orbitdb//" + hash, "/orbitdb/" + hash[1:], "/orbitdb/" + hash + " ", "/ipfs/" + hash, "/ORBITDB/" + hash,
		"/orbitdb/bafyreib3gnonvq6ekmovpj2ngdzzg2gwqmip5kabmaexshfcgeajbtvd6i", "/orbitdb/x/name", "/ipfs/" + hash + "/name",
		hash + "/name", "/orbitdb/" + strings.Repeat("x", 1000),
	}, legacy...) {
		got, err := manifest.ParseAddress(address)
		if got != "" || !errors.Is(err, manifest.ErrInvalidAddress) {
			t.Errorf("%q: %q, %v", address, got, err)
		}
		if is := slices.Contains(legacy, address); errors.Is(err, manifest.ErrLegacyAddress) != is {
			t.Errorf("%q: %v, legacy: %v", address, err, is)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
}

func TestAccessTellsTypeAndHash(t *testing.T) {
	for address, want := range map[string]string{
		"/ipfs/" + someHash:    manifest.AccessIPFS,
		"/orbitdb/" + someHash: manifest.AccessOrbitDB,
		"/custom/" + someHash:  "custom",
	} {
		kind, hash, err := manifest.Manifest{AccessController: address}.Access()
		if kind != want || hash != someHash || err != nil {
			t.Errorf("%s: %q, %q, %v", address, kind, hash, err)
		}
	}
	for _, address := range []string{
		"", "/", "/ipfs", "/ipfs/", "ipfs/" + someHash, someHash, "/" + someHash, "/ipfs/" + someHash + "/", "/ipfs/x/" + someHash,
		"/ipfs/bafyreib3gnonvq6ekmovpj2ngdzzg2gwqmip5kabmaexshfcgeajbtvd6i", "//" + someHash + "x",
	} {
		if _, _, err := (manifest.Manifest{AccessController: address}).Access(); !errors.Is(err, manifest.ErrInvalid) {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestTheSameFourMakeTheSameAddress(t *testing.T) {
	meta := value.Map(value.Member{Name: "a", Value: value.Null})
	all := []manifest.Manifest{
		{Name: "n", Type: "t", AccessController: "a"},
		{Name: "N", Type: "t", AccessController: "a"},
		{Name: "n", Type: "T", AccessController: "a"},
		{Name: "n", Type: "t", AccessController: "A"},
		{Name: "n", Type: "t", AccessController: "a", Meta: meta},
		{Name: "n", Type: "t", AccessController: "a", Meta: value.Null},
	}
	seen := make(map[string]bool)
	for _, m := range all {
		b, err := m.Block()
		must(t, err)
		again, err := m.Block()
		must(t, err)
		if b.Hash != again.Hash || seen[b.Hash] {
			t.Errorf("%+v: %s, %s", m, b.Hash, again.Hash)
		}
		seen[b.Hash] = true
		if got, err := manifest.Decode(b); err != nil || !got.Meta.Equal(m.Meta) || got.Name != m.Name {
			t.Errorf("%+v: %+v, %v", m, got, err)
		}
	}
}

func TestAManifestNeedsNameTypeAndAccessController(t *testing.T) {
	for _, m := range []manifest.Manifest{
		{Type: "t", AccessController: "a"},
		{Name: "n", AccessController: "a"},
		{Name: "n", Type: "t"},
		{Name: "\ufeff", Type: "t", AccessController: "a"},
		{Name: "n", Type: "\ufeff\ufeff", AccessController: "a"},
		{Name: "n", Type: "t", AccessController: "\ufeff"},
	} {
		if b, err := m.Block(); !errors.Is(err, manifest.ErrInvalid) {
			t.Errorf("%+v: %s, %v", m, b.Hash, err)
		}
	}
}

func of(t testing.TB, v any) []byte {
	t.Helper()
	b, err := value.Of(v)
	must(t, err)
	return b
}

// invalid are blocks that are neither a manifest nor an access list.
func invalid(t testing.TB) [][]byte {
	valid := of(t, map[string]any{
		"name": "n", "type": "t", "accessController": "a", "write": []any{"w"},
	})
	return [][]byte{
		nil, {}, {0xa0}, {0xf6}, {0x80}, {0x60}, valid[1:], valid[:len(valid)-1],
		append(bytes.Clone(valid), 0), append([]byte{0xb8, 4}, valid[1:]...),
		append([]byte{0xbf}, append(bytes.Clone(valid[1:]), 0xff)...),
	}
}

func TestWhatIsNoManifestIsRefused(t *testing.T) {
	blocks := invalid(t)
	for _, name := range []string{"name", "type", "accessController"} {
		for _, other := range []any{nil, "", 1, []byte("x"), []any{"x"}, map[string]any{}} {
			fields := map[string]any{"name": "n", "type": "t", "accessController": "a", name: other}
			blocks = append(blocks, of(t, fields))
			delete(fields, name)
			blocks = append(blocks, of(t, fields))
		}
	}
	for _, data := range blocks {
		if m, err := manifest.Decode(block.New(data)); !errors.Is(err, manifest.ErrInvalid) {
			t.Errorf("%x: %+v, %v", data, m, err)
		}
	}
}

func TestWhatIsNoListOfWritersIsRefused(t *testing.T) {
	blocks := invalid(t)
	for _, other := range []any{nil, "*", 1, []byte("*"), map[string]any{"*": "*"}, []any{1}, []any{"a", nil}, []any{[]any{"a"}}} {
		blocks = append(blocks, of(t, map[string]any{"type": "ipfs", "write": other}))
	}
	for _, data := range blocks {
		if w, err := manifest.DecodeAccessList(block.New(data)); !errors.Is(err, manifest.ErrInvalid) {
			t.Errorf("%x: %+v, %v", data, w, err)
		}
	}
}

func TestFieldsThatAreNotKnownAreLeftAlone(t *testing.T) {
	data := of(t, map[string]any{
		"name": "n", "type": "t", "accessController": "a", "meta": 1, "more": []any{1}, "zzzzzzzzzzzzzzzzzz": nil, "write": []any{"w"},
	})
	m, err := manifest.Decode(block.New(data))
	if err != nil || m.Name != "n" || m.Type != "t" || m.AccessController != "a" || !m.Meta.Equal(of(t, 1)) {
		t.Errorf("%+v, %v", m, err)
	}
	if w, err := manifest.DecodeAccessList(block.New(data)); err != nil || !slices.Equal(w, manifest.AccessList{"w"}) {
		t.Errorf("%v, %v", w, err)
	}
}

func TestTextsAreAListOfTextsAndNoMore(t *testing.T) {
	for _, want := range [][]string{{}, {""}, {"a", "b"}} {
		if got, err := manifest.Texts(of(t, want)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	for _, v := range []value.Value{nil, {}, value.Null, value.Text("a"), of(t, []any{1}), {0x81}, {0x80, 0x00}, {0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		if got, err := manifest.Texts(v); err == nil {
			t.Errorf("%x: %v", []byte(v), got)
		}
	}
}

func TestMaxSizeIsTheLargestManifestAndList(t *testing.T) {
	m := manifest.Manifest{Type: "t", AccessController: "a", Name: strings.Repeat("n", manifest.MaxSize-100)}
	b, err := m.Block()
	must(t, err)
	m.Name += strings.Repeat("n", manifest.MaxSize-len(b.Data))
	b, err = m.Block()
	if err != nil || len(b.Data) != manifest.MaxSize {
		t.Fatal(len(b.Data), err)
	}
	if got, err := manifest.Decode(b); err != nil || got.Name != m.Name {
		t.Error(err)
	}
	m.Name += "n"
	if _, err := m.Block(); !errors.Is(err, manifest.ErrInvalid) || !strings.Contains(err.Error(), "262144") {
		t.Error(err)
	}
	w := manifest.AccessList{strings.Repeat("w", manifest.MaxSize-100)}
	_, b, err = w.Address()
	must(t, err)
	w[0] += strings.Repeat("w", manifest.MaxSize-len(b.Data))
	_, b, err = w.Address()
	if err != nil || len(b.Data) != manifest.MaxSize {
		t.Fatal(len(b.Data), err)
	}
	if _, err := manifest.DecodeAccessList(b); err != nil {
		t.Error(err)
	}
	w[0] += "w"
	if _, _, err := w.Address(); !errors.Is(err, manifest.ErrInvalid) || !strings.Contains(err.Error(), "262144") {
		t.Error(err)
	}
	large := of(t, map[string]any{
		"name": "n", "type": "t", "accessController": "a", "write": []any{"w"}, "more": make([]byte, manifest.MaxSize-50),
	})
	if _, err := manifest.Decode(block.New(large)); !errors.Is(err, manifest.ErrInvalid) {
		t.Error(err)
	}
	if _, err := manifest.DecodeAccessList(block.New(large)); !errors.Is(err, manifest.ErrInvalid) {
		t.Error(err)
	}
}

func seed(f *testing.F) {
	for _, d := range vectors(f) {
		f.Add(d.Manifest.block(f).Data)
		f.Add(d.AccessController.Block.block(f).Data)
	}
	for _, data := range invalid(f) {
		f.Add(data)
	}
}

func FuzzDecode(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := manifest.Decode(block.New(data))
		if err != nil {
			if !errors.Is(err, manifest.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		_, _, _ = m.Access()
		b, err := m.Block()
		must(t, err)
		again, err := manifest.Decode(b)
		if err != nil || again.Name != m.Name || again.Type != m.Type || again.AccessController != m.AccessController || !again.Meta.Equal(m.Meta) {
			t.Fatalf("%+v came back as %+v, %v", m, again, err)
		}
		n := 3
		if m.Meta != nil {
			n++
		}
		if fields, _ := dagcbor.NewReader(data).Map(); fields == n && dagcbor.Canonical(data) && !bytes.Equal(b.Data, data) {
			t.Fatalf("%x became %x", data, b.Data)
		}
	})
}

func FuzzDecodeAccessList(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := manifest.DecodeAccessList(block.New(data))
		if err != nil {
			if !errors.Is(err, manifest.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		_, b, err := w.Address()
		must(t, err)
		if again, err := manifest.DecodeAccessList(b); err != nil || !slices.Equal(again, w) {
			t.Fatalf("%q came back as %q, %v", w, again, err)
		}
		v, err := value.FromCBOR(data)
		must(t, err)
		fields, _ := dagcbor.NewReader(data).Map()
		if kind, _ := v.Field("type").Text(); kind == "ipfs" && fields == 2 && dagcbor.Canonical(data) && !bytes.Equal(b.Data, data) {
			t.Fatalf("%x became %x", data, b.Data)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"/orbitdb/" + someHash, "/orbitdb/" + someHash + "/name", someHash, "/orbitdb//" + someHash} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		hash, err := manifest.ParseAddress(address)
		if err == nil && (manifest.Address(hash) != address || !block.ValidHash(hash)) {
			t.Fatalf("%q: %q", address, hash)
		}
		if err != nil && !errors.Is(err, manifest.ErrInvalidAddress) {
			t.Fatal(err)
		}
	})
}
