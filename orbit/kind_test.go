package orbit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/identity"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store/storetest"
)

// mistyped creates a database of documents whose manifest says events, as
// JavaScript does with open(name, { Database: Documents() }). It has n
// documents, the first of which is deleted.
func (p *peer) mistyped(t testing.TB, name string, n int) *orbit.Database {
	t.Helper()
	db := p.create(t, name, orbit.Options{})
	for i := range n {
		p.append(t, db, keyed.Put(value.Text(fmt.Sprint(i)), document(i)))
	}
	p.append(t, db, keyed.Delete(value.Text("0")))
	return db
}

func document(i int) value.Value {
	return value.Map(value.Member{Name: "hash", Value: value.Text(fmt.Sprint(i))})
}

// append writes an entry with an arbitrary payload.
func (p *peer) append(t testing.TB, db *orbit.Database, payload value.Value) {
	t.Helper()
	signer, err := identity.Load(p.keys, "orbitdb-root", "orbitdb-signing")
	must(t, err)
	_, err = db.Log().Append(t.Context(), signer, payload)
	must(t, err)
}

// as opens a database as a given type.
func (p *peer) as(t testing.TB, address, kind, indexBy string) *orbit.Database {
	t.Helper()
	db, err := p.Open(t.Context(), address, orbit.OpenOptions{Type: kind, IndexBy: indexBy})
	must(t, err)
	return db
}

