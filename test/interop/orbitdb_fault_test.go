package interop

import (
	"errors"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/value"
)

// forgery is an entry of the owner that a test modifies.
type forgery struct {
	owner    *identity.Signer
	signer   *identity.Signer // its keys sign the entry
	stranger *identity.Signer
	version  value.Value
	address  string
	clockID  string
	time     float64
	next     []string
	rawTime  value.Value // encoded as the time, if it is not encoded as in JavaScript
	extra    []value.Member
	edit     func(data []byte) []byte // modifies the encoded entry
}

// newForgery returns an unmodified entry for a database of writer A.
func newForgery(t testing.TB, r goReplica) forgery {
	t.Helper()
	owner := signerOf(t, writerA)
	return forgery{
		owner: owner, signer: owner, stranger: signerOf(t, writerC), version: fromJSON("2"),
		address: r.Address(), clockID: owner.PublicKey, time: 1,
	}
}

// byStranger makes another writer sign, in the name of the owner.
func (f *forgery) byStranger() {
	f.signer = f.stranger
	f.clockID = f.signer.PublicKey
}

// block encodes the entry.
func (f forgery) block(t testing.TB) block.Block {
	t.Helper()
	time := mustOf(t, f.time)
	clock := func(time value.Value) value.Value {
		return value.Map(value.Member{Name: "id", Value: value.Text(f.clockID)}, value.Member{Name: "time", Value: time})
	}
	payload := mustOf(t, map[string]any{"op": "PUT", "key": "faulty", "value": map[string]any{"_id": "faulty"}})
	next, refs := mustOf(t, texts(f.next)), mustOf(t, []any{})
	signed := []value.Member{
		{Name: "v", Value: f.version}, {Name: "id", Value: value.Text(f.address)}, {Name: "next", Value: next},
		{Name: "refs", Value: refs}, {Name: "clock", Value: clock(time)}, {Name: "payload", Value: payload},
	}
	sig, err := f.signer.Sign(value.Map(signed...))
	must(t, err)
	if f.rawTime != nil {
		signed[4].Value = clock(f.rawTime)
	}
	data := []byte(value.Map(slices.Concat(signed, f.extra, []value.Member{
		{Name: "key", Value: value.Text(f.signer.PublicKey)}, {Name: "sig", Value: value.Text(sig)},
		{Name: "identity", Value: value.Text(f.owner.Hash())},
	})...))
	if f.edit != nil {
		data = f.edit(data)
	}
	return block.New(data)
}

// verdict is the fate of an entry.
type verdict int

const (
	refused verdict = iota // JavaScript does not join it, and Go never stores it
	invalid                // JavaScript joins it, and Go stores it as invalid
	valid                  // both join it
)

var forgeries = []struct {
	name   string
	change func(f *forgery)
	want   verdict
}{
	{"honest", func(f *forgery) {}, valid},
	{"clock far ahead", func(f *forgery) { f.time = 1<<53 - 1 }, valid},
	{"largest clock", func(f *forgery) { f.time = 1 << 53 }, valid},
	{"clock that cannot be counted on", func(f *forgery) { f.time = 1e300 }, valid},
	{"clock with a fraction", func(f *forgery) { f.time = 1.5 }, valid},
	{"clock of 0", func(f *forgery) { f.time = 0 }, valid},
	{"negative clock", func(f *forgery) { f.time = -1 }, invalid},
	{"negative clock with a fraction", func(f *forgery) { f.time = -1.5 }, invalid},
	{"field that is not signed", func(f *forgery) {
		f.extra = []value.Member{{Name: "x", Value: value.Null}}
	}, invalid},
	{"clock as a float", func(f *forgery) { f.rawTime = value.Value{0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0} }, invalid},
	{"clock as a short float", func(f *forgery) { f.rawTime = value.Value{0xf9, 0x3c, 0} }, invalid},
	{"fields in another order", func(f *forgery) { f.edit = lastFirst }, invalid},
	{"key that is not its identity's", (*forgery).byStranger, invalid},
	{"clock of another", func(f *forgery) { f.clockID = "zzz" }, invalid},
	{"other version", func(f *forgery) { f.version = fromJSON("3") }, invalid},
	{"long head", func(f *forgery) { f.edit = func(data []byte) []byte { return append([]byte{0xb8, 9}, data[1:]...) } }, refused},
	{"trailing byte", func(f *forgery) { f.edit = func(data []byte) []byte { return append(data, 0) } }, refused},
	{"other bytes than the signed ones", func(f *forgery) { f.rawTime = fromJSON("2") }, refused},
	{"stranger", func(f *forgery) {
		f.signer = f.stranger
		f.owner, f.clockID = f.signer, f.signer.PublicKey
	}, refused},
	{"other database", func(f *forgery) { f.address += "x" }, refused},
}

