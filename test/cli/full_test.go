package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/test/harness"
)

// The system limits the size of the daemon's files, so that the journal of its
// datastore is soon full, as on a full disk.
func TestDiskThatIsFullIsShownAndNothingIsToldThatWasNotDone(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "ipfs")
	text := fmt.Sprintf("#!/bin/sh\nulimit -f 2048\nexec '%s' \"$@\"\n", harness.NPP(t))
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	a, b := harness.New(t).Start(), harness.Bare(t, script).Init().Start()
	a.Connect(b)
	if found := statusOf(t, b).about("disk"); len(found) != 0 {
		t.Errorf("status before the disk is full: %+v", found)
	}
	message := strings.Repeat("x", 100<<10)
	delivered := 0
	r := a.RunStdin(message, "npp", "send", b.PeerID())
	for ; r.Code == 0; r = a.RunStdin(message, "npp", "send", b.PeerID()) {
		if delivered++; delivered > 100 {
			t.Fatal("the disk is never full")
		}
	}
	if delivered == 0 || !strings.Contains(r.Stderr, "the recipient could not store it") {
		t.Fatalf("after %d messages: %v", delivered, r)
	}

	found := statusOf(t, b).about("disk")
	if len(found) != 1 || !strings.Contains(found[0].Text, "the last write failed") || !strings.Contains(found[0].Advice, "restart the daemon") {
		t.Errorf("status: %+v", found)
	}
	for _, args := range [][]string{{"--all"}, {stored(t, b)[0].ID}} {
		r := b.Run(append([]string{"npp", "messages", "rm"}, args...)...)
		if r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "(0 removed before); hint: ipfs npp status") {
			t.Errorf("rm %v: %v", args, r)
		}
	}
	if r := b.Run("npp", "db", "put", "user", "town", `"Leipzig"`); r.Code != 1 || !strings.Contains(r.Stderr, "; hint: ipfs npp status") {
		t.Errorf("put: %v", r)
	}
	if got := len(stored(t, b)); got != delivered {
		t.Errorf("%d messages were delivered, %d are stored", delivered, got)
	}

	b.Stop()
	b.Bin = harness.NPP(t)
	b.Start()
	if found := statusOf(t, b).about("disk"); len(found) != 0 {
		t.Errorf("status once there is space again: %+v", found)
	}
	if got := len(stored(t, b)); got != delivered {
		t.Errorf("%d messages were delivered, after a restart %d are stored", delivered, got)
	}
	if out := b.MustRun("npp", "messages", "rm", "--all"); out != fmt.Sprintf("removed %d\n", delivered) {
		t.Errorf("rm --all: %s", out)
	}
}
