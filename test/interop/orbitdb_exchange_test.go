package interop

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
	"testing"

	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/value"
)

// operations has some operations for each type of database.
var operations = map[string][]op{
	orbit.TypeDocuments: {
		{"put", nil, fromJSON(`{"_id":"bwv846","title":"Prelude","bars":35,"key":"C"}`)},
		{"put", nil, fromJSON(`{"_id":"bwv847","title":"Prélude","tempo":66.5,"score":{"/":{"bytes":"AQID"}}}`)},
		{"put", nil, fromJSON(`{"_id":42,"big":18446744073709551615,"float":1.8446744073709552e19,"none":null}`)},
		{"put", nil, fromJSON(`{"_id":"bwv846","title":"Prelude and fugue","parts":[{"voices":1},{"voices":4}]}`)},
		{"del", fromJSON(`"bwv847"`), nil},
		{"put", nil, fromJSON(`{"_id":"bwv848"}`)},
	},
	orbit.TypeKeyValue: {
		{"put", fromJSON(`"name"`), fromJSON(`"Anna"`)},
		{"put", fromJSON(`"seats"`), fromJSON(`[1,2.5,-3,1e300]`)},
		{"del", fromJSON(`"never"`), nil},
		{"put", fromJSON(`7`), fromJSON(`{"nested":{"deeper":{}}}`)},
		{"put", fromJSON(`"name"`), fromJSON(`"Anna Magdalena"`)},
		{"del", fromJSON(`"seats"`), nil},
	},
	orbit.TypeEvents: {
		{"add", nil, fromJSON(`"doors open"`)},
		{"add", nil, fromJSON(`null`)},
		{"add", nil, fromJSON(`{"bell":3,"late":[]}`)},
		{"add", nil, fromJSON(`"doors open"`)},
		{"add", nil, fromJSON(`0.1`)},
	},
}

// forEachKind runs a test with each type of database and each access
// controller: an immutable access list with the owner alone, anyone (with a
// meta), and a managed access list.
func forEachKind(t *testing.T, test func(t *testing.T, name string, opts orbit.Options)) {
	for _, kind := range slices.Sorted(maps.Keys(operations)) {
		for name, access := range map[string]orbit.Access{
			"own": {}, "anyone": {Write: []string{orbit.Anyone}}, "managed": {Managed: true},
		} {
			name := kind + " " + name
			opts := orbit.Options{Type: kind, Access: access}
			if access.Write != nil {
				opts.Meta = fromJSON(`{"about":"us","since":[1722,1.5,null]}`)
			}
			t.Run(name, func(t *testing.T) { test(t, name, opts) })
		}
	}
}

// writeAll runs the operations of a type.
func writeAll(t testing.TB, r replica, kind string) (written []block.Block) {
	t.Helper()
	for _, o := range operations[kind] {
		b, err := r.write(o)
		must(t, err)
		written = append(written, b)
	}
	return written
}

// ranges returns ranges of a log with one head that is newer than all other
// entries.
func ranges(log []string) []orbit.Range {
	newest, mid, oldest := log[0], log[len(log)/2], log[len(log)-1]
	return []orbit.Range{
		{GT: mid}, {GTE: mid}, {LT: mid}, {LTE: mid}, {GT: newest}, {LT: oldest}, {GTE: oldest}, {LTE: newest},
		{Limit: 2}, {GT: oldest, Limit: 2}, {GTE: mid, Limit: 1}, {LT: newest, Limit: 2}, {LTE: mid, Limit: 100},
		{GT: oldest, LT: newest}, {GTE: mid, LTE: newest, Limit: 2}, {GTE: mid, LTE: mid}, {GT: mid, LTE: mid},
	}
}

// compareTwo compares the states of two replicas, and ranges of them.
func compareTwo(t testing.TB, what string, got, want replica) {
	t.Helper()
	q := query{ranges: ranges(want.state(query{}).log), newest: 2}
	check(t, what, got.state(q), want.state(q))
}

// carBlocks exports a database and returns the blocks of the CAR.
func (r goReplica) carBlocks() (bs []block.Block) {
	r.t.Helper()
	var car bytes.Buffer
	_, err := r.Export(r.t.Context(), &car)
	must(r.t, err)
	return readCAR(r.t, &car)
}

func readCAR(t testing.TB, car io.Reader) (bs []block.Block) {
	t.Helper()
	r, err := carv2.NewBlockReader(car)
	must(t, err)
	for {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			return bs
		}
		must(t, err)
		bs = append(bs, block.New(b.RawData()))
	}
}

// open opens a database in JavaScript by its address.
func (js *node) open(w writer, r replica) jsReplica {
	js.t.Helper()
	opened := jsReplica{js: js, as: w.name}
	switch r := r.(type) {
	case goReplica:
		opened.kind, opened.address = r.Type(), r.Address()
	case jsReplica:
		opened.kind, opened.address = r.kind, r.address
	}
	js.do(nil, "open", opened.with(nil))
	return opened
}