func keys(t testing.TB, db *orbit.Database) (list []string) {
	t.Helper()
	for item, err := range documents(t, db).All(t.Context()) {
		must(t, err)
		text, _ := item.Key.Text()
		list = append(list, text)
	}
	return list
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestEventsAreOpenedAsTheDocumentsThatTheyAre(t *testing.T) {
	a := newA(t)
	was := a.mistyped(t, "pieces", 4)
	address := was.Address()
	seen := make(chan string, 100)
	go func() {
		for arrival, err := range was.Updates(t.Context(), 5) {
			if err == nil {
				seen <- arrival.Hash
			}
		}
	}()

	db := a.as(t, address, orbit.TypeDocuments, "hash")
	equal(t, "keys", keys(t, db), []string{"1", "2", "3"})
	equal(t, "type", []string{db.Type(), db.ManifestType(), db.IndexBy()}, []string{"documents", "events", "hash"})
	hash, err := documents(t, db).Put(t.Context(), map[string]any{"hash": "4"})
	must(t, err)
	if got := <-seen; got != hash || db.Log() != was.Log() {
		t.Errorf("who follows saw %s of %s", got, hash)
	}
	if _, err := db.Events(); !errors.Is(err, orbit.ErrType) {
		t.Errorf("events: %v", err)
	}

	// The type remains, whatever the index field.
	must(t, a.Close())
	a.open(t, orbit.Config{})
	for d, err := range a.Databases(t.Context()) {
		must(t, err)
		equal(t, "listed", []string{d.Type, d.ManifestType, d.IndexBy}, []string{"documents", "events", "hash"})
	}
	db, err = a.Find(t.Context(), "pieces")
	must(t, err)
	equal(t, "keys after a restart", keys(t, db), []string{"1", "2", "3", "4"})
	stats, err := db.Log().Stats(t.Context())
	must(t, err)
	equal(t, "stats", []uint64{stats.Entries, stats.Keys}, []uint64{6, 4})

	// Documents and keyvalue have the same index.
	db = a.as(t, address, orbit.TypeKeyValue, "")
	item, err := keyvalue(t, db).Get(t.Context(), "2")
	must(t, err)
	equal(t, "value", item.Value.String(), document(2).String())

	// The manifest's type restores the original one, and later puts are not
	// lost.
	db = a.as(t, address, orbit.TypeEvents, "")
	equal(t, "type", []string{db.Type(), db.IndexBy()}, []string{"events", ""})
	a.append(t, db, keyed.Put(value.Text("5"), document(5)))
	stats, err = db.Log().Stats(t.Context())
	must(t, err)
	equal(t, "stats as events", []uint64{stats.Entries, stats.Keys}, []uint64{7, 0})
	equal(t, "keys as documents again", keys(t, a.as(t, address, orbit.TypeDocuments, "hash")), []string{"1", "2", "3", "4", "5"})
}

func TestTheTypeMayBeGivenWhenADatabaseComes(t *testing.T) {
	a, b := newA(t), newB(t)
	theirs := b.mistyped(t, "pieces", 3)
	attached := make(orbit.Attached)
	for hash, data := range b.stored(t, b.contents(t)) {
		attached[hash] = block.Block{Hash: hash, Data: []byte(data)}
	}
	must(t, a.PutBlocks(t.Context(), b.Identity().Block()))
	db, err := a.Open(t.Context(), theirs.Address(), orbit.OpenOptions{Type: orbit.TypeDocuments, Attached: attached})
	must(t, err)
	for _, j := range join(t, db, entries(t, theirs)...) {
		must(t, j.Err)
	}
	equal(t, "keys", keys(t, db), []string{"1", "2"})
	equal(t, "index field", db.IndexBy(), orbit.DefaultIndexBy)
}

func TestOnlyEventsAndUnknownTypesAreOpenedAsAnother(t *testing.T) {
	a := newA(t)
	custom := manifest.Manifest{Name: "custom", Type: "counter"}
	var list block.Block
	var err error
	custom.AccessController, list, err = manifest.AccessList{a.Identity().ID}.Address()
	must(t, err)
	b, err := custom.Block()
	must(t, err)
	must(t, a.PutBlocks(t.Context(), list, b))
	for _, test := range []struct {
		address, kind string
		want          error
	}{
		{a.create(t, "d", orbit.Options{Type: orbit.TypeDocuments}).Address(), orbit.TypeEvents, orbit.ErrType},
		{a.create(t, "d", orbit.Options{Type: orbit.TypeDocuments}).Address(), orbit.TypeKeyValue, orbit.ErrType},
		{a.create(t, "d", orbit.Options{Type: orbit.TypeDocuments}).Address(), orbit.TypeDocuments, nil},
		{a.create(t, "k", orbit.Options{Type: orbit.TypeKeyValue}).Address(), orbit.TypeDocuments, orbit.ErrType},
		{a.create(t, "e", orbit.Options{}).Address(), "counter", orbit.ErrInvalid},
		{manifest.Address(b.Hash), orbit.TypeKeyValue, nil},
		{manifest.Address(b.Hash), "counter", nil},
	} {
		db, err := a.Open(t.Context(), test.address, orbit.OpenOptions{Type: test.kind})
		if !errors.Is(err, test.want) || err == nil && db.Type() != test.kind {
			t.Errorf("%s as %s: %v", test.address, test.kind, err)
		}
	}
}

// Reads during a rebuild of the index would be incomplete. The caller that
// requested it may be gone.
func TestNothingIsReadOfHalfAnIndex(t *testing.T) {
	a, h := onHooked(t)
	was := a.mistyped(t, "pieces", 3)
	ctx, cancel := context.WithCancel(t.Context())
	reached := false
	h.arm("/orbit/log/1/entry", func() {
		reached = true
		cancel()
		if _, err := was.Events(); !errors.Is(err, oplog.ErrDamaged) {
			t.Errorf("while it is rebuilt: %v", err)
		}
	})
	db, err := a.Open(ctx, was.Address(), orbit.OpenOptions{Type: orbit.TypeDocuments})
	must(t, err)
	if !reached {
		t.Error("it was not rebuilt")
	}
	equal(t, "keys", keys(t, db), []string{"1", "2"})
}

// Each disk operation of a change of type either fails, or succeeds and returns
// an error, or is the last one that works; then the power fails. After a
// restart, the database has either type with a matching state, or reports that
// it is damaged.
func TestATypeIsChangedWholeOrNotAfterAnyCrash(t *testing.T) {
	want := []string{"1", "2", "3", "4", "5"}
	change := func(a *peer, address string) error {
		_, err := a.Open(context.Background(), address, orbit.OpenOptions{Type: orbit.TypeDocuments})
		if err == nil {
			_, err = a.Open(context.Background(), address, orbit.OpenOptions{Type: orbit.TypeEvents})
		}
		return err
	}
	again := func(t *testing.T, p *peer, address string) {
		db, err := p.Open(t.Context(), address, orbit.OpenOptions{Type: orbit.TypeDocuments})
		if errors.Is(err, oplog.ErrDamaged) {
			return // it reports the damage
		}
		must(t, err)
		equal(t, "documents, asked for again", keys(t, db), want)
	}
	check := func(t *testing.T, p *peer, address string) {
		db, err := p.Open(t.Context(), address, orbit.OpenOptions{})
		if err == nil {
			if db.Type() == orbit.TypeDocuments {
				_, err = db.Documents()
			} else {
				_, err = db.Events()
			}
		}
		if errors.Is(err, oplog.ErrDamaged) {
			lost, err := p.Rebuild(t.Context(), address)
			must(t, err)
			equal(t, "lost", len(lost), 0)
		} else {
			must(t, err)
		}
		db, err = p.Open(t.Context(), address, orbit.OpenOptions{})
		must(t, err)
		stats, err := db.Log().Stats(t.Context())
		must(t, err)
		switch db.Type() {
		case orbit.TypeDocuments:
			if got := keys(t, db); !slices.Equal(got, want) || stats.Keys != 5 {
				t.Errorf("documents: %v, %d keys", got, stats.Keys)
			}
		case orbit.TypeEvents:
			equal(t, "keys of events", stats.Keys, 0)
		}
		equal(t, "entries", stats.Entries, 7)
	}
	for n := range 6 {
		failure, open := []storetest.Failure{storetest.Once, storetest.Applied, storetest.Lasting}[n/2], n%2 == 0
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		for failAt := 1; ; failAt++ {
			a := newA(t)
			address := a.mistyped(t, "pieces", 6).Address()
			if !open {
				must(t, a.Close())
				a.open(t, orbit.Config{})
			}
			before := a.disk.Operations()
			a.disk.FailAfter(failAt, failure)
			err := change(a, address)
			operations := a.disk.Operations() - before
			after := &peer{disk: a.disk.PowerLoss(rng), keys: a.keys}
			a.disk.FailAfter(0, failure)
			t.Run(fmt.Sprintf("open %v, failure %d of operation %d, %v", open, failure, failAt, err), func(t *testing.T) {
				after.open(t, orbit.Config{})
				// The process continues after the failure.
				for i, p := range []*peer{after, a} {
					if (failAt+i)%2 == 0 {
						again(t, p, address)
					}
					check(t, p, address)
					again(t, p, address)
				}
			})
			must(t, a.Close())
			if t.Failed() || operations < failAt {
				break
			}
		}
	}
}

func TestAnUnknownAccessControllerIsCalledThat(t *testing.T) {
	a := newA(t)
	hash := a.Identity().Hash()
	for access, want := range map[string]string{
		"/custom/" + hash:        `its access controller is of type "custom", which npp does not know`,
		"/custom/" + hash + "/x": `of type "custom"`,
		"/custom/anything":       `of type "custom"`,
		"/custom":                `of type "custom"`,
		"/\x1b[31m/" + hash:      `of type "\x1b[31m"`,
		"/ipfs/anything":         "invalid manifest",
		"//" + hash:              "no type",
		"custom/" + hash:         "no type",
		"ipfs/" + hash:           "invalid manifest",
	} {
		b, err := manifest.Manifest{Name: "band", Type: orbit.TypeEvents, AccessController: access}.Block()
		must(t, err)
		must(t, a.PutBlocks(t.Context(), b))
		_, err = a.Open(t.Context(), manifest.Address(b.Hash), orbit.OpenOptions{})
		var unknown *orbit.AccessTypeError
		if err == nil || !strings.Contains(err.Error(), want) || errors.As(err, &unknown) != strings.Contains(want, "of type") {
			t.Errorf("%q: %v", access, err)
		}
	}
}
