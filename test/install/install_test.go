// Package install tests that npp is installed from a module proxy, as
//
//	go install github.com/newpieceplease/npp/cmd/ipfs@v0.2.0
//
// does. The proxy is a directory with the module that the work tree would be if it
// were tagged. Other modules come from the module cache, and from the proxy of the
// environment if they are not there.
package install

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"

	"github.com/newpieceplease/npp/test/readme"
)

var npp = module.Version{Path: "github.com/newpieceplease/npp", Version: "v0.2.0"}

func TestGoInstallFromAProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks kubo's modules and links kubo")
	}
	bin := t.TempDir()
	// The module cache of the user must not know this v0.2.0.
	env := append(os.Environ(),
		"GOBIN="+bin,
		"GOMODCACHE="+t.TempDir(),
		"GOPROXY="+strings.Join([]string{proxy(t), fileURL(filepath.Join(goEnv(t, "GOMODCACHE"), "cache", "download")), goEnv(t, "GOPROXY")}, ","),
		"GOSUMDB=off", // the database does not know this v0.2.0, and may be out of reach
		"GOWORK=off",
		// As in the Makefile, so that the build cache has kubo. The module cache is
		// writable, so that it can be removed.
		"GOFLAGS=-mod=mod -modcacherw -trimpath -buildvcs=false",
	)
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env = bin, env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run("go", "install", npp.Path+"/cmd/ipfs@"+npp.Version)
	out := run(filepath.Join(bin, "ipfs"), "npp", "version")
	if got := strings.Fields(out)[1]; got != npp.Version {
		t.Errorf("the version is %s, want %s:\n%s", got, npp.Version, out)
	}
}

// proxy returns the URL of a module proxy that has npp alone.
func proxy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	versions := filepath.Join(dir, filepath.FromSlash(npp.Path), "@v")
	if err := os.MkdirAll(versions, 0o700); err != nil {
		t.Fatal(err)
	}
	root := readme.Root(t)
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"list":                npp.Version + "\n",
		npp.Version + ".mod":  string(mod),
		npp.Version + ".info": fmt.Sprintf(`{"Version":%q,"Time":"2026-01-01T00:00:00Z"}`, npp.Version),
	} {
		if err := os.WriteFile(filepath.Join(versions, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(versions, npp.Version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := zip.Create(f, npp, files(t, root)); err != nil {
		t.Fatal(err)
	}
	return fileURL(dir)
}

// file is a file of a module.
type file struct{ root, name string }

func (f file) Path() string                 { return filepath.ToSlash(f.name) }
func (f file) Lstat() (fs.FileInfo, error)  { return os.Lstat(filepath.Join(f.root, f.name)) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(filepath.Join(f.root, f.name)) }

// built are the paths that .gitignore names.
var built = []string{"bin", "dist", "ipfs"}

// files returns the files of the module in the work tree.
func files(t *testing.T, root string) (found []zip.File) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		skipped := slices.Contains(built, name) || d.Name() == ".git" || d.Name() == "node_modules"
		switch {
		case skipped && d.IsDir():
			return fs.SkipDir
		case !skipped && d.Type().IsRegular():
			found = append(found, file{root, name})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func fileURL(path string) string { return "file://" + filepath.ToSlash(path) }
