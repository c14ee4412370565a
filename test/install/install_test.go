// Package install tests that npp is installed from a module proxy, as
//
//	go install github.com/newpieceplease/npp/cmd/ipfs@v0.2.0
//
// does, and imported by other modules. The proxy is a directory with the module
// that the work tree would be if it were tagged. Other modules come from the
// module cache, and from the proxy of the environment if they are not there.
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

// workspace runs commands in an empty directory outside the work tree, with npp
// from the proxy.
type workspace struct {
	t   *testing.T
	dir string
	env []string
}

func newWorkspace(t *testing.T) *workspace {
	t.Helper()
	if testing.Short() {
		t.Skip("unpacks kubo's modules and links kubo")
	}
	dir := t.TempDir()
	return &workspace{t: t, dir: dir, env: append(os.Environ(),
		"GOBIN="+dir,
		// The module cache of the user must not know this v0.2.0.
		"GOMODCACHE="+t.TempDir(),
		"GOPROXY="+strings.Join([]string{proxy(t), fileURL(filepath.Join(goEnv(t, "GOMODCACHE"), "cache", "download")), goEnv(t, "GOPROXY")}, ","),
		"GOSUMDB=off", // the database does not know this v0.2.0, and may be out of reach
		"GOWORK=off",
		// As in the Makefile, so that the build cache has kubo. The module
		// cache is writable, so that it can be removed.
		"GOFLAGS=-mod=mod -modcacherw -trimpath -buildvcs=false",
	)}
}

// run returns what a command prints to stdout.
func (w *workspace) run(name string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command(name, args...)
	var stderr strings.Builder
	cmd.Dir, cmd.Env, cmd.Stderr = w.dir, w.env, &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}

func (w *workspace) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func TestGoInstallFromAProxy(t *testing.T) {
	w := newWorkspace(t)
	w.run("go", "install", npp.Path+"/cmd/ipfs@"+npp.Version)
	out := w.run(filepath.Join(w.dir, "ipfs"), "npp", "version")
	if got := strings.Fields(out)[1]; got != npp.Version {
		t.Errorf("the version is %s, want %s:\n%s", got, npp.Version, out)
	}
}

// The example of orbit/replicate is a program of another module. It builds
// without a replace directive and without kubo, and does what the example says.
func TestOtherModulesImportOrbit(t *testing.T) {
	w := newWorkspace(t)
	example, err := os.ReadFile(filepath.Join(readme.Root(t), "orbit", "replicate", "example_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	program, output, ok := strings.Cut(string(example), "\t// Output:\n")
	if !ok {
		t.Fatal("the example has no output")
	}
	program = strings.Replace(program, "package replicate_test", "package main", 1)
	program = strings.Replace(program, "func Example() {", "func main() {", 1)
	w.write("main.go", program+"}\n")
	w.write("go.mod", fmt.Sprintf("module example.org/outside\n\ngo 1.26\n\nrequire %s %s\n", npp.Path, npp.Version))
	w.run("go", "mod", "tidy")

	for dep := range strings.Lines(w.run("go", "list", "-deps", ".")) {
		if strings.HasPrefix(dep, "github.com/ipfs/kubo") {
			t.Errorf("the program depends on %s", dep)
		}
	}
	want := ""
	for line := range strings.Lines(output) {
		if text, ok := strings.CutPrefix(line, "\t// "); ok {
			want += text
		}
	}
	w.run("go", "build", "-o", "outside", ".")
	if got := w.run(filepath.Join(w.dir, "outside")); got != want {
		t.Errorf("the program prints %q, want %q", got, want)
	}
	sums, err := os.ReadFile(filepath.Join(w.dir, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.Stat(filepath.Join(w.dir, "outside"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("go.sum has %d lines, the binary %d bytes", strings.Count(string(sums), "\n"), binary.Size())
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
