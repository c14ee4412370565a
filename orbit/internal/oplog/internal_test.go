package oplog

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

func someSummary() *summary {
	at := func(id string, time float64, depth uint64, data string) entry.Position {
		return entry.Position{Rank: entry.Rank{Time: time, Depth: depth}, ID: id, Hash: block.Hash([]byte(data))}
	}
	return &summary{
		Numbers: 1, Authorized: 2, Unauthorized: 3, Keys: 4, Pending: 5, PendingBytes: 6, ReadyFrom: 7, ReadyTo: 8, Rebuild: 9, HeadCount: 10, HeadPages: 14, Queue: 11, Doubted: 12, Revision: 13, Missing: 15, Abandoned: 16, Bytes: 17, Secret: 18,
		Heads:  []entry.Position{at("b", 1<<53, 1<<40, "1"), at("a", 2.5, 0, "2")},
		Newest: []entry.Position{at("d", 1e300, 0, "4"), at("b", 1<<53, 1<<40, "1"), at("a", 2.5, 0, "2"), at("c", 1, 1, "3")},
		Own:    []entry.Position{at("c", 1, 1, "3")},
	}
}

func TestSummaryIsReadAsItWasWritten(t *testing.T) {
	for _, want := range []*summary{someSummary(), {Heads: []entry.Position{}, Newest: []entry.Position{}, Own: []entry.Position{}}} {
		got := new(summary)
		if err := got.decode(want.encode()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
}

// encodeOld encodes a summary as the previous version did, which counted no
// bytes.
func encodeOld(s *summary) []byte {
	b := dagcbor.AppendArray(nil, 4)
	b = dagcbor.AppendArray(b, 9)
	for _, n := range s.oldNumbers() {
		b = dagcbor.AppendUint(b, *n)
	}
	b = dagcbor.AppendArray(b, 1)
	b = dagcbor.AppendText(b, s.Heads[0].ID)
	for _, list := range s.oldPositionLists() {
		b = dagcbor.AppendArray(b, len(*list))
		for _, p := range *list {
			b = dagcbor.AppendArray(b, 4)
			b, _ = dagcbor.AppendFloat(b, p.Time)
			b = dagcbor.AppendUint(b, p.Depth)
			b = dagcbor.AppendUint(b, 0)
			b = dagcbor.AppendText(b, p.Hash)
		}
	}
	return withChecksum(b)
}

func TestBytesOfALogOfTheVersionBeforeAreCounted(t *testing.T) {
	s := store.New(storetest.NewDisk(), "/npp/test")
	key, _, err := crypto.GenerateEd25519Key(rand.NewChaCha8([32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := identity.New(key, key)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Access: Access{Writers: []string{Anyone}}}
	l, err := Open(t.Context(), s, 1, "log", c)
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(0)
	for range 5 {
		entries, err := l.Append(t.Context(), signer, value.Null)
		if err != nil {
			t.Fatal(err)
		}
		size += uint64(len(entries[0].Block.Data))
	}
	if err := s.Update(t.Context(), func(tx *store.Tx) error {
		sum, err := l.readSummary(tx)
		if err != nil {
			return err
		}
		return tx.Put(l.summaryKey(), encodeOld(sum))
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if l, err = Open(t.Context(), s, 1, "log", c); err != nil {
			t.Fatal(err)
		}
		if st, err := l.Stats(t.Context()); err != nil || st.Bytes != size || st.Entries != 5 {
			t.Errorf("%+v, %v; want %d bytes", st, err, size)
		}
	}
}

// A rebuild needs the rest of the summary.
func TestAStaleSummaryKeepsTheRest(t *testing.T) {
	s := store.New(storetest.NewDisk(), "/npp/test")
	l := &Log{store: s, number: 1, id: "log"}
	want := someSummary()
	want.Rebuild = 0
	update := func(change func(*store.Tx) error) {
		t.Helper()
		if err := s.Update(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	update(func(tx *store.Tx) error { return l.writeSummary(tx, want) })
	want.Rebuild = 1 + want.Numbers
	for range 2 {
		update(func(tx *store.Tx) error { return MarkStale(tx, 1) })
		got, err := l.readSummary(blocks.Reading(t.Context(), s))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
}

func TestGarbledSummaryIsNotRead(t *testing.T) {
	b := someSummary().encode()
	if err := new(summary).decode(withChecksum(append(b[:len(b)-4:len(b)-4], 0))); err == nil {
		t.Error("a byte too many")
	}
	for i := range b {
		b[i] ^= 1
		if err := new(summary).decode(b); err == nil {
			t.Errorf("byte %d", i)
		}
		b[i] ^= 1
		if err := new(summary).decode(b[:i]); err == nil {
			t.Errorf("%d bytes", i)
		}
	}
}

// somePositions are positions with all kinds of ranks, oldest first.
var somePositions = func() (list []entry.Position) {
	times := []float64{
		0, math.SmallestNonzeroFloat64, 0.5, 1, 1.5, 2, 15, 16, 255.5, 1 << 32, 1<<53 - 1, 1 << 53, 1<<53 + 2, 1 << 63, 1<<64 - 1<<11,
		1 << 64, 1<<64 + 1<<12, 1e300, math.MaxFloat64,
	}
	for _, time := range times {
		for _, depth := range []uint64{0, 1, 15, 16, 1 << 32, math.MaxUint64} {
			for _, id := range []string{"0", "02", "ff"} {
				list = append(list, entry.Position{Rank: entry.Rank{Time: time, Depth: depth}, ID: id, Hash: block.Hash(nil)})
			}
		}
	}
	return list
}()

func checkRank(t *testing.T, r entry.Rank) {
	t.Helper()
	if !(r.Time >= 0) || math.Signbit(r.Time) || math.IsInf(r.Time, 1) {
		t.Errorf("rank %v", r)
	}
}

func TestPositionsAreInTheOrderOfTheirKeysAndReadBack(t *testing.T) {
	random := func() entry.Position {
		r := entry.Rank{Time: math.Float64frombits(rand.Uint64N(math.Float64bits(math.MaxFloat64) + 1)), Depth: rand.Uint64() >> rand.IntN(64)}
		switch rand.IntN(4) {
		case 0:
			r.Time = float64(rand.IntN(4)) / 2
		case 1:
			r.Time = float64(rand.Uint64() >> rand.IntN(64))
		}
		if rand.IntN(2) == 0 {
			r.Depth = rand.Uint64N(3)
		}
		return entry.Position{Rank: r, ID: fmt.Sprintf("%x", rand.IntN(100)), Hash: block.Hash([]byte{byte(rand.IntN(3))})}
	}
	positions := slices.Clone(somePositions)
	for range 2000 {
		positions = append(positions, random())
	}
	for _, p := range positions {
		if got, ok := decodePosition(encodePosition(p)); !ok || got != p {
			t.Errorf("%+v is read as %+v, %v", p, got, ok)
		}
	}
	for range 100_000 {
		p, q := positions[rand.IntN(len(positions))], positions[rand.IntN(len(positions))]
		if got, want := strings.Compare(PositionKey("s", p), PositionKey("s", q)), p.Compare(q); got != want {
			t.Fatalf("keys of %+v and %+v: %d, want %d", p, q, got, want)
		}
	}
	if !slices.IsSortedFunc(somePositions, entry.Position.Compare) {
		t.Error("positions are not in order")
	}
}

func TestKeysThatNoPositionHasAreNotRead(t *testing.T) {
	hash := block.Hash(nil)
	name := "a." + hash
	raised := func(time float64, depth uint64) string {
		return encodeRank(entry.Rank{Time: time, Depth: depth}) + name
	}
	for _, test := range []struct {
		number uint64
		name   string
	}{
		{1, "a"}, {1, "a.b"}, {1, ""}, {1, "~"}, {1, "~" + name}, {1<<53 + 1, name}, {1, raised(1, 0)}, {1, raised(2, 1)}, {2, raised(1.5, 0)},
		{0, raised(math.Copysign(0, -1), 1)}, {math.MaxUint64, raised(math.Inf(1), 0)}, {math.MaxUint64, raised(math.NaN(), 0)},
		{0, raised(-1, 1)}, {1 << 63, raised(-1, 1)}, {math.MaxUint64, raised(-1, 1)}, {1, strings.ToUpper(raised(1, 10)[:rankLen]) + name},
		{1, strings.Replace(raised(1, 1), ".", " ", 1)}, {1, raised(1, 1)[:rankLen]},
	} {
		if p, ok := decodePosition(test.number, test.name); ok {
			t.Errorf("%d/%q is read as %+v", test.number, test.name, p)
		}
	}
}

func FuzzRank(f *testing.F) {
	for _, p := range somePositions {
		f.Add(encodeRank(p.Rank))
	}
	for _, text := range []string{
		"", "~", "~+3ff000000000000.0000000000000001.", "~0x3ff0000000000.0000000000000001.", "~3FF0000000000000.000000000000000A.",
		encodeRank(entry.Rank{Time: math.Inf(1)}), encodeRank(entry.Rank{Time: math.NaN()}), encodeRank(entry.Rank{Time: -1}),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := decodeRank(text)
		if !ok {
			return
		}
		checkRank(t, r)
		if len(text) != rankLen || encodeRank(r) != text {
			t.Errorf("%q is read as %v", text, r)
		}
	})
}

func FuzzSummary(f *testing.F) {
	b := someSummary().encode()
	f.Add(b)
	f.Add(b[:len(b)-4])
	f.Add(new(summary).encode())
	f.Add([]byte{0x84, 0x89})
	f.Fuzz(func(t *testing.T, b []byte) {
		new(summary).decode(b)
		s := new(summary)
		if s.decode(withChecksum(b)) != nil {
			return
		}
		if again := new(summary); again.decode(s.encode()) != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%+v is read again as %+v", s, again)
		}
		s.add(entry.Position{})
		s.remove(entry.Position{})
	})
}

func FuzzWaiter(f *testing.F) {
	hash := block.Hash(nil)
	for _, w := range []*pendingEntry{
		{from: "peer", order: 1, held: true, size: 2, charge: 3, writer: "ID", reason: "why", parents: []string{hash, hash}, firstChunk: 1, chunks: 2, fromNext: 60},
		{},
	} {
		f.Add(w.encode())
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, record []byte) {
		w, err := decodePending(hash, record)
		if err != nil {
			return
		}
		if again, err := decodePending(hash, w.encode()); err != nil || !reflect.DeepEqual(again, w) {
			t.Errorf("%+v is read again as %+v, %v", w, again, err)
		}
	})
}

func FuzzNeed(f *testing.F) {
	f.Add(need{block.Hash(nil), "peer", 1 << 40}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, record []byte) {
		n, ok := decodeNeed(record)
		if !ok {
			return
		}
		if again, ok := decodeNeed(n.encode()); !ok || again != n {
			t.Errorf("%+v is read again as %+v", n, again)
		}
	})
}

func FuzzAccount(f *testing.F) {
	f.Add((&account{held: tally{1, 2}, evicted: tally{3, 1 << 63}}).encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, record []byte) {
		var s, again account
		if s.decode(record) && (!again.decode(s.encode()) || again != s) {
			t.Errorf("%+v is read again as %+v", s, again)
		}
	})
}

func FuzzDependants(f *testing.F) {
	hash := block.Hash(nil)
	s := store.New(storetest.NewDisk(), "/npp/test")
	l := &Log{store: s, number: 1}
	f.Add(dependants{hash, 1}.encode())
	f.Add(dependants{"", 1 << 40}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, record []byte) {
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.Put(l.dependantsKey(hash), record); err != nil {
				return err
			}
			d, err := l.dependantsOf(tx, hash)
			if err == nil && d.first != "" && !block.ValidHash(d.first) {
				t.Errorf("%q is read as %+v", record, d)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func FuzzAccess(f *testing.F) {
	f.Add(Access{}.encode())
	f.Add(Access{Writers: []string{"a", Anyone}, Known: []string{"a"}, Retained: []string{block.Hash(nil)}}.encode())
	f.Add(append(Access{}.encode(), 0))
	f.Fuzz(func(t *testing.T, record []byte) {
		a, err := decodeAccess(record)
		if err != nil {
			return
		}
		if again, err := decodeAccess(a.encode()); err != nil || !bytes.Equal(again.encode(), a.encode()) {
			t.Errorf("%v is read again as %v, %v", a, again, err)
		}
	})
}

func TestConcatenatedHashesAreReadAsTheyWereWritten(t *testing.T) {
	var want []string
	for i := range 3 {
		want = append(want, block.Hash([]byte{byte(i)}))
		record := []byte(strings.Join(want, ""))
		if got, ok := splitHashes(record); !ok || !slices.Equal(got, want) {
			t.Errorf("got %v, %v; want %v", got, ok, want)
		}
		if _, ok := splitHashes(record[:len(record)-1]); ok {
			t.Error("a byte is missing")
		}
		record[0] ^= 1
		if _, ok := splitHashes(record); ok {
			t.Error("what is no hash is read as one")
		}
	}
}

func FuzzRefs(f *testing.F) {
	f.Add(uint64(1), "a."+block.Hash(nil), []byte{1})
	f.Add(uint64(0), "", []byte{})
	for _, p := range somePositions {
		number, name := encodePosition(p)
		f.Add(number, name, []byte{1})
	}
	f.Fuzz(func(t *testing.T, n uint64, name string, v []byte) {
		records := func(yield func(store.Record, error) bool) { yield(store.Record{Number: n, Name: name, Value: v}, nil) }
		for ref, err := range readRefs(records, "order") {
			if err != nil {
				continue
			}
			if number, again := encodePosition(ref.Position); number != n || again != name {
				t.Errorf("%d/%q is read as %v", n, name, ref)
			}
			checkRank(t, ref.Rank)
		}
	})
}
