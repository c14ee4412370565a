package oplog_test

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

const (
	namespace = "/npp/test"
	logID     = "/orbitdb/test"
	logNumber = 7
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// signers are the writers of tests. Entries of the last one are invalid
// according to [verify].
var signers = func() (list []*identity.Signer) {
	for i := range 5 {
		key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(fmt.Appendf(nil, "%032d", i)))
		if err != nil {
			panic(err)
		}
		s, err := identity.New(key, key)
		if err != nil {
			panic(err)
		}
		list = append(list, s)
	}
	return list
}()

var vandal = signers[len(signers)-1]

var errVandal = errors.New("written by a vandal")

// verifyAgain is verify for a rebuild.
func verifyAgain(e *entry.Entry) (writer string, invalid, err error) { return e.Key, verify(e), nil }

// verify returns why an entry is invalid, or nil.
func verify(e *entry.Entry) error {
	if e.Key == vandal.PublicKey || strings.HasPrefix(e.Key, "bad") {
		return errVandal
	}
	return nil
}

// accept accepts every entry.
func accept(*entry.Entry) error { return nil }

// offered contains all entries that were offered to a log, by hash.
var offered sync.Map

func candidate(e *entry.Entry) oplog.Candidate {
	offered.Store(e.Hash(), e)
	return oplog.Candidate{Entry: e, Writer: e.Key, Invalid: verify(e)}
}

// config is the configuration of a log that anyone may write. In these tests,
// the ID of an entry's writer is the entry's key.
func config(state oplog.State) oplog.Config {
	return oplog.Config{
		State:  state,
		Access: oplog.Access{Writers: []string{oplog.Anyone}, Known: []string{oplog.Anyone}},
		Writer: func(_ blocks.Getter, e *entry.Entry) (string, error) { return e.Key, nil },
	}
}

func candidates(entries ...*entry.Entry) (list []oplog.Candidate) {
	for _, e := range entries {
		list = append(list, candidate(e))
	}
	return list
}

// of returns candidates that a peer offered.
func of(peer string, entries ...*entry.Entry) []oplog.Candidate {
	list := candidates(entries...)
	for i := range list {
		list[i].From = peer
	}
	return list
}

// draft is an unsigned entry, as far as tests choose it.
type draft struct {
	key        string
	time       float64
	next, refs []*entry.Entry
	payload    value.Value
	log        string
}

func (d draft) entry() *entry.Entry {
	if d.payload == nil {
		d.payload = value.Null
	}
	if d.log == "" {
		d.log = logID
	}
	field := func(b []byte, name, text string) []byte {
		return dagcbor.AppendText(dagcbor.AppendText(b, name), text)
	}
	b := dagcbor.AppendMap(nil, 9)
	b = dagcbor.AppendUint(dagcbor.AppendText(b, "v"), entry.Version)
	b = field(b, "id", d.log)
	b = field(b, "key", d.key)
	b = field(b, "sig", "")
	for i, named := range [][]*entry.Entry{d.next, d.refs} {
		b = dagcbor.AppendText(b, []string{"next", "refs"}[i])
		b = dagcbor.AppendArray(b, len(named))
		for _, e := range named {
			b = dagcbor.AppendText(b, e.Hash())
		}
	}
	b = dagcbor.AppendMap(dagcbor.AppendText(b, "clock"), 2)
	b = field(b, "id", d.key)
	b, err := dagcbor.AppendFloat(dagcbor.AppendText(b, "time"), d.time)
	if err != nil {
		panic(err)
	}
	b = append(dagcbor.AppendText(b, "payload"), d.payload...)
	b = field(b, "identity", block.Hash(nil))
	e, err := entry.Decode(block.New(b))
	if err != nil {
		panic(err)
	}
	return e
}

// replica is a log on a disk.
type replica struct {
	*oplog.Log
	disk  datastore.Batching
	store *store.Store
	keys  keyed.Index
	bound uint64 // on the bytes of pending entries
}

func open(ctx context.Context, ds datastore.Batching) (replica, error) {
	return openWith(ctx, ds, func(*oplog.Config) {})
}

