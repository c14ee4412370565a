package keyed_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

const logNumber = 3

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func of(t testing.TB, v any) value.Value {
	t.Helper()
	made, err := value.Of(v)
	must(t, err)
	return made
}

// database is a log with its keys and a writer.
type database struct {
	*oplog.Log
	keyed.Index
	disk   *storetest.Disk
	store  *store.Store
	signer *identity.Signer
}

func open(t testing.TB, writer int) database {
	t.Helper()
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(fmt.Appendf(nil, "%032d", writer)))
	must(t, err)
	disk := storetest.NewDisk()
	d := database{Index: keyed.New(logNumber, keyed.NewHints()), disk: disk, store: store.New(disk, "/npp/test")}
	d.signer, err = identity.New(key, key)
	must(t, err)
	d.Log, err = oplog.Open(t.Context(), d.store, logNumber, "log", oplog.Config{
		State:  d.Index,
		Access: oplog.Access{Writers: []string{oplog.Anyone}, Known: []string{oplog.Anyone}},
		Writer: func(_ blocks.Getter, e *entry.Entry) (string, error) { return e.Key, nil },
	})
	must(t, err)
	return d
}

func (d database) write(t testing.TB, payloads ...value.Value) []*entry.Entry {
	t.Helper()
	entries, err := d.Append(t.Context(), d.signer, payloads...)
	must(t, err)
	return entries
}

func (d database) joinFrom(t testing.TB, other database) {
	t.Helper()
	for a, err := range other.Arrived(t.Context(), 0) {
		must(t, err)
		_, err := d.Join(t.Context(), []oplog.Candidate{{Entry: a.Entry, Writer: a.Entry.Key}})
		must(t, err)
	}
}

// want checks the value of a key; nil stands for none.
func (d database) want(t testing.TB, key, val any) {
	t.Helper()
	item, err := d.Index.Get(blocks.Reading(t.Context(), d.store), of(t, key))
	switch {
	case val == nil && !errors.Is(err, keyed.ErrNotFound):
		t.Errorf("%v = %v, %v; want none", key, item.Value, err)
	case val != nil && (err != nil || !item.Value.Equal(of(t, val)) || !item.Key.Equal(of(t, key))):
		t.Errorf("%v = %v at %v, %v; want %v", key, item.Value, item.Key, err, val)
	}
}

