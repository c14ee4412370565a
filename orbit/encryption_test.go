package orbit_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// fleet consists of replicas of one keyvalue database. A is the first.
type fleet struct {
	t       testing.TB
	peers   map[string]*peer
	dbs     map[string]*orbit.Database
	entries []block.Block  // in the order of writing
	joined  map[string]int // the number of entries that each has
}

// newFleet creates the database at one of A, B, C and D and opens it at the
// others. Writers are given by these names; "*" stands for anybody.
func newFleet(t testing.TB, maker string, managed bool, writers ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, dbs: make(map[string]*orbit.Database), joined: make(map[string]int), peers: map[string]*peer{
		"A": newA(t), "B": newB(t), "C": newPeer(t, 0x55, 0x66), "D": newPeer(t, 0x77, 0x78),
	}}
	opts := orbit.Options{Type: orbit.TypeKeyValue, Access: orbit.Access{Managed: managed}}
	for _, name := range writers {
		id := manifest.Anyone
		if p := f.peers[name]; p != nil {
			id = p.Identity().ID
		}
		opts.Access.Write = append(opts.Access.Write, id)
	}
	made := f.peers[maker].create(t, "values", opts)
	needed := []string{strings.TrimPrefix(made.Address(), "/orbitdb/")}
	_, access, _ := strings.Cut(made.Access().Address()[1:], "/")
	needed = append(needed, access)
	if inner := made.Access().Database(); inner != nil {
		needed = append(needed, strings.TrimPrefix(inner.Access().Address(), "/ipfs/"))
	}
	for name, p := range f.peers {
		for _, hash := range needed {
			b, err := f.peers[maker].Block(t.Context(), hash)
			must(t, err)
			must(t, p.PutBlocks(t.Context(), b))
		}
		for _, other := range f.peers {
			must(t, p.PutBlocks(t.Context(), other.Identity().Block()))
		}
		var err error
		f.dbs[name], err = p.Open(t.Context(), made.Address(), orbit.OpenOptions{})
		must(t, err)
	}
	return f
}

// sealed is a payload that JavaScript encrypted, plain one that it did not.
var (
	sealed, _ = value.Of([]byte("\x01 what only the key opens"))
	plain     = keyed.Put(value.Text("key"), value.Text("plain"))
)

// write appends an entry of a writer that descends from all entries.
func (f *fleet) write(name string, payload value.Value) {
	f.t.Helper()
	db, p := f.dbs[name], f.peers[name]
	f.sync(name)
	signer, err := identity.Load(p.keys, "orbitdb-root", "orbitdb-signing")
	must(f.t, err)
	es, err := db.Log().Append(f.t.Context(), signer, payload)
	must(f.t, err)
	f.entries = append(f.entries, es[0].Block)
}

// sync makes a replica join all entries and adopt the access list of A.
func (f *fleet) sync(name string) {
	f.t.Helper()
	if list := f.dbs["A"].Access().Database(); list != nil && name != "A" {
		join(f.t, f.dbs[name].Access().Database(), entries(f.t, list)...)
	}
	for _, j := range join(f.t, f.dbs[name], f.entries[f.joined[name]:]...) {
		must(f.t, j.Err)
	}
	f.joined[name] = len(f.entries)
}

// put puts a value at A.
func (f *fleet) put() error {
	f.t.Helper()
	f.sync("A")
	_, err := keyvalue(f.t, f.dbs["A"]).Put(f.t.Context(), "own", 1)
	return err
}

// blocks reports whether A is kept from putting a plain value.
func (f *fleet) blocks() bool {
	f.t.Helper()
	err := f.put()
	if err != nil && !errors.Is(err, orbit.ErrEncrypted) {
		f.t.Fatal(err)
	}
	return err != nil
}