// openFor opens a log with an initial access list.
func openFor(ctx context.Context, ds datastore.Batching, a oplog.Access) (replica, error) {
	return openWith(ctx, ds, func(c *oplog.Config) { c.Access = a })
}

// openWith opens a log with a changed configuration.
func openWith(ctx context.Context, ds datastore.Batching, change func(*oplog.Config)) (replica, error) {
	r := replica{disk: ds, store: store.New(ds, namespace), keys: keyed.New(logNumber, keyed.NewHints())}
	c := config(r.keys)
	c.MaxPending = oplog.DefaultMaxPending
	change(&c)
	r.bound = c.MaxPending
	var err error
	r.Log, err = oplog.Open(ctx, r.store, logNumber, logID, c)
	return r, err
}

func newReplica(t testing.TB) replica {
	t.Helper()
	r, err := open(t.Context(), storetest.NewDisk())
	must(t, err)
	return r
}

// join offers entries in one batch.
func (r replica) join(t testing.TB, entries ...*entry.Entry) []oplog.Outcome {
	t.Helper()
	outcomes, err := r.Join(t.Context(), candidates(entries...))
	must(t, err)
	return outcomes
}

func (r replica) append(t testing.TB, s *identity.Signer, payloads ...value.Value) []*entry.Entry {
	t.Helper()
	entries, err := r.Append(t.Context(), s, payloads...)
	must(t, err)
	return entries
}

// joinAll offers all entries and then those of them that are missing, until
// none is. It starts again if some were abandoned meanwhile.
func (r replica) joinAll(t testing.TB, g graph, entries []*entry.Entry) {
	t.Helper()
	before := must1(r.Stats(t.Context()))
	r.join(t, entries...)
	for {
		missing, err := r.Missing(t.Context())
		must(t, err)
		if len(missing) == 0 {
			if now := must1(r.Stats(t.Context())); now.Abandoned != before.Abandoned {
				before = now
				r.join(t, entries...)
				continue
			}
			return
		}
		var wanted []*entry.Entry
		for _, hash := range missing {
			wanted = append(wanted, g[hash])
		}
		outcomes := r.join(t, wanted...)
		if slices.ContainsFunc(outcomes, func(o oplog.Outcome) bool { return o == oplog.Joined || o == oplog.Pending }) {
			continue
		}
		if left := must1(r.Missing(t.Context())); slices.Equal(left, missing) {
			t.Fatalf("%s are missing and %v", missing, outcomes)
		}
	}
}

func all[T any](t testing.TB, seq iter.Seq2[T, error]) (list []T) {
	t.Helper()
	for v, err := range seq {
		must(t, err)
		list = append(list, v)
	}
	return list
}

func hashes(entries []*entry.Entry) (list []string) {
	for _, e := range entries {
		list = append(list, e.Hash())
	}
	return list
}

