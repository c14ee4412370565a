package interop

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/test/harness"
)

// daemonReplica is a database on a daemon.
type daemonReplica struct {
	t       *testing.T
	n       *harness.Node
	address string
}

// lines returns the lines that a command prints with --enc=json.
func lines[T any](t *testing.T, n *harness.Node, command ...string) (all []T) {
	t.Helper()
	for line := range strings.Lines(n.MustRun(append(command, "--enc=json")...)) {
		all = append(all, decode[T](t, line))
	}
	return all
}

func (r daemonReplica) state() (s state) {
	r.t.Helper()
	s.heads = lines[struct{ Heads []string }](r.t, r.n, "npp", "db", "info", r.address)[0].Heads
	for _, e := range lines[struct{ Hash string }](r.t, r.n, "npp", "db", "log", r.address) {
		s.log = append(s.log, e.Hash)
	}
	for _, i := range lines[struct {
		Hash       string
		Key, Value value.Value
	}](r.t, r.n, "npp", "db", "all", r.address) {
		one := item{hash: i.Hash, value: i.Value.String()}
		if i.Key != nil {
			one.key = i.Key.String()
		}
		s.all = append(s.all, one)
	}
	return s
}

// connect connects JavaScript to a daemon.
func (js *node) connect(n *harness.Node) {
	js.t.Helper()
	js.dial(n.Addrs()[0])
}

// peerID returns the peer ID of the node.
func (js *node) peerID() string { return js.addr[strings.LastIndexByte(js.addr, '/')+1:] }

// fetched starts to get a block from the network. It returns a function that
// waits for the block.
func (js *node) fetched(hash string) func() block.Block {
	js.t.Helper()
	wait := js.start("get-blocks", args{"hashes": []any{hash}, "network": true})
	return func() block.Block {
		js.t.Helper()
		text, err := wait()
		must(js.t, err)
		var list []value.Bytes
		must(js.t, json.Unmarshal(text, &list))
		b := block.Block{Hash: hash, Data: list[0]}
		must(js.t, b.Check())
		return b
	}
}

func TestJavaScriptReadsDatabasesOfDaemon(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	js := startNode(t)
	js.newIdentity(writerB)
	js.connect(n)
	for kind, puts := range map[string][][]string{
		orbit.TypeDocuments: {{`{"_id":"a","n":1.5}`}, {`{"_id":"b","bytes":{"/":{"bytes":"AQID"}}}`}, {`{"_id":"a","big":18446744073709551615}`}},
		orbit.TypeKeyValue:  {{"name", `"Anna"`}, {"seats", "[1,2]"}, {"name", "null"}},
		orbit.TypeEvents:    {{`"doors open"`}, {"null"}, {`"doors open"`}},
	} {
		t.Run(kind, func(t *testing.T) {
			js := js.in(t)
			address := strings.TrimSpace(n.MustRun("npp", "db", "create", kind, "--type", kind, "--write", orbit.Anyone))
			for _, put := range puts {
				n.MustRun(append([]string{"npp", "db", "put", address}, put...)...)
			}
			inDaemon := daemonReplica{t, n, address}
			want := inDaemon.state()
			// The manifest and all needed blocks are fetched from the daemon.
			inJS := jsReplica{js, writerB.name, kind, address}
			js.do(nil, "open", inJS.with(nil))
			for _, hash := range want.heads {
				js.fetched(hash)()
			}
			inJS.join(want.heads, nil)
			check(t, "JavaScript", inJS.state(query{}), want)
		})
	}
}

// asCAR returns the blocks of a database as a CAR.
func asCAR(t testing.TB, address string, bs []block.Block) []byte {
	t.Helper()
	hash, err := orbit.ParseAddress(address)
	must(t, err)
	root, err := block.ParseHash(hash)
	must(t, err)
	var car bytes.Buffer
	w, err := storage.NewWritable(&car, []cid.Cid{root}, carv2.WriteAsCarV1(true))
	must(t, err)
	for _, b := range bs {
		c, err := block.ParseHash(b.Hash)
		must(t, err)
		must(t, w.Put(t.Context(), c.KeyString(), b.Data))
	}
	must(t, w.Finalize())
	return car.Bytes()
}

