package orbit_test

import (
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit"
)

// all returns the addresses that a sequence yields, sorted.
func all(t *testing.T, addresses iter.Seq2[string, error]) (list []string) {
	t.Helper()
	for a, err := range addresses {
		must(t, err)
		list = append(list, a)
	}
	slices.Sort(list)
	return list
}

// The methods that read the catalog agree with Databases, whatever the names
// are.
func TestCatalogIsReadWithoutDecodingAll(t *testing.T) {
	a := newA(t)
	names := []string{"plain", `"access":true`, `,"fixed":true`, "Dvořák & <Smetana>", `back\slash`, "plain2"}
	want, managed := make(map[string]string), make(map[string]bool)
	for i, name := range names {
		db, err := a.Create(t.Context(), name, orbit.Options{Type: orbit.TypeDocuments, Access: orbit.Access{Managed: i%2 == 1}})
		must(t, err)
		want[db.Address()] = name
		if inner := db.Access().Database(); inner != nil {
			managed[inner.Address()] = true
			if got := all(t, a.Controlled(t.Context(), inner.Address())); !slices.Equal(got, []string{db.Address()}) {
				t.Errorf("the access database of %q controls %q, want %s", name, got, db.Address())
			}
		}
		if got := all(t, a.Controlled(t.Context(), db.Address())); got != nil {
			t.Errorf("%q controls %q", name, got)
		}
		address, err := a.Resolve(t.Context(), name)
		if err != nil || address != db.Address() {
			t.Errorf("%q is %s (%v), want %s", name, address, err, db.Address())
		}
	}
	n, err := a.Count(t.Context())
	if err != nil || n != len(names) {
		t.Errorf("%d databases (%v), want %d", n, err, len(names))
	}
	var listed []string
	for d, err := range a.Databases(t.Context()) {
		must(t, err)
		listed = append(listed, d.Address)
		if d.Access != managed[d.Address] || !d.Access && d.Name != want[d.Address] {
			t.Errorf("listed: %+v", d)
		}
		if got, err := a.Listed(t.Context(), d.Address); err != nil || got != d {
			t.Errorf("Listed returns %+v (%v), want %+v", got, err, d)
		}
	}
	if got := all(t, a.Addresses(t.Context())); !slices.Equal(got, listed) || len(listed) != len(want)+len(managed) {
		t.Errorf("%d addresses, and %d are listed", len(got), len(listed))
	}
	b := newB(t)
	if _, err := b.Listed(t.Context(), listed[0]); !errors.Is(err, orbit.ErrUnknown) {
		t.Errorf("of another daemon: %v", err)
	}
	for _, err := range b.Controlled(t.Context(), listed[0]) {
		if !errors.Is(err, orbit.ErrUnknown) {
			t.Errorf("of another daemon: %v", err)
		}
	}
}
