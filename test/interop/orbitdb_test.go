package interop

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/boxo/keystore"
	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
	"github.com/newpieceplease/npp/test/harness"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is a running orbitdb.mjs. Its methods fail the test instead of returning
// an error.
type node struct {
	*process
	t testing.TB
}

type process struct {
	addr  string        // multiaddr, with the peer ID
	ended chan struct{} // closed at the end of its output

	mu      sync.Mutex
	stdin   *json.Encoder
	last    int                 // ID of the last command
	waiting map[int]chan answer // for the answer to a command, by ID
	events  []event
}

// in returns the node for a subtest, so that failures are those of the subtest.
func (js *node) in(t testing.TB) *node { return &node{js.process, t} }

// answer is a line that orbitdb.mjs prints.
type answer struct {
	ID        int
	Result    json.RawMessage
	Error     string
	Ready     *struct{ Addrs []string }
	Unhandled string
	event
}

// The stacks of orbitdb.mjs, as its arguments. The first two give pubsub
// messages ascending and random sequence numbers.
const (
	orbitdb4       = "4 " + ascendingSeqno
	orbitdb4Random = "4 " + randomSeqno
	orbitdb3       = "3" // with random sequence numbers
)

// startNode starts orbitdb.mjs without connections and databases.
func startNode(t testing.TB) *node {
	t.Helper()
	return startNodeWith(t, orbitdb4)
}

// startNodeWith is startNode on a stack.
func startNodeWith(t testing.TB, stack string) *node {
	t.Helper()
	cmd, stdin, stdout := startScript(t, "orbitdb.mjs", strings.Fields(stack)...)
	js := &node{&process{ended: make(chan struct{}), stdin: stdin, waiting: map[int]chan answer{}}, t}
	ready := js.expect(0)
	go func() {
		defer close(js.ended)
		defer cmd.Wait()
		lines := bufio.NewReader(stdout)
		for {
			text, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			if err := js.take(text); err != nil {
				t.Errorf("orbitdb.mjs printed %s: %v", text, err)
			}
		}
	}()
	t.Cleanup(func() { <-js.ended })
	a := js.wait("ready", ready)
	if a.Ready == nil {
		t.Fatalf("orbitdb.mjs did not start: %s", a.Error)
	}
	js.addr = a.Ready.Addrs[0]
	return js
}

// expect returns the channel that receives the answer to a command.
func (p *process) expect(id int) <-chan answer {
	c := make(chan answer, 1)
	p.waiting[id] = c
	return c
}

// take processes a line of output.
func (p *process) take(text []byte) error {
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.Unhandled != "" {
		return errors.New("it would have ended an app")
	}
	if a.Event != "" {
		a.event.Error = a.Error
		p.events = append(p.events, a.event)
		return nil
	}
	c, ok := p.waiting[a.ID]
	if !ok {
		return errors.New("no command waits for it")
	}
	delete(p.waiting, a.ID)
	c <- a
	return nil
}

// wait waits for an answer.
func (js *node) wait(what string, c <-chan answer) answer {
	js.t.Helper()
	select {
	case a := <-c:
		return a
	case <-js.ended:
	case <-time.After(harness.Patience):
		js.t.Fatalf("%s: no answer for %v", what, harness.Patience)
	}
	select {
	case a := <-c:
		return a
	default:
		js.t.Fatalf("%s: orbitdb.mjs ended", what)
	}
	panic("unreachable")
}

// args are the arguments of a command.
type args map[string]any

// try sends a command and waits for its answer.
func (js *node) try(command string, a args) (json.RawMessage, error) {
	js.t.Helper()
	return js.start(command, a)()
}

// start sends a command. It returns a function that waits for the answer. Other
// commands do not wait for it.
func (js *node) start(command string, a args) func() (json.RawMessage, error) {
	js.t.Helper()
	js.mu.Lock()
	defer js.mu.Unlock()
	js.last++
	c := args{"id": js.last, "command": command}
	maps.Copy(c, a)
	v, err := value.Of(map[string]any(c))
	must(js.t, err)
	answered := js.expect(js.last)
	must(js.t, js.stdin.Encode(v))
	return func() (json.RawMessage, error) {
		js.t.Helper()
		got := js.wait(command, answered)
		if got.Error != "" {
			return nil, fmt.Errorf("%s: %s", command, got.Error)
		}
		return got.Result, nil
	}
}

