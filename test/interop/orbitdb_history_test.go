package interop

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/value"
)

// histories is the default number of random histories.
const histories = 600

// TestRandomHistoriesEndTheSameEverywhere makes writers in Go, in JavaScript
// and in both write and merge at random. NPP_SEED is the seed of a history to
// replay, NPP_HISTORIES the number of histories.
//
// The test leaves out the intended differences between JavaScript and Go (see
// package orbit):
//
//   - keys that JavaScript never shows, such as "constructor", are written, but
//     neither expected in JavaScript's items nor deleted as documents;
//   - keyvalue's get of a key that is the text of another one, 42 and "42";
//   - keys that are bytes, links, arrays or maps;
//   - entries of two replicas with the same key and time, whose order is
//     undefined in JavaScript;
//   - ranges with an amount of 0; with two lower or two upper bounds; and with
//     a lower bound that is not an ancestor of the upper one, which JavaScript
//     never reaches;
//   - an amount with both bounds, which JavaScript ignores: the test truncates
//     the result.
func TestRandomHistoriesEndTheSameEverywhere(t *testing.T) {
	t.Parallel()
	const processes = 2
	count := envNumber(t, "NPP_HISTORIES", histories)
	first := envNumber(t, "NPP_SEED", 0)
	if first == 0 {
		first = rand.Uint64() >> 16
	} else {
		count = 1
	}
	for p := range min(processes, int(count)) {
		t.Run(fmt.Sprint(p), func(t *testing.T) {
			t.Parallel()
			js := startNode(t)
			for _, w := range writers {
				js.newIdentity(w)
			}
			js.takeBlocks(emptyDirectory)
			t.Logf("%d histories, the first has seed %d", count, first)
			operations := 0
			for i := uint64(p); i < count && !t.Failed(); i += processes {
				h := newHistory(t, js, first+i)
				h.run()
				operations += len(h.blocks)
				if t.Failed() {
					t.Errorf("replay with NPP_SEED=%d:\n%s", h.seed, strings.Join(h.trace, "\n"))
				}
			}
			t.Logf("%d entries", operations)
		})
	}
}

// envNumber reads a number from the environment.
func envNumber(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	must(t, err)
	return n
}

// history is a database to which several members write.
type history struct {
	*rand.Rand
	t    testing.TB
	js   *node
	seed uint64

	kind    string
	indexBy string // of documents
	members []*member
	blocks  map[string]block.Block  // entries
	entries map[string]*entry.Entry // by hash
	inJS    map[string]bool         // hashes of the entries that JavaScript has
	keys    []value.Value
	trace   []string // the operations so far
}

// member is a writer with its replicas: one, or one each in Go and in
// JavaScript with the same operations.
type member struct {
	writer
	replicas []replica
	known    map[string]bool // hashes of its entries
}