// lastFirst moves the last field of an entry to the front.
func lastFirst(data []byte) []byte {
	at := len(data) - (1 + len("identity") + 2 + block.HashLen)
	return slices.Concat(data[:1], data[at:], data[1:at])
}

// Only the owner may write to the database. JavaScript joins the entry, unless
// it refuses it. Then the owner writes an entry that references it, in
// JavaScript and then in Go.
func TestInvalidEntriesAreNotAuthorizedInGo(t *testing.T) {
	t.Parallel()
	js := startNode(t)
	js.newIdentity(writerA)
	js.takeBlocks(identityBlock(t, writerC))
	for _, test := range forgeries {
		t.Run(test.name, func(t *testing.T) {
			js := js.in(t)
			opts := orbit.Options{Type: orbit.TypeDocuments}
			o := newOrbit(t, writerA)
			must(t, o.PutBlocks(t.Context(), identityBlock(t, writerC)))
			inGo, inJS := create(t, o, test.name, opts), js.create(writerA, test.name, opts, false)
			f := newForgery(t, inGo)
			test.change(&f)
			b := f.block(t)

			got := inJS.joined([]string{b.Hash}, []block.Block{b})[0]
			if got.Joined != (test.want != refused) {
				t.Errorf("JavaScript joins it: %t %s", got.Joined, got.Error)
			}
			outcome := inGo.joined([]block.Block{b})[0]
			if counted := outcome.Outcome == orbit.Joined; counted != (test.want == valid) || counted != (outcome.Err == nil) {
				t.Errorf("Go: %v %v", outcome.Outcome, outcome.Err)
			}
			if test.want == invalid && !errors.Is(outcome.Err, entry.ErrInvalid) {
				t.Errorf("Go: %v", outcome.Err)
			}

			honest, err := inJS.write(op{"put", nil, fromJSON(`{"_id":"honest"}`)})
			must(t, err)
			inGo.joined([]block.Block{honest, b})
			compareFaulty(t, inGo, inJS, b.Hash, test.want)

			top, err := inGo.write(op{"put", nil, fromJSON(`{"_id":"on top"}`)})
			must(t, err)
			inJS.join([]string{top.Hash}, []block.Block{top})
			compareFaulty(t, inGo, inJS, b.Hash, test.want)
		})
	}
}

// compareFaulty compares replicas that have the entry with a hash, unless it is
// refused.
func compareFaulty(t *testing.T, inGo goReplica, inJS jsReplica, hash string, want verdict) {
	t.Helper()
	got, js := inGo.state(query{}), inJS.state(query{})
	if slices.Contains(js.log, hash) != (want != refused) {
		t.Errorf("the entry is part of JavaScript's log: %t", want == refused)
	}
	here := slices.ContainsFunc(inGo.blocks(), func(b block.Block) bool { return b.Hash == hash })
	if unauthorized := here && !slices.Contains(got.log, hash); unauthorized != (want == invalid) {
		t.Errorf("the entry is part of the log in Go: %t, and authorized: %t", here, slices.Contains(got.log, hash))
	}
	if want == invalid {
		js.log = slices.DeleteFunc(js.log, func(h string) bool { return h == hash })
		js.all = slices.DeleteFunc(js.all, func(i item) bool { return i.hash == hash })
	}
	check(t, "Go", got, js)
}