// do is try for a command that must succeed. It stores the result in the value
// that result points to, unless that is nil.
func (js *node) do(result any, command string, a args) {
	js.t.Helper()
	text, err := js.try(command, a)
	must(js.t, err)
	if result != nil {
		if err := json.Unmarshal(text, result); err != nil {
			js.t.Fatalf("%s: %s: %v", command, text, err)
		}
	}
}

// writer has an identity with fixed keys, in Go, JavaScript or both.
type writer struct {
	name          string
	root, signing byte // the value of all bytes of each key
}

// Writers A and B are those of the test vectors.
var (
	writerA = writer{"A", 0x11, 0x22}
	writerB = writer{"B", 0x33, 0x44}
	writerC = writer{"C", 0x55, 0x66}
	writerD = writer{"D", 0x77, 0x78}
	writers = []writer{writerA, writerB, writerC, writerD}
)

func secret(t testing.TB, b byte) crypto.PrivKey {
	t.Helper()
	key, err := crypto.UnmarshalSecp256k1PrivateKey(bytes.Repeat([]byte{b}, 32))
	must(t, err)
	return key
}

// signerOf returns the identity of a writer.
func signerOf(t testing.TB, w writer) *identity.Signer {
	t.Helper()
	s, err := identity.New(secret(t, w.root), secret(t, w.signing))
	must(t, err)
	return s
}

// newOrbit returns the Orbit of a writer in Go.
func newOrbit(t testing.TB, w writer) *orbit.Orbit {
	t.Helper()
	return newOrbitWith(t, w, orbit.Config{})
}

func newOrbitWith(t testing.TB, w writer, c orbit.Config) *orbit.Orbit {
	t.Helper()
	keys := keystore.NewMemKeystore()
	must(t, keys.Put("orbitdb-root", secret(t, w.root)))
	must(t, keys.Put("orbitdb-signing", secret(t, w.signing)))
	c.Store, c.Keystore = store.New(storetest.NewDisk(), "/orbit"), keys
	o, err := orbit.New(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { o.Close() })
	return o
}

// newIdentity creates the identity of a writer in JavaScript and returns its
// ID.
func (js *node) newIdentity(w writer) string {
	js.t.Helper()
	var identity struct{ ID string }
	js.do(&identity, "identity", args{
		"name":    w.name,
		"root":    hex.EncodeToString(bytes.Repeat([]byte{w.root}, 32)),
		"signing": hex.EncodeToString(bytes.Repeat([]byte{w.signing}, 32)),
	})
	return identity.ID
}

// takeBlocks puts blocks into JavaScript's block store.
func (js *node) takeBlocks(bs ...block.Block) {
	js.t.Helper()
	js.do(nil, "put-blocks", args{"blocks": dataOf(bs)})
}

func dataOf(bs []block.Block) []any {
	list := make([]any, len(bs))
	for i, b := range bs {
		list[i] = b.Data
	}
	return list
}

// allBlocks returns all blocks in JavaScript's block store.
func (js *node) allBlocks() []block.Block {
	js.t.Helper()
	var list []value.Bytes
	js.do(&list, "all-blocks", nil)
	bs := make([]block.Block, len(list))
	for i, data := range list {
		bs[i] = block.New(data)
	}
	return bs
}

// replica is the database of one writer, in Go or in JavaScript.
type replica interface {
	// write runs an operation and returns the block of its entry.
	write(op op) (block.Block, error)
	// join joins entries, given by their heads, with the blocks that they need.
	join(heads []string, bs []block.Block)
	// state returns the content of the database and the results of the query.
	state(q query) state
	heads() []string
}

// op is an operation on a database.
type op struct {
	kind       string      // "put", "del" or "add"
	key, value value.Value // a document contains its key
}

func (o op) String() string { return fmt.Sprintf("%s %s %s", o.kind, o.key, o.value) }

// query is what a state includes besides the whole content.
type query struct {
	ranges []orbit.Range
	keys   []value.Value // of events: hashes
	newest int           // number of newest items, if not 0
}