// wantItems checks the items, newest first, and their number.
func (d database) wantItems(t testing.TB, want ...string) {
	t.Helper()
	var got, oldest []string
	for item, err := range d.Items(t.Context(), d.store, nil) {
		must(t, err)
		got = append(got, fmt.Sprint(item.Key, "=", item.Value))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for item, err := range d.Oldest(t.Context(), d.store) {
		must(t, err)
		oldest = append(oldest, fmt.Sprint(item.Key, "=", item.Value))
	}
	slices.Reverse(oldest)
	if !slices.Equal(oldest, want) {
		t.Errorf("oldest first: got %q, want %q", oldest, want)
	}
	st, err := d.Stats(t.Context())
	must(t, err)
	if st.Keys != uint64(len(want)) {
		t.Errorf("%d keys, want %d", st.Keys, len(want))
	}
}

// The operations of a revoked writer are not authorized. A key has its newest
// authorized operation, and the state is as before once the writer is granted
// again.
func TestOperationsOfARevokedWriterAreRetracted(t *testing.T) {
	a, b := open(t, 0), open(t, 1)
	both := oplog.Access{Writers: []string{a.signer.ID, b.signer.ID}}
	must(t, a.Revise(t.Context(), both))
	put := func(key, v string) value.Value { return keyed.Put(value.Text(key), value.Text(v)) }
	a.write(t, put("shared", "a"), put("removed by b", "a"))
	b.joinFrom(t, a)
	b.write(t, put("shared", "b"), keyed.Delete(value.Text("removed by b")), put("of b", "b"))
	a.joinFrom(t, b)
	before := []string{`"of b"="b"`, `"shared"="b"`}
	a.wantItems(t, before...)
	for range 2 {
		must(t, a.Revise(t.Context(), oplog.Access{Writers: both.Writers[:1]}))
		a.want(t, "shared", "a")
		a.want(t, "removed by b", "a")
		a.want(t, "of b", nil)
		a.wantItems(t, `"removed by b"="a"`, `"shared"="a"`)
		must(t, a.Revise(t.Context(), both))
		a.want(t, "shared", "b")
		a.want(t, "removed by b", nil)
		a.wantItems(t, before...)
	}
}

func TestKeyHasTheValueOfItsNewestOperation(t *testing.T) {
	d := open(t, 1)
	d.wantItems(t)
	a, b := value.Text("a"), value.Text("b")
	d.write(t, keyed.Put(a, of(t, 1)), keyed.Put(b, of(t, 2)), keyed.Put(a, of(t, 3)))
	d.wantItems(t, `"a"=3`, `"b"=2`)
	d.write(t, keyed.Delete(a), keyed.Delete(a), keyed.Delete(value.Text("never")))
	d.want(t, "a", nil)
	d.want(t, "never", nil)
	d.wantItems(t, `"b"=2`)
	d.write(t, keyed.Put(a, of(t, 4)))
	d.wantItems(t, `"a"=4`, `"b"=2`)
	d.write(t, keyed.Put(b, value.Null))
	d.wantItems(t, `"b"=null`, `"a"=4`)
}

func TestNumberAndItsTextHideEachOther(t *testing.T) {
	for _, keys := range [][2]any{{42, "42"}, {1.5, "1.5"}, {true, "true"}, {nil, "null"}, {-1, "-1"}} {
		d := open(t, 1)
		one, other := of(t, keys[0]), of(t, keys[1])
		d.write(t, keyed.Put(one, of(t, "one")))
		d.want(t, keys[0], "one")
		d.want(t, keys[1], nil)
		d.write(t, keyed.Put(other, of(t, "other")))
		d.want(t, keys[0], nil)
		d.want(t, keys[1], "other")
		d.wantItems(t, other.String()+`="other"`)
		d.write(t, keyed.Delete(one))
		d.want(t, keys[0], nil)
		d.want(t, keys[1], nil)
		d.wantItems(t)
	}
}

func TestKeysThatJavaScriptConfusesAreDistinct(t *testing.T) {
	c := cid.MustParse("bafyreiayy7c3j7qxe7hl7dmyh5wvugjt3chitrteh65jpj4b37iybtknqm")
	keys := []any{
		"constructor", "__proto__", "toString", "hasOwnProperty", "",
		map[string]any{"a": 1}, map[string]any{"a": 2}, map[string]any{}, "[object Object]",
		[]any{1, 2}, "1,2", []any{}, []byte{1, 2}, []byte{}, c, c.String(), "a/b", "..",
	}
	d := open(t, 1)
	for i, key := range keys {
		d.write(t, keyed.Put(of(t, key), of(t, i)))
	}
	var want []string
	for i, key := range keys {
		d.want(t, key, i)
		want = append(want, fmt.Sprint(of(t, key), "=", i))
	}
	slices.Reverse(want)
	d.wantItems(t, want...)
	for _, key := range keys {
		d.write(t, keyed.Delete(of(t, key)))
		d.want(t, key, nil)
	}
	d.wantItems(t)
}

func TestOtherPayloadsAreIgnored(t *testing.T) {
	d := open(t, 1)
	d.write(t, keyed.Put(value.Text("a"), of(t, 1)))
	for _, payload := range []any{
		nil, "PUT", 1, []any{"PUT"},
		map[string]any{"op": "put", "key": "a", "value": 2},
		map[string]any{"op": "ADD", "key": "a", "value": 2},
		map[string]any{"op": 1, "key": "a", "value": 2},
		map[string]any{"op": "PUT", "value": 2},
		map[string]any{"op": "DEL"},
		map[string]any{"key": "a", "value": 2},
	} {
		if _, ok := keyed.Parse(of(t, payload)); ok {
			t.Errorf("%v is an operation", payload)
		}
		d.write(t, of(t, payload))
	}
	d.wantItems(t, `"a"=1`)
	d.write(t, of(t, map[string]any{"op": "PUT", "key": "b"}), of(t, map[string]any{"op": "DEL", "key": "a", "value": 7}))
	d.wantItems(t, `"b"=null`)
	if op, ok := keyed.Parse(of(t, map[string]any{"op": "PUT", "key": "b"})); !ok || !op.Value.Equal(value.Null) {
		t.Errorf("without a value: %v, %v", op, ok)
	}
}

func TestGetIsRightAfterAFailedWrite(t *testing.T) {
	for _, failure := range []storetest.Failure{storetest.Once, storetest.Applied} {
		d := open(t, 1)
		a := value.Text("a")
		other := open(t, 2)
		older := other.write(t, keyed.Put(a, of(t, "older")))[0]
		d.write(t, value.Null, keyed.Put(a, of(t, "newest")))
		d.want(t, "a", "newest")
		d.disk.FailAfter(1, failure)
		if _, err := d.Append(t.Context(), d.signer, keyed.Put(a, of(t, "failed"))); !errors.Is(err, store.ErrNotDurable) {
			t.Fatal(err)
		}
		// This entry gets the number of the one that failed.
		_, err := d.Join(t.Context(), []oplog.Candidate{{Entry: older}})
		must(t, err)
		want := "newest"
		if failure == storetest.Applied {
			want = "failed"
		}
		d.want(t, "a", want)
		d.wantItems(t, fmt.Sprintf("%q=%q", "a", want))
	}
}

func TestOperationsOfSeveralWritersEndInTheSameState(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	writers := []database{open(t, 1), open(t, 2), open(t, 3)}
	for range 60 {
		w := writers[rng.IntN(len(writers))]
		key := of(t, []any{"a", "b", 42, "42", []any{}}[rng.IntN(5)])
		switch rng.IntN(4) {
		case 0:
			w.write(t, keyed.Delete(key))
		case 1:
			w.joinFrom(t, writers[rng.IntN(len(writers))])
		default:
			w.write(t, keyed.Put(key, of(t, rng.IntN(100))))
		}
	}
	for _, w := range writers {
		for _, other := range writers {
			w.joinFrom(t, other)
		}
	}
	// The model: the newest operation in the order of the log.
	slots := make(map[string]bool)
	var want []string
	for e, err := range writers[0].Iterate(t.Context(), oplog.Range{}) {
		must(t, err)
		op, _ := keyed.Parse(e.Payload)
		if !slots[op.Key.Slot()] && !op.Deleted {
			want = append(want, fmt.Sprint(op.Key, "=", op.Value))
		}
		slots[op.Key.Slot()] = true
	}
	for _, w := range writers {
		w.joinFrom(t, writers[0])
		w.joinFrom(t, writers[1])
		w.joinFrom(t, writers[2])
		w.wantItems(t, want...)
	}
}

func TestItemsContinueAfterAPosition(t *testing.T) {
	d := open(t, 1)
	var want []string
	for i := range 30 {
		d.write(t, keyed.Put(of(t, i), value.Null))
		want = append(want, fmt.Sprint(i))
	}
	slices.Reverse(want)
	var got []string
	var behind *entry.Position
	for range 100 {
		n := 0
		for item, err := range d.Items(t.Context(), d.store, behind) {
			must(t, err)
			got = append(got, item.Key.String())
			e, err := d.Log.Get(t.Context(), item.Hash)
			must(t, err)
			position, err := d.Position(t.Context(), e)
			must(t, err)
			behind = &position
			if n++; n == 7 {
				break
			}
		}
		if len(got) == 14 && len(want) == 30 {
			// Another put of the last item seen changes its place.
			d.write(t, keyed.Put(of(t, 16), value.Null))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDamagedItemIsReportedAndTheLoopGoesOn(t *testing.T) {
	d := open(t, 1)
	entries := d.write(t, keyed.Put(of(t, 1), value.Null), keyed.Put(of(t, 2), value.Null), keyed.Put(of(t, 3), value.Null))
	must(t, d.store.Update(t.Context(), func(tx *store.Tx) error {
		return tx.Put(store.Key(blocks.Entries(logNumber), 2), []byte("garbage"))
	}))
	for _, items := range []func(func(keyed.Item, error) bool){d.Items(t.Context(), d.store, nil), d.Oldest(t.Context(), d.store)} {
		var got []string
		for item, err := range items {
			if (err != nil) != (item.Hash == entries[1].Hash()) || err != nil && !errors.Is(err, blocks.ErrDamaged) {
				t.Errorf("%v: %v", item, err)
			}
			got = append(got, item.Hash)
		}
		if len(got) != 3 {
			t.Errorf("got %q", got)
		}
	}
	item, err := d.Index.Get(blocks.Reading(t.Context(), d.store), of(t, 2))
	if !errors.Is(err, blocks.ErrDamaged) || item.Hash != entries[1].Hash() {
		t.Errorf("get: %v, %v", item, err)
	}
}

func TestDamagedRecordsAreReported(t *testing.T) {
	d := open(t, 1)
	e := d.write(t, keyed.Put(of(t, 1), value.Null))[0]
	prefix := blocks.LogPrefix(logNumber)
	must(t, d.store.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(
			tx.Put(prefix+"/key/"+of(t, 1).Slot(), []byte("\x02\x01"+e.Hash())),
			tx.Put(oplog.PositionKey(prefix+"/live", e.Position(e.Rank())), nil),
		)
	}))
	d.Index = keyed.New(logNumber, keyed.NewHints())
	if _, err := d.Index.Get(blocks.Reading(t.Context(), d.store), of(t, 1)); !errors.Is(err, oplog.ErrDamaged) {
		t.Errorf("get: %v", err)
	}
	for _, items := range []func(func(keyed.Item, error) bool){d.Items(t.Context(), d.store, nil), d.Oldest(t.Context(), d.store)} {
		n := 0
		for _, err := range items {
			if n++; !errors.Is(err, oplog.ErrDamaged) {
				t.Errorf("items: %v", err)
			}
		}
		if n != 1 {
			t.Errorf("%d errors", n)
		}
	}
}