// access returns the database of the access controller.
func (r goReplica) access(o *orbit.Orbit) goReplica {
	r.t.Helper()
	db, err := o.Open(r.t.Context(), r.Access().Address(), orbit.OpenOptions{})
	must(r.t, err)
	return goReplica{r.t, db}
}

// access opens the database of the access controller.
func (r jsReplica) access() jsReplica {
	r.js.t.Helper()
	var opened struct{ Access string }
	r.js.do(&opened, "open", r.with(nil))
	access := jsReplica{r.js, r.as, orbit.TypeKeyValue, opened.Access}
	r.js.do(nil, "open", access.with(nil))
	return access
}

func (r jsReplica) change(command, id string) {
	r.js.t.Helper()
	r.js.do(nil, command, r.with(args{"capability": orbit.CapabilityWrite, "identity": id}))
}

func (r jsReplica) capabilities() map[string][]string {
	r.js.t.Helper()
	var c map[string][]string
	r.js.do(&c, "capabilities", r.with(nil))
	return c
}

func (r goReplica) capabilities() map[string][]string {
	r.t.Helper()
	c, err := r.Access().Capabilities(r.t.Context())
	must(r.t, err)
	return c
}

// blockSource returns blocks of JavaScript.
type blockSource struct{ js *node }

func (s blockSource) Get(_ context.Context, c cid.Cid) (ipfsblocks.Block, error) {
	hash, _ := block.HashOf(c)
	text, err := s.js.try("get-blocks", args{"hashes": []any{hash}})
	if err != nil {
		return nil, err
	}
	var list []value.Bytes
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	return ipfsblocks.NewBlockWithCid(list[0], c)
}

func TestSameOperationsMakeTheSameBlocks(t *testing.T) {
	t.Parallel()
	js := startNode(t)
	js.newIdentity(writerA)
	b := newOrbit(t, writerB).Identity().ID
	forEachKind(t, func(t *testing.T, name string, opts orbit.Options) {
		js := js.in(t)
		o := newOrbit(t, writerA)
		inGo, inJS := create(t, o, name, opts), js.create(writerA, name, opts, false)
		if inGo.Address() != inJS.address {
			t.Fatalf("addresses %s and %s", inGo.Address(), inJS.address)
		}
		goBlocks, jsBlocks := writeAll(t, inGo, opts.Type), writeAll(t, inJS, opts.Type)
		for i, b := range goBlocks {
			if b.Hash != jsBlocks[i].Hash {
				t.Errorf("%s:\n%q, in JavaScript\n%q", operations[opts.Type][i], b.Data, jsBlocks[i].Data)
			}
		}
		compareTwo(t, "JavaScript", inJS, inGo)
		if opts.Access.Managed {
			for _, id := range []string{b, "somebody"} {
				must(t, inGo.Access().Grant(t.Context(), orbit.CapabilityWrite, id))
				inJS.change("grant", id)
			}
			must(t, inGo.Access().Revoke(t.Context(), orbit.CapabilityWrite, b))
			inJS.change("revoke", b)
			compareTwo(t, "JavaScript's access controller", inJS.access(), inGo.access(o))
			if got, want := inJS.capabilities(), inGo.capabilities(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("capabilities %v and %v", want, got)
			}
		}
	})
}

func TestDatabasesOfGoAreReadByJavaScript(t *testing.T) {
	t.Parallel()
	js := startNode(t)
	b := js.newIdentity(writerB)
	forEachKind(t, func(t *testing.T, name string, opts orbit.Options) {
		js := js.in(t)
		o := newOrbit(t, writerA)
		inGo := create(t, o, name, opts)
		writeAll(t, inGo, opts.Type)
		if opts.Access.Managed {
			must(t, inGo.Access().Grant(t.Context(), orbit.CapabilityWrite, b))
		}
		js.takeBlocks(inGo.carBlocks()...)
		inJS := js.open(writerB, inGo)
		if opts.Access.Managed {
			inJS.access().join(inGo.access(o).heads(), nil)
		}
		inJS.join(inGo.heads(), nil)
		compareTwo(t, "JavaScript", inJS, inGo)

		// Then JavaScript writes, where it is authorized.
		last := operations[opts.Type][0]
		written, err := inJS.write(last)
		if opts.Access.Managed || opts.Access.Write != nil {
			must(t, err)
			must(t, o.PutBlocks(t.Context(), identityBlock(t, writerB)))
			inGo.join([]string{written.Hash}, []block.Block{written})
			compareTwo(t, "JavaScript, after a write there", inJS, inGo)
		} else if err == nil {
			t.Error("JavaScript writes to the database of another")
		}
		if opts.Access.Managed {
			must(t, inGo.Access().Revoke(t.Context(), orbit.CapabilityWrite, b))
			revoked := inGo.access(o)
			inJS.access().join(revoked.heads(), revoked.blocks())
			compareTwo(t, "JavaScript's access controller", inJS.access(), revoked)
			if _, err := inJS.write(last); err == nil || !strings.Contains(err.Error(), "not allowed") {
				t.Errorf("after the revocation, JavaScript writes: %v", err)
			}
		}
	})
}

