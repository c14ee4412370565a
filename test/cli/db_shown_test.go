package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/boxo/keystore"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/test/harness"
)

// app writes entries of any kind, as a JavaScript app may.
type app struct {
	t      *testing.T
	orbit  *orbit.Orbit
	signer *identity.Signer
}

func newApp(t *testing.T) app {
	t.Helper()
	keys := keystore.NewMemKeystore()
	s := store.New(storetest.NewDisk(), "/orbit")
	o, err := orbit.New(t.Context(), orbit.Config{Store: s, Keystore: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close(); s.Close() })
	signer, err := identity.Load(keys, "orbitdb-root", "orbitdb-signing")
	if err != nil {
		t.Fatal(err)
	}
	return app{t, o, signer}
}

// database creates a database with these entries that anybody may write. It
// returns its address and the file of its CAR.
func (a app) database(name, kind string, payloads ...value.Value) (address, file string) {
	a.t.Helper()
	db, err := a.orbit.Create(a.t.Context(), name, orbit.Options{Type: kind, Access: orbit.Access{Write: []string{orbit.Anyone}}})
	var heads []entry.Position
	for _, payload := range payloads {
		if err != nil {
			break
		}
		var e *entry.Entry
		if e, err = entry.New(a.signer, db.Address(), payload, heads, []string{}); err == nil {
			heads = []entry.Position{e.Position(e.Rank())}
			_, err = db.Join(a.t.Context(), orbit.NewCandidates(e.Block), orbit.JoinOptions{})
		}
	}
	var car bytes.Buffer
	if err == nil {
		_, err = db.Export(a.t.Context(), &car)
	}
	file = filepath.Join(a.t.TempDir(), name)
	if err == nil {
		err = os.WriteFile(file, car.Bytes(), 0o600)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return db.Address(), file
}

func valueOf(t *testing.T, v any) value.Value {
	t.Helper()
	val, err := value.Of(v)
	if err != nil {
		t.Fatal(err)
	}
	return val
}

// failsAs checks that a call fails at the command line and over the RPC, with
// all texts in the error.
func failsAs(t *testing.T, n *harness.Node, c call, want ...string) {
	t.Helper()
	for name, way := range ways {
		out, err := way(t, n, c)
		for _, w := range want {
			if out != "" || !strings.Contains(err, w) {
				t.Errorf("%s: %+v: %s, %s, want %q", name, c, out, err, w)
			}
		}
	}
}

func TestPlainValuesArePutWhereAppsEncryptIfThatIsSaid(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	sealed := valueOf(t, []byte("what only the key opens"))
	for _, way := range []string{"CLI", "RPC"} {
		address, file := newApp(t).database("secrets by "+way, orbit.TypeKeyValue, sealed, sealed)
		n.MustRun("npp", "db", "import", file)
		if text := n.MustRun("npp", "db", "info", address); !strings.Contains(text, "\nvalues    encrypted") {
			t.Errorf("info: %s", text)
		}
		if text := n.MustRun("npp", "db", "doctor", address); !strings.Contains(text, "\nnote     values ") {
			t.Errorf("doctor: %s", text)
		}
		hint := []string{address + ": the apps that write to it encrypt the values", "; hint: --plain writes it anyway"}
		failsAs(t, n, call{"db/put", []string{address, "key"}, nil, []byte(`1`)}, hint...)
		failsAs(t, n, call{"db/put", []string{address}, url.Values{"many": {"true"}}, []byte(`{"key":"a","value":1}`)}, hint...)
		failsAs(t, n, call{"db/del", []string{address, "key"}, nil, nil}, hint...)
		if info := db(t, n, "info", address)[0]; info.Entries != 2 {
			t.Errorf("%d entries", info.Entries)
		}
		plain := url.Values{"plain": {"true"}}
		for _, c := range []call{
			{"db/put", []string{address, "key"}, plain, []byte(`1`)},
			{"db/put", []string{address, "key"}, nil, []byte(`2`)}, // the key has a plain value of this daemon now
			{"db/del", []string{address, "key"}, plain, nil},
		} {
			if out, err := ways[way](t, n, c); err != "" || !strings.Contains(out, "zdpu") {
				t.Errorf("%s: %+v: %s, %s", way, c, out, err)
			}
		}
		if text := n.MustRun("npp", "db", "info", address); strings.Contains(text, "\nvalues ") {
			t.Errorf("info: %s", text)
		}
	}
}

func TestEventsAreOpenedAsWhatAnAppKeepsInThem(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	doc := func(i int) value.Value {
		key := fmt.Sprint(i)
		return valueOf(t, map[string]any{"op": "PUT", "key": key, "value": map[string]any{"hash": key}})
	}
	deleted := valueOf(t, map[string]any{"op": "DEL", "key": "1", "value": nil})
	address, file := newApp(t).database("scores", orbit.TypeEvents, doc(1), doc(2), deleted)
	n.MustRun("npp", "db", "import", file)
	if text := n.MustRun("npp", "db", "doctor", address); !strings.Contains(text, "ipfs npp db open "+address+" --type keyvalue") {
		t.Errorf("doctor: %s", text)
	}
	failsAs(t, n, call{"db/open", []string{address}, url.Values{"type": {"counter"}}, nil}, `--type is "counter", but must be documents, keyvalue or events`)
	failsAs(t, n, call{"db/open", []string{address}, url.Values{"type": {"keyvalue"}, "index-by": {"hash"}}, nil}, "--index-by works only for documents, not for keyvalue")
	failsAs(t, n, call{"db/open", []string{address}, url.Values{"index-by": {"hash"}}, nil}, "is open with the type events", "hint: --type documents")
	failsAs(t, n, call{"db/open", []string{"pieces"}, url.Values{"type": {"events"}}, nil}, "its manifest says documents, so it cannot be opened as events")
	n.MustRun("npp", "db", "open", address, "--type=documents", "--index-by=hash")
	for _, when := range []string{"at once", "after a restart"} {
		if got := n.MustRun("npp", "db", "get", address, "2"); got != `{"hash":"2"}`+"\n" {
			t.Errorf("%s: %s", when, got)
		}
		info := decodeLines[struct{ Type, ManifestType, IndexBy string }](t, n.MustRun("npp", "db", "info", "scores", "--enc=json"))[0]
		if info.Type != "documents" || info.ManifestType != "events" || info.IndexBy != "hash" {
			t.Errorf("%s: %+v", when, info)
		}
		if text := n.MustRun("npp", "db", "info", address); !strings.Contains(text, "\ntype      documents, indexed by hash; its manifest says events\n") {
			t.Errorf("%s: %s", when, text)
		}
		if text := n.MustRun("npp", "db", "ls"); !strings.Contains(text, address+"  documents       3  open       scores  (its manifest says events)\n") {
			t.Errorf("%s: %s", when, text)
		}
		n.Stop()
		n.Start()
	}
	n.MustRun("npp", "db", "put", address, `{"hash":"3"}`)
	if got := n.MustRun("npp", "db", "all", address); got != "2\t{\"hash\":\"2\"}\n3\t{\"hash\":\"3\"}\n" {
		t.Errorf("all: %s", got)
	}
}

func TestAKeyThatIsNoTextIsNamed(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	n.MustRun("npp", "db", "create", "scores", "--type=documents")
	for key, arg := range map[string]string{"42": "42", "-1.5": "-- -1.5", `[1,"a b"]`: `'[1,"a b"]'`, `["it's"]`: "<key>"} {
		n.MustRun("npp", "db", "put", "scores", `{"_id":`+key+`}`)
		for _, command := range []string{"get", "del"} {
			failsAs(t, n, call{"db/" + command, []string{"scores", key}, nil, nil}, "there is one that is JSON, not text; hint: ipfs npp db "+command+" scores --json-key "+arg)
		}
	}
	if got := n.MustRun("npp", "db", "get", "scores", "--json-key", "--", "-1.5"); got != "{\"_id\":-1.5}\n" {
		t.Errorf("got %s", got)
	}
	for _, key := range []string{"43", "x", `"42"`, "["} {
		for name, way := range ways {
			if out, err := way(t, n, call{"db/get", []string{"scores", key}, nil, nil}); out != "" || !strings.Contains(err, "no such key") || strings.Contains(err, "json-key") {
				t.Errorf("%s: %s: %s, %s", name, key, out, err)
			}
		}
	}
}

func TestAnUnknownAccessControllerIsNamed(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	hash := strings.TrimPrefix(db(t, n, "info", "pieces")[0].Address, "/orbitdb/")
	b := block.New(valueOf(t, map[string]any{"name": "band", "type": orbit.TypeEvents, "accessController": "/custom/" + hash}))
	address := orbit.FormatAddress(b.Hash)
	n.MustRun("npp", "db", "open", address) // before its blocks have arrived
	if status, answer := n.RPC("block/put", url.Values{"cid-codec": {"dag-cbor"}}, bytes.NewReader(b.Data)); status != http.StatusOK {
		t.Fatalf("block put: %s", answer)
	}
	const want = `its access controller is of type "custom", which npp does not know`
	shown := func(command ...string) string { return n.MustRun(append([]string{"npp", "db"}, command...)...) }
	eventually(t, "its type is known", func() bool { return strings.Contains(shown("info", address), want) })
	for _, command := range [][]string{{"ls"}, {"info", address}, {"doctor", address}} {
		if text := shown(command...); !strings.Contains(text, want) || command[0] != "doctor" && !strings.Contains(text, "failed") {
			t.Errorf("%v: %s", command, text)
		}
	}
	failsAs(t, n, call{"db/open", []string{address}, nil, nil}, want, "hint: npp opens databases with the access controllers of @orbitdb/core")
}