func TestPlainValuesAreNotWrittenWhereAppsEncrypt(t *testing.T) {
	for _, test := range []struct {
		maker   string
		writers string // the writers on the list, or *
		steps   string // the writer of each entry; lower case: a plain value
		want    bool
	}{
		{"A", "AB", "", false},
		{"A", "AB", "b", false},
		{"A", "AB", "B", true},
		{"B", "AB", "BBB", true},
		{"A", "AB", "bB", true},
		{"A", "AB", "Bb", false},
		{"A", "ABC", "Bc", false},
		{"A", "ABC", "cB", false},
		{"A", "ABC", "BC", true},
		{"A", "ABCD", "BCd", true}, // two writers are enough
		{"A", "ABCD", "Bcd", false},
		// A's own entries decide: its app encrypts, or it writes plain values.
		{"A", "A", "A", true},
		{"A", "AB", "AB", true},
		{"A", "AB", "aB", false},
		{"B", "ABC", "aBCBC", false},
		{"A", "AB", "AaBB", false},
		// A is a guest in a database that anybody may write.
		{"B", "*", "B", true},
		{"B", "*", "Bc", false},
		{"B", "*", "BC", true},
		{"B", "*", "aBCD", false},
		// A is an owner, and the others are strangers.
		{"A", "*", "B", false},
		{"A", "*", "BCD", false},
		{"B", "A*", "B", false},
		{"B", "A*", "BCD", false},
		// Some are strangers.
		{"B", "AB*", "bCD", false},
		{"B", "AB*", "Bcd", true},
		{"C", "B*", "bCD", false},
		{"C", "B*", "Bcd", true},
	} {
		f := newFleet(t, test.maker, false, strings.Split(test.writers, "")...)
		for _, step := range strings.Split(test.steps, "") {
			switch {
			case step == "":
			case step == strings.ToUpper(step):
				f.write(step, sealed)
			default:
				f.write(strings.ToUpper(step), plain)
			}
		}
		f.sync("A")
		encrypted, err := f.dbs["A"].Encrypted(t.Context())
		must(t, err)
		if got := f.blocks(); got != test.want || encrypted != test.want {
			t.Errorf("made by %s, %s may write, %q: refused %v, encrypted %v, want %v", test.maker, test.writers, test.steps, got, encrypted, test.want)
		}
	}
}

func TestGrantedWritersAreNoStrangers(t *testing.T) {
	for granted, want := range map[string]bool{"B": true, "*": false} {
		f := newFleet(t, "A", true, "A")
		id := manifest.Anyone
		if p := f.peers[granted]; p != nil {
			id = p.Identity().ID
		}
		must(t, f.dbs["A"].Access().Grant(t.Context(), orbit.CapabilityWrite, id))
		f.write("B", sealed)
		if got := f.blocks(); got != want {
			t.Errorf("granted to %s: refused %v", granted, got)
		}
	}
}

func TestNothingPlainIsWrittenWhereAppsEncrypt(t *testing.T) {
	a, b := newA(t), newB(t)
	signer, err := identity.Load(b.keys, "orbitdb-root", "orbitdb-signing")
	must(t, err)
	ctx := t.Context()
	for kind, writes := range map[string]map[string]func(*orbit.Database) error{
		orbit.TypeKeyValue: {
			"put": func(db *orbit.Database) error { _, err := keyvalue(t, db).Put(ctx, "a", 1); return err },
			"del": func(db *orbit.Database) error { _, err := keyvalue(t, db).Delete(ctx, "a"); return err },
			"many": func(db *orbit.Database) error {
				_, err := keyvalue(t, db).PutMany(ctx, slices.Values([]orbit.Pair{{Key: "a", Value: 1}}))
				return err
			},
		},
		orbit.TypeDocuments: {
			"put": func(db *orbit.Database) error {
				_, err := documents(t, db).Put(ctx, map[string]any{"_id": "a"})
				return err
			},
			"many": func(db *orbit.Database) error {
				_, err := documents(t, db).PutMany(ctx, slices.Values([]any{map[string]any{"_id": "a"}}))
				return err
			},
		},
		orbit.TypeEvents: {
			"add": func(db *orbit.Database) error { _, err := events(t, db).Add(ctx, "a"); return err },
			"many": func(db *orbit.Database) error {
				_, err := events(t, db).AddMany(ctx, slices.Values([]any{"a"}))
				return err
			},
		},
	} {
		for what, write := range writes {
			access := orbit.Access{Write: []string{a.Identity().ID, b.Identity().ID}}
			db := a.create(t, what, orbit.Options{Type: kind, Access: access})
			theirs := b.create(t, what, orbit.Options{Type: kind, Access: access})
			_, err := theirs.Log().Append(ctx, signer, sealed)
			must(t, err)
			must(t, a.PutBlocks(ctx, b.Identity().Block()))
			join(t, db, entries(t, theirs)...)
			if err := write(db); !errors.Is(err, orbit.ErrEncrypted) || !strings.Contains(err.Error(), db.Address()) {
				t.Errorf("%s of %s: %v", what, kind, err)
			}
			if n := len(entries(t, db)); n != 1 {
				t.Errorf("%s of %s: %d entries", what, kind, n)
			}
			if err := write(db.Plain()); err != nil {
				t.Errorf("plain %s of %s: %v", what, kind, err)
			}
			// The apps have met a plain value of this writer by now.
			if err := write(db); err != nil {
				t.Errorf("second %s of %s: %v", what, kind, err)
			}
		}
	}
}

