// Command dist builds npp for each system that it is distributed for, one after
// the other, and packs each binary with the README, the licences and the
// completions:
//
//	dist -version v0.2.0 -time 1767225600 -completions dir -o dist
//
// It writes npp_<version>_<os>_<arch>.tar.gz for each system, and SHA256SUMS
// for `sha256sum --check`. Its working directory is the root of the module. The
// archives depend on the module, the flags and the version of Go alone: files
// have the time that is given, in seconds of Unix time, and belong to root.
package main

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// targets are the systems, as GOOS and GOARCH.
var targets = [][2]string{
	{"darwin", "amd64"}, {"darwin", "arm64"},
	{"linux", "amd64"}, {"linux", "arm64"},
	{"windows", "amd64"}, {"windows", "arm64"},
}

// documents are the files of the module that are in each archive.
var documents = []string{"CHANGELOG.md", "LICENSE", "LICENSE-APACHE", "LICENSE-MIT", "README.md"}

// dist is what a run writes.
type dist struct {
	dir, version string
	time         time.Time
	files        []file // in each archive, besides the binary
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("dist: ")
	var d dist
	flag.StringVar(&d.dir, "o", "dist", "write to `directory`")
	flag.StringVar(&d.version, "version", "(devel)", "the `version` of npp")
	seconds := flag.Int64("time", 0, "the time of all files, in `seconds` of Unix time")
	completions := flag.String("completions", "", "the `directory` of the shell completions")
	flag.Parse()
	d.time = time.Unix(*seconds, 0).UTC()
	if err := d.run(*completions); err != nil {
		log.Fatal(err)
	}
}

func (d *dist) run(completions string) error {
	for _, name := range documents {
		d.files = append(d.files, file{name: name, path: name, mode: 0o644})
	}
	scripts, err := os.ReadDir(completions)
	if err != nil {
		return err
	}
	for _, s := range scripts {
		d.files = append(d.files, file{name: "completions/" + s.Name(), path: filepath.Join(completions, s.Name()), mode: 0o644})
	}
	if err := os.MkdirAll(d.dir, 0o777); err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, target := range targets {
		name, sum, err := d.build(target[0], target[1])
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sum, name)
		log.Print(name)
	}
	return os.WriteFile(filepath.Join(d.dir, "SHA256SUMS"), sums.Bytes(), 0o666)
}

// build writes the archive of a system, and returns its name and its SHA-256.
func (d *dist) build(goos, goarch string) (string, [sha256.Size]byte, error) {
	dir, err := os.MkdirTemp("", "dist")
	if err != nil {
		return "", [sha256.Size]byte{}, err
	}
	defer os.RemoveAll(dir)
	binary := "ipfs"
	if goos == "windows" {
		binary += ".exe"
	}
	path := filepath.Join(dir, binary)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X github.com/newpieceplease/npp/internal/version.linked="+d.version,
		"-o", path, "./cmd/ipfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", [sha256.Size]byte{}, fmt.Errorf("%s/%s: %w", goos, goarch, err)
	}
	root := fmt.Sprintf("npp_%s_%s_%s", d.version, goos, goarch)
	archive, err := pack(root, d.time, append([]file{{name: binary, path: path, mode: 0o755}}, d.files...))
	if err != nil {
		return "", [sha256.Size]byte{}, err
	}
	name := root + ".tar.gz"
	return name, sha256.Sum256(archive), os.WriteFile(filepath.Join(d.dir, name), archive, 0o666)
}