// same fails the test unless got equals want.
func same[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// graph is a log without an index. Tests derive from it what a log should
// contain.
type graph map[string]*entry.Entry

func newGraph(entries ...*entry.Entry) graph {
	g := make(graph)
	for _, e := range entries {
		g[e.Hash()] = e
	}
	return g
}

// plain returns the position of an entry whose clock is larger than those of
// its ancestors.
func plain(e *entry.Entry) entry.Position { return e.Position(entry.Rank{Time: e.Clock.Time}) }

// positions returns the positions of the authorized entries in the order of the
// log, and the positions according to their clocks of the others.
func (g graph) positions(verify func(*entry.Entry) error) map[string]entry.Position {
	placed := make(map[string]entry.Position, len(g))
	var place func(e *entry.Entry) entry.Rank
	place = func(e *entry.Entry) entry.Rank {
		if p, ok := placed[e.Hash()]; ok {
			return p.Rank
		}
		rank := entry.Rank{Time: e.Clock.Time}
		if verify(e) == nil {
			var below entry.Rank
			next := g.next(e, verify)
			for _, p := range next {
				if r := place(p); r.Compare(below) > 0 {
					below = r
				}
			}
			if len(next) > 0 && rank.Compare(below) <= 0 {
				rank = entry.Rank{Time: below.Time, Depth: below.Depth + 1}
			}
		}
		placed[e.Hash()] = e.Position(rank)
		return rank
	}
	for _, e := range g {
		place(e)
	}
	return placed
}

// newest compares entries so that the newer one is first.
func (g graph) newest(verify func(*entry.Entry) error) func(a, b *entry.Entry) int {
	positions := g.positions(verify)
	return func(a, b *entry.Entry) int { return positions[b.Hash()].Compare(positions[a.Hash()]) }
}

// order returns the authorized entries, newest first.
func (g graph) order(verify func(*entry.Entry) error) (list []*entry.Entry) {
	for _, e := range g {
		if verify(e) == nil {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, g.newest(verify))
	return list
}

// next returns the nearest authorized ancestors of e.
func (g graph) next(e *entry.Entry, verify func(*entry.Entry) error) map[string]*entry.Entry {
	found := make(map[string]*entry.Entry)
	seen := make(map[string]bool)
	var add func(e *entry.Entry)
	add = func(e *entry.Entry) {
		for _, hash := range e.Next {
			p := g[hash]
			if p == nil || seen[hash] {
				continue
			}
			seen[hash] = true
			if verify(p) == nil {
				found[hash] = p
			} else {
				add(p)
			}
		}
	}
	add(e)
	return found
}

func (g graph) heads(verify func(*entry.Entry) error) []*entry.Entry {
	list := g.order(verify)
	named := make(map[string]bool)
	for _, e := range list {
		for hash := range g.next(e, verify) {
			named[hash] = true
		}
	}
	return slices.DeleteFunc(list, func(e *entry.Entry) bool { return named[e.Hash()] })
}

// refs returns the refs of the next entry.
func (g graph) refs(verify func(*entry.Entry) error) []string {
	list := hashes(g.order(verify))
	if len(g.heads(verify)) > 32 {
		return []string{}
	}
	list = list[min(len(list), len(g.heads(verify))):]
	return list[:min(len(list), entry.MaxRefs)]
}

// live returns the entries of the keys that are not deleted, newest first.
func (g graph) live(verify func(*entry.Entry) error) (list []*entry.Entry) {
	slots := make(map[string]bool)
	for _, e := range g.order(verify) {
		op, ok := keyed.Parse(e.Payload)
		if !ok || slots[op.Key.Slot()] {
			continue
		}
		slots[op.Key.Slot()] = true
		if !op.Deleted {
			list = append(list, e)
		}
	}
	return list
}

// closed returns the largest subgraph that is closed under next and refs.
func (g graph) closed() graph {
	c := maps.Clone(g)
	for n := -1; n != len(c); {
		n = len(c)
		maps.DeleteFunc(c, func(_ string, e *entry.Entry) bool {
			return slices.ContainsFunc(e.Parents(), func(hash string) bool { return c[hash] == nil })
		})
	}
	return c
}

// needed returns the authorized entries and their ancestors.
func (g graph) needed(verify func(*entry.Entry) error) graph {
	n := make(graph)
	var add func(e *entry.Entry)
	add = func(e *entry.Entry) {
		if n[e.Hash()] == nil {
			n[e.Hash()] = e
			for _, hash := range e.Parents() {
				add(g[hash])
			}
		}
	}
	for _, e := range g.order(verify) {
		add(e)
	}
	return n
}

// records returns the records below a prefix of the log.
func (r replica) records(t testing.TB, prefix string) map[string]string {
	t.Helper()
	records := make(map[string]string)
	for rec, err := range r.store.Scan(t.Context(), strings.TrimSuffix(blocks.LogPrefix(logNumber)+"/"+prefix, "/")) {
		must(t, err)
		records[rec.Key] = string(rec.Value)
	}
	return records
}

// stored returns the entries of the log and the pending entries, as they are on
// disk.
func (r replica) stored(t testing.TB) (log, pending graph, numbers map[string]uint64) {
	t.Helper()
	log, pending, numbers = make(graph), make(graph), make(map[string]uint64)
	for rec, err := range r.store.Ascend(t.Context(), blocks.Entries(logNumber), 0) {
		must(t, err)
		b, err := blocks.DecodeEntry(rec.Value)
		must(t, err)
		e, err := entry.Decode(b)
		must(t, err)
		if log[b.Hash] != nil {
			t.Errorf("%s is there twice", b.Hash)
		}
		log[b.Hash], numbers[b.Hash] = e, rec.Number
	}
	for hash := range r.pendingRecords(t) {
		e, ok := offered.Load(hash)
		if !ok {
			t.Fatalf("%s is pending and was never offered", hash)
		}
		pending[hash] = e.(*entry.Entry)
	}
	return log, pending, numbers
}

// audit derives all records and all results from the entries and the pending
// entries, and compares.
func (r replica) audit(t testing.TB, verify func(*entry.Entry) error) (log, pending graph) {
	t.Helper()
	log, pending, numbers := r.stored(t)
	prefix := blocks.LogPrefix(logNumber) + "/"
	g := blocks.Reading(t.Context(), r.store)

	// The log.
	if len(log.closed()) != len(log) {
		t.Error("the log is not closed under next and refs")
	}
	for hash, e := range log {
		if n := numbers[hash]; n == 0 || n > uint64(len(log)) {
			t.Errorf("number %d of %d entries", n, len(log))
		}
		at, err := blocks.Locate(g, hash)
		if want := (blocks.Location{Log: logNumber, Number: numbers[hash]}); err != nil || at != want {
			t.Errorf("%s is at %v, %v; want %v", hash, at, err, want)
		}
		got, err := r.Get(t.Context(), hash)
		if err != nil || got.Hash() != hash || string(got.Block.Data) != string(e.Block.Data) {
			t.Errorf("get %s: %v", hash, err)
		}
	}
	positions := log.positions(verify)
	wantOrder, wantReasons, wantRanks := make(map[string]string), make(map[string]string), make(map[string]string)
	for hash, e := range log {
		if got, err := r.Position(t.Context(), e); err != nil || got != positions[hash] {
			t.Errorf("position of %s: %+v, %v; want %+v", hash, got, err, positions[hash])
		}
		if rank := positions[hash].Rank; rank != (entry.Rank{Time: e.Clock.Time}) {
			wantRanks[prefix+"raised/"+hash] = fmt.Sprintf("~%016x.%016x.", math.Float64bits(rank.Time), rank.Depth)
		}
		if err := verify(e); err != nil {
			wantReasons[prefix+"fault/"+hash] = err.Error()
		} else {
			wantOrder[oplog.PositionKey(prefix+"order", positions[hash])] = string(binary.AppendUvarint(nil, numbers[hash]))
		}
	}
	if got := r.records(t, "order"); !maps.Equal(got, wantOrder) {
		t.Errorf("order: got %q, want %q", got, wantOrder)
	}
	if got := r.records(t, "raised"); !maps.Equal(got, wantRanks) {
		t.Errorf("raised: got %q, want %q", got, wantRanks)
	}
	if got := r.records(t, "fault"); !maps.Equal(got, wantReasons) {
		t.Errorf("reasons: got %q, want %q", got, wantReasons)
	}
	r.auditUnanchored(t, verify, log)
	r.auditTree(t, log.order(verify), positions)
	order := hashes(log.order(verify))
	same(t, "newest first", hashes(all(t, r.Iterate(t.Context(), oplog.Range{}))), order)
	slices.Reverse(order)
	same(t, "oldest first", hashes(all(t, r.Ascend(t.Context()))), order)

	// The state.
	live := log.live(verify)
	wantLive, wantKeys := make(map[string]string), make(map[string]string)
	for _, e := range live {
		wantLive[oplog.PositionKey(prefix+"live", positions[e.Hash()])] = string(binary.AppendUvarint(nil, numbers[e.Hash()]))
	}
	for _, e := range log.order(verify) {
		op, ok := keyed.Parse(e.Payload)
		if key := prefix + "key/" + op.Key.Slot(); ok && wantKeys[key] == "" {
			record := []byte{0}
			if op.Deleted {
				record[0] = 1
			}
			wantKeys[key] = string(binary.AppendUvarint(record, numbers[e.Hash()])) + e.Hash()
		}
	}
	if got := r.records(t, "live"); !maps.Equal(got, wantLive) {
		t.Errorf("live: got %q, want %q", got, wantLive)
	}
	if got := r.records(t, "key"); !maps.Equal(got, wantKeys) {
		t.Errorf("keys: got %q, want %q", got, wantKeys)
	}
	var items []string
	for _, item := range all(t, r.keys.Items(t.Context(), r.store, nil)) {
		items = append(items, item.Hash)
		for _, keys := range []keyed.Index{r.keys, keyed.New(logNumber, keyed.NewHints())} {
			got, err := keys.Get(g, item.Key)
			if err != nil || got.Hash != item.Hash || !got.Value.Equal(item.Value) {
				t.Errorf("get %v: %v, %v", item.Key, got, err)
			}
		}
	}
	same(t, "items", items, hashes(live))

	r.auditPending(t, log, pending)

	st, err := r.Stats(t.Context())
	must(t, err)
	heads := log.heads(verify)
	var wantHeads []entry.Position
	clock := 0.0
	for _, e := range heads {
		wantHeads = append(wantHeads, positions[e.Hash()])
		clock = max(clock, positions[e.Hash()].Time)
	}
	got, err := r.Heads(t.Context())
	must(t, err)
	for _, list := range [][]entry.Position{st.Heads, got} {
		if st.Revising > 0 { // ancestors of the heads may still be among them
			list = slices.DeleteFunc(slices.Clone(list), func(p entry.Position) bool {
				return slices.Contains(order, p.Hash) && p == positions[p.Hash] && !slices.Contains(wantHeads, p)
			})
		}
		same(t, "heads", list, wantHeads)
	}
	equal(t, "entries", st.Entries, uint64(len(order)))
	equal(t, "unauthorized", st.Unauthorized, uint64(len(log)-len(order)))
	equal(t, "pending", st.Pending, uint64(len(pending)))
	equal(t, "keys", st.Keys, uint64(len(live)))
	equal(t, "last number", st.Last, uint64(len(log)))
	bytes := 0
	for _, e := range log {
		bytes += len(e.Block.Data)
	}
	equal(t, "bytes", st.Bytes, uint64(bytes))
	equal(t, "clock", st.Clock, clock)
	return log, pending
}

// auditUnanchored checks which entries are marked as unanchored, and the
// ancestor ranks of invalid entries.
func (r replica) auditUnanchored(t testing.TB, verify func(*entry.Entry) error, log graph) {
	t.Helper()
	prefix := blocks.LogPrefix(logNumber) + "/"
	anchored := make(map[string]bool)
	var anchor func(hash string)
	anchor = func(hash string) {
		if !anchored[hash] && log[hash] != nil {
			anchored[hash] = true
			for _, next := range log[hash].Next {
				anchor(next)
			}
		}
	}
	wantUnanchored, wantAncestorRanks := make(map[string]string), make(map[string]string)
	positions := log.positions(verify)
	for hash, e := range log {
		if verify(e) == nil {
			anchor(hash)
			continue
		}
		var below entry.Rank
		text := ""
		for hash := range log.next(e, verify) {
			if rank := positions[hash].Rank; text == "" || rank.Compare(below) > 0 {
				below = rank
				text = fmt.Sprintf("~%016x.%016x.", math.Float64bits(rank.Time), rank.Depth)
			}
		}
		wantAncestorRanks[prefix+"below/"+hash] = text
	}
	for hash := range log {
		if !anchored[hash] {
			wantUnanchored[prefix+"loose/"+hash] = ""
		}
	}
	queued := must1(r.Stats(t.Context())).Revising
	if got := r.records(t, "loose"); queued == 0 && !maps.Equal(got, wantUnanchored) {
		t.Errorf("unanchored: got %q, want %q", got, wantUnanchored)
	}
	if got := r.records(t, "below"); !maps.Equal(got, wantAncestorRanks) {
		t.Errorf("below: got %q, want %q", got, wantAncestorRanks)
	}
}

// auditAppend checks the parents of the next entry.
func (r replica) auditAppend(t testing.TB, verify func(*entry.Entry) error) {
	t.Helper()
	log, _, _ := r.stored(t)
	e := r.append(t, signers[0], value.Null)[0]
	same(t, "next of an append", e.Next, hashes(log.heads(verify)))
	same(t, "refs of an append", e.Refs, log.refs(verify))
}

// payload returns an operation on one of a few keys, or none.
func payload(rng *rand.Rand) value.Value {
	key := value.Text(fmt.Sprint("key", rng.IntN(5)))
	switch rng.IntN(6) {
	case 0:
		return keyed.Delete(key)
	case 1:
		return value.Text("no operation")
	}
	v, _ := value.Of(rng.IntN(1000))
	return keyed.Put(key, v)
}

// history returns the entries of some writers, including the vandal, who append
// and join at random. They accept all entries that they are offered, as
// JavaScript does. Two of three histories also contain forged entries with
// arbitrary times. Parents precede their children.
func history(t testing.TB, rng *rand.Rand, steps int, writers ...*identity.Signer) []*entry.Entry {
	t.Helper()
	replicas := make([]replica, len(writers))
	for i := range replicas {
		replicas[i] = newReplica(t)
	}
	var entries []*entry.Entry
	known := make(graph)
	times := 2 * rng.IntN(3)
	for step := range steps {
		w := rng.IntN(len(writers))
		if times > 0 && rng.IntN(3) == 0 {
			e := forged(t, rng, replicas[w], fmt.Sprintf("%s%d", []string{"bad", "forger"}[min(1, rng.IntN(4))], step), times)
			offered.Store(e.Hash(), e)
			_, err := replicas[w].Join(t.Context(), []oplog.Candidate{{Entry: e}})
			must(t, err)
			entries = append(entries, e)
			known[e.Hash()] = e
			continue
		}
		if rng.IntN(3) > 0 {
			for range 1 + rng.IntN(3) {
				e := replicas[w].append(t, writers[w], payload(rng))[0]
				entries = append(entries, e)
				known[e.Hash()] = e
			}
			continue
		}
		var offered []oplog.Candidate
		for _, a := range all(t, replicas[rng.IntN(len(writers))].Arrived(t.Context(), 0)) {
			offered = append(offered, oplog.Candidate{Entry: a.Entry})
		}
		_, err := replicas[w].Join(t.Context(), offered)
		must(t, err)
	}
	for _, r := range replicas {
		r.audit(t, accept)
		r.auditAppend(t, accept)
	}
	return entries
}

// forged returns an entry whose parents are some entries of a replica, or its
// heads. Its time is of one of the kinds of [anyTime], or of the first half of
// them.
func forged(t testing.TB, rng *rand.Rand, r replica, key string, times int) *entry.Entry {
	t.Helper()
	below := all(t, r.Iterate(t.Context(), oplog.Range{}))
	now := 0.0
	if len(below) > 0 {
		now = below[0].Clock.Time
	}
	below = shuffled(rng, below)[:min(len(below), rng.IntN(4))]
	if rng.IntN(4) == 0 {
		below = slices.Repeat(below, 1+rng.IntN(50))
	}
	return draft{key: key, time: anyTime(rng, times, now), next: below, payload: payload(rng)}.entry()
}

// anyTime returns a time of one of the first kinds.
func anyTime(rng *rand.Rand, kinds int, now float64) float64 {
	switch rng.IntN(kinds) {
	case 0:
		return float64(rng.IntN(5))
	case 1:
		return float64(rng.IntN(5)) + 0.5
	case 2:
		return now + 0.5
	}
	return []float64{1 << 53, 1e300}[rng.IntN(2)]
}

// seeds runs a test with several seeds. The first seed is new each time.
func seeds(t *testing.T, n int, test func(t *testing.T, rng *rand.Rand)) {
	t.Helper()
	for i := range n {
		seed := uint64(i)
		if i == 0 {
			seed = rand.Uint64()
		}
		test(t, rand.New(rand.NewPCG(seed, 0)))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func shuffled[T any](rng *rand.Rand, list []T) []T {
	list = slices.Clone(list)
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// someWriters returns 2 to 4 writers, with or without the vandal.
func someWriters(rng *rand.Rand) []*identity.Signer {
	writers := signers[:2+rng.IntN(2)]
	if rng.IntN(2) == 0 {
		writers = append(slices.Clone(writers), vandal)
	}
	return writers
}