func TestWhatStrangersPutDoesNotHideWhatTheOwnerWrote(t *testing.T) {
	f := newFleet(t, "B", false, "*")
	f.write("A", plain)
	for range 130 {
		f.write("B", sealed)
		f.write("C", sealed)
	}
	f.sync("A")
	a, address := f.peers["A"], f.dbs["A"].Address()
	for _, what := range []string{"first", "after a rebuild"} {
		must(t, a.Close())
		a.open(t, orbit.Config{})
		db, err := a.Open(t.Context(), address, orbit.OpenOptions{})
		must(t, err)
		if encrypted, err := db.Encrypted(t.Context()); err != nil || encrypted {
			t.Errorf("%s: encrypted: %v", what, err)
		}
		_, err = a.Rebuild(t.Context(), address)
		must(t, err)
	}
}

// The previous version did not record plain values; the newest entries show
// them.
func TestPlainValueThatThePreviousVersionWroteIsFound(t *testing.T) {
	f := newFleet(t, "B", false, "*")
	f.write("A", plain)
	f.write("B", sealed)
	f.write("C", sealed)
	f.sync("A")
	a := f.peers["A"]
	must(t, a.Close())
	found := false
	for key := range a.contents(t) {
		if strings.HasSuffix(key, "/plain") {
			found = true
			must(t, a.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Delete(key) }))
		}
	}
	a.open(t, orbit.Config{})
	db, err := a.Open(t.Context(), f.dbs["A"].Address(), orbit.OpenOptions{})
	must(t, err)
	if encrypted, err := db.Encrypted(t.Context()); !found || err != nil || encrypted {
		t.Errorf("noted %v; encrypted %v: %v", found, encrypted, err)
	}
}

// A value whose write failed does not count as plain.
func TestValueWhoseWriteFailedIsNotPlain(t *testing.T) {
	f := newFleet(t, "A", false, "A", "B")
	f.peers["A"].disk.FailAfter(1, storetest.Lasting)
	if err := f.put(); err == nil {
		t.Fatal("the disk is full")
	}
	f.peers["A"].disk.FailAfter(0, storetest.Lasting)
	f.write("B", sealed)
	if !f.blocks() {
		t.Error("a plain value is written")
	}
}

func TestTheNewestEntriesTellWhetherAppsEncrypt(t *testing.T) {
	for n, want := range map[int]bool{255: false, 256: true} {
		f := newFleet(t, "A", false, "A", "B", "C")
		f.write("C", plain)
		for range n {
			f.write("B", sealed)
		}
		if got := f.blocks(); got != want {
			t.Errorf("%d sealed entries after a plain one: refused %v", n, got)
		}
	}
}

// JavaScript does not encrypt access lists, and no admin may keep another from
// changing one.
func TestGrantsAreWrittenWhateverTheListHas(t *testing.T) {
	f := newFleet(t, "A", true, "A", "B")
	list := f.dbs["A"].Access().Database()
	signer, err := identity.Load(f.peers["B"].keys, "orbitdb-root", "orbitdb-signing")
	must(t, err)
	theirs := f.dbs["B"].Access().Database()
	_, err = theirs.Log().Append(t.Context(), signer, sealed)
	must(t, err)
	for _, j := range join(t, list, entries(t, theirs)...) {
		must(t, j.Err)
	}
	must(t, f.dbs["A"].Access().Grant(t.Context(), orbit.CapabilityWrite, f.peers["C"].Identity().ID))
	capabilities, err := f.dbs["A"].Access().Capabilities(t.Context())
	must(t, err)
	if got := fmt.Sprint(capabilities[orbit.CapabilityWrite]); !strings.Contains(got, f.peers["C"].Identity().ID) {
		t.Errorf("granted: %v", capabilities)
	}
}