// state is what replicas must agree on.
type state struct {
	heads, log []string
	all        []item
	ranges     [][]string
	got        []string // values, "" if missing
	newest     []string // hashes
}

// item is an item of a database: an event has no key.
type item struct {
	hash, key, value string
}

// goReplica is a database in Go.
type goReplica struct {
	t testing.TB
	*orbit.Database
}

func (r goReplica) write(op op) (block.Block, error) {
	ctx := r.t.Context()
	var hash string
	var err error
	switch r.Type() {
	case orbit.TypeDocuments:
		docs, typeErr := r.Documents()
		must(r.t, typeErr)
		if op.kind == "put" {
			hash, err = docs.Put(ctx, op.value)
		} else {
			hash, err = docs.Delete(ctx, op.key)
		}
	case orbit.TypeKeyValue:
		kv, typeErr := r.KeyValue()
		must(r.t, typeErr)
		if op.kind == "put" {
			hash, err = kv.Put(ctx, op.key, op.value)
		} else {
			hash, err = kv.Delete(ctx, op.key)
		}
	case orbit.TypeEvents:
		ev, typeErr := r.Events()
		must(r.t, typeErr)
		hash, err = ev.Add(ctx, op.value)
	}
	if err != nil {
		return block.Block{}, err
	}
	e, err := r.Entry(ctx, hash)
	must(r.t, err)
	return e.Block, nil
}

func (r goReplica) join(heads []string, bs []block.Block) {
	r.t.Helper()
	for _, j := range r.joined(bs) {
		must(r.t, j.Err)
	}
	for _, hash := range heads {
		if _, err := r.Entry(r.t.Context(), hash); err != nil {
			r.t.Fatalf("entry %s is not part of the log: %v", hash, err)
		}
	}
}

// joined joins blocks and returns the outcomes.
func (r goReplica) joined(bs []block.Block) []orbit.JoinResult {
	r.t.Helper()
	joined, err := r.Join(r.t.Context(), orbit.NewCandidates(bs...), orbit.JoinOptions{})
	must(r.t, err)
	return joined
}

func (r goReplica) heads() []string {
	r.t.Helper()
	stats, err := r.Stats(r.t.Context())
	must(r.t, err)
	return stats.Heads
}

func (r goReplica) state(q query) state {
	r.t.Helper()
	all := r.all()
	s := state{heads: r.heads(), log: r.hashes(orbit.Range{}), all: all}
	for _, rng := range q.ranges {
		s.ranges = append(s.ranges, r.hashes(rng))
	}
	for _, key := range q.keys {
		v, err := r.get(key)
		if err != nil && !errors.Is(err, orbit.ErrNotFound) {
			r.t.Fatal(err)
		}
		got := ""
		if err == nil {
			got = v.String()
		}
		s.got = append(s.got, got)
	}
	for _, i := range slices.Backward(all[len(all)-min(len(all), q.newest):]) {
		s.newest = append(s.newest, i.hash)
	}
	return s
}

func (r goReplica) get(key value.Value) (value.Value, error) {
	r.t.Helper()
	switch r.Type() {
	case orbit.TypeDocuments:
		docs, err := r.Documents()
		must(r.t, err)
		i, err := docs.Get(r.t.Context(), key)
		return i.Value, err
	case orbit.TypeKeyValue:
		kv, err := r.KeyValue()
		must(r.t, err)
		i, err := kv.Get(r.t.Context(), key)
		return i.Value, err
	}
	ev, err := r.Events()
	must(r.t, err)
	hash, _ := key.Text()
	e, err := ev.Get(r.t.Context(), hash)
	return e.Value, err
}

// hashes returns the hashes of the entries in a range.
func (r goReplica) hashes(rng orbit.Range) []string {
	r.t.Helper()
	list := []string{}
	for e, err := range r.Iterate(r.t.Context(), rng) {
		must(r.t, err)
		list = append(list, e.Hash())
	}
	return list
}

