package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/newpieceplease/npp/test/readme"
)

var at = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// archive packs two files that are on disk with a mode and a time.
func archive(t *testing.T, mode os.FileMode, on time.Time, names ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	var files []file
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte("text of "+name), mode), os.Chtimes(path, on, on)); err != nil {
			t.Fatal(err)
		}
		files = append(files, file{name, path, 0o644})
	}
	b, err := pack("npp_v0.2.0_linux_amd64", at, files)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestArchiveIsReproducible(t *testing.T) {
	a := archive(t, 0o600, time.Now(), "a", "b")
	if b := archive(t, 0o755, time.Now().Add(-time.Hour), "b", "a"); !bytes.Equal(a, b) {
		t.Error("two archives of the same files differ")
	}
	z, err := gzip.NewReader(bytes.NewReader(a))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(z)
	for _, name := range []string{"a", "b"} {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil || string(text) != "text of "+name || h.Name != "npp_v0.2.0_linux_amd64/"+name ||
			h.Mode != 0o644 || !h.ModTime.Equal(at) || h.Uid != 0 || h.Uname != "root" {
			t.Errorf("%v %q %+v", err, text, h)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// A licence that is added to the module is to be in the archives.
func TestLicencesAreInEachArchive(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(readme.Root(t), "LICENSE*"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		if !slices.Contains(documents, filepath.Base(path)) {
			t.Errorf("%s is missing", filepath.Base(path))
		}
	}
}
