package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/newpieceplease/npp/test/harness"
)

// smallDisk is a file system of 128 MiB.
type smallDisk struct {
	t   *testing.T
	dir string
}

func newSmallDisk(t *testing.T) *smallDisk {
	t.Helper()
	d := &smallDisk{t, t.TempDir()}
	err := unix.Mount("tmpfs", d.dir, "tmpfs", 0, "size=128m")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skipf("a small disk cannot be mounted, which takes root: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// leave fills or empties the disk until the given number of bytes is free. At
// no moment is more free than both before and after: a daemon that saw it would
// accept data.
func (d *smallDisk) leave(free int64) {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.dir, "ballast"), os.O_RDWR|os.O_CREATE, 0o600)
	d.check(err)
	defer f.Close()
	ballast, err := f.Stat()
	d.check(err)
	var s unix.Statfs_t
	d.check(unix.Statfs(d.dir, &s))
	size := ballast.Size() + int64(s.Bavail)*s.Bsize - free
	if size > ballast.Size() {
		d.check(unix.Fallocate(int(f.Fd()), 0, 0, size))
	} else {
		d.check(f.Truncate(max(size, 0)))
	}
}

func (d *smallDisk) check(err error) {
	if err != nil {
		d.t.Helper()
		d.t.Fatal(err)
	}
}

// A daemon on a disk that becomes full refuses writes and says so, still serves
// its data, and recovers without a restart when there is space.
func TestDaemonOutlivesAFullDisk(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	disk := newSmallDisk(t)
	alice := musician(t, "alice")
	bob := harness.Bare(t, harness.NPP(t))
	bob.Repo = filepath.Join(disk.dir, "repo")
	bob.Init().Set("Plugins.Plugins.npp.Config.Disk", map[string]any{"FreeBytes": 32 * mib}).Start()
	bob.Connect(alice)
	meet(t, alice, bob)
	score := func(title string) (file, hash string) {
		file = filepath.Join(t.TempDir(), title+".abc")
		disk.check(os.WriteFile(file, []byte("X:1\nT:"+title+"\nK:C\nCDEF|\n"), 0o600))
		return file, strings.TrimSpace(alice.MustRun("add", "-Q", "--only-hash", file))
	}
	air, airHash := score("air")
	fetched, fetchedHash := score("fetched")
	notFetched, notFetchedHash := score("not fetched")
	alice.MustRun("npp", "pieces", "add", fetched, notFetched)
	follow(t, bob, alice)
	bob.MustRun("npp", "pieces", "get", fetchedHash, "-o", "-")
	gigs := strings.TrimSpace(alice.MustRun("npp", "db", "create", "gigs", "--write", "*"))
	add := func(n *harness.Node, event string) harness.Result {
		return n.Run("npp", "db", "put", gigs, `"`+event+`"`)
	}
	if r := add(alice, "before"); r.Code != 0 {
		t.Fatal(r)
	}
	bob.MustRun("npp", "db", "open", "--wait", gigs)
	alice.MustRun("npp", "send", bob.PeerID(), "before")
	news := bob.Spawn("npp", "db", "log", "--follow", "--since=0", "--enc=json", gigs)
	news.Expect("before")

	disk.leave(16 * mib)
	attention := statusOf(t, bob).about("disk")
	if len(attention) != 1 || !strings.Contains(attention[0].Text, "nothing is accepted from other peers") ||
		!strings.Contains(attention[0].Text, "35651584 are needed") || !strings.Contains(attention[0].Advice, "Disk.FreeBytes (33554432 now)") {
		t.Errorf("status: %+v", attention)
	}
	if s := statusOf(t, bob); len(s.about("companion")) > 0 || !strings.Contains(bob.MustRun("npp", "status"), "data from other peers needs 32.0 MiB") {
		t.Errorf("status: %+v", s)
	}
	if c := companions(t, bob)[alice.PeerID()]; !strings.Contains(fmt.Sprint(c.Troubles), "nothing is fetched: the disk is almost full") {
		t.Errorf("companions ls: %+v", c)
	}
	if f := findings(t, bob, gigs)["disk"]; f.Level != "problem" || !strings.Contains(f.Text, "are free at "+disk.dir) || f.Advice == "" {
		t.Errorf("doctor: %+v", f)
	}
	r := alice.Run("npp", "send", bob.PeerID(), "meanwhile")
	if r.Code != 1 || !strings.HasPrefix(r.Stderr, `Error: the recipient refused the message: full: "the recipient's disk is full"; hint: `) {
		t.Errorf("send: %v", r)
	}
	if r := add(alice, "meanwhile"); r.Code != 0 {
		t.Error(r)
	}
	if r := add(bob, "own"); r.Code != 0 {
		t.Errorf("bob may write: %v", r)
	}

	disk.leave(4 * mib)
	statusOf(t, bob) // this checks the disk
	const full = "the disk is almost full"
	if r := add(bob, "refused"); r.Code != 1 || !strings.HasPrefix(r.Stderr, "Error: "+full) || !strings.Contains(r.Stderr, "hint: make room on that disk") {
		t.Errorf("db put: %v", r)
	}
	if r := bob.Run("npp", "pieces", "add", air); r.Code != 1 || !strings.Contains(r.Stderr, full) || !strings.Contains(r.Stderr, "hint: ") {
		t.Errorf("pieces add: %v", r)
	}
	if r := bob.Run("npp", "pieces", "get", notFetchedHash, "-o", "-"); r.Code != 1 || !strings.Contains(r.Stderr, "nothing is fetched: "+full) || !strings.Contains(r.Stderr, "hint: ") {
		t.Errorf("pieces get: %v", r)
	}
	if got := bob.MustRun("npp", "pieces", "get", fetchedHash, "-o", "-"); !strings.Contains(got, "T:fetched") {
		t.Errorf("a file that is here: %s", got)
	}
	alice.MustRun("npp", "pieces", "add", air)
	bob.MustRun("npp", "messages", "rm", "--all")
	if got := bob.MustRun("npp", "db", "all", gigs); !strings.Contains(got, "before") || !strings.Contains(got, "own") || strings.Contains(got, "meanwhile") {
		t.Errorf("bob has %s", got)
	}
	eventually(t, "the entry of bob is served", func() bool { return strings.Contains(alice.MustRun("npp", "db", "all", gigs), "own") })

	disk.leave(100 * mib)
	news.Expect("meanwhile")
	eventually(t, "the companion's piece is here", func() bool { return piecesOf(t, bob, alice) == 3 })
	for _, hash := range []string{notFetchedHash, airHash} {
		bob.MustRun("npp", "pieces", "get", hash, "-o", "-")
	}
	alice.MustRun("npp", "send", bob.PeerID(), "after")
	bob.MustRun("npp", "pieces", "add", air)
	if got := statusOf(t, bob).about("disk"); len(got) > 0 {
		t.Errorf("status: %+v", got)
	}
	if got := stored(t, bob); len(got) != 1 || got[0].data(t) != `"after"` {
		t.Errorf("messages: %+v", got)
	}
}