func TestDatabasesOfJavaScriptAreReadByGo(t *testing.T) {
	t.Parallel()
	js := startNode(t)
	js.newIdentity(writerA)
	forEachKind(t, func(t *testing.T, name string, opts orbit.Options) {
		js := js.in(t)
		o := newOrbitWith(t, writerB, orbit.Config{Source: blockSource{js}})
		inJS := js.create(writerA, name, opts, false)
		written := writeAll(t, inJS, opts.Type)
		slices.Reverse(written)
		db, err := o.Open(t.Context(), inJS.address, orbit.OpenOptions{})
		must(t, err)
		inGo := goReplica{t, db}
		if opts.Access.Managed {
			inJS.change("grant", o.Identity().ID)
			access := inGo.access(o)
			heads := inJS.access().heads()
			access.join(heads, js.blocks(heads...))
			compareTwo(t, "JavaScript's access controller", inJS.access(), access)
		}
		inGo.join(inJS.heads(), written)
		compareTwo(t, "JavaScript", inJS, inGo)

		b, err := inGo.write(operations[opts.Type][0])
		if opts.Access.Managed || opts.Access.Write != nil {
			must(t, err)
			inJS.join(inGo.heads(), []block.Block{o.Identity().Block(), b})
			compareTwo(t, "JavaScript, after a write in Go", inJS, inGo)
		} else if !errors.Is(err, orbit.ErrNotAllowed) {
			t.Errorf("Go writes to the database of another: %v", err)
		}
		if opts.Access.Managed {
			inJS.change("revoke", o.Identity().ID)
			heads := inJS.access().heads()
			inGo.access(o).join(heads, js.blocks(heads...))
			if _, err := inGo.write(operations[opts.Type][0]); !errors.Is(err, orbit.ErrNotAllowed) {
				t.Errorf("after the revocation, Go writes: %v", err)
			}
		}
	})
}

// blocks returns blocks that JavaScript has.
func (js *node) blocks(hashes ...string) []block.Block {
	js.t.Helper()
	var list []value.Bytes
	js.do(&list, "get-blocks", args{"hashes": texts(hashes)})
	bs := make([]block.Block, len(list))
	for i, data := range list {
		bs[i] = block.New(data)
	}
	return bs
}

func TestGoAndJavaScriptWriteInTurns(t *testing.T) {
	t.Parallel()
	const rounds = 10
	js := startNode(t)
	js.newIdentity(writerB)
	for _, kind := range slices.Sorted(maps.Keys(operations)) {
		t.Run(kind, func(t *testing.T) {
			js := js.in(t)
			opts := orbit.Options{Type: kind, Access: orbit.Access{Write: []string{orbit.Anyone}}}
			o := newOrbit(t, writerA)
			must(t, o.PutBlocks(t.Context(), identityBlock(t, writerB)))
			js.takeBlocks(o.Identity().Block())
			inGo, inJS := create(t, o, "turns", opts), js.create(writerB, "turns", opts, false)
			for round := range rounds {
				// In odd rounds, neither replica has the entries of the other
				// yet.
				var fromGo, fromJS []block.Block
				for i := range 1 + round%3 {
					o := operations[kind][(round+i)%len(operations[kind])]
					if o.kind == "del" {
						o = operations[kind][0]
					}
					b, err := inGo.write(o)
					must(t, err)
					fromGo = append(fromGo, b)
					if round%2 == 0 {
						inJS.join(inGo.heads(), fromGo)
					}
					b, err = inJS.write(o)
					must(t, err)
					fromJS = append(fromJS, b)
				}
				goHeads, jsHeads := inGo.heads(), inJS.heads()
				inJS.join(goHeads, fromGo)
				inGo.join(jsHeads, fromJS)
				compareTwo(t, fmt.Sprint("JavaScript, round ", round), inJS, inGo)
			}
		})
	}
}

// keyTypes are the key types that JavaScript's libp2p generates.
var keyTypes = []string{"secp256k1", "Ed25519", "RSA", "ECDSA"}

func TestEntriesOfAllTypesOfKeysAreAuthorized(t *testing.T) {
	t.Parallel()
	js := startNode(t)
	o := newOrbitWith(t, writerA, orbit.Config{Source: blockSource{js}})
	for i, root := range keyTypes {
		for _, signing := range []string{root, keyTypes[(i+1)%len(keyTypes)]} {
			t.Run(root+" "+signing, func(t *testing.T) {
				js := js.in(t)
				w := writer{name: root + signing}
				js.do(nil, "identity", args{"name": w.name, "rootType": root, "signingType": signing})
				inJS := js.create(w, "keys "+w.name, orbit.Options{Type: orbit.TypeDocuments}, false)
				written := writeAll(t, inJS, inJS.kind)
				db, err := o.Open(t.Context(), inJS.address, orbit.OpenOptions{})
				must(t, err)
				inGo := goReplica{t, db}
				inGo.join(inJS.heads(), written)
				compareTwo(t, "JavaScript", inJS, inGo)
			})
		}
	}
}
