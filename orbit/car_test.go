package orbit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
)

// sections returns the header of a CAR and its sections, each preceded by its
// length.
func sections(t testing.TB, car []byte) (header []byte, rest [][]byte) {
	t.Helper()
	for len(car) > 0 {
		size, n := binary.Uvarint(car)
		if n <= 0 || uint64(len(car)-n) < size {
			t.Fatal("torn section")
		}
		rest = append(rest, car[:n+int(size)])
		car = car[n+int(size):]
	}
	return rest[0], rest[1:]
}

// exported returns the CAR of a database with two writers, and its number of
// entries.
func exported(t testing.TB, managed bool) (address string, car []byte, n int) {
	t.Helper()
	a, b := newA(t), newB(t)
	opts := orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Write: []string{a.Identity().ID, b.Identity().ID}, Managed: managed}}
	dba, dbb := a.create(t, "band", opts), b.create(t, "band", opts)
	must(t, a.PutBlocks(t.Context(), b.Identity().Block()))
	for i := range 20 {
		for _, db := range []*orbit.Database{dba, dbb} {
			_, err := documents(t, db).Put(t.Context(), map[string]any{"_id": fmt.Sprint(i)})
			must(t, err)
		}
		join(t, dba, entries(t, dbb)...)
	}
	if managed {
		must(t, dba.Access().Grant(t.Context(), orbit.CapabilityWrite, "somebody"))
	}
	var out bytes.Buffer
	stats, err := dba.Export(t.Context(), &out)
	must(t, err)
	return dba.Address(), out.Bytes(), stats.Entries
}

func TestImportTakesAnyOrder(t *testing.T) {
	for _, managed := range []bool{false, true} {
		address, car, n := exported(t, managed)
		header, rest := sections(t, car)
		for seed := range uint64(20) {
			rand.New(rand.NewPCG(seed, 0)).Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
			db, stats, err := newPeer(t, 0x55, 0x66).Import(t.Context(), bytes.NewReader(slices.Concat(header, slices.Concat(rest...))), nil)
			if err != nil || db.Address() != address || stats.Entries != n || stats.Refused+stats.Pending+stats.Unauthorized != 0 {
				t.Errorf("managed %v, seed %d: %+v, %v; want %d entries", managed, seed, stats, err, n)
			}
		}
	}
}

// A backup contains the entries that a writer wrote before it was revoked.
func TestImportRestoresWhatRevokedWritersWrote(t *testing.T) {
	a, b := newA(t), newB(t)
	opts := orbit.Options{Access: orbit.Access{Write: []string{a.Identity().ID}, Managed: true}}
	dba, dbb := a.create(t, "band", opts), b.create(t, "band", opts)
	for _, p := range []*peer{a, b} {
		must(t, p.PutBlocks(t.Context(), a.Identity().Block(), b.Identity().Block()))
	}
	must(t, dba.Access().Grant(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	list := func(p *peer) *orbit.Database {
		db, err := p.Open(t.Context(), dba.Access().Address(), orbit.OpenOptions{})
		must(t, err)
		return db
	}
	join(t, list(b), entries(t, list(a))...)
	_, err := events(t, dbb).Add(t.Context(), "by b")
	must(t, err)
	join(t, dba, entries(t, dbb)...)
	must(t, dba.Access().Revoke(t.Context(), orbit.CapabilityWrite, b.Identity().ID))
	_, err = events(t, dba).Add(t.Context(), "by a")
	must(t, err)
	var car bytes.Buffer
	_, err = dba.Export(t.Context(), &car)
	must(t, err)
	restored, stats, err := newPeer(t, 0x55, 0x66).Import(t.Context(), &car, nil)
	must(t, err)
	count := 0
	for _, err := range events(t, restored).All(t.Context()) {
		must(t, err)
		count++
	}
	if count != 2 || stats.Unauthorized+stats.Refused != 0 {
		t.Errorf("%d events, %+v", count, stats)
	}
}

func TestImportSaysWhatIsMissing(t *testing.T) {
	_, car, n := exported(t, false)
	header, rest := sections(t, car)
	// manifest, list, identity, first entry
	db, stats, err := newPeer(t, 0x55, 0x66).Import(t.Context(), bytes.NewReader(slices.Concat(header, slices.Concat(slices.Delete(slices.Clone(rest), 3, 4)...))), nil)
	must(t, err)
	if stats.Entries+stats.Pending != n-1 || stats.Pending == 0 || len(stats.Missing) != 1 {
		t.Errorf("%+v of %d", stats, n)
	}
	if ok, err := db.Log().Has(t.Context(), stats.Missing[0]); ok || err != nil {
		t.Errorf("what is missing is there: %v", err)
	}
}

func TestWhatIsNoCARIsNotImported(t *testing.T) {
	_, car, _ := exported(t, false)
	header, rest := sections(t, car)
	torn := slices.Clone(car[:len(car)-10])
	flipped := slices.Clone(car)
	flipped[len(flipped)-10] ^= 1
	noRoots := dagcbor.AppendUint(dagcbor.AppendText(dagcbor.AppendArray(dagcbor.AppendText(dagcbor.AppendMap(nil, 2), "roots"), 0), "version"), 1)
	for what, in := range map[string][]byte{
		"nothing":  {},
		"text":     []byte("hello, this is no archive"),
		"torn":     torn,
		"flipped":  flipped,
		"no roots": append([]byte{byte(len(noRoots))}, noRoots...),
		"endless":  append(slices.Clone(header), 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
	} {
		if _, stats, err := newPeer(t, 0x55, 0x66).Import(t.Context(), bytes.NewReader(in), nil); !errors.Is(err, orbit.ErrInvalidCAR) {
			t.Errorf("%s: %+v, %v", what, stats, err)
		}
	}
	// Without its manifest.
	if _, _, err := newPeer(t, 0x55, 0x66).Import(t.Context(), bytes.NewReader(slices.Concat(header, slices.Concat(rest[1:]...))), nil); !errors.Is(err, orbit.ErrUnavailable) {
		t.Errorf("without the manifest: %v", err)
	}
}

func FuzzImport(f *testing.F) {
	_, car, _ := exported(f, true)
	f.Add(car)
	f.Add(car[:len(car)/2])
	f.Fuzz(func(t *testing.T, in []byte) {
		db, stats, err := newPeer(t, 0x55, 0x66).Import(t.Context(), bytes.NewReader(in), nil)
		if err == nil && db == nil {
			t.Errorf("%+v without an error", stats)
		}
	})
}
