package offline

import (
	"os"
	"path/filepath"
	"testing"
)

// repo returns a repo without databases.
func repo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "keystore"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func opened(t *testing.T, repo string) *Databases {
	t.Helper()
	d, err := Open(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// A copy has the databases that were seeded, in any number of steps, and an
// identity of its own, which may write to them.
func TestCopyHasTheDatabasesAndItsOwnIdentity(t *testing.T) {
	from, to := repo(t), repo(t)
	var addresses []string
	original, err := Open(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []int{2, 5} {
		if err := original.Seed(t.Context(), len(addresses), end, func(address string) { addresses = append(addresses, address) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := original.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Copy(from, to); err != nil {
		t.Fatal(err)
	}
	d := opened(t, to)
	if d.Identity().ID == original.Identity().ID {
		t.Error("the copy has the identity of the original")
	}
	n := 0
	for _, err := range d.Databases(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 5 || len(addresses) != 5 {
		t.Errorf("%d databases of %d, want 5", n, len(addresses))
	}
	for _, address := range addresses {
		if err := d.Put(t.Context(), address, map[string]any{"_id": "new"}); err != nil {
			t.Fatal(err)
		}
		db, err := d.Find(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := db.Stats(t.Context()); err != nil || s.Entries != DocumentsOf+1 {
			t.Errorf("%s has %d entries, want %d: %v", address, s.Entries, DocumentsOf+1, err)
		}
	}
}