// imported makes a daemon import a CAR.
func imported(t *testing.T, n *harness.Node, car []byte) (result struct {
	Address                                  string
	Entries, Known, Waiting, Faults, Refused int
}) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "database.car")
	must(t, os.WriteFile(file, car, 0o600))
	return decode[struct {
		Address                                  string
		Entries, Known, Waiting, Faults, Refused int
	}](t, n.MustRun("npp", "db", "import", file, "--enc=json"))
}

func TestDaemonImportsDatabasesOfJavaScript(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	js := startNode(t)
	js.newIdentity(writerA)
	for _, kind := range []string{orbit.TypeDocuments, orbit.TypeKeyValue, orbit.TypeEvents} {
		t.Run(kind, func(t *testing.T) {
			js := js.in(t)
			inJS := js.create(writerA, kind, orbit.Options{Type: kind, Access: orbit.Access{Managed: true}}, false)
			inJS.change("grant", "somebody")
			writeAll(t, inJS, kind)
			blocks := js.allBlocks()
			result := imported(t, n, asCAR(t, inJS.address, blocks))
			if want := len(operations[kind]) + 1; result.Entries != want || result.Address != inJS.address || result.Waiting+result.Faults != 0 {
				t.Errorf("imported %+v, want %d entries", result, want)
			}
			check(t, "the daemon", daemonReplica{t, n, inJS.address}.state(), inJS.state(query{}))

			// The other direction: the daemon exports the database.
			file := filepath.Join(t.TempDir(), "exported.car")
			n.MustRun("npp", "db", "export", inJS.address, "-o", file)
			car, err := os.Open(file)
			must(t, err)
			defer car.Close()
			for _, b := range readCAR(t, car) {
				if !slices.ContainsFunc(blocks, func(known block.Block) bool { return known.Hash == b.Hash }) {
					t.Errorf("JavaScript has no block %s: %q", b.Hash, b.Data)
				}
			}
		})
	}
}

// soon is the longest time until a wanted block arrives. A block that is not
// announced arrives much later or never.
const soon = 5 * time.Second

func TestBlockThatJavaScriptWaitsForArrivesOncePut(t *testing.T) {
	t.Parallel()
	n := harness.New(t).Start()
	js, author := startNode(t), startNode(t)
	js.connect(n)
	author.newIdentity(writerA)
	inAuthor := author.create(writerA, "later", orbit.Options{Type: orbit.TypeDocuments}, false)
	entries := writeAll(t, inAuthor, inAuthor.kind)
	car := asCAR(t, inAuthor.address, author.allBlocks())
	address, err := newOrbit(t, writerA).AddressOf("later", orbit.Options{Type: orbit.TypeEvents, Access: orbit.Access{Write: []string{orbit.Anyone}}})
	must(t, err)
	manifest, err := orbit.ParseAddress(address)
	must(t, err)

	for _, test := range []struct {
		name, hash string
		put        func()
	}{
		{"manifest", manifest, func() { n.MustRun("npp", "db", "create", "later", "--write", orbit.Anyone) }},
		{"entry", entries[len(entries)-1].Hash, func() { imported(t, n, car) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			js := js.in(t)
			arrived := js.fetched(test.hash)
			c, err := block.ParseHash(test.hash)
			must(t, err)
			waitUntilWanted(t, n, js.peerID(), c)
			test.put()
			put := time.Now()
			arrived()
			if waited := time.Since(put); waited > soon {
				t.Errorf("it arrived %v after it was put", waited)
			} else {
				t.Logf("it arrived %v after it was put", waited)
			}
		})
	}
}

// waitUntilWanted waits until a daemon knows that a peer wants a block.
func waitUntilWanted(t *testing.T, n *harness.Node, peer string, c cid.Cid) {
	t.Helper()
	for end := time.Now().Add(harness.Patience); ; {
		status, answer := n.RPC("bitswap/wantlist", url.Values{"peer": {peer}}, nil)
		if status != http.StatusOK {
			t.Fatalf("bitswap/wantlist: %s", answer)
		}
		for _, key := range decode[struct{ Keys []map[string]string }](t, answer).Keys {
			if wanted, err := cid.Decode(key["/"]); err == nil && wanted.Equals(c) {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not want %s: %s", peer, c, answer)
		}
	}
}