func (r goReplica) all() []item {
	r.t.Helper()
	list := []item{}
	var items iter.Seq2[orbit.Item, error]
	switch r.Type() {
	case orbit.TypeDocuments:
		docs, err := r.Documents()
		must(r.t, err)
		items = docs.All(r.t.Context())
	case orbit.TypeKeyValue:
		kv, err := r.KeyValue()
		must(r.t, err)
		items = kv.All(r.t.Context())
	case orbit.TypeEvents:
		ev, err := r.Events()
		must(r.t, err)
		for e, err := range ev.All(r.t.Context()) {
			must(r.t, err)
			list = append(list, item{e.Hash, "", e.Value.String()})
		}
		return list
	}
	for i, err := range items {
		must(r.t, err)
		list = append(list, item{i.Hash, i.Key.String(), i.Value.String()})
	}
	return list
}

// blocks returns the entries in the order of arrival.
func (r goReplica) blocks() (bs []block.Block) {
	r.t.Helper()
	for a, err := range r.Stored(r.t.Context(), 0) {
		must(r.t, err)
		bs = append(bs, a.Entry.Block)
	}
	return bs
}

// jsReplica is a database in JavaScript.
type jsReplica struct {
	js      *node
	as      string // name of the writer
	kind    string // type of the database
	address string
}

// with returns the arguments of a command on the database.
func (r jsReplica) with(more args) args {
	a := args{"as": r.as, "address": r.address}
	for name, arg := range more {
		a[name] = arg
	}
	return a
}

func (r jsReplica) write(op op) (block.Block, error) {
	r.js.t.Helper()
	return r.startWrite(op)()
}

// startWrite starts to write. It returns a function that waits for the entry.
func (r jsReplica) startWrite(op op) func() (block.Block, error) {
	r.js.t.Helper()
	a := args{}
	switch {
	case r.kind == orbit.TypeDocuments && op.kind == "put":
		a["doc"] = op.value
	case op.kind == "put":
		a["key"], a["value"] = op.key, op.value
	case op.kind == "del":
		a["key"] = op.key
	default:
		a["value"] = op.value
	}
	wait := r.js.start(op.kind, r.with(a))
	return func() (block.Block, error) {
		r.js.t.Helper()
		text, err := wait()
		if err != nil {
			return block.Block{}, err
		}
		return writtenBlock(r.js.t, text), nil
	}
}

// writtenBlock decodes the answer to a write.
func writtenBlock(t testing.TB, text []byte) block.Block {
	t.Helper()
	var w struct {
		Hash  string
		Bytes value.Bytes
	}
	must(t, json.Unmarshal(text, &w))
	b := block.Block{Hash: w.Hash, Data: w.Bytes}
	must(t, b.Check())
	return b
}

// joinResult is the outcome of joining an entry in JavaScript.
type joinResult struct {
	Hash   string
	Joined bool
	Error  string
}

func (r jsReplica) join(heads []string, bs []block.Block) {
	r.js.t.Helper()
	for _, j := range r.joined(heads, bs) {
		if j.Error != "" {
			r.js.t.Fatalf("join %s: %s", j.Hash, j.Error)
		}
	}
}

// joined joins entries and returns the outcomes.
func (r jsReplica) joined(heads []string, bs []block.Block) (results []joinResult) {
	r.js.t.Helper()
	r.js.do(&results, "join", r.with(args{"heads": texts(heads), "blocks": dataOf(bs)}))
	return results
}

func (r jsReplica) heads() (list []string) {
	r.js.t.Helper()
	r.js.do(&list, "heads", r.with(nil))
	return list
}

// rangeOf returns a range as an argument for JavaScript.
func rangeOf(r orbit.Range) map[string]any {
	m := map[string]any{}
	for name, hash := range map[string]string{"gt": r.GT, "gte": r.GTE, "lt": r.LT, "lte": r.LTE} {
		if hash != "" {
			m[name] = hash
		}
	}
	if r.Limit > 0 {
		m["amount"] = r.Limit
	}
	return m
}