func newHistory(t testing.TB, js *node, seed uint64) *history {
	h := &history{
		Rand: rand.New(rand.NewPCG(seed, 0)), t: t, js: js, seed: seed,
		blocks: make(map[string]block.Block), entries: make(map[string]*entry.Entry), inJS: make(map[string]bool),
	}
	h.kind = pick(h.Rand, orbit.TypeDocuments, orbit.TypeKeyValue, orbit.TypeEvents)
	opts := orbit.Options{Type: h.kind, Access: orbit.Access{Write: []string{orbit.Anyone}}}
	if h.kind == orbit.TypeDocuments {
		h.indexBy = pick(h.Rand, orbit.DefaultIndexBy, "name")
		opts.IndexBy = h.indexBy
	}
	for range 2 + h.IntN(4) {
		h.keys = append(h.keys, fromJSON(pick(h.Rand, keys...)))
	}
	list := h.Perm(len(writers))[:2+h.IntN(3)]
	name := fmt.Sprint("history ", seed)
	onDisk := h.IntN(20) == 0
	for i, w := range list {
		m := &member{writer: writers[w], known: make(map[string]bool)}
		where := i // the first writes in Go, the second in JavaScript
		if i > 1 {
			where = h.IntN(2)
		}
		both := h.IntN(4) == 0
		if where == 0 || both {
			o := newOrbit(t, m.writer)
			for _, w := range writers {
				must(t, o.PutBlocks(t.Context(), identityBlock(t, w)))
			}
			m.replicas = append(m.replicas, create(t, o, name, opts))
		}
		if where == 1 || both {
			m.replicas = append(m.replicas, js.create(m.writer, name, opts, !onDisk))
		}
		h.members = append(h.members, m)
		for _, r := range m.replicas {
			h.log("%s is a %T", m.name, r)
		}
	}
	return h
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func (h *history) log(format string, a ...any) { h.trace = append(h.trace, fmt.Sprintf(format, a...)) }

func (h *history) run() {
	for range 10 + h.IntN(21) {
		m := pick(h.Rand, h.members...)
		switch n := h.IntN(100); {
		case n < 70:
			h.write(m)
		case n < 97:
			h.merge(m, pick(h.Rand, h.members...))
		default:
			h.compare(m.replicas)
		}
		if h.t.Failed() {
			return
		}
	}
	for _, m := range h.members {
		for _, from := range h.members {
			h.take(m, from.replicas[0].heads())
		}
	}
	var all []replica
	for _, m := range h.members {
		all = append(all, m.replicas...)
	}
	h.compare(all)
	h.checkOrder(all[0].state(query{}))
	for _, r := range all {
		if js, ok := r.(jsReplica); ok {
			js.close()
		}
	}
}

// write makes a member write something.
func (h *history) write(m *member) {
	o := h.op()
	var written []block.Block
	for _, r := range m.replicas {
		b, err := r.write(o)
		if err != nil && !absent(o, err) {
			h.t.Fatalf("seed %d: %s: %v", h.seed, o, err)
		}
		written = append(written, b)
		if _, ok := r.(jsReplica); ok {
			h.inJS[b.Hash] = true
		}
	}
	h.log("%s: %s = %s", m.name, o, written[0].Hash)
	for _, b := range written[1:] {
		if b.Hash != written[0].Hash {
			h.t.Errorf("%s: Go wrote\n%q, JavaScript\n%q", o, written[0].Data, b.Data)
		}
	}
	if b := written[0]; b.Hash != "" {
		e, err := entry.Decode(b)
		must(h.t, err)
		h.blocks[b.Hash], h.entries[b.Hash] = b, e
		m.known[b.Hash] = true
	}
}

// absent reports whether an operation failed because it deletes a missing
// document.
func absent(o op, err error) bool {
	return o.kind == "del" && (errors.Is(err, orbit.ErrNotFound) || strings.Contains(err.Error(), "No document with key"))
}

func (h *history) op() op {
	key := pick(h.Rand, h.keys...)
	switch {
	case h.kind == orbit.TypeEvents:
		return op{"add", nil, h.value(0)}
	case h.IntN(3) == 0 && !(h.kind == orbit.TypeDocuments && hidden[key.String()]):
		return op{"del", key, nil}
	case h.kind == orbit.TypeKeyValue:
		return op{"put", key, h.value(0)}
	}
	if !key.Truthy() {
		key = value.Text("key")
	}
	doc, err := value.Of(map[string]any{h.indexBy: key, "n": h.value(0), "longer": h.value(1)})
	must(h.t, err)
	return op{"put", nil, doc}
}

// Keys, some of which are equal in JavaScript.
var keys = []string{
	`"a"`, `"b"`, `"c"`, `"a/b"`, `"ä"`, `" "`, `"\u0000"`, `42`, `"42"`, `-1`, `"-1"`, `1.5`, `"1.5"`, `1e21`, `"1e+21"`,
	`true`, `"true"`, `false`, `null`, `"null"`, `0`, `"0"`, `""`, `18446744073709551615`, `"18446744073709551615"`,
	`1e-7`, `"1e-7"`, `"constructor"`, `"__proto__"`, `"toString"`,
}

// hidden are the keys that JavaScript does not show, because every object has
// them.
var hidden = map[string]bool{`"constructor"`: true, `"__proto__"`: true, `"toString"`: true}

// values are values of all kinds. The links are to the identity A and to an
// empty directory, see [emptyDirectory].
var values = []string{
	`null`, `true`, `false`, `0`, `-0.0`, `1`, `-1`, `23`, `24`, `-24`, `-25`, `255`, `256`, `65535`, `65536`, `4294967295`,
	`4294967296`, `9007199254740991`, `-9007199254740991`, `9007199254740992`, `-9007199254740992`, `9007199254740992.0`,
	`9007199254740993`, `18446744073709551615`, `-18446744073709551616`, `1.8446744073709552e19`, `1e15`, `1e21`, `1e300`,
	`-1e-300`, `5e-324`, `1.7976931348623157e308`, `0.1`, `-0.5`, `1.5`, `3.0`, `65504.0`, `3.4028234663852886e38`,
	`""`, `"text"`, `"ä€😀"`, `"\u0000\u2028\"\\"`, `"\ud800"`, `{"/":{"bytes":""}}`, `{"/":{"bytes":"AAECA/8"}}`,
	`{"/":"zdpuAxAMTp2N2rut4i3Tfx6BqBCTLsS68xqLzvSGFZ5WPZVy4"}`, `{"/":"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"}`,
	`[]`, `{}`,
}

// emptyDirectory is a block to which values link. JavaScript pins all links of
// its entries. It does not write or join an entry with a link whose block it
// cannot find.
var emptyDirectory = block.New([]byte{0x0a, 2, 8, 1})

var names = []string{"a", "b", "aa", "ab", "Z", "", "ä", "€", "😀", "42", "7", "constructor", "length", "a longer name than the others"}

// value returns a random value, nested at the given depth.
func (h *history) value(depth int) value.Value {
	n := h.IntN(10)
	switch {
	case depth < 4 && n == 0:
		list := make([]any, h.IntN(5))
		for i := range list {
			list[i] = h.value(depth + 1)
		}
		return mustOf(h.t, list)
	case depth < 4 && n <= 2:
		m := make(map[string]any)
		for range h.IntN(5) {
			m[pick(h.Rand, names...)] = h.value(depth + 1)
		}
		return mustOf(h.t, m)
	case n == 3:
		return mustOf(h.t, h.NormFloat64())
	case n == 4:
		return mustOf(h.t, int64(h.Uint64())>>h.IntN(64))
	}
	return fromJSON(pick(h.Rand, values...))
}

func mustOf(t testing.TB, v any) value.Value {
	t.Helper()
	made, err := value.Of(v)
	must(t, err)
	return made
}

// merge makes a member take all entries of another, or some of them.
func (h *history) merge(to, from *member) {
	heads := from.replicas[0].heads()
	if len(heads) == 0 {
		return
	}
	h.Shuffle(len(heads), func(i, j int) { heads[i], heads[j] = heads[j], heads[i] })
	switch h.IntN(6) {
	case 0:
		heads = heads[:1]
	case 1:
		heads = []string{pick(h.Rand, slices.Sorted(maps.Keys(from.known))...)}
	}
	h.log("%s takes %q of %s", to.name, heads, from.name)
	h.take(to, heads)
}

// take makes a member join entries and their ancestors.
func (h *history) take(to *member, heads []string) {
	all := h.cone(heads...)
	var fresh, unsent []block.Block
	for _, hash := range slices.Sorted(maps.Keys(all)) {
		if !to.known[hash] {
			fresh = append(fresh, h.blocks[hash])
		}
	}
	h.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
	for _, r := range to.replicas {
		if _, ok := r.(goReplica); ok {
			r.join(heads, fresh)
			continue
		}
		for _, b := range fresh {
			if !h.inJS[b.Hash] {
				h.inJS[b.Hash] = true
				unsent = append(unsent, b)
			}
		}
		r.join(heads, unsent)
	}
	maps.Copy(to.known, all)
}

// cone returns entries and their ancestors.
func (h *history) cone(top ...string) map[string]bool {
	all := make(map[string]bool)
	top = slices.Clone(top)
	for len(top) > 0 {
		hash := top[len(top)-1]
		top = top[:len(top)-1]
		if !all[hash] {
			all[hash] = true
			top = append(top, h.entries[hash].Next...)
		}
	}
	return all
}

// sorted returns the hashes of all entries, newest first.
func (h *history) sorted() (hashes []string) {
	all := slices.SortedFunc(maps.Values(h.entries), func(a, b *entry.Entry) int {
		return cmp.Or(cmp.Compare(b.Clock.Time, a.Clock.Time), strings.Compare(b.Clock.ID, a.Clock.ID))
	})
	for _, e := range all {
		hashes = append(hashes, e.Hash())
	}
	return hashes
}

// checkOrder compares the heads and the order of a replica that has all entries
// with the expected ones.
func (h *history) checkOrder(got state) {
	named := make(map[string]bool)
	for _, e := range h.entries {
		for _, hash := range e.Next {
			named[hash] = true
		}
	}
	want := state{log: h.sorted(), all: got.all}
	want.heads = slices.DeleteFunc(slices.Clone(want.log), func(hash string) bool { return named[hash] })
	check(h.t, fmt.Sprintf("seed %d: order", h.seed), got, want)
}

// compare reads replicas that have the same entries.
func (h *history) compare(replicas []replica) {
	if len(replicas) < 2 {
		return
	}
	q := query{newest: 1 + h.IntN(4)}
	log := replicas[0].state(query{}).log
	if len(log) > 0 {
		for range 6 {
			q.ranges = append(q.ranges, h.rng(log))
		}
	}
	slots := make(map[string]value.Value)
	shown := true
	for _, key := range h.keys {
		if other, ok := slots[key.Slot()]; ok && !other.Equal(key) {
			slots[key.Slot()] = nil
		} else {
			slots[key.Slot()] = key
		}
		shown = shown && !hidden[key.String()]
	}
	for _, key := range h.keys {
		if h.kind == orbit.TypeDocuments && !hidden[key.String()] || h.kind == orbit.TypeKeyValue && slots[key.Slot()] != nil {
			q.keys = append(q.keys, key)
		}
	}
	if h.kind == orbit.TypeEvents {
		for _, hash := range log {
			q.keys = append(q.keys, value.Text(hash))
		}
	} else if !shown {
		q.newest = 0
	}
	var want state
	for i, r := range replicas {
		got := r.state(q)
		got.all = slices.DeleteFunc(got.all, func(i item) bool { return hidden[i.key] })
		if i == 0 {
			want = got
			continue
		}
		check(h.t, fmt.Sprintf("seed %d: %s, replica %d (%T)", h.seed, h.kind, i, r), got, want)
	}
	if h.t.Failed() {
		h.log("ranges: %+v", q.ranges)
		h.log("keys: %v", q.keys)
	}
}

// rng returns a random range of a log.
func (h *history) rng(log []string) (r orbit.Range) {
	if h.IntN(2) == 0 {
		r.Limit = 1 + h.IntN(len(log)+2)
	}
	from := log
	if h.IntN(2) == 0 {
		high := pick(h.Rand, log...)
		cone := h.cone(high)
		if h.IntN(2) == 0 {
			r.LT = high
			delete(cone, high)
		} else {
			r.LTE = high
		}
		from = slices.Sorted(maps.Keys(cone))
	}
	if h.IntN(2) == 0 && len(from) > 0 {
		if low := pick(h.Rand, from...); h.IntN(2) == 0 {
			r.GT = low
		} else {
			r.GTE = low
		}
	}
	return r
}