func (r jsReplica) state(q query) state {
	r.js.t.Helper()
	ranges, keys := make([]any, len(q.ranges)), make([]any, len(q.keys))
	for i, rng := range q.ranges {
		ranges[i] = rangeOf(rng)
	}
	for i, key := range q.keys {
		keys[i] = key
	}
	var got struct {
		Heads, Log []string
		All        []struct {
			Hash       string
			Key, Value value.Value
		}
		Ranges [][]string
		Got    [][]value.Value
		Newest []string
	}
	a := r.with(args{"ranges": ranges, "keys": keys})
	if q.newest > 0 {
		a["newest"] = q.newest
	}
	r.js.do(&got, "state", a)
	s := state{heads: got.Heads, log: got.Log, all: []item{}, ranges: got.Ranges}
	for _, i := range got.All {
		one := item{hash: i.Hash, value: i.Value.String()}
		if i.Key != nil {
			one.key = i.Key.String()
		}
		s.all = append(s.all, one)
	}
	for i, rng := range q.ranges {
		// With both bounds, JavaScript ignores the amount.
		if n := rng.Limit; n > 0 && rng.GT+rng.GTE != "" && rng.LT+rng.LTE != "" && len(s.ranges[i]) > n {
			s.ranges[i] = s.ranges[i][:n]
		}
	}
	for _, found := range got.Got {
		text := ""
		if len(found) > 0 {
			text = found[0].String()
		}
		s.got = append(s.got, text)
	}
	if q.newest > 0 {
		s.newest = got.Newest
	}
	return s
}

// create opens in Go the database that is identified by a name and the options.
func create(t testing.TB, o *orbit.Orbit, name string, opts orbit.Options) goReplica {
	t.Helper()
	db, err := o.Create(t.Context(), name, opts)
	must(t, err)
	return goReplica{t, db}
}

// create opens in JavaScript the database that is identified by a name and the
// options. With memory, it stores nothing on disk.
func (js *node) create(w writer, name string, opts orbit.Options, memory bool) jsReplica {
	js.t.Helper()
	return js.createWith(w, name, opts, args{"memory": memory})
}

func (js *node) createWith(w writer, name string, opts orbit.Options, more args) jsReplica {
	js.t.Helper()
	a := args{"as": w.name, "name": name, "type": opts.Type}
	maps.Copy(a, more)
	if opts.IndexBy != "" {
		a["indexBy"] = opts.IndexBy
	}
	if opts.Meta != nil {
		a["meta"] = opts.Meta
	}
	access := map[string]any{"type": "ipfs"}
	if opts.Access.Managed {
		access["type"] = "orbitdb"
	}
	if opts.Access.Write != nil {
		access["write"] = texts(opts.Access.Write)
	}
	a["access"] = access
	var got struct{ Address string }
	js.do(&got, "create", a)
	return jsReplica{js, w.name, opts.Type, got.Address}
}

func (r jsReplica) close() {
	r.js.t.Helper()
	r.js.do(nil, "close", r.with(nil))
}

func texts(list []string) []any {
	all := make([]any, len(list))
	for i, text := range list {
		all[i] = text
	}
	return all
}

// check fails the test unless two replicas agree.
func check(t testing.TB, what string, got, want state) {
	t.Helper()
	if !slices.Equal(got.heads, want.heads) {
		t.Errorf("%s: heads\n%q, want\n%q", what, got.heads, want.heads)
	}
	if !slices.Equal(got.log, want.log) {
		t.Errorf("%s: log\n%q, want\n%q", what, got.log, want.log)
	}
	if !slices.Equal(got.all, want.all) {
		t.Errorf("%s: all\n%q, want\n%q", what, got.all, want.all)
	}
	for i := range want.ranges {
		if !slices.Equal(got.ranges[i], want.ranges[i]) {
			t.Errorf("%s: range %d\n%q, want\n%q", what, i, got.ranges[i], want.ranges[i])
		}
	}
	if !slices.Equal(got.got, want.got) {
		t.Errorf("%s: got by keys\n%q, want\n%q", what, got.got, want.got)
	}
	if !slices.Equal(got.newest, want.newest) {
		t.Errorf("%s: newest\n%q, want\n%q", what, got.newest, want.newest)
	}
}

// fromJSON returns the value of a JSON text.
func fromJSON(text string) value.Value {
	v, err := value.FromJSON([]byte(text))
	if err != nil {
		panic(err)
	}
	return v
}

// identityBlock returns the block of a writer's identity.
func identityBlock(t testing.TB, w writer) block.Block {
	t.Helper()
	return signerOf(t, w).Block()
}
